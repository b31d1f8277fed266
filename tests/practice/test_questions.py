"""What every question promises: stubs fail, references pass, every mistake is recognised as itself and no other."""

from __future__ import annotations

import math
import pickle
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tinydiff import ops
from tinydiff.practice.catalogue import FUNCTIONS, QUESTIONS, SERIES, explanation, sheet, solution, stub, words
from tinydiff.practice.judge import Refused, judge
from tinydiff.practice.problems import PROBLEMS
from tinydiff.practice.question import Choice, Function, Number
from tinydiff.practice.sets import SETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _each_is_watched_once() -> Iterator[None]:
    """Wrong answers are compared with all suspects, each of which shows the same again on the same case."""
    judging = sys.modules[judge.__module__]  # the package has the function under that name
    look, kept = judging.look, {}

    def looked(asks: Function, function: Any, case: tuple[Any, ...]) -> Any:
        if asks.observe is None:  # quick, and whether the case is changed shows there
            return look(asks, function, case)
        key = function, pickle.dumps(case)
        if key not in kept:
            try:
                kept[key] = look(asks, function, case)
            except Refused as refused:
                kept[key] = refused
        if isinstance(kept[key], Refused):
            raise kept[key]
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "look", looked)
        yield


def of(kind: type) -> list[str]:
    return [name for name, question in QUESTIONS.items() if isinstance(question.asks, kind)]


def functions() -> list[tuple[str, Function]]:
    return [(name, question.asks) for name, question in QUESTIONS.items() if isinstance(question.asks, Function)]


def written(asks: Function) -> Any:
    """The stub, run."""
    names: dict[str, Any] = {}
    exec(stub(asks), names)
    return names[asks.name]


# --- the sets ---------------------------------------------------------------------------------------------------------


def test_eight_sets_of_ten_and_four_problems() -> None:
    """About four numbers, two derivations, three choices and a short code each."""
    assert [len(s.questions) for s in SETS] == [10] * 8
    assert [p.key for p in PROBLEMS] == ["recipe", "decoder", "clock", "margin"]
    for s in SETS:
        kinds = Counter(question.kind for question in s.questions)
        assert (kinds["derivation"], kinds["code"]) == (2, 1), s.title
        assert 3 <= kinds["number"] <= 4
        assert 3 <= kinds["choice"] <= 4


def test_enough_hints_traps_and_suspects() -> None:
    """Two traps a number, three suspects a function, six a problem; three hints a problem."""
    for name, question in QUESTIONS.items():
        asks = question.asks
        assert question.hints, name
        assert question.why, name
        if isinstance(asks, Number):
            assert len(asks.traps) >= 2, name
        elif isinstance(asks, Function):
            assert len(asks.suspects) >= (3 if "." in name else 6), name
    for p in PROBLEMS:
        assert len(p.questions[0].hints) == 3
        assert isinstance(p.questions[0].asks, Function)
        assert p.questions[0].asks.better


def test_function_names_are_unique() -> None:
    """A sheet names the question by its function."""
    assert len(FUNCTIONS) == len(functions())


def test_sections_exist() -> None:
    """A question names the lesson and the sections that explain it, and they are there."""
    for name, question in QUESTIONS.items():
        places = re.findall(r"lessons/(\d\d[ab]?)\S*, sections? (\d+)(?: and (\d+))?", question.see)
        assert places, f"{name}: {question.see!r}"
        for lesson, *sections in places:
            (path,) = (ROOT / "lessons").glob(f"{lesson}_*.ipynb")
            cells = nbformat.read(path, as_version=4).cells
            for section in filter(None, sections):
                assert any(re.search(rf"^## {section} ·", cell.source, re.MULTILINE) for cell in cells), question.see
    for s in SERIES.values():
        assert (ROOT / s.lesson).is_file(), s.lesson


@pytest.mark.parametrize("name", QUESTIONS)
def test_can_be_shown(name: str) -> None:
    """Words, explanation and solution."""
    assert QUESTIONS[name].title in words(name)
    assert QUESTIONS[name].why in explanation(name)
    assert solution(name)


@pytest.mark.parametrize("key", SERIES)
def test_sheets_are_python(key: str) -> None:
    """With a place for every answer."""
    names: dict[str, Any] = {}
    exec(compile(sheet(key), "sheet", "exec"), names)
    functions = [name for name in SERIES[key].ids() if isinstance(QUESTIONS[name].asks, Function)]
    assert set(names["answers"]) == set(SERIES[key].ids()) - set(functions)
    assert all(callable(names[QUESTIONS[name].asks.name]) for name in functions)


