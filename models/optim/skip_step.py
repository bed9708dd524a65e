"""Skip an update whose loss or gradient is not finite, without synchronising with the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return a bool scalar on the device, true if all elements are finite: one pass, no synchronisation."""
    norms = torch._foreach_norm(list(tensors))
    return torch.stack(norms).isfinite().all()


@torch.no_grad()
def skip_step_unless(
    ok: Tensor, optimizers: Iterable[Optimizer], shadow: Iterable[Tensor], update: Callable[[], None]
) -> None:
    """Run `update()`; if `ok` is false, every parameter, optimizer state and `shadow` tensor keeps its value.

    On a CPU `ok` is read directly; on an accelerator reading it would stall the queue at each step.
    """
    if ok.device.type == "cpu":
        if ok:
            update()
    else:
        masked(ok, list(optimizers), list(shadow), update)


@torch.no_grad()
def masked(ok: Tensor, optimizers: list[Optimizer], shadow: list[Tensor], update: Callable[[], None]) -> None:
    """`skip_step_unless` without reading `ok`: copy all values before the update and restore them under the mask.

    This costs a few percent of a step's memory traffic. State that an optimizer creates in its first step is reset to
    zero. Step counts on the CPU are not restored, which matters only until the run ends at the next fetch of metrics.
    """
    kept = {tensor: tensor.clone() for tensor in _tensors(optimizers, shadow, ok.device)}
    update()
    for tensor in _tensors(optimizers, shadow, ok.device):
        before = kept.get(tensor)
        tensor.copy_(torch.where(ok, tensor, torch.zeros_like(tensor) if before is None else before))


def _tensors(optimizers: list[Optimizer], shadow: list[Tensor], device: torch.device) -> list[Tensor]:
    """List the tensors on `device` that an update changes (torch's optimizers keep step counts on the CPU)."""
    found = list(shadow)
    for optimizer in optimizers:
        found += [p for group in optimizer.param_groups for p in group["params"]]
        for state in optimizer.state.values():
            found += [value for value in state.values() if isinstance(value, Tensor)]
    return [tensor for tensor in found if tensor.device.type == device.type]
