"""The command ``tune``: options and printing apart from the clocks."""
