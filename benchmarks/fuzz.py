"""Fuzz all readers of files and arguments: damaged inputs must be accepted or raise `UserError`.

    python -m benchmarks.fuzz --inputs 100000 --seed 0

Each target (`benchmarks/fuzz_targets.py`) has valid inputs, which are changed by a few random edits of bytes or, for
JSON, YAML and NumPy files, of values. An input is a function of seed, target and number, so
`--target NAME --first NUMBER --inputs 1` repeats it. Exits with 1 if another exception is raised, or if an input takes
longer than `--limit` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz_mutations import Target, mutated
from benchmarks.fuzz_targets import make_targets
from utils.errors import as_user_error


@dataclass
class Result:
    """Counts of outcomes of a target, and the inputs that failed."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)  # kind -> (first number, traceback)


def run_target(target: Target, *, seed: int, first: int, count: int, limit: float) -> Result:
    """Run the target on `count` inputs from number `first` on."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.redirect_stdout(io.StringIO()):
        for data in target.inputs:
            target.read(data, Path(folder))  # valid inputs must be accepted
        for number in range(first, first + count):
            data = mutated(target, random.Random(f"{seed} {target.name} {number}"))
            # If a reader hangs, exit and print the traceback.
            faulthandler.dump_traceback_later(20 * limit, exit=True, file=sys.__stderr__)
            begun = time.perf_counter()
            try:
                target.read(data, Path(folder))
                outcome = "accepted"
            except Exception as error:
                outcome = "rejected"
                if as_user_error(error) is None and not isinstance(error, target.user_errors):
                    outcome = "escaped"
                    frame = traceback.extract_tb(error.__traceback__)[-1]
                    kind = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
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
    """Fuzz the targets with `inputs` inputs in total, print a table, and return True if none failed."""
    total = sum(target.share for target in targets)
    print(
        f"{'target':<22}{'inputs':>8}{'accepted':>10}{'rejected':>10}{'escaped':>9}{'slow':>6}{'slowest, s':>12}"
    )
    sums: Counter[str] = Counter()
    faults = []
    for target in targets:
        count = max(1, round(inputs * target.share / total))
        result = run_target(target, seed=seed, first=first, count=count, limit=limit)
        cells = [result.counts[key] for key in ("accepted", "rejected", "escaped", "slow")]
        print(
            f"{target.name:<22}{count:>8}{cells[0]:>10}{cells[1]:>10}{cells[2]:>9}{cells[3]:>6}"
            f"{result.slowest:>12.2f}",
            flush=True,
        )
        sums += result.counts + Counter(inputs=count)
        faults += [(target.name, kind, *rest) for kind, rest in result.faults.items()]
    print(
        f"{'all':<22}{sums['inputs']:>8}{sums['accepted']:>10}{sums['rejected']:>10}{sums['escaped']:>9}{sums['slow']:>6}"
    )
    for name, kind, number, text in faults:
        print(f"\n{kind}: --target {name} --first {number} --inputs 1 --seed {seed}\n{text}")
    return not faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="total number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this target; may be repeated")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--limit", type=float, default=5.0, help="maximum seconds per input")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-data-") as folder:
        targets = make_targets(Path(folder))
        if unknown := set(options.target or ()) - {target.name for target in targets}:
            parser.error(
                f"unknown target {', '.join(unknown)}; choose from {', '.join(target.name for target in targets)}"
            )
        chosen = [target for target in targets if not options.target or target.name in options.target]
        settings = {key: getattr(options, key) for key in ("inputs", "seed", "first", "limit")}
        return 0 if run(chosen, **settings) else 1


if __name__ == "__main__":
    sys.exit(main())
