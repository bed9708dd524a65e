"""Record what a model computes while it solves one puzzle: latents, attention and logits, by step and cycle.

Shapes: T supervision steps, A network applications of a step, C cycles of a step (applications that update the answer),
S `seq_len`, L positions with the puzzle prefix, D hidden size, V vocabulary, N heads.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.blocks import Network
from models.layers import Attention
from models.losses import ACTLossHead
from utils.errors import UserError
from utils.files import cannot_write, replacing

MAX_ATTENTION_BYTES = 2**28
_UNKNOWN = "mixed"  # the network's input is a sum of latents, as in trm_hier6


class Recording:
    """Context manager that records every supervision step that a model runs on one puzzle.

    Follows each latent through the recursion by the tensors that `RecursiveModel.f` is given, so any architecture that
    applies its networks through `f` can be recorded. Numbers are not changed. Raises UserError if the model is run on
    several puzzles at once.
    """

    def __init__(self, head: ACTLossHead):
        self.head, self.inner, self.num_steps = head, head.architecture, 0
        self.answer_name = next(iter(self.inner.latents))
        self.updates: list[str] = []  # the latent that each application updates, of all steps
        self.attention_bytes = 0
        self._names: dict[int, str] = {}  # id of a latent's tensor -> its name
        self._kept: list[Tensor] = []  # keeps these ids unique
        self._latents: list[np.ndarray] = []
        self._heads: list[tuple[np.ndarray, ...]] = []
        self._attention: dict[str, list[np.ndarray]] = defaultdict(list)
        self._hooks: list[Any] = []

    def __enter__(self) -> Recording:
        self.inner.f = self._apply  # type: ignore[method-assign]  # hides the method of the class until deleted
        self._hooks = [self.inner.register_forward_pre_hook(self._begin_step)]
        for name, module in self.inner.named_modules():
            if isinstance(module, Attention):
                self._hooks.append(module.register_forward_hook(self._attention_hook(name)))
        return self

    def __exit__(self, *exception) -> None:
        del self.inner.f  # the class has the real one
        for hook in self._hooks:
            hook.remove()
        self._kept.clear()

    def _begin_step(self, module: nn.Module, arguments: tuple) -> None:
        state = arguments[0]
        if len(state[0]) != 1:
            raise UserError("a recording is of one puzzle at a time")
        self.num_steps += 1
        self._kept = list(state)
        self._names = {id(latent): name for latent, name in zip(state, self.inner.latents, strict=True)}

    def _apply(self, network: Network, h: Tensor, injection: Tensor | None, times: int = 1) -> Tensor:
        for _ in range(times):
            h = self._apply_once(network, h, injection)
        return h

    def _apply_once(self, network: Network, h: Tensor, injection: Tensor | None) -> Tensor:
        self._updated = self._names.get(id(h), _UNKNOWN)
        new = type(self.inner).f(self.inner, network, h, injection)
        self._names[id(new)] = self._updated
        self._kept.append(new)
        self.updates.append(self._updated)
        self._latents.append(_half(new[0]))
        if self._updated == self.answer_name:
            logits, *halting = self.inner.heads((new,))
            tokens = range(logits.shape[-1])
            losses = [
                self.head.token_loss(logits, torch.full(logits.shape[:2], v).to(logits.device))
                for v in tokens
            ]
            outputs = (logits, -torch.stack(losses, -1), *halting)
            self._heads.append(tuple(_single(output[0]) for output in outputs))
        return new

    def _attention_hook(self, name: str):
        def record(module: Attention, arguments: tuple, output: Tensor) -> None:
            h, cos_sin = arguments
            if self._updated != self.answer_name:
                return
            # One matrix (L, L) per head for every row, in 16 bit; refused before it is computed.
            per_step = 2 * h.shape[0] * module.num_heads * h.shape[1] ** 2
            self.attention_bytes += per_step
            if self.attention_bytes <= MAX_ATTENTION_BYTES:
                weights = module.weights(h, cos_sin)
                self._attention[name].append(_half(weights[0] if len(weights) == 1 else weights))

        return record

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the recorded arrays by name.

        `latents` (T, A, L, D) and `attention.MODULE` (T, C, N, L, L), (T, C, rows, N, L, L) if a module attends within
        several rows of a puzzle, in float16; `logits` and `log_probabilities` (of the trained loss) (T, C, S, V),
        `q_halt` and `q_continue` (T, C) in float32;
        `updates` (A,), the name of the latent that an application updates; `prefix_len`. There is no attention if that
        would be more than `MAX_ATTENTION_BYTES`.
        """
        steps = self.num_steps
        names = ("logits", "log_probabilities", "q_halt", "q_continue")
        heads = [np.stack(values) for values in zip(*self._heads, strict=True)]
        found = {"latents": np.stack(self._latents)} | dict(zip(names, heads, strict=True))
        if self.attention_bytes <= MAX_ATTENTION_BYTES:
            found |= {f"attention.{name}": np.stack(values) for name, values in self._attention.items()}
        arrays = {name: _by_step(values, steps) for name, values in found.items()}
        arrays["updates"] = np.array(self.updates[: len(self.updates) // steps])
        arrays["prefix_len"] = np.array(self.inner.prefix_len)
        return arrays

    def attention_in_words(self) -> str:
        """Say which attention was recorded, or why none was."""
        if self.attention_bytes > MAX_ATTENTION_BYTES:
            return (
                f"no attention, which would be {self.attention_bytes / 2**20:,.0f} MiB, more than "
                f"{MAX_ATTENTION_BYTES / 2**20:.0f}: fewer steps= need less"
            )
        return (
            f"attention of {len(self._attention)} modules"
            if self._attention
            else "no attention in this model"
        )


def write_recording(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz, whose bytes depend on the arrays only. Raises UserError if that fails."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
    except OSError as error:
        raise cannot_write(path, error, "trace") from error


def _by_step(values: np.ndarray, steps: int) -> np.ndarray:
    """Split (T · n, ...) into (T, n, ...)."""
    assert len(values) % steps == 0, (len(values), steps)
    return values.reshape(steps, len(values) // steps, *values.shape[1:])


def _half(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().astype(np.float16)


def _single(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
