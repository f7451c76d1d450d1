"""docs/benchmarks.md from committed rows."""
