"""Watch a trained model solve one puzzle step by step, or let it solve a file of puzzles.

python solve.py checkpoint=RUN                              a puzzle from the run's test data
python solve.py checkpoint=RUN puzzle="12.3..4. ..."        your own
python solve.py checkpoint=RUN puzzles=FILE out=ANSWERS     a list or table (.txt, .csv, .jsonl, - for a pipe)
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from config.solve_schema import SolveConfig
from utils.command_line.arguments import Command, check_arguments, read_command

COMMAND = Command("solve.py", __doc__.strip(), SolveConfig)


def check_files(config: SolveConfig) -> None:
    """Raise UserError if the file of puzzles is missing, or that of answers exists."""
    if config.puzzles is not None and config.out is not None:
        from evaluators.puzzle_files import check_files

        check_files(config.puzzles, config.out, config.resume)


if __name__ == "__main__":  # before the imports below, which include torch
    check_arguments(COMMAND, check_files)

import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.drawing.terminal import GridPrinter, wants_colour
from dataset.families import family_notices, family_of, named_family
from dataset.families.base import Family, Verdict
from dataset.families.grid_style import Kind
from dataset.format import IGNORE_LABEL_ID
from evaluators.drawing.pictures import Panel, animation, sheet
from evaluators.inference import Solver, Step
from evaluators.recording import Recording, write_recording
from evaluators.sample_puzzles import PUZZLES_NAME, filed_puzzles
from evaluators.solving_files import solve_file
from puzzle_dataset import PuzzleDataset
from trained_run import OwnDataError, Trained, open_trained, recorded_metadata
from utils.collection import resume_collection
from utils.device import resolve_device
from utils.errors import UserError, report_user_errors
from utils.files import make_folder, replacing


@dataclass(frozen=True)
class Puzzle:
    """One puzzle of S cells, and what is known about it."""

    question: np.ndarray  # (S,) tokens
    labels: np.ndarray | None  # (S,) tokens, -100 for ignored cells; None if the answer is unknown
    identifier: int
    name: str


def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    with named_family(config.family):
        if config.puzzles is None:
            run(config)
        elif not solve_file(config):
            sys.exit(1)


def run(config: SolveConfig) -> None:
    """Solve the puzzle given on the command line, printing and drawing each step."""
    for file in filter(None, (config.gif, config.png, config.trace)):
        make_folder(Path(file).parent)
    if config.gif or config.png:
        import PIL.Image  # noqa: F401  (if it is missing, say so before solving)
    device = resolve_device(config.device)
    trained = open_trained(config.checkpoint)
    samples = trained.located.folder / PUZZLES_NAME
    data = None if config.puzzle is not None else open_test_data(trained, config, samples)
    if data is None:
        sizes = trained.sizes(config.seq_len)
        metadata = recorded_metadata(trained.metadata, sizes)
        notices = family_notices([(trained.label, metadata)])
        family = family_of(metadata)
        blank = trained.metadata.get("blank_identifier_id", 0)
        if config.puzzle is not None:
            puzzle = Puzzle(family.read(config.puzzle), None, blank, "your puzzle")
        else:
            puzzle = take_sample(samples, family, blank, config)
    else:
        sizes = trained.sizes_for(data.model_sizes, [path for path, _ in data.splits], print)
        notices = data.notices
        family = family_of(data.metadata)
        puzzle = take(data, config)
    solver = Solver(trained.build(sizes=sizes, device=device, notice=print), device)
    steps = config.steps or solver.trained_steps
    trained_for = "" if steps == solver.trained_steps else f", trained with {solver.trained_steps}"
    print(
        f"{trained.label}: {type(solver.head.architecture).__name__} on {device}, {steps} steps{trained_for}"
    )
    for notice in notices:
        print(f"note: {notice}")
    if config.puzzle is not None and sizes["num_puzzle_identifiers"] > 1:
        print("note: the model uses puzzle identifiers and gets the blank one, which may reduce accuracy")
    printer = GridPrinter(
        family.grid_style,
        sys.stdout,
        colour=wants_colour(sys.stdout),
        width=shutil.get_terminal_size().columns,
    )
    panels: list[Panel] = []
    recording = Recording(solver.head) if config.trace else None
    with recording or nullcontext():
        print(watch(solver, family, puzzle, steps, printer, panels))
    write_pictures(family, panels, config)
    if recording:
        write_trace(Path(config.trace), recording, puzzle, panels)


def open_test_data(trained: Trained, config: SolveConfig, samples: Path) -> PuzzleDataset | None:
    """Open the test data; None if it is the run's own, is not on this machine, and the weights come with samples."""
    hint = ", or your own puzzle with puzzle="
    try:
        return trained.open_data(
            "test", config.data_paths_test, family=config.family, hint=hint, global_batch_size=1
        )
    except OwnDataError:
        if not samples.is_file():
            raise
        return None


