"""Optimizers, their schedule, and the update that is skipped if it is not finite."""
