"""Targets of `benchmarks/fuzz.py` and random edits of their valid inputs."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

# Bytes that may break readers: huge numbers, encodings, nesting, format markers.
TOKENS = [
    b"9" * 5000,
    b"-1",
    b"0",
    b"1e999",
    b"1e300",
    b"NaN",
    b"-Infinity",
    b"null",
    b"true",
    b"1.5",
    b"99999999999999999999",
    b"2147483648",
    b"[" * 3000,
    b"{" * 200,
    b'{"a":' * 2000,
    b"(" * 300,
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xc3\xa4",
    b"\r\n",
    b"\n",
    b",",
    b'"',
    b"'",
    b"#",
    b"//",
    b"2024-02-30",
    b"&a [*a]",
    b"*a",
    b"<<: *a",
    b"!!timestamp x",
    b"!!bool x",
    b"!!int ''",
    b"!!python/object/apply:os.system [true]",
    b"${oc.env:HOME}",
    b"${",
    b"|O",
    b"<U99999999",
    b"(4294967296, 4294967296)",
    b"\xd9\xa3",
    b"\xc2\xb2",
]
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    10**12,
    10**30,
    10**400,
    1.5,
    -0.0,
    1e300,
    1e-300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "arc",
    "sudoku",
    "lazy",
    "\ud800",
    "\0",
    "ä" * 300,
    [],
    [[]],
    [1, 2],
    [1.5, 2.0],
    ["all", "all"],
    ["a/b"],
    {},
    {"name": "x"},
    {"": None},
    [[1]] * 40,
]


@dataclass(frozen=True)
class Target:
    """A reader with valid `inputs`; `read` is called with an input and a temporary folder.

    `structure` is the format in which values can be replaced: "json", "yaml", "npy", "npz" or "". `share` is the weight
    of this target in the total number of inputs. Exceptions in `user_errors` count as a `UserError`, because commands
    convert them.
    """

    name: str
    inputs: list[bytes]
    read: Callable[[bytes, Path], object]
    structure: str = ""
    share: float = 1.0
    user_errors: tuple[type[Exception], ...] = ()


def mutated(target: Target, rng: random.Random) -> bytes:
    """Return a valid input after one to four random edits."""
    data = rng.choice(target.inputs)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if target.structure and rng.random() < 0.6:
            data = _with_value_replaced(data, target.structure, rng)
        else:
            data = _with_bytes_edited(data, target, rng)
    return data


def _with_bytes_edited(data: bytes, target: Target, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((1, 1, 2, 8, 64)))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:start] + rng.choice(TOKENS) + data[end:]
    if kind == 1:
        return data[:start] + rng.choice(TOKENS) + data[start:]
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    if kind == 4:
        return data[:start]
    if kind == 5:
        other = rng.choice(target.inputs)
        return data[:start] + other[rng.randint(0, len(other)) :]
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _with_value_replaced(data: bytes, structure: str, rng: random.Random) -> bytes:
    """Replace or remove a random value in a document; return it unchanged if it cannot be parsed."""
    if structure in ("npy", "npz"):
        return _with_array_replaced(data, rng)
    load, dump = (json.loads, json.dumps) if structure == "json" else (yaml.safe_load, yaml.safe_dump)
    try:
        root = [load(data)]
    except Exception:  # an earlier edit has broken it
        return data
    parent: list | dict = root
    key: object = 0
    while rng.random() < 0.8 and isinstance(child := parent[key], dict | list) and child:
        parent, key = child, rng.choice(list(child) if isinstance(child, dict) else range(len(child)))
    if rng.random() < 0.15 and parent is not root:
        del parent[key]
    else:
        parent[key] = rng.choice(VALUES)
    try:
        return dump(root[0]).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, yaml.YAMLError):
        return data


def _with_array_replaced(data: bytes, rng: random.Random) -> bytes:
    """Change a value, the dtype or the shape of an array in an npy or npz file."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except Exception:  # an earlier edit has broken it
        return data
    if not arrays:
        return data
    key = rng.choice(list(arrays))
    array = arrays[key]
    kind = rng.randrange(6)
    if kind < 3 and array.size and array.dtype.kind in "iuf":
        array = array.copy()
        value = rng.choice((-1, 0, 1, 2, 5, 127, 255, 2**31 - 1, -(2**31)))
        array.flat[rng.randrange(array.size)] = np.array(value).astype(array.dtype)
    elif kind == 3:
        dtype = rng.choice(("int64", "float32", "uint8", "bool", "U3", "complex64"))
        array = np.zeros(array.shape, dtype) if array.dtype.kind == "U" else array.astype(dtype)
    elif kind == 4:
        array = array[..., None] if rng.random() < 0.5 else array.reshape(-1)[: rng.randint(0, array.size)]
    else:
        array = rng.choice(
            (np.array(3), np.zeros(0), np.zeros((0, 5), int), np.arange(7), np.array(["x", "y"]))
        )
    content = io.BytesIO()
    if key:
        np.savez(content, **arrays | {key: array})
    else:
        np.save(content, array)
    return content.getvalue()
