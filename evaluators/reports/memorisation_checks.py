"""The checks of the memorisation report, computed from given numbers, and the page and picture that show them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataset.format import IGNORE_LABEL_ID
from evaluators.drawing.curves import recorded_score
from evaluators.drawing.style import GREY, TEST, THIRD, TRAIN, as_share, new_figure, styled
from evaluators.reports.augmentation_probe import COPIES, ORIGINALS, NotKnown
from evaluators.reports.augmentation_probe import TEST as TEST_PUZZLES
from evaluators.score import wilson_interval
from evaluators.strategies.compute_curve import SCORE_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, float]]

# Thresholds of a sign of memorisation; shares unless noted otherwise.
GAP = 0.2  # train above test
FALL = 0.05  # test accuracy below its best
FEW_STEPS = 1.5  # mean supervision steps
RISE = 0.05  # rise of test accuracy after steps fell below FEW_STEPS
SOLVED = 0.9  # test accuracy above which few steps just mean that the puzzles are solved
DISTINCT = 0.9  # distinct predictions per distinct answer
LEARNED = 0.05  # train accuracy below which nothing has been learned or memorised


@dataclass(frozen=True)
class Finding:
    """The result of a check: whether it is a sign of memorisation (None: unknown), text and figure."""

    title: str
    sign: bool | None
    words: str
    rule: str = ""  # what would be a sign
    draw: Callable[[Axes], None] | None = None

    @property
    def outcome(self) -> str:
        return {True: "a sign of memorisation", False: "no sign", None: "not known"}[self.sign]


# ------------------------------------------------------------------------------ train against test


def check_gap(records: Records) -> Finding:
    """Compare what is solved in training and in evaluation over time."""
    score = recorded_score(records)
    test, train = (_series(records, f"{split}/{score}") for split in ("test", "train"))
    for split, found in (("test", test), ("train", train)):
        if not found:
            raise NotKnown(f"metrics.jsonl has no {split}/{score}")
    step, now = test[-1]
    before = test[-2][0] if len(test) > 1 else 0
    recent = [share for at, share in train if before < at <= step] or [train[-1][1]]
    seen = float(np.mean(recent))
    best_step, best = max(test, key=lambda point: point[1])
    words = (
        f"Up to step {step:,} the model solved {seen:.1%} of the train examples it halted on since the previous "
        f"evaluation, and {now:.1%} of the test puzzles: a gap of {100 * (seen - now):+.1f} points."
    )
    fell = best - now > FALL
    if fell:
        words += f" Test accuracy has fallen from {best:.1%} at step {best_step:,}."
    rule = (
        f"a gap of more than {100 * GAP:.0f} points, or a fall of test accuracy by more than {100 * FALL:.0f}"
    )
    if max(seen, best) < LEARNED:
        raise NotKnown(f"{words} Nothing has been learned or memorised yet.")

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*train, strict=True), color=TRAIN, alpha=0.8, label="train")
        axes.plot(*zip(*test, strict=True), color=TEST, marker="o", markersize=4, label="test")
        axes.set(xlabel="training step", ylabel=SCORE_WORDS[score])
        as_share(axes)
        axes.legend()

    return Finding("Train against test", seen - now > GAP or fell, words, rule, draw)


# ------------------------------------------------------------------------------ steps against accuracy


def check_steps(records: Records, max_steps: int) -> Finding:
    """Check whether the model halts early before its answers are right."""
    score = recorded_score(records)
    points = [
        (record["step"], record["test/steps"], record[f"test/{score}"])
        for record in records
        if {"test/steps", f"test/{score}"} <= record.keys()
    ]
    if not points:
        raise NotKnown("metrics.jsonl has no test/steps")
    if max_steps == 1:
        raise NotKnown("the model was trained with one supervision step, so halting cannot become earlier")
    step, steps, accuracy = points[-1]
    words = (
        f"At step {step:,} the halting rule says stop after {steps:.2f} of {max_steps} supervision steps on average, "
        f"and {accuracy:.1%} of the test puzzles are solved."
    )
    early = next((point for point in points if point[1] < FEW_STEPS), None)
    sign = False
    if early is not None:
        rose = max(point[2] for point in points if point[0] >= early[0]) - early[2]
        sign = early[2] < SOLVED and rose < RISE
        words += (
            f" The steps first fell below {FEW_STEPS:g} at step {early[0]:,}, with {early[2]:.1%} solved; accuracy "
            f"then rose by {100 * rose:.1f} points."
        )
    rule = (
        f"mean steps below {FEW_STEPS:g} with less than {SOLVED:.0%} solved, and accuracy that does not rise by "
        f"{100 * RISE:.0f} points afterwards"
    )

    def draw(axes: Axes) -> None:
        _, across, up = zip(*points, strict=True)
        axes.plot(across, up, color=THIRD, marker="o", markersize=4)
        for index, name in ((0, f"step {points[0][0]:,}"), (-1, f"step {step:,}")):
            if index == 0 or len(points) > 1:
                axes.annotate(
                    name, (across[index], up[index]), (6, 6), textcoords="offset points", fontsize=9
                )
        axes.set(xlabel="mean supervision steps until halting (test)", ylabel=f"{SCORE_WORDS[score]} (test)")
        axes.set_xlim(0, max_steps * 1.25)
        as_share(axes, top=1.1)

    return Finding("Test steps against accuracy", sign, words, rule, draw)


# ------------------------------------------------------------------------------ predictions that repeat


def check_duplicates(
    found: Iterable[tuple[int, list[np.ndarray]]], read_labels: Callable[[], np.ndarray | None]
) -> Finding:
    """Compare the number of distinct saved predictions with the number of distinct answers.

    `found` yields (step, (n, S) predictions of each rank). `read_labels` returns (n, S), or None if the test data is
    not available; it is called only if there are predictions.
    """
    labels, counts = None, {}
    for step, preds in found:
        labels = read_labels() if not counts else labels
        if labels is not None and len(preds) == 1 and preds[0].shape == labels.shape:
            # Unlabelled cells are not trained, so their predictions are arbitrary.
            preds = [np.where(labels == IGNORE_LABEL_ID, 0, preds[0])]
        rows = np.concatenate(preds)
        counts[step] = len(rows), num_different(rows)
    if not counts:
        raise NotKnown("no step_N_all_preds.R with preds is saved (eval_save_outputs=[preds] saves them)")
    step = max(counts)
    rows, different = counts[step]
    words = f"Of the {rows:,} predictions saved at step {step:,}, {different:,} are distinct"
    wanted = None if labels is None or len(labels) != rows else num_different(labels)
    if wanted is None:
        expected = rows
        words += "; the number of distinct answers is unknown, because the test data is not available."
    else:
        expected = wanted
        words += f"; the test data has {wanted:,} distinct answers."
    rule = f"fewer than {DISTINCT:.0%} as many distinct predictions as distinct answers"

    def draw(axes: Axes) -> None:
        steps = sorted(counts)
        axes.plot(
            steps, [counts[at][1] for at in steps], color=TEST, marker="o", markersize=4, label="predictions"
        )
        if wanted is not None:
            axes.axhline(wanted, color=GREY, linestyle="--", label="answers")
        axes.set(xlabel="training step", ylabel="distinct grids (test)")
        axes.set_ylim(0, 1.15 * max(expected, *(n for _, n in counts.values())))
        axes.legend(loc="lower right")

    sign = different < DISTINCT * expected
    if wanted is None and sign:
        raise NotKnown(words)  # different test puzzles may share an answer
    return Finding("Duplicate predictions", sign, words, rule, draw)


def num_different(rows: np.ndarray) -> int:
    """Number of distinct rows of an (n, S) array."""
    return len(np.unique(np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))))


# ------------------------------------------------------------------------------ new copies


def check_copies(solved: Mapping[str, tuple[int, int]]) -> Finding:
    """Check whether new symmetric copies of train puzzles are solved as often as the originals."""
    if not solved[COPIES][0]:
        raise NotKnown("every symmetric copy that was drawn is itself a train example")
    shares = {name: right / number for name, (number, right) in solved.items()}
    intervals = {name: wilson_interval(right, number) for name, (number, right) in solved.items()}
    words = "Solved by the rules: " + "; ".join(
        f"{right:,} of {number:,} {name} ({shares[name]:.1%}, 95% interval {low:.1%} to {high:.1%})"
        for (name, (number, right)), (low, high) in zip(solved.items(), intervals.values(), strict=True)
    )
    words += "."
    if shares[ORIGINALS] < LEARNED:
        raise NotKnown(f"{words} Nothing has been learned or memorised yet.")
    rule = "fewer new copies solved than originals, by more than the two 95% intervals allow"

    def draw(axes: Axes) -> None:
        names = [ORIGINALS, COPIES, TEST_PUZZLES]
        errors = np.abs(np.array([intervals[name] for name in names]).T - [shares[name] for name in names])
        for x, (name, colour) in enumerate(zip(names, (TRAIN, THIRD, TEST), strict=True)):
            axes.errorbar(
                x, shares[name], errors[:, x : x + 1], fmt="o", color=colour, markersize=7, capsize=5
            )
        axes.set_xticks(range(3), [name.replace(" of", "\nof") for name in names])
        axes.set(ylabel="solved, 95% intervals", xlim=(-0.6, 2.6))
        as_share(axes)

    return Finding(
        "New copies of train puzzles", intervals[COPIES][1] < intervals[ORIGINALS][0], words, rule, draw
    )


# ------------------------------------------------------------------------------ the page


def verdict(findings: Sequence[Finding]) -> str:
    """Summarise all checks in one sentence."""
    known = [finding for finding in findings if finding.sign is not None]
    signs = [finding.title.lower() for finding in known if finding.sign]
    missing = len(findings) - len(known)
    unavailable = f" ({missing} could not be made)" if missing else ""
    if not known:
        return "No conclusion: none of the checks could be made."
    if signs:
        return (
            f"Signs of memorisation in {len(signs)} of {len(known)} checks{unavailable}: {', '.join(signs)}."
        )
    return f"No sign of memorisation in {len(known)} check{'s' * (len(known) > 1)}{unavailable}."


def page(label: str, findings: Sequence[Finding]) -> str:
    """Format the report as Markdown."""
    lines = ["# Memorisation report", "", f"Checkpoint: `{label}`", "", f"**{verdict(findings)}**", ""]
    if any(finding.draw for finding in findings):
        lines += ["![the checks as figures](memorisation.png)", ""]
    for number, finding in enumerate(findings, start=1):
        lines += [f"## {number}. {finding.title}: {finding.outcome}", "", finding.words, ""]
        if finding.rule:
            lines += [f"A sign would be: {finding.rule}.", ""]
    return "\n".join(lines)


@styled
def picture(findings: Sequence[Finding]) -> Figure:
    """Draw the checks in four panels below the verdict."""
    figure, axes = new_figure(2, 2, (11, 7.6))
    figure.suptitle(textwrap.fill(verdict(findings), 100), fontsize=12, x=0.01, ha="left")
    for axis, finding in zip(axes.flat, findings, strict=True):
        axis.set_title(f"{finding.title}: {finding.outcome}")
        if finding.draw:
            finding.draw(axis)
        else:
            axis.set_axis_off()
            axis.text(
                0, 0.9, textwrap.fill(finding.words, 60), va="top", transform=axis.transAxes, color=GREY
            )
    return figure


def _series(records: Records, name: str) -> list[tuple[int, float]]:
    return [(int(record["step"]), record[name]) for record in records if name in record]
