"""Console logger: training metrics in the progress bar, all others as lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from utils.loggers.base import Logger

# Metrics that the progress bar has space for.
_BAR_METRICS = {"lm_loss": "loss", "solved": "solved", "exact_accuracy": "exact", "lr": "lr"}


class ConsoleLogger(Logger):
    """Shows training metrics in the progress bar, and all other metrics as a line above it."""

    def __init__(self, print_line: Callable[[str], None], bar=None):
        self._print, self._bar = print_line, bar

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        training = {
            name.removeprefix("train/"): v for name, v in metrics.items() if name.startswith("train/")
        }
        if training and self._bar is not None:
            shown = {short: training[name] for name, short in _BAR_METRICS.items() if name in training}
            self._bar.show(format_metrics(shown))
        if others := {name: value for name, value in metrics.items() if not name.startswith("train/")}:
            self._print(f"step {step}: {format_metrics(others)}")


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Format metrics as `name value` pairs with four digits."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
