"""Draw grids in the terminal and as pictures."""
