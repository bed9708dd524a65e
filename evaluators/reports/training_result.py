"""How a training run ended: its outcome, what it prints, and `result.txt`."""

from __future__ import annotations

from dataclasses import replace

from evaluators.base import remarks
from training_run import Run
from utils.checkpoint_schedule import BestMetric, StopSignals
from utils.files import write_text
from utils.interrupts import SIGNAL_EXIT_BASE
from utils.outcome import Ending, RunOutcome


def outcome_of(run: Run, best: BestMetric | None, results: dict[str, float] | None = None) -> RunOutcome:
    """Return how the run has ended so far; `results` of an evaluation that is not recorded count for its value."""
    ended: Ending = "out of time"
    if best is not None and best.out_of_patience:
        ended = "stopped early"
    elif run.state.iteration > run.config.num_iterations:
        ended = "finished"
    metric = None if best is None else best.name
    value = None if best is None else best.best_with(results or {})
    return RunOutcome(ended, str(run.folder), run.state.step, metric, value)


def end(run: Run, best: BestMetric | None, results: dict[str, float] | None) -> RunOutcome:
    """Print why the run ended and its result, which a finished run also writes to `result.txt`."""
    outcome, world = outcome_of(run, best, results), run.world
    if best is not None and outcome.ended == "stopped early":
        world.print(
            f"stopped early: {best.evaluations_without_better} evaluations without a better {best.name}"
        )
    if world.is_main and run.score.rows:
        line = run.score.in_words(run.test_data.metadata.total_groups)
        line += f" after {run.state.seconds:.0f} s of training"
        line = "; ".join([line, *remarks(run.evaluators)])
        world.print(line)
        if outcome.ended != "out of time":
            write_text(run.folder / "result.txt", line + "\n")
    if outcome.ended == "out of time":
        world.print(
            f"max_minutes={run.config.max_minutes:g}: stopped after step {run.state.step} and saved: continue with "
            "resume=auto"
        )
    return outcome


def stopped(signals: StopSignals, run: Run, best: BestMetric | None) -> RunOutcome:
    """Print what stopped the run, which is saved: a signal to any rank, or the end of its launcher."""
    asked = run.world.gather_object((signals.received, signals.cause))  # not every rank has received it
    number, cause = next((number, cause) for number, cause in asked if number is not None)
    run.world.print(f"stopped by {cause} after step {run.state.step} and saved: continue with resume=auto")
    return replace(outcome_of(run, best), ended="stopped by a signal", exit_code=SIGNAL_EXIT_BASE + number)
