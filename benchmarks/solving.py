"""Throughput and accuracy of every strategy on a test set, compared with an earlier commit.

    python -m benchmarks.solving demo=checkpoints/demo,data/sudoku-6x6-demo \
        9x9=pretrained/sudoku_extreme_cpu,data/sudoku-extreme-1k

Each argument is a name, the weights, the dataset whose test split is solved, and optionally keys of evaluate.py.

The earlier commit, in a temporary worktree, runs each strategy with its defaults and the model's config, reduced to the
keys that it accepts; this tree runs it with `halt=auto`. An architecture that the earlier commit lacks is run by this
tree with the earlier settings, eager and for all steps, which the table notes. Both run in turns, so that a busy
machine slows both. Only solving is timed, after starting, compiling and choosing the stop rule, which is chosen once
and then read from its file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import yaml

from trained_run import open_trained
from utils.reading import read_mapping

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "c39927e"
STRATEGIES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "symmetry": ("strategy=symmetry", "symmetries=8"),
    "ladder": ("strategy=ladder", "rungs=[steps,more_steps,symmetry]"),
}
# Target throughput, in multiples of the earlier commit's.
TARGETS = {"plain": 4.0, "symmetry": 3.0, "ladder": 3.0}


@dataclass(frozen=True)
class Model:
    """A model to time."""

    name: str
    checkpoint: Path
    data: Path
    options: tuple[str, ...] = ()  # further keys of evaluate.py

    @classmethod
    def parse(cls, text: str) -> Model:
        name, _, values = text.partition("=")
        checkpoint, data, *options = [*values.split(","), ""]
        if not (name and checkpoint and data):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not of the form NAME=CHECKPOINT,DATASET[,key=value...]"
            )
        options = tuple(option for option in options if option)
        return cls(name, Path(checkpoint).resolve(), Path(data).resolve(), options)

    @property
    def architecture(self) -> str:
        return open_trained(str(self.checkpoint)).arch["name"]


@dataclass(frozen=True)
class Result:
    """One evaluation."""

    puzzles_per_second: float
    solved: int
    rows: int
    steps: float  # supervision steps per puzzle, over all chains

    @classmethod
    def of_report(cls, report: dict[str, Any]) -> Result:
        rows = report["rows_with_labels"]
        return cls(
            report["rows"] / report["seconds"],
            report["rows_solved"],
            rows,
            report["supervision_steps_per_puzzle"],
        )


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Context manager that checks out a commit of this repository in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def understood(model: Model, tree: Path, folder: Path) -> Model:
    """Write the model's weights into `folder`, with a config reduced to the keys that an earlier tree accepts."""
    trained = open_trained(str(model.checkpoint))
    known = yaml.safe_load((tree / "config" / "cfg_pretrain.yaml").read_text())
    values = read_mapping(trained.located.config)
    values = values.get("recipe", values)  # of an export
    kept = {key: value for key, value in values.items() if key in known or key == "arch"}
    folder.mkdir()
    (folder / "all_config.yaml").write_text(yaml.safe_dump(kept))
    (folder / "metadata.json").write_text(json.dumps(trained.metadata))
    torch.save(trained.state, folder / f"step_{trained.step or 0}")
    return replace(model, checkpoint=folder)


def evaluate(tree: Path, model: Model, options: Sequence[str], device: str) -> Result:
    """Run `evaluate.py` of a tree. Raises RuntimeError with its output if it fails."""
    with tempfile.TemporaryDirectory() as out:
        arguments = (
            f"checkpoint={model.checkpoint}",
            f"data_paths_test=[{model.data}]",
            f"out={out}",
            f"device={device}",
            "evaluators=[]",
            *model.options,
            *options,
        )
        done = subprocess.run(
            [sys.executable, "evaluate.py", *arguments], cwd=tree, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{tree}: {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return Result.of_report(json.loads(Path(out, "report.json").read_text()))


def compare(
    before: Path, earlier_model: Model, model: Model, name: str, repeats: int, limit: int | None, device: str
) -> tuple[list[Result], list[Result]]:
    """Return results of the earlier commit (or of its settings in this tree) and of this tree, measured in turns."""
    options = [*STRATEGIES[name], *([] if limit is None else [f"limit={limit}"])]
    earlier, here = [], []
    for _ in range(repeats):
        earlier.append(evaluate(before, earlier_model, options, device))
        here.append(evaluate(ROOT, model, [*options, "halt=auto"], device))
    return earlier, here


def line(model: Model, name: str, known: bool, earlier: Sequence[Result], here: Sequence[Result]) -> str:
    """Format a row of the table from the medians of the repeats. `known`: the earlier commit ran the model itself."""
    label = name if known else f"{name} (before: this tree)"
    rates = [statistics.median(r.puzzles_per_second for r in results) for results in (earlier, here)]
    then, now = earlier[-1], here[-1]
    lost = (then.solved - now.solved) / then.rows * 100
    factor = rates[1] / rates[0]
    return (
        f"| {model.name} | {label} | {rates[0]:,.1f} | {rates[1]:,.1f} | {factor:.1f} (target {TARGETS[name]:g}) | "
        f"{then.solved / then.rows:.2%} | {now.solved / now.rows:.2%} | {lost:+.2f} | "
        f"{then.steps:.2f} | {now.steps:.2f} |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.solving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", type=Model.parse, metavar="NAME=CHECKPOINT,DATASET[,KEY=VALUE...]"
    )
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"the earlier commit ({BEFORE})")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=3, help="evaluations of each tree (3)")
    parser.add_argument("--limit", type=int, help="the first rows only; all by default")
    parser.add_argument("--device", default="cpu", help="as in evaluate.py (cpu)")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, before: {asked.before}\n")
    print(
        "| model | strategy | before, puzzles/s | here | factor | solved before | here | points lost | "
        "steps before | here |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    with worktree(asked.before) as before:
        for model in asked.models:
            known = (before / "config" / "arch" / f"{model.architecture}.yaml").exists()
            tree = before if known else ROOT
            earlier = understood(model, before, before / f"weights_{model.name}") if known else model
            for name in asked.strategies:
                results = compare(tree, earlier, model, name, asked.repeats, asked.limit, asked.device)
                print(line(model, name, known, *results), flush=True)


if __name__ == "__main__":
    main()
