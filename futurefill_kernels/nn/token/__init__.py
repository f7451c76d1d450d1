"""One token of a whole model as a program of a few instructions."""
