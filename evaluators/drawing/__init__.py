"""Figures of a run, and pictures of a puzzle being solved."""
