"""What an evaluator is, and which ones a run gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dataset.families import family_of
from dataset.format import Metadata, Split, open_split
from models.registry import import_below

KNOWN = ("arc@ARC", "sudoku@Sudoku", "maze@Maze")


class Evaluator:
    """Turns a model's answers on the test stream into named values; the loop knows nothing else about it.

    An instance lives as long as the run. For each evaluation the loop calls `begin`, `update` per batch and set, and
    `result` once, on every rank. A constructor that also takes `splits` gets the opened test splits of `data_paths` as
    (path, split), so that it need not open and check them again; None: it must.
    """

    # Names of the tensors that `update` gets, out of those of the batch and of the model's last step.
    required_outputs: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "preds"})

    def __init__(self, data_paths: list[str], metadata: Metadata):
        self.data_paths, self.metadata = data_paths, metadata

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Other values than the parent's go by names that the parent does not know.
        if "result" in vars(cls) and "metric_names" not in vars(cls):
            cls.metric_names = Evaluator.metric_names

    def metric_names(self) -> set[str] | None:
        """Every name that a value of `result` can have; None: not known before an evaluation."""
        return None

    def remark(self) -> str | None:
        """A line for the user, None for nothing: before an evaluation about the data, after it about its result."""
        return None

    def begin(self) -> None:
        """Forget the evaluation before."""

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        """Take the answers of some rows of this rank: CPU tensors, first axis B, padding rows left out.

        `example_indices` (B,) int64 is each row's place within its set's file.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        """The named values, on rank 0 ({} elsewhere); files go below `save_dir` unless it is None.

        `gather` returns every rank's object in rank order and must be called by all ranks alike.
        """
        raise NotImplementedError(f"{type(self).__name__} must define result")


def open_test_splits(data_paths: Sequence[str]) -> list[tuple[str, Split]]:
    """The test splits of these folders, each with its path. Raises `UserError` for a broken one."""
    return [(path, open_split(path, "test")) for path in data_paths]


def remarks(evaluators: Mapping[str, Evaluator]) -> list[str]:
    """The lines of all evaluators that have one."""
    return [line for evaluator in evaluators.values() if (line := evaluator.remark())]


def summed_by_set(of_ranks: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sums over ranks of what each has counted for each set."""
    sums: dict[str, np.ndarray] = {}
    for of_rank in of_ranks:
        for set_name, part in of_rank.items():
            sums[set_name] = sums.get(set_name, 0) + part
    return sums


def build_evaluators(
    wanted: list[tuple[str, dict]] | None,
    data_paths: list[str],
    metadata: Metadata,
    splits: Sequence[tuple[str, Split]] | None = None,
) -> dict[str, Evaluator]:
    """The evaluators of a run by class name: those asked for as (name, options), or by the data's family where None.

    `splits` are the test splits of `data_paths` if they are open already. Raises ValueError for an unknown name or
    option.
    """
    if wanted is None:
        wanted = [(name, {}) for name in default_evaluators(data_paths, splits)]
    evaluators = {}
    for name, options in wanted:
        cls = import_below("evaluators", name, KNOWN, "evaluators.name")
        if not issubclass(cls, Evaluator):
            raise ValueError(
                f"evaluators.name={name!r}: {cls.__name__} must derive from evaluators.base.Evaluator"
            )
        opened = {"splits": splits} if "splits" in inspect.signature(cls).parameters else {}
        try:
            evaluators[cls.__name__] = cls(data_paths, metadata, **opened, **options)
        except TypeError as error:
            raise ValueError(f"evaluators: {name} does not take these options {options}: {error}") from None
    return evaluators


def default_evaluators(data_paths: list[str], splits: Sequence[tuple[str, Split]] | None = None) -> list[str]:
    """The evaluators of the families that the data is of (`dataset.families`); `splits` as for `build_evaluators`."""
    names = []
    for _, opened in splits or open_test_splits(data_paths):
        name = family_of(opened.metadata).default_evaluator
        if name and name not in names:
            names.append(name)
    return names
