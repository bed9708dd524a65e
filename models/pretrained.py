"""Load weights into a model, strictly, with one listing of everything that does not fit.

State dicts, published or ours, are those of `ACTLossHead`: every name begins with `model.inner.`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from models.arch_configs import prefix_length
from models.losses import ACTLossHead
from models.recursive import RecursiveConfig

INNER = "model.inner."
TABLE = f"{INNER}puzzle_emb.weights"
_HEAD = "lm_head.weight"  # in every architecture, so the prefix of the names is found from it
_SHOWN = 12  # names per kind in a listing, so that three kinds fit on one screen


class WeightsMismatch(ValueError):
    """Raised for weights that do not fit the model, with a listing of the differences."""


def canonical_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names in `ACTLossHead.state_dict`.

    State dicts of the architecture or the ACT model alone lack `model.inner.` or `model.`; wrappers add a prefix.
    """
    heads = [name for name in state if name == _HEAD or name.endswith(f".{_HEAD}")]
    if len(heads) != 1:
        return dict(state)
    prefix = heads[0].removesuffix(_HEAD)
    return {
        INNER + name.removeprefix(prefix) if name.startswith(prefix) else name: value
        for name, value in state.items()
    }


def load_weights(
    model: ACTLossHead,
    state: Mapping[str, Tensor],
    *,
    source: str,
    purpose: Literal["finetune", "evaluate"],
    notice: Callable[[str], None],
) -> None:
    """Copy `state` into `model`; its names may be in any form that `canonical_names` knows.

    A puzzle table with a different number of rows is replaced by its mean row, with a notice; in evaluation only if the
    data has a single identifier. Raises WeightsMismatch and then leaves the model unchanged.
    """
    state, own = canonical_names(state), model.state_dict()
    if TABLE in state and TABLE in own:
        table, rows = state[TABLE], own[TABLE].shape[0]
        if table.shape[0] != rows and table.shape[1:] == own[TABLE].shape[1:]:
            if purpose == "evaluate" and rows > 1:
                raise WeightsMismatch(_identifiers_differ(source, table.shape[0], rows))
            mean = table.float().mean(dim=0, keepdim=True)
            state[TABLE] = mean.expand(rows, -1)
            notice(
                f"{source}: its puzzle table has {table.shape[0]} rows, not {rows}: each starts as their mean"
            )
    missing = [_shaped(name, own[name]) for name in own if name not in state]
    unexpected = [_shaped(name, state[name]) for name in state if name not in own]
    reshaped = [
        f"{name}: {_shape(state[name])} in the weights, {_shape(own[name])} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        listing = "\n".join(_listing(title, names) for title, names in parts if names)
        raise WeightsMismatch(
            f"{source}: the weights do not fit this model\n{listing}\n"
            "Use the arch settings (and data of the sizes) that the weights were trained with."
        )
    model.load_state_dict(state, strict=True)


def sizes_in(state: Mapping[str, Tensor], arch: RecursiveConfig) -> dict[str, int]:
    """Infer seq_len, vocab_size and num_puzzle_identifiers from the weights, as far as they determine them.

    Rotary positions have no weights, so `seq_len` is unknown with them.
    """
    state, sizes = canonical_names(state), {}
    if INNER + _HEAD in state and "vocab_size" not in arch.free_sizes:
        sizes["vocab_size"] = state[INNER + _HEAD].shape[0]
    if TABLE in state:
        sizes["num_puzzle_identifiers"] = state[TABLE].shape[0]
    lengths = [
        value.shape[0] for name, value in state.items() if name == f"{INNER}embed_pos.embedding_weight"
    ]
    lengths += [
        value.shape[1] for name, value in state.items() if name.endswith(".mlp_t.gate_up_proj.weight")
    ]
    if lengths:
        sizes["seq_len"] = lengths[0] - prefix_length(
            arch.hidden_size, arch.puzzle_emb_ndim, arch.puzzle_emb_len
        )
    return sizes


def _identifiers_differ(source: str, saved: int, wanted: int) -> str:
    return (
        f"{source}: was trained with {saved} puzzle identifiers, the data has {wanted}: with wrong rows of the puzzle "
        "table a model answers as badly as an untrained one. Evaluate on the dataset it was trained on: published ARC "
        "weights need the identifiers.json that they were trained with, and data built to it."
    )


def _listing(title: str, names: list[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "\n".join([f"  {title} ({len(names)}):", *(f"    {name}" for name in [*names[:_SHOWN], *more])])


def _shaped(name: str, tensor: Tensor) -> str:
    return f"{name} {_shape(tensor)}"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
