"""GPU kernels compiled, run, checked and counted without a GPU; for tests and bench."""
