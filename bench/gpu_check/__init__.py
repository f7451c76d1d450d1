"""``make gpu-check``: everything that only a device can show, in six minutes."""
