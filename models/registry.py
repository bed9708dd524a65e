"""Look up classes by their names in a config, and build models from a config."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from models.arch_configs import CONFIGS, LOSS_TYPES, LossConfig, RecursiveConfig
from utils.strict_model import Problem, StrictModel, describe

if TYPE_CHECKING:  # a config is checked before torch is imported
    from models.losses import ACTLossHead
    from models.recursive import RecursiveModel

# Identifiers in published configs; any other `module@Class` is imported from `models.`.
PUBLISHED_NAMES = {
    "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1": "trm",
    "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1": "trm_singlez",
    "recursive_reasoning.trm_hier6@TinyRecursiveReasoningModel_ACTV1": "trm_hier6",
    "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1": "hrm",
    "recursive_reasoning.transformers_baseline@Model_ACTV2": "transformers_baseline",
    # The name in the HRM authors' repository.
    "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1": "hrm",
}


SIZES = ("seq_len", "vocab_size", "num_puzzle_identifiers")
FROM_DATA = (*SIZES, "units")  # settings that come from the data, in all or some architectures
DEFAULT_LOSS = "losses@ACTLossHead"


class ArchitectureName(StrictModel):
    """The key under `arch` that chooses the schema of the others."""

    name: str
    """Registry name, published identifier, or module@Class below models/."""


class LossName(StrictModel):
    """The key under `arch.loss` that chooses the schema of the others."""

    name: str = DEFAULT_LOSS
    """Loss head, module@Class below models/."""


def import_below(package: str, identifier: str, choices: Iterable[str], key: str) -> type:
    """Import the class `module@Class` from below `package`; "" stands for modules outside this repository.

    Raises ValueError, naming `key` and the `choices`, if there is no such module or class.
    """
    module_name, at, class_name = identifier.partition("@")
    known = ", ".join(choices)
    if not at:
        near = difflib.get_close_matches(identifier, list(choices), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{key}={identifier!r} is unknown{hint}: use one of {known}, or module@Class below {package}."
        )
    path = f"{package}.{module_name}" if package else module_name
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports is missing
        raise ValueError(
            f"{key}={identifier!r}: there is no module {path}; known names are {known}"
        ) from None
    if not inspect.isclass(getattr(module, class_name, None)):
        raise ValueError(f"{key}={identifier!r}: module {path} has no class {class_name}")
    return getattr(module, class_name)


def architecture_class(name: str) -> type[RecursiveModel]:
    """Look up `arch.name`: a registry name, a published identifier or `module@Class` below `models.`."""
    name = PUBLISHED_NAMES.get(name, name)
    if name in CONFIGS:
        from models.architectures import ARCHITECTURES

        return ARCHITECTURES[name]
    cls = import_below("models", name, CONFIGS, "arch.name")
    from models.recursive import RecursiveModel

    if not issubclass(cls, RecursiveModel):
        raise ValueError(
            f"arch.name={name!r}: {cls.__name__} must derive from models.recursive.RecursiveModel"
        )
    return cls


def architecture_config(name: str) -> type[RecursiveConfig]:
    """Look up the settings of `arch.name`; only a user's own class is imported for them."""
    return CONFIGS.get(PUBLISHED_NAMES.get(name, name)) or architecture_class(name).Config


def loss_config(name: str) -> type[StrictModel]:
    """Look up the settings of `arch.loss.name`; only a user's own class is imported for them."""
    return LossConfig if name == DEFAULT_LOSS else loss_class(name).Config


def loss_class(name: str) -> type[ACTLossHead]:
    """Look up `arch.loss.name`: `module@Class` below `models.`."""
    cls = import_below("models", name, [DEFAULT_LOSS], "arch.loss.name")
    from models.losses import ACTLossHead

    if not issubclass(cls, ACTLossHead):
        raise ValueError(
            f"arch.loss.name={name!r}: {cls.__name__} must derive from models.losses.ACTLossHead"
        )
    return cls


SchemaT = TypeVar("SchemaT", bound=StrictModel)


class ConfigError(ValueError):
    """Raised for an invalid model config; `problems` lists (dotted key, message, valid keys at that level)."""

    def __init__(self, problems: list[Problem]):
        super().__init__("; ".join(f"{key}: {message}" for key, message, _ in problems))
        self.problems = problems


@dataclass(frozen=True)
class CheckedArch:
    """A checked `arch` section: the names in it and their settings."""

    name: str
    config: RecursiveConfig
    loss_name: str
    loss: dict[str, Any]

    def build(self) -> ACTLossHead:
        """Build a freshly initialised model in its loss head."""
        from models.act import ACTModel

        inner = architecture_class(self.name)(self.config)
        return loss_class(self.loss_name)(ACTModel(inner), **self.loss)


