"""Plot how a puzzle is solved, from a file of `solve.py trace=FILE`: an example of reading such a file.

    python solve.py checkpoint=RUN trace=trace.npz
    python docs/plot_trace.py trace.npz [FOLDER]

Writes two figures as PDF, SVG and PNG: `latents`, the path of each latent (mean over the cells) in its first two
principal components, and `entropy`, how uncertain each cell is after each cycle.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script, to import from the repository

from evaluators.drawing.style import CYCLE, new_figure, style, write_figure

Arrays = Mapping[str, np.ndarray]


def paths_of(trace: Arrays) -> dict[str, np.ndarray]:
    """Return the path of each latent: the mean over its cells after each of its updates, (updates, D)."""
    latents = trace["latents"][:, :, int(trace["prefix_len"]) :].astype(np.float32).mean(2)  # (T, A, D)
    return {
        str(name): latents[:, trace["updates"] == name].reshape(-1, latents.shape[-1])
        for name in dict.fromkeys(trace["updates"].tolist())
    }


def principal_components(points: np.ndarray, number: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Project (n, D) points on their first principal components; also returns the share of variance of each."""
    centred = points - points.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    return (left * sizes)[:, :number], shares[:number]


def entropy_by_cell(trace: Arrays) -> np.ndarray:
    """Return the entropy in bits of each cell's distribution over tokens, (cycles of all steps, S)."""
    log_p = trace["log_probabilities"].astype(np.float64)  # (T, C, S, V)
    entropy = -(np.exp(log_p) * log_p).sum(-1) / np.log(2)
    return entropy.reshape(-1, entropy.shape[-1])


def plot_latents(trace: Arrays):
    with style(9):
        paths = paths_of(trace)
        figure, axes = new_figure(1, len(paths), (3.6 * len(paths), 3.4))
        for ax, (name, path), colour in zip(axes.flat, paths.items(), CYCLE, strict=False):
            points, shares = principal_components(path)
            per_step = len(points) // len(trace["latents"])
            ends = points[per_step - 1 :: per_step]
            ax.plot(*points.T, color=colour, alpha=0.35, linewidth=0.8)
            ax.scatter(*ends.T, c=np.arange(len(ends)), cmap="viridis", s=18, zorder=3)
            for number in dict.fromkeys((0, len(ends) - 1)):
                ax.annotate(
                    f"step {number + 1}", ends[number], (5, 5), textcoords="offset points", fontsize=7
                )
            ax.set(
                title=f"{name}, after each step",
                xlabel=f"component 1 ({shares[0]:.0%})",
                ylabel=f"component 2 ({shares[1]:.0%})",
            )
            ax.margins(0.12)
        return figure


def plot_entropy(trace: Arrays):
    """Show cells across and cycles down, with a line between supervision steps."""
    with style(9):
        entropy = entropy_by_cell(trace)
        figure, axes = new_figure(1, 1, (7, 4.2))
        (ax,) = axes.flat
        image = ax.imshow(entropy, aspect="auto", cmap="magma", interpolation="nearest", vmin=0)
        cycles = trace["logits"].shape[1]
        ends = np.arange(1, len(trace["logits"]) + 1) * cycles - 0.5
        ax.hlines(ends[:-1], -0.5, entropy.shape[1] - 0.5, color="white", linewidth=0.5)
        ax.set_yticks(ends - cycles / 2, np.arange(1, len(ends) + 1))
        ax.grid(False)
        ax.set(title="uncertainty of each cell", xlabel="cell, in reading order", ylabel="supervision step")
        figure.colorbar(image, label="entropy, bits")
        return figure


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit("usage: python docs/plot_trace.py TRACE.npz [FOLDER]")
    folder = Path(arguments[1] if len(arguments) == 2 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(arguments[0]) as trace:
        arrays = {name: trace[name] for name in trace.files}
    write_figure(folder, "latents", lambda: plot_latents(arrays))
    write_figure(folder, "entropy", lambda: plot_entropy(arrays))


if __name__ == "__main__":
    main(sys.argv[1:])
