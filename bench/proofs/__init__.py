"""What a verifier says of the compiled kernels."""
