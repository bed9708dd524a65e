"""`--help` and calls without arguments: every command documents each key, from its schema."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from training_runs import in_process_command

import app
import evaluate
import export
import pretrain
import solve
from config.schema import EvaluatorConfig, sections
from dataset import build_arc_dataset, report
from evaluators import memorisation, plots
from models.registry import FROM_DATA
from utils.command_line.help import choices_of, meaning_of
from utils.errors import report_user_errors

PLAIN = [solve, app, export, plots, memorisation]
HYDRA = [pretrain, evaluate]


def entries(text: str) -> dict[str, str]:
    """Parse the columns of a help text to key -> description."""
    found = re.findall(r"^  (\+?[\w.]+)(?: +|\n {24})(\S.*(?:\n {24}.*)*)", text, re.MULTILINE)
    return {key: " ".join(said.split()) for key, said in found}


def name_of(command) -> str:
    return command.__name__


@pytest.mark.parametrize("command", [*PLAIN, *HYDRA], ids=name_of)
def test_every_field_of_every_schema_has_a_meaning(command):
    schemas = [schema for found in sections(command.COMMAND.schema).values() for schema in found]
    for schema in [*schemas, EvaluatorConfig]:
        assert [name for name in schema.model_fields if not meaning_of(schema, name)] == [], schema


@pytest.mark.parametrize("command", PLAIN, ids=name_of)
def test_the_help_of_a_command_has_every_key_with_meaning_default_and_choices(command, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    said, schema = entries(capsys.readouterr().out), command.COMMAND.schema
    assert said.keys() == schema.model_fields.keys()
    for name, field in schema.model_fields.items():
        assert said[name].startswith(meaning_of(schema, name))
        assert ("[required" in said[name]) == (name in command.COMMAND.required)
        assert ", ".join(choices_of(field.annotation)) in said[name]


@pytest.mark.parametrize("command", [*PLAIN, build_arc_dataset, report], ids=name_of)
def test_without_arguments_a_command_prints_its_usage_and_required_keys(command, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [command.__name__])
    with pytest.raises(SystemExit) as end:
        report_user_errors(command.main)([])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("usage: ")
    assert "required" in err
    assert "--help lists" in err


@pytest.mark.parametrize("command", HYDRA, ids=name_of)
def test_commands_composed_by_hydra_print_their_usage_and_required_keys(
    command, monkeypatch, tmp_path, capfd
):
    assert in_process_command(monkeypatch, tmp_path, entry=command) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"usage: python {command.__name__}.py ")
    assert "[required" in err
    assert list(tmp_path.iterdir()) == []


def help_of(command, monkeypatch, tmp_path: Path, capfd, *overrides: str) -> str:
    assert in_process_command(monkeypatch, tmp_path, *overrides, "--help", entry=command) == 0
    return capfd.readouterr().out


def test_the_help_of_training_has_every_key_of_the_chosen_architecture(monkeypatch, tmp_path, capfd):
    text = help_of(pretrain, monkeypatch, tmp_path, capfd, "arch=hrm", "seed=5")
    said = entries(text)
    expected = set()
    for prefix, schemas in sections(pretrain.COMMAND.schema, "hrm").items():
        expected |= {
            f"{prefix}{name}" for schema in schemas for name in schema.model_fields if name not in FROM_DATA
        }
    assert expected - {"arch", "optimizer", "optimizer.name"} <= said.keys()
    assert said["arch.H_layers"].endswith("[default: 4]")  # the default of HRM
    assert said["seed"].endswith("[default: 5]")
    assert said["device"].endswith("choices: auto, cuda, mps, cpu]")
    for choice in ("arch=se_rrm", "+experiment=sudoku6x6", "optimizer=muon", "Keys of optimizer=muon"):
        assert choice in text


def test_the_help_of_evaluation_has_its_own_keys_only(monkeypatch, tmp_path, capfd):
    text = help_of(evaluate, monkeypatch, tmp_path, capfd)
    keys = entries(text).keys()
    assert evaluate.COMMAND.schema.model_fields.keys() <= keys
    assert not [key for key in keys if re.search(r"arch|experiment|optimizer", key)]
    assert not re.search(r"optimizer=|experiment=", text)  # nor sections or choices of other groups


def test_hydras_own_views_of_the_config_still_work(monkeypatch, tmp_path, capfd):
    for arguments, expected in (
        (["--cfg", "job", "run_name=007"], "run_name: '007'"),
        (["--hydra-help"], "Hydra"),
        (["--info", "searchpath"], "Config search path"),
    ):
        handlers = list(logging.getLogger().handlers)
        assert in_process_command(monkeypatch, tmp_path, *arguments) == 0
        assert expected in capfd.readouterr().out
        # Otherwise other tests would write to the output of this one.
        assert logging.getLogger().handlers == handlers
