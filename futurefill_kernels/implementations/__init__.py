"""How a step and a fill run: reference, cpu, cuda, triton; and which one does."""
