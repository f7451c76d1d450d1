"""Random programs over the whole surface of the caches, compared with direct sums in float64."""
