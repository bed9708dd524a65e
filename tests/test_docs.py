"""The documentation is consistent with the repository: links, commands, keys, defaults, sizes and excerpts."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import takuzu
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pages import ROOT, all_pages, page, plain, tables_in
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

import models
from config.evaluate_schema import EvaluateConfig
from config.overrides import force_overrides
from config.published_names import ARCH_CHOICES, KEYS
from config.report_schema import MemorisationConfig, PlotsConfig
from config.schema import PretrainConfig
from config.solve_schema import AppConfig, SolveConfig
from dataset import (
    build_arc_dataset,
    build_maze_dataset,
    build_nqueens_dataset,
    build_sudoku_dataset,
    report,
)
from dataset.families import check
from dataset.families.arc import check_submission
from dataset.format import validate
from docs.generator.__main__ import rendered
from docs.generator.commands import BUILDERS, COMMANDS, parser_of
from docs.generator.excerpts import source_of
from docs.generator.layout import FOLDERS, description, modules
from docs.generator.markdown import prose
from export import ExportConfig
from models.arch_configs import CONFIGS, LossConfig, RecursiveConfig
from models.architectures import ARCHITECTURES
from models.optim.configs import MuonConfig
from models.registry import FROM_DATA, build_model
from utils.command_line.arguments import read_arguments
from utils.command_line.help import meaning_of, written
from utils.strict_model import parse

CONFIG = ROOT / "config"
NOT_MEASURED = "TO MEASURE"
PAGES = all_pages()
each_page = pytest.mark.parametrize("page_", PAGES, ids=lambda each: each.name)


# ------------------------------------------------------------------------------------------------ links and pages


FIGURES = [page(name) for name in ("benchmarks/README.md", "benchmarks/LOG.md", "benchmarks/ledger.md")]


@pytest.mark.parametrize("page_", [*PAGES, *FIGURES, page("findings/README.md")], ids=lambda each: each.name)
def test_links_point_to_existing_files_and_headings(page_):
    for target in page_.links():
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page_.path.parent / path).resolve() if path else page_.path
        assert found.exists(), target
        if anchor:
            assert anchor in page(found.relative_to(ROOT).as_posix()).anchors(), target


def test_the_navigation_of_the_site_lists_every_page():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in listed) == [
        each.name for each in PAGES if each.name.startswith("docs/")
    ]


@pytest.fixture(scope="module")
def current() -> dict[Path, str]:
    return rendered()


def test_generated_pages_and_excerpts_are_current(current):
    stale = [path.name for path, text in current.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "regenerate them: python -m docs.generator"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder or "top")
def test_every_module_and_package_has_a_docstring(folder):
    paths = modules(folder)
    assert paths
    assert [str(path.relative_to(ROOT)) for path in paths if not description(path)] == []


def test_an_excerpt_is_the_code_without_its_docstring():
    said = source_of("models/architectures.py", "TRM.cycle")
    assert said.startswith("def cycle(self, state: State, x: Tensor) -> State:\n    y, z = state\n")
    said = source_of("models/losses.py", "stablemax")
    assert said.splitlines()[1:] == ["    return F.relu(x) + 1 / (1 - x.clamp(max=0))"]
    with pytest.raises(LookupError, match=r"TRM\.circle"):
        source_of("models/architectures.py", "TRM.circle")


def test_descriptions_are_escaped_in_cells():
    assert prose("a | b_c [x] <y>") == "a \\| `b_c` \\[x\\] \\<y>"
    assert prose("as in arXiv 2510.04871; `a|b`") == (
        "as in [arXiv 2510.04871](https://arxiv.org/abs/2510.04871); `a\\|b`"
    )


# ------------------------------------------------------------------------------------------------ commands


@each_page
def test_every_code_block_is_valid(page_):
    for block in page_.blocks("bash"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), block
        for script in re.findall(r"<<'EOF'\n(.*?)^EOF$", block, re.MULTILINE | re.DOTALL):
            compile(script, page_.name, "exec")
    for block in page_.blocks("python"):
        compile(block, page_.name, "exec")


@pytest.fixture(scope="module")
def own_architecture():
    """Put the architecture in the guide below `models.`, as a user would."""
    folder = str(ROOT / "tests" / "data")
    models.__path__.append(folder)
    yield
    models.__path__.remove(folder)
    sys.modules.pop("models.my_module", None)


@each_page
def test_every_command_is_accepted(page_, own_architecture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()  # the two sources in the example of a builder
    Path("puzzles.txt").touch()
    for command in page_.commands():
        accepts = CHECKS.get(command.program)
        assert accepts is not None, f"there is no check for the program of {command.line}"
        accepts(command.arguments)


def check_pretrain(arguments: list[str]) -> None:
    sweeps = "--multirun" in arguments
    overrides = [argument for argument in arguments if argument != "--multirun"]
    for chosen in _each_of_the_sweep(overrides) if sweeps else [overrides]:
        parse(PretrainConfig, composed("cfg_pretrain", *force_overrides(chosen)))


def _each_of_the_sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Return the first and last combination of a sweep over values without brackets or quotes.

    `tests/test_sweeps.py` runs the plugins' own keys.
    """
    own = [override.replace("${hydra:job.num}", "0") for override in overrides if override[:5] != "hydra"]
    for end in (0, -1):
        yield [f"{key}={_swept(values)[end]}" for key, values in (o.split("=", 1) for o in own)]


