"""What the compiler makes of a kernel, read from its machine code, and what that should cost."""
