"""One panel of several runs, as a figure and as a CSV file of what is drawn."""

from __future__ import annotations

from pathlib import Path

from config.report_schema import PlotsConfig
from dataset.families import named_family
from dataset.format import IGNORE_LABEL_ID
from evaluators.drawing.overlay import MOST_CURVES, overlay
from evaluators.drawing.style import write_figure
from evaluators.reports.run_groups import ComparedRun, csv_of, grouped, read_run, summarised
from puzzle_dataset import PuzzleDataset
from utils.errors import UserError
from utils.files import make_folder, write_text


def compare_runs(config: PlotsConfig) -> None:
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
