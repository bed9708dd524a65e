"""Render tables of keys from the schemas, and the page of training keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.schema import SECTION_TITLES, PretrainConfig
from docs.generator.markdown import ROOT, code, first_comment, page, prose, table
from models.arch_configs import CONFIGS, LossConfig, RecursiveConfig
from models.optim.configs import OPTIMIZERS
from models.registry import FROM_DATA, ArchitectureName, LossName
from utils.command_line.help import choices_of, meaning_of, written

_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false"}
_SIGNS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
_INTRO = """\
These are the keys that `python pretrain.py` accepts as `key=value`. `python pretrain.py --help` prints the same list
for the architecture selected by `arch=`. Defaults are in `config/cfg_pretrain.yaml` and `config/arch/NAME.yaml`. A
default of `null` means that the key is off, or that its value is derived as described. If a key has no effect because
of another one, a notice says so when the run starts."""


def keys_table(
    schema: type[BaseModel],
    names: Iterable[str] | None = None,
    *,
    prefix: str = "",
    defaults: Mapping[str, Any] | None = None,
    required: Iterable[str] = (),
) -> str:
    """Render a table of a schema's fields, or of those in `names`; `defaults` override the schema's defaults."""
    rows = []
    for name in schema.model_fields if names is None else names:
        field = schema.model_fields[name]
        value = (defaults or {}).get(name, field.get_default(call_default_factory=True))
        default = "" if value is PydanticUndefined else code(written(value))
        rows.append(
            [
                code(prefix + name),
                "required" if name in required else default,
                values_of(field),
                prose(meaning_of(schema, name)),
            ]
        )
    return table(("key", "default", "values", "meaning"), rows)


def values_of(field: FieldInfo) -> str:
    """Describe the values that a key accepts: its choices, or its type with bounds."""
    members = [each for each in get_args(field.annotation) if each is not NoneType]
    listed = any(get_origin(each) is list for each in (field.annotation, *members))
    if choices := choices_of(field.annotation):
        return ("list of " if listed else "") + ", ".join(map(code, choices))
    if listed:
        return "list"
    annotation = members[0] if members else field.annotation
    limits = list(field.metadata)
    if get_origin(annotation) is Annotated:
        annotation, *nested = get_args(annotation)
        limits += nested
    said = [
        form.format(_bound(value))
        for limit in limits
        for sign, form in _SIGNS.items()
        if (value := getattr(limit, sign, None)) is not None
    ]
    return " ".join([_TYPES.get(annotation, "mapping"), *[", ".join(said)] * bool(said)])


def _bound(value: float) -> str:
    powers = {2**31: "2^31", 2**63: "2^63"}
    return powers.get(value, f"{value:,}")


def composed(config_name: str, *overrides: str) -> dict[str, Any]:
    """Return a config as composed by Hydra, with interpolations unresolved."""
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        values: Any = OmegaConf.to_container(compose(config_name, list(overrides)), resolve=False)
    return values


def config_page() -> str:
    values = composed("cfg_pretrain")
    names = [name for name in PretrainConfig.model_fields if name not in ("arch", "optimizer")]
    starts = [names.index(first) for first in SECTION_TITLES]
    parts = [
        f"## {title}\n\n{keys_table(PretrainConfig, names[start:end], defaults=values)}"
        for title, start, end in zip(SECTION_TITLES.values(), starts, [*starts[1:], None], strict=True)
    ]
    return page("Training keys", _INTRO, *parts, *_architecture(values["arch"]), *_optimizers())


def _architecture(trm: Mapping[str, Any]) -> Iterator[str]:
    in_file = [name for name in RecursiveConfig.model_fields if name in trm]
    further = [name for name in RecursiveConfig.model_fields if name not in trm and name not in FROM_DATA]
    yield "## Architecture\n\nKeys under `arch.`, for instance `arch.H_cycles=3`. Defaults are those of `arch=trm`."
    name, *others = (
        keys_table(schema, names, prefix="arch.", defaults=trm)
        for schema, names in ((ArchitectureName, None), (RecursiveConfig, in_file))
    )
    yield "\n".join([name, *(each.split("\n", 2)[2] for each in others)])  # one table
    yield (
        "### Further architecture keys\n\nThe published recipe does not use these keys, so `config/arch/trm.yaml` "
        "omits them. Their defaults have no effect, and every architecture accepts those that apply to it."
    )
    yield keys_table(RecursiveConfig, further, prefix="arch.")
    yield (
        "### Other architectures\n\nThese accept the same keys. An empty cell means the same as in `trm`. A fixed key "
        "allows only the value shown."
    )
    yield _other_architectures(trm)
    yield "## Loss"
    loss = keys_table(LossConfig, prefix="arch.loss.", defaults=trm["loss"]).split("\n", 2)[2]
    yield keys_table(LossName, prefix="arch.loss.", defaults=trm["loss"]) + "\n" + loss


def _other_architectures(trm: Mapping[str, Any]) -> str:
    others = {name: schema for name, schema in CONFIGS.items() if name != "trm"}
    values = {name: composed("cfg_pretrain", f"arch={name}")["arch"] for name in others}
    common = {name: field.default for name, field in RecursiveConfig.model_fields.items()} | trm
    rows = []
    for key in dict.fromkeys(key for schema in others.values() for key in schema.model_fields):
        takers = [schema for schema in others.values() if key in schema.model_fields]
        cells = []
        for name, schema in others.items():
            if (field := schema.model_fields.get(key)) is None:
                cells.append("")
                continue
            value = values[name].get(key, field.default)
            same = key in common and value == common[key]
            cells.append("" if same else code(written(value)) + " fixed" * _is_fixed(field))
        if any(cells) and key not in FROM_DATA:
            meaning = "" if key in RecursiveConfig.model_fields else prose(meaning_of(takers[0], key))
            rows.append([code(f"arch.{key}"), *cells, meaning])
    return table(("key", *map(code, others), "meaning, if only here"), rows)


def _is_fixed(field: FieldInfo) -> bool:
    """Return True if an architecture allows only one value of a key."""
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        limits |= {sign: value for sign in ("ge", "le") if (value := getattr(limit, sign, None)) is not None}
    return len(choices_of(field.annotation)) == 1 or (len(limits) == 2 and limits["ge"] == limits["le"])


def _optimizers() -> Iterator[str]:
    yield (
        "## Optimizers\n\n`optimizer=NAME` selects the optimizer of the weights. Puzzle embeddings always use SignSGD."
    )
    for name, schema in OPTIMIZERS.items():
        yield f"### `optimizer={name}`"
        yield prose(first_comment(ROOT / "config" / "optimizer" / f"{name}.yaml"))
        yield keys_table(schema, [key for key in schema.model_fields if key != "name"], prefix="optimizer.")
