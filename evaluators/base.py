"""The `Evaluator` protocol, and the choice of evaluators for a run."""

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
from utils.modules import has_module

KNOWN = ("arc@ARC", "sudoku@Sudoku", "maze@Maze")


class Evaluator:
    """Turn a model's answers on the test stream into named values.

    An instance lives as long as the run. For each evaluation the loop calls `begin`, `update` per batch and set, and
    `result` once, on every rank. If the constructor has a parameter `splits`, it receives the test splits of
    `data_paths` that are already open, as (path, split), or None if it has to open them itself.
    """

    # Names of the tensors passed to `update`, taken from the batch and from the outputs of the last step.
    required_outputs: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "preds"})

    def __init__(self, data_paths: list[str], metadata: Metadata):
        self.data_paths, self.metadata = data_paths, metadata

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass that overrides `result` alone would otherwise inherit names that no longer match.
        if "result" in vars(cls) and "metric_names" not in vars(cls):
            cls.metric_names = Evaluator.metric_names

    def metric_names(self) -> set[str] | None:
        """Return all names that `result` can return, or None if they are not known in advance."""
        return None

    def remark(self) -> str | None:
        """Return a line for the user about the data (before an evaluation) or the result (after it), or None."""
        return None

    def begin(self) -> None:
        """Reset, before an evaluation."""

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        """Accumulate the answers of a batch of this rank: CPU tensors (B, ...), without padding rows.

        `example_indices` (B,) int64 are the indices of the rows in the file of their set.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        """Return the named values on rank 0, {} on other ranks; write files to `save_dir` unless it is None.

        `gather` is a collective that returns the objects of all ranks in rank order: every rank must call it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define result")


def open_test_splits(data_paths: Sequence[str]) -> list[tuple[str, Split]]:
    """Open the test splits of these folders, as (path, split). Raises `UserError` for an invalid one."""
    return [(path, open_split(path, "test")) for path in data_paths]


def remarks(evaluators: Mapping[str, Evaluator]) -> list[str]:
    """Return the remarks of all evaluators that have one."""
    return [line for evaluator in evaluators.values() if (line := evaluator.remark())]


def summed_by_set(of_ranks: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sum the per-set counts over ranks."""
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
    """Build the evaluators `wanted`, (name, options), by class name; None selects those of the data's families.

    `splits` are the test splits of `data_paths` if they are already open. Raises ValueError for an unknown name or
    option.
    """
    named_by: Mapping[str, str] = {}
    if wanted is None:
        named_by = default_evaluators(data_paths, splits)
        wanted = [(name, {}) for name in named_by]
    evaluators: dict[str, Evaluator] = {}
    for name, options in wanted:
        cls = evaluator_class(name, named_by.get(name, "evaluators.name"))
        if cls.__name__ in evaluators:
            raise ValueError(f"evaluators: {name} is the second one called {cls.__name__}; name one of them")
        signature = inspect.signature(cls)
        opened = {"splits": splits} if "splits" in signature.parameters else {}
        try:
            signature.bind(data_paths, metadata, **opened, **options)
        except TypeError as error:
            raise ValueError(f"evaluators: {name} does not take these options {options}: {error}") from None
        evaluators[cls.__name__] = cls(data_paths, metadata, **opened, **options)
    return evaluators


def default_evaluators(
    data_paths: list[str], splits: Sequence[tuple[str, Split]] | None = None
) -> dict[str, str]:
    """Return the evaluators of the data's families: name -> where it is named, for messages.

    `splits` are as in `build_evaluators`.
    """
    named_by: dict[str, str] = {}
    for _, opened in splits or open_test_splits(data_paths):
        family = family_of(opened.metadata)
        if name := family.default_evaluator:
            named_by.setdefault(name, f"the family {family.name}: evaluator")
    return named_by


def evaluator_class(name: str, key: str) -> type[Evaluator]:
    """Return the evaluator `module@Class` below evaluators/ or, if there is no such module, anywhere else.

    Raises ValueError, beginning with `key`, if there is none.
    """
    module_name, at, _ = name.partition("@")
    package = "evaluators"
    if at and not has_module(f"evaluators.{module_name}"):
        if not has_module(module_name):
            raise ValueError(
                f"{key}={name!r}: there is no module evaluators.{module_name}; known names are {', '.join(KNOWN)}, "
                f"and a module {module_name} of your own must be in the working directory or on PYTHONPATH"
            )
        package = ""
    cls = import_below(package, name, KNOWN, key)
    if not issubclass(cls, Evaluator):
        raise ValueError(f"{key}={name!r}: {cls.__name__} must derive from evaluators.base.Evaluator")
    return cls
