"""Find weights by any of their names, and read them without running code.

`checkpoint=` and `load_checkpoint=` accept
    a file                  step_N, best, any name; .safetensors too
    a folder                of a run (all_config.yaml and step_N) or of an export (model.safetensors and config.json)
    hf://OWNER/NAME[/file]  the same on the Hugging Face hub
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch import Tensor

from utils import tensor_files
from utils.errors import UserError
from utils.hub import HUB_PREFIX, HubAddress

CONFIG_NAMES = ("all_config.yaml", "config.json")
METADATA_NAME = "metadata.json"
EXPORTED_NAME = "model.safetensors"
_STEP = re.compile(r"step_(\d+)")
_PREDICTIONS = re.compile(r"step_\d+_all_preds\.\d+")
_STATE = re.compile(r"state_step_(\d+)")


@dataclass(frozen=True)
class Located:
    """Weights on this machine, and the files next to them."""

    weights: Path
    config: Path | None  # all_config.yaml of a run, or config.json of an export
    metadata: Path | None  # the data's metadata, written by our runs
    label: str  # where they come from, for messages and reports

    @property
    def folder(self) -> Path:
        return self.weights.parent

    @property
    def step(self) -> int | None:
        """Training step in the file's name, None if it has none."""
        match = _STEP.fullmatch(self.weights.name)
        return int(match[1]) if match else None


def locate(source: str, *, step: int | None = None) -> Located:
    """Find the weights that `source` names; in a run's folder the newest, or those of `step`.

    Raises UserError if there are none, or if `source` is something other than weights.
    """
    if str(source).startswith(HUB_PREFIX):
        return _locate_on_hub(str(source), step)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{source}: no such file or folder{_suggestion(path)}; {_KINDS}")
    if path.is_file():
        if step is not None and path.name != f"step_{step}":
            raise UserError(
                f"{source}: names one file, so step={step} cannot choose another: give its folder"
            )
        _check_file_name(path)
        weights = path
    else:
        if match := _STATE.fullmatch(path.name):
            raise UserError(_state_message(path, match[1]))
        weights = path / _choose(
            str(source), [child.name for child in path.iterdir() if child.is_file()], step
        )
    beside = {name: weights.parent / name for name in (*CONFIG_NAMES, METADATA_NAME)}
    found = {name: file for name, file in beside.items() if file.is_file()}
    return Located(weights, _config_of(found, weights.name), found.get(METADATA_NAME), str(weights))


def weights_steps(folder: Path) -> list[int]:
    """List the steps N of the weights step_N in a run's folder, ascending."""
    return sorted(int(match[1]) for child in folder.iterdir() if (match := _STEP.fullmatch(child.name)))


_KINDS = (
    "a checkpoint is a weights file (step_N, .safetensors), the folder of a run or of an export, "
    "or hf://OWNER/NAME[/file]"
)


def _suggestion(path: Path) -> str:
    """Name the file or folder beside a missing one whose name is most like its own, "" if there is none."""
    try:
        names = [child.name for child in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.with_name(near[0])}?)" if near else ""


def _config_of(found: Mapping[str, Path], weights_name: str) -> Path | None:
    """Choose the config: an export's config.json for .safetensors, else a run's all_config.yaml, if they exist."""
    order = reversed(CONFIG_NAMES) if weights_name.endswith(".safetensors") else CONFIG_NAMES
    return next((found[name] for name in order if name in found), None)


def _choose(source: str, names: Iterable[str], step: int | None) -> str:
    """Choose the weights among a folder's files."""
    names = list(names)
    steps = {int(match[1]): name for name in names if (match := _STEP.fullmatch(name))}
    if step is not None:
        if step not in steps:
            has = ", ".join(f"step_{number}" for number in sorted(steps)) or "none"
            raise UserError(f"{source}: holds no weights of step {step}; it has: {has}")
        return steps[step]
    if steps:
        return steps[max(steps)]
    tensors = [name for name in names if name.endswith(".safetensors")]
    if EXPORTED_NAME in tensors or len(tensors) == 1:
        return EXPORTED_NAME if EXPORTED_NAME in tensors else tensors[0]
    found = (
        f"several .safetensors files ({', '.join(sorted(tensors))}): name one" if tensors else "no weights"
    )
    raise UserError(f"{source}: holds {found}; {_KINDS}")


def _check_file_name(path: Path) -> None:
    if _PREDICTIONS.fullmatch(path.name):
        raise UserError(
            f"{path}: holds saved predictions, not weights: name {path.name.partition('_all_preds')[0]}"
        )
    if path.name in (*CONFIG_NAMES, METADATA_NAME, "best.json", "metrics.jsonl"):
        raise UserError(f"{path}: holds no weights: name the folder {path.parent} or a step_N in it")
    if match := _STATE.fullmatch(path.parent.name):
        raise UserError(_state_message(path.parent, match[1]))


def _state_message(folder: Path, step: str) -> str:
    return (
        f"{folder}: is a full training state, which only resume= takes; the weights of that step are "
        f"{folder.parent / f'step_{step}'}, the newest of the run {folder.parent}"
    )


def _locate_on_hub(source: str, step: int | None) -> Located:
    address = HubAddress.parse(source)
    file = address.inside or EXPORTED_NAME
    weights = None if step is not None else address.download(file)
    if weights is None:
        folder = PurePosixPath(address.inside)
        here = {
            PurePosixPath(name).name: name for name in address.files() if PurePosixPath(name).parent == folder
        }
        if address.inside and not here:
            raise UserError(f"{source}: {address} has neither a file nor a folder {address.inside}")
        file = here[_choose(source, here, step)]
        weights = address.download(file)
        assert weights is not None, f"{address} lists {file} and does not have it"
    _check_file_name(Path(file))
    beside = {name: address.download(str(PurePosixPath(file).with_name(name))) for name in _wanted(file)}
    found = {name: path for name, path in beside.items() if path is not None}
    return Located(weights, _config_of(found, file), found.get(METADATA_NAME), f"{address}/{file}")


def _wanted(file: str) -> list[str]:
    """List files to look for next to a file on the hub, as few as possible: an export has config.json only."""
    return [CONFIG_NAMES[1]] if PurePosixPath(file).name == EXPORTED_NAME else [*CONFIG_NAMES, METADATA_NAME]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a weights file as named tensors on the CPU, without the `_orig_mod.` that torch.compile adds to names.

    Raises UserError for a file that needs to run code, is damaged, or contains something else.
    """
    path = Path(path)
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else tensor_files.load(path)
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a state dict of named tensors")
    others = [name for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        _raise_wrong_contents(path, loaded, others)
    state = {name.replace("_orig_mod.", ""): value for name, value in loaded.items()}
    if len(state) < len(loaded):
        raise UserError(f"{path}: holds some weights both with and without the prefix _orig_mod.")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, *tensor_files.PARSER_ERRORS) as error:
        raise UserError(f"{path}: is damaged or not a safetensors file ({error})") from error


def _raise_wrong_contents(path: Path, loaded: Mapping, others: list[str]) -> None:
    match = _STATE.fullmatch(path.parent.name)
    if match:
        raise UserError(_state_message(path.parent, match[1]))
    nested = [str(name) for name in others if isinstance(loaded[name], Mapping)]
    if nested:
        raise UserError(
            f"{path}: is a training state with the parts {', '.join(map(str, loaded))}, not weights only: give the "
            "weights file of the same run (here step_N), or save the part that holds the weights as a file"
        )
    raise UserError(
        f"{path}: {others[0]} is a {type(loaded[others[0]]).__name__}, but weights are all tensors"
    )
