"""Figures of a run: training curves, accuracy by supervision step, accuracy by difficulty.

Each function draws given numbers and raises `NothingToDraw`, with the reason, if there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from evaluators.drawing.style import (
    GREY,
    TEST,
    THIRD,
    TRAIN,
    NothingToDraw,
    as_count,
    as_log,
    as_share,
    new_figure,
    styled,
)
from evaluators.score import wilson_interval
from evaluators.strategies.compute_curve import SCORE_WORDS, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMOOTHED = 120  # number of points above which a training curve gets a running mean


@styled
def training_curves(records: Sequence[Mapping[str, float]], global_batch_size: int) -> Figure:
    """Plot loss, accuracies, supervision steps, learning rate and throughput over training steps."""
    train = [record for record in records if any(name.startswith("train/") for name in record)]
    if not records:
        raise NothingToDraw("there is no metrics.jsonl, or it is empty")
    figure, axes = new_figure(2, 3, (13, 6.6))
    score = recorded_score(records)
    panels = (
        ("loss", "lm_loss", "loss per puzzle (mean over its cells)", "log"),
        ("puzzles solved", score, SCORE_WORDS[score], "share"),
        ("cells right", "accuracy", "cell accuracy", "share"),
        ("steps until halting", "steps", "mean supervision steps", "linear"),
    )
    for ax, (title, name, label, scale) in zip(axes.flat, panels, strict=False):
        _train_and_test(ax, records, name, scale)
        ax.set(title=title, ylabel=label)
    rate, speed = axes.flat[4:]
    rates = [(r["step"], r["train/lr"]) for r in train if "train/lr" in r]
    if rates:
        rate.plot(*zip(*rates, strict=True), color=TRAIN)
        rate.set_ylim(bottom=0)
    rate.set(title="learning rate", ylabel="learning rate")
    steps, puzzles = throughput(records, global_batch_size)
    if len(steps):
        speed.plot(steps, puzzles, ".", color=GREY, markersize=3)
        speed.axhline(float(np.median(puzzles)), color=TRAIN, label=f"median {np.median(puzzles):,.3g}")
        speed.set_ylim(0, 1.3 * float(np.quantile(puzzles, 0.95)))
        speed.legend(loc="lower right")
    speed.set(title="throughput", ylabel="training puzzles per second")
    for ax in axes.flat:
        ax.set_xlabel("training step")
        as_count(ax.xaxis)
        if not ax.has_data():
            ax.text(0.5, 0.5, "not in metrics.jsonl", transform=ax.transAxes, ha="center", color=GREY)
    return figure


def throughput(
    records: Sequence[Mapping[str, float]], global_batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return training steps and the puzzles per second before each; intervals with an evaluation are excluded."""
    found = [
        (
            after["step"],
            (after["step"] - before["step"]) * global_batch_size / (after["time"] - before["time"]),
        )
        for before, after in pairwise(records)
        if {"train/lr", "time"} <= before.keys() & after.keys()
        and after["time"] > before["time"]
        and after["step"] > before["step"]
    ]
    steps, puzzles = np.array(found, float).reshape(-1, 2).T
    return steps, puzzles


