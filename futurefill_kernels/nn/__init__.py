"""Mixers built on the decoding cache."""
