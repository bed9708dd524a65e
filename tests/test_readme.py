"""README.md is consistent with the repository: files, links, commands, keys, defaults and sizes."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import readme
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from readme import ROOT, plain, section, table
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

import models
from config.command_line import read_arguments
from config.evaluate_schema import EvaluateConfig
from config.help import meaning_of
from config.overrides import force_overrides
from config.published_names import ARCH_CHOICES, KEYS
from config.report_schema import MemorisationConfig, ReportConfig
from config.schema import PretrainConfig, parse
from config.solve_schema import AppConfig, SolveConfig
from dataset import (
    build_arc_dataset,
    build_maze_dataset,
    build_nqueens_dataset,
    build_sudoku_dataset,
    report,
)
from dataset.options import OptionParser
from dataset.parallel import available_cpus
from export import ExportConfig
from models.architectures import ARCHITECTURES
from models.losses import ACTLossHead
from models.optim.configs import MuonConfig
from models.recursive import RecursiveConfig
from models.registry import ArchitectureName, LossName, build_model

CONFIG = ROOT / "config"
NOT_MEASURED = "TO MEASURE"


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so the files of the repository are unknown")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def tree() -> dict[str, str]:
    """Parse the block below "Files" to path -> description."""
    (block,) = readme.blocks("", section("Files"))
    described, folder = {}, ""
    for line in block.splitlines():
        match = re.fullmatch(r"( *)(\S+)(?:  +(.*))?", line)
        assert match, line
        indent, name, description = match.groups()
        if name.endswith("/") and not description:
            folder = name
            continue
        path = (folder if indent else "") + name
        assert path not in described, f"{path} is listed twice"
        described[path] = description
    return described


def test_the_tree_describes_every_file_outside_tests():
    expected = {
        name
        for name in tracked_files()
        if not name.startswith("tests/")
        and (not name.endswith("__init__.py") or (ROOT / name).stat().st_size)
    }
    described = tree()
    assert expected - described.keys() == set(), "missing in the tree of README.md"
    assert described.keys() - expected == set(), "in the tree of README.md, but not in the repository"
    assert [path for path, description in described.items() if not description] == []


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a Markdown page."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_point_to_existing_files_and_headings():
    page = re.sub(r"<!--.*?-->", "", readme.text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            assert anchor in anchors((ROOT / path).read_text() if path else readme.without_code()), target
    assert len(targets) > 20


# ------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("block", readme.blocks("bash"), ids=lambda block: block.strip().splitlines()[0][:50])
def test_every_bash_block_is_valid_bash(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for script in re.findall(r"<<'EOF'\n(.*?)^EOF$", block, re.MULTILINE | re.DOTALL):
        compile(script, "README.md", "exec")


@pytest.mark.parametrize(
    "block", readme.blocks("python"), ids=lambda block: block.strip().splitlines()[0][:50]
)
def test_every_python_block_is_valid_python(block):
    compile(block, "README.md", "exec")


@pytest.fixture(scope="module")
def own_architecture():
    """Put the architecture in the README below `models.`, as a user would."""
    folder = str(ROOT / "tests" / "data")
    models.__path__.append(folder)
    yield
    models.__path__.remove(folder)
    sys.modules.pop("models.my_module", None)


@pytest.mark.parametrize("command", readme.commands(), ids=lambda command: command.line[:60])
def test_every_command_is_accepted(command, own_architecture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()  # the two sources in the example of a builder
    Path("puzzles.txt").touch()
    check = CHECKS.get(command.program)
    assert check is not None, f"there is no check for the program of {command.line}"
    check(command.arguments)


def check_pretrain(arguments: list[str]) -> None:
    sweeps = "--multirun" in arguments
    overrides = [argument for argument in arguments if argument != "--multirun"]
    for chosen in _each_of_the_sweep(overrides) if sweeps else [overrides]:
        parse(PretrainConfig, composed("cfg_pretrain", *force_overrides(chosen)))


def _each_of_the_sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Return the first and last combination of a sweep over values without brackets or quotes."""
    for end in (0, -1):
        yield [f"{key}={values.split(',')[end]}" for key, values in (o.split("=", 1) for o in overrides)]