def choose(config: SolveConfig, count: int, where: str) -> int:
    """Return the number of the puzzle chosen by `index` or `seed`. Raises UserError if `index` is too large."""
    if config.index is None:
        return int(np.random.default_rng(config.seed or 0).integers(count))
    if config.index >= count:
        raise UserError(f"index={config.index}: {where} has {count} test puzzles, 0 to {count - 1}")
    return config.index


def take_sample(samples: Path, family: Family, identifier: int, config: SolveConfig) -> Puzzle:
    """Return the chosen puzzle of the samples that come with the weights, by default the first."""
    puzzles = filed_puzzles(samples, family)
    if not puzzles:
        raise UserError(f"{samples}: has no puzzles; give your own with puzzle=")
    index = 0 if config.index is config.seed is None else choose(config, len(puzzles), str(samples))
    name = f"test puzzle {index} of {samples} (0 to {len(puzzles) - 1})"
    return Puzzle(puzzles[index].question, puzzles[index].label, identifier, name)


def take(data: PuzzleDataset, config: SolveConfig) -> Puzzle:
    """Return the chosen test puzzle; several datasets are numbered consecutively."""
    count, paths = data.num_batches(), ", ".join(path for path, _ in data.splits)
    index = choose(config, count, paths)
    _, batch, _ = next(data.batches(start=index))
    question, labels = batch["inputs"][0].numpy(), batch["labels"][0].numpy()
    return Puzzle(
        question,
        labels if (labels != IGNORE_LABEL_ID).any() else None,
        int(batch["puzzle_identifiers"][0]),
        f"test puzzle {index} of {paths} (0 to {count - 1})",
    )


def write_pictures(family: Family, panels: list[Panel], config: SolveConfig) -> None:
    """Write the pictures requested with `gif` and `png`."""
    for path, draw in ((config.gif, animation), (config.png, sheet)):
        if path is None:
            continue
        try:
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(draw(family, panels))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
        print(f"drawn to {path}")


def write_trace(path: Path, recording: Recording, puzzle: Puzzle, panels: list[Panel]) -> None:
    """Write the arrays requested with `trace`: those of the recording, the question, the answers, and the labels."""
    arrays = recording.arrays()
    named = {"question": puzzle.question, "answers": np.stack([panel.tokens for panel in panels[1:]])}
    if puzzle.labels is not None:
        named["labels"] = puzzle.labels
    write_recording(path, arrays | named)
    shapes = ", ".join(f"{name} {arrays[name].shape}" for name in ("latents", "logits"))
    print(f"recorded to {path}: {shapes}, {recording.attention_in_words()}")


