"""Convert published `all_config.yaml` files to the keys of this repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from config.published_names import ACCEPTED_IN_FILES
from config.schema import PretrainConfig
from models.registry import PUBLISHED_NAMES, SIZES
from utils.errors import UserError
from utils.strict_model import parse

# Keys that the published classes ignore, but that would have an effect here. By registry name.
IGNORED_AS_PUBLISHED = {
    "trm": ("act_enabled", "act_inference"),
    "trm_singlez": ("act_enabled", "act_inference"),
    "trm_hier6": ("act_enabled", "act_inference"),
    "hrm": ("act_enabled", "act_inference", "puzzle_emb_len"),
    "transformers_baseline": ("puzzle_emb_len", "mlp_t"),
}
# Removed options with the value that meant no effect, because configs of older runs contain them.
REMOVED = {"supervision_steps_per_update": 1}


@dataclass(frozen=True)
class RunConfig:
    """A run's config in our keys, with defaults filled in, and the data's sizes as far as it has them."""

    values: dict[str, Any]
    sizes: dict[str, int]

    @property
    def arch(self) -> dict[str, Any]:
        return self.values["arch"]

    def data_paths(self, split: str) -> list[str]:
        """Return the datasets that the run used as `split` (train or test)."""
        named = self.values["data_paths_test"] if split == "test" else None
        return named or self.values["data_paths"]


def parse_run_config(values: dict[str, Any], source: str) -> RunConfig:
    """Convert a published config to our keys; a config of this repository passes unchanged.

    Raises UserError, naming `source` and the nearest keys, for unknown keys.
    """
    if not isinstance(values.get("arch"), dict) or not isinstance(values["arch"].get("name"), str):
        raise UserError(f"{source}: is not the config of a run, because it has no arch.name")
    values = dict(values)
    for old, new in ACCEPTED_IN_FILES.items():
        if old in values:
            value = values.pop(old)
            values.setdefault(new, [value] if isinstance(value, str) else value)
    for key, neutral in REMOVED.items():
        if values.get(key) == neutral:
            del values[key]
    arch = dict(values["arch"])
    sizes = {key: arch.pop(key) for key in SIZES if arch.get(key) is not None}
    if arch["name"] in PUBLISHED_NAMES:
        arch["name"] = PUBLISHED_NAMES[arch["name"]]
        _drop_ignored_keys(arch, source)
    values["arch"] = arch
    try:
        checked = parse(PretrainConfig, values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    bad = [key for key, size in sizes.items() if not isinstance(size, int) or size < 1]
    if bad:
        raise UserError(f"{source}: arch.{bad[0]} is {sizes[bad[0]]!r}, but must be a positive integer")
    return RunConfig(checked.model_dump(), sizes)


def _drop_ignored_keys(arch: dict[str, Any], source: str) -> None:
    if arch.pop("causal", False):
        raise UserError(f"{source}: arch.causal is true, but no architecture here has causal attention")
    arch.pop("batch_size", None)  # used by the published puzzle embedding; not needed here
    for key in IGNORED_AS_PUBLISHED[arch["name"]]:
        arch.pop(key, None)
