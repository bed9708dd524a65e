"""Promises about name, sizes, puzzles as text, and examples. Each test yields failures with an example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataset.families import family_class
from dataset.promises.puzzles import Puzzles, shortened, shown
from utils.errors import UserError


def sizes(puzzles: Puzzles) -> Iterator[str]:
    family, metadata = puzzles.family, puzzles.family.metadata
    if not issubclass(type(family), family_class(family.name)):
        yield f"the name {family.name} does not refer to the class {type(family).__name__}"
    if problem := family.size_problem(metadata):
        yield f"its own puzzles are rejected: {problem}"
    rows, columns = family.shape
    if rows * columns != metadata.seq_len:
        yield f"shape is {rows} x {columns}, but a puzzle has {metadata.seq_len} cells"
    for name, tokens in (("question", puzzles.questions), ("answer", puzzles.answers)):
        if tokens.shape != (len(puzzles), metadata.seq_len):
            yield f"{name}s have {tokens.shape[1:]} cells instead of {metadata.seq_len}"
        if tokens.max() >= metadata.vocab_size:
            yield f"a {name} holds the token {tokens.max()}, but vocab_size is {metadata.vocab_size}"


def text(puzzles: Puzzles) -> Iterator[str]:
    family = puzzles.family
    if family.text_help is None:
        yield "puzzles have characters, but text_help does not say how they are written"
    for number, question in enumerate(puzzles.questions):
        text = family.write(question)
        again = family.read(text)
        if again.shape != question.shape or again.dtype != np.uint8:
            yield f"read gives {again.dtype} {again.shape} instead of uint8 {question.shape}"
        elif (again != question).any():
            yield f"{puzzles.named(number)} is written as {text!r} and read as {shown(again)}"
    for number, answer in enumerate(puzzles.answers):
        if (answer >= 0).all():
            again = family.read_answer(written := family.write(answer))
            if again.shape != answer.shape or (again != answer).any():
                yield f"the answer to {puzzles.named(number)} is written as {written!r} and read as {shown(again)}"
    for wrong in ("", text * 2, text + "\0"):
        try:
            family.read(wrong)
        except UserError:
            continue
        yield f"read accepts {shortened(wrong)} instead of raising UserError"


def examples(puzzles: Puzzles) -> Iterator[str]:
    family = puzzles.family
    for seed in range(4):
        question, answer = family.example(np.random.default_rng(seed))
        for name, tokens in (("question", question), ("answer", answer)):
            if (
                tokens.shape != (puzzles.seq_len,)
                or not ((tokens >= 0) & (tokens < puzzles.vocab_size)).all()
            ):
                yield f"seed {seed} gives the {name} {shown(tokens)}, which is not {puzzles.seq_len} tokens"
        if not all(map(np.array_equal, family.example(np.random.default_rng(seed)), (question, answer))):
            yield f"seed {seed} gives different puzzles in two calls"
        if family.judge(question, answer, None).solved is False:
            yield f"seed {seed} gives {shown(question)} with an answer that is judged wrong: {shown(answer)}"
        if family.text_help is not None and (family.read(family.write(question)) != question).any():
            yield f"seed {seed} gives {shown(question)}, which changes when written and read"
        if said := family.remarks(question):
            yield f"seed {seed} gives {shown(question)}, about which it warns: {said[0]}"
