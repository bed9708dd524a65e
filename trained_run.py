"""Open a trained run from any reference to its weights: config, data sizes, weights, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.missing_data import naming_the_builder
from config.published import RunConfig, parse_run_config
from config.report_schema import ReportConfig
from dataset.families import family_by_sizes, named_family
from dataset.format import Metadata, problems_text, read_metadata, type_problems
from evaluators.inference import Solver
from evaluators.rules import judge_by_rules
from models.losses import ACTLossHead
from models.pretrained import load_weights, sizes_in
from models.recursive import RecursiveConfig
from models.registry import build_model, check_arch, is_unusually_large, model_size
from puzzle_dataset import IDENTIFIERS_KEY, SIZE_KEYS, PuzzleDataset, identifier_hashes
from utils.device import check_memory, resolve_device
from utils.errors import UserError
from utils.reading import read_mapping, shortened
from utils.weights import Located, locate, read_state_dict

# Keys of an export's config.json; `metadata` is the run's metadata.json.
EXPORT_KEYS = ("recipe", "metadata", "step")
HALTING_KEY = "halting"  # an optional one

_CHECK_CONFIG = "check arch.* in the config next to the weights"


def ignore(line: str) -> None:
    """Discard the message (default `notice` callback)."""


class OwnDataError(UserError):
    """Raised if the data of the training cannot be opened; the message says how to name its folder."""


@dataclass(frozen=True)
class Trained:
    """The contents of a checkpoint, with methods to build its model."""

    located: Located
    config: RunConfig
    metadata: dict[str, Any]  # the test data's dataset.json as the run saw it; {} for published runs
    state: dict[str, Tensor] = field(repr=False)
    step: int | None = None  # training steps, None if unknown
    halting: object = None  # the calibrated stop rule in an export's config.json, unchecked

    @property
    def arch(self) -> dict[str, Any]:
        return self.config.arch

    @property
    def label(self) -> str:
        return self.located.label

    def sizes(self, seq_len: int | None = None) -> dict[str, Any]:
        """Return the seq_len, vocab_size and num_puzzle_identifiers that the model was trained with.

        Most of them follow from the weights; with rotary positions `seq_len` comes from the run's metadata, its config,
        its dataset or the argument. Raises UserError if these contradict each other, or if `seq_len` is unknown.
        """
        known_sizes = self._known_sizes()
        if seq_len is not None and known_sizes.get("seq_len", seq_len) != seq_len:
            raise UserError(
                f"seq_len={seq_len}, but {self.label} was trained with {known_sizes['seq_len']}: leave it out"
            )
        seq_len = seq_len or known_sizes.get("seq_len") or self._seq_len_of_dataset()
        if seq_len is None:
            raise UserError(
                f"{self.label}: its number of cells is unknown, because its dataset is not on this machine: give "
                "seq_len= (81 for Sudoku 9x9, 900 for ARC and mazes of 30x30)"
            )
        if "vocab_size" not in known_sizes:
            raise UserError(f"{self.label}: has no lm_head.weight, so it is not a model of this repository")
        return known_sizes | {"seq_len": seq_len}

    def build(
        self,
        *,
        sizes: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        data: Metadata | None = None,
        device: torch.device | str = "cpu",
        notice: Callable[[str], None] = ignore,
    ) -> ACTLossHead:
        """Build the model in its loss head, in evaluation mode, on `device`; `settings` override keys of its `arch`.

        `sizes` and `data` are those of a dataset to evaluate on, whose family decides whether answers are judged by
        rules; by default those of the training. Raises UserError if the weights do not fit.
        """
        arch, sizes = self.arch | (settings or {}), sizes or self.sizes()
        try:
            if is_unusually_large(check_arch(arch, **sizes)):
                size = model_size(arch, **sizes)
                num_bytes = size.parameter_bytes + size.buffer_bytes
                check_memory(num_bytes, torch.device("cpu"), f"{self.label}: its model", _CHECK_CONFIG)
            model = build_model(arch, **sizes)
            load_weights(model, self.state, source=self.label, purpose="evaluate", notice=notice)
        except ValueError as error:
            raise UserError(str(error)) from error
        judge_by_rules(model, data or recorded_metadata(self.metadata, sizes))
        return model.to(device).eval()

    def sizes_for(
        self, sizes: dict[str, Any], data_paths: Sequence[str], notice: Callable[[str], None]
    ) -> dict[str, Any]:
        """Return the sizes to build the model with for data of `sizes` in these datasets.

        Raises UserError if the data has another shape or other identifiers than the training data.
        """
        known_sizes = self._known_sizes()
        fixed = {"seq_len", "vocab_size"}.difference(self.settings().free_sizes)
        wrong = [key for key in sorted(fixed) if known_sizes.get(key, sizes[key]) != sizes[key]]
        if wrong:
            lines = "".join(
                f"\n  {key}: {known_sizes[key]} in the weights, {sizes[key]} in the data" for key in wrong
            )
            raise UserError(f"{self.label} does not fit the data {', '.join(data_paths)}{lines}")
        if sizes["num_puzzle_identifiers"] > 1 and self._has_table():
            known = self._check_identifiers(data_paths, notice)
            if known and known_sizes["num_puzzle_identifiers"] > sizes["num_puzzle_identifiers"]:
                # The data is one of several training datasets: its identifiers are part of the table.
                return sizes | {"num_puzzle_identifiers": known_sizes["num_puzzle_identifiers"]}
        return dict(sizes)

    def open_data(
        self,
        split: str,
        given: Sequence[str] | None,
        *,
        family: str | None = None,
        hint: str = "",
        **options: Any,
    ) -> PuzzleDataset:
        """Open the datasets `given`, else those of the training; `options` are those of `PuzzleDataset`.

        The family is `family`, else the one in the training's config, else that of the data itself.
        Raises UserError for broken or missing datasets; OwnDataError, with `hint`, if they are those of the training.
        """
        paths = given or self.config.data_paths(split)
        try:
            with named_family(family or self.config.values["family"]):
                return PuzzleDataset(paths, split, **options)
        except UserError as error:
            if given:
                raise
            key = "data_paths_test" if split == "test" else "data_paths"
            raise OwnDataError(
                f"{naming_the_builder(error, paths)}\n"
                f"(this path is from the training run; give the folder on this machine as {key}=[DIR]{hint})"
            ) from error

    def _check_identifiers(self, data_paths: Sequence[str], notice: Callable[[str], None]) -> bool:
        """Return True if identifiers are recorded and equal. Raises UserError if they differ."""
        saved = self.metadata.get(IDENTIFIERS_KEY)
        if saved is None and (self.located.folder / "identifiers.json").exists():
            saved = identifier_hashes([str(self.located.folder)])
        if saved is None or None in saved:
            notice(
                f"{self.label} has no record of its puzzle identifiers: scores are valid only if "
                f"{', '.join(data_paths)} has the same identifiers as its training data"
            )
            return False
        for path, found in zip(data_paths, identifier_hashes(data_paths), strict=True):
            if found not in saved:
                raise UserError(
                    f"{path}/identifiers.json: differs from the training data of {self.label}, so puzzles would get "
                    "the wrong embeddings. Evaluate on the dataset that it was trained with, or rebuild that with the "
                    "same options and seed."
                )
        return True

    def _known_sizes(self) -> dict[str, Any]:
        """Return the sizes known from config, metadata and weights; the weights take precedence."""
        known_sizes = {"num_puzzle_identifiers": 1} | self.config.sizes
        known_sizes |= {
            key: self.metadata[key] for key in ("seq_len", "vocab_size", "units") if key in self.metadata
        }
        return known_sizes | sizes_in(self.state, self.settings())

    def _has_table(self) -> bool:
        return self.settings().puzzle_emb_ndim > 0

    def settings(self) -> RecursiveConfig:
        """Return the arch's settings with the defaults of its schema; the sizes are placeholders."""
        return check_arch(self.arch, seq_len=1, vocab_size=2, num_puzzle_identifiers=1)

    def _seq_len_of_dataset(self) -> int | None:
        for path in [*self.config.data_paths("train"), *self.config.data_paths("test")]:
            for split in ("train", "test"):
                if (Path(path) / split / "dataset.json").exists():
                    return read_metadata(Path(path) / split).seq_len
        return None


