"""What stands between two long convolutions of a token, as Triton kernels."""
