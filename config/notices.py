"""Notices about settings of published commands that have no effect here."""

from __future__ import annotations

from config.schema import PretrainConfig


def notices(config: PretrainConfig) -> list[str]:
    """Return one line for each setting of published commands that has no effect with this config."""
    arch, lines = config.arch, []
    name = arch["name"]
    if arch.get("H_layers") and name in ("trm", "trm_singlez", "trm_hier6"):
        lines.append(
            f"arch.H_layers={arch['H_layers']} has no effect: {name} has one network, of L_layers layers"
        )
    if arch.get("mlp_t") and arch.get("pos_encodings", "rope") == "rope":
        lines.append(
            "arch.pos_encodings=rope has no effect with arch.mlp_t=True: there is no attention to rotate"
        )
    if not arch.get("puzzle_emb_ndim", 1):
        lines.append(
            "arch.puzzle_emb_ndim=0: no puzzle embeddings, so puzzle_emb_lr and puzzle_emb_len have no effect"
        )
    if name == "transformers_baseline" and max(arch.get("H_cycles", 1), arch.get("L_cycles", 1)) > 1:
        lines.append(
            "arch.H_cycles and arch.L_cycles have no effect: transformers_baseline applies its stack once"
        )
    return lines