# --- numbers and choices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", of(Number))
def test_numbers(name: str) -> None:
    """The answer passes as a float, as text with six digits and rounded to three; each trap has its own sentence."""
    question = QUESTIONS[name]
    asks = question.asks
    assert isinstance(asks, Number)
    right = asks.answer()
    for answer in (right, f"{right:.6g}", f"{right:.3g}", np.float64(right), np.array(right), f" {right!r} "):
        assert judge(question, answer).right, answer
    for trap in asks.traps:
        verdict = judge(question, trap.value())
        assert (verdict.kind, verdict.says) == ("suspect", trap.says)
        assert abs(trap.value() - right) > 0.012 * abs(right), "rounding one must not give the other"
    assert judge(question, right * 1.37 + 0.011).kind == "value"


@pytest.mark.parametrize("name", of(Choice))
def test_choices(name: str) -> None:
    """Each option has a sentence of its own; one of them is right."""
    question = QUESTIONS[name]
    asks = question.asks
    assert isinstance(asks, Choice)
    assert len({option.says for option in asks.options}) == len(asks.options)
    for letter, option in zip("abcdef", asks.options, strict=False):
        for typed in (letter, letter.upper(), f"{letter})", f"({letter})", option.text):
            verdict = judge(question, typed)
            assert (verdict.right, verdict.says) == (option.right, option.says)
    for typed in ("z", "", 3, True, "ab"):
        assert not judge(question, typed).right


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "asks"), functions())
def test_stubs_fail(name: str, asks: Function) -> None:
    """With "not written yet"."""
    verdict = judge(QUESTIONS[name], written(asks))
    assert verdict.kind == "unwritten"
    assert "not written yet" in verdict.says


@pytest.mark.parametrize(("name", "asks"), functions())
def test_references_pass(name: str, asks: Function) -> None:
    """Within a second of this process's time; so does the oracle, which is written differently."""
    start = time.process_time()
    assert judge(QUESTIONS[name], asks.solution).right
    assert time.process_time() - start < 1
    if asks.oracle is not None and asks.observe is None:
        assert judge(QUESTIONS[name], asks.oracle).right


@pytest.mark.parametrize(
    ("name", "asks", "at"), [(name, asks, i) for name, asks in functions() for i in range(len(asks.suspects))]
)
def test_suspects_are_recognised(name: str, asks: Function, at: int) -> None:
    """Each with its own sentence, within three seconds of this process's time."""
    start = time.process_time()
    verdict = judge(QUESTIONS[name], asks.suspects[at].function)
    assert (verdict.kind, verdict.says) == ("suspect", asks.suspects[at].says)
    assert time.process_time() - start < 3
    assert len({suspect.says for suspect in asks.suspects}) == len(asks.suspects)


@pytest.mark.parametrize(("name", "asks"), [(n, a) for n, a in functions() if a.observe is None])
def test_results_of_any_type(name: str, asks: Function) -> None:
    """Lists, arrays, float32 and tuples pass, when the numbers are right."""
    kinds = {
        "list": lambda *a: np.asarray(asks.solution(*a)).tolist(),
        "array": lambda *a: np.asarray(asks.solution(*a)),
        "float32": lambda *a: np.asarray(asks.solution(*a), np.float32),
    }
    for kind, function in kinds.items():
        assert judge(QUESTIONS[name], function).right, kind


@pytest.mark.parametrize(("name", "asks"), [(n, a) for n, a in functions() if a.observe is None])
def test_the_order_of_verdicts(name: str, asks: Function) -> None:
    """Type, shape, NaN and value, each with what led there."""

    def shifted(*a: Any) -> Any:
        return np.asarray(asks.solution(*a), float) * 1.618 + 0.377

    answers = {
        "raises": lambda *a: 1 // 0,
        "type": lambda *a: None,
        "shape": lambda *a: np.asarray(asks.solution(*a), float)[None],
        "finite": lambda *a: np.asarray(asks.solution(*a), float) * math.nan,
    }
    for kind, function in answers.items():
        verdict = judge(QUESTIONS[name], function)
        assert verdict.kind == kind
        assert "With " in verdict.says
    verdict = judge(QUESTIONS[name], shifted)
    assert verdict.kind in ("value", "property")
    assert "With " in verdict.says


