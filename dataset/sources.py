"""Read puzzle tables: CSV files with a header such as `source,question,answer,rating`, local or from the hub."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from utils.errors import UserError
from utils.hub import hub_library
from utils.reading import GZIP_ERRORS, open_text

# Column names in published tables, case-insensitive; the first rating column present is used.
COLUMN_NAMES = {
    "question": ("question", "questions", "puzzle", "puzzles", "quiz", "quizzes"),
    "answer": ("answer", "answers", "solution", "solutions"),
    "rating": ("rating", "difficulty"),
}
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Header:
    """The header of a table: its line, its delimiter and the indices of the columns of `COLUMN_NAMES`."""

    line: int
    delimiter: str
    names: list[str]
    columns: dict[str, int]


@dataclass(frozen=True)
class TableRows:
    """The rows of one table, with characters as ASCII codes.

    numbers (rows,): index of each row in the file, from 0 below the header; lines (rows,): the line on which it
    starts, from 1; questions, answers (rows, seq_len) uint8, answers None if the table has none; ratings (rows,)
    float64, NaN for rows without one.
    """

    path: Path
    numbers: np.ndarray
    lines: np.ndarray
    questions: np.ndarray
    answers: np.ndarray | None
    ratings: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, index: int) -> str:
        """Return the file and line of row `index`, for messages."""
        return f"{self.path} line {self.lines[index]}"

    def take(self, indices: np.ndarray) -> TableRows:
        """Select the rows at `indices`, in that order."""
        arrays = (self.numbers, self.lines, self.questions, self.answers, self.ratings)
        return TableRows(self.path, *(None if array is None else array[indices] for array in arrays))


def find_table(split: str, *, source_csv: str | Path | None, source_repo: str) -> Path:
    """Return the path of `{split}.csv` in the folder `source_csv`, or download it from the hub if that is None."""
    if source_csv is None:
        return download_table(source_repo, f"{split}.csv")
    path = Path(source_csv) / f"{split}.csv"
    if not path.is_file() and (compressed := path.with_name(f"{path.name}.gz")).is_file():
        return compressed
    if not path.is_file():
        others = sorted(other.name for other in Path(source_csv).glob("*.csv*"))
        found = f" (this one has {', '.join(others[:5])})" if others else ""
        raise UserError(
            f"{path} does not exist: --source-csv takes a folder with train.csv and test.csv{found}"
        )
    return path


def download_table(source_repo: str, name: str) -> Path:
    """Download file `name` of the hub dataset `source_repo` and return its path. Raises `UserError` on failure."""
    alternatives = (
        "Use a local copy with --source-csv DIR (a folder with train.csv and test.csv), "
        "or generate puzzles with --generate N"
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
    question_symbols: str | None = None,
    answer_symbols: str | None = None,
    seq_len: int | None = None,
    min_rating: int | None = None,
    need_answers: bool = True,
    clean: Callable[[str], str] = str,
) -> TableRows:
    """Read the rows of a table, all of one length.

    question_symbols, answer_symbols: the allowed (ASCII) symbols, None for any. Rows rated below `min_rating` are
    skipped (then every row must have a rating). `seq_len` defaults to the length of the first question. `clean`
    turns the text of a question or an answer into one character per cell. Raises `UserError`, naming file and line,
    for rows that do not conform.
    """
    path = Path(path)
    numbers, lines, ratings = [], [], []
    cells = {"question": bytearray(), "answer": bytearray()}
    header = read_header(path)
    if not need_answers and "answer" not in header.columns:
        del cells["answer"]
    for number, line, row in _read_dicts(path, header, tuple(cells)):
        where = f"{path} line {line}"
        rating = _rating(row["rating"], where)
        if min_rating is not None:
            if np.isnan(rating):
                raise UserError(
                    f"{where} has no rating, which --min-difficulty needs in every row: leave out --min-difficulty"
                )
            if rating < min_rating:
                continue
        for column, content in cells.items():
            text = clean(row[column])
            if seq_len is None:
                seq_len = len(text)
            if len(text) != seq_len:
                raise UserError(
                    f"{where}: its {column} has {len(text)} characters instead of {seq_len}; all rows of a table must "
                    "have the same length"
                )
            # Characters outside Latin-1 become `?`, which the symbol check below reports with its row.
            content += text.encode("latin-1", "replace")
        numbers.append(number)
        lines.append(line)
        ratings.append(rating)
    if not numbers:
        rated = "" if min_rating is None else f" rated {min_rating} or higher (--min-difficulty)"
        raise UserError(f"{path} has no row{rated}")
    grids = {
        column: np.frombuffer(content, np.uint8).reshape(len(numbers), seq_len)
        for column, content in cells.items()
    }
    rows = TableRows(
        path,
        np.array(numbers),
        np.array(lines),
        grids["question"],
        grids.get("answer"),
        np.array(ratings, np.float64),
    )
    if question_symbols is not None:
        check_symbols(rows.questions, question_symbols, rows.where, "its question")
    if answer_symbols is not None:
        check_symbols(rows.answers, answer_symbols, rows.where, "its answer")
    return rows


def question_length(path: str | Path, clean: Callable[[str], str] = str) -> int:
    """Return the length of the first question of a table; `clean` as in `read_rows`."""
    path = Path(path)
    for _, _, row in _read_dicts(path, read_header(path), ("question",)):
        return len(clean(row["question"]))
    raise UserError(f"{path} has no row")


def find_header(path: Path) -> Header | None:
    """Find the header after blank lines and comments; None if that line has no question column.

    Raises `UserError` for a missing or unreadable file and for two columns of the same meaning.
    """
    with _reading(path) as file:
        written = ((n, line) for n, line in enumerate(file, start=1) if line.strip())
        number, line = next(
            ((n, line) for n, line in written if not line.lstrip().startswith(("#", "//"))), (0, "")
        )
    for delimiter in DELIMITERS:
        fields = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        columns = _find_columns(fields, f"{path} line {number}")
        if "question" in columns:
            return Header(number, delimiter, fields, columns)
    return None


def read_header(path: Path) -> Header:
    """Read the header of a table. Raises `UserError` if it has none."""
    header = find_header(path)
    if header is None:
        with _reading(path) as file:
            start = file.readline().strip()[:40]
        raise UserError(
            f"{path} has no question column: its first line must be a header such as source,question,answer,rating or "
            f"puzzle,solution, but is {start!r}"
        )
    return header


def check_symbols(cells: np.ndarray, symbols: str, where: Callable[[int], str], what: str) -> None:
    """Raise `UserError` for the first of the (E, S) character codes that is not in the symbols.

    where: describes the position of row i; what: describes the grid, such as "its answer".
    """
    # With millions of rows, deleting the allowed bytes is far cheaper than a lookup per cell.
    if cells.tobytes().translate(None, symbols.encode("ascii")):
        row, cell = np.argwhere(lookup(symbols)[cells] < 0)[0]
        raise UserError(
            f"{where(row)}: {what} has {chr(cells[row, cell])!r} at character {cell + 1}; "
            f"allowed are {symbols!r}"
        )


def lookup(symbols: str) -> np.ndarray:
    """Return a table (256,) int16: the index of each character code in `symbols`, -1 for all others."""
    table = np.full(256, -1, np.int16)
    table[np.frombuffer(symbols.encode("ascii"), np.uint8)] = np.arange(len(symbols))
    return table


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    """Open a text file. Raises `UserError` if it is missing or not valid UTF-8 or CSV."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with open_text(path, newline="") as file:
        try:
            yield file
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from None
        except GZIP_ERRORS as error:
            raise UserError(f"{path} is damaged or not a gzip file: {error}") from None