def open_trained(source: str, *, step: int | None = None) -> Trained:
    """Open the model that `source` names (see utils/weights.py); in a run's folder the newest weights or `step`'s.

    Raises UserError if there are no weights, or no config next to them.
    """
    located = locate(source, step=step)
    if located.config is None:
        raise UserError(
            f"{located.label}: there is no all_config.yaml (or config.json of an export) next to it, so its "
            "architecture is unknown: put the all_config.yaml of the run into the same folder"
        )
    where = where_step = str(located.config)
    if located.config.name == "config.json":
        values = read_mapping(located.config)
        if missing := [key for key in EXPORT_KEYS if key not in values]:
            raise UserError(f"{where}: was not written by export.py, because it lacks {', '.join(missing)}")
        recipe, metadata, number = (values[key] for key in EXPORT_KEYS)
    else:
        recipe, number = read_mapping(located.config), located.step
        metadata = read_mapping(located.metadata) if located.metadata else {}
        if located.weights.name == "best" and (located.folder / "best.json").exists():
            where_step = str(located.folder / "best.json")
            number = read_mapping(located.folder / "best.json").get("step")
    halting = values.get(HALTING_KEY) if located.config.name == "config.json" else None
    _check_recorded(recipe, metadata, where, str(located.metadata or where))
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise UserError(f"{where_step}: step is {shortened(repr(number))}, but must be an integer")
    config = parse_run_config(recipe, where)
    return Trained(located, config, metadata or {}, read_state_dict(located.weights), number, halting)


