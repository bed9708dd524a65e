"""The model card (README.md) of exported weights: model, training, scores and usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.format import Metadata
from evaluators.reports.evaluation_report import REPORT_NAME
from evaluators.reports.training_cost import COST_KEY, training_cost
from models.registry import architecture_class
from puzzle_dataset import IDENTIFIERS_KEY
from trained_run import Trained
from utils.errors import UserError
from utils.output_folders import evaluation_folder
from utils.reading import parse_json, read_mapping
from utils.yaml_text import to_yaml

_FORMAT_KEYS = tuple(name for name in Metadata.__dataclass_fields__ if name != "extra")
PAPER = "https://arxiv.org/abs/2510.04871"


def model_card(
    trained: Trained,
    sizes: dict[str, int],
    num_parameters: int,
    repository: str | None,
) -> str:
    """Render the export's README.md: model, training, scores and usage."""
    values, arch, scores = trained.config.values, trained.settings(), scores_of(trained)
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
        "distinct training puzzles, neighbours among them": data.get("distinct_puzzles"),
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
    arguments = ""
    if report := report_of(trained):
        arguments = "".join(f" {argument}" for argument in arguments_of(report, arch.act_inference))
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
            f"\n\n`evaluate.py{arguments}`: {by_rules}exact accuracy {share:.2%} "
            f"(95% interval {low:.2%} to {high:.2%}) with {report['halt_max_steps']} steps "
            f"on {report['rows']:,} of {report['rows_of_the_data']:,} rows of "
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
    place = f"hf://{repository}" if repository else "PATH_OF_THIS_FOLDER"
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

Run `python evaluate.py checkpoint={place}{arguments}` to reproduce the evaluation.

{built_by(data)}## Recipe

```yaml
{to_yaml(recipe(values)).strip()}
```
"""


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


def arguments_of(report: dict[str, Any], act_inference: bool) -> list[str]:
    """Return the arguments of `evaluate.py` that differ from a plain evaluation of all rows.

    `act_inference`: the model stops by its own rule unless `halt` is given.
    """
    chosen = {key: report[key] for key in ("strategy", "halt_max_steps")} | report["options"]
    freezes = chosen.pop("freezes", act_inference)
    plain = {
        "strategy": "plain",
        "halt_max_steps": report["halt_max_steps_of_training"],
        "halt": False if freezes or not act_inference else None,
        "checker": False,
    }
    if report["strategy"] == "ensemble":
        chosen["checkpoints"] = report["checkpoints"]
    if report["rows"] < report["rows_of_the_data"]:
        chosen["limit"] = report["rows"]
    return [
        f"{name}=[{','.join(map(str, value))}]" if isinstance(value, list) else f"{name}={value}"
        for name, value in chosen.items()
        if not isinstance(value, dict) and value != plain.get(name)  # a dict describes a rung of the ladder
    ]


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
