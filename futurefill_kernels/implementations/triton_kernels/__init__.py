"""Triton kernels, one file per operation; importing a kernel's file needs Triton."""
