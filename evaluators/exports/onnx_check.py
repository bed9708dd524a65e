"""Compare the supervision step of an ONNX file with PyTorch's.

Shapes: B batch, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluators.exports.onnx_step import SupervisionStep, check_packages
from models.losses import ACTLossHead
from utils.errors import UserError

TOLERANCE = 1e-4
NUM_STEPS = 16
_BATCH_SIZES = (1, 3)


@dataclass(frozen=True)
class OnnxAgreement:
    """The largest differences between ONNX Runtime and PyTorch, absolute for values up to 1 and relative above."""

    by_step: float  # of one step from the same latents
    iterated: float  # of steps that start from each runtime's own latents
    same_answers: float  # share of cells with the same token after the last step


def compare_with_torch(
    model: bytes, head: ACTLossHead, num_steps: int = NUM_STEPS, puzzles: np.ndarray | None = None
) -> OnnxAgreement:
    """Run both for `num_steps` steps on puzzles (B, S), by default random tokens in batches of 1 and 3.

    Rounding grows from step to step if the recursion does not contract, so every step is compared from PyTorch's
    latents too. Raises UserError if such a step differs by more than `TOLERANCE`.
    """
    batches = [puzzles] if puzzles is not None else list(_random_puzzles(head))
    found = [_compare(model, head, torch.as_tensor(batch), num_steps) for batch in batches]
    worst = OnnxAgreement(
        max(one.by_step for one in found),
        max(one.iterated for one in found),
        min(one.same_answers for one in found),
    )
    if not worst.by_step <= TOLERANCE:
        raise UserError(
            f"onnx= and page=: a step of the ONNX file differs by {worst.by_step:.2g} from PyTorch's, more than "
            f"{TOLERANCE:g}: install the tested versions, pip install -r requirements-onnx.txt -c constraints.txt"
        )
    return worst


def _random_puzzles(head: ACTLossHead) -> Iterator[np.ndarray]:
    config = head.architecture.config
    for size in _BATCH_SIZES:
        yield np.random.default_rng(size).integers(0, config.vocab_size, (size, config.seq_len))


@torch.no_grad()
def _compare(model: bytes, head: ACTLossHead, puzzles: Tensor, num_steps: int) -> OnnxAgreement:
    check_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    step = SupervisionStep(head).eval()

    def run_onnx(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        feeds = {name: value.numpy() for name, value in zip(step.input_names, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(step.output_names, feeds)))

    identifiers = torch.arange(len(puzzles)) % head.architecture.config.num_puzzle_identifiers
    of_torch = of_onnx = step.first_inputs(puzzles, identifiers)
    by_step = iterated = 0.0
    num_latents = len(head.act.latent_names)
    for _ in range(num_steps):
        expected = step(*of_torch)
        by_step = max(by_step, _difference(run_onnx(of_torch), expected))
        found = run_onnx(of_onnx)
        iterated = max(iterated, _difference(found, expected))
        of_torch = (*of_torch[:-num_latents], *expected[-num_latents:])
        of_onnx = (*of_onnx[:-num_latents], *found[-num_latents:])
    same = (found[0].argmax(-1) == expected[0].argmax(-1)).float().mean()
    return OnnxAgreement(by_step, iterated, float(same))


def _difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    return max(
        float(((one - other).abs() / other.abs().clamp(min=1)).max())
        for one, other in zip(found, expected, strict=True)
    )
