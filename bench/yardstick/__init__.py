"""What every pass of a layer should cost by its kernels, beside other ways to its result."""