def watch(
    solver: Solver,
    family: Family,
    puzzle: Puzzle,
    num_steps: int,
    printer: GridPrinter,
    panels: list[Panel],
) -> str:
    """Run the model, print the answer of each step and append it to `panels`; return the last line of the report."""
    question, labels = puzzle.question, puzzle.labels
    printer.say(puzzle.name)
    for remark in family.remarks(question):
        printer.say(f"warning: {remark}")
    printer.say(f"{printer.legend()}\n")
    printer.show(["puzzle"], family.counted(question))
    panels.append(Panel(0, family.counted(question)))

    previous = question if family.completes else None
    same: list[Step] = []  # steps that did not change the answer
    verdicts: list[Verdict] = []
    halts: list[float] = []
    first_stop = None
    for step in solver.refine(question[None], [puzzle.identifier], num_steps):
        answer = family.counted(step.answer[0].cpu().numpy())
        halts.append(float(step.halt_probability[0]))
        if bool(step.says_stop[0]) and first_stop is None:
            first_stop = step.number
        unchanged = bool(verdicts) and np.array_equal(answer, previous)
        if unchanged:
            same.append(step)
            verdicts.append(verdicts[-1])
        else:
            report_unchanged(printer, same)
            verdicts.append(family.judge(question, answer, labels))
            changed = None if previous is None else int((answer != previous).sum())
            title = f"step {step.number}" if changed is None else f"step {step.number}: {changed} changed"
            stop = ", says stop" if step.says_stop[0] else ""
            printer.show(
                [title, f"halting {halts[-1]:.1%}{stop}"], answer, family.kinds(question, previous, answer)
            )
        panels.append(Panel.of(family, question, previous, answer, step, verdicts[-1]))
        previous = answer
        if solver.halts and first_stop:
            break
    report_unchanged(printer, same)
    verdict = verdicts[-1]
    if labels is not None and not verdict.solved:
        right = family.counted(np.where(labels == IGNORE_LABEL_ID, answer, labels))
        differs = np.where(right != answer, Kind.CHANGED, Kind.PLAIN)
        printer.show(["answer in the dataset", "differences are marked"], right, differs)
    printer.say(halting(solver, halts, first_stop))
    return conclusion(verdicts)


def report_unchanged(printer: GridPrinter, same: list[Step]) -> None:
    """Print a line for the steps that did not change the answer, and clear the list."""
    if not same:
        return
    first, last = same[0], same[-1]
    probabilities = [float(step.halt_probability[0]) for step in same]
    steps = f"step {first.number}" if first is last else f"steps {first.number} to {last.number}"
    low, high = f"{min(probabilities):.1%}", f"{max(probabilities):.1%}"
    printer.say(f"{steps}: no change, halting {low if low == high else f'{low} to {high}'}\n")
    same.clear()


def halting(solver: Solver, halts: list[float], first_stop: int | None) -> str:
    """Say when the halting rule said stop for the first time."""
    rule = "q_halt > q_continue" if solver.head.act.rule.compares else "q_halt > 0"
    if first_stop is None:
        best = int(np.argmax(halts))
        return f"halting rule ({rule}): never says stop; most likely at step {best + 1}, {halts[best]:.1%}"
    ends = "; this model ends there (arch.act_inference)" if solver.halts else ""
    return f"halting rule ({rule}): says stop first at step {first_stop}, {halts[first_stop - 1]:.1%}{ends}"


def conclusion(verdicts: list[Verdict]) -> str:
    """Say whether the puzzle is solved after the last step, and since when, or whether it was solved before."""
    last, solved = verdicts[-1], [bool(verdict.solved) for verdict in verdicts]
    if last.solved is None:
        return f"done after {_steps(len(verdicts))}: {last.words}"
    if last.solved:
        since = len(solved) - solved[::-1].index(False) if False in solved else 0
        return f"solved in {_steps(since + 1)}: {last.words}"
    lost = f" (it was solved at step {solved.index(True) + 1}, but changed later)" if True in solved else ""
    return f"not solved: {last.words}{lost}"


def _steps(number: int) -> str:
    return f"{number} step{'' if number == 1 else 's'}"


if __name__ == "__main__":
    try:
        report_user_errors(main)(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
