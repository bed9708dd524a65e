"""Solve a file of puzzles: `solve.py puzzles=FILE out=FILE`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice

from config.evaluate_schema import GUESS_HALT
from config.solve_schema import SolveConfig
from dataset.families import family_notices, family_of
from evaluators.calibrated import calibrated, matching_calibration
from evaluators.inference import Solver, padded_sizes
from evaluators.puzzle_files import INVALID, AnswerFile, PuzzleLine, count_lines, read_puzzles
from evaluators.puzzle_stream import solve_stream
from evaluators.stop_rule import OWN_RULE, StopRule
from evaluators.strategies.build import Choice, Halt, Setting, build_strategy
from evaluators.strategies.continuous import Continuous
from models.backends import FusedCPU, choose_backend
from trained_run import Trained, open_trained, recorded_metadata
from utils.device import FUSED, compile_policy, resolve_device
from utils.distributed import World
from utils.errors import UserError
from utils.progress import Progress

CELLS_AT_ONCE = 16_384  # in a batch; larger batches are hardly faster on a CPU
FEW_PUZZLES = 64  # loading compiled code takes longer than solving fewer, with one chain each


def solve_file(config: SolveConfig) -> bool:
    """Solve the puzzles of a file and write their answers to a file.

    Returns True if every line was a puzzle, also those that an interrupted run has answered.

    Notices, progress and the summary go to standard error, because answers may go to standard output.
    """
    assert config.puzzles is not None
    assert config.out is not None
    say = StandardError(device=resolve_device(config.device))
    total = count_lines(config.puzzles)
    trained = open_trained(config.checkpoint)
    sizes = trained.sizes(config.seq_len)
    metadata = recorded_metadata(trained.metadata, sizes)
    family = family_of(metadata)
    if family.text_help is None:
        raise UserError(
            f"puzzles=: puzzles of this model cannot be written as text: {family.reason}; evaluate.py solves "
            "those of a dataset"
        )
    for notice in family_notices([(trained.label, metadata)]):
        say.print(f"note: {notice}")
    solver = Solver(trained.build(sizes=sizes, device=say.device, notice=say.print), say.device)
    if sizes["num_puzzle_identifiers"] > 1:
        say.print("note: the model uses puzzle identifiers and gets the blank one, which may reduce accuracy")
    steps = config.steps or solver.trained_steps
    capacity = config.batch_size or max(1, CELLS_AT_ONCE // metadata.seq_len)
    # A calibration solves thousands of puzzles first. `stop_rule` prints why a saved rule does not match.
    calibrates = (
        config.halt == "auto"
        and not solver.halts
        and matching_calibration(trained, solver, steps, lambda _: None) is None
    )
    mode, reason = compile_for(config, solver, None if calibrates else total)
    batch_sizes = padded_sizes(capacity, mode)
    halt = config.halt if config.halt is not None or config.strategy != "guess" else GUESS_HALT
    choice = Choice(
        config.strategy,
        steps,
        halt=halt if isinstance(halt, float) else "auto",
        symmetries=config.symmetries,
        chains=config.chains,
    )
    setting = Setting([solver], metadata, [], capacity, batch_sizes)
    build_strategy(choice, setting)  # rejects invalid options before anything is computed
    with AnswerFile(config.out, config.resume) as answers:
        lines = read_puzzles(config.puzzles, None if "#" in family.grid_style.symbols else "#")
        lines = skip_answered(lines, answers, config)
        if mode:
            inner = solver.head.architecture
            inner.backend = choose_backend(inner, mode)
        where = ", ".join(filter(None, (str(say.device), reason)))
        say.print(f"{trained.label}: {type(solver.head.architecture).__name__} on {where}, {steps} steps")
        solver.warm_up(batch_sizes)
        setting = replace(setting, rule=stop_rule(halt, trained, solver, setting, steps, say))
        strategy, _ = build_strategy(choice, setting)
        assert isinstance(strategy, Continuous)
        began = time.perf_counter()
        with closing(
            Progress("solve", "puzzle", say, total=total, initial=answers.num_rows, leave=False)
        ) as progress:
            summary = solve_stream(
                strategy,
                family,
                lines,
                answers.write,
                identifier=metadata.blank_identifier_id,
                chunk_size=capacity,
                first_number=answers.num_rows,
                advance=progress.update,
            )
    seconds = time.perf_counter() - began
    if answers.num_rows and not summary.verdicts:
        say.print(
            f"nothing is left to do: {config.out} already has a row for each puzzle of {config.puzzles}"
        )
        return not answers.num_invalid
    rate = summary.verdicts.total() / seconds
    say.print(f"{summary.in_words}; {rate:,.0f} a second, {seconds:.1f} s; {config.out}")
    return not summary.verdicts[INVALID] and not answers.num_invalid


class StandardError(World):
    """A single process that prints to standard error."""

    def print(self, *values: object) -> None:
        print(*values, file=sys.stderr, flush=True)


def compile_for(config: SolveConfig, solver: Solver, total: int | None) -> tuple[str | None, str]:
    """Choose how the model is compiled for about `total` puzzles, None if many, because compiling takes a while."""
    fits = FusedCPU.fits(solver.head.architecture)
    wanted = config.compile
    if wanted == "auto" and config.strategy == "plain" and total is not None and total < FEW_PUZZLES:
        wanted = False
    elif wanted == "auto" and fits:
        wanted = FUSED
    return compile_policy(wanted, solver.device, fits)


def skip_answered(
    lines: Iterator[PuzzleLine], answers: AnswerFile, config: SolveConfig
) -> Iterator[PuzzleLine]:
    """Skip the puzzles that an earlier run has answered. Raises UserError if its answers are to another file."""
    skipped = deque(islice(lines, answers.num_rows), maxlen=1)
    if answers.last is not None:
        written = str(answers.last["line"]), answers.last["puzzle"]
        if not skipped or (str(skipped[0].number), skipped[0].text) != written:
            raise UserError(
                f"out={config.out}: its row {answers.num_rows}, of line {written[0]}, does not belong to the puzzles "
                f"in {config.puzzles}: choose another file, or leave resume out and remove it"
            )
    return lines


def stop_rule(
    halt: Halt, trained: Trained, solver: Solver, setting: Setting, steps: int, say: World
) -> StopRule | None:
    """Return the rule by which puzzles stop, None for all steps; reports which it is."""
    if halt is False:
        return None
    if isinstance(halt, float):
        rule = StopRule.of_probability(halt)
        say.print(f"rows stop when {rule.in_words}")
        return rule
    if halt is True or solver.halts:
        say.print("rows stop when the model says stop")
        return OWN_RULE
    if halt == "auto":
        calibration = calibrated(
            trained,
            solver,
            steps,
            say,
            family=setting.family,
            batch_size=setting.capacity,
            sizes=setting.sizes,
        )
    else:
        calibration = matching_calibration(trained, solver, steps, say.print)
        if calibration is None:
            say.print(
                "all steps are run, because no stop rule has been calibrated for these weights and settings: "
                "halt=auto does that first and is faster from then on"
            )
            return None
    say.print(calibration.in_words)
    return calibration.rule
