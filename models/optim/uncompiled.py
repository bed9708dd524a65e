"""torch's optimizers without the import of its compiler."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer


class EagerOptimizer(Optimizer):
    """An optimizer that is never compiled.

    torch wraps these methods so that `torch.compile` leaves them out, and the first call of such a wrapper imports
    torch._dynamo: 1.5 s of every start.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's AdamW."""

    # In place of torch's own wrapper, which also supports steps with a gradient.
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(EagerOptimizer, torch.optim.Muon):
    """torch's Muon."""
