"""Feed damaged and absurd files and arguments to everything that reads them; only a `UserError` may come back.

    python -m benchmarks.fuzz --inputs 100000 --seed 0

Each target (`benchmarks/fuzz_targets.py`) starts from valid inputs. An input is one of these after a few random edits,
of its bytes or, in JSON, YAML and NumPy files, of its values. It depends on seed, target and number alone, so
`--target NAME --first NUMBER --inputs 1` repeats it. Exits with 1 if another exception escapes, or an input takes
longer than `--limit` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from utils.errors import as_user_error

# What breaks readers: numbers beyond every type, encodings, nesting, markers of the formats.
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
    """Something that reads: valid `inputs`, and `read`, which is given an input and a folder of its own.

    `structure` is how values inside an input can be replaced: "json", "yaml", "npy", "npz" or "". `share` is this
    target's part of all inputs, relative to the others. Exceptions in `refusals` count as a `UserError` (the commands
    turn them into one).
    """

    name: str
    inputs: list[bytes]
    read: Callable[[bytes, Path], object]
    structure: str = ""
    share: float = 1.0
    refusals: tuple[type[Exception], ...] = ()


@dataclass
class Result:
    """Counts of what became of a target's inputs, and the inputs that should have been refused properly."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)  # kind -> (first number, traceback)


def mutated(target: Target, rng: random.Random) -> bytes:
    """A valid input after one to four edits."""
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
    """The document with a value somewhere in it replaced, removed or added; as it is if it cannot be parsed."""
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
    """An npy or npz file with one array changed in a value, in its dtype or in its shape."""
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


def run_target(target: Target, *, seed: int, first: int, count: int, limit: float) -> Result:
    """Give the target `count` inputs from number `first` on."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.redirect_stdout(io.StringIO()):
        for data in target.inputs:
            target.read(data, Path(folder))  # must be accepted, or no edit of it would reach far
        for number in range(first, first + count):
            data = mutated(target, random.Random(f"{seed} {target.name} {number}"))
            # A reader that never returns ends the process with the place where it hangs.
            faulthandler.dump_traceback_later(20 * limit, exit=True, file=sys.__stderr__)
            begun = time.perf_counter()
            try:
                target.read(data, Path(folder))
                outcome = "accepted"
            except Exception as error:
                outcome = "refused"
                if as_user_error(error) is None and not isinstance(error, target.refusals):
                    outcome = "escaped"
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
                    result.faults.setdefault(kind, (number, traceback.format_exc()))
            seconds = time.perf_counter() - begun
            faulthandler.cancel_dump_traceback_later()
            if seconds > limit:
                result.counts["slow"] += 1
                result.faults.setdefault("slow", (number, f"took {seconds:.1f} s, and was {outcome}"))
            result.counts[outcome] += 1
            result.slowest = max(result.slowest, seconds)
    return result


def run(targets: list[Target], *, inputs: int, seed: int, first: int = 0, limit: float = 5.0) -> bool:
    """Fuzz the targets with `inputs` in all, print a table, and return True if nothing but refusals came back."""
    total = sum(target.share for target in targets)
    print(
        f"{'target':<22}{'inputs':>8}{'accepted':>10}{'refused':>9}{'escaped':>9}{'slow':>6}{'slowest, s':>12}"
    )
    sums: Counter[str] = Counter()
    faults = []
    for target in targets:
        count = max(1, round(inputs * target.share / total))
        result = run_target(target, seed=seed, first=first, count=count, limit=limit)
        cells = [result.counts[key] for key in ("accepted", "refused", "escaped", "slow")]
        print(
            f"{target.name:<22}{count:>8}{cells[0]:>10}{cells[1]:>9}{cells[2]:>9}{cells[3]:>6}"
            f"{result.slowest:>12.2f}",
            flush=True,
        )
        sums += result.counts + Counter(inputs=count)
        faults += [(target.name, kind, *rest) for kind, rest in result.faults.items()]
    print(
        f"{'all':<22}{sums['inputs']:>8}{sums['accepted']:>10}{sums['refused']:>9}{sums['escaped']:>9}{sums['slow']:>6}"
    )
    for name, kind, number, text in faults:
        print(f"\n{kind}: --target {name} --first {number} --inputs 1 --seed {seed}\n{text}")
    return not faults


def main(arguments: list[str] | None = None) -> int:
    from benchmarks.fuzz_targets import make_targets

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this target; may be repeated")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds that an input may take")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-data-") as folder:
        targets = make_targets(Path(folder))
        if unknown := set(options.target or ()) - {target.name for target in targets}:
            parser.error(
                f"no target {', '.join(unknown)}; there are {', '.join(target.name for target in targets)}"
            )
        chosen = [target for target in targets if not options.target or target.name in options.target]
        settings = {key: getattr(options, key) for key in ("inputs", "seed", "first", "limit")}
        return 0 if run(chosen, **settings) else 1


if __name__ == "__main__":
    sys.exit(main())
