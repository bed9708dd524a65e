"""Shared parts of all architectures: settings, recursion with gradient in its last cycle only, output heads.

The paper's letters (arXiv 2510.04871): x is the embedded question, y the current answer (HRM's z_H), z the latent
reasoning state (HRM's z_L). A *state* is the tuple of latents, each (B, L, D), carried from one supervision step to the
next. Shapes: B batch, S `seq_len`, P prefix length, L = P + S, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.arch_configs import RecursiveConfig
from models.backends import Backend, Eager
from models.backends.base import State
from models.blocks import Block, Network
from models.embeddings import InputEmbedding
from models.layers import Linear, truncated_normal_

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def halting_head(width: int) -> Linear:
    """Map from (B, width) to q_halt and q_continue; at first it answers -5 to everything, so no row halts."""
    head = Linear(width, 2, bias=True)
    assert head.bias is not None
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, -5.0)
    return head


class RecursiveModel(InputEmbedding):
    """Base of every architecture: embed, recur, read out. A subclass names its latents and defines one cycle.

    Published checkpoints call this module `inner`. A subclass sets `latents` (name in the carry -> name of its
    initial value, a persistent buffer) in the order of its state, the answer first, and `networks`.
    """

    Config: ClassVar[type[RecursiveConfig]] = RecursiveConfig
    config: RecursiveConfig
    H_level: Network
    L_level: Network
    latents: ClassVar[dict[str, str]] = {"z_H": "H_init", "z_L": "L_init"}
    networks: ClassVar[tuple[str, ...]] = ("L_level",)
    # What the architecture knows about the puzzle's rules, for reports and model cards; None: nothing.
    knows: ClassVar[str | None] = None
    # Published halting rule, used if `halting` is null: what is compared, and whether q_continue is learned.
    published_halting: ClassVar[Literal["halt", "q_learning", "q_untrained"]] = "halt"

    def __init__(self, config: RecursiveConfig):
        super().__init__(config, dtype=DTYPES[config.forward_dtype])
        self.config = config
        self.H_cycles, self.L_cycles = config.H_cycles, config.L_cycles
        self.backend: Backend = Eager()  # runs the networks
        # Save only the input of each network application for backward, and recompute its activations.
        self.activation_checkpointing = False
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.q_head = halting_head(config.hidden_size)
        self.add_tables(config)
        for init in self.latents.values():
            # In the compute dtype: float32 latents would silently promote the whole recursion.
            value = truncated_normal_(torch.empty(config.hidden_size), std=1.0).to(self.dtype)
            self.register_buffer(init, value)
        for network in self.networks:
            num_layers = config.H_layers if network == "H_level" else config.L_layers
            setattr(self, network, self.make_network(num_layers))

    def make_network(self, num_layers: int) -> Network:
        c = self.config
        return Network(
            [
                Block(c.hidden_size, c.num_heads, c.expansion, self.length, c.mlp_t, c.rms_norm_eps, c.ffn)
                for _ in range(num_layers)
            ]
        )

    def initial_state(self, batch_size: int) -> State:
        """The latents before the first supervision step, each (B, L, D), in the compute dtype."""
        inits = [getattr(self, init) for init in self.latents.values()]
        if self.config.random_init:
            shape = batch_size, self.length, inits[0].shape[-1]
            return tuple(truncated_normal_(init.new_empty(shape), std=1.0) for init in inits)
        return tuple(init.expand(batch_size, self.length, -1) for init in inits)

    def cycle(self, state: State, x: Tensor) -> State:
        """Run one H-cycle: the architecture's own equations."""
        raise NotImplementedError(f"{type(self).__name__} must define cycle(state, x)")

    def no_grad_cycles(self, state: State, x: Tensor) -> State:
        """Run the part of a supervision step that has no gradient: all cycles but the last."""
        for _ in range(self.H_cycles - 1):
            state = self.cycle(state, x)
        return state

    def grad_cycle(self, state: State, x: Tensor) -> State:
        """Run the part that has a gradient: the last cycle."""
        return self.cycle(state, x)

    def recur(self, state: State, x: Tensor) -> State:
        """Run one supervision step: `H_cycles` cycles, only the last with gradient."""
        independent = not self.config.noise  # noise is drawn for the whole batch at once
        if torch.is_grad_enabled():
            state = self.backend.run_without_grad(self.no_grad_cycles, state, x, independent)
            return self.grad_cycle(state, x)

        def whole_step(state: State, x: Tensor) -> State:
            return self.grad_cycle(self.no_grad_cycles(state, x), x)

        return self.backend.run_without_grad(whole_step, state, x, independent)

    def f(self, network: Network, h: Tensor, injection: Tensor | None, times: int = 1) -> Tensor:
        """Set h to `network(h, injection)` `times` times, with the config's damping and noise; all (B, L, D)."""
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        if not (recomputes or self.config.damping or self.config.noise):
            return self.backend.apply_repeatedly(network, h, injection, self.cos_sin(), times)
        apply = self.backend.apply_checkpointed if recomputes else self.backend.apply
        for _ in range(times):
            new = apply(network, h, injection, self.cos_sin())
            if self.config.damping:
                new = torch.lerp(new, h, self.config.damping)
            h = new + self.config.noise * torch.randn_like(new) if self.config.noise else new
        return h

    @property
    def device(self) -> torch.device:
        return self.q_head.weight.device

    @property
    def is_stochastic(self) -> bool:
        """True if a supervision step draws random numbers, in the current mode (training or evaluation)."""
        config = self.config
        return config.random_init or config.noise > 0 or (self.training and config.train_noise > 0)

    def heads_flops(self) -> int:
        """FLOP of the heads' forward pass for one row."""
        return self.lm_head.flops(self.length) + self.q_head.flops(1)

    def embedding_gradient_flops(self) -> int:
        """FLOP per row of the embedding's gradient: 0, because a sum of rows needs no matrix product."""
        return 0

    def heads(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, S, V) in the compute dtype, and q_halt and q_continue (B,) in float32."""
        answer = state[0]
        logits = self.lm_head(answer)[:, self.prefix_len :]
        q = self.q_head(answer[:, 0]).float()
        return logits, q[:, 0], q[:, 1]

    def forward(
        self, state: State, inputs: Tensor, puzzle_rows: Tensor | None
    ) -> tuple[State, tuple[Tensor, Tensor, Tensor]]:
        """Run one supervision step on `inputs` (B, S); returns the detached new state and the heads' outputs."""
        if self.training and (std := self.config.train_noise):
            state = tuple(torch.add(latent, torch.randn_like(latent), alpha=std) for latent in state)
        with self.backend.step(self):
            state = self.recur(state, self.embed(inputs, puzzle_rows))
        return self.backend.carried(state), self.heads(state)


class SingleLatentModel(RecursiveModel):
    """Base of architectures with one latent, both answer and reasoning state: z = f(z, x), L times a cycle."""

    latents: ClassVar = {"z_H": "H_init"}

    def cycle(self, state: State, x: Tensor) -> State:
        (z,) = state
        return (self.f(self.L_level, z, x, self.L_cycles),)
