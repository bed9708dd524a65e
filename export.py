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
from typing import Any

from safetensors.torch import save

from dataset.format import Metadata, read_identifiers, write_identifiers
from evaluators.calibrated import saved_calibration
from evaluators.calibration import Calibration, weights_sha256
from evaluators.exports.browser_page import PAGE_FILES
from evaluators.exports.onnx_step import ONNX_FILES, check_packages
from evaluators.exports.page_puzzles import PUZZLES_NAME
from evaluators.exports.step_export import StepExport
from evaluators.reports.evaluation_report import REPORT_NAME
from evaluators.reports.training_cost import COST_KEY, training_cost
from models.losses import ACTLossHead
from models.registry import architecture_class
from puzzle_dataset import IDENTIFIERS_KEY
from trained_run import HALTING_KEY, Trained, open_trained
from utils.collection import resume_collection
from utils.errors import UserError, report_user_errors
from utils.files import replacing, write_text
from utils.hub import check_repository_name, upload_files
from utils.output_folders import CALIBRATION_PREFIX, evaluation_folder
from utils.reading import parse_json, read_mapping
from utils.weights import EXPORTED_NAME
from utils.yaml_text import to_yaml

CARD_NAME = "README.md"
_FORMAT_KEYS = tuple(name for name in Metadata.__dataclass_fields__ if name != "extra")
FILES = (EXPORTED_NAME, "config.json", CARD_NAME, "identifiers.json")
PAPER = "https://arxiv.org/abs/2510.04871"


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
    card = model_card(trained, sizes, num_parameters, scores_of(trained), config.push_to_hub)
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


def scores_of(trained: Trained) -> dict[str, float]:
    """Read the evaluation that the run logged for these weights, by logged names; {} if there is none."""
    path = trained.located.folder / "metrics.jsonl"
    scores: dict[str, float] = {}
    if trained.step is None or not path.is_file():
        return scores
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = parse_json(line, str(path))
        except UserError:  # the last line of a run that was killed
            continue
        if isinstance(record, dict) and record.get("step") == trained.step:
            others = ("step", "time")
            scores |= {
                name: v for name, v in record.items() if name not in others and not name.startswith("train/")
            }
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def report_of(trained: Trained) -> dict[str, Any] | None:
    """Read the last report of `evaluate.py` for these weights, if it has an accuracy."""
    path = evaluation_folder(trained.located) / REPORT_NAME
    if not path.is_file():
        return None
    report = read_mapping(path)
    return report if report.get("exact_accuracy_interval_95") else None


def model_card(
    trained: Trained,
    sizes: dict[str, int],
    num_parameters: int,
    scores: dict[str, float],
    repository: str | None,
) -> str:
    """Render the export's README.md: model, training, scores and usage."""
    values, arch = trained.config.values, trained.settings()
    data = trained.metadata
    table = f"a puzzle table of {sizes['num_puzzle_identifiers']:,} rows"
    cost = training_cost(trained)
    known_rules = architecture_class(trained.arch["name"]).knows
    facts = {
        "built-in knowledge of the rules": known_rules or "none",
        "architecture": f"`{trained.arch['name']}`, {num_parameters:,} parameters, "
        + (table if arch.puzzle_emb_ndim else "no puzzle embeddings"),
        "recursion": f"H_cycles {arch.H_cycles}, L_cycles {arch.L_cycles}, {arch.halt_max_steps} supervision steps",
        "data": ", ".join(f"`{Path(path).name}`" for path in values["data_paths"]),
        "groups of training puzzles": data.get("total_groups"),
        "cells, vocabulary": f"{sizes['seq_len']}, {sizes['vocab_size']}",
        "steps of training": trained.step,
        "FLOP of training": f"{cost['flops']:.3g} (2 per multiply-add)" if "flops" in cost else None,
        "minutes of training": f"{cost['seconds'] / 60:.1f}" if "seconds" in cost else None,
        "batch size": values["global_batch_size"],
        "seed": values["seed"],
        "averaged weights (EMA)": f"yes, rate {values['ema_rate']}" if values["ema"] else "no",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    measured = "No evaluation at this step was logged."
    if scores:
        lines = "\n".join(f"| `{name}` | {value:.6g} |" for name, value in scores.items())
        measured = f"Measured during training at this step:\n\n| metric | value |\n|---|---|\n{lines}"
    if report := report_of(trained):
        low, high = report["exact_accuracy_interval_95"]
        share = report.get("rows_exact", report["rows_solved"]) / report["rows_with_labels"]
        by_rules = ""
        if report.get("solved_by") == "rules":
            low_solved, high_solved = report["solved_interval_95"]
            by_rules = (
                f"solved by the rules {report['rows_solved'] / report['rows']:.2%} (95% interval "
                f"{low_solved:.2%} to {high_solved:.2%}), "
            )
        measured += (
            f"\n\n`evaluate.py`: {by_rules}exact accuracy {share:.2%} (95% interval {low:.2%} to {high:.2%}) with "
            f"{report['halt_max_steps']} steps on {report['rows']:,} of {report['rows_of_the_data']:,} rows of "
            f"{', '.join(f'`{Path(path).name}`' for path in report['data'])}."
        )
    if sizes["num_puzzle_identifiers"] > 1 and arch.puzzle_emb_ndim:
        known = (
            "its hash is in `config.json`"
            if trained.metadata.get(IDENTIFIERS_KEY)
            else "keep it with the weights"
        )
        measured += (
            "\n\nThe puzzle table belongs to the `identifiers.json` of the training data "
            f"({known}): on data with other identifiers the answers are meaningless."
        )
    front = {"library_name": "tiny-recursion", "tags": ["recursive-reasoning", trained.arch["name"]]}
    return f"""---
{to_yaml(front).strip()}
---

# {repository or values["run_name"] or trained.arch["name"]}

A recursive reasoning model ([arXiv 2510.04871]({PAPER})).

| | |
|---|---|
{rows}

{measured}

## Use

In a clone of the training repository:

```python
import models

model = models.load_pretrained("{repository or "PATH_OF_THIS_FOLDER"}")
```

Run `python evaluate.py checkpoint={f"hf://{repository}" if repository else "PATH_OF_THIS_FOLDER"}` to reproduce
the evaluation.

{built_by(data)}## Recipe

```yaml
{to_yaml(recipe(values)).strip()}
```
"""


def built_by(metadata: dict[str, Any]) -> str:
    """Render a section with the data builder's own metadata (family, options, seed); "" if there is none."""
    known = (*_FORMAT_KEYS, IDENTIFIERS_KEY, COST_KEY)
    facts = {key: value for key, value in metadata.items() if key not in known}
    return f"## Data\n\n```yaml\n{to_yaml(facts).strip()}\n```\n\n" if facts else ""


def recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Return the config keys that affect a run's result, without names, paths and machine settings."""
    machine = ("device", "compile", "log_interval", "resume", "keep_last", "project_name", "run_name")
    paths = (
        "checkpoint_path",
        "eval_save_outputs",
        "checkpoint_interval_steps",
        "checkpoint_interval_minutes",
    )
    return {
        key: value for key, value in values.items() if key not in (*machine, *paths) and value is not None
    }


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
