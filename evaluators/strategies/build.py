"""Build a strategy from its name and options, with per-family defaults; reject what the data or model cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

from dataset.families import family_of
from dataset.families.base import Family
from dataset.families.symmetry import Symmetries
from dataset.format import Metadata
from evaluators.inference import Solver
from evaluators.stop_rule import OWN_RULE, StopRule
from evaluators.strategies import STRATEGIES
from evaluators.strategies.base import Strategy
from evaluators.strategies.cascade import STAGES, Cascade
from evaluators.strategies.continuous import Continuous
from evaluators.strategies.guesses import GuessChains
from evaluators.strategies.plans import VOTES, CascadePlan, OneChain, StageSpec
from evaluators.strategies.test_time import Ensemble, NoiseChains, Plain, SymmetryVoting, Voting
from evaluators.strategies.verifier import Checker, checker_of
from utils.errors import UserError

NUM_SYMMETRIES = 8
NUM_CHAINS = 16
MORE_STEPS = 4  # multiple of the trained number of steps


Halt = bool | float | Literal["auto"] | None  # the key `halt`


@dataclass(frozen=True)
class Choice:
    """The options of a strategy as the user gave them; None selects the default."""

    strategy: str
    num_steps: int
    halt: Halt = None
    checker: bool = False
    symmetries: int | None = None
    chains: int | None = None
    sigma: float | None = None
    pick: str | None = None
    rungs: Sequence[str] | None = None
    more_steps: int | None = None
    seed: int | None = None

    @property
    def has_rule(self) -> bool:
        """True if rows stop by the rule of the setting, which is calibrated or a probability."""
        return self.halt == "auto" or isinstance(self.halt, float)


@dataclass(frozen=True)
class Setting:
    """The models and data a strategy runs on."""

    solvers: Sequence[Solver]  # one, or several for an ensemble
    metadata: Metadata
    data_paths: Sequence[str]
    capacity: int  # maximum number of rows per batch
    sizes: Sequence[int] = ()  # allowed batch sizes (see `Rollout`)
    identifiers: Sequence[int] = (0,)  # unique puzzle identifiers of the test set
    rule: StopRule | None = None  # for halt="auto" or a probability; None: all steps are run

    @property
    def family(self) -> Family:
        return family_of(self.metadata)


Builder = Callable[[Choice, Setting, Checker | None], tuple[Strategy, dict[str, Any]]]


def build_strategy(choice: Choice, setting: Setting) -> tuple[Strategy, dict[str, Any]]:
    """Return the strategy and its options with defaults filled in. Raises `UserError` if it cannot run here."""
    checker = checker_of(setting.metadata) if choice.checker else None
    module, _, function = STRATEGIES[choice.strategy].builder.partition("@")
    build: Builder = getattr(import_module(f"evaluators.strategies.{module}"), function)
    strategy, own = build(choice, setting, checker)
    if isinstance(strategy, Voting):
        own["halt"] = choice.halt or False
        if choice.halt:
            strategy = _fast_vote(strategy, choice, setting)
    return strategy, {"checker": choice.checker} | own


def plain(choice: Choice, setting: Setting, checker: Checker | None) -> tuple[Strategy, dict[str, Any]]:
    solver, steps = setting.solvers[0], choice.num_steps
    if choice.has_rule:
        return fast_plain(setting, steps), {"halt": choice.halt}
    strategy = Plain(solver, steps, halt=choice.halt, checker=checker, sizes=setting.sizes)
    return strategy, {"halt": choice.halt or False, "freezes": strategy.freezes}


def ensemble(choice: Choice, setting: Setting, checker: Checker | None) -> tuple[Strategy, dict[str, Any]]:
    options = {"pick": choice.pick or "majority"}
    steps = choice.num_steps
    return Ensemble(setting.solvers, steps, checker=checker, sizes=setting.sizes, **options), options


def ladder(choice: Choice, setting: Setting, checker: Checker | None) -> tuple[Strategy, dict[str, Any]]:
    stages = list(choice.rungs or _possible_stages(setting, choice))
    votings: dict[str, Voting] = {}
    more = choice.more_steps or MORE_STEPS * choice.num_steps
    options: dict[str, Any] = {"rungs": stages, "halt": choice.halt or False}
    if "more_steps" in stages:
        if more <= choice.num_steps:
            raise UserError(
                f"more_steps={more} must exceed the {choice.num_steps} steps of the previous rung (halt_max_steps)"
            )
        options["more_steps"] = more
    if "symmetry" in stages:
        votings["symmetry"], own = symmetry(choice, setting, None, "first_stop")
        options["symmetry"] = own
    if "noise" in stages:
        votings["noise"], own = noise(choice, setting, None)
        options["noise"] = own
    if "guess" in stages:
        votings["guess"], own = guesses(choice, setting)
        options["guess"] = own
    if choice.has_rule or "guess" in stages:
        return _fast_cascade(choice, setting, stages, more, votings), options
    cascade = Cascade(
        setting.solvers[0],
        stages,
        choice.num_steps,
        more_steps=more,
        votings=votings,
        halt=bool(choice.halt),
        checker=checker,
        sizes=setting.sizes,
    )
    return cascade, options


def fast_plain(setting: Setting, num_steps: int) -> Continuous:
    """Build `strategy=plain` with one chain per puzzle, which leaves when it settles."""
    return Continuous(
        setting.solvers[0],
        setting.rule,
        partial(OneChain, num_steps),
        capacity=setting.capacity,
        sizes=setting.sizes,
    )


def _fast_vote(voting: Voting, choice: Choice, setting: Setting) -> Continuous:
    """Build the same vote with chains that leave when they settle, and no more of them than decide the vote."""
    plan = partial(VOTES[voting.pick], choice.strategy, voting.num_chains, voting.num_steps)
    return Continuous(
        voting.solver,
        setting.rule if choice.has_rule else OWN_RULE,
        plan,
        capacity=setting.capacity,
        votings={choice.strategy: voting},
        sigma=voting.sigma,
        sizes=setting.sizes,
        curve=("chains", str(voting.num_chains)),
    )


def guess(choice: Choice, setting: Setting, checker: Checker | None) -> tuple[Strategy, dict[str, Any]]:
    """Build the cascade of one chain and, for puzzles that it leaves unsolved, chains that start from guesses."""
    voting, options = guesses(choice, setting)
    cascade = _fast_cascade(choice, setting, ["steps", "guess"], choice.num_steps, {"guess": voting})
    return cascade, {"halt": choice.halt} | options


def _fast_cascade(
    choice: Choice, setting: Setting, stages: Sequence[str], more_steps: int, votings: dict[str, Voting]
) -> Continuous:
    """Build the cascade with chains that leave when they settle.

    A stage solves a puzzle if the model says stop, by the probability in `halt` if there is one.
    """
    limits = {"steps": choice.num_steps, "more_steps": more_steps}
    specs = [
        StageSpec(name, votings[name].num_steps, votings[name].pick, votings[name].num_chains)
        if name in votings
        else StageSpec(name, limits[name])
        for name in stages
    ]
    rule = setting.rule if choice.has_rule else OWN_RULE
    return Continuous(
        setting.solvers[0],
        None if rule is None else StopRule(max(rule.threshold, OWN_RULE.threshold), rule.patience),
        partial(CascadePlan, specs, by_settling=isinstance(choice.halt, float)),
        capacity=setting.capacity,
        votings=votings,
        for_all=False,
        sigma=votings["noise"].sigma if "noise" in votings else 0.0,
        sizes=setting.sizes,
        stages=stages,
    )


def _possible_stages(setting: Setting, choice: Choice) -> list[str]:
    """Return all stages except those that the data or architecture does not support and the user did not set."""
    stages = list(STAGES)
    if choice.symmetries is None:
        try:
            symmetry(choice, setting, None, "first_stop")
        except UserError:
            stages.remove("symmetry")
    asked = {choice.chains, choice.sigma, choice.pick} != {None}
    if not asked and (not _has_scratch(setting.solvers[0]) or setting.family.sigma is None):
        stages.remove("noise")
    return stages


def _symmetries(setting: Setting) -> Symmetries:
    known = setting.metadata.num_puzzle_identifiers if setting.solvers[0].knows_identifiers else 1
    return setting.family.symmetries_to_ask(setting.data_paths, setting.identifiers, known)


def symmetry(
    choice: Choice, setting: Setting, checker: Checker | None, pick: str | None = None
) -> tuple[Voting, dict[str, Any]]:
    symmetries = _symmetries(setting)
    most = symmetries.most
    if most is not None and max(choice.symmetries or 0, 2) > most:
        raise UserError(
            f"symmetries={choice.symmetries or NUM_SYMMETRIES}: some of these puzzles have only {most} different "
            "copies that the model knows (an ARC task has one for each of its identifiers)"
        )
    count = choice.symmetries or min(NUM_SYMMETRIES, most or NUM_SYMMETRIES)
    options = {"symmetries": count, "pick": pick or choice.pick or "majority", "seed": choice.seed or 0}
    voting = SymmetryVoting(
        setting.solvers[0],
        choice.num_steps,
        count,
        symmetries=symmetries,
        pick=options["pick"],
        seed=options["seed"],
        capacity=setting.capacity,
        checker=checker,
        sizes=setting.sizes,
    )
    return voting, options


def noise(choice: Choice, setting: Setting, checker: Checker | None) -> tuple[Voting, dict[str, Any]]:
    solver, family = setting.solvers[0], setting.family
    if not _has_scratch(solver):
        raise UserError(
            f"noise is added to latents other than the answer, and {type(solver.head.architecture).__name__} has "
            "none: use strategy=symmetry or ensemble, or leave noise out of rungs"
        )
    sigma = family.sigma if choice.sigma is None else choice.sigma
    if sigma is None:
        raise UserError(
            "sigma is required, because this family has no default (other families use 0.2 to 1.0): "
            f"{family.lacks('sigma')}"
        )
    options = {
        "chains": choice.chains or NUM_CHAINS,
        "sigma": sigma,
        "pick": choice.pick or family.noise_pick,
        "seed": choice.seed or 0,
    }
    voting = NoiseChains(
        solver,
        choice.num_steps,
        options["chains"],
        sigma=sigma,
        pick=options["pick"],
        seed=options["seed"],
        capacity=setting.capacity,
        checker=checker,
        sizes=setting.sizes,
    )
    return voting, options


def guesses(choice: Choice, setting: Setting) -> tuple[GuessChains, dict[str, Any]]:
    family = setting.family
    if family.blank is None:
        raise UserError(
            "a guess fills in a blank cell, and these puzzles have none or their family is unknown: "
            f"{family.lacks('blank')}. Use strategy=noise or symmetry, or leave guess out of rungs"
        )
    options = {
        "chains": choice.chains or NUM_CHAINS,
        "pick": choice.pick or "q_halt",
        "seed": choice.seed or 0,
    }
    chains = GuessChains(
        setting.solvers[0],
        choice.num_steps,
        options["chains"],
        pick=options["pick"],
        seed=options["seed"],
        capacity=setting.capacity,
        blank=family.blank,
        never=sorted({setting.metadata.pad_id, family.blank}),
    )
    return chains, options


def _has_scratch(solver: Solver) -> bool:
    return len(solver.head.architecture.latents) > 1
