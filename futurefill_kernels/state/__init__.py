"""A stream's tensors: layout, spectra, whole-sequence transforms."""
