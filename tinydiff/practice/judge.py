"""What is right, what is wrong, and which mistake it is.

A function is looked at in this order, and the first thing that is wrong is what is said about it: it raises, it returns
something of another type, of another shape (nothing is broadcast), NaN or infinity, it has changed its arguments, it
breaks a property (sums to one, a bound below the likelihood), it has another value. A wrong function that agrees with a
suspect on every case has the suspect's mistake, and is told so; any other is shown the smallest case that it fails.

Tolerances follow from the arithmetic: float64 leaves room for a careful numerical integral, float32 for its rounding,
and where chance is involved five standard errors.
"""

from __future__ import annotations

import copy
import inspect
import math
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from ..arrays import Floats
from ..tensor import Tensor
from .guard import Forbidden
from .question import Choice, Function, Number, Question, Seen, Suspect, Verdict
from .reading import number

SEED = 0
TOLERANCE = {"float64": 1e-6, "float32": 2e-4}
STANDARD_ERRORS = 5.0
CLOSE, ROUGH = 0.005, 0.05
"""A typed number is right within half a percent; within five percent it is told that digits are missing."""

NOT_WRITTEN = "not written yet"


class Refused(Exception):
    """An answer, or what it returned, cannot be judged further."""

    def __init__(self, kind: str, says: str) -> None:
        super().__init__(says)
        self.verdict = Verdict(kind, says)


def judge(question: Question, answer: Any) -> Verdict:
    """The verdict on an answer: a number or a choice, as such or as typed, or a function."""
    if isinstance(question.asks, Number):
        return _judge_number(question.asks, answer)
    if isinstance(question.asks, Choice):
        return _judge_choice(question.asks, answer)
    return _judge_function(question.asks, answer)


# --- numbers and choices ----------------------------------------------------------------------------------------------


def _judge_number(asks: Number, answer: Any) -> Verdict:
    if _nothing(answer):
        return Verdict("missing", "There is no answer yet.")
    try:
        value = number(answer, asks.unit)
    except ValueError as error:
        return Verdict("type", f"{str(error)[0].upper()}{str(error)[1:]}.")
    if math.isnan(value):
        return Verdict("finite", "This is NaN, not a number.")
    right = asks.answer()
    known = [(right, Verdict("right", "Right."))]
    known += [(trap.value(), Verdict("suspect", trap.says)) for trap in asks.traps]
    distance, verdict = min(((_apart(value, at), found) for at, found in known), key=lambda pair: pair[0])
    if distance <= CLOSE:
        return verdict
    if asks.unit == "nats" and _apart(value * math.log(2), right) <= CLOSE:
        return Verdict("suspect", "This is in bits; nats are asked for, and a bit is ln 2 = 0.693 of them.")
    if asks.unit == "share" and _apart(value / 100, right) <= CLOSE:
        return Verdict("suspect", "This is in percent; write the sign behind it (25 %) or a number from 0 to 1 (0.25).")
    if right != 0 and _apart(-value, right) <= CLOSE:
        return Verdict("suspect", "The size is right, the sign is turned round.")
    if _apart(value, right) <= ROUGH and right != round(right):
        return Verdict(
            "value", "Near, but not it. If that is rounding, give three digits or a formula such as 2*ln(3)."
        )
    return Verdict("value", f"{value:.6g} is not it.")


def _apart(a: float, b: float) -> float:
    """Relative distance; absolute from 0, of which nothing is a fraction."""
    if a == b:
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / abs(b) if b else abs(a) * 10  # 0.0004 for 0 is rounding


def _judge_choice(asks: Choice, answer: Any) -> Verdict:
    if _nothing(answer):
        return Verdict("missing", "There is no answer yet.")
    letters = "abcdefgh"[: len(asks.options)]
    place = None
    if isinstance(answer, str):
        word = answer.strip().lower().strip("().: ")
        place = letters.index(word) if len(word) == 1 and word in letters else None
        if place is None:  # the words of an option, or their beginning
            typed, texts = _letters(answer), [_letters(option.text) for option in asks.options]
            fits = [i for i, text in enumerate(texts) if text == typed or (len(typed) > 3 and text.startswith(typed))]
            place = fits[0] if len(fits) == 1 else None
    if place is None:
        return Verdict("type", f"Answer with one of the letters {', '.join(letters)}, in quotes where Python reads it.")
    option = asks.options[place]
    return Verdict("right" if option.right else "suspect", option.says)


def _letters(text: str) -> str:
    """Without blanks and signs."""
    return "".join(filter(str.isalnum, text.lower()))


