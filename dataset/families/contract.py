"""Check what the methods of a family return, at each call, so that an error names the method that is wrong.

Shapes: n rows, S cells of a sequence.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import numpy as np

from dataset.families.browser_rules import BrowserRules
from dataset.families.grid_style import GridStyle
from dataset.families.parts import Comparison, Verdict
from dataset.families.symmetry import Symmetries
from dataset.units import CellUnits
from utils.errors import UserError
from utils.reading import shortened

# (family or its class, arguments, result) -> what the result must be, or None if it is valid
Contract = Callable[[Any, tuple, Any], str | None]


def keep_contracts(cls: type) -> None:
    """Wrap the methods and properties that a class defines itself, so that their results are checked."""
    for name, contract in CONTRACTS.items():
        member = vars(cls).get(name)
        where = f"{cls.__module__}@{cls.__qualname__}.{name}"
        if isinstance(member, cached_property):
            member.func = _checked(member.func, where, contract)
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(_checked(member.fget, where, contract)))
        elif isinstance(member, classmethod):
            setattr(cls, name, classmethod(_checked(member.__func__, where, contract)))
        elif callable(member):
            setattr(cls, name, _checked(member, where, contract))


def attribute_problem(cls: Any, called: str) -> str | None:
    """Return what is wrong with the class attributes of a family that datasets refer to as `called`, or None."""
    for name, (fits, words) in _ATTRIBUTES.items():
        if not fits(value := getattr(cls, name)):
            return f"its {name} is {_shown(value)}, but must be {words}"
    for name in ("check", "check_tensors"):
        if cls.several_answers and getattr(cls, name) is None:
            return f"its puzzles have several right answers, which needs {name}: define it"
    if cls.name != called:
        return f"its name is {cls.name!r}: write name = {called!r} into its class"
    return None


def check_rows(
    where: str, made: Any, shape: tuple[int, ...], vocab_size: int, ignored: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and labels (n, S) made by an augmentation. Raises UserError if they are invalid.

    Labels may also be `ignored`, the `ignore_label_id` of the data.
    """
    is_pair = isinstance(made, tuple | list) and len(made) == 2
    if not is_pair or any(not _is_integers(rows) or rows.shape != shape for rows in made):
        raise UserError(
            f"{where} makes {_shown(made)} of training puzzles, but must make integers {shape} twice"
        )
    inputs, labels = made
    for what, rows, also_legal in (("puzzles with tokens", inputs, None), ("labels", labels, ignored)):
        if not rows.size or 0 <= rows.min() <= rows.max() < vocab_size:
            continue  # nearly always, and much cheaper than a mask
        rows = rows if also_legal is None else rows[rows != also_legal]
        if rows.size and not 0 <= rows.min() <= rows.max() < vocab_size:
            raise UserError(
                f"{where} makes {what} from {rows.min()} to {rows.max()}, but vocab_size is {vocab_size}"
            )
    return inputs, labels


def _checked(method: Callable, where: str, contract: Contract) -> Callable:
    @wraps(method)
    def checked(self, *arguments, **options):
        try:
            result = method(self, *arguments, **options)
        except UserError:
            raise
        except ValueError as error:  # shown by commands without a traceback
            *_, last = traceback.extract_tb(error.__traceback__)
            raise UserError(f"{where}: {error} ({Path(last.filename).name}, line {last.lineno})") from error
        if wanted := contract(self, (*arguments, *options.values()), result):
            raise UserError(f"{where} gives {_shown(result)}, but must give {wanted}")
        return result

    return checked


