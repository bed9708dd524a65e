"""Schedule of saving and stopping, and the choice of the best evaluation."""

import os
import signal
import time

import pytest
from ranks import outputs_of, run_ranks

from utils import checkpoint_schedule as schedule_module
from utils.checkpoint_schedule import BestMetric, CheckpointSchedule, Decision, StopSignals
from utils.distributed import World
from utils.errors import UserError

ALONE = World()
NOTHING = Decision(save=False, stop=False)


class Clock:
    """A fake time module with a controllable clock."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedule_module, "time", clock)
    return clock


def test_without_an_interval_nothing_is_ever_due():
    schedule = CheckpointSchedule(ALONE, StopSignals())
    assert {schedule.after_step(step) for step in range(1, 50)} == {NOTHING}


def test_steps_are_counted_from_the_start_of_the_run_not_from_a_resume():
    schedule = CheckpointSchedule(ALONE, StopSignals(), interval_steps=5)
    assert [step for step in range(8, 22) if schedule.after_step(step).save] == [10, 15, 20]


def test_minutes_are_counted_from_the_last_save_of_any_kind(clock):
    schedule = CheckpointSchedule(ALONE, StopSignals(), interval_minutes=2)
    saves = []
    for step in range(1, 13):
        clock.seconds += 30
        if schedule.after_step(step).save or step == 6:
            saves.append(step)
            schedule.saved(step)
    assert saves == [4, 6, 10]


@pytest.fixture
def terminal(monkeypatch):
    """Restore the handler of a terminal's end, which tests under `nohup` ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", schedule_module.STOP_SIGNALS)
def test_a_signal_requests_a_save_and_a_stop(number, terminal):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        schedule = CheckpointSchedule(ALONE, signals)
        assert schedule.after_step(1) == NOTHING
        assert not schedule.stop_requested()
        os.kill(os.getpid(), number)
        assert signals.received == number
        assert schedule.stop_requested()
        assert schedule.after_step(2) == Decision(save=True, stop=True)
    assert signal.getsignal(number) == before


def test_under_nohup_the_end_of_the_terminal_is_ignored(terminal):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("by_torchrun", [True, False])
def test_only_a_worker_of_torchrun_is_stopped_by_the_end_of_its_parent(monkeypatch, by_torchrun):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    with StopSignals() as signals:
        schedule = CheckpointSchedule(ALONE, signals)
        assert schedule.after_step(1) == NOTHING
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert schedule.stop_requested() == by_torchrun
        assert schedule.after_step(2) == Decision(save=by_torchrun, stop=by_torchrun)
        if by_torchrun:
            assert (signals.received, signals.cause) == (signal.SIGHUP, "the end of torchrun")


def test_an_immediately_repeated_ctrl_c_is_ignored_but_a_later_one_counts(clock):
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGINT
        clock.seconds += schedule_module.REPEAT_SECONDS
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may repeat it
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_clock_of_rank_0_counts_minutes(clock, rank):
    class Recording(World):
        def any_flags(self, *flags):
            votes.append(flags)
            return (False, False, False)

    votes = []
    schedule = CheckpointSchedule(Recording(rank, 2), StopSignals(), interval_minutes=1, max_minutes=1)
    clock.seconds += 61
    schedule.after_step(1)
    assert votes == [(False, rank == 0, rank == 0)]


def stop_at_the_same_step():
    with World.start("cpu") as world, StopSignals() as signals:
        schedule = CheckpointSchedule(world, signals, interval_minutes=0.25 / 60)
        saves = []
        for step in range(1, 1000):
            if world.rank == 1 and len(saves) == 2 and signals.received is None:
                os.kill(os.getpid(), signal.SIGTERM)  # only one rank receives it
            time.sleep(0.02 if world.rank == 0 else 0.01)  # with different clocks and speeds
            due = schedule.after_step(step)
            if due.save:
                saves.append(step)
                schedule.saved(step)
            if due.stop:
                break
        assert len(saves) == 3
        assert saves[1] - saves[0] > 2  # one save, not two, per interval
        assert world.gather_object(saves) == [saves, saves]


def test_ranks_agree_on_the_steps_to_save_and_stop_at(tmp_path):
    outputs_of(run_ranks(tmp_path, stop_at_the_same_step))


def test_the_best_is_the_highest_accuracy_and_the_lowest_loss():
    accuracy, loss = BestMetric("test/exact_accuracy"), BestMetric("test/lm_loss")
    values = [0.5, 0.7, 0.7, float("nan"), 0.6, 0.8]
    assert [accuracy.update({"test/exact_accuracy": value}) for value in values] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    assert [loss.update({"test/lm_loss": value}) for value in values] == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert (accuracy.value, loss.value) == (0.8, 0.5)


def test_nan_is_not_the_best_value():
    best = BestMetric("a", patience=2)
    assert [best.update({"a": value}) for value in (float("nan"), 0.1)] == [False, True]
    assert best.value == 0.1


def test_patience_ends_after_consecutive_evaluations_without_improvement():
    best = BestMetric("a", patience=2)
    ends = []
    for value in [1, 0, 2, 2, 1]:
        best.update({"a": value})
        ends.append(best.out_of_patience)
    assert ends == [False, False, False, False, True]


def test_without_patience_it_never_ends():
    best = BestMetric("a")
    for _ in range(100):
        best.update({"a": 1.0})
    assert not best.out_of_patience


def test_the_best_value_survives_a_resume_unless_the_metric_changed():
    best = BestMetric("a", patience=3)
    best.update({"a": 1.0})
    best.update({"a": 0.5})
    resumed, other = BestMetric("a", patience=3), BestMetric("b", patience=3)
    resumed.load_state_dict(best.state_dict())
    other.load_state_dict(best.state_dict())
    assert not resumed.update({"a": 0.9})
    assert resumed.evaluations_without_better == 2
    assert other.update({"b": 0.1})


def test_an_unknown_best_metric_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match=r"best_metric=test/acuracy.*test/accuracy, test/steps"):
        BestMetric("test/acuracy").update({"test/steps": 1.0, "test/accuracy": 0.5})
