"""ARC tasks: grids, augmented copies, and the store that renders them when they are read."""
