"""Recipes: the commands in the header match the recipe, and values match the documentation."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pages import ROOT, commands_in, page

from config.missing_data import naming_the_builder
from config.overrides import force_overrides
from config.recipe_headers import FIELDS, GPUS_NEEDED, read_header, recipes_for
from config.schema import PretrainConfig
from dataset import build_arc_dataset, build_maze_dataset, build_nqueens_dataset, build_sudoku_dataset
from training_run import build
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

RECIPES = sorted((ROOT / "config" / "experiment").glob("*.yaml"))
BUILDERS = {
    "python dataset/build_sudoku_dataset.py": build_sudoku_dataset,
    "python dataset/build_maze_dataset.py": build_maze_dataset,
    "python dataset/build_nqueens_dataset.py": build_nqueens_dataset,
    "python -m dataset.build_arc_dataset": build_arc_dataset,
}
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@cache
def config(*overrides: str) -> PretrainConfig:
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        values = compose("cfg_pretrain", force_overrides(list(overrides)))
    return parse(PretrainConfig, OmegaConf.to_container(values, resolve=True))


def header(path: Path) -> dict[str, str]:
    """Return the fields in the header of a recipe, with continued lines joined like in a shell."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    assert lines[0] == "@package _global_"
    fields: dict[str, str] = {}
    for line in lines:
        name, _, rest = line.partition(" ")
        if name in FIELDS:
            fields[name] = rest.strip()
        elif fields:
            last = next(reversed(fields))
            fields[last] = fields[last].removesuffix("\\") + line
    return fields


@each_recipe
def test_the_header_has_data_train_needs_time_and_score(path):
    fields = header(path)
    assert tuple(fields) == FIELDS
    assert all(fields.values())


@each_recipe
def test_the_headers_command_builds_the_data_that_the_recipe_trains_on(path):
    command = header(path)["Data"]
    (program,) = [program for program in BUILDERS if command.startswith(program)]
    options = BUILDERS[program].parse_options(shlex.split(command.removeprefix(program)))
    chosen = config(f"+experiment={path.stem}", "run_name=any")
    assert chosen.data_paths == chosen.test_paths == [str(options.output_dir)]


@each_recipe
def test_the_headers_command_trains_the_recipe(path):
    launcher, _, rest = header(path)["Train"].partition("pretrain.py")
    assert launcher.startswith(("python", "torchrun"))
    arguments = shlex.split(rest)
    assert f"+experiment={path.stem}" in arguments
    config(*arguments)


@each_recipe
def test_the_header_says_what_the_recipe_needs(path):
    launcher = header(path)["Train"].partition("pretrain.py")[0]
    needed = GPUS_NEEDED[header(path)["Needs"]]
    assert needed == read_header(path).num_gpus
    assert ("--nproc-per-node 4" in launcher) == (needed == 4)
    # Recipes for CPUs choose the data type for the processor.
    assert ("faster_dtype" in path.read_text() or "- sudoku" in path.read_text()) or needed > 0


def names_in(text: str) -> list[str]:
    return re.findall(r"\+experiment=(\w+)", text.partition("to begin with")[0])


@pytest.mark.parametrize(("gpus", "fits"), [(0, "sudoku6x6"), (1, "arc1_one_gpu"), (8, "arc1")])
def test_the_list_of_recipes_starts_with_what_fits_the_machine(gpus, fits):
    text = recipes_for(2, gpus)
    assert sorted(names_in(text)) == [path.stem for path in RECIPES]
    fitting, *others = text.split("\nrecipes for ")
    assert fits in names_in(fitting)
    for path in RECIPES:
        assert (path.stem in names_in(fitting)) == (read_header(path).num_gpus <= gpus)
    assert [other.startswith(("one GPU", "four GPUs")) for other in others] == [True] * (
        2 - (gpus > 0) - (gpus > 3)
    )
    assert header(ROOT / "config" / "experiment" / "sudoku6x6.yaml")["Train"] in text


@each_recipe
def test_a_recipe_accepts_overrides(path):
    chosen = config(
        f"+experiment={path.stem}", "arch=trm_singlez", "lr=3e-5", "arch.L_cycles=2", "run_name=mine"
    )
    assert (chosen.lr, chosen.arch["name"], chosen.arch["L_cycles"]) == (3e-5, "trm_singlez", 2)
    # A recipe sets no folder, so it can be run again.
    assert (chosen.run_name, chosen.checkpoint_path) == ("mine", None)


def documented(heading: str, which: int) -> PretrainConfig:
    """Return the config of a training command on the page about training."""
    blocks = page("docs/guides/training.md").blocks("bash", heading)
    calls = [command for command in commands_in("\n".join(blocks)) if command.program == "pretrain.py"]
    return config(*calls[which].arguments)


@pytest.mark.parametrize(
    ("recipe", "heading", "which"),
    [
        ("sudoku_extreme_att", "Sudoku 9x9", 0),
        ("sudoku_extreme_mlp", "Sudoku 9x9", 1),
        ("arc1", "ARC-AGI and mazes", 0),
        ("maze_hard", "ARC-AGI and mazes", 1),
    ],
)
def test_the_recipe_of_a_published_run_matches_the_published_command(recipe, heading, which):
    recipe, command = config(f"+experiment={recipe}"), documented(heading, which)
    assert recipe.test_paths == command.test_paths
    # Names and evaluators do not affect training.
    others = {"run_name", "checkpoint_path", "evaluators", "data_paths_test"}
    assert recipe.model_dump(exclude=others) == command.model_dump(exclude=others)


@each_recipe
def test_an_error_for_missing_data_names_the_command_that_builds_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = config(f"+experiment={path.stem}", "run_name=any", "device=cpu")
    with pytest.raises(UserError, match="there is no such dataset") as error:
        build(chosen, World())
    assert header(path)["Data"] in str(error.value).splitlines()[-1]


def test_an_error_for_other_missing_data_names_none():
    error = UserError("elsewhere: there is no such dataset")
    assert naming_the_builder(error, ["elsewhere"]) is error


def test_an_error_for_missing_test_data_names_its_key(sudoku4x4):
    chosen = config(
        "+experiment=sudoku6x6", f"data_paths=[{sudoku4x4}]", "data_paths_test=[nowhere]", "run_name=a"
    )
    with pytest.raises(
        UserError, match=r"nowhere: there is no such dataset.*\n.*give data_paths_test=\[DIR\] too"
    ):
        build(chosen, World())
