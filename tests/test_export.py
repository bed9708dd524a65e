"""`export.py`: an export loads with one call to the same model, and documents it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from arc_samples import build
from trained_folders import SIZES, published_run, randomised, write_run

import models
from dataset.format import read_identifiers, read_metadata, write_identifiers
from evaluators.calibrated import saved_calibration
from evaluators.calibration import weights_sha256
from evaluators.exports.model_card import arguments_of
from export import ExportConfig, export, main
from trained_run import open_trained

METADATA = SIZES | {
    "pad_id": 0,
    "total_groups": 1000,
    "family": "sudoku",
    "options": {"num_aug": 20, "note": "a|b"},
}


@pytest.fixture
def run(tmp_path) -> Path:
    folder = write_run(
        tmp_path / "run", randomised(), metadata=METADATA, data_paths=["data/mine"], seed=17, evaluators=[]
    )
    (folder / "metrics.jsonl").write_text(
        '{"step": 5, "time": 1.0, "test/exact_accuracy": 0.25}\n'
        '{"step": 10, "time": 2.0, "train/lm_loss": 0.5, "train/lr": 0.1}\n'
        '{"step": 10, "time": 3.0, "test/exact_accuracy": 0.75, "Sudoku/valid": 0.875, "test/steps": null}\n'
        '{"step": 10, "ti'
    )
    return folder


def do(run: Path, out: Path, **settings) -> Path:
    return export(ExportConfig(checkpoint=str(run), out=str(out), **settings))


def test_an_export_loads_in_one_call_with_the_same_weights_and_dtypes(run, tmp_path):
    loaded = models.load_pretrained(do(run, tmp_path / "out")).state_dict()
    original = models.load_pretrained(run).state_dict()
    assert loaded.keys() == original.keys()
    for name, value in original.items():
        assert torch.equal(value, loaded[name])
        assert value.dtype == loaded[name].dtype


def test_exported_weights_are_as_readable_as_other_new_files(run, tmp_path):
    folder = do(run, tmp_path / "out")
    (tmp_path / "new").touch()
    modes = {file.name: file.stat().st_mode for file in (*folder.iterdir(), tmp_path / "new")}
    assert set(modes.values()) == {modes["new"]}, modes


def test_an_export_keeps_step_sizes_and_recipe(run, tmp_path):
    exported, original = open_trained(str(do(run, tmp_path / "out"))), open_trained(str(run))
    assert (exported.step, exported.sizes(), exported.config) == (10, original.sizes(), original.config)


def test_the_card_has_recipe_data_seed_steps_and_scores_of_that_step(run, tmp_path):
    card = (do(run, tmp_path / "out") / "README.md").read_text()
    for fact in (
        "| steps of training | 10 |",
        "| seed | 17 |",
        "| groups of training puzzles | 1000 |",
        "`mine`",
        "| `test/exact_accuracy` | 0.75 |",
        "| `Sudoku/valid` | 0.875 |",
        "num_aug: 20",
        "lr: 0.0001",
        "hidden_size: 32",
    ):
        assert fact in card
    for absent in ("0.25", "train/lm_loss", "test/steps"):
        assert absent not in card
    front = card.split("---")[1]
    assert yaml.safe_load(front)["tags"] == ["recursive-reasoning", "trm"]
    blocks = [block.split("\n", 1)[1] for block in card.split("```")[1::2] if block.startswith("yaml")]
    assert [
        set(yaml.safe_load(block)) >= keys for block, keys in zip(blocks, ({"family"}, {"arch"}), strict=True)
    ]


def test_the_card_has_the_result_of_evaluate_with_rows_and_interval(run, tmp_path):
    report = {
        "rows": 600,
        "rows_of_the_data": 1000,
        "rows_solved": 300,
        "rows_with_labels": 600,
        "exact_accuracy_interval_95": [0.46, 0.54],
        "strategy": "symmetry",
        "options": {"checker": False, "symmetries": 8, "pick": "majority", "seed": 0, "halt": False},
        "halt_max_steps": 64,
        "halt_max_steps_of_training": 16,
        "data": ["data/mine"],
    }
    (run / "evaluation_step_10").mkdir()
    (run / "evaluation_step_10" / "report.json").write_text(json.dumps(report))
    card = (do(run, tmp_path / "out") / "README.md").read_text()
    assert "50.00% (95% interval 46.00% to 54.00%) with 64 steps on 600 of 1,000 rows of `mine`" in card
    options = "strategy=symmetry halt_max_steps=64 symmetries=8 pick=majority seed=0 limit=600"
    assert f"`evaluate.py {options}`: exact accuracy" in card
    assert f"Run `python evaluate.py checkpoint=PATH_OF_THIS_FOLDER {options}` to reproduce" in card


@pytest.mark.parametrize(
    ("act_inference", "changed", "expected"),
    [
        (False, {"options": {"checker": False, "halt": False, "freezes": False}}, []),
        (True, {"options": {"checker": False, "halt": False, "freezes": True}}, []),
        (True, {"options": {"checker": False, "halt": False, "freezes": False}}, ["halt=False"]),
        (False, {"options": {"checker": True, "halt": "auto"}}, ["checker=True", "halt=auto"]),
        (
            False,
            {"strategy": "ladder", "options": {"rungs": ["steps", "noise"], "noise": {"chains": 16}}},
            ["strategy=ladder", "rungs=[steps,noise]"],
        ),
        (
            False,
            {"strategy": "ensemble", "options": {"pick": "majority"}, "checkpoints": ["a", "b"]},
            ["strategy=ensemble", "pick=majority", "checkpoints=[a,b]"],
        ),
    ],
)
def test_the_card_names_the_options_of_an_evaluation_that_are_not_the_defaults(
    act_inference, changed, expected
):
    same = {"rows": 9, "rows_of_the_data": 9, "halt_max_steps": 4, "halt_max_steps_of_training": 4}
    assert arguments_of({"strategy": "plain"} | same | changed, act_inference) == expected


def test_a_stop_rule_is_exported_with_its_own_weights_only(run, tmp_path, capsys):
    rule = {"threshold": 1.5, "patience": 1, "num_steps": 4, "forward_dtype": "float32", "source": "of here"}
    counts = {
        "rows": 600,
        "rows_left_out": 0,
        "solved_by_all_steps": 9,
        "lost": 0,
        "gained": 1,
        "mean_steps": 2.5,
    }
    values = rule | counts | {"weights_sha256": weights_sha256(randomised().state_dict())}
    (run / "halting_step_10.json").write_text(json.dumps(values))
    folder = export(ExportConfig(checkpoint=str(run), out=str(tmp_path / "out")))
    calibration, where = saved_calibration(open_trained(str(folder)))
    assert calibration.model_dump() == values
    assert where.endswith("config.json: halting")
    (run / "halting_step_10.json").write_text(json.dumps(values | {"weights_sha256": "0" * 64}))
    assert (
        saved_calibration(open_trained(str(export(ExportConfig(checkpoint=str(run), out=str(folder))))))
        is None
    )
    assert "not exported, because it was chosen for other weights" in capsys.readouterr().out


def test_a_published_run_can_be_exported_too(tmp_path):
    folder, golden = published_run(tmp_path / "run", "trm_attn_rope")
    out = export(ExportConfig(checkpoint=str(folder), out=str(tmp_path / "out"), seq_len=16))
    model = models.load_pretrained(out)
    assert torch.equal(
        model.architecture.lm_head.weight, torch.from_numpy(golden["sd/model.inner.lm_head.weight"])
    )
    card = (out / "README.md").read_text()
    assert "No evaluation at this step was logged" in card
    assert "identifiers.json" in card


def test_identifiers_are_exported_with_a_table_of_several_rows(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_identifiers(data, ["<blank>", "a", "b"])
    sizes = SIZES | {"num_puzzle_identifiers": 3}
    folder = write_run(
        tmp_path / "run", randomised(sizes=sizes), metadata=sizes, data_paths=[str(data)], evaluators=[]
    )
    assert json.loads((do(folder, tmp_path / "out") / "identifiers.json").read_text()) == [
        "<blank>",
        "a",
        "b",
    ]


def test_identifiers_of_a_lazy_dataset_are_exported_as_names(tmp_path):
    data = build(tmp_path / "data", "--num-aug", "1", "--store", "lazy")
    sizes = SIZES | {"num_puzzle_identifiers": read_metadata(data / "train").num_puzzle_identifiers}
    folder = write_run(
        tmp_path / "run", randomised(sizes=sizes), metadata=sizes, data_paths=[str(data)], evaluators=[]
    )
    assert read_identifiers(do(folder, tmp_path / "out")) == read_identifiers(data)
    assert (tmp_path / "out" / "identifiers.json").is_file()


def test_exporting_again_replaces_an_export_but_nothing_else(run, tmp_path, capsys):
    do(run, tmp_path / "out")
    (tmp_path / "out" / "evaluation_model.safetensors").mkdir()  # what evaluate.py leaves there
    do(run, tmp_path / "out")
    (tmp_path / "out" / "secret.txt").write_text("x")
    with pytest.raises(SystemExit) as ended:
        main([f"checkpoint={run}", f"out={tmp_path / 'out'}"])
    assert ended.value.code == 2
    assert "holds other files (secret.txt)" in capsys.readouterr().err


def test_pushing_creates_the_repository_and_uploads_the_export(run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        huggingface_hub,
        "create_repo",
        lambda name, **options: calls.append((name, options)) or f"https://hub/{name}",
    )
    monkeypatch.setattr(
        huggingface_hub,
        "upload_folder",
        lambda **options: calls.append(
            (sorted(path.name for path in Path(options["folder_path"]).iterdir()), options)
        ),
    )
    out = do(run, tmp_path / "out", push_to_hub="me/my-sudoku")
    (name, created), (files, uploaded) = calls
    assert name == uploaded["repo_id"] == "me/my-sudoku"
    assert created["exist_ok"] is True
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert set(files) <= set(uploaded["allow_patterns"])
    assert 'load_pretrained("me/my-sudoku")' in (out / "README.md").read_text()


def test_a_failed_upload_keeps_the_export_and_reports_it(run, tmp_path, monkeypatch, capsys):
    def reject(name, **_):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "create_repo", reject)
    with pytest.raises(SystemExit):
        main([f"checkpoint={run}", f"out={tmp_path / 'out'}", "push_to_hub=me/x"])
    assert "the upload failed (no network)" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chekpoint=x", "out=y"], "chekpoint: unknown key; nearest valid keys: checkpoint"),
        (
            ["checkpoint=x"],
            "nothing to write: give out=DIR (safetensors), onnx=DIR (ONNX) or page=DIR (a web page)",
        ),
        (["checkpoint=x", "out=y", "page=y"], "out=, onnx= and page= must be different folders"),
        (["checkpoint=x", "onnx=y", "push_to_hub=me/x"], "push_to_hub= belongs to out=DIR"),
        (["checkpoint=x", "onnx=y", "runtime=z.tgz"], "runtime= belongs to page=DIR"),
        (["checkpoint=x", "out=y", "data_paths_test=[z]"], "data_paths_test= belongs to page=DIR"),
        (["--out", "x"], "--out: keys have no dashes, write out=VALUE"),
        (["checkpoint=nowhere", "out=y"], "nowhere: no such file or folder"),
        (["checkpoint=x", "out=y", "push_to_hub=me"], "push_to_hub=me: must be OWNER/NAME"),
        (["checkpoint=[", "out=y"], "[: no such file or folder"),
    ],
)
def test_errors_name_the_wrong_key_or_value(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_it_runs_as_a_script(run, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).parents[1] / "export.py",
            f"checkpoint={run}",
            f"out={tmp_path / 'out'}",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "29,186 parameters" in done.stdout