def _find_columns(fields: list[str], where: str) -> dict[str, int]:
    """Return the indices of the columns of `COLUMN_NAMES`. Raises `UserError` if one is ambiguous."""
    lowered = [name.lower() for name in fields]
    columns = {}
    for column, names in COLUMN_NAMES.items():
        found = [index for name in names for index, field in enumerate(lowered) if field == name]
        if len(found) > 1 and column != "rating":
            both = " and ".join(fields[index] for index in found[:2])
            raise UserError(f"{where}: the columns {both} could both be the {column}: rename one of them")
        if found:
            columns[column] = found[0]
    return columns


def _read_dicts(
    path: Path, header: Header, columns: tuple[str, ...]
) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Yield (number, line, {column: text}) for each data row: the given columns, and the rating or "".

    Raises `UserError` for a missing column or field.
    """
    if missing := [column for column in columns if column not in header.columns]:
        known = " or ".join(COLUMN_NAMES[missing[0]])
        raise UserError(
            f"{path} line {header.line}: the header {','.join(header.names)[:60]!r} has no {missing[0]} column; "
            f"it must be called {known}"
        )
    with _reading(path) as file:
        for _ in range(header.line):
            file.readline()
        reader = csv.reader(file, delimiter=header.delimiter)
        line = header.line + 1
        for number, fields in enumerate(reader):
            if any(field.strip() for field in fields):
                if len(fields) != len(header.names):
                    raise UserError(
                        f"{path} line {line} has {len(fields)} fields, but its header has {len(header.names)}"
                    )
                row = {column: fields[header.columns[column]] for column in columns}
                rating = header.columns.get("rating")
                yield number, line, row | {"rating": "" if rating is None else fields[rating]}
            line = header.line + reader.line_num + 1


def _rating(text: str, where: str) -> float:
    if not text.strip():
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"{where}: its rating is {text!r}, not a number; if the column does not hold ratings, rename or remove it"
        ) from None