def _swept(values: str) -> list[str]:
    inside = re.fullmatch(r"(?:tag\(log,interval|choice|interval)\((.*?)\)+", values)
    return (inside[1] if inside else values).split(",")


def check_evaluate(arguments: list[str]) -> None:
    parse(EvaluateConfig, composed("cfg_evaluate", *force_overrides(arguments, EvaluateConfig)))


def check_export(arguments: list[str]) -> None:
    read_arguments(arguments, ExportConfig)


def check_options(arguments: list[str], main: Callable[[list[str]], object]) -> None:
    known = help_of(main)
    assert [argument for argument in arguments if argument.startswith("--") and argument not in known] == []


@cache
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
    "-m dataset.report": partial(check_options, main=report.main),
    "-m dataset.families.arc.check_submission": partial(check_options, main=check_submission.main),
    "-m dataset.families.check": partial(check_options, main=check.main),
    "-m takuzu": partial(check_options, main=takuzu.main),
    "-m evaluators.plots": partial(read_arguments, schema=PlotsConfig),
    "-m evaluators.memorisation": partial(read_arguments, schema=MemorisationConfig),
}


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG), version_base=None):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


def test_the_example_of_the_api_solves_the_puzzle(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(page("docs/reference/api.md").blocks("python")[0], "api.md", "exec"), names)
    given = [
        (cell, digit) for cell, digit in zip(names["answer"], names["puzzle"], strict=True) if digit != "."
    ]
    assert all(cell == digit for cell, digit in given)
    rows = [names["answer"][start : start + 9] for start in range(0, 81, 9)]
    assert all(set(row) == set("123456789") for row in rows)


def test_the_example_of_the_format_writes_a_valid_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = page("docs/reference/dataset-format.md").blocks("python")
    exec(compile(example, "dataset-format.md", "exec"), {})
    assert validate("data/tiny") == []


def test_the_example_of_a_static_space_calls_the_hub_as_it_asks(monkeypatch):
    called = []

    def accepted(function, *given, **named):
        inspect.signature(function).bind(*given, **named)
        called.append(function.__name__)

    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, partial(accepted, getattr(huggingface_hub, name)))
    (example,) = (block for block in page("docs/guides/browser.md").blocks("python") if "hub" in block)
    exec(compile(example, "browser.md", "exec"), {})
    assert called == ["create_repo", "upload_folder"]


# ------------------------------------------------------------------------------------------------ keys and options


def rows_of(name: str, heading: str | None = None) -> dict[str, dict[str, str]]:
    """Return key or option -> row, for all tables on a page or below a heading."""
    text = page(name).without_code if heading is None else page(name).section(heading)
    rows = {}
    for table in tables_in(text):
        column = next(iter(table[0]))
        if column in ("key", "option") and "meaning" in table[0]:
            rows |= {plain(row[column]): row for row in table}
    return rows


def test_the_page_of_training_keys_gives_the_default_and_description_of_each():
    rows = rows_of("docs/reference/config.md")
    schemas = {
        "": PretrainConfig,
        "arch.": RecursiveConfig,
        "arch.loss.": LossConfig,
        "optimizer.": MuonConfig,
    }
    for prefix, schema in schemas.items():
        names = [
            name for name in schema.model_fields if name not in (*FROM_DATA, "arch", "optimizer", "name")
        ]
        assert len(names) >= 4
        for name in names:
            assert rows[f"{prefix}{name}"]["meaning"] == prose(meaning_of(schema, name)) != "", name
    for name in ("cfg_pretrain.yaml", "arch/trm.yaml"):
        prefix = "arch." if "/" in name else ""
        for key, value in written_in(CONFIG / name).items():
            assert plain(rows[prefix + key]["default"]) == written(value), key


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "trm"])
def test_the_table_of_the_other_architectures_lists_the_settings_of_each_file(name):
    (table,) = tables_in(page("docs/reference/config.md").section("Other architectures"))
    rows = {plain(row["key"]): plain(row[f"`{name}`"]) for row in table}
    trm = written_in(CONFIG / "arch" / "trm.yaml")
    common = {key: field.default for key, field in RecursiveConfig.model_fields.items()} | trm
    for key, value in written_in(CONFIG / "arch" / f"{name}.yaml").items():
        if key != "name" and not key.startswith("loss."):
            differs = key not in common or common[key] != value
            assert rows.get(f"arch.{key}", "").removesuffix(" fixed") == (
                written(value) if differs else ""
            ), key
    own = CONFIGS[name].model_fields.keys() - RecursiveConfig.model_fields - set(FROM_DATA)
    assert {f"arch.{key}" for key in own} <= rows.keys()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.program)
