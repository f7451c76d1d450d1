"""What every bench shares: rows, clocks, machine, shapes, plots."""
