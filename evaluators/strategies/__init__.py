"""Test-time strategies, which spend more compute on the answers of a trained model: the choices of `strategy=`.

Configs are checked against this table before torch is imported, so the strategies themselves are imported when chosen.
"""

from __future__ import annotations

from typing import NamedTuple


class StrategyEntry(NamedTuple):
    """A choice of `strategy=`."""

    builder: str
    """The function that builds it, as module@function in this package (type: `build.Builder`)."""
    options: frozenset[str]
    """The keys of `evaluate.py` that it accepts; all other keys of strategies are rejected."""


def _entry(builder: str, *options: str) -> StrategyEntry:
    return StrategyEntry(builder, frozenset(options))


_CHAINS = ("symmetries", "chains", "sigma", "pick", "seed")
# To add a strategy, write a module in this package and add a line here.
STRATEGIES = {
    "plain": _entry("build@plain", "halt", "checker"),
    "symmetry": _entry("build@symmetry", "halt", "symmetries", "pick", "seed", "checker"),
    "noise": _entry("build@noise", "halt", "chains", "sigma", "pick", "seed", "checker"),
    "guess": _entry("build@guess", "halt", "chains", "pick", "seed"),
    "ensemble": _entry("build@ensemble", "checkpoints", "pick", "checker"),
    "ladder": _entry("build@ladder", "halt", "rungs", "more_steps", *_CHAINS, "checker"),
}
