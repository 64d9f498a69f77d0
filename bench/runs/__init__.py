"""A comparison and a benchmark as they run, the file of a benchmark, and who is faster in it."""
