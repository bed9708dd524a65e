"""Names and paths on the command line keep the text that was typed, for every command."""

from __future__ import annotations

import random
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from training_runs import ROOT, TINY, in_process_command, metrics

import evaluate
import export
import solve
from config.evaluate_schema import EvaluateConfig
from config.overrides import completable, force_overrides, split_arguments
from config.schema import PretrainConfig
from config.solve_schema import SolveConfig
from dataset import build_arc_dataset, build_maze_dataset, build_sudoku_dataset
from export import ExportConfig
from utils.command_line.arguments import read_arguments
from utils.command_line.typed_text import TextKind, entries, for_hydra, quoted, text_kind, unquoted
from utils.errors import UserError
from utils.strict_model import parse

NAMES = [
    "20251128_0107",
    "2025-11-28",
    "1e-4",
    "12e4567",
    "98e9999",
    "007",
    "0x10",
    "0b1",
    "on",
    "true",
    "1_000",
    "12:30",
    "nan",
    "None",
    "+1",
]
ODD = "a=b ~(x), #1 & it's [y] {z}; !%$é\"ä"


def composed(*overrides: str, sweeps: bool = False) -> dict:
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = compose("cfg_pretrain", force_overrides(overrides, sweeps=sweeps))
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize(
    "text", [*NAMES, ODD, "a,b", "choice(a,b)", "a\\", "C:\\runs\\", "it's", "'a','b'", "[x]"]
)
def test_text_keys_keep_the_text_that_was_typed(text):
    values = composed(
        *(f"{key}={text}" for key in ("run_name", "+project_name", "++checkpoint_path", "best_metric"))
    )
    assert {values[key] for key in ("run_name", "project_name", "checkpoint_path", "best_metric")} == {text}
    assert read_arguments([f"checkpoint={text}", "out=x"], ExportConfig).checkpoint == text


@pytest.mark.parametrize("text", NAMES)
def test_entries_of_lists_of_text_keep_the_text_that_was_typed(text):
    listed = f"[{text}, '{text}',\"{ODD[:-3]}\"]"
    assert composed(f"data_paths={listed}")["data_paths"] == [text, text, ODD[:-3]]
    assert read_arguments(["checkpoint=x", f"data_paths_test={listed}"], SolveConfig).data_paths_test == [
        text,
        text,
        ODD[:-3],
    ]


def test_any_text_survives_quoting():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("ab=~()#,'\"&[]{};!\\ %ä.:\n") for _ in range(rng.randrange(8)))
        assert unquoted(quoted(text)) == text
        assert entries(f"[{quoted(text)}, x]") == [text, "x"]


def test_null_and_interpolations_keep_their_meaning():
    values = composed(
        "run_name=null", "project_name=NULL", "seed=3", "lr=0.5", "checkpoint_path=runs/${lr}_${seed}"
    )
    assert (values["run_name"], values["project_name"], values["checkpoint_path"]) == (
        None,
        None,
        "runs/0.5_3",
    )
    values = composed("data_paths=[007]", "data_paths_test=${data_paths}")
    assert values["data_paths_test"] == ["007"]


