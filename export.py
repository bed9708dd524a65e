"""Export trained weights: `python export.py checkpoint=RUN_FOLDER_OR_FILE [out=DIR] [onnx=DIR] [page=DIR]`.

- `out`: model.safetensors, config.json and a model card, which `models.load_pretrained(DIR_OR_REPOSITORY)` loads;
  `push_to_hub=OWNER/NAME` uploads them.
- `onnx`: one supervision step as an ONNX file, compared with PyTorch.
- `page`: a web page that solves puzzles in the browser, without a server.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from pathlib import Path

from pydantic import Field, model_validator

from config.schema import FilePath
from config.solve_schema import CheckpointConfig
from utils.command_line.arguments import Command, check_arguments, read_command


class ExportConfig(CheckpointConfig):
    """Options of `export.py`."""

    out: FilePath | None = None
    """Folder for safetensors, config and model card; an earlier export in it is replaced."""
    onnx: FilePath | None = None
    """Folder for one supervision step as an ONNX file; needs requirements-onnx.txt."""
    page: FilePath | None = None
    """Folder for a web page that solves puzzles in the browser, without a server; needs requirements-onnx.txt."""
    step: int | None = Field(default=None, ge=0)
    """Training step of the weights, if checkpoint is a run's folder; null: the newest."""
    seq_len: int | None = Field(default=None, gt=0)
    """Cells of a puzzle, needed for a published checkpoint that does not record it."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face hub to upload `out` to, as OWNER/NAME."""
    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Datasets to take the page's sample puzzles from; null: puzzles.csv next to the weights, otherwise the run's
    own test data, otherwise generated puzzles.
    """
    runtime: FilePath | None = None
    """Tarball of the npm package onnxruntime-web for the page; null: downloaded once and cached."""

    @model_validator(mode="after")
    def check_folders(self):
        folders = [folder for folder in (self.out, self.onnx, self.page) if folder is not None]
        if not folders:
            raise ValueError(
                "nothing to write: give out=DIR (safetensors), onnx=DIR (ONNX) or page=DIR (a web page)"
            )
        if len({Path(folder).resolve() for folder in folders}) < len(folders):
            raise ValueError("out=, onnx= and page= must be different folders")
        for key, of, value in (
            ("push_to_hub", "out", self.push_to_hub),
            ("data_paths_test", "page", self.data_paths_test),
            ("runtime", "page", self.runtime),
        ):
            if value is not None and getattr(self, of) is None:
                raise ValueError(f"{key}= belongs to {of}=DIR")
        return self


COMMAND = Command(
    "export.py", "Export trained weights, to load, for other programs, or as a web page.", ExportConfig
)

if __name__ == "__main__":  # before the slow import of torch below
    check_arguments(COMMAND)

import json
import sys

from safetensors.torch import save

from dataset.format import read_identifiers, write_identifiers
from evaluators.calibrated import saved_calibration
from evaluators.calibration import Calibration, weights_sha256
from evaluators.exports.browser_page import PAGE_FILES
from evaluators.exports.model_card import model_card
from evaluators.exports.onnx_step import ONNX_FILES, check_packages
from evaluators.exports.step_export import StepExport
from evaluators.reports.training_cost import COST_KEY, training_cost
from evaluators.sample_puzzles import PUZZLES_NAME
from models.losses import ACTLossHead
from trained_run import HALTING_KEY, Trained, open_trained
from utils.collection import resume_collection
from utils.errors import UserError, report_user_errors
from utils.files import replacing, write_text
from utils.hub import check_repository_name, upload_files
from utils.output_folders import CALIBRATION_PREFIX
from utils.weights import EXPORTED_NAME

CARD_NAME = "README.md"
FILES = (EXPORTED_NAME, "config.json", CARD_NAME, "identifiers.json")


def export(config: ExportConfig) -> Path:
    """Write the export into the folder `out`, and upload it if configured; returns the folder.

    Raises UserError if the checkpoint cannot be loaded, or `out` contains other files.
    """
    assert config.out is not None, "checked by the caller"
    if config.push_to_hub is not None:
        check_repository_name(config.push_to_hub, "push_to_hub")
    folder = Path(config.out)
    check_output_folder(folder, "out", (*FILES, PUZZLES_NAME))
    trained = open_trained(config.checkpoint, step=config.step)
    sizes = trained.sizes(config.seq_len)
    model = trained.build(sizes=sizes)  # checks that the export can be loaded
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    identifiers = identifiers_of(trained) if sizes["num_puzzle_identifiers"] > 1 else None
    description = {
        "library_name": "tiny-recursion",
        "architecture": trained.arch["name"],
        "step": trained.step,
        "metadata": trained.metadata | sizes | {COST_KEY: training_cost(trained)},
        "recipe": trained.config.values,
    }
    if (calibration := calibration_of(trained, model)) is not None:
        description[HALTING_KEY] = calibration.model_dump()
    num_parameters = sum(p.numel() for p in model.parameters())
    card = model_card(trained, sizes, num_parameters, config.push_to_hub)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / EXPORTED_NAME) as temporary:
            # safetensors' own save_file makes files that only their owner can read.
            temporary.write_bytes(save(state, metadata={"format": "pt"}))
        write_text(folder / "config.json", json.dumps(description, indent=2) + "\n")
        write_text(folder / CARD_NAME, card)
        if identifiers is not None:
            write_identifiers(folder, identifiers)
    except OSError as error:
        raise UserError(
            f"out={folder}: cannot be written ({error.strerror or error}); give another folder"
        ) from error
    print(f"{trained.label} exported to {folder}: {num_parameters:,} parameters")
    if config.push_to_hub is not None:
        address = upload_files(folder, FILES, config.push_to_hub, f"Export of step {trained.step}")
        print(f"uploaded to {address}")
    return folder


def calibration_of(trained: Trained, model: ACTLossHead) -> Calibration | None:
    """Return the stop rule that `evaluate.py halt=auto` saved for these weights; None if there is none."""
    saved = saved_calibration(trained)
    if saved is None:
        return None
    calibration, where = saved
    if calibration.weights_sha256 == weights_sha256(model.state_dict()):
        return calibration
    print(f"{where}: this stop rule is not exported, because it was chosen for other weights")
    return None


def check_output_folder(folder: Path, key: str, own_names: tuple[str, ...]) -> None:
    """Raise UserError if the folder contains files other than an earlier export and its evaluations."""
    own = ("evaluation_", f"{CALIBRATION_PREFIX}_")  # of evaluate.py
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in own_names and not name.startswith(own)]
    if others:
        raise UserError(f"{key}={folder}: holds other files ({', '.join(others[:3])}): give a new folder")


def export_step(config: ExportConfig) -> None:
    """Write the ONNX file into the folder `onnx` and the web page into the folder `page`, as configured.

    Raises UserError as `StepExport` does, or if a folder contains other files.
    """
    check_packages()
    onnx, page = (Path(folder) if folder else None for folder in (config.onnx, config.page))
    for key, folder, names in (("onnx", onnx, ONNX_FILES), ("page", page, PAGE_FILES)):
        if folder is not None:
            check_output_folder(folder, key, names)
    runtime = Path(config.runtime) if config.runtime else None
    trained = open_trained(config.checkpoint, step=config.step)
    step = StepExport(
        trained, trained.sizes(config.seq_len), config.data_paths_test, for_page=page is not None
    )
    if onnx is not None:
        print(step.write_onnx(onnx))
    if page is not None:
        print(step.write_page(page, runtime))


def identifiers_of(trained: Trained) -> list[str] | None:
    """Read the names of the table's puzzle identifiers; None if they cannot be found."""
    folders = [trained.located.folder, *map(Path, trained.config.values["data_paths"])]
    names_files = ("identifiers.json", "identifiers.npz")  # lazy datasets have the .npz
    named = (path for path in folders if any((path / name).is_file() for name in names_files))
    return next(map(read_identifiers, named), None)


@report_user_errors
def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    if config.out is not None:
        export(config)
    if config.onnx is not None or config.page is not None:
        export_step(config)


if __name__ == "__main__":
    main(sys.argv[1:])
