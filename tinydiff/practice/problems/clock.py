"""Coding problem: the clock. With how many steps diffusion still beats left to right, from counted work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ...measures.clock import Costs
from ..question import Function, Question, Series, Suspect


def crossover(model: Any, length: int, batch: int, costs: Any) -> int:
    """The largest number of steps, 0 to length, in which diffusion takes no longer than left to right with a cache.

    Time is predicted as  calls x costs.call + FLOPs / costs.rate + drawn x costs.draw.

    A call on `new` positions of each of the batch's sequences, with `past` ones in the cache, of which `selected` rows
    in all go through the output head, takes, a multiplication and an addition counted as two,

        layers x (2 x batch x new x 12 d^2  +  4 d x pairs)  +  2 d V x selected

    where d = d_model and pairs is how many (query, key) there are, each query with every key that it sees.

    - Left to right makes `length` calls, each on one new position, which sees itself and all before; one token is drawn
      per call and sequence, from the one row selected.
    - Diffusion in S steps makes S calls, each on all positions, which see each other; in call i = 0 .. S - 1 the
      length - floor(length i / S) positions of each sequence that are still masked are selected, and drawn.

    Parameters
    ----------
    model : with d_model, layers and vocab_size
    costs : with call (seconds), rate (FLOPs per second) and draw (seconds)

    """
    d, v, layers = model.d_model, model.vocab_size, model.layers

    def flops(new: int, past: int, selected: int) -> int:
        rows, pairs = batch * new, batch * new * (new + past)
        return int(layers * (2 * rows * 12 * d * d + 4 * d * pairs) + 2 * d * v * selected)

    def seconds(calls: int, work: int, drawn: int) -> float:
        return float(calls * costs.call + work / costs.rate + drawn * costs.draw)

    rival = seconds(length, sum(flops(1, i, batch) for i in range(length)), batch * length)
    best = 0
    for steps in range(1, length + 1):
        masked = [batch * (length - length * i // steps) for i in range(steps)]
        if seconds(steps, sum(flops(length, 0, m) for m in masked), sum(masked)) <= rival:
            best = steps
    return best


# --- how it is judged -------------------------------------------------------------------------------------------------


def cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Machines on which calls, work or draws decide, for one text and for many."""
    made: list[tuple[Any, ...]] = []
    shapes = [(64, 2, 80), (128, 4, 80), (32, 1, 1000), (8, 6, 5), (256, 2, 30)]
    machines = [(2e-4, 3e10, 4e-6), (1e-5, 1e10, 1e-5), (5e-4, 1e11, 1e-7), (2e-5, 1e9, 1e-7), (3e-5, 5e10, 2e-6)]
    for (d, layers, v), (call, rate, draw) in zip(shapes, machines, strict=True):
        for length, batch in ((16, 1), (48, 1), (80, 1), (32, 8)):
            made.append(
                (SimpleNamespace(d_model=d, layers=layers, vocab_size=v), length, batch, Costs(call, rate, draw))
            )
    return made