def _shown(value: Any) -> str:
    """Describe an array by its dtype and shape, anything else by its repr."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, tuple | list) and any(hasattr(part, "dtype") for part in value):
        return f"({', '.join(map(_shown, value))})"
    return shortened(repr(value))


def _is_integers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"


def _is(*kinds: type | None, words: str) -> Contract:
    known = tuple(type(None) if kind is None else kind for kind in kinds)
    return lambda family, arguments, result: None if isinstance(result, known) else words


def _one_bool_a_row(family: Any, arguments: tuple, result: Any) -> str | None:
    wanted = (len(arguments[0]),)
    # Takes tensors too: `check` may serve as `check_tensors`.
    is_bool = str(getattr(result, "dtype", "")).removeprefix("torch.") == "bool"
    return None if is_bool and tuple(result.shape) == wanted else f"bool {wanted}"


def _cells(dtype: str) -> Contract:
    def contract(family: Any, arguments: tuple, result: Any) -> str | None:
        wanted = (family.metadata.seq_len,)
        fits = isinstance(result, np.ndarray) and result.shape == wanted
        kinds = "b" if dtype == "bool" else "iu"
        return None if fits and result.dtype.kind in kinds else f"{dtype} {wanted}"

    return contract


def _tokens(family: Any, arguments: tuple, result: Any) -> str | None:
    wanted, vocab_size = (family.metadata.seq_len,), family.metadata.vocab_size
    fits = _is_integers(result) and result.shape == wanted
    if fits and result.min() >= 0 and result.max() < vocab_size:
        return None
    return f"integers {wanted} from 0 to {vocab_size - 1}"


def _puzzle_and_answer(family: Any, arguments: tuple, result: Any) -> str | None:
    if isinstance(result, tuple) and len(result) == 2:
        return next(filter(None, (_tokens(family, arguments, tokens) for tokens in result)), None)
    return "a puzzle and its answer"


def _list_of(kind: type, words: str) -> Contract:
    def contract(family: Any, arguments: tuple, result: Any) -> str | None:
        fits = isinstance(result, list | tuple) and all(isinstance(item, kind) for item in result)
        return None if fits else f"a list of {words}"

    return contract


def _shape(family: Any, arguments: tuple, result: Any) -> str | None:
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    seq_len = family.metadata.seq_len
    if is_pair and all(isinstance(side, int) for side in result) and result[0] * result[1] == seq_len:
        return None
    return f"rows and columns of a grid of {seq_len} cells"


def _augmentation(family: Any, arguments: tuple, result: Any) -> str | None:
    return (
        None
        if result is None or callable(result)
        else "a function of (rng, count, mine, inputs, labels), or None"
    )


def _evidence(family: Any, arguments: tuple, result: Any) -> str | None:
    is_pair = isinstance(result, tuple) and len(result) == 2
    return (
        None
        if is_pair and isinstance(result[1], str)
        else "whether the dataset is of the family, and the reason"
    )


def _unknown(family: Any, arguments: tuple, result: Any) -> str | None:
    return None if result is None else _one_bool_a_row(family, arguments, result)


CONTRACTS: Mapping[str, Contract] = {
    "size_problem": _is(str, None, words="a reason in words, or None"),
    "recognise": _evidence,
    "grid_style": _is(GridStyle, words="a GridStyle"),
    "shape": _shape,
    "describe": _is(str, words="text"),
    "read": _tokens,
    "read_answer": _tokens,
    "write": _is(str, words="text"),
    "remarks": _list_of(str, "texts"),
    "counted": _cells("integers"),
    "broken": _cells("bool"),
    "kinds": _cells("integers"),
    "check": _one_bool_a_row,
    "judge": _is(Verdict, words="a Verdict"),
    "browser_rules": _is(BrowserRules, words="BrowserRules"),
    "example": _puzzle_and_answer,
    "units": _is(CellUnits, None, words="CellUnits, or None"),
    "symmetries": _is(Symmetries, None, words="Symmetries, or None"),
    "easier": _augmentation,
    "unknown_labels": _unknown,
    "comparisons": _list_of(Comparison, "Comparison"),
    "notes": _list_of(str, "texts"),
}


def _is_evaluator(value: Any) -> bool:
    return value is None or (isinstance(value, str) and all(value.partition("@")))


def _is_characters(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and len(key) == 1 and isinstance(token, int) for key, token in value.items()
    )


_PICKS = ("majority", "q_halt", "first_stop")
_ATTRIBUTES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: value is None or isinstance(value, str), "text"),
    "completes": (lambda value: isinstance(value, bool), "True or False"),
    "several_answers": (lambda value: isinstance(value, bool), "True or False"),
    "evaluator": (_is_evaluator, "module@Class, or None"),
    "sigma": (
        lambda value: value is None or (isinstance(value, int | float) and value >= 0),
        "a number, or None",
    ),
    "noise_pick": (lambda value: value in _PICKS, f"one of {', '.join(_PICKS)}"),
    "text_help": (lambda value: value is None or isinstance(value, str), "text, or None"),
    "characters": (_is_characters, "a mapping of characters to tokens"),
    "sizes_to_check": (
        lambda value: all(
            isinstance(sizes, Mapping) and {"seq_len", "vocab_size"} <= sizes.keys() for sizes in value
        ),
        "a list of mappings with seq_len and vocab_size",
    ),
}
