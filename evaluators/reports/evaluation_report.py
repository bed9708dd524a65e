"""The report of an evaluation: its files and its console summary."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from evaluators.reports.training_cost import cost_in_words
from evaluators.strategies.compute_curve import as_text
from utils.errors import UserError
from utils.files import write_text
from utils.loggers import METRICS_FILE

REPORT_NAME = "report.json"


def make_output_folder(folder: Path) -> None:
    """Create the folder of the report. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be created ({error.strerror or error}); choose another folder with out="
        ) from error


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and append a line to `reports.jsonl` and, numbers only, to `metrics.jsonl`."""
    figures = {"step": report["step"] or 0, "time": round(time.time(), 3), "strategy": report["strategy"]}
    figures |= {key: report[key] for key in ("rows", "network_applications_per_puzzle", "seconds")}
    lines = {"reports.jsonl": report, METRICS_FILE: figures | report["metrics"]}
    try:
        write_text(folder / REPORT_NAME, json.dumps(report, indent=2) + "\n")
        for name, record in lines.items():
            with open(folder / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder with out="
        ) from error


def summary(report: dict[str, Any], folder: Path) -> str:
    """Format the report for the console."""
    lines = [line for curve, table in report["curves"].items() for line in as_text(curve, table)]
    for rung, counts in report.get("rungs", {}).items():
        lines.append(f"rung {rung}: " + ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in counts.items()))
    if halting := report.get("halting"):
        known = {name.replace("_", " "): value for name, value in halting.items() if value is not None}
        fewer = known.pop("fewer network applications")
        words = "as many" if fewer == 1 else f"{fewer:.4g} times fewer"
        figures = [f"{name} {value:.4g}" for name, value in known.items()]
        lines.append(", ".join([*figures, f"{words} network applications"]))
    lines += [f"{name}: {value:.4g}" for name, value in report["metrics"].items()]
    rows = f"{report['rows']:,} of {report['rows_of_the_data']:,} rows"
    if report["rows"] < report["rows_of_the_data"]:
        rows = f"the first {rows}"
    checker = " with the checker, which knows the rules" if report["answers_use_the_rules"] else ""
    shares = {"exact accuracy": (report["rows_exact"], "rows_with_labels", "exact_accuracy_interval_95")}
    if report["solved_by"] == "rules":
        shares = {"solved by the rules": (report["rows_solved"], "rows", "solved_interval_95")} | shares
    for title, (number, of, interval) in shares.items():
        if report[interval]:
            low, high = report[interval]
            share = f"{number / report[of]:.2%}, 95% interval {low:.2%} to {high:.2%}"
            lines.append(f"{title}{checker} {share}, on {rows}")
        else:
            lines.append(f"no row of {rows} has a label, so there is no {title}")
    lines += report["remarks"]
    if cost := cost_in_words(report["training"]):
        lines.append(f"trained: {cost}")
    if report["knows_of_the_rules"]:
        lines.append(f"built-in knowledge of the rules: {report['knows_of_the_rules']}")
    lines.append(
        f"strategy {report['strategy']}, {report['halt_max_steps']} steps, "
        f"{report['network_applications_per_puzzle']:,.1f} network applications and "
        f"{report['flops_per_puzzle']:.2g} FLOP per puzzle, "
        f"{report['seconds']:.1f} s; {folder / REPORT_NAME}"
    )
    return "\n".join(lines)
