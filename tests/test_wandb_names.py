"""Names of projects and runs: from the config, else from the environment variables of W&B, else derived."""

import re

import pytest
from training_runs import TINY, in_process_command, train

from utils.errors import UserError
from utils.reading import read_yaml
from utils.wandb_names import check_project_name, clean_project_name, from_environment

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


def run_folder(place):
    (folder,) = (path.parent for path in place.glob("checkpoints/*/*/all_config.yaml"))
    return folder


def pretrain(monkeypatch, place, data, *arguments):
    return in_process_command(
        monkeypatch, place, *TINY, f"data_paths=[{data}]", "epochs=2", "eval_interval=2", *arguments
    )


@pytest.mark.parametrize("character", "/\\#?%:")
def test_every_character_that_wandb_forbids_is_rejected_and_cleaned(character):
    name = f"a{character}{character}b"
    with pytest.raises(UserError, match=re.escape(f"project_name={name}: ")):
        check_project_name(name, "project_name")
    check_project_name(clean_project_name(name), "project_name")


def test_a_name_may_have_128_characters():
    check_project_name("x" * 128, "project_name")
    with pytest.raises(UserError, match="at most 128 characters, this has 129"):
        check_project_name("x" * 129, "project_name")
    assert clean_project_name("x" * 129) == "x" * 128


def test_wandb_accepts_the_names_that_we_accept():
    import wandb

    for name in ("x" * 128, clean_project_name("a/\\#?%:b"), "two words", "ä"):
        check_project_name(name, "project_name")
        wandb.Settings(project=name)
    for name in ("a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "x" * 129):
        with pytest.raises(wandb.UsageError):
            wandb.Settings(project=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"project_name": "team/proj"}, "WANDB_ENTITY=team project_name=proj"),
        ({"project_name": "a:b"}, "project_name=a:b: .* cannot contain :"),
        ({"WANDB_PROJECT": "team/proj"}, "WANDB_ENTITY=team WANDB_PROJECT=proj"),
        ({"WANDB_MODE": "sometimes"}, "WANDB_MODE=sometimes: is rejected by W&B"),
        ({"WANDB_RUN_ID": "a/b"}, "WANDB_RUN_ID=a/b: is rejected by W&B"),
        ({"WANDB_RESUME": "perhaps"}, "WANDB_RESUME=perhaps: is rejected by W&B"),
    ],
)
def test_a_bad_name_is_rejected_before_anything_is_written(identified, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in [name for name in given if name.startswith("WANDB_")]:
        monkeypatch.setenv(name, given.pop(name))
    with pytest.raises(UserError, match=message):
        train(identified, None, checkpoint_path=None, epochs=2, **given)
    assert not (tmp_path / "checkpoints").exists()


def test_any_data_folder_gives_a_valid_wandb_name(identified, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "d#4").symlink_to(identified)
    monkeypatch.chdir(tmp_path)
    assert train(tmp_path / "d#4", None, checkpoint_path=None, epochs=2) == 0
    folder = run_folder(tmp_path)
    assert folder.parent.name == "D-4-ACT-torch"
    assert re.fullmatch(r"TRM-[a-z]+-[a-z]+", folder.name)
    assert list(folder.glob("wandb/offline-run-*"))


def test_the_environment_provides_project_and_run_names_by_default(identified, tmp_path, monkeypatch):
    variables = {"PROJECT": "of-env", "NAME": "name-of-env", "RUN_ID": "id0of0env", "ENTITY": "team"}
    for name, value in (variables | {"MODE": "offline", "DIR": str(tmp_path / "elsewhere")}).items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "elsewhere").mkdir()
    started = []
    import wandb

    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **given: started.append(init(**given)) or started[-1])
    assert pretrain(monkeypatch, tmp_path, identified) == 0
    folder = run_folder(tmp_path)
    assert folder.relative_to(tmp_path).parts == ("checkpoints", "of-env", "name-of-env")
    assert (started[0].project, started[0].name, started[0].id) == ("of-env", "name-of-env", "id0of0env")
    assert started[0].entity == "team"
    assert list((tmp_path / "elsewhere").glob("wandb/offline-run-*-id0of0env"))
    assert not (folder / "wandb").exists()

    assert (
        pretrain(monkeypatch, tmp_path, identified, "project_name=mine", "run_name=r", "checkpoint_path=c")
        == 0
    )
    assert (started[1].project, started[1].name) == ("mine", "r")
    config = read_yaml(tmp_path / "c" / "all_config.yaml")
    assert (config["project_name"], config["run_name"]) == ("mine", "r")


def test_a_sweep_does_not_use_one_id_for_all_runs(identified, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_RUN_ID", "once")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = ("--multirun", "seed=0,1", "checkpoint_path='c${seed}'")
    assert pretrain(monkeypatch, tmp_path, identified, *sweep) == 2
    assert "error: WANDB_RUN_ID=once: --multirun trains several runs" in capsys.readouterr().err
    assert not list(tmp_path.glob("c[01]"))
    monkeypatch.setenv("WANDB_MODE", "disabled")  # so the id is not used
    assert pretrain(monkeypatch, tmp_path, identified, *sweep) == 0
    assert len(list(tmp_path.glob("c[01]"))) == 2


def test_an_empty_variable_is_ignored(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "")
    assert from_environment("PROJECT") is None


def test_missing_metric_lines_on_resuming_are_reported(identified, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(identified, tmp_path, epochs=2)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    capsys.readouterr()
    train(identified, tmp_path, epochs=4, resume="auto")
    said = [line for line in capsys.readouterr().out.splitlines() if "metrics.jsonl" in line]
    assert len(said) == 1
    assert f"only {len(lines) - 1} of the {len(lines)} lines" in said[0]