def in_recipe(monkeypatch, tmp_path, text: str, *arguments: str) -> int:
    """Run `pretrain.py +experiment=mine ARGUMENTS` with a custom recipe; return the exit code."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True, exist_ok=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return in_process_command(
        monkeypatch, tmp_path, *TINY, "-cd", str(tmp_path / "mine"), "+experiment=mine", "epochs=2",
        "eval_interval=2", *arguments,
    )  # fmt: skip


@pytest.mark.parametrize(
    "key", ["run_name", "project_name", "checkpoint_path", "best_metric", "load_checkpoint"]
)
@pytest.mark.parametrize("text", ["20251128_0107", "1e-4", "007", "on"])
def test_text_that_a_recipe_gives_as_a_number_is_rejected_by_key(
    monkeypatch, tmp_path, capsys, identified, key, text
):
    assert in_recipe(monkeypatch, tmp_path, f"{key}: {text}", f"data_paths=[{identified}]") == 2
    message = capsys.readouterr().err
    assert f"\n  {key}: " in message
    assert "write it in quotes" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_entry_of_a_list_of_text_that_is_a_number_is_rejected(monkeypatch, tmp_path, capsys):
    assert in_recipe(monkeypatch, tmp_path, "data_paths: [data/a, 2025_11]") == 2
    assert "\n  data_paths.1: 202511 is not valid: YAML reads it as a number" in capsys.readouterr().err


def test_text_that_a_recipe_quotes_or_that_is_not_a_number_stays(monkeypatch, tmp_path, identified):
    text = "run_name: '20251128_0107'\nproject_name: 2025-11-28\ncheckpoint_path: 2025_run"
    assert in_recipe(monkeypatch, tmp_path, text, f"data_paths=[{identified}]") == 0
    config = yaml.safe_load((tmp_path / "2025_run" / "all_config.yaml").read_text())
    assert (config["run_name"], config["project_name"]) == ("20251128_0107", "2025-11-28")


def test_numbers_from_interpolations_and_sweeps_become_text_for_text_keys(monkeypatch, tmp_path, identified):
    text = "run_name: ${seed}\nbest_metric: null"
    data = f"data_paths=[{identified}]"
    assert in_recipe(monkeypatch, tmp_path, text, data, "seed=7", "checkpoint_path=${run_name}") == 0
    assert yaml.safe_load((tmp_path / "7" / "all_config.yaml").read_text())["run_name"] == "7"
    (tmp_path / "11").symlink_to(identified)
    assert in_recipe(monkeypatch, tmp_path, "seed: 11\ndata_paths: ['${seed}']\ncheckpoint_path: r") == 0
    assert yaml.safe_load((tmp_path / "r" / "all_config.yaml").read_text())["data_paths"] == ["11"]
    sweep = ("--multirun", "checkpoint_path=range(1,3)", data)
    assert in_recipe(monkeypatch, tmp_path, text, *sweep) == 0
    assert all((tmp_path / name / "all_config.yaml").exists() for name in "12")


def test_other_keys_keep_numbers_and_words():
    values = composed("seed=1_000", "lr=1e-4", "ema=True", "compile=true", "arch.forward_dtype=float32")
    assert (values["seed"], values["lr"], values["ema"], values["compile"]) == (1000, 1e-4, True, True)


@pytest.mark.parametrize(
    ("value", "kind", "swept"),
    [
        ("007,1e-4", TextKind.ONE, "'007','1e-4'"),
        ("'a,b', c", TextKind.ONE, "'a,b','c'"),
        ("choice(007,on)", TextKind.ONE, "choice('007','on')"),
        ("range(1,4)", TextKind.ONE, "range(1,4)"),
        ("null,x", TextKind.ONE, "null,'x'"),
        ("runs/${oc.env:X,y},z", TextKind.ONE, "'runs/${oc.env:X,y}','z'"),
        ("[a,007],['b]',c]", TextKind.LIST, "['a','007'],['b]','c']"),
    ],
)
def test_values_of_a_sweep_keep_their_text(value, kind, swept):
    assert for_hydra(value, kind, sweeps=True) == swept


def test_text_keys_are_determined_by_the_schemas():
    kinds = {name: text_kind(field.annotation) for name, field in PretrainConfig.model_fields.items()}
    assert {name for name, kind in kinds.items() if kind is TextKind.LIST} == {
        "data_paths",
        "data_paths_test",
        "eval_save_outputs",
        "logger",
    }
    assert kinds["device"] is kinds["load_checkpoint"] is TextKind.ONE
    assert kinds["seed"] is kinds["compile"] is kinds["evaluators"] is None
    assert composed("arch.loss.name=007", "arch.pos_encodings=1e3")["arch"]["loss"]["name"] == "007"


# ------------------------------------------------------------------------------------------- runs with such names


def test_a_run_with_an_unusual_path_can_be_trained_evaluated_exported_and_solved(
    sudoku4x4, tmp_path, monkeypatch, capfd
):
    odd = tmp_path / ODD
    odd.mkdir()
    (odd / "data").symlink_to(sudoku4x4)
    train = [*TINY, "epochs=1", "eval_interval=1", "run_name=12e4567", f"checkpoint_path={odd}/run"]
    listed = quoted(f"{odd}/data")
    assert in_process_command(monkeypatch, tmp_path, *train, f"data_paths=[{listed}]") == 0
    config = yaml.safe_load((odd / "run" / "all_config.yaml").read_text(encoding="utf-8"))
    assert (config["run_name"], config["data_paths"]) == ("12e4567", [f"{odd}/data"])
    step = metrics(odd / "run")[-1]["step"]
    evaluated = [f"checkpoint={odd}/run/step_{step}", f"out={odd}/out", "limit=4", "device=cpu"]
    assert in_process_command(monkeypatch, tmp_path, *evaluated, entry=evaluate) == 0
    assert (odd / "out" / "report.json").exists()
    export.main([f"checkpoint={odd}/run", f"out={odd}/export"])
    solve.main(
        [
            f"checkpoint={odd}/export",
            "index=0",
            "device=cpu",
            f"png={odd}/steps.png",
            f"data_paths_test=[{listed}]",
        ]
    )
    assert (odd / "steps.png").exists()
    capfd.readouterr()


def test_a_leading_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    home = str(tmp_path / "x")
    paths = ("checkpoint_path", "load_checkpoint", "resume")
    values = composed(*(f"{key}=~/x" for key in paths), "data_paths=[~/x, '~/x']", "data_paths_test=[~/x]")
    config = parse(PretrainConfig, values)
    assert [getattr(config, key) for key in paths] == [home] * 3
    assert config.data_paths + config.data_paths_test == [home] * 3
    assert read_arguments(["checkpoint=~/x", "out=~/x"], ExportConfig).out == home
    config = parse(
        EvaluateConfig,
        {"strategy": "ensemble", "checkpoints": ["~/x", "~"], "out": "~/x", "data_paths_test": ["~/x"]},
    )
    assert (config.checkpoints, config.out, config.data_paths_test) == ([home, str(tmp_path)], home, [home])
    (tmp_path / "x").mkdir()
    for builder in (build_sudoku_dataset, build_maze_dataset):
        assert builder.parse_options(["--output-dir=~/x", "--source-csv=~/x"]).output_dir == home
    options = ["--input-file-prefix=~/x", "--output-dir=~/x", "--subsets=a", "--test-set-name=a"]
    assert build_arc_dataset.parse_options(options).input_file_prefix == home


# ------------------------------------------------------------------------------------------- options among the keys


def test_options_of_hydra_can_be_mixed_with_overrides():
    options, overrides = split_arguments(
        ["lr=1", "--multirun", "seed=0,1", "--cfg", "job", "--config-dir=x", "-i", "a=b"]
    )
    assert options == ["--multirun", "--cfg", "job", "--config-dir=x", "-i"]
    assert overrides == ["lr=1", "seed=0,1", "a=b"]


@pytest.mark.parametrize("argument", ["--lr=0.001", "--arch.L_cycles=3", "--lr"])
def test_the_default_form_of_wandb_agent_is_rejected_with_the_form_that_works(argument):
    for reject in (split_arguments, lambda arguments: read_arguments(arguments, ExportConfig)):
        with pytest.raises(UserError, match=r"keys have no dashes, write .*=.*\$\{args_no_hyphens\}"):
            reject([argument])


def test_the_shell_can_complete_keys(monkeypatch, tmp_path, capfd):
    assert in_process_command(monkeypatch, tmp_path, "-sc", "install=bash") == 0
    assert "hydra_bash_completion" in capfd.readouterr().out
    monkeypatch.setenv("COMP_LINE", "python pretrain.py run_name=a(b arch=hrm arch.H_")
    assert in_process_command(monkeypatch, tmp_path, "-sc", "query=bash") == 0
    assert capfd.readouterr().out.split() == ["arch.H_cycles=", "arch.H_layers="]
    assert completable("python pretrain.py experiment=debug lr=1 ") == "python pretrain.py +experiment=debug "


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arch=hrm_v1"], "arch=hrm_v1: is called hrm here, write arch=hrm"),
        (["data_path=data/x"], r"data_path: unknown key; write data_paths=\[DIR\], and arch=hrm"),
        (["arch=urm", "arch.loops=16"], "arch.loops: unknown key; URM's name for arch.halt_max_steps"),
        (["arch=urm", "arch.num_layers=4"], "arch.num_layers: unknown key; URM's name for arch.L_layers"),
        (["use_muon=True"], "use_muon: unknown key; write optimizer=muon"),
        (["arch.name=urm.urm@URM"], "arch.name=urm.urm@URM: arch=urm is that architecture"),
        (
            ["+experiment=sudoku4x4", "device=gpu"],
            "device: 'gpu' is not valid: choose from auto, cuda, mps, cpu",
        ),
    ],
)
def test_names_of_other_code_are_rejected_with_ours(overrides, message, monkeypatch, tmp_path, capfd):
    assert in_process_command(monkeypatch, tmp_path, *overrides) == 2
    assert re.search(message, capfd.readouterr().err)
