"""Absurd values give one error that names the key, before anything is allocated or written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from training_runs import tiny, train

from config.evaluate_schema import EvaluateConfig
from config.solve_schema import SolveConfig
from models.architectures import ARCHITECTURES
from models.registry import ConfigError, check_arch
from trained_run import open_trained
from training_run import build
from utils import device
from utils.command_line.arguments import read_arguments
from utils.distributed import World
from utils.errors import UserError, report_user_errors
from utils.strict_model import parse


@pytest.fixture
def run_error(identified, tmp_path):
    """Return the error of a training with these values (and these for `arch`), raised before it starts."""

    def run(arch=None, **values) -> str:
        folder = tmp_path / "run"
        with pytest.raises(UserError) as error:
            build(
                tiny(identified, folder, arch=tiny(identified, folder).arch | (arch or {}), **values), World()
            )
        assert not folder.exists()
        return str(error.value)

    return run


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"lr": 1e300}, "lr=1e+300: is not valid: must be at most 1e+15"),
        ({"optimizer": {"name": "muon", "lr": 1e300}}, "optimizer: lr=1e+300: is not valid"),
        ({"lr_warmup_steps": 10**40}, "lr_warmup_steps: is not valid: has 41 digits"),
        ({"epochs": 10**400, "eval_interval": None}, "epochs: is not valid: has 401 digits"),
        (
            {"epochs": 10**12, "eval_interval": None},
            "use an eval_interval (or epochs, if it is not set) of at most 100000000",
        ),
        (
            {"global_batch_size": 10**12, "epochs": 10**8, "eval_interval": 10**8},
            "global_batch_size=1000000000000: a batch needs 3.2e+04 GB",
        ),
    ],
)
def test_an_absurd_number_is_rejected_by_its_key(run_error, values, expected):
    assert expected in run_error(**values)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ({"rms_norm_eps": 1e300}, "arch: rms_norm_eps=1e+300: is not valid"),
        ({"loss": {"q_halt_weight": 1e300}}, "arch.loss: q_halt_weight=1e+300: is not valid"),
        ({"halt_max_steps": 10**12}, "arch.halt_max_steps: 1000000000000 is not valid"),
        ({"H_cycles": 10**12}, "arch.H_cycles: 1000000000000 is not valid"),
        ({"L_layers": 10**12}, "arch.L_layers: 1000000000000 is not valid"),
        ({"hidden_size": 10**9}, "arch: a tensor of this model is too large for any machine"),
        ({"hidden_size": 10**6}, "arch: a model of 1.2e+13 values needs 4.8e+04 GB, but this machine has"),
        ({"expansion": 10**9}, "lower arch.hidden_size"),
        ({"puzzle_emb_ndim": 10**12, "puzzle_emb_len": 0}, "(the data has num_puzzle_identifiers=7)"),
        ({"puzzle_emb_len": 10**9, "pos_encodings": "none"}, "global_batch_size=8: a training step needs"),
    ],
)
def test_a_model_too_large_for_any_machine_is_rejected_before_it_is_built(run_error, arch, expected):
    assert expected in run_error(arch)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_limits_its_numbers_of_repetitions(name):
    for key in ("H_cycles", "L_cycles", "H_layers", "L_layers", "halt_max_steps"):
        with pytest.raises(ConfigError, match=rf"arch\.{key}: 1000000000000 is not valid"):
            check_arch({"name": name, key: 10**12}, seq_len=16, vocab_size=6, num_puzzle_identifiers=1)


def test_a_model_whose_optimizer_state_does_not_fit_is_rejected(run_error, monkeypatch):
    monkeypatch.setattr(device, "total_memory", lambda _: 2 * 10**6)
    assert "needs 0.00" in (message := run_error({"hidden_size": 128}))
    assert "with gradient and optimizer state, needs" in message


@pytest.mark.parametrize("key", ["halt_max_steps", "more_steps", "chains"])
def test_evaluation_and_solving_reject_absurdly_many_steps(key):
    values = {"checkpoint": "run", "strategy": "ladder", key: 10**12}
    with pytest.raises(UserError, match=rf"{key}: 1000000000000 is not valid"):
        parse(EvaluateConfig, values)
    with pytest.raises(UserError, match=r"steps: '1000000000000' is not valid"):
        read_arguments(["checkpoint=run", "steps=1000000000000"], SolveConfig)


def test_a_config_that_is_larger_than_its_weights_is_rejected(identified, tmp_path):
    assert train(identified, tmp_path / "run", epochs=2) == 0
    config = tmp_path / "run" / "all_config.yaml"
    text = config.read_text()
    assert "hidden_size: 16\n" in text
    config.write_text(text.replace("hidden_size: 16\n", "hidden_size: 10000000\n"))
    with pytest.raises(UserError, match=r"its model needs .* GB, but this machine has .*: check arch\.\*"):
        open_trained(str(tmp_path / "run")).build()


def test_absurd_sizes_of_a_dataset_are_rejected(identified, tmp_path):
    broken = shutil.copytree(identified, tmp_path / "broken")
    path = broken / "train" / "dataset.json"
    for key in ("vocab_size", "num_puzzle_identifiers", "mean_puzzle_examples"):
        written = json.loads(path.read_text())
        path.write_text(json.dumps(written | {key: 10**400}))
        with pytest.raises(UserError, match=rf"dataset\.json: {key} is 10+\.\.\., but must be"):
            train(broken, tmp_path / "run")
        path.write_text(json.dumps(written))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
        ),
    ],
)
def test_running_out_of_memory_gives_one_line(capsys, error):
    @report_user_errors
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")
    assert "smaller batch (global_batch_size" in line


def test_other_errors_of_torch_keep_their_traceback():
    @report_user_errors
    def main():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        main()
