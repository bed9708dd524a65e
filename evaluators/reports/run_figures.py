"""The figures of one run: training curves, accuracy by supervision step, accuracy by difficulty."""

from __future__ import annotations

from config.report_schema import ReportConfig
from evaluators.drawing import curves
from evaluators.drawing.style import write_figure
from evaluators.measure import measure
from evaluators.reports.difficulty import ByDifficulty
from evaluators.strategies.compute_curve import tables
from evaluators.strategies.test_time import Plain
from trained_run import Trained, open_solver, open_test_data, open_trained
from utils.distributed import World
from utils.errors import UserError
from utils.output_folders import report_folder
from utils.run_records import read_metrics


def draw_run(config: ReportConfig) -> None:
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
