"""What a question is: a value that holds its words, its hints, and how an answer to it is judged.

Three things can be asked for: a number, a choice, a function. Right answers are computed when they are needed, by the
oracles or by the formula itself, and never stored. So are wrong ones: a misconception is the formula or the function
that somebody who has it would write, with one sentence for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..arrays import Floats

Seen = tuple[Floats, Floats]
"""What was seen of a function on one case: values, and how far chance may have moved each (0 where there is none)."""


@dataclass(frozen=True)
class Trap:
    """A wrong number with the mistake that leads there."""

    value: Callable[[], float]
    says: str


@dataclass(frozen=True)
class Number:
    """A number is asked for.

    Attributes
    ----------
    answer : computes it
    traps : what comes out of common mistakes
    unit : "nats" also understands bits; "share" also percent

    """

    answer: Callable[[], float]
    traps: tuple[Trap, ...]
    unit: Literal["", "nats", "share"] = ""


@dataclass(frozen=True)
class Option:
    """One of the answers to choose from, and what there is to say about it."""

    text: str
    says: str
    right: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several answers is asked for; exactly one is right."""

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if sum(option.right for option in self.options) != 1:
            raise ValueError(f"options has {sum(o.right for o in self.options)} right ones; expected exactly one")

    @property
    def right(self) -> int:
        return next(i for i, option in enumerate(self.options) if option.right)


@dataclass(frozen=True)
class Suspect:
    """A wrong function, with the mistake that is in it."""

    function: Callable[..., Any]
    says: str


@dataclass(frozen=True)
class Function:
    """A function is asked for.

    Attributes
    ----------
    solution : one way to write it. Its name, parameters and docstring are the task, its body the solution
    cases : arguments to try it on, the simplest first
    suspects : wrong ones
    oracle : what is right, for arguments; by default the solution
    properties : each is told the arguments and then the output, and says what is wrong with it, if something is
    observe : what to compare of a function that depends on chance, or of one that answers with more than an array: the
        function and the arguments to values and their errors
    unit : "nats" tells bits from them
    labels : what the values are that `observe` compares, one word or two for each
    derived : whether it is a derivation, to be found with pencil and paper before it is written down
    better : what a better solution would do next

    """

    solution: Callable[..., Any]
    cases: Callable[[np.random.Generator], Sequence[tuple[Any, ...]]]
    suspects: tuple[Suspect, ...]
    oracle: Callable[..., Any] | None = None
    properties: tuple[Callable[..., str | None], ...] = ()
    observe: Callable[[Callable[..., Any], tuple[Any, ...]], Seen] | None = None
    unit: Literal["", "nats"] = ""
    derived: bool = False
    labels: tuple[str, ...] = ()
    better: str = ""

    @property
    def name(self) -> str:
        return self.solution.__name__


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes
    ----------
    title, prompt : what it is about, and what is asked
    asks : a `Number`, a `Choice` or a `Function`
    hints : given one at a time
    why : the explanation, shown when it is over
    see : where the lessons explain it

    """

    title: str
    prompt: str
    asks: Number | Choice | Function
    hints: tuple[str, ...]
    why: str
    see: str = ""

    @property
    def kind(self) -> str:
        """Number, choice, derivation or code."""
        if isinstance(self.asks, Function):
            return "derivation" if self.asks.derived else "code"
        return "number" if isinstance(self.asks, Number) else "choice"


@dataclass(frozen=True)
class Series:
    """A practice set or a coding problem: questions that belong together, and the lesson that explains them."""

    key: str
    title: str
    lesson: str
    questions: tuple[Question, ...]

    def ids(self) -> list[str]:
        """The names of its questions: 3.1, 3.2 ...; a coding problem is one question with the problem's name."""
        if len(self.questions) == 1:
            return [self.key]
        return [f"{self.key}.{i + 1}" for i in range(len(self.questions))]


@dataclass(frozen=True, repr=False)
class Verdict:
    """What is said about an answer.

    Attributes
    ----------
    kind : "right", or the first thing that is wrong: "missing", "unwritten", "late", "forbidden", "raises", "type",
        "shape", "finite", "argument", "property", "value", or "suspect" where it is known which mistake was made
    says : in words
    printed : the beginning of what the answer printed
    why : the explanation, once it is right

    """

    kind: str
    says: str
    printed: str = field(default="", compare=False)
    why: str = field(default="", compare=False)

    @property
    def right(self) -> bool:
        return self.kind == "right"

    def __repr__(self) -> str:
        lines = [self.says if self.right else f"Not yet. {self.says}"]
        lines += [self.why] if self.why else []
        lines += [f"It printed: {self.printed}"] if self.printed else []
        return "\n".join(lines)
