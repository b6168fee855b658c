"""The paid work: compare every pair of a class, and write feedback for each essay."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Final, assert_never

from msgspec import Struct

from grading.demo.essays import Essay, SchoolClass

COMPARISON: Final = "cj_comparison"
FEEDBACK: Final = "ai_feedback_generation"
LONG_SENTENCE: Final = 30


class Comparison(Struct, frozen=True):
    left: Essay
    right: Essay


class Feedback(Struct, frozen=True):
    essay: Essay


Task = Comparison | Feedback


class _Traits(Struct, frozen=True):
    words: int
    letters: int
    distinct: int
    sentences: int


def tasks(graded: SchoolClass) -> Iterator[Task]:
    """Yield the tasks of a class: first the comparisons, then the feedback."""
    for left, right in combinations(graded.essays, 2):
        yield Comparison(left, right)
    for essay in graded.essays:
        yield Feedback(essay)


def metric(task: Task) -> str:
    match task:
        case Comparison():
            return COMPARISON
        case Feedback():
            return FEEDBACK
        case _:
            assert_never(task)


def better(left: Essay, right: Essay) -> Essay:
    """Return the winner by vocabulary, development and word length. A draw goes to ``left``."""
    a, b = _traits(left.text), _traits(right.text)
    balance = (
        _sign(a.distinct - b.distinct)
        + _sign(a.sentences - b.sentences)
        + _sign(a.letters * b.words - b.letters * a.words)
    )
    return left if balance >= 0 else right


def feedback(essay: Essay) -> str:
    """Return the feedback for the writer."""
    traits = _traits(essay.text)
    advice = (
        "Try shorter sentences."
        if traits.words > LONG_SENTENCE * traits.sentences
        else "The sentences are easy to follow."
    )
    return (
        f"{traits.words} words in {traits.sentences} sentences, "
        f"{traits.distinct} of them different. {advice}"
    )


@cache
def _traits(text: str) -> _Traits:
    words = re.findall(r"[^\W\d_]+", text.lower())
    return _Traits(
        words=len(words),
        letters=sum(map(len, words)),
        distinct=len(set(words)),
        sentences=max(1, len(re.findall(r"[.!?]+", text))),
    )


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