def _check_recorded(recipe: object, metadata: object, where: str, where_metadata: str) -> None:
    """Raise UserError unless a file's recipe and metadata have the expected types."""
    if not isinstance(recipe, dict) or not isinstance(metadata, dict | None):
        raise UserError(f"{where}: recipe and metadata must be mappings of keys to values")
    metadata = metadata or {}
    problems = type_problems(metadata)
    if not isinstance(hashes := metadata.get(IDENTIFIERS_KEY), list | None):
        problems.append(f"{IDENTIFIERS_KEY} is {shortened(repr(hashes))}, but must be a list")
    if problems:
        raise UserError(problems_text([f"{where_metadata}: {problem}" for problem in problems]))


def load_pretrained(
    source: str, device: torch.device | str = "cpu", *, step: int | None = None, seq_len: int | None = None
) -> ACTLossHead:
    """Load the ACT model in its loss head, in evaluation mode, from a run's folder, an export, a file or the hub.

    `seq_len` is needed only for published runs with rotary positions whose dataset is not on this machine. Raises
    UserError (a ValueError) if the weights cannot be found or read, or do not fit.
    """
    trained = open_trained(_as_source(source), step=step)
    return trained.build(sizes=trained.sizes(seq_len), device=device)


def _as_source(path_or_repo: str | Path) -> str:
    """Convert a path or hub name to a source: `OWNER/NAME` is a hub repository unless OWNER is a folder here."""
    text = str(path_or_repo)
    is_name = text.count("/") == 1 and all(text.split("/")) and not text.startswith((".", "~"))
    return f"hf://{text}" if is_name and not Path(text).parent.is_dir() else text


def recorded_metadata(recorded: dict[str, Any], sizes: dict[str, int]) -> Metadata:
    """Convert a run's metadata.json ({} for published runs) to the metadata of a dataset of these sizes."""
    assumed = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "total_groups": 1,
        "mean_puzzle_examples": 1.0,
        "total_puzzles": 1,
        "sets": ("all",),
    }
    known = {key: recorded.get(key, value) for key, value in assumed.items()}
    known |= {key: sizes[key] for key in SIZE_KEYS}
    metadata = Metadata(**known, extra={key: value for key, value in recorded.items() if key not in known})
    return replace(metadata, finding=family_by_sizes(metadata))


def open_solver(trained: Trained, data: PuzzleDataset, device: str, notice=print) -> Solver:
    """Make a solver with the model built for this data."""
    sizes = trained.sizes_for(data.model_sizes, [path for path, _ in data.splits], notice)
    resolved = resolve_device(device)
    model = trained.build(sizes=sizes, data=data.metadata, device=resolved, notice=notice)
    return Solver(model, resolved)


def open_test_data(trained: Trained, config: ReportConfig) -> PuzzleDataset:
    """Open the test data of a report, see `Trained.open_data`."""
    batch_size = min(trained.config.values["global_batch_size"], config.limit)
    return trained.open_data(
        "test", config.data_paths_test, family=config.family, global_batch_size=batch_size
    )
