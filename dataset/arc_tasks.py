"""ARC tasks read from JSON, every grid checked: the Kaggle layout (`{prefix}_{subset}_challenges.json` with
`_solutions.json`) and the official one (`{prefix}/{subset}/*.json`, one file a task, answers inside).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.arc import NAME_SEPARATOR, parse_grid
from utils.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]
UNKNOWN_OUTPUT = [[0]]  # stands for the answer of a test input that has none, as in published datasets


@dataclass(frozen=True)
class Task:
    """One task: its demonstration and test pairs as grids, and whether the answers to its tests are known."""

    name: str
    train: list[Pair]
    test: list[Pair]
    solved: bool

    def to_json(self) -> dict:
        """The task as the official files hold it, unknown answers as `[[0]]`."""
        return {
            key: [{"input": question.tolist(), "output": answer.tolist()} for question, answer in pairs]
            for key, pairs in (("train", self.train), ("test", self.test))
        }


def read_subset(prefix: str, subset: str) -> list[Task]:
    """The tasks of a subset in the order of the file, or of file names; raises `UserError` for anything malformed."""
    challenges = Path(f"{prefix}_{subset}_challenges.json")
    folder = Path(prefix) / subset
    if challenges.is_file():
        tasks = _read_kaggle(challenges, Path(f"{prefix}_{subset}_solutions.json"))
    elif folder.is_dir():
        files = sorted(folder.glob("*.json"))
        tasks = [_parse_task(path.stem, _read_json(path), f"{path}") for path in files]
    else:
        raise UserError(
            f"subset {subset!r}: there is neither a file {challenges} nor a folder {folder}; check "
            "--input-file-prefix and --subsets"
        )
    if not tasks:
        raise UserError(f"{challenges if challenges.is_file() else folder}: holds no tasks")
    return tasks


def _read_kaggle(challenges: Path, solutions: Path) -> list[Task]:
    raw_tasks = _read_object(challenges, "tasks")
    answers = _read_object(solutions, "answers") if solutions.is_file() else {}
    strangers = sorted(answers.keys() - raw_tasks.keys())
    if strangers:
        raise UserError(f"{solutions}: task {strangers[0]} is not in {challenges.name}")
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
            raise UserError(f"{where}: {key} must be a list of one or more pairs")
    tests = raw["test"]
    if answers is not None:
        if not isinstance(answers, list) or len(answers) != len(tests):
            count = len(answers) if isinstance(answers, list) else repr(answers)
            raise UserError(
                f"{answers_where}: has {count} answers, but the task has {len(tests)} test inputs"
            )
        for number, answer in enumerate(answers):
            parse_grid(answer, f"{answers_where}, answer {number}")
        tests = [
            {**pair, "output": answer} if isinstance(pair, dict) else pair
            for pair, answer in zip(tests, answers, strict=True)
        ]
    train = [_parse_pair(pair, f"{where}, train pair {number}") for number, pair in enumerate(raw["train"])]
    test = [_parse_pair(pair, f"{where}, test pair {number}", True) for number, pair in enumerate(tests)]
    solved = all("output" in pair for pair in tests)
    return Task(name, train, test, solved)


def _parse_pair(pair: object, where: str, may_lack_output: bool = False) -> Pair:
    if not isinstance(pair, dict):
        raise UserError(f"{where}: must be an object with the keys input and output")
    if "input" not in pair:
        raise UserError(f"{where}: lacks the key 'input'")
    if "output" not in pair and not may_lack_output:
        raise UserError(f"{where}: lacks the key 'output'")
    question = parse_grid(pair["input"], f"{where}, input")
    return question, parse_grid(pair.get("output", UNKNOWN_OUTPUT), f"{where}, output")


def _read_object(path: Path, what: str) -> dict:
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must hold an object of {what} by name, but holds a {type(content).__name__}"
        )
    return content


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error})") from None
