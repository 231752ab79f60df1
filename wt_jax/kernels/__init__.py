"""What a CPU runs natively: oneDNN through XLA's foreign function interface, and loops that Numba compiles."""
