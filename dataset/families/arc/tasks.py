"""Read and check ARC tasks from JSON.

Supported layouts: Kaggle (`{prefix}_{subset}_challenges.json` with `_solutions.json`), and one file per task with
answers (`{prefix}/{subset}/**/*.json`), as in the ARC-AGI, ConceptARC and 1D-ARC repositories.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset.families.arc.grids import NAME_SEPARATOR, encode, parse_grid
from dataset.identifiers import read_identifiers
from dataset.metadata import BLANK_IDENTIFIER, Metadata
from utils.errors import UserError
from utils.reading import read_json

Pair = tuple[np.ndarray, np.ndarray]
TEST_PUZZLES_FILE = "test_puzzles.json"
UNKNOWN_OUTPUT = [[0]]  # placeholder for an unknown answer, as in published datasets
NO_GRID = np.zeros((0, 0), np.uint8)  # renders to a label with all cells ignored


@dataclass(frozen=True)
class Task:
    """A task: its demonstration and test pairs as grids, and for each test pair whether its answer is known.

    An unknown answer is `UNKNOWN_OUTPUT` in `test`, which determines augmentations and test_puzzles.json as in
    published datasets, and `NO_GRID` in `labelled_test`, which is used for training and scoring.
    """

    name: str
    train: list[Pair]
    test: list[Pair]
    known: tuple[bool, ...]

    @property
    def labelled_test(self) -> list[Pair]:
        return [
            (question, answer if known else NO_GRID)
            for (question, answer), known in zip(self.test, self.known, strict=True)
        ]

    @property
    def largest(self) -> int:
        """The largest height or width of its grids; unknown answers do not count."""
        return max(max(grid.shape) for pair in self.train + self.test for grid in pair)

    @property
    def unknown(self) -> list[int]:
        """Indices of the test inputs with unknown answers."""
        return [number for number, known in enumerate(self.known) if not known]

    def to_json(self) -> dict[str, Any]:
        """Convert to the format of the official files, with unknown answers as `[[0]]`."""
        return {
            key: [{"input": question.tolist(), "output": answer.tolist()} for question, answer in pairs]
            for key, pairs in (("train", self.train), ("test", self.test))
        }


def unknown_answers(metadata: Metadata) -> dict[str, list[int] | None] | None:
    """Return the recorded unknown answers of a test split: task -> indices of test inputs, None for all of them.

    Returns None if nothing is recorded, because another builder wrote the split.
    """
    if metadata.extra.get("unknown_answers") is not None:
        return metadata.extra["unknown_answers"]
    tasks = metadata.extra.get("unsolved_tasks")  # written by earlier versions
    return None if tasks is None else dict.fromkeys(tasks)


def placeholder_rows(metadata: Metadata, labels: np.ndarray) -> np.ndarray | None:
    """Mark the rows (n,) bool of test labels (n, S) that are placeholders for unknown answers; None if there are none.

    Datasets of other builders, and of earlier versions of ours, contain `UNKNOWN_OUTPUT` as if it were the answer.
    """
    if metadata.extra.get("unknown_answers") is not None or unknown_answers(metadata) == {}:
        return None
    return (labels == encode(np.array(UNKNOWN_OUTPUT, np.uint8))).all(1)


def arc_paths(data_paths: Sequence[str]) -> list[Path]:
    """Return the data paths of ARC datasets, which have a `test_puzzles.json`."""
    paths = [Path(path) for path in data_paths if (Path(path) / TEST_PUZZLES_FILE).is_file()]
    if not paths:
        raise UserError(
            f"evaluator arc@ARC: there is no test_puzzles.json in {' or '.join(map(str, data_paths))}; it needs "
            "datasets of dataset/build_arc_dataset.py, so leave it out of evaluators= for other datasets"
        )
    return paths


def identifier_names(data_paths: Sequence[str]) -> list[str]:
    """Return the identifier names of all ARC datasets; with several datasets, each has a separate range."""
    merged: list[str] = []
    for path in arc_paths(data_paths):
        names = read_identifiers(path)
        merged += [BLANK_IDENTIFIER] * (len(names) - len(merged))
        for identifier, name in enumerate(names):
            if name != BLANK_IDENTIFIER:
                merged[identifier] = name
    return merged


def read_subset(prefix: str, subset: str) -> list[Task]:
    """Read the tasks of a subset in the order of the file, or of file names. Raises `UserError` for malformed files.

    The names of Kaggle files may also have hyphens; the files of a folder may be in subfolders.
    """
    folder = Path(prefix) / subset
    kaggle = _kaggle_files(prefix, subset)
    if kaggle is not None:
        tasks = _read_kaggle(*kaggle)
    elif folder.is_dir():
        tasks = _read_folder(folder)
    else:
        raise UserError(
            f"subset {subset!r}: there is neither a file {prefix}_{subset}_challenges.json nor a folder {folder}; "
            f"{_suggest_options(prefix)}"
        )
    if not tasks:
        where, found = (kaggle[0], "") if kaggle else (folder, f"; {_suggest_options(prefix)}")
        raise UserError(f"{where}: holds no tasks{found}")
    return tasks


def _kaggle_files(prefix: str, subset: str) -> tuple[Path, Path] | None:
    """Return the paths of challenges and solutions of a subset, None without challenges; solutions may not exist."""
    for first in "_-":
        for second in "_-":
            challenges = Path(f"{prefix}{first}{subset}{second}challenges.json")
            if challenges.is_file():
                return challenges, Path(f"{prefix}{first}{subset}{second}solutions.json")
    return None


def _read_folder(folder: Path) -> list[Task]:
    """Read the tasks of all JSON files below a folder; a task has the name of its file, or its path if names repeat."""
    files = [path for path in folder.rglob("*.json") if not path.name.startswith(".")]
    relative = sorted(path.relative_to(folder) for path in files)
    count = Counter(path.stem for path in relative)
    return [
        _parse_task(
            path.stem if count[path.stem] == 1 else path.with_suffix("").as_posix(),
            read_json(folder / path),
            f"{folder / path}",
        )
        for path in relative
    ]


def _suggest_options(prefix: str) -> str:
    """Suggest options that find tasks near `prefix`, as the end of an error message."""
    path = Path(prefix)
    fitting: dict[str, list[str]] = {}
    for folder in dict.fromkeys((path, path.parent)):
        if not folder.is_dir():
            continue
        for file in sorted(folder.glob("*challenges.json")):
            match = re.fullmatch(r"(.+)[_-](.+)[_-]challenges", file.stem)
            if match:
                fitting.setdefault(str(folder / match[1]), []).append(match[2])
        for inner in sorted(folder.iterdir()) if folder == path else ():
            hidden = inner.name.startswith(".")
            if inner.is_dir() and not hidden and next(inner.rglob("*.json"), None) is not None:
                fitting.setdefault(str(folder), []).append(inner.name)
        if fitting:
            break
    if not fitting:
        there = path if path.is_dir() else path.parent
        return f"{there} {'holds no task files' if there.is_dir() else 'does not exist'}: check --input-file-prefix"
    options = [
        f"--input-file-prefix {found} --subsets {' '.join(subsets[:8])}{' ...' if len(subsets) > 8 else ''}"
        for found, subsets in fitting.items()
    ]
    return f"there are tasks for {' or '.join(options)}"


def check_same_task(known: Task, known_subset: str, task: Task, subset: str) -> None:
    """Raise `UserError` for two tasks of the same name in two subsets, unless they are versions of one task.

    Versions have a pair in common. Different tasks would wrongly share the identifiers of their augmentations.
    """
    pairs = [
        {(q.tobytes(), q.shape, a.tobytes(), a.shape) for q, a in t.train + t.test} for t in (known, task)
    ]
    if not pairs[0] & pairs[1]:
        raise UserError(
            f"task {task.name} of subset {subset} has no pair in common with task {task.name} of subset "
            f"{known_subset}: rename one of them, because the name of a task is its puzzle identifier"
        )


def _read_kaggle(challenges: Path, solutions: Path) -> list[Task]:
    raw_tasks = _read_object(challenges, "tasks")
    answers = _read_object(solutions, "answers") if solutions.is_file() else {}
    unknown = sorted(answers.keys() - raw_tasks.keys())
    if unknown:
        raise UserError(f"{solutions}: task {unknown[0]} is not in {challenges.name}")
    return [
        _parse_task(name, raw, f"{challenges}: task {name}", answers.get(name), f"{solutions}: task {name}")
        for name, raw in raw_tasks.items()
    ]


def _parse_task(name: str, raw: object, where: str, answers: object = None, answers_where: str = "") -> Task:
    if not name or NAME_SEPARATOR in name:
        raise UserError(f"{where}: a task's name must not be empty or contain {NAME_SEPARATOR!r}")
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must be an object with the keys train and test")
    for key in ("train", "test"):
        if key not in raw:
            raise UserError(f"{where}: lacks the key {key!r}")
        if not isinstance(raw[key], list) or not raw[key]:
            raise UserError(f"{where}: {key} must be a nonempty list of pairs")
    tests = raw["test"]
    if answers is not None:
        if not isinstance(answers, list) or len(answers) != len(tests):
            count = len(answers) if isinstance(answers, list) else repr(answers)
            raise UserError(
                f"{answers_where}: has {count} answers, but the task has {len(tests)} test inputs"
            )
        for number, answer in enumerate(answers):
            if answer is not None:
                parse_grid(answer, f"{answers_where}, answer {number}")
        tests = [
            {**pair, "output": answer} if isinstance(pair, dict) else pair
            for pair, answer in zip(tests, answers, strict=True)
        ]
    train = [_parse_pair(pair, f"{where}, train pair {number}") for number, pair in enumerate(raw["train"])]
    test = [_parse_pair(pair, f"{where}, test pair {number}", True) for number, pair in enumerate(tests)]
    known = tuple(pair.get("output") is not None for pair in tests)
    return Task(name, train, test, known)


def _parse_pair(pair: object, where: str, may_lack_output: bool = False) -> Pair:
    if not isinstance(pair, dict):
        raise UserError(f"{where}: must be an object with the keys input and output")
    if "input" not in pair:
        raise UserError(f"{where}: lacks the key 'input'")
    if "output" not in pair and not may_lack_output:
        raise UserError(f"{where}: lacks the key 'output'")
    question = parse_grid(pair["input"], f"{where}, input")
    answer = pair.get("output")
    if answer is None and may_lack_output:
        answer = UNKNOWN_OUTPUT
    return question, parse_grid(answer, f"{where}, output")


def _read_object(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must hold an object of {what} by name, but holds a {type(content).__name__}"
        )
    return content
