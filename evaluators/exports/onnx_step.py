"""Write one supervision step of a model as an ONNX file, with a description of how to iterate it.

The file computes in float32, for any batch size. Shapes: B batch, S `seq_len`, L positions, D hidden size,
V vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.losses import ACTLossHead, softmax_cross_entropy
from utils.errors import UserError
from utils.files import replacing, write_text, writing_into

MODEL_NAME, DESCRIPTION_NAME = "step.onnx", "step.json"
ONNX_FILES = (MODEL_NAME, DESCRIPTION_NAME)
NEXT = "next_"  # prefix of an output that is an input of the following step
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # browsers and phones have it
_MOST_BYTES = 2**31 - 2**24  # a protocol buffer has less than 2 GiB


class SupervisionStep(nn.Module):
    """One supervision step with named inputs and outputs, as the ONNX file has it."""

    def __init__(self, head: ACTLossHead):
        super().__init__()
        self.head = head
        self.takes_identifiers = bool(head.architecture.prefix_len)
        self.compares = head.act.rule.compares

    @property
    def input_names(self) -> list[str]:
        return ["inputs", *["puzzle_identifiers"] * self.takes_identifiers, *self.head.act.latent_names]

    @property
    def output_names(self) -> list[str]:
        latents = [f"{NEXT}{name}" for name in self.head.act.latent_names]
        return ["logits", "confidence", "q_halt", *["q_continue"] * self.compares, *latents]

    def forward(self, inputs: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Take inputs (B, S) int32, identifiers (B,) int32 if there is a puzzle table, and latents (B, L, D).

        Returns logits (B, S, V), the confidence (B, S) in each token of the answer, q_halt (B,), q_continue (B,) if the
        halting rule compares them, and the latents of the next step.
        """
        inner, state, puzzle_rows = self.head.architecture, others, None
        if self.takes_identifiers:
            identifiers, *state = others
            puzzle_rows = inner.puzzle_rows({"puzzle_identifiers": identifiers.long()})
        # ONNX looks up rows by int64 only; a browser passes int32 more easily.
        next_state, (logits, q_halt, q_continue) = inner(tuple(state), inputs.long(), puzzle_rows)
        return logits, self.confidence(logits), q_halt, *[q_continue] * self.compares, *next_state

    def confidence(self, logits: Tensor) -> Tensor:
        """Return the probability (B, S) that the loss assigns to each token of the answer, for logits (B, S, V)."""
        if self.head.token_loss is softmax_cross_entropy:  # which torch's exporter cannot decompose
            return logits.float().softmax(-1).amax(-1)
        return torch.exp(-self.head.token_loss(logits, logits.argmax(-1)))

    def first_inputs(self, inputs: Tensor, identifiers: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the inputs of the first step, with the initial latents, for puzzles (B, S) and identifiers (B,)."""
        if identifiers is None:
            identifiers = torch.zeros(len(inputs), dtype=torch.int32)
        latents = [latent.expand(len(inputs), -1, -1).contiguous() for latent in initial_latents(self.head)]
        return inputs.int(), *[identifiers.int()] * self.takes_identifiers, *latents


def initial_latents(head: ACTLossHead) -> tuple[Tensor, ...]:
    """Return the latents before the first step, each (1, L, D), for any puzzle."""
    return head.act.start_evaluation(1, head.architecture.device)


def check_packages(*names: str) -> None:
    """Raise UserError if one of the optional packages is not installed."""
    missing = [name for name in names or PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"onnx= and page= need {', '.join(missing)}, which cannot be found: pip install -r requirements-onnx.txt"
        )


def check_exportable(head: ACTLossHead) -> None:
    """Raise UserError if a step of this model cannot be written as an ONNX file."""
    config = head.architecture.config
    if config.noise:
        raise UserError(
            f"onnx= and page=: the model adds noise in each step (arch.noise={config.noise:g}), and an ONNX file "
            "cannot draw the same random numbers"
        )
    num_bytes = sum(value.numel() * value.element_size() for value in head.state_dict().values())
    if num_bytes > _MOST_BYTES:
        raise UserError(
            f"onnx= and page=: the model has {num_bytes / 2**30:.1f} GiB of weights, but one ONNX file holds "
            f"{_MOST_BYTES / 2**30:.1f} GiB"
        )
    assert config.forward_dtype == "float32", config.forward_dtype


def describe_step(head: ACTLossHead) -> dict[str, Any]:
    """Return what a program needs to iterate the step, as JSON.

    `latents` has for each latent its shape for one puzzle and the `values` to start with, which broadcast to it.
    """
    inner, step = head.architecture, SupervisionStep(head)
    latents = {}
    for name, latent in zip(head.act.latent_names, initial_latents(head), strict=True):
        values = latent[0] if inner.config.random_init else latent[0, 0]  # (L, D), or (D,) at all positions
        latents[name] = {"shape": list(latent.shape), "values": _shortest(values)}
    return {
        "library_name": "tiny-recursion",
        "file": MODEL_NAME,
        "seq_len": inner.config.seq_len,
        "vocab_size": inner.config.vocab_size,
        "num_puzzle_identifiers": inner.config.num_puzzle_identifiers,
        "inputs": step.input_names,
        "outputs": step.output_names,
        "takes_identifiers": step.takes_identifiers,
        "trained_steps": head.act.max_steps,
        "says_stop_if": "q_halt > q_continue" if step.compares else "q_halt > 0",
        "latents": latents,
    }


def _shortest(values: Tensor) -> list[Any]:
    """Return float32 values as the shortest decimal numbers that round to them."""
    if values.ndim > 1:
        return [_shortest(row) for row in values]
    return [float(str(value)) for value in values.float().numpy()]


@torch.no_grad()
def onnx_bytes(head: ACTLossHead) -> bytes:
    """Return one supervision step of a float32 model on the CPU as the bytes of an ONNX file.

    Raises UserError if the model has none, or if a package is missing.
    """
    check_packages()
    check_exportable(head)
    step = SupervisionStep(head).eval()
    arguments = step.first_inputs(torch.zeros(2, head.architecture.config.seq_len, dtype=torch.int32))
    rows = {0: torch.export.Dim("batch", min=1)}
    with _silence():
        program = torch.onnx.export(
            step,
            arguments,
            dynamo=True,
            input_names=step.input_names,
            output_names=step.output_names,
            dynamic_shapes=(rows, tuple(rows for _ in arguments[1:])),
            opset_version=_OPSET,
            verbose=False,
        )
    proto = program.model_proto
    proto.metadata_props.add(key="description", value=json.dumps(describe_step(head)))
    return proto.SerializeToString()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Context manager without the exporter's warnings, which concern its own code and not the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_onnx(folder: Path, head: ACTLossHead, model: bytes) -> None:
    """Write the ONNX file and its description into the folder, which is created. Raises UserError if that fails."""
    with writing_into(folder, "onnx"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / MODEL_NAME) as temporary:
            temporary.write_bytes(model)
        write_text(folder / DESCRIPTION_NAME, json.dumps(describe_step(head), indent=2) + "\n")
