"""Rows of the hub's puzzle tables (`source,question,answer,rating`), from a local folder or from the hub."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.hub import hub_library

COLUMNS = ("source", "question", "answer", "rating")


@dataclass(frozen=True)
class Rows:
    """The rows of one table, their characters as ASCII codes.

    numbers (rows,): which row of the file each one is, from 0 below the header; questions, answers
    (rows, seq_len) uint8; ratings (rows,) float64, NaN where the file gives none.
    """

    path: Path
    numbers: np.ndarray
    questions: np.ndarray
    answers: np.ndarray
    ratings: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, index: int) -> str:
        """File and row (from 1 below the header) of row `index`, for messages."""
        return f"{self.path} row {self.numbers[index] + 1}"

    def take(self, indices: np.ndarray) -> Rows:
        """The rows at `indices`, in that order."""
        chosen = (array[indices] for array in (self.numbers, self.questions, self.answers, self.ratings))
        return Rows(self.path, *chosen)


def find_table(split: str, *, source_csv: str | Path | None, source_repo: str) -> Path:
    """Path of `{split}.csv`: in the folder `source_csv`, or downloaded from the hub when that is None."""
    if source_csv is None:
        return download_table(source_repo, f"{split}.csv")
    path = Path(source_csv) / f"{split}.csv"
    if not path.is_file():
        raise UserError(f"{path} does not exist: --source-csv takes a folder with train.csv and test.csv")
    return path


def download_table(source_repo: str, name: str) -> Path:
    """Local path of file `name` of the hub dataset `source_repo`; `UserError` when it cannot be had."""
    alternatives = (
        "Use a local copy with --source-csv DIR (a folder with train.csv and test.csv), "
        "or make puzzles here with --generate N"
    )
    try:
        hub = hub_library()
    except UserError as error:
        raise UserError(f"{error}. {alternatives}") from None
    # ValueError: a malformed repository name. HTTPError exists in the releases built on httpx only.
    failures = (OSError, ValueError, hub.errors.EntryNotFoundError, getattr(hub.errors, "HTTPError", OSError))
    try:
        return Path(hub.hf_hub_download(source_repo, name, repo_type="dataset"))
    except failures as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot get {name} of the dataset {source_repo} from the hub: {reason} {alternatives}"
        ) from None


def read_rows(
    path: str | Path,
    *,
    question_symbols: str,
    answer_symbols: str,
    seq_len: int | None = None,
    min_rating: int | None = None,
) -> Rows:
    """The rows of a table, all of one length and of the given (ASCII) symbols only.

    Rows rated below `min_rating` are left out (then every row must have a rating). `seq_len` None takes the
    length of the first question. Raises `UserError` naming file and row for anything else than that.
    """
    path = Path(path)
    numbers, ratings = [], []
    cells = {"question": bytearray(), "answer": bytearray()}
    for number, row in _read_dicts(path):
        where = f"{path} row {number + 1}"
        rating = _rating(row["rating"], where)
        if min_rating is not None:
            if np.isnan(rating):
                raise UserError(
                    f"{where} has no rating, which --min-difficulty needs in every row: leave it out"
                )
            if rating < min_rating:
                continue
        if seq_len is None:
            seq_len = len(row["question"])
        for column, content in cells.items():
            if len(row[column]) != seq_len:
                raise UserError(
                    f"{where}: its {column} has {len(row[column])} characters instead of {seq_len}, "
                    "as every row of a table must have"
                )
            # Characters outside Latin-1 become `?`, which the check of symbols below finds with its row.
            content += row[column].encode("latin-1", "replace")
        numbers.append(number)
        ratings.append(rating)
    if not numbers:
        rated = "" if min_rating is None else f" rated {min_rating} or higher (--min-difficulty)"
        raise UserError(f"{path} has no row{rated}")
    shape = (len(numbers), seq_len)
    rows = Rows(
        path,
        np.array(numbers),
        np.frombuffer(cells["question"], np.uint8).reshape(shape),
        np.frombuffer(cells["answer"], np.uint8).reshape(shape),
        np.array(ratings, np.float64),
    )
    _check_symbols(rows, "question", rows.questions, question_symbols)
    _check_symbols(rows, "answer", rows.answers, answer_symbols)
    return rows


def question_length(path: str | Path) -> int:
    """Characters of the first question of a table."""
    for _, row in _read_dicts(Path(path)):
        return len(row["question"])
    raise UserError(f"{path} has no row")


def lookup(symbols: str) -> np.ndarray:
    """(256,) int16: position of each character code in `symbols`, -1 for all others."""
    table = np.full(256, -1, np.int16)
    table[np.frombuffer(symbols.encode("ascii"), np.uint8)] = np.arange(len(symbols))
    return table


def _read_dicts(path: Path):
    """(number, {column: text}) of each data row; `UserError` for a missing file, header or field."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise UserError(
                    f"{path} has no column {', '.join(missing)}: its first line must be the header "
                    f"{','.join(COLUMNS)}, and starts with {','.join(header)[:40]!r}"
                )
            for number, fields in enumerate(reader):
                if not fields:  # a blank line
                    continue
                if len(fields) != len(header):
                    raise UserError(
                        f"{path} row {number + 1} has {len(fields)} fields, its header {len(header)}"
                    )
                yield number, dict(zip(header, fields, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from None


def _rating(text: str, where: str) -> float:
    if not text.strip():
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: its rating is {text!r}, not a number") from None


def _check_symbols(rows: Rows, column: str, cells: np.ndarray, symbols: str) -> None:
    # Millions of rows: deleting what is allowed from the bytes is far cheaper than a lookup per cell.
    if cells.tobytes().translate(None, symbols.encode("ascii")):
        row, cell = np.argwhere(lookup(symbols)[cells] < 0)[0]
        raise UserError(
            f"{rows.where(row)}: its {column} has {chr(cells[row, cell])!r} at character {cell + 1}; "
            f"allowed are {symbols!r}"
        )