def parse_arch(arch: dict[str, Any], *, units: dict | None = None, **sizes: int) -> CheckedArch:
    """Check an `arch` section; `sizes` are seq_len, vocab_size, num_puzzle_identifiers (any, before data is read).

    Raises ConfigError with every problem, ValueError if a name is missing or unknown.
    """
    settings = dict(arch)
    if not isinstance(settings.get("name"), str):
        raise ValueError(f"arch.name is missing: use one of {', '.join(CONFIGS)}")
    name = settings.pop("name")
    schema = architecture_config(name)
    loss = settings.pop("loss", None) or {}
    if not isinstance(loss, dict):
        raise ValueError(
            f"arch.loss={loss!r}: must be a mapping such as {{loss_type: softmax_cross_entropy}}"
        )
    loss = dict(loss)
    loss_name = loss.pop("name", DEFAULT_LOSS)
    if not isinstance(loss_name, str):
        raise ValueError(f"arch.loss.name={loss_name!r}: must be a name such as {DEFAULT_LOSS}")
    loss_schema = loss_config(loss_name)
    from_data: dict[str, Any] = dict(sizes)
    if "units" in schema.model_fields:
        from_data["units"] = units
    problems: list[Problem] = [
        (f"arch.{key}", "comes from the data and cannot be set", []) for key in from_data if key in settings
    ]
    config, found = _validated("arch", schema, settings | from_data, hidden=from_data)
    problems += found
    problems += _validated("arch.loss", loss_schema, loss)[1]
    loss_type = loss.get("loss_type", "stablemax_cross_entropy")
    if loss_type not in LOSS_TYPES and not problems:
        problems.append(("arch.loss.loss_type", f"{loss_type!r} is not one of {', '.join(LOSS_TYPES)}", []))
    if config is None or problems:
        raise ConfigError(problems)
    return CheckedArch(name, config, loss_name, loss)


def _validated(
    prefix: str, schema: type[SchemaT], values: dict[str, Any], hidden: Container[str] = ()
) -> tuple[SchemaT | None, list[Problem]]:
    """Validate `values`; None if there are problems. Keys in `hidden` are not suggested for unknown ones."""
    try:
        return schema(**values), []
    except ValidationError as error:
        valid = [f"{prefix}.{name}" for name in schema.model_fields if name not in hidden]
        if prefix == "arch":
            valid += ["arch.name", "arch.loss"]
        problems = []
        for item in error.errors():
            key = ".".join([prefix, *map(str, item["loc"])])
            unknown = item["type"] == "extra_forbidden"
            problems.append((key, describe(item), valid if unknown else []))
        return None, problems


def check_arch(arch: dict[str, Any], *, units: dict | None = None, **sizes: int) -> RecursiveConfig:
    """Return the architecture's settings from an `arch` section; parameters and errors as in `parse_arch`."""
    return parse_arch(arch, units=units, **sizes).config


@dataclass(frozen=True)
class ModelSize:
    """Memory of a model's tensors and latents, known before it is built."""

    parameter_bytes: int  # trained by autograd
    buffer_bytes: int  # the puzzle table and constants
    latent_bytes: int  # one latent of one row, in the compute dtype
    num_blocks: int


_ORDINARY_VALUES = 2**28  # a GiB of float32


def is_unusually_large(config: RecursiveConfig) -> bool:
    """True if a model may have more than 2^28 values, so that its `model_size` should be checked before it is built.

    A rough estimate that needs no tensors. (`model_size` uses the meta device, whose shape functions import sympy and
    torch._dynamo, which takes seconds.)
    """
    length = config.seq_len + config.puzzle_emb_len
    width = max(config.hidden_size, config.puzzle_emb_ndim, length if config.mlp_t else 0)
    blocks = (config.H_layers + config.L_layers) * width**2 * (4 + 4 * config.expansion)
    tables = (length + 2 * config.vocab_size) * width + config.num_puzzle_identifiers * config.puzzle_emb_ndim
    return blocks + tables > _ORDINARY_VALUES


def model_size(arch: dict, **sizes: Any) -> ModelSize:
    """Compute the size of the model that `build_model` would return, without allocating it.

    Raises ValueError as `build_model` does, and for tensors that are too large for any machine.
    """
    import torch

    try:
        with torch.device("meta"):
            inner = build_model(arch, **sizes).architecture
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"arch: a tensor of this model is too large for any machine ({reason}): lower hidden_size, expansion, "
            "puzzle_emb_ndim or puzzle_emb_len"
        ) from error
    return size_of(inner)


def size_of(inner: RecursiveModel) -> ModelSize:
    """The size of a model that is built."""
    return ModelSize(
        sum(p.numel() * p.element_size() for p in inner.parameters()),
        sum(b.numel() * b.element_size() for b in inner.buffers()),
        inner.length * inner.config.hidden_size * inner.dtype.itemsize,
        sum(len(getattr(inner, network).layers) for network in inner.networks),
    )


def build_model(
    arch: dict, *, seq_len: int, vocab_size: int, num_puzzle_identifiers: int, units: dict | None = None
) -> ACTLossHead:
    """Build a freshly initialised model in its loss head, from a config's `arch` section and the dataset's sizes.

    `units` is a `dataset.units.CellUnits` as JSON; architectures without units ignore it.
    """
    sizes = {"seq_len": seq_len, "vocab_size": vocab_size, "num_puzzle_identifiers": num_puzzle_identifiers}
    return parse_arch(arch, **sizes, units=units).build()