def check_evaluate(arguments: list[str]) -> None:
    parse(EvaluateConfig, composed("cfg_evaluate", *force_overrides(arguments, EvaluateConfig)))


def check_export(arguments: list[str]) -> None:
    read_arguments(arguments, ExportConfig)


def check_report(arguments: list[str]) -> None:
    known = help_of(report.main)
    assert [argument for argument in arguments if argument.startswith("--") and argument not in known] == []


def help_of(main: Callable[[list[str]], object]) -> str:
    """Return the output of `--help`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    return printed.getvalue()


CHECKS = {
    "pretrain.py": check_pretrain,
    "evaluate.py": check_evaluate,
    "solve.py": partial(read_arguments, schema=SolveConfig),
    "app.py": partial(read_arguments, schema=AppConfig),
    "export.py": check_export,
    "dataset/build_sudoku_dataset.py": build_sudoku_dataset.parse_options,
    "dataset/build_maze_dataset.py": build_maze_dataset.parse_options,
    "dataset/build_nqueens_dataset.py": build_nqueens_dataset.parse_options,
    "-m dataset.build_arc_dataset": build_arc_dataset.parse_options,
    "-m dataset.build_sudoku_dataset": build_sudoku_dataset.parse_options,
    "-m dataset.report": check_report,
    "-m evaluators.plots": partial(read_arguments, schema=ReportConfig),
    "-m evaluators.memorisation": partial(read_arguments, schema=MemorisationConfig),
}


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG), version_base=None):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


# ------------------------------------------------------------------------------------------------ tables of keys


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys."""
    leaves = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        leaves |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return leaves


def written(path: Path) -> dict[str, Any]:
    """Return the keys that a config file sets itself, without `defaults` and `hydra`."""
    values = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    return flat({key: value for key, value in values.items() if key not in ("defaults", "hydra")})


