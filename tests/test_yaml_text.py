"""YAML that the repository writes: any parser reads every string as the same string."""

from __future__ import annotations

import math
import random
import re
import string
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from utils.reading import read_mapping
from utils.run_folder import CONFIG_FILE, create_run_folder
from utils.yaml_text import to_yaml

ROOT = Path(__file__).parents[1]
AMBIGUOUS = """
    12e4567 25e02866 1e5 1E5 -1e5 +1e-5 1.e5 .5e1 1. .5 1.5 0x1F 0o17 0b11 017 089 1_000 1_0 1_0.5 1e1_0 -0 +1 12:30:00
    190:20:30.15 2026-11-28 2026-11-28T12:30:00Z on off On OFF yes no Yes NO y n Y N true False null NULL Null ~
    .inf -.inf +.Inf .nan .NaN inf nan = << - ? : -- --- ... [] {} [1] {a:b} # #a a#b !a !!int &a *a | > % @ `a ' "
    a:b http://a 1,000 checkpoints/12e4567 12e4567/step_5 1e5-run e5 0x 0o8 1e 1.2.3 - é ☃
""".split()  # noqa: SIM905
SPACED = [
    "",
    " ",
    " a",
    "a ",
    "a: b",
    "a #b",
    "- a",
    "? a",
    "a\tb",
    "\t",
    "12e4567\n",
    " 1e5",
    "null ",
    "\U0001f642",
]
LINES = ["a\nb", "\na", "a\n", "\r", "\x00", "a\u2028b", "\u2029", "a\x85", "\x85", "\ufeffa"]


class CoreSchema(yaml.SafeLoader):
    """A parser whose plain scalars are those of YAML 1.2, section 10.3.2."""


CoreSchema.yaml_implicit_resolvers = {}
for tag, pattern in {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    CoreSchema.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)
    CoreSchema.add_constructor(f"tag:yaml.org,2002:{tag}", lambda loader, node: (node.tag, node.value))


def of_omegaconf(text: str):
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


PARSERS = {
    "PyYAML": yaml.safe_load,
    "OmegaConf": of_omegaconf,
    "YAML 1.2": lambda text: yaml.load(text, CoreSchema),
}


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize("word", [*AMBIGUOUS, *SPACED, *LINES])
def test_a_string_comes_back_as_itself(parse, word):
    values = {"value": word, "list": [word, word], word: "as key"}
    assert parse(to_yaml(values)) == values


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_random_strings_of_number_like_characters_come_back(parse):
    rng = random.Random(0)
    words = ["".join(rng.choices("0123456789eExob_.:+-~ny", k=rng.randint(1, 6))) for _ in range(3000)]
    words += ["".join(rng.choices(string.printable, k=rng.randint(1, 6))) for _ in range(1000)]
    found = parse(to_yaml({"words": words}))["words"]
    assert [(word, back) for word, back in zip(words, found, strict=True) if word != back] == []


def test_other_values_keep_their_type_and_need_no_quotes():
    values = {
        "none": None,
        "bools": [True, False],
        "ints": [0, -7, 10**20],
        "floats": [0.1, 1e-5, 1e17, -2.5e-300, math.inf, -math.inf],
        "nested": {"b": [], "a": {}},
    }
    text = to_yaml(values)
    assert "'" not in text
    assert '"' not in text
    assert list(yaml.safe_load(text)) == list(values)
    for parse in (yaml.safe_load, of_omegaconf):
        assert parse(text) == values
        assert [type(value) for value in parse(text)["floats"]] == [float] * 6


def test_a_run_folders_config_reads_as_it_was_written(tmp_path):
    config = {"run_name": "12e4567", "checkpoint_path": "1e5", "data_paths": ["25e02866", "0o17"], "lr": 1e-4}
    create_run_folder(tmp_path / "run", config, {}, [])
    path = tmp_path / "run" / CONFIG_FILE
    assert read_mapping(path) == config
    assert OmegaConf.to_container(OmegaConf.load(path)) == config


def test_no_other_module_writes_yaml():
    modules = [path for path in ROOT.rglob("*.py") if {".venv", "tests", "benchmarks"}.isdisjoint(path.parts)]
    calls = re.compile(r"\b(safe_)?dump(_all)?\(|OmegaConf\.(save|to_yaml)")
    writing = [
        path.relative_to(ROOT)
        for path in modules
        if "yaml" in (text := path.read_text()) and calls.search(text)
    ]
    assert writing == [Path("utils/yaml_text.py")]
