"""Output folders of commands: next to the given weights, or in the working directory for downloaded ones."""

from __future__ import annotations

from pathlib import Path

from utils.files import make_folder
from utils.hub import HUB_PREFIX
from utils.weights import Located

CALIBRATION_PREFIX = "halting"  # of the file of a calibrated stop rule


def evaluation_folder(located: Located) -> Path:
    """Return the output folder of evaluate.py: next to the weights, or in the working directory for downloaded ones."""
    if located.label.startswith(HUB_PREFIX):
        return Path("evaluations", located.label.removeprefix(HUB_PREFIX).replace("/", "--"))
    return located.folder / f"evaluation_{located.weights.name}"


def calibration_path(located: Located) -> Path:
    """Return the file of the calibrated stop rule: next to the weights, or in the working directory if downloaded."""
    if located.label.startswith(HUB_PREFIX):
        return evaluation_folder(located) / f"{CALIBRATION_PREFIX}.json"
    return located.folder / f"{CALIBRATION_PREFIX}_{located.weights.name}.json"


def report_folder(located: Located, out: str | None, name: str = "") -> Path:
    """Create the output folder: `out`, else `name` in the run's folder, for hub weights in `reports/`."""
    if out is not None:
        folder = Path(out)
    elif located.label.startswith(HUB_PREFIX):
        folder = Path("reports", located.label.removeprefix(HUB_PREFIX).replace("/", "--"), name)
    else:
        folder = located.folder / name
    make_folder(folder)
    return folder
