"""A model cut by channels over the ranks of a mesh: one rank holds a range of every layer."""
