"""Draw a run, or compare several: figures as PDF, SVG and PNG.

    python -m evaluators.plots checkpoint=RUN
    python -m evaluators.plots runs=[A,B,C] panel=accuracy by=arch.L_cycles

Of one run: training curves, accuracy by supervision step, and accuracy by difficulty; figures without data are skipped,
with a line that says why. Of several: one panel, seeds as their median and range, and a CSV file of what is drawn.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from config.report_schema import PlotsConfig, ReportConfig
from utils.command_line.arguments import Command, check_arguments, read_command

COMMAND = Command(
    "-m evaluators.plots",
    __doc__.strip(),
    PlotsConfig,
    required={},
    advice=lambda: "  one of these is required: checkpoint=RUN, or runs=[A,B,C]",
)

if __name__ == "__main__":  # before the imports below, which include torch
    check_arguments(COMMAND)

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from dataset.families import family_of, named_family
from dataset.format import IGNORE_LABEL_ID
from evaluators.base import Evaluator
from evaluators.drawing import curves
from evaluators.drawing.overlay import MOST_CURVES, overlay
from evaluators.drawing.style import write_figure
from evaluators.measure import measure
from evaluators.reports.run_groups import ComparedRun, csv_of, grouped, read_run, summarised
from evaluators.strategies.compute_curve import tables
from evaluators.strategies.test_time import Plain
from puzzle_dataset import PuzzleDataset, named_sets
from trained_run import Trained, open_solver, open_test_data, open_trained
from utils.collection import resume_collection
from utils.distributed import World
from utils.errors import UserError, report_user_errors
from utils.files import make_folder, write_text
from utils.output_folders import report_folder
from utils.run_records import read_metrics


def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    if config.runs is not None:
        compare(config)
        return
    with named_family(config.family):
        run(config)


def compare(config: PlotsConfig) -> None:
    """Plot one panel of several runs, and write what is drawn as CSV."""
    runs = [read_run(folder) for folder in config.runs or ()]
    groups, notices = grouped(runs, config.by)
    if len(groups) > MOST_CURVES:
        raise UserError(
            f"these runs are {len(groups)} groups, and a panel shows at most {MOST_CURVES}: name fewer, or use by="
        )
    curves_ = [
        summarised(
            label,
            members,
            config.panel,
            config.split,
            config.x,
            num_test_puzzles(members[0]) if config.split == "test" and len(members) == 1 else None,
        )
        for label, members in groups.items()
    ]
    for line in notices:
        print(line)
    for curve in curves_:
        print(f"{curve.label}: {curve.band or 'one run, without an interval'}")
    folder = Path(config.out or "plots")
    make_folder(folder, "out")
    name = (
        config.panel
        + (f"_by_{config.by}" if config.by else "")
        + (f"_{config.x}" if config.x != "step" else "")
    )
    write_text(folder / f"{name}.csv", csv_of(curves_, config.panel, config.x))
    sizes = {"width": config.width, "font_size": config.font_size}
    write_figure(folder, name, lambda: overlay(curves_, config.panel, config.split, config.x, **sizes))


def num_test_puzzles(run: ComparedRun) -> int | None:
    """Return the number of labelled test examples of a run, None if its data is not on this machine."""
    paths = run.config.get("data_paths_test") or run.config["data_paths"]
    try:
        with named_family(run.config.get("family")):
            data = PuzzleDataset(paths, "test", global_batch_size=1024)
    except UserError:
        return None
    return sum(int((batch["labels"][:n] != IGNORE_LABEL_ID).any(1).sum()) for _, batch, n in data.batches())


def run(config: ReportConfig) -> None:
    """Plot the run named on the command line."""
    assert config.checkpoint is not None
    trained = open_trained(config.checkpoint)
    folder = report_folder(trained.located, config.out, "plots")
    batch_size = trained.config.values["global_batch_size"]
    records = read_metrics(trained.located.folder)
    write_figure(folder, "curves", lambda: curves.training_curves(records, batch_size))
    try:
        by_step, by_difficulty = solve_test_puzzles(trained, config)
    except UserError as error:
        if config.data_paths_test:
            raise
        print(f"accuracy_by_step and accuracy_by_difficulty left out: {error}")
        return
    write_figure(folder, "accuracy_by_step", lambda: curves.accuracy_by_step(*by_step))
    write_figure(
        folder,
        "accuracy_by_difficulty",
        lambda: curves.accuracy_by_difficulty(
            by_difficulty.classes(), by_difficulty.unit, by_rules=by_difficulty.by_rules
        ),
    )


def solve_test_puzzles(trained: Trained, config: ReportConfig) -> tuple[tuple, ByDifficulty]:
    """Solve the test puzzles once; return the arguments of `curves.accuracy_by_step`, and accuracy by difficulty."""
    data = open_test_data(trained, config)
    for notice in data.notices:
        print(notice)
    solver = open_solver(trained, data, config.device)
    by_difficulty = ByDifficulty(data)
    strategy = Plain(solver, config.steps or solver.trained_steps)
    _, tally = measure(
        strategy,
        solver.head,
        data,
        World(device=solver.device),
        evaluators={"by_difficulty": by_difficulty},
        limit=config.limit,
    )
    table = tables(tally, solver.applications_per_step())["steps"]
    return (table, tally.num_judged("steps"), solver.trained_steps), by_difficulty


class ByDifficulty(Evaluator):
    """Collect solved rows and the difficulty recorded by their dataset; single process only."""

    required_outputs: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "preds"})
    MOST_CLASSES: ClassVar[int] = 6

    def __init__(self, data: PuzzleDataset):
        super().__init__([path for path, _ in data.splits], data.metadata)
        self._sets = named_sets(data.splits)
        families = {name: family_of(s.metadata) for name, s in self._sets.items()}
        self._checks = {
            name: family.check if family.several_answers else None for name, family in families.items()
        }
        self.by_rules = any(check is not None for check in self._checks.values())
        recorded = [s for s in self._sets.values() if s.difficulty is not None]
        # Difficulty cannot be pooled across different units.
        units = {str(s.metadata.extra.get("difficulty", "as recorded")) for s in recorded}
        self.unit = units.pop() if len(units) == 1 else ""
        classes = {family_of(s.metadata).difficulty_classes for s in recorded}
        self.known_classes = classes.pop() if len(classes) == 1 else None

    def begin(self) -> None:
        self._difficulty: list[np.ndarray] = []
        self._solved: list[np.ndarray] = []

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        difficulty = self._sets[set_name].difficulty
        if difficulty is None or not self.unit:
            return
        inputs, labels, preds = (outputs[name].numpy() for name in ("inputs", "labels", "preds"))
        labelled = labels != IGNORE_LABEL_ID
        check = self._checks[set_name]
        if check is None:
            known, solved = labelled.any(1), ((preds == labels) | ~labelled).all(1)
        else:
            known, solved = np.ones(len(preds), bool), check(inputs, preds)
        self._difficulty.append(np.asarray(difficulty[example_indices.numpy()])[known])
        self._solved.append(solved[known])

    def result(self, gather, save_dir) -> dict[str, float]:
        return {}

    def classes(self) -> dict[str, tuple[int, int]]:
        """Return name -> (puzzles, solved), from easy to hard: the classes of the family, or ones of similar size."""
        if not self._difficulty:
            return {}
        difficulty, solved = np.concatenate(self._difficulty), np.concatenate(self._solved)
        if self.known_classes is not None:
            bounds, classes = self.known_classes
            names = [name.replace("over_", "over ") for name in classes]
            which = np.searchsorted(bounds, difficulty)
        else:
            cuts = np.quantile(difficulty, np.linspace(0, 1, self.MOST_CLASSES + 1)[1:-1], method="lower")
            which = np.searchsorted(np.unique(cuts), difficulty)
            spans = [difficulty[which == number] for number in range(len(np.unique(cuts)) + 1)]
            names = [_span(values) for values in spans]
        return {
            name: (int((which == number).sum()), int(solved[which == number].sum()))
            for number, name in enumerate(names)
            if (which == number).any()
        }


def _span(values: np.ndarray) -> str:
    """Format the difficulty range of a class; "" if it is empty."""
    if not len(values):
        return ""
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


if __name__ == "__main__":
    report_user_errors(main)(sys.argv[1:])
