"""torch's optimizers without the import of its compiler."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer


class EagerOptimizer(Optimizer):
    """An optimizer that is never compiled.

    torch wraps these methods so that `torch.compile` leaves them out, and the first call of such a wrapper imports
    torch._dynamo: 1.5 s of every start. The labels for profilers that `step` and `zero_grad` have in torch take 0.2 ms
    of each update on a CPU, a percent of a small network's; with them go the hooks of `step`, which nobody uses.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def _patch_step_function(self) -> None:
        """Leave `step` as it is; called by torch's constructor."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free the gradients; for `set_to_none=False` set them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = torch.zeros_like(p.grad)


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's AdamW."""

    # In place of torch's own wrapper, which also supports steps with a gradient.
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(EagerOptimizer, torch.optim.Muon):
    """torch's Muon."""
