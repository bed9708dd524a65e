"""The evaluator `arc@ARC`."""

from evaluators.arc.evaluator import ARC

__all__ = ["ARC"]
