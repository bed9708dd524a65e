"""N-Queens completion: add queens to a board."""
