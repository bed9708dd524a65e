"""`--help` of the commands that Hydra composes: keys in sections, with the defaults of the chosen groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from config.schema import SECTION_TITLES, PretrainConfig, sections
from models.optim.configs import OPTIMIZERS
from models.registry import FROM_DATA
from utils.command_line.arguments import Command
from utils.command_line.help import entry, options_of

_FOLDER = Path(__file__).parent
_HYDRA = """\
Hydra's own options
  --multirun            run once for each combination of the values that commas separate
  --cfg job             print the composed config and exit; with --resolve without interpolations
  --hydra-help          the rest of Hydra's options
  -sc install=bash      print what makes the shell complete keys: eval "$(python {program} -sc install=bash)\""""


def render_help(command: Command, overrides: Sequence[str]) -> str:
    """Render all keys of a command; defaults come from the composed config, so `arch=hrm` changes them."""
    with initialize_config_dir(str(_FOLDER), version_base=None):
        config = compose(command.config_name, list(overrides))
    values: Any = OmegaConf.to_container(config, resolve=False)
    parts = [command.summary, command.usage()]
    if command.schema is PretrainConfig:
        parts += [_choices("arch", "architectures"), _choices("experiment", "recipes", "+")]
        parts += _top_level(values)
        parts += _nested(values)
    else:
        parts.append(
            "\n".join(["keys", *options_of(command.schema, defaults=values, required=command.required)])
        )
    return "\n\n".join([*parts, _HYDRA.format(program=command.program)])


def _top_level(values: Mapping[str, Any]) -> Iterator[str]:
    names = [name for name in PretrainConfig.model_fields if name not in ("arch", "optimizer")]
    starts = [names.index(first) for first in SECTION_TITLES]
    for title, start, end in zip(SECTION_TITLES.values(), starts, [*starts[1:], None], strict=True):
        lines = options_of(PretrainConfig, defaults=values, only=names[start:end])
        yield "\n".join([title, *lines])


def _nested(values: Mapping[str, Any]) -> Iterator[str]:
    arch = values["arch"]
    found = sections(PretrainConfig, arch.get("name"), (arch.get("loss") or {}).get("name"))
    for prefix, title in (("arch.", f"Architecture (arch={arch.get('name')})"), ("arch.loss.", "Loss")):
        defaults = arch if prefix == "arch." else arch.get("loss") or {}
        lines = [
            line
            for schema in found[prefix]
            for line in options_of(
                schema, prefix, defaults, only=[name for name in schema.model_fields if name not in FROM_DATA]
            )
        ]
        yield "\n".join([title, *lines])
    yield _choices("optimizer", "optimizers")
    for name, schema in OPTIMIZERS.items():
        own = [key for key in schema.model_fields if key != "name"]
        defaults = values["optimizer"] if values["optimizer"]["name"] == name else {}
        if own:
            keys = options_of(schema, "optimizer.", defaults, only=own)
            yield "\n".join([f"Keys of optimizer={name}", *keys])


def _choices(group: str, title: str, sign: str = "") -> str:
    """List the files of a config group, each with the first paragraph of its comments."""
    lines = [title.capitalize()]
    for path in sorted((_FOLDER / group).glob("*.yaml")):
        comments = path.read_text(encoding="utf-8").splitlines()
        comments = [line for line in comments if not line.startswith("# @package")]
        paragraph = takewhile(lambda line: line.startswith("# "), comments)
        lines.append(entry(f"{sign}{group}={path.stem}", " ".join(line[2:] for line in paragraph)))
    return "\n".join(lines)