def test_the_page_of_commands_has_every_key(command):
    if command.schema is PretrainConfig:
        return
    rows = rows_of("docs/reference/commands.md", f"`{command.program}`")
    assert rows.keys() == command.schema.model_fields.keys()
    assert [key for key, row in rows.items() if not row["meaning"]] == []
    assert {key for key, row in rows.items() if row["default"] == "required"} == set(command.required)


@pytest.mark.parametrize("program", BUILDERS)
def test_the_page_of_commands_has_every_option(program):
    rows = rows_of("docs/reference/commands.md", f"`{program}`")
    actions = {a.option_strings[-1]: a for a in parser_of(BUILDERS[program])._actions if a.option_strings}
    actions.pop("--help")
    assert {option for option in rows if option.startswith("--")} == actions.keys()
    assert [option for option, row in rows.items() if not row["meaning"]] == []
    for option, action in actions.items():
        if action.default is not None and action.default is not False and action.dest != "workers":
            assert plain(rows[option]["default"]) == str(action.default)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys."""
    leaves = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        leaves |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return leaves


def written_in(path: Path) -> dict[str, Any]:
    """Return the keys that a config file sets itself, without `defaults` and `hydra`."""
    values = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    return flat({key: value for key, value in values.items() if key not in ("defaults", "hydra")})


@pytest.mark.parametrize("name", ["cfg_pretrain.yaml", "cfg_evaluate.yaml", "arch/trm.yaml"])
def test_config_files_do_not_repeat_the_descriptions_of_keys(name):
    assert re.findall(r"^\w+:.*#.*$", (CONFIG / name).read_text(), re.MULTILINE) == []


def test_the_keys_of_hrm_and_urm_are_listed_as_their_errors_name_them():
    published = page("docs/reference/published.md")
    said = {
        plain(row["published"]).partition("=")[0]: plain(row["here"])
        for row in published.table("Commands of HRM and URM")
    }
    assert said.keys() == {*KEYS, "arch", "arch.name"}
    assert {"arch.loops": "arch.halt_max_steps", "arch.num_layers": "arch.L_layers"}.items() <= said.items()
    for choice, ours in ARCH_CHOICES.items():
        assert f"arch={choice}" in plain(published.section("Commands of HRM and URM"))
        assert said["arch"] == f"arch={ours}"


def test_the_sweep_of_wandb_ends_in_commands_that_are_accepted():
    (block,) = page("docs/guides/sweeps.md").blocks("yaml")
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


# ------------------------------------------------------------------------------------------------ what else they say


def test_the_table_of_architectures_has_their_sizes():
    rows = page("docs/concepts/architectures.md").table("Architectures")
    said = {plain(row["`arch=`"]): int(row["parameters"].replace(",", "")) for row in rows}
    built = {name: _num_parameters(name) for name in ARCHITECTURES}
    built["trm with arch.mlp_t=True"] = _num_parameters("trm", "arch.mlp_t=True")
    assert said == built


def _num_parameters(name: str, *overrides: str) -> int:
    arch = composed("cfg_pretrain", f"arch={name}", *overrides)["arch"]
    with torch.device("meta"):
        model = build_model(arch, seq_len=81, vocab_size=11, num_puzzle_identifiers=1)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_readme_names_every_architecture():
    said = page("README.md").section("Architectures")
    assert [name for name in ARCHITECTURES if f"`{name}`" not in said] == []


def test_the_index_of_findings_has_them_all():
    scripts = {path.name for path in (ROOT / "findings").glob("*.sh")}
    listed = re.findall(r"\]\((\w+\.sh)\)", page("findings/README.md").text)
    assert sorted(listed) == sorted(scripts)


def test_the_tables_of_recipes_have_them_all():
    recipes = {path.stem for path in (CONFIG / "experiment").glob("*.yaml")}
    assert {plain(row["recipe"]) for row in page("docs/guides/training.md").table("Recipes")} == recipes
    assert all(f"\n## `{name}`\n" in page("docs/reference/recipes.md").text for name in recipes)


@each_page
def test_every_measured_result_is_a_figure_or_a_clearly_marked_slot(page_):
    cells = re.findall(r"[^|\n]*(?<!UN)MEASURE[^|\n]*", page_.text)
    assert {cell.strip() for cell in cells} <= {NOT_MEASURED}


def test_the_format_is_described_as_builders_write_it(sudoku4x4):
    metadata = yaml.safe_load((sudoku4x4 / "test" / "dataset.json").read_text())
    described = page("docs/reference/dataset-format.md")
    for key in ("pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len", "sets"):
        assert key in metadata
        assert f"`{key}`" in described.text
    fields = {plain(row["field"]) for row in described.table("Dataset format")}
    assert {path.name for path in (sudoku4x4 / "train").glob("all__*.npy")} == {
        f"all__{f}.npy" for f in fields
    }
