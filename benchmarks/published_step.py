"""Time an eager train step and an evaluation step against those of the published code.

    python -m benchmarks.published_step                       the cases of benchmarks/README.md, in bfloat16
    python -m benchmarks.published_step --only mlp --threads 1

The published step is reimplemented here with the operations of arXiv 2510.04871's code in their order: weights are
cast at every use, autograd differentiates `silu(gate) * up` and the rotation, the loss is in float64, and averages are
updated one tensor at a time. It starts from a copy of the same weights, and a first check requires bit-equal logits.
AdamATan2 is ours on both sides, because the published one runs on CUDA only.

Seconds are processor time of all threads of the process, which other load on the machine affects less; the two take
turns, and the median of the pairs' ratios is reported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step import CASES, Case, config_of
from models.blocks import Block
from models.layers import Attention, SwiGLU
from utils.device import keep_freed_memory, make_deterministic
from utils.distributed import World

State = tuple[Tensor, Tensor]  # z_H and z_L, each (B, L, D)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    bias = getattr(layer, "bias", None)
    return F.linear(x, layer.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def rms_norm(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.float32)
    variance = wide.square().mean(-1, keepdim=True)
    return (wide * torch.rsqrt(variance + eps)).to(x.dtype)


def swiglu(layer: SwiGLU, x: Tensor) -> Tensor:
    gate, up = linear(layer.gate_up_proj, x).chunk(2, dim=-1)
    return linear(layer.down_proj, F.silu(gate) * up)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to (B, L, N, H), with the two halves of the channels swapped by concatenation."""
    wide, half = x.to(cos.dtype), x.shape[-1] // 2
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)).to(x.dtype)


def attention(layer: Attention, x: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
    heads, width = layer.num_heads, layer.head_dim
    qkv = linear(layer.qkv_proj, x).view(*x.shape[:2], 3 * heads, width)
    q, k, v = qkv[:, :, :heads], qkv[:, :, heads : 2 * heads], qkv[:, :, 2 * heads :]
    if cos_sin is not None:
        q, k = rotated(q, *cos_sin), rotated(k, *cos_sin)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=False)
    return linear(layer.o_proj, out.transpose(1, 2).reshape(*x.shape[:2], heads * width))


