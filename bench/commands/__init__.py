"""One file per bench."""
