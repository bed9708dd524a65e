"""Pictures in W&B at each evaluation: drawn only if needed, and errors never end a run."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import pytest
from PIL import Image
from training_runs import assert_same_run, metrics, tiny, train

from evaluators.drawing.run_pictures import evaluation_pictures
from training_run import build
from utils.distributed import World
from utils.loggers import Loggers
from utils.loggers import wandb as wandb_module
from utils.loggers.base import Logger
from utils.loggers.wandb import WandbLogger


@dataclass
class StandIn:
    """A fake run object of W&B."""

    logged: list[tuple[int, dict]] = field(default_factory=list)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        pass


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def test_wandb_gets_images_with_their_names_and_steps():
    run = StandIn()
    WandbLogger(run).draw({"pictures/a": png()}, step=7)
    ((step, values),) = run.logged
    assert step == 7
    assert type(values["pictures/a"]).__name__ == "Image"


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), ImportError("matplotlib"), OSError(28, "full")]
)
def test_a_failing_picture_gives_one_line_and_does_not_end_the_run(error):
    lines = []

    def fail():
        raise error

    Loggers([WandbLogger(StandIn())], print_line=lines.append).draw(fail, step=3)
    (line,) = lines
    assert line.startswith("no pictures of step 3 (")


def test_without_wandb_no_picture_is_drawn():
    Loggers([Logger()]).draw(lambda: pytest.fail("a picture was made"), step=1)
    Loggers([]).draw(lambda: pytest.fail("a picture was made"), step=1)


def test_pictures_at_each_evaluation_do_not_change_the_run(sudoku4x4, tmp_path, monkeypatch):
    options = {"evaluators": None, "ema": True}
    train(sudoku4x4, tmp_path / "without", **options)
    stand_in = StandIn()
    monkeypatch.setattr(wandb_module, "start_wandb", lambda *_: stand_in)
    train(sudoku4x4, tmp_path / "with", **options)
    drawn = [
        (step, sorted(values)) for step, values in stand_in.logged if any("pictures/" in n for n in values)
    ]
    evaluated = [line["step"] for line in metrics(tmp_path / "with") if "test/accuracy" in line]
    names = ["accuracy_by_difficulty", "accuracy_by_step", "first_test_puzzle"]
    assert drawn == [(step, [f"pictures/{name}" for name in names]) for step in evaluated]
    assert_same_run(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize("data", ["sudoku4x4", "identified"])
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_kept_and_all_data_gets_pictures(data, training, request, tmp_path):
    run = build(tiny(request.getfixturevalue(data), tmp_path / "run"), World())
    run.state.model.train(training)
    pictures = evaluation_pictures(run.state.model, run.test_data, {})
    assert run.state.model.training is training
    assert sorted(pictures) == ["pictures/accuracy_by_step", "pictures/first_test_puzzle"]
    assert all(Image.open(io.BytesIO(content)).width > 200 for content in pictures.values())