def _nothing(answer: Any) -> bool:
    return answer is None or answer is ... or (isinstance(answer, str) and not answer.strip())


# --- functions --------------------------------------------------------------------------------------------------------


def _judge_function(asks: Function, answer: Any) -> Verdict:
    if answer is None or answer is ...:
        return Verdict("missing", f"There is no function {asks.name} yet.")
    if not callable(answer):
        what = "its result: hand in the function itself, without calling it" if _numeric(answer) else "not a function"
        return Verdict("type", f"{asks.name} is to be a function, and this is {what}.")
    cases = [tuple(case) for case in asks.cases(np.random.default_rng(SEED))]
    missing = _parameters(asks, answer, len(cases[0]))
    if missing:
        return Verdict("raises", missing)
    seen: list[Seen | Verdict] = []  # a verdict where there was nothing to see
    wrong: list[tuple[Verdict, tuple[Any, ...]]] = []
    for case in cases:
        expected = right_for(asks, case)
        try:
            found = _examined(asks, answer, case, expected)
            seen.append(found[0])
            if found[1]:
                wrong.append((found[1], case))
        except Refused as refused:
            if refused.verdict.kind in ("unwritten", "forbidden", "raises"):
                return _at(asks, refused.verdict, case)
            seen.append(refused.verdict)
            wrong.append((refused.verdict, case))
    if not wrong:
        return Verdict("right", "Right.")
    suspect = _suspected(asks, cases, seen)
    if suspect:
        return Verdict("suspect", suspect.says)
    order = ("type", "shape", "finite", "argument", "property", "value")
    verdict, case = min(wrong, key=lambda pair: (order.index(pair[0].kind), _size(pair[1])))
    if verdict.kind == "value":
        general = _general(asks, cases, seen)
        if general:
            return Verdict("suspect", general)
    return _at(asks, verdict, case)


def _numeric(answer: Any) -> bool:
    return isinstance(answer, int | float | list | tuple | np.ndarray | np.generic | Tensor)


def _parameters(asks: Function, answer: Callable[..., Any], count: int) -> str:
    """What is wrong with the parameters of a function that cannot be called at all."""
    try:
        inspect.signature(answer).bind(*range(count))
    except TypeError:
        want = ", ".join(inspect.signature(asks.solution).parameters)
        return f"It cannot be called with its arguments; they are {asks.name}({want}), in this order."
    except ValueError:  # a built-in without a signature
        pass
    return ""


def _examined(
    asks: Function, answer: Callable[..., Any], case: tuple[Any, ...], expected: Seen
) -> tuple[Seen, Verdict | None]:
    """What is seen of an answer on a case, and what is wrong with it, if something is. Refused if there is nothing."""
    arguments = tuple(map(_copied, case))
    try:
        values, errors = found = look(asks, answer, arguments)
    except Refused as refused:
        if refused.verdict.kind == "raises" and (spoilt := _changed(asks, case, arguments)):
            raise Refused("raises", f"{refused.verdict.says} It has also changed its argument {spoilt}.") from refused
        raise
    right, slack = expected
    if values.shape != right.shape:
        return found, Verdict(
            "shape", f"The result has shape {values.shape} and should have {right.shape}{_hint(right)}."
        )
    broken = ~np.isfinite(values) & np.isfinite(right)
    if broken.any():
        return found, Verdict("finite", f"The result contains {'NaN' if np.isnan(values).any() else 'infinity'}.")
    if spoilt := _changed(asks, case, arguments):
        return found, Verdict("argument", f"The function changes its argument {spoilt}; work on a copy of it.")
    for holds in asks.properties:
        broken_how = holds(*map(_copied, case), values)
        if broken_how:
            return found, Verdict("property", broken_how)
    if not _agree(found, expected):
        return found, Verdict("value", _difference(asks, values, right, np.asarray(errors + slack)))
    return found, None


def right_for(asks: Function, case: tuple[Any, ...]) -> Seen:
    """What is right on one case: what the oracle says, which knows no chance, or what the solution shows."""
    arguments = tuple(map(_copied, case))
    if asks.oracle is None:
        return look(asks, asks.solution, arguments)
    values = array(asks.oracle(*arguments))
    return values, np.zeros(values.shape)