def truth(model: Any, length: int, batch: int, costs: Costs) -> int:
    """Every number of steps, as `measures.clock` predicts it."""
    shape = SimpleNamespace(**vars(model), features=None, time=False)
    rival = costs.seconds(shape, "cached", length, 0, batch)  # type: ignore[arg-type]
    fast = [s for s in range(1, length + 1) if costs.seconds(shape, "diffusion", length, s, batch) <= rival]  # type: ignore[arg-type]
    return max(fast, default=0)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _variant(wrong: str) -> Any:
    """The clock with one mistake in it."""

    def crossover(model: Any, length: int, batch: int, costs: Any) -> float:
        d, v, layers = model.d_model, model.vocab_size, model.layers

        def flops(new: int, past: int, selected: int, causal: int = 0) -> float:
            rows = batch * new
            pairs = batch * (new * (new + 1) // 2 if causal else new * (new + past))
            if wrong == "no attention":
                pairs = 0
            work: float = layers * (2 * rows * 12 * d * d + 4 * d * pairs) + 2 * d * v * selected
            return work / 2 if wrong == "multiplications" else work

        def seconds(calls: int, work: float, drawn: int) -> float:
            called = 0.0 if wrong == "no calls" else calls * costs.call
            return float(called + work / costs.rate + (0 if wrong == "no draws" else drawn * costs.draw))

        def left_to_right() -> float:
            if wrong == "no cache":
                work = sum(flops(i + 1, 0, batch, causal=True) for i in range(length))
            else:
                work = sum(flops(1, i, batch) for i in range(length))
            return seconds(length, work, batch * length)

        def diffusion(steps: int) -> float:
            masked = [batch * (length - length * i // steps) for i in range(steps)]
            if wrong == "full head":
                masked = [batch * length] * steps
            if wrong == "one each":
                masked = [batch * length // steps] * steps
            work = sum(flops(length, 0, m, causal=wrong == "causal") for m in masked)
            return seconds(steps, work, sum(masked))

        rival = left_to_right()
        fast = [s for s in range(1, length + 1) if diffusion(s) <= rival]
        if wrong == "first slower":
            return max(fast, default=0) + 1
        if wrong == "ratio":
            return length / max(max(fast, default=0), 1)
        return max(fast, default=0)

    return crossover


def _single(model: Any, length: int, batch: int, costs: Any) -> int:
    return crossover(model, length, 1, costs)


def _mistaken(wrong: str, says: str) -> Suspect:
    return Suspect(_variant(wrong), says)


PROBLEM = Series(
    "clock",
    "The clock: when diffusion is faster",
    "lessons/05_sampling_and_the_steps_dial.ipynb",
    (
        Question(
            "The clock",
            "In how many steps may diffusion sample and still be no slower than left to right with a cache? Count the "
            "work, predict both times, and find the crossing.",
            Function(
                crossover,
                cases,
                (
                    Suspect(
                        _single,
                        "The batch makes no difference: the work is that of one sequence. More sequences "
                        "share the calls and not the work, which is why a full batch moves the crossing.",
                    ),
                    _mistaken(
                        "no calls",
                        "Only work is counted. A call takes costs.call however little it computes, and "
                        "that is most of the time of left to right: it is what makes diffusion faster at all.",
                    ),
                    _mistaken(
                        "no draws",
                        "Drawing tokens takes time too: costs.draw for each, and diffusion draws at "
                        "every mask of every step.",
                    ),
                    _mistaken(
                        "no attention", "Attention is missing from the work: 4 d for every pair of query and key."
                    ),
                    _mistaken(
                        "multiplications",
                        "Only multiplications are counted. A multiplication and an addition are "
                        "two operations, and so the rate has been measured.",
                    ),
                    _mistaken(
                        "no cache",
                        "This is left to right without a cache: the whole prefix is computed again in "
                        "each call. With a cache a call computes one position.",
                    ),
                    _mistaken(
                        "causal",
                        "Diffusion's attention is counted as causal. All positions see each other: length "
                        "squared pairs, not half of them.",
                    ),
                    _mistaken(
                        "full head",
                        "Every position goes through the output head, and is drawn, in every step of "
                        "diffusion. Only those that are still masked do.",
                    ),
                    _mistaken(
                        "one each",
                        "Only the positions that a step keeps go through the head. All that are still "
                        "masked do, and are drawn; most of that is thrown away.",
                    ),
                    _mistaken("first slower", "This is the first number of steps that is slower, one too many."),
                    _mistaken(
                        "ratio", "This is length over steps, the ratio of the calls. The number of steps is asked for."
                    ),
                ),
                oracle=truth,
                better="Find it by bisection: time grows with the number of steps, so log2(length) predictions do. "
                "And ask what a GPU changes: costs.rate grows a thousandfold, costs.call hardly falls.",
            ),
            (
                "Write flops(new, past, selected) first, then one function for the seconds of a list of calls. Left to "
                "right is [(1, 0, batch), (1, 1, batch), (1, 2, batch), ...].",
                "pairs of a call is batch x new x (new + past): for one new position past + 1, for diffusion length^2.",
                "Try it without oracle: with rate = infinity and draw = 0 only calls count, and the answer is length; "
                "with "
                "call = 0 and draw = 0 only work does, and the answer is 1 or 0: one step of diffusion does about as "
                "much as all of left to right.",
            ),
            "A call on one token is nearly all overhead. Left to right pays it length times, diffusion S times, and "
            "computes "
            "S times as much. Few sequences, long texts and fast arithmetic favour diffusion; a full batch favours "
            "left to "
            "right.",
            "lessons/05_sampling_and_the_steps_dial.ipynb, section 9",
        ),
    ),
)
