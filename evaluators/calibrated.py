"""The calibrated stop rule of a trained model: read from its files, or chosen and saved there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from dataset.families.base import Family
from dataset.format import Split, open_split
from evaluators.calibration import (
    Calibration,
    CalibrationRows,
    calibrate,
    generated_rows,
    rows_of_splits,
    weights_sha256,
)
from evaluators.inference import Solver
from evaluators.stop_rule import OWN_RULE, StopRule
from trained_run import Trained, calibration_path
from utils.distributed import World
from utils.errors import UserError
from utils.files import write_text
from utils.reading import read_json

OWN_RULE_IN_WORDS = (
    "rows stop by the model's own halting rule, as in its evaluations during training (arch.act_inference)"
)


def saved_calibration(trained: Trained) -> tuple[Calibration, str] | None:
    """Read the saved stop rule and the name of its file; None if there is none. It may be stale.

    Raises UserError for a damaged file.
    """
    path = calibration_path(trained)
    if path.is_file():
        values, where = read_json(path), str(path)
    elif trained.halting is not None:
        values, where = trained.halting, f"{trained.located.config}: halting"
    else:
        return None
    try:
        return Calibration.model_validate(values), where
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            f"{where}: holds no calibrated stop rule ({key}: {first['msg']}); evaluate.py halt=auto writes it again "
            "once it is deleted"
        ) from None


def fresh_calibration(
    trained: Trained, solver: Solver, num_steps: int, notice: Callable[[str], None]
) -> Calibration | None:
    """Return the saved stop rule if it is of these weights, steps and dtype; says why if it is not."""
    saved = saved_calibration(trained)
    if saved is None:
        return None
    calibration, where = saved
    head = solver.head
    reason = calibration.stale_because(
        weights_sha256(head.state_dict()), num_steps, head.architecture.config.forward_dtype
    )
    if reason is None:
        return calibration
    notice(f"{where}: this stop rule is not used, because {reason}")
    return None


def calibrated(
    trained: Trained,
    solver: Solver,
    num_steps: int,
    world: World,
    *,
    family: Family,
    batch_size: int,
    sizes: Sequence[int] = (),
    calibrate_on: Sequence[str] | None = None,
    test_splits: Sequence[Split] = (),
) -> Calibration:
    """Return the saved stop rule if it is fresh and no other data is named; otherwise choose one, and save it.

    `calibrate_on`: splits to choose it on, DIR/SPLIT; None: what the family generates. Rows of the test splits, and
    of the train splits if they are at hand, are left out.
    """
    if calibrate_on is None and (saved := fresh_calibration(trained, solver, num_steps, world.print)):
        return saved
    model_sizes = {"seq_len": family.metadata.seq_len, "vocab_size": family.metadata.vocab_size}
    if calibrate_on is not None:
        rows = rows_of_splits(calibrate_on, model_sizes)
    elif solver.knows_identifiers and family.metadata.num_puzzle_identifiers > 1:
        raise UserError(
            "halt=auto: the model knows puzzles by identifier, and generated ones have none: name others with known "
            "answers that are neither trained on nor tested, calibrate_on=[DIR/train]"
        )
    else:
        rows = generated_rows(family, world)
    rows = _unseen(rows, trained, test_splits)
    found = calibrate(solver, rows, num_steps, world, family=family, batch_size=batch_size, sizes=sizes)
    if world.is_main:
        _save(found, calibration_path(trained), world.print)
    return found


def _unseen(rows: CalibrationRows, trained: Trained, test_splits: Sequence[Split]) -> CalibrationRows:
    values = trained.config.values
    splits = list(test_splits)
    for key, name in (("data_paths", "train"), ("data_paths", "test"), ("data_paths_test", "test")):
        splits += [
            open_split(path, name) for path in values[key] if (Path(path) / name / "dataset.json").exists()
        ]
    return rows.without(split for split in splits if split.metadata.seq_len == rows.questions.shape[1])


def _save(calibration: Calibration, path: Path, notice: Callable[[str], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(calibration.model_dump(), indent=2) + "\n")
    except OSError as error:
        notice(f"{path}: cannot be written ({error.strerror or error}), so this stop rule is used once only")


def stop_rule_of(calibration: Calibration | None) -> StopRule | None:
    """The rule of a calibration; without one, the model's own."""
    return OWN_RULE if calibration is None else calibration.rule
