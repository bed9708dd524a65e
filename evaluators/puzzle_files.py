"""Read files of puzzles as streams, and write files of answers that an interrupted run can continue.

Puzzles: one per line (.txt), a table with a column of questions (.csv, .tsv), an object or a string per line (.jsonl),
each also as .gz; `-` is standard input, one puzzle per line. Answers: .csv or .jsonl; `-` is standard output, as JSON
lines.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from dataset.sources import COLUMN_NAMES, read_header
from utils.errors import UserError
from utils.files import cannot_write, make_folder
from utils.reading import GZIP_ERRORS, open_text, parse_json

STANDARD = "-"
INVALID = "invalid"  # verdict of a line that is not a puzzle
COLUMNS = ("line", "puzzle", "answer", "verdict", "confidence", "steps", "message")


@dataclass(frozen=True)
class PuzzleLine:
    """The text of one puzzle in a file."""

    number: int  # of the line, from 1
    text: str
    problem: str | None = None  # why the line is not a puzzle


def suffix_of(path: str) -> str:
    """Return the suffix that determines the format of a file, in lower case and without `.gz`."""
    name = path.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def count_lines(source: str) -> int | None:
    """Estimate the number of puzzles in a file, for a progress bar; None for standard input."""
    if source == STANDARD:
        return None
    with _opened(source) as file:
        count = sum(1 for line in file if line.strip())
    return count - (suffix_of(source) in (".csv", ".tsv"))


def read_puzzles(source: str, comment: str | None = "#") -> Iterator[PuzzleLine]:
    """Yield the puzzles of a file lazily; blank lines are skipped.

    So are lines of text that start with `comment`. Raises `UserError` if the file cannot be read, or if a table has no
    column of questions.
    """
    suffix = suffix_of(source)
    if suffix in (".csv", ".tsv"):
        yield from _of_table(source)
        return
    with _opened(source) as file:
        for number, line in enumerate(_lines(file, source), start=1):
            text = line.rstrip("\r\n")
            if not text.strip() or (suffix != ".jsonl" and comment and text.startswith(comment)):
                continue
            yield _of_json(number, text) if suffix == ".jsonl" else PuzzleLine(number, text)


def _of_json(number: int, line: str) -> PuzzleLine:
    names = COLUMN_NAMES["question"]
    try:
        value = parse_json(line, "the line")
    except UserError as error:
        return PuzzleLine(number, line, str(error))
    if isinstance(value, dict):
        value = next((value[name] for name in names if name in value), None)
    if not isinstance(value, str):
        return PuzzleLine(
            number,
            line,
            f"the line is neither a string nor an object with a string as its {' or '.join(names[:3])}",
        )
    return PuzzleLine(number, value)


def _of_table(source: str) -> Iterator[PuzzleLine]:
    header = read_header(Path(source))
    column = header.columns["question"]
    with _opened(source, newline="") as file:
        lines = _lines(file, source)
        for _ in range(header.line):
            next(lines)
        reader = csv.reader(lines, delimiter=header.delimiter)
        while True:
            number = header.line + reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield PuzzleLine(number, "", f"the line is not valid CSV: {error}")
                continue
            if fields is None:
                return
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header.names):
                yield PuzzleLine(
                    number,
                    header.delimiter.join(fields),
                    f"the line has {len(fields)} fields, the header {len(header.names)}",
                )
            else:
                yield PuzzleLine(number, fields[column])


def _opened(source: str, newline: str | None = None) -> TextIO:
    if source == STANDARD:
        return os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8-sig", errors="replace")
    try:
        # A byte that is not valid UTF-8 invalidates its own puzzle only.
        return open_text(Path(source), newline=newline, errors="replace")
    except FileNotFoundError:
        raise _does_not_exist(source) from None
    except OSError as error:
        raise UserError(f"puzzles={source}: cannot be read ({error.strerror or error})") from None


def _lines(file: TextIO, source: str) -> Iterator[str]:
    try:
        yield from file
    except GZIP_ERRORS as error:
        raise UserError(f"puzzles={source}: is damaged or not a gzip file ({error})") from None


# ---------------------------------------------------------------------------------------- answers


def check_files(puzzles: str, out: str, resume: bool) -> None:
    """Raise UserError if the file of puzzles does not exist, or that of answers does; neither is opened."""
    if puzzles != STANDARD and not Path(puzzles).exists():
        raise _does_not_exist(puzzles)
    if out != STANDARD and Path(out).exists() and not resume:
        raise _exists(out)


def _does_not_exist(puzzles: str) -> UserError:
    return UserError(f"puzzles={puzzles}: does not exist")


def _exists(out: str) -> UserError:
    return UserError(
        f"out={out}: already exists: resume=true continues after its last row; or choose another file"
    )


class AnswerFile:
    """A file of answers, one row per puzzle, valid after each `write`; a context manager.

    `resume` continues after the last complete row of an existing file; without it an existing file is an error.
    """

    def __init__(self, path: str, resume: bool = False):
        self.path = path
        self.num_rows = 0  # written by an earlier run
        self.num_invalid = 0  # of these rows, those of lines that are not puzzles
        self.last: dict[str, Any] | None = None  # of these rows
        self._as_json = path == STANDARD or suffix_of(path) == ".jsonl"
        if path == STANDARD:
            self._file: TextIO = sys.stdout
            return
        make_folder(Path(path).parent, "out")
        try:
            exists = Path(path).exists()
            if exists and not resume:
                raise _exists(path)
            if exists:
                self._keep_complete_rows()
            self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 - closed by `__exit__`
        except OSError as error:
            raise cannot_write(Path(path), error, "out") from error
        if not self._as_json and self._file.tell() == 0:
            csv.writer(self._file, lineterminator="\n").writerow(COLUMNS)
            self._file.flush()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path != STANDARD:
            self._file.close()

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, with the keys `COLUMNS`."""
        try:
            if self._as_json:
                self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            else:
                writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
                writer.writerows(rows)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(Path(self.path), error, "out") from error

    def _keep_complete_rows(self) -> None:
        """Count the rows of the file, and truncate one that an interrupted run left incomplete."""
        end = 0
        with open(self.path, "rb") as file:
            for after, row in self._json_rows(file) if self._as_json else self._csv_rows(file):
                end = after
                if row is not None:
                    self.num_rows, self.last = self.num_rows + 1, row
                    self.num_invalid += row["verdict"] == INVALID
        os.truncate(self.path, end)

    def _json_rows(self, file: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            row = parse_json(line, f"out={self.path} line {self.num_rows + 1}")
            if not isinstance(row, dict) or set(row) != set(COLUMNS):
                self._fail(f"line {self.num_rows + 1} has other keys than {', '.join(COLUMNS)}")
            yield end, row

    def _csv_rows(self, file: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
        read, complete = 0, True

        def lines() -> Iterator[str]:
            nonlocal read, complete
            for line in file:
                read, complete = read + len(line), line.endswith(b"\n")
                yield line.decode("utf-8", "replace")

        try:
            for number, fields in enumerate(csv.reader(lines(), strict=True)):
                if not complete:
                    return
                if number == 0 and tuple(fields) != COLUMNS:
                    self._fail(f"its first line is not {','.join(COLUMNS)}")
                if len(fields) != len(COLUMNS):
                    self._fail(f"row {number} has {len(fields)} fields instead of {len(COLUMNS)}")
                row = dict(zip(COLUMNS, fields, strict=True))
                yield read, row if number else None
        except csv.Error:  # the last row ends within quotes
            return

    def _fail(self, why: str) -> None:
        raise UserError(f"out={self.path}: was not written by solve.py ({why}): choose another file")
