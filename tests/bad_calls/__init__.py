"""Calls that are refused: the message names what was expected and what came, nothing changes."""
