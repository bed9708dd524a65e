"""Grids drawn in the terminal and as pictures."""
