"""Mistakes of a user give one readable message, a nonzero exit code and no traceback, before any work is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_identified
from training_runs import TINY, command, in_process_command, train

import evaluate
from models.architectures import ARCHITECTURES


@pytest.fixture
def run_error(monkeypatch, tmp_path, capfd, identified):
    """Run the command with these overrides in an empty folder, check that it leaves nothing, and return its message."""

    def run(*overrides: str, data: Path | str = identified, leaves: tuple[str, ...] = ()) -> str:
        cwd = tmp_path / "cwd"
        cwd.mkdir()
        given = [
            *TINY,
            f"data_paths=[{data}]",
            "epochs=4",
            "eval_interval=2",
            "checkpoint_path=run",
            *overrides,
        ]
        code = in_process_command(monkeypatch, cwd, *given)
        out, err = capfd.readouterr()
        assert code in (1, 2), out + err
        assert "Traceback" not in out + err
        assert "step 1" not in out  # no evaluation was reached
        assert {path.name for path in cwd.iterdir()} <= set(leaves)
        return err

    return run


@pytest.fixture
def broken(identified, tmp_path) -> Path:
    return Path(shutil.copytree(identified, tmp_path / "broken"))


def test_a_missing_folder(run_error, tmp_path):
    assert f"error: {tmp_path}/nothing" in run_error(data=tmp_path / "nothing")


def test_a_missing_split(run_error, broken):
    shutil.rmtree(broken / "test")
    assert f"error: {broken}: has no split 'test'" in run_error(data=broken)


def test_a_truncated_array(run_error, broken):
    path = broken / "train" / "all__inputs.npy"
    path.write_bytes(path.read_bytes()[:-10])
    assert str(path) in run_error(data=broken)


def test_indices_that_do_not_increase(run_error, broken):
    path = broken / "train" / "all__puzzle_indices.npy"
    indices = np.load(path)
    indices[3] = indices[2] - 1
    np.save(path, indices)
    message = run_error(data=broken)
    assert str(path) in message
    assert "3" in message.partition(str(path))[2]


def test_a_label_outside_the_vocabulary(run_error, broken):
    path = broken / "test" / "all__labels.npy"
    labels = np.load(path)
    labels[2, 1] = 7
    np.save(path, labels)
    message = run_error(data=broken)
    assert str(path) in message
    assert "7" in message.partition(str(path))[2]


def test_a_dataset_json_that_is_not_json(run_error, broken):
    (broken / "train" / "dataset.json").write_text("{")
    assert f"{broken}/train/dataset.json" in run_error(data=broken)


def test_test_data_of_another_kind(run_error, tmp_path, sudoku4x4):
    assert "data_paths and data_paths_test differ in seq_len: 4 and 16" in run_error(
        f"data_paths_test=[{sudoku4x4}]"
    )


def test_a_batch_size_that_micro_batches_cannot_divide(run_error):
    message = run_error("global_batch_size=6", "grad_accum_steps=4")
    assert "error: global_batch_size=6 must be a multiple of the number of processes (1) times" in message


def test_epochs_that_are_not_a_multiple_of_the_interval_with_a_suggestion(run_error):
    message = run_error("epochs=5", "eval_interval=2")
    assert "epochs=5 must be a multiple of eval_interval=2: use epochs=6 or another eval_interval" in message


def test_an_iteration_without_a_full_batch(run_error):
    message = run_error("global_batch_size=512", "epochs=2", "eval_interval=1")
    assert "fills no batch: global_batch_size is 512; use a smaller global_batch_size" in message


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("global_batchsize=4", "global_batch_size"),
        ("+ema_rat=0.9", "ema_rate"),
        ("arch.L_cycle=3", "arch.L_cycles"),
        ("hidden_size=64", "arch.hidden_size\n"),
        ("learning_rate=1e-3", "lr\n"),
        ("arch.loss.loss_typ=softmax_cross_entropy", "arch.loss.loss_type"),
    ],
)
def test_a_misspelt_key_names_the_nearest_valid_ones(run_error, override, nearest):
    message = run_error(override)
    key = override.lstrip("+").partition("=")[0]
    assert f"{key}: unknown key; nearest valid keys: {nearest}" in message


def test_every_bad_key_is_listed_at_once(run_error):
    message = run_error("lr=-1", "arch.pos_encodings=roep", "arch.num_heads=0", "beta1=1")
    for key in ("lr", "arch.pos_encodings", "arch.num_heads", "beta1"):
        assert f"  {key}: " in message


def test_a_group_of_another_command_gives_no_advice_about_hydra(monkeypatch, tmp_path, capfd):
    assert in_process_command(monkeypatch, tmp_path, "checkpoint=run", "arch=trm", entry=evaluate) == 2
    assert capfd.readouterr().err == (
        "error: arch: this command has no such group of configs; --help lists its keys\n"
    )


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        ("arch=tmr", "arch=tmr: there is no such choice (did you mean trm?); use one of hrm, "),
        ("arch=", "arch=: there is no such choice; use one of hrm, "),
        ("arch=1.5", "the arguments are not valid: Config group override must be a string or a list"),
        ("seed=" + "9" * 5000, "the arguments are not valid: Exceeds the limit (4300"),
        ("arch=null", "arch=null: there is no such choice; use one of hrm, "),
        ("optimizer=sgd", "optimizer=sgd: there is no such choice; use one of adam_atan2, adamw, muon"),
        ("optimizer=null", "optimizer=null: there is no such choice; use one of adam_atan2, adamw, muon"),
        (
            "+experiment=debugg",
            "experiment=debugg: there is no such choice (did you mean debug?); use one of ",
        ),
        ("lr=[1", "lr=[1: cannot be read as key=value"),
        ("lr=${nowhere}", "lr: Interpolation key 'nowhere' not found"),
        ("~nothing", "the arguments are not valid: Could not delete from config. 'nothing' does not exist."),
    ],
)
def test_errors_of_hydra_are_one_line(run_error, override, beginning):
    (line,) = run_error(override).splitlines()
    assert line.startswith(f"error: {beginning}")
    assert "HYDRA_FULL_ERROR" not in line


def test_an_unknown_architecture_lists_the_known_ones(run_error):
    message = run_error("arch=tmr")
    for name in ARCHITECTURES:
        assert name in message


def test_group_choices_work_with_and_without_plus(run_error):
    assert "global_batch_size: 0 is not valid" in run_error("experiment=debug", "global_batch_size=0")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("arch.name=tmr", "arch.name='tmr' is unknown (did you mean trm?)"),
        ("arch.loss.name=losses@Nothing", "module models.losses has no class Nothing"),
        ("arch.loss.loss_type=l2", "arch.loss.loss_type: 'l2' is not one of"),
        (
            "evaluators=[{name: nothing@Nothing}]",
            "there is no module evaluators.nothing; known names are arc@ARC",
        ),
        ("evaluators=[{name: sudoku@Sudoko}]", "module evaluators.sudoku has no class Sudoko"),
        ("evaluators=[{name: sudoku@Sudoku, colour: 3}]", "sudoku@Sudoku does not take these options"),
        ("device=gpu", "device: 'gpu' is not valid: choose from auto, cuda, mps, cpu"),
        ("compile=maybe", "compile: 'maybe' is not valid"),
        ("eval_save_outputs=[predictions]", "'predictions' is not an output; choose from inputs"),
        ("keep_last=0", "keep_last: 0 is not valid"),
        ("early_stop_patience=2 best_metric=null", "early_stop_patience=2 needs a best_metric"),
        ("freeze_weights=True arch.puzzle_emb_ndim=0", "freeze_weights=True trains only puzzle embeddings"),
        ("arch.puzzle_emb_ndim=64", "puzzle_emb_ndim=64"),
        ("load_checkpoint=nothing/step_5", "nothing/step_5: no such file or folder"),
        ("resume=nothing/step_5", "resume=nothing/step_5: no full training state there"),
        ("data_paths=[]", "data_paths: "),
        ("data_paths=data", "data_paths: 'data' is not valid: must be a list, written [data]"),
        ("lr=inf", "lr: inf is not valid"),
        ("global_batch_size=true", "global_batch_size: true is not valid: Input should be a valid integer"),
        ("arch.L_cycles=true", "arch.L_cycles: true is not valid: Input should be a valid integer"),
        (
            "arch.loss.q_halt_weight=false",
            "arch.loss.q_halt_weight: false is not valid: Input should be a valid number",
        ),
        (
            "optimizer=muon optimizer.ns_steps=true",
            "optimizer.ns_steps: true is not valid: Input should be",
        ),
        ("weight_decay=inf", "weight_decay: inf is not valid"),
        ("arch.rope_theta=inf", "arch.rope_theta: inf is not valid"),
        ("seed=99999999999999999999", "seed: 99999999999999999999 is not valid"),
        ("arch.seq_len=5", "arch.seq_len: comes from the data and cannot be set"),
        ("arch.name=null", "arch.name is missing: use one of trm"),
        (
            "best_metric=test/foo",
            "best_metric=test/foo: no such metric; this run has test/accuracy, test/exact",
        ),
        ("best_metric=test/count", "best_metric=test/count: no such metric; this run has test/accuracy"),
        ("arch.loss=3", "arch.loss=3: must be a mapping"),
        ("arch.loss.name=null", "arch.loss.name=None: must be a name"),
    ],
)
def test_invalid_values(run_error, override, expected):
    # Spaces separate overrides, except within brackets.
    overrides = [override] if "[" in override else override.split()
    assert expected in run_error(
        *overrides, leaves=("run",) if "checkpoint" in override or "resume" in override else ()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device(run_error):
    assert "error: device=cuda: torch" in run_error("device=cuda")


def test_a_file_in_place_of_the_run_folder(run_error, tmp_path):
    (tmp_path / "file").write_text("")
    message = run_error(f"checkpoint_path={tmp_path}/file")
    assert f"error: {tmp_path}/file" in message
    assert "choose another checkpoint_path" in message


def test_weights_of_another_model(run_error, identified, tmp_path):
    train(identified, tmp_path / "other", "arch.hidden_size=32", epochs=2)
    (weights,) = (tmp_path / "other").glob("step_*")
    message = run_error(f"load_checkpoint={weights}", leaves=("run",))
    assert "lm_head.weight" in message
    assert "32" in message


def test_a_file_that_is_not_a_checkpoint(run_error, tmp_path):
    path = tmp_path / "step_7"
    path.write_bytes(b"not weights")
    assert f"error: {path}" in run_error(f"load_checkpoint={path}", leaves=("run",))


def test_a_puzzle_table_of_other_puzzles_is_filled_with_its_mean_with_a_notice(identified, tmp_path, capsys):
    train(identified, tmp_path / "source", epochs=2)
    (weights,) = (tmp_path / "source").glob("step_*")
    other = write_identified(tmp_path / "more", names="abcdefgh")
    assert (
        train(other, tmp_path / "run", load_checkpoint=str(weights), lr=0.0, puzzle_emb_lr=0.0, epochs=2) == 0
    )
    assert "mean" in capsys.readouterr().out
    key = "model.inner.puzzle_emb.weights"
    before = torch.load(weights, weights_only=True)[key]
    (after,) = (torch.load(path, weights_only=True)[key] for path in (tmp_path / "run").glob("step_*"))
    assert after.shape == (9, before.shape[1])
    torch.testing.assert_close(after, before.mean(0).expand_as(after))


def test_the_process_exits_with_two_and_one_message(identified, tmp_path):
    done = command(*TINY, f"data_paths=[{identified}]", "epochs=5", "eval_interval=2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the config is not valid",
        "  epochs=5 must be a multiple of eval_interval=2: use epochs=6 or another eval_interval",
    ]
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_during_the_run_keeps_the_training_state(identified, tmp_path, monkeypatch):
    """Simulate a full disk while metrics are written: expect a message and a folder that can be resumed."""
    import builtins

    from utils.loggers import json_lines

    real_open, opened = builtins.open, []

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, text):
            if json.loads(text)["step"] > 5:
                raise OSError(28, "No space left on device")
            return self.file.write(text)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def open_full(path, mode="r", **kwargs):
        file = real_open(path, mode, **kwargs)
        opened.append(path)
        return Full(file) if mode == "a" else file

    with monkeypatch.context() as patch:
        patch.setattr(json_lines, "open", open_full, raising=False)
        with pytest.raises(ValueError, match=r"cannot write metrics \(No space left on device\); free space"):
            train(identified, tmp_path / "run")
    assert opened
    assert train(identified, tmp_path / "run", resume="auto") == 0
