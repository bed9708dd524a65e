"""The report of `python -m evaluators.memorisation`: makes the checks whose data is there, and writes the page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from config.report_schema import MemorisationConfig
from evaluators.drawing.style import encoded
from evaluators.reports.augmentation_probe import NotKnown, solve_with_copies
from evaluators.reports.memorisation_checks import (
    Finding,
    check_copies,
    check_duplicates,
    check_gap,
    check_steps,
    page,
    picture,
)
from trained_run import OwnDataError, Trained, open_solver, open_test_data, open_trained
from utils.files import write_atomically
from utils.output_folders import report_folder
from utils.run_records import read_metrics, read_predictions


def report(config: MemorisationConfig) -> None:
    """Write the report on the run named on the command line."""
    trained = open_trained(config.checkpoint)
    folder = report_folder(trained.located, config.out)
    run = trained.located.folder
    records = read_metrics(run)
    max_steps = trained.settings().halt_max_steps
    findings = [
        examine("Train against test", lambda: check_gap(records)),
        examine("Test steps against accuracy", lambda: check_steps(records, max_steps)),
        examine(
            "Duplicate predictions",
            lambda: check_duplicates(read_predictions(run), lambda: test_labels(trained, config)),
        ),
        examine("New copies of train puzzles", lambda: check_copies(solve_puzzles(trained, config))),
    ]
    text = page(trained.label, findings)
    write_atomically(folder / "memorisation.md", text.encode())
    print(text)
    written = [folder / "memorisation.md"]
    if any(finding.draw for finding in findings):
        written.append(folder / "memorisation.png")
        write_atomically(written[1], encoded(picture(findings), "png"))
    print(f"written to {' and '.join(map(str, written))}")


def examine(title: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; if it cannot be made, return a finding with the reason."""
    try:
        return check()
    except NotKnown as reason:
        return Finding(title, None, str(reason))


def test_labels(trained: Trained, config: MemorisationConfig) -> np.ndarray | None:
    """Labels (n, S) of the test data in evaluation order, -100 if ignored; None if the data is not available."""
    try:
        data = open_test_data(trained, config)
    except OwnDataError:
        return None
    rows = [batch["labels"][:number].numpy() for _, batch, number in data.batches()]
    return np.concatenate(rows).astype(np.int16)


def solve_puzzles(trained: Trained, config: MemorisationConfig) -> dict[str, tuple[int, int]]:
    """Solve train puzzles, their copies and test puzzles. Raises NotKnown if that is not possible."""
    if trained.config.values.get("augment") == "online":
        raise NotKnown("the run was trained with augment=online, so any copy may have been trained on")
    try:
        test = open_test_data(trained, config)
        train = trained.open_data(
            "train", config.data_paths, family=config.family, global_batch_size=1, shuffle=False
        )
    except OwnDataError as error:
        raise NotKnown(str(error)) from error
    for notice in dict.fromkeys(train.notices + test.notices):
        print(notice)
    solver = open_solver(trained, test, config.device)
    return solve_with_copies(
        solver,
        train,
        test,
        limit=config.limit,
        copies=config.copies,
        num_steps=config.steps or solver.trained_steps,
        seed=config.seed,
    )