def test_nothing_is_broadcast() -> None:
    """An array of equal numbers is not a number."""
    asks = QUESTIONS["4.3"].asks
    assert isinstance(asks, Function)
    assert judge(QUESTIONS["4.3"], lambda t, power: np.full(3, power / t)).kind == "shape"
    assert judge(QUESTIONS["4.3"], lambda t, power: np.full(1, power / t)).kind == "shape"


def test_arguments_are_the_callers() -> None:
    """A right result from a function that spoils what it was given is not right."""

    def spoils(matrix: Any, left: int, right: int) -> Any:
        result = matrix[left] * matrix[:, right]
        matrix[:] = 0
        return result / result.sum()

    verdict = judge(QUESTIONS["1.7"], spoils)
    assert verdict.kind == "argument"
    assert "matrix" in verdict.says


def test_bits_are_told_from_nats() -> None:
    """For numbers that are typed, with a unit or without, and for functions."""
    bits = QUESTIONS["1.1"].asks.answer() / math.log(2)
    assert "bits" in judge(QUESTIONS["1.1"], bits).says
    assert judge(QUESTIONS["1.1"], f"{bits:.5f} bits").right
    asks = QUESTIONS["1.6"].asks
    assert isinstance(asks, Function)
    assert "bits" in judge(QUESTIONS["1.6"], lambda *a: asks.solution(*a) / math.log(2)).says
    assert "sign" in judge(QUESTIONS["1.6"], lambda *a: -asks.solution(*a)).says


def test_percent_is_told_from_shares() -> None:
    """25 % is 0.25, and 25 is neither."""
    assert judge(QUESTIONS["3.1"], "70 %").right
    assert "percent" in judge(QUESTIONS["3.1"], 70).says


def test_counterexamples_are_small() -> None:
    """The smallest of the cases that fail."""
    verdict = judge(QUESTIONS["1.6"], lambda start, matrix, x: 3.0 if len(x) > 1 else -math.log(start[x[0]]))
    assert verdict.kind == "value"
    assert "x = [" in verdict.says
    assert len(re.findall(r"\d+", verdict.says.split(", x = ")[1])) == 2, "the text of two tokens is the smallest"


def test_a_refusal_is_an_exception_of_the_checker_only() -> None:
    """It never reaches the one who asks."""
    for name, asks in functions():
        try:
            judge(QUESTIONS[name], lambda *a: (_ for _ in ()).throw(KeyError("x")))
        except Refused:  # pragma: no cover
            pytest.fail(f"{name} lets a refusal through, {asks.name}")


# --- answers that nearly got through ----------------------------------------------------------------------------------


def weighted_twice(model: Any, x0: Any, mask_id: int, rng: np.random.Generator) -> Any:
    """One time for the batch, the mean over what is masked, and 1/t once more: infinite variance, and a wrong mean."""
    t = rng.uniform(1e-3, 1)
    hidden = rng.random(x0.shape) < t
    hidden[0, 0] = True  # something to take the mean of
    return ops.cross_entropy(model(np.where(hidden, mask_id, x0), select=hidden), x0[hidden]).mean() / t


def test_wrong_means_do_not_hide_behind_their_scatter() -> None:
    """Five standard errors of what has no variance would forgive anything."""
    verdict = judge(QUESTIONS["recipe"], weighted_twice)
    assert (verdict.kind, "twice" in verdict.says) == ("property", True)


def test_nan_is_not_taken_for_chance() -> None:
    """NaN differs from itself: that is no second source of draws."""
    verdict = judge(QUESTIONS["recipe"], lambda model, x0, mask_id, rng: model(x0).sum() * math.nan * rng.random())
    assert (verdict.kind, "NaN" in verdict.says) == ("finite", True)


def test_what_raises_because_it_spoilt_its_argument_is_told_both() -> None:
    """The error alone points to another place."""

    def spoils(matrix: Any, left: int, right: int) -> Any:
        matrix[:] = 0
        raise ValueError("the weights sum to 0.")

    verdict = judge(QUESTIONS["1.7"], spoils)
    assert verdict.kind == "raises"
    assert "sum to 0 (line" in verdict.says
    assert "). It has also changed its argument matrix. With" in verdict.says


def test_options_are_found_by_their_words() -> None:
    """However they are spaced."""
    assert judge(QUESTIONS["6.4"], "A B A").right
    assert judge(QUESTIONS["6.4"], "a,b,a").right
