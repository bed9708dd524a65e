"""Targets of `benchmarks/fuzz.py`: all readers of files, arguments and text from users."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import fuzz_inputs as valid
from benchmarks.fuzz_mutations import Target
from config.overrides import force_overrides, hydra_error, resolved
from config.published import parse_run_config
from config.schema import PretrainConfig
from config.solve_schema import SolveConfig
from dataset.build_sudoku_dataset import parse_options
from dataset.families import family_of
from dataset.families.arc.tasks import read_subset
from dataset.families.sudoku.splits import from_file
from dataset.format import open_split, open_valid, problems_text, read_identifiers
from dataset.metadata import Metadata
from dataset.report import example_lines, report_lines
from dataset.sources import read_rows
from evaluators.arc.evaluated_tasks import TestTasks
from evaluators.arc.votes import CandidateVotes
from evaluators.base import default_evaluators
from trained_run import open_trained
from utils import state_files
from utils.command_line.arguments import read_arguments
from utils.errors import UserError
from utils.reading import read_mapping
from utils.run_records import read_metrics
from utils.state_files import BrokenState
from utils.strict_model import parse
from utils.weights import read_state_dict

Reader = Callable[[bytes, Path], object]


def make_targets(folder: Path) -> list[Target]:
    """Return the targets; their valid inputs are created in `folder`."""
    data = valid.write_dataset(folder / "data")
    lazy, run = valid.write_lazy(folder / "lazy"), valid.write_run(folder / "run")
    challenges = json.dumps({"a": valid.TASK, "b": valid.TASK}).encode()
    task = json.dumps(valid.TASK).encode()
    config, metadata = ((run / name).read_bytes() for name in ("all_config.yaml", "metadata.json"))
    dataset, names = ((data / name).read_bytes() for name in ("train/dataset.json", "identifiers.json"))
    weights = [(run / "step_3").read_bytes(), valid.legacy_weights()]
    sudoku, maze = (
        puzzle_reader(valid.family_metadata(*sizes)) for sizes in (("sudoku", 81, 11), ("maze", 16, 6))
    )

    def run_file(name: str) -> Reader:
        return run_reader(run, folder, name)

    targets = [
        Target("sudoku_text", valid.SUDOKU_TEXTS, sudoku),
        Target("maze_text", valid.MAZE_TEXTS, maze),
        Target("sudoku_list", valid.LISTS, read_list, share=0.5),
        Target("puzzle_csv", valid.TABLES, read_table),
        Target("builder_options", valid.BUILDER_OPTIONS, read_builder_options),
        Target("arc_challenges", [challenges], read_challenges, "json"),
        Target("arc_task", [task], read_task, "json"),
        Target("test_puzzles_json", [challenges], test_tasks_reader(data, folder), "json"),
        Target("dataset_json", [dataset], dataset_reader(data, folder), "json"),
        Target("identifiers_json", [names], read_names, "json"),
        Target("solve_arguments", valid.SOLVE_ARGUMENTS, read_solve),
        Target("overrides", valid.OVERRIDES, read_overrides, share=0.1),
        Target("all_config_yaml", [config], read_config, "yaml", share=0.5),
        Target("run_config_yaml", [config], run_file("all_config.yaml"), "yaml", share=0.2),
        Target("run_metadata_json", [metadata], run_file("metadata.json"), "json", share=0.3),
        Target("run_best_json", valid.BEST, run_file("best.json"), "json", share=0.2),
        Target("metrics_jsonl", valid.METRICS, read_metric_lines),
        Target("weights", weights, read_weights),
        Target("state_manifest", [valid.manifest(run)], state_reader(run, folder), "json", 1, (BrokenState,)),
        Target("candidates_npz", [valid.candidates()], read_candidates, "npz"),
    ]
    for path in sorted((data / "train").glob("*.npy")):
        name = f"npy_{path.stem.removeprefix('all__')}"
        reader = array_reader(data, folder, path.name)
        targets.append(Target(name, [path.read_bytes()], reader, "npy", share=0.4))
    for path in sorted(lazy.rglob("*.npz")):
        name = f"npz_{path.stem.removeprefix('all__')}_{path.parent.name}"
        targets.append(Target(name, [path.read_bytes()], npz_reader(lazy, folder, path), "npz", share=0.3))
    return targets


def _text(data: bytes) -> str:
    """Decode like Python decodes command-line arguments."""
    return data.decode("utf-8", "surrogateescape").replace("\0", "")


def _written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def puzzle_reader(metadata: Metadata) -> Reader:
    family = family_of(metadata)
    return lambda data, _: family.read(_text(data))


def read_builder_options(data: bytes, _: Path) -> object:
    return parse_options(_text(data).split("\n"))


def read_list(data: bytes, folder: Path) -> object:
    path = _written(data, folder / "list.txt")
    return from_file(
        str(path),
        size=4,
        box=None,
        blank=None,
        subsample_size=None,
        min_difficulty=None,
        test_size=2,
        seed=0,
        workers=1,
    )


def read_table(data: bytes, folder: Path) -> object:
    path = _written(data, folder / "train.csv")
    return read_rows(path, question_symbols=".01234", answer_symbols="1234")


def read_challenges(data: bytes, folder: Path) -> object:
    _written(data, folder / "x_y_challenges.json")
    return read_subset(str(folder / "x"), "y")


def read_task(data: bytes, folder: Path) -> object:
    (folder / "arc" / "y").mkdir(parents=True, exist_ok=True)
    _written(data, folder / "arc" / "y" / "task.json")
    return read_subset(str(folder / "arc"), "y")


def test_tasks_reader(data_folder: Path, folder: Path) -> Reader:
    copy = Path(shutil.copytree(data_folder, folder / "test_puzzles"))

    def read(data: bytes, _: Path) -> object:
        _written(data, copy / "test_puzzles.json")
        return TestTasks.load([str(copy)])

    return read


def dataset_reader(data_folder: Path, folder: Path) -> Reader:
    """Return a reader that does everything with a dataset.json: validation, report, choice of evaluators."""
    copy = Path(shutil.copytree(data_folder, folder / "dataset_json"))

    def read(data: bytes, _: Path) -> None:
        for split in ("train", "test"):
            _written(data, copy / split / "dataset.json")
        splits, problems = open_valid(copy)
        list(report_lines(copy, splits, problems))
        "".join(example_lines(copy, splits, 1, colour=False)).encode()
        if splits:
            default_evaluators([str(copy)])
        if problems:
            raise UserError(problems_text(problems))

    return read


def read_names(data: bytes, folder: Path) -> object:
    _written(data, folder / "identifiers.json")
    return "\0".join(read_identifiers(folder)).encode()


def read_solve(data: bytes, _: Path) -> object:
    return read_arguments(_text(data).split("\n"), SolveConfig)


def read_overrides(data: bytes, _: Path) -> object:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(valid.CONFIGS), version_base=None):
        arguments = [argument for argument in _text(data).split("\n") if argument]
        try:
            composed = compose("cfg_pretrain", force_overrides(arguments))
        except Exception as error:
            raise hydra_error(error) or error from None
        return parse(PretrainConfig, resolved(composed, PretrainConfig))


def read_config(data: bytes, folder: Path) -> object:
    path = _written(data, folder / "all_config.yaml")
    return parse_run_config(read_mapping(path), str(path))


def run_reader(run: Path, folder: Path, name: str) -> Reader:
    """Return a reader that opens a run with one file replaced, and builds its model."""
    copy = Path(shutil.copytree(run, folder / f"run_{name}"))

    def read(data: bytes, _: Path) -> object:
        _written(data, copy / name)
        trained = open_trained(str(copy / ("best" if name == "best.json" else "step_3")))
        return trained.build()

    return read


def read_metric_lines(data: bytes, folder: Path) -> object:
    _written(data, folder / "metrics.jsonl")
    return read_metrics(folder)


def read_weights(data: bytes, folder: Path) -> object:
    return read_state_dict(_written(data, folder / "step_1"))


def state_reader(run: Path, folder: Path) -> Reader:
    copy = Path(shutil.copytree(run, folder / "run_state"))

    def read(data: bytes, _: Path) -> object:
        _written(data, copy / "state_step_3" / "1-rank_0.json")
        (state,) = state_files.list_states(copy)
        return state_files.verify(state)

    return read


def read_candidates(data: bytes, folder: Path) -> object:
    return CandidateVotes.pooled([_written(data, folder / "candidates.npz")], "x")


def array_reader(data_folder: Path, folder: Path, name: str) -> Reader:
    copy = Path(shutil.copytree(data_folder, folder / name))

    def read(data: bytes, _: Path) -> object:
        _written(data, copy / "train" / name)
        return open_split(copy, "train")

    return read


def npz_reader(lazy: Path, folder: Path, path: Path) -> Reader:
    copy = Path(shutil.copytree(lazy, folder / f"npz_{path.parent.name}_{path.stem}"))
    target = copy / path.relative_to(lazy)

    def read(data: bytes, _: Path) -> object:
        _written(data, target)
        split = open_split(copy, "test" if path.parent.name == "test" else "train")
        return split.sets["all"].read(slice(0, 2)), read_identifiers(copy)

    return read
