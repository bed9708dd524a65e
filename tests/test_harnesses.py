"""Short runs of the fuzz, property and memory harnesses in `benchmarks/`; all detect faults."""

import numpy as np
import pytest

from benchmarks import fuzz, memory, properties
from benchmarks.fuzz_mutations import Target
from dataset.training_order import TrainingOrder
from utils.errors import UserError


def test_damaged_and_absurd_inputs_are_rejected_by_every_reader(tmp_path, capsys):
    from benchmarks.fuzz_targets import make_targets

    targets = make_targets(tmp_path)
    assert len({target.name for target in targets}) == len(targets) > 20
    assert fuzz.run(targets, inputs=100, seed=1, limit=60), capsys.readouterr().out


def test_the_fuzz_harness_reports_escaped_exceptions_and_repeats_them(capsys):
    def read(data, folder):
        if data == b"valid":
            return
        if len(data) % 2:
            raise UserError("odd")
        raise KeyError("even")

    target = Target("example", [b"valid"], read)
    assert not fuzz.run([target], inputs=40, seed=0)
    out = capsys.readouterr().out
    assert "KeyError at test_harnesses.py" in out
    number = int(out.partition("--target example --first ")[2].split()[0])
    assert not fuzz.run([target], inputs=1, seed=0, first=number)

    def reject(data, folder):
        raise UserError("never right")

    with pytest.raises(UserError, match="never right"):  # otherwise the harness would test nothing
        fuzz.run([Target("wrong", [b"valid"], reject)], inputs=1, seed=0)


def test_order_ranks_and_resume_positions_are_right_on_random_datasets(capsys):
    assert properties.run(layouts=6, seed=1), capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "broken", "named"),
    [
        (
            "_generator",
            lambda order, iteration: np.random.Generator(np.random.Philox(seed=iteration)),
            "puzzles are in the published order",
        ),
        (
            "_choose_examples",
            lambda order, puzzles, iteration, index: (
                np.resize(puzzles, order._batch_size),
                np.resize(order._puzzle_starts[puzzles], order._batch_size),
            ),
            "does not hold",
        ),
    ],
)
def test_the_property_harness_detects_a_wrong_order(monkeypatch, capsys, method, broken, named):
    monkeypatch.setattr(TrainingOrder, method, broken)
    assert not properties.run(layouts=4, seed=1)
    assert named in capsys.readouterr().out


def test_the_memory_of_a_whole_training_is_measured(tmp_path):
    memory.write_dataset(tmp_path / "data", rows=2)
    small = "arch.hidden_size=32", "arch.num_heads=1", "arch.L_cycles=1", "compile=False"
    own = f"data_paths=[{tmp_path / 'data'}]", "global_batch_size=2", f"checkpoint_path={tmp_path / 'run'}"
    assert memory.peak_memory(("pretrain.py", *memory.OPTIONS, *small, *own)) > 100
    assert (tmp_path / "run" / f"step_{memory.UPDATES}").exists()
    with pytest.raises(RuntimeError, match="no memory left"):
        memory.peak_memory(("-c", "raise MemoryError('no memory left')"))
