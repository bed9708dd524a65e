"""Puzzles as arrays on disk: builders, format, families, augmentation, leakage. Does not import torch."""
