"""``make gpu-check``: everything that only a device can show, in two parts."""
