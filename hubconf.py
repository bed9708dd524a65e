"""Entry points of `torch.hub`: models of this repository in other code, without installing a package.

torch.hub.load("OWNER/REPO", "trm", "sudoku_extreme_cpu")         from GitHub
torch.hub.load("PATH", "untrained", "trm", source="local")        from a checkout
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# torch.hub reports those that cannot be imported.
dependencies = ["torch", "numpy", "hydra", "omegaconf", "pydantic", "yaml"]

_ROOT = Path(__file__).resolve().parent
_PACKAGES = ("config", "dataset", "evaluators", "models", "utils")


def trm(weights: str = "sudoku_extreme_cpu", *, device: str = "cpu", step: int | None = None) -> Any:
    """Return a trained model with its loss head, in evaluation mode, as `models.load_pretrained` does.

    `weights` is a folder of this repository's `pretrained/`, the path of a run, an export or a weights file, or
    `hf://OWNER/NAME`; `step` chooses one of a run's weights. Raises ValueError if there are no such weights.
    """
    _importable()
    from models import load_pretrained

    included = sorted(path.name for path in (_ROOT / "pretrained").iterdir() if path.is_dir())
    if weights in included:
        return load_pretrained(str(_ROOT / "pretrained" / weights), device, step=step)
    try:
        return load_pretrained(weights, device, step=step)
    except ValueError as error:
        raise ValueError(f"{error} (included weights: {', '.join(included)})") from error


def untrained(
    arch: str = "trm",
    *,
    seq_len: int = 81,
    vocab_size: int = 11,
    num_puzzle_identifiers: int = 1,
    device: str = "cpu",
    **settings: Any,
) -> Any:
    """Return a randomly initialised model with its loss head, in training mode.

    `settings` are keys below `arch`, such as `hidden_size=256`; the defaults are those of `config/arch/{arch}.yaml`.
    The default sizes are those of 9x9 Sudoku. Raises ValueError for an unknown architecture or setting.
    """
    _importable()
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from models.registry import build_model

    known = sorted(path.stem for path in (_ROOT / "config" / "arch").glob("*.yaml"))
    if arch not in known:
        raise ValueError(f"arch={arch!r}: choose from {', '.join(known)}")
    with initialize_config_dir(str(_ROOT / "config"), version_base=None):
        chosen = compose("cfg_pretrain", [f"arch={arch}"]).arch
    values: Any = OmegaConf.to_container(chosen, resolve=True)
    sizes = {
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "num_puzzle_identifiers": num_puzzle_identifiers,
    }
    return build_model(values | settings, **sizes).to(device)


def _importable() -> None:
    """Let the packages of this repository be imported, also after torch.hub has restored the import path.

    Raises ImportError if the program has other modules of the same names, such as its own `utils`.
    """
    for name in _PACKAGES:
        module = sys.modules.get(name)
        folders = [Path(folder).resolve() for folder in getattr(module, "__path__", [])]
        if module is not None and _ROOT / name not in folders:
            raise ImportError(
                f"the program has imported another module named {name!r} ({getattr(module, '__file__', None)}), which "
                f"hides that of {_ROOT}: load the model before it, or in a separate process"
            )
    if str(_ROOT) not in sys.path:
        sys.path.append(str(_ROOT))
