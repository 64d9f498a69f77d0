"""The path that runs anywhere: plain PyTorch on any device, in strips of rows that fit the cache."""
