"""The closed, typed mirror of `cfg_evaluate.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from config.schema import CompileChoice, EvaluatorConfig, FilePath, SavableOutput
from evaluators.strategies import STRATEGIES
from models.arch_configs import MAX_STEPS
from utils.strict_model import StrictModel

# Options that are passed to the strategy's builder; the checkpoints are opened before.
OPTIONS = frozenset[str]().union(*(entry.options for entry in STRATEGIES.values())) - {"checkpoints"}
MAX_CHAINS = 10_000
Pick = Literal["majority", "q_halt", "first_stop"]
Rung = Literal["steps", "more_steps", "symmetry", "noise"]
if TYPE_CHECKING:
    from config.published import RunConfig

    Strategy = str
else:  # made from the table, so that a new strategy is one line
    Strategy = Literal[tuple(STRATEGIES)]
# Options of the ladder that belong to one of its rungs.
_OF_RUNG = {
    "more_steps": "more_steps",
    "symmetries": "symmetry",
    "chains": "noise",
    "sigma": "noise",
    "pick": "noise",
}


class EvaluateConfig(StrictModel):
    """Options of `evaluate.py`; None means as in training, or the strategy's default."""

    checkpoints: list[FilePath] | None = Field(default=None, min_length=2)
    """ensemble: [A, B, ...]; null: every step_N of the run."""
    checkpoint: FilePath | None = Field(default=None, validate_default=True)
    """What to evaluate: a run's folder, step_N, best, an export, .safetensors, hf://OWNER/NAME[/file]."""
    step: int | None = Field(default=None, ge=0)
    """Training step of the weights, if checkpoint is a run's folder; null: the newest."""
    out: FilePath | None = None
    """Folder for the report; null: evaluation_{weights} beside the weights."""

    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Datasets to evaluate on; null: the run's own."""
    family: str | None = None
    """Puzzle family of the data, whatever its dataset.json says: a name, or module@Class of a family of your
    own; null: as in training.
    """
    evaluators: list[EvaluatorConfig] | None = None
    """What computes the metrics of a puzzle family, as in training; null: the run's own."""
    eval_save_outputs: list[SavableOutput] | None = None
    """Tensors to save, as in training; null: none."""
    limit: int | None = Field(default=None, gt=0)
    """Evaluate the first rows only; null: all."""
    global_batch_size: int | None = Field(default=None, gt=0)
    """Examples per batch over all processes; null: as in training."""

    halt_max_steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Supervision steps of every row; more than in training are allowed; null: as in training."""
    forward_dtype: Literal["bfloat16", "float32", "float16"] | None = None
    """Dtype of the computation; null: as in training."""

    strategy: Strategy = "plain"
    """How compute is spent at test time; the keys below belong to some strategies only."""
    halt: bool | Literal["auto"] | None = None
    """auto: rows stop by a calibrated rule, which costs at most 0.2 points of accuracy, and free slots take the
    next ones; there is no full run. true: rows stop at the first step that says stop; plain: reported beside the
    full run; ladder: on the rung steps. false, plain: all rows run all steps. null: the same, but a model
    trained with act_inference keeps the answer of the first step that says stop.
    """
    calibrate_on: list[FilePath] | None = Field(default=None, min_length=1)
    """halt=auto: splits of datasets, as DIR/train, to choose the rule on, with known answers and neither trained
    on nor tested; null: the rule saved beside the weights, else puzzles that the family generates.
    """
    checker: bool = False
    """Families whose rules tell right answers (Sudoku, mazes, N-Queens): also report what stopping at the first
    valid answer gives; ladder: validity decides which puzzles climb.
    """
    symmetries: int | None = Field(default=None, ge=2)
    """symmetry, ladder: copies of each puzzle, including itself; null: 8, or as many as exist."""
    chains: int | None = Field(default=None, gt=0, le=MAX_CHAINS)
    """noise, ladder: noisy chains of each puzzle; null: 16."""
    sigma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """noise, ladder: standard deviation of the noise; null: 0.3 for Sudoku, 1.0 for mazes, 0.2 for ARC."""
    pick: Pick | None = None
    """Which answer is chosen: majority, q_halt or first_stop; null: majority, but q_halt for noisy chains of
    puzzles other than mazes.
    """
    rungs: list[Rung] | None = Field(default=None, min_length=1)
    """ladder: its rungs in order, of steps, more_steps, symmetry, noise; null: all that the puzzle family has."""
    more_steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """ladder: total steps after the rung of this name; null: 4 times halt_max_steps."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """symmetry, noise, ladder: seed of symmetries and noise; null: 0."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""
    compile: CompileChoice = "auto"
    """Whether and how to compile, as in training."""

    @field_validator("checkpoint", mode="before")
    @classmethod
    def require_checkpoint(cls, checkpoint: Any, info: ValidationInfo) -> Any:
        if checkpoint is None and not info.data.get("checkpoints"):
            raise ValueError("name the folder of a run, a weights file in it, an export, or hf://OWNER/NAME")
        return checkpoint

    @field_validator("rungs")
    @classmethod
    def check_order(cls, rungs):
        if rungs is None:
            return None
        if len(set(rungs)) < len(rungs):
            raise ValueError("a rung is given twice")
        if "more_steps" in rungs and rungs[: rungs.index("more_steps")][-1:] != ["steps"]:
            raise ValueError("more_steps continues from steps, so it must come right after it")
        return rungs

    @model_validator(mode="after")
    def check_strategy(self):
        for key in sorted((OPTIONS | {"checkpoints"}) - STRATEGIES[self.strategy].options):
            if getattr(self, key) != type(self).model_fields[key].default:
                takers = [name for name, entry in STRATEGIES.items() if key in entry.options]
                raise ValueError(
                    f"{key} has no effect with strategy={self.strategy}; it belongs to strategy={' or '.join(takers)}"
                )
        if self.strategy == "ladder" and self.rungs is not None:
            for key, rung in _OF_RUNG.items():
                if getattr(self, key) is not None and rung not in self.rungs:
                    raise ValueError(f"{key} belongs to the rung {rung}, which rungs={self.rungs} lacks")
        if self.calibrate_on is not None and self.halt != "auto":
            raise ValueError("calibrate_on belongs to halt=auto")
        if self.checker and (self.halt == "auto" or (self.halt and self.strategy in ("symmetry", "noise"))):
            raise ValueError(
                "checker=True looks at every step of a full run, which halt leaves out here: leave one of them out"
            )
        if self.strategy == "ladder" and self.halt and self.rungs is not None and "steps" not in self.rungs:
            raise ValueError(f"halt belongs to the rung steps, which rungs={self.rungs} lacks")
        if self.strategy == "ensemble" and self.pick == "first_stop":
            raise ValueError(
                "pick=first_stop needs chains in lockstep, and checkpoints run one after the other"
            )
        if self.strategy == "ensemble" and self.step is not None:
            raise ValueError(
                "step names one checkpoint; an ensemble's are checkpoints=[RUN/step_10,RUN/step_20]"
            )
        if self.checkpoints and self.checkpoint is not None:
            raise ValueError("checkpoint names one and checkpoints several: leave one of them out")
        return self

    def completed(self, run: RunConfig) -> EvaluateConfig:
        """Return a copy in which the run's own values replace None."""
        own = {"data_paths_test": run.data_paths("test")}
        own |= {key: run.values[key] for key in ("evaluators", "global_batch_size")}
        values = self.model_dump()
        return EvaluateConfig(**values | {key: value for key, value in own.items() if values[key] is None})