def block(layer: Block, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
    if layer.mixes_by_mlp:
        h = h.transpose(1, 2)
        h = rms_norm(h + swiglu(layer.mlp_t, h), layer.eps).transpose(1, 2)
    else:
        h = rms_norm(h + attention(layer.self_attn, h, cos_sin), layer.eps)
    return rms_norm(h + swiglu(layer.mlp, h), layer.eps)


def log_stablemax(x: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    s = torch.where(wide < 0, 1 / (1 - wide + 1e-30), wide + 1)
    return torch.log(s / s.sum(-1, keepdim=True))


class PublishedStep:
    """The published train step and evaluation, on the weights of a `Case` of `trm`."""

    def __init__(self, case: Case):
        self.case, self.model = case, case.model
        self.inner = case.model.architecture
        self.shadow = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.latents: State | None = None
        self.number = 0

    def network(self, h: Tensor, injection: Tensor) -> Tensor:
        cos_sin = self.inner.cos_sin()
        h = h + injection
        for layer in self.inner.L_level.layers:
            h = block(layer, h, cos_sin)
        return h

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        inner = self.inner
        x = F.embedding(inputs, inner.embed_tokens.embedding_weight.to(inner.dtype))
        if puzzle_rows is not None:
            pad = inner.prefix_len * x.shape[-1] - puzzle_rows.shape[-1]
            if pad > 0:
                puzzle_rows = F.pad(puzzle_rows, (0, pad))
            prefix = puzzle_rows.view(-1, inner.prefix_len, x.shape[-1])
            x = torch.cat((prefix.to(x.dtype), x), dim=-2)
        return inner.scale * x

    def recur(self, state: State, x: Tensor) -> State:
        z_h, z_l = state
        with torch.no_grad():
            for _ in range(self.inner.H_cycles - 1):
                for _ in range(self.inner.L_cycles):
                    z_l = self.network(z_l, z_h + x)
                z_h = self.network(z_h, z_l)
        for _ in range(self.inner.L_cycles):
            z_l = self.network(z_l, z_h + x)
        return self.network(z_h, z_l), z_l

    def step(self, halted: Tensor, state: State, batch: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """Run one step; halted rows start from initial latents. Returns state, logits (B, S, V) and q (B, 2)."""
        inner = self.inner
        inits = inner.H_init, inner.L_init
        z_h, z_l = (
            torch.where(halted.view(-1, 1, 1), init, old) for init, old in zip(inits, state, strict=True)
        )
        x = self.embed(batch["inputs"], inner.puzzle_rows(batch))
        z_h, z_l = self.recur((z_h, z_l), x)
        logits = linear(inner.lm_head, z_h)[:, inner.prefix_len :]
        q = linear(inner.q_head, z_h[:, 0]).to(torch.float32)
        return (z_h.detach(), z_l.detach()), logits, q

    def empty_state(self, batch: dict[str, Tensor]) -> State:
        shape = len(batch["inputs"]), self.inner.length, self.inner.config.hidden_size
        z_h, z_l = (torch.empty(shape, dtype=self.inner.dtype) for _ in range(2))
        return z_h, z_l

    def train_step(self) -> None:
        model, batch, optimizers = self.model.train(), self.case.batch, self.case.state.optimizers
        rows = len(batch["inputs"])
        self.number += 1
        optimizers.schedule(self.number)
        if self.latents is None:
            self.latents, self.halted = self.empty_state(batch), torch.ones(rows, dtype=torch.bool)
            self.steps, self.current = torch.zeros(rows, dtype=torch.int32), batch
        halted = self.halted
        self.steps = torch.where(halted, 0, self.steps)
        self.current = {
            name: torch.where(halted.view(-1, *[1] * (value.ndim - 1)), batch[name], value)
            for name, value in self.current.items()
        }
        self.latents, logits, q = self.step(halted, self.latents, self.current)
        config = self.inner.config
        with torch.no_grad():
            self.steps = self.steps + 1
            last = self.steps >= config.halt_max_steps
            explores = torch.rand_like(q[:, 0]) < config.halt_exploration_prob
            least = explores * torch.randint_like(self.steps, 2, config.halt_max_steps + 1)
            self.halted = (last | (q[:, 0] > 0)) & (self.steps >= least)
            labels = self.current["labels"]
            mask = labels != -100
            counts = mask.sum(-1)
            right = mask & (logits.argmax(-1) == labels)
            exact = right.sum(-1) == counts
            counted = self.halted & (counts > 0)
            divisor = counts.clamp_min(1).unsqueeze(-1)
            metrics = [
                counted.sum(),
                torch.where(counted, (right.to(torch.float32) / divisor).sum(-1), 0).sum(),
                (counted & exact).sum(),
                (counted & ((q[:, 0] >= 0) == exact)).sum(),
                torch.where(counted, self.steps, 0).sum(),
            ]
        picked = (
            log_stablemax(logits).gather(-1, torch.where(mask, labels, 0).long().unsqueeze(-1)).squeeze(-1)
        )
        lm_loss = (-torch.where(mask, picked, 0) / divisor).sum()
        q_loss = F.binary_cross_entropy_with_logits(q[:, 0], exact.to(q.dtype), reduction="sum")
        ((lm_loss + 0.5 * q_loss) / rows).backward()
        optimizers.step()
        optimizers.zero_grad()
        with torch.no_grad():
            for name, param in model.named_parameters():
                self.shadow[name].copy_(0.001 * param + 0.999 * self.shadow[name])
        torch.stack([metric.float() for metric in (*metrics, lm_loss.detach(), q_loss.detach())])

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        """Run all steps of one batch; returns the last logits (B, S, V)."""
        self.model.eval()
        batch = self.case.batch
        state, halted = self.empty_state(batch), torch.ones(len(batch["inputs"]), dtype=torch.bool)
        for _ in range(self.model.act.max_steps):
            state, logits, _ = self.step(halted, state, batch)
            halted = torch.zeros_like(halted)
        return logits


def processor_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def compare(name: str, ours: Callable[[], object], published: Callable[[], object], repeats: int) -> None:
    """Time both in turn, and print the medians of their seconds and of the pairs' ratios."""
    ours(), published()
    pairs = []
    for number in range(repeats):  # alternate the order, because the second of a pair is a few percent faster
        if number % 2:
            pairs.append((processor_seconds(ours), processor_seconds(published)))
        else:
            pairs.append((processor_seconds(published), processor_seconds(ours))[::-1])
    here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name}: {here:.3f} s, published {there:.3f} s, ratio {ratio:.2f}", flush=True)


def cases(overrides: tuple[str, ...], dtype: str) -> tuple[Case, PublishedStep]:
    """Return a case, and the published step with the same weights."""
    own = [item for item in overrides if not item.startswith("seq_len=")]
    (seq_len,) = [int(item.split("=")[1]) for item in overrides if item.startswith("seq_len=")]
    config = config_of(*own, f"arch.forward_dtype={dtype}", "device=cpu", "ema=True")
    ours, theirs = (Case(config, seq_len, World(device=torch.device("cpu"))) for _ in range(2))
    return ours, PublishedStep(theirs)


@torch.no_grad()
def logits_of(case: Case) -> Tensor:
    """Return the logits of `case` after all steps of an evaluation."""
    model = case.model.eval().act
    carry = model.initial_carry(case.batch)
    for _ in range(model.max_steps):
        carry, outputs = model(carry, case.batch)
    return outputs["logits"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.published_step", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=8, help="timed pairs (8)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: chosen by torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    make_deterministic(device)
    keep_freed_memory(device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.dtype}; processor time")
    of_trm = {name: overrides for name, overrides in CASES.items() if "arch=trm" in overrides}
    for name, overrides in of_trm.items():
        if options.only and not any(part in name for part in options.only):
            continue
        ours, published = cases(overrides, options.dtype)
        for each in (ours, published):  # every step of an evaluation costs the same
            each.model.act.max_steps = 1
        assert torch.equal(logits_of(ours), published.evaluate()), "the published step gives other logits"
        compare(f"{name}, evaluation step", ours.evaluate, published.evaluate, options.repeats)
        for each in (ours, published):
            each.model.act.max_steps = 16
        compare(f"{name}, train step", ours.train_step, published.train_step, options.repeats)


if __name__ == "__main__":
    main()