def look(asks: Function, function: Callable[..., Any], case: tuple[Any, ...]) -> Seen:
    """What a function shows on one case: (values, errors). `Refused` if it raises or returns what is no number."""
    if asks.observe is not None:
        values, errors = asks.observe(_guarded(asks, function), case)
        return np.asarray(values, np.float64), np.asarray(errors, np.float64)
    values = array(_watched(function)(*case))
    return values, np.full(values.shape, 0.0)


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose exceptions become a verdict."""

    def run(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except NotImplementedError as error:
            raise Refused("unwritten", f"{getattr(function, '__name__', 'It')} is not written yet.") from error
        except Refused:
            raise
        except Forbidden as error:
            raise Refused("forbidden", f"{error}.") from error
        except MemoryError as error:
            raise Refused("raises", "It takes more memory than a check has.") from error
        except EOFError as error:
            raise Refused(
                "forbidden", "It asks for input, and nobody is there to answer: use the arguments."
            ) from error
        except SystemExit as error:
            raise Refused("raises", "It ends the program; return the result instead.") from error
        except RecursionError as error:
            raise Refused("raises", "It calls itself without end.") from error
        except Exception as error:
            raise Refused(
                "raises", f"It raises {type(error).__name__}: {str(error)[:200].rstrip('.')}{_line(error, function)}."
            ) from error

    return run


def _guarded(asks: Function, function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions that are called many times: none of the calls may change an argument."""
    watched = _watched(function)

    def run(*arguments: Any) -> Any:
        # a generator may be drawn from
        before = tuple(a if isinstance(a, np.random.Generator) else _copied(a) for a in arguments)
        output = watched(*arguments)
        if spoilt := _changed(asks, before, arguments):
            raise Refused("argument", f"The function changes its argument {spoilt}; work on a copy of it.")
        return output

    return run