@styled
def accuracy_by_step(table: Sequence[Mapping[str, float]], num_rows: int, trained_steps: int) -> Figure:
    """Plot shares by supervision step; `table` is the curve "steps" of `evaluators.strategies.compute_curve`.

    `num_rows` is the number of puzzles behind the score, which is `score_of(table)`.
    """
    score = score_of(table)
    points = [row for row in table if row[score] is not None]
    if not points:
        raise NothingToDraw("no row of the test data has labels")
    figure, axes = new_figure(1, 1, (7, 4.4))
    (ax,) = axes.flat
    steps = [int(row["at"]) for row in points]
    shares = np.array([row[score] for row in points])
    low, high = np.array([wilson_interval(round(share * num_rows), num_rows) for share in shares]).T
    ax.fill_between(steps, low, high, color=TEST, alpha=0.15, linewidth=0)
    marker = "o" if len(steps) <= 32 else None
    by_rules = " by the rules" if score == "solved" else ""
    label = f"puzzles solved{by_rules}, 95% interval"
    ax.plot(steps, shares, color=TEST, marker=marker, markersize=4, label=label)
    lines = [("token_accuracy", "cells right", TRAIN), ("said_stop", "halting rule says stop", THIRD)]
    if by_rules:
        lines = [
            ("exact_accuracy", "equal to the label", GREY),
            ("token_accuracy", "cells as in the label", TRAIN),
            lines[1],
        ]
    for key, label, colour in lines:
        ax.plot(steps, [row[key] for row in points], color=colour, label=label)
    if max(steps) > trained_steps:
        ax.axvline(trained_steps, color=GREY, linewidth=1, linestyle="--")
        words = {"text": "steps in training", "rotation": 90, "ha": "right", "va": "center", "fontsize": 9}
        ax.annotate(xy=(trained_steps, 0.5), xycoords=("data", "axes fraction"), color=GREY, **words)
    ax.set(
        title=f"accuracy by supervision step, {num_rows:,} test puzzles",
        xlabel="supervision step",
        ylabel="share",
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    as_share(ax)
    ax.legend()
    return figure


@styled
def accuracy_by_difficulty(
    classes: Mapping[str, tuple[int, int]], unit: str, *, by_rules: bool = False
) -> Figure:
    """Plot the share solved by difficulty class: name -> (puzzles, solved), from easy to hard.

    `by_rules`: solved means right by the rules, not equal to the label.
    """
    classes = {name: counts for name, counts in classes.items() if counts[0]}
    if not classes:
        raise NothingToDraw("the dataset records no difficulty")
    figure, axes = new_figure(1, 1, (7, 4.4))
    (ax,) = axes.flat
    shares = np.array([solved / number for number, solved in classes.values()])
    intervals = np.array([wilson_interval(solved, number) for number, solved in classes.values()])
    errors = np.abs(intervals.T - shares)
    x = np.arange(len(classes))
    ax.errorbar(x, shares, errors, fmt="o", color=TEST, markersize=7, elinewidth=1.6, capsize=5)
    for at, (number, _), top in zip(x, classes.values(), intervals[:, 1], strict=True):
        ax.annotate(f"n = {number:,}", (at, top), (0, 5), textcoords="offset points", ha="center", fontsize=9)
    ax.set_xticks(x, classes)
    ax.grid(False, axis="x")
    ax.set(
        title="puzzles solved by difficulty, with 95% intervals",
        xlabel=f"difficulty: {unit}",
        ylabel=SCORE_WORDS["solved" if by_rules else "exact_accuracy"],
        xlim=(-0.6, max(len(classes) - 0.4, 1.6)),
    )
    as_share(ax, top=1.09)
    return figure


def recorded_score(records: Sequence[Mapping[str, float]]) -> str:
    """Return the metric for the share solved: `solved` if it was logged, otherwise `exact_accuracy`."""
    counted = any("test/solved" in record or "train/solved" in record for record in records)
    return "solved" if counted else "exact_accuracy"


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean over `width` values, over fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    indices = np.arange(len(values))
    start, end = np.maximum(indices - width // 2, 0), np.minimum(indices + width // 2 + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _train_and_test(ax: Axes, records: Sequence[Mapping[str, float]], name: str, scale: str) -> None:
    for split, colour in (("train", TRAIN), ("test", TEST)):
        key = f"{split}/{name}"
        points = [(record["step"], record[key]) for record in records if key in record]
        if not points:
            continue
        steps, values = np.array(points, float).T
        if split == "train" and len(values) > _SMOOTHED:
            ax.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            ax.plot(
                steps, running_mean(values, len(values) // 40), color=colour, label="train (running mean)"
            )
        else:
            marker = "o" if split == "test" and len(values) <= 60 else None
            ax.plot(steps, values, color=colour, marker=marker, markersize=3.5, label=split)
    if scale == "log" and ax.has_data():
        as_log(ax.yaxis)
    elif scale == "share":
        as_share(ax)
    elif ax.has_data():
        ax.set_ylim(bottom=0)
    if ax.has_data():
        ax.legend()
