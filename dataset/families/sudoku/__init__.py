"""Sudoku of any box shape: rules, solver, generator, sources, symmetries."""
