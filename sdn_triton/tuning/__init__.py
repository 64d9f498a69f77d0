"""Kernel configurations: what they are, where the defaults come from, and what a compiler makes of them."""