@cache
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _changed(asks: Function, before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    """The first argument that is not what it was, "" if there is none."""
    return next(
        (n for n, old, new in zip(_names(asks.solution), before, after, strict=False) if not _same(old, new)), ""
    )


def _line(error: Exception, function: Callable[..., Any]) -> str:
    """Where in the answer it happened."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if code is not None and f.filename == code.co_filename
    ]
    return f" (line {frames[-1].lineno}: {frames[-1].line})" if frames and frames[-1].line else ""


def array(output: Any, shape: tuple[int, ...] | None = None) -> Floats:
    """What was returned as an array of float64; numbers of any type, lists, fractions and tensors will do.

    Parameters
    ----------
    shape : that it must have

    """
    if output is None:
        raise Refused("type", "It returns None; is there a return at the end?")
    if isinstance(output, Tensor):
        output = output.data
    if isinstance(output, str | bytes | dict | set | frozenset) or callable(output):
        raise Refused("type", f"It returns something of type {type(output).__name__}; numbers are asked for.")
    if isinstance(output, Iterable) and not isinstance(output, np.ndarray | np.generic | list | tuple):
        output = list(output)  # generators, maps, deques, the values of a dictionary
    try:
        if isinstance(output, list | tuple) and any(isinstance(entry, Tensor) for entry in output):
            output = [entry.data if isinstance(entry, Tensor) else entry for entry in output]
        values = np.asarray(output)
        if values.dtype.kind == "c":
            raise Refused("type", "It returns complex numbers; real ones are asked for.")
        if values.dtype.kind not in "biuf":
            values = values.astype(np.float64)
        found = values.astype(np.float64)
    except (TypeError, ValueError):
        raise Refused(
            "type", f"It returns something of type {type(output).__name__} that is no array of numbers."
        ) from None
    if values.dtype in (np.float32, np.float16):
        found = found.view(Rough)
    if shape is not None and found.shape != shape:
        raise Refused("shape", f"The result has shape {found.shape} and should have {shape}{_hint(np.empty(shape))}.")
    return found


class Rough(np.ndarray[Any, Any]):
    """Values that were computed in float32, and are compared as such."""


def _hint(right: Floats) -> str:
    return ", one number" if right.shape == () else ""


def _copied(argument: Any) -> Any:
    return copy.deepcopy(argument) if isinstance(argument, np.ndarray | list | dict | np.random.Generator) else argument


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray):
        return before.shape == after.shape and bool(np.array_equal(before, after, equal_nan=before.dtype.kind == "f"))
    return before == after if isinstance(before, list | dict) else True


def _agree(a: Seen, b: Seen) -> bool:
    return _distance(a, b) <= 1


def _distance(a: Seen, b: Seen) -> float:
    """The largest difference, in units of what is forgiven: up to 1 two observations agree."""
    (values, errors), (others, slack) = a, b
    if values.shape != others.shape:
        return math.inf
    rough = isinstance(values, Rough) or isinstance(others, Rough)
    finite = others[np.isfinite(others)]
    scale = float(np.abs(finite).max(initial=0.0))
    room = TOLERANCE["float32" if rough else "float64"] * np.maximum(np.abs(others), 1e-3 * scale)
    room = room + STANDARD_ERRORS * np.sqrt(np.square(errors) + np.square(slack)) + 1e-12
    with np.errstate(invalid="ignore"):
        apart = np.abs(values - others) / room
    same = (values == others) | (np.isnan(values) & np.isnan(others))
    return float(np.where(same, 0.0, np.nan_to_num(apart, nan=np.inf, posinf=np.inf)).max(initial=0.0))


def _suspected(asks: Function, cases: list[tuple[Any, ...]], seen: list[Seen | Verdict]) -> Suspect | None:
    """The suspect that shows the same on every case; if chance blurs several into one, the nearest."""
    nearest, distance = None, 1.0
    for suspect in asks.suspects:
        farthest = 0.0
        for case, found in zip(cases, seen, strict=True):
            farthest = max(farthest, _unlike(found, _shown(asks, suspect.function, case)))
            if farthest > distance:
                break
        else:
            if nearest is None or farthest < distance:
                nearest, distance = suspect, farthest
    return nearest


def _shown(asks: Function, function: Callable[..., Any], case: tuple[Any, ...]) -> Seen | Verdict:
    try:
        with np.errstate(all="ignore"):
            return look(asks, function, tuple(map(_copied, case)))
    except Refused as refused:
        return refused.verdict


def _unlike(a: Seen | Verdict, b: Seen | Verdict) -> float:
    if isinstance(a, Verdict) or isinstance(b, Verdict):
        return 0.0 if a == b else math.inf
    return _distance(a, b)


def _general(asks: Function, cases: list[tuple[Any, ...]], seen: list[Seen | Verdict]) -> str:
    """Mistakes that any function can have: the other unit, the other sign."""
    right = [right_for(asks, case) for case in cases]
    if not any(np.abs(values).max(initial=0) > 0 for values, _ in right):
        return ""
    turned = {"The size is right, the sign is turned round.": -1.0}
    if asks.unit == "nats":
        turned["The result is in bits; nats are asked for, so take natural logarithms."] = 1 / math.log(2)
    for says, factor in turned.items():
        if all(
            not isinstance(found, Verdict) and _agree(found, (values * factor, slack * abs(factor)))
            for found, (values, slack) in zip(seen, right, strict=True)
        ):
            return says
    return ""


# --- what to say ------------------------------------------------------------------------------------------------------


def _size(case: tuple[Any, ...]) -> int:
    return sum(np.size(argument) for argument in case if isinstance(argument, np.ndarray | list | float | int))


def _at(asks: Function, verdict: Verdict, case: tuple[Any, ...]) -> Verdict:
    """The verdict, with the arguments that led to it."""
    if verdict.kind == "unwritten":
        return verdict
    shown = ", ".join(
        f"{name} = {shown_value(value)}"
        for name, value in zip(_names(asks.solution), case, strict=False)
        if not (callable(value) or isinstance(value, np.random.Generator))  # of which there is nothing to be seen
    )
    return Verdict(verdict.kind, f"{verdict.says} With {shown}.")


def shown_value(value: Any) -> str:
    """An argument or a result, short enough for a sentence."""
    if isinstance(value, np.ndarray):
        if value.size > 24:
            return f"an array of shape {value.shape}"
        return " ".join(np.array2string(value, precision=4, separator=", ", threshold=30).split())
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return repr(value)[:80]


def _difference(asks: Function, values: Floats, right: Floats, error: Floats) -> str:
    if right.size == 1:
        chance = f" (chance moves that by {float(error.max()):.1g})" if error.max() > 0 else ""
        return f"It gives {float(values.reshape(())):.6g}, right is {float(right.reshape(())):.6g}{chance}."
    if right.size <= 12 and error.max(initial=0) == 0:
        return f"It gives {shown_value(np.asarray(values))}, right is {shown_value(np.asarray(right))}."
    with np.errstate(invalid="ignore"):
        at = np.unravel_index(int(np.nanargmax(np.abs(values - right) / (error + 1e-12))), right.shape)
    place = asks.labels[at[0]] if asks.labels else f"at [{', '.join(map(str, at))}]"
    return f"{place[0].upper()}{place[1:]}: it gives {float(values[at]):.6g}, right is {float(right[at]):.6g}."
