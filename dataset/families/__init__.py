"""Puzzle families, one package each, and detection of the family of a dataset.

Use `family_of` to get the family of a dataset. dataset.json names it: either a package in this folder, whose module
`family` provides the class as `FAMILY`, or `module@Class` for a family outside this repository. Datasets of other
builders name no family. When such a split is opened, `find_family` detects it from its sizes together with evidence in
its files, and every command that uses the dataset reports the result.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from dataset.example_set import ExampleSet
from dataset.families.base import Family
from dataset.families.contract import attribute_problem
from dataset.metadata import FamilyFinding, Metadata
from utils.errors import UserError

FAMILIES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))

_SAMPLED = 64  # examples read from each set to detect the family
_named: ContextVar[str | None] = ContextVar("family", default=None)


def family_of(metadata: Metadata) -> Family:
    """Return the family of an opened dataset or of metadata that names it; its `name` is None if it is unknown."""
    found = metadata.finding or _stated(metadata) or FamilyFinding(None, "dataset.json names no family")
    cls = Family if found.name is None else family_class(found.name)
    return cls(metadata, found)


def family_class(name: str) -> type[Family]:
    """Return the class for a name in `FAMILIES` or for `module@Class`. Raises UserError if there is no usable one."""
    module_name, at, class_name = name.partition("@")
    if name in FAMILIES:
        module_name, class_name = f"{__name__}.{name}.family", "FAMILY"
    elif not at:
        raise UserError(
            f"the family {name!r}, which is neither one of {', '.join(FAMILIES)} nor module@Class"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise UserError(
            f"the family {name!r}, which cannot be imported ({error}): put its module into the working directory or "
            "on PYTHONPATH"
        ) from error
    except Exception as error:  # of the module's own code
        *_, last = traceback.extract_tb(error.__traceback__)
        raise UserError(
            f"the family {name!r}, which cannot be imported ({type(error).__name__}: {error}; {last.filename}, line "
            f"{last.lineno}): correct its module"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Family)):
        raise UserError(
            f"the family {name!r}, but {module_name} has no class {class_name} derived from Family"
        )
    if problem := attribute_problem(cls, name):
        raise UserError(f"the family {name!r}, but {problem}")
    return cls


@contextmanager
def named_family(name: str | None) -> Iterator[None]:
    """Context manager that overrides the family of every dataset opened in it; None changes nothing.

    Raises UserError if there is no such family.
    """
    if name is not None:
        try:
            family_class(name)
        except UserError as error:
            raise UserError(f"family={name} names {error}") from error
    token = _named.set(name)
    try:
        yield
    finally:
        _named.reset(token)


def find_family(metadata: Metadata, sets: Sequence[ExampleSet], dataset_dir: Path) -> FamilyFinding:
    """Detect the family of a dataset from its metadata and files; `sets`: the ExampleSets of one of its splits.

    Raises UserError if the dataset names a `module@Class` that cannot be used.
    """
    stated = _stated(metadata, f"{dataset_dir}: dataset.json")
    if stated is not None:
        return stated

    def sampled() -> tuple[np.ndarray, np.ndarray]:
        parts = [example_set.read(_spread(example_set.num_examples)) for example_set in sets]
        inputs, labels = (np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True))
        return inputs, labels

    reasons = []
    for name, cls in _detectable():
        if cls.size_problem(metadata) is not None:
            continue
        found, reason = cls.recognise(metadata, sampled, dataset_dir)
        if found:
            return FamilyFinding(name, f"dataset.json names no family, but {reason}")
        reasons.append(reason)
    reason = (
        "; ".join(reasons)
        or f"{_sizes(metadata)} are not those of {', '.join(name for name, _ in _detectable())}"
    )
    return FamilyFinding(None, f"dataset.json names no family; {reason}")


def family_by_sizes(metadata: Metadata) -> FamilyFinding:
    """Guess the family of a model without its data: the one its metadata names, otherwise the first with its sizes."""
    found = _stated(metadata) or FamilyFinding(None, "dataset.json names no family")
    if found.name is not None or "family" in metadata.extra:
        return found
    for name, cls in _detectable():
        if cls.size_problem(metadata) is None:
            return FamilyFinding(name, f"its training data is known only by its sizes, {_sizes(metadata)}")
    return FamilyFinding(
        None, f"{_sizes(metadata)} are not those of {', '.join(name for name, _ in _detectable())}"
    )


def recorded_family(metadata: Metadata) -> dict[str, str]:
    """Return entries about a detected family for a run's metadata.json, which is used when the data is absent."""
    found = family_of(metadata).found
    if found.name is None or found.name == metadata.extra.get("family"):
        return {}
    return {"family": found.name} | ({} if found.is_stated else {"family_evidence": found.reason})


def family_notices(described: Sequence[tuple[str, Metadata]]) -> list[str]:
    """Return a line for the user about each of (name, metadata) whose family was not named but detected."""
    notices = ((name, family_of(metadata).found.notice) for name, metadata in described)
    return [f"{name}: {notice}" for name, notice in notices if notice]


def merged_finding(findings: list[tuple[str, FamilyFinding]]) -> FamilyFinding:
    """Combine the families of datasets used together; `findings`: (folder, FamilyFinding)."""
    names = {found.name for _, found in findings}
    if len(names) == 1:
        return next((found for _, found in findings if not found.is_stated), findings[0][1])
    listed = ", ".join(f"{folder} is {found.name or 'of no known family'}" for folder, found in findings)
    return FamilyFinding(None, f"the datasets differ: {listed}")


def _stated(metadata: Metadata, file: str = "dataset.json") -> FamilyFinding | None:
    """Return the family named on the command line or by the key `family`; None if neither is given.

    Raises UserError, naming `file`, for a `module@Class` that cannot be used; an unknown name is only reported.
    """
    name, where = _named.get(), "the command line"
    if name is None:
        name, where = metadata.extra.get("family"), "dataset.json"
    if name is None:
        return None
    try:
        cls = family_class(name)
    except UserError as error:
        if "@" in str(name):
            raise UserError(f"{file if _named.get() is None else where} names {error}") from error
        return FamilyFinding(None, f"{where} names {error}")
    if problem := cls.size_problem(metadata):
        return FamilyFinding(None, f"{where} names the family {name}, but {problem}")
    return FamilyFinding(name, f"{where} names the family {name}", is_stated=True)


def _detectable() -> list[tuple[str, type[Family]]]:
    """Return the families that can be detected in a dataset that names none, in the order in which they are tried."""
    classes = [(name, family_class(name)) for name in FAMILIES]
    kept = [(name, cls) for name, cls in classes if cls.recognise is not Family.recognise]
    return sorted(kept, key=lambda pair: pair[1].recognition_priority, reverse=True)


def _sizes(metadata: Metadata) -> str:
    return f"{metadata.seq_len} cells and {metadata.vocab_size} tokens"


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, _SAMPLED).astype(np.int64))
