"""Read JSON, YAML and NumPy files from any source; every problem is one `UserError` that names the file.

The parsers of these formats raise more than their own error classes: `ValueError` for an integer of thousands of
digits or a date that does not exist, `RecursionError` for deep nesting, `MemoryError` or `OverflowError` for an array
of an absurd shape. No other module calls `json.loads`, `yaml.safe_load` or `np.load`.
"""

from __future__ import annotations

import gzip
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from utils.errors import UserError

if TYPE_CHECKING:  # commands that only print their help read no arrays
    import numpy as np

MAX_DEPTH = 50  # nesting of lists and objects; files of this repository need at most ten
MAX_YAML_VALUES = 100_000  # after expanding aliases, because a few lines of aliases can expand to billions
# Errors of numpy for a damaged header (a Python literal, a dtype and a shape) or for missing data.
_NUMPY_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
    EOFError,
    OSError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
# Errors of PyYAML, including those of its constructors for tags such as `!!bool x` or `!!timestamp x`.
_YAML_ERRORS = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)


# Errors of reading a damaged or truncated gzip file.
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


def open_text(path: Path, *, newline: str | None = None) -> TextIO:
    """Open a UTF-8 text file for reading, without byte-order mark; decompressed if its name ends in `.gz`."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def read_text(path: Path, *, missing: str = "is missing") -> str:
    """Read a text file, see `open_text`. `missing` is the message if there is no file."""
    try:
        with open_text(path) as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error})") from None
    except GZIP_ERRORS as error:
        raise UserError(f"{path}: is damaged or not a gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json(path: Path, *, missing: str = "is missing") -> Any:
    """Read a JSON file. Raises `UserError` if it is missing, damaged or rejected by `parse_json`."""
    return parse_json(read_text(path, missing=missing), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON text from `where` (a file, perhaps with a line number). Raises `UserError` naming it.

    Rejects integers that Python does not convert, nesting deeper than `MAX_DEPTH`, and unpaired surrogates, which
    cannot be printed or written.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        raise UserError(f"{where}: is not valid JSON ({line}column {error.colno}: {error.msg})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not valid JSON ({error})") from None
    except ValueError:
        raise UserError(
            f"{where}: holds an integer of thousands of digits, which no file here needs"
        ) from None
    except RecursionError:
        raise UserError(_too_deep(where)) from None
    text = text if isinstance(text, str) else text.decode("utf-8", "replace")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_extent(value, where)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is not a character: "
                "write the character itself"
            ) from None
    return value


def read_yaml(path: Path, *, missing: str = "is missing") -> Any:
    """Read a YAML file, without running any code. Raises `UserError` naming the file.

    With aliases expanded it may have at most `MAX_YAML_VALUES` values, and must not contain itself.
    """
    text = read_text(path, missing=missing)
    try:
        value = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except RecursionError:
        raise UserError(_too_deep(str(path))) from None
    except _YAML_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: is not valid YAML ({shortened(reason)})") from None
    _check_extent(value, str(path), MAX_YAML_VALUES)
    return value


def read_mapping(path: Path, *, missing: str = "is missing") -> dict[str, Any]:
    """Read the mapping in a `.json` file, or in a YAML file of any other name. Raises `UserError` naming the file."""
    # JSON is valid YAML, but reading it as YAML is slow and less exact.
    values = (read_json if path.suffix == ".json" else read_yaml)(path, missing=missing)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, but must hold a mapping of keys to values")
    if others := [key for key in values if not isinstance(key, str)]:
        raise UserError(f"{path}: has the key {shortened(repr(others[0]))}, but keys must be text")
    return values


def open_npy(path: Path, *, missing: str = "is missing") -> np.ndarray:
    """Open the array in an npy file, memory-mapped read-only. Raises `UserError` naming the file."""
    import numpy as np

    return np.asarray(
        _load(path, "npy array", missing, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    )


def read_npz(path: Path, *, missing: str = "is missing") -> dict[str, np.ndarray]:
    """Read the arrays in an npz file by name, into memory. Raises `UserError` naming the file."""
    import numpy as np

    def load() -> dict[str, np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    _check_size(file, member)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return _load(path, "npz file", missing, load)


def shortened(text: str, most: int = 200) -> str:
    """Truncate `text` for use in a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _load(path: Path, what: str, missing: str, load: Callable[[], Any]) -> Any:
    import numpy as np

    try:
        with np.errstate(over="ignore"):  # the size of an absurd shape overflows, and is an error below
            return load()
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except _NUMPY_ERRORS as error:
        reason = shortened(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{path}: is truncated or not an {what} ({reason})") from None


def _check_size(file: zipfile.ZipExtFile, member: zipfile.ZipInfo) -> None:
    """Compare a member's header with its size, because numpy would allocate an absurd shape first."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + promised != member.file_size:
        raise ValueError(
            f"{member.filename} has the shape {shape}, but {member.file_size - file.tell()} bytes of data"
        )


class _Loader(yaml.SafeLoader):
    """`SafeLoader` that gives up early on deep nesting, which takes it seconds to fail at, and on merge keys
    (`<<: [*a, *a]`) that expand to more than `MAX_YAML_VALUES` keys.
    """

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        if self.flow_level >= MAX_DEPTH:  # the scanner reads far ahead of the composer
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            raise RecursionError
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_YAML_VALUES:
            raise yaml.YAMLError("its merge keys expand to too many values")


def _check_extent(value: object, where: str, most: float = math.inf) -> None:
    """Raise `UserError` if a value is nested deeper than `MAX_DEPTH` (or contains itself) or has too many values."""
    level, count = [value] if isinstance(value, dict | list) else [], 0
    for _ in range(MAX_DEPTH):
        count += sum(map(len, level))
        if count > most:
            raise UserError(f"{where}: its aliases expand to more than {most:,} values: write them out")
        children = (
            child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)
        )
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise UserError(_too_deep(where))


def _too_deep(where: str) -> str:
    return f"{where}: is nested deeper than {MAX_DEPTH} levels, which no file here needs"
