"""FutureFillCache: what a caller may do with a stream."""
