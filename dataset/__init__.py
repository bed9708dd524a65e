"""Puzzles as arrays on disk: builders, format, families, augmentation, leakage. Without torch."""
