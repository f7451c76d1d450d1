"""Models of public code, and of one's own, made to decode with a cache."""
