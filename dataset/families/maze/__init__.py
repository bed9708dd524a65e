"""Mazes: mark a shortest path."""
