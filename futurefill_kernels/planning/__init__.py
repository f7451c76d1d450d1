"""Which block sizes, at what cost, on what device."""
