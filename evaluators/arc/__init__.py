"""ARC's score; `arc@ARC` in a config is the class below."""

from evaluators.arc.evaluator import ARC

__all__ = ["ARC"]