def value_of(cell: str) -> Any:
    """Parse a cell such as `1e-4` like a value in the config files."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {plain(cell)}"))["value"]


def keys_in(heading: str, column: str = "default") -> dict[str, Any]:
    """Return key -> default for a column of a table of keys, without rows with an empty cell."""
    rows = table(heading)
    keys = [plain(row["key"]) for row in rows]
    assert len(keys) == len(set(keys)), f"{heading} has a key twice"
    return {plain(row["key"]): value_of(row[column]) for row in rows if row[column]}


@pytest.mark.parametrize("name", ["cfg_pretrain.yaml", "cfg_evaluate.yaml", "arch/trm.yaml"])
def test_the_table_has_every_key_of_the_file_with_its_default_and_a_meaning(name):
    heading = f"`config/{name}`"
    assert keys_in(heading) == written(CONFIG / name)
    assert [row["key"] for row in table(heading) if not row["meaning"]] == []


def test_the_table_of_further_keys_has_all_schema_keys_missing_in_the_files():
    sizes, defaults = ("seq_len", "vocab_size", "num_puzzle_identifiers"), {}
    for prefix, schema in (("", RecursiveConfig), ("loss.", ACTLossHead.Config)):
        defaults |= {f"{prefix}{name}": field.default for name, field in schema.model_fields.items()}
    files = [written(path) for path in (CONFIG / "arch").glob("*.yaml")]
    beyond = {key: value for key, value in defaults.items() if not any(key in keys for keys in files)}
    assert keys_in("Further keys of `arch`") == {
        key: value for key, value in beyond.items() if key not in sizes
    }


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "trm"])
def test_the_table_of_other_architectures_matches_their_files(name):
    assert keys_in("The other architectures", f"`{name}`") == written(CONFIG / "arch" / f"{name}.yaml")


def meanings(*schemas: type, prefix: str = "") -> dict[str, str]:
    """Return key -> description in the schemas; the first schema with a key is used."""
    return {
        f"{prefix}{name}": meaning_of(schema, name)
        for schema in reversed(schemas)
        for name in schema.model_fields
    }


def as_meaning(text: str) -> str:
    """Normalise a description from a table or a docstring."""
    text = re.sub(r"\(\[(\d{4}\.\d{5})\]\([^)]*\)\)", r"(arXiv \1)", text)
    text = plain(text).replace("\\|", "|").rstrip(".")
    return text[:1].lower() + text[1:]


_ARCH = meanings(ArchitectureName, RecursiveConfig) | meanings(LossName, ACTLossHead.Config, prefix="loss.")


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("`config/cfg_pretrain.yaml`", meanings(PretrainConfig)),
        ("`config/arch/trm.yaml`", _ARCH),
        ("Further keys of `arch`", _ARCH),
        ("`optimizer=`", meanings(MuonConfig)),
        ("`config/cfg_evaluate.yaml`", meanings(EvaluateConfig)),
        ("`solve.py`", meanings(SolveConfig)),
        ("Reports: `evaluators.plots` and `evaluators.memorisation`", meanings(MemorisationConfig)),
        ("`app.py`", meanings(AppConfig)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_descriptions_in_tables_match_the_schemas(heading, said):
    rows = {plain(row["key"]): as_meaning(row["meaning"]) for row in table(heading)}
    assert rows == {key: as_meaning(said[key]) for key in rows}


@pytest.mark.parametrize("name", ["cfg_pretrain.yaml", "cfg_evaluate.yaml", "arch/trm.yaml"])
def test_files_of_defaults_do_not_repeat_descriptions(name):
    assert re.findall(r"^\w+:.*#.*$", (CONFIG / name).read_text(), re.MULTILINE) == []


def test_keys_of_hrm_and_urm_are_listed_as_in_errors():
    said = {
        plain(row["published"]).partition("=")[0]: plain(row["here"])
        for row in table("Commands of HRM and URM")
    }
    assert said.keys() == {*KEYS, "arch", "arch.name"}
    assert {"arch.loops": "arch.halt_max_steps", "arch.num_layers": "arch.L_layers"}.items() <= said.items()
    for choice, ours in ARCH_CHOICES.items():
        assert f"arch={choice}" in plain(section("Commands of HRM and URM"))
        assert said["arch"] == f"arch={ours}"


def test_the_sweep_of_wandb_runs_valid_commands():
    (block,) = readme.blocks("yaml", section("Sweeps"))
    sweep = yaml.safe_load(block)
    names, values = zip(*((name, each["values"]) for name, each in sweep["parameters"].items()), strict=True)
    for chosen in itertools.product(*values):
        given = {name: {"value": value} for name, value in zip(names, chosen, strict=True)}
        formats = create_sweep_command_args({"args": given})
        assert sweep["command"][:3] == ["${env}", "python", "${program}"]
        arguments = [
            argument
            for part in sweep["command"][3:]
            for argument in (formats[part[2:-1]] if part.startswith("${") else [part])
        ]
        assert len(arguments) > len(given)
        check_pretrain(arguments)


def groups() -> Iterator[Any]:
    """Return the config groups with a separate table, and their files."""
    for folder in sorted(path for path in CONFIG.iterdir() if path.is_dir()):
        if folder.name not in ("arch", "experiment", "__pycache__"):
            for path in sorted(folder.glob("*.yaml")):
                yield pytest.param(folder.name, path, id=f"{folder.name}/{path.stem}")


@pytest.mark.parametrize(("group", "path"), list(groups()))
def test_the_table_of_a_group_matches_its_files(group, path):
    assert keys_in(f"`{group}=`", f"`{path.stem}`") == written(path)


@pytest.mark.parametrize(
    ("heading", "column", "schema"),
    [
        ("`solve.py`", "default", SolveConfig),
        ("`app.py`", "default", AppConfig),
        ("Reports: `evaluators.plots` and `evaluators.memorisation`", "`plots`", ReportConfig),
        ("Reports: `evaluators.plots` and `evaluators.memorisation`", "`memorisation`", MemorisationConfig),
    ],
)
def test_the_table_of_a_command_without_a_config_file_has_every_argument_with_its_default(
    heading, column, schema
):
    defaults = {name: field.default for name, field in schema.model_fields.items()}
    assert keys_in(heading, column) == defaults


@pytest.mark.parametrize(
    ("heading", "builder"),
    [
        ("Sudoku", build_sudoku_dataset),
        ("Mazes", build_maze_dataset),
        ("ARC-AGI", build_arc_dataset),
        ("N-Queens", build_nqueens_dataset),
    ],
    ids=["sudoku", "maze", "arc", "nqueens"],
)
def test_the_tables_of_the_builders_have_every_option_with_its_default(heading, builder, monkeypatch):
    known, said = options_of(builder, monkeypatch), said_defaults(heading)
    assert said.keys() == known.keys()
    wrong = {
        option: said[option] for option, action in known.items() if not says_default(said[option], action)
    }
    assert wrong == {}


def options_of(builder: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, argparse.Action]:
    """Return the options of a builder by their dashed names."""
    parsers = []

    def stop(parser: OptionParser, *_: Any) -> None:
        parsers.append(parser)
        raise InterruptedError

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(OptionParser, "parse_args", stop)
        builder.parse_options([])
    return {action.option_strings[-1]: action for action in parsers[0]._actions if action.dest != "help"}


def said_defaults(heading: str) -> dict[str, str]:
    """Return option -> default from a table; a row with several options has the same number of defaults."""
    defaults = {}
    for row in table(heading):
        options, cell = plain(row["option"]).split(", "), plain(row["default"])
        cells = [cell] if len(options) == 1 else cell.split(", ")
        defaults |= dict(zip(options, cells, strict=True))
    return defaults


def says_default(cell: str, action: argparse.Action) -> bool:
    """Return True if the cell is the default of the option: its value, or the words of its help about the default."""
    if action.required:
        return cell == "required"
    if action.default is False:
        return cell == "off"
    if action.dest == "workers" and action.default == available_cpus():
        return cell == "all CPUs"
    if action.default is not None:
        return cell == str(action.default)
    described = "default:" in action.help
    said, explained = (set(re.sub("[,;]", " ", text).split()) for text in (cell, action.help))
    return said <= explained if described else cell == "none"


# ------------------------------------------------------------------------------------------------ what else it says


def test_the_table_of_architectures_has_their_sizes():
    said = {plain(row["`arch=`"]): int(row["parameters"].replace(",", "")) for row in table("Architectures")}
    built = {}
    for name in ARCHITECTURES:
        built[name] = _num_parameters(name)
    built["trm with arch.mlp_t=True"] = _num_parameters("trm", "arch.mlp_t=True")
    assert said == built


def _num_parameters(name: str, *overrides: str) -> int:
    arch = composed("cfg_pretrain", f"arch={name}", *overrides)["arch"]
    with torch.device("meta"):
        model = build_model(arch, seq_len=81, vocab_size=11, num_puzzle_identifiers=1)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_table_of_recipes_is_complete():
    recipes = {path.stem for path in (CONFIG / "experiment").glob("*.yaml")}
    assert {plain(row["recipe"]) for row in table("Recipes")} == recipes


def test_every_measured_result_is_a_number_or_marked_as_missing():
    cells = re.findall(r"[^|\n]*MEASURE[^|\n]*", readme.text())
    assert {cell.strip() for cell in cells} <= {NOT_MEASURED}


def test_the_description_of_the_format_matches_the_builders(sudoku4x4):
    metadata = yaml.safe_load((sudoku4x4 / "test" / "dataset.json").read_text())
    format_section = section("The format")
    for key in ("pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len", "sets"):
        assert key in metadata
        assert f"`{key}`" in format_section
    fields = {plain(row["field"]) for row in table("The format")}
    assert {path.name for path in (sudoku4x4 / "train").glob("all__*.npy")} == {
        f"all__{f}.npy" for f in fields
    }
