"""The dial: what quality costs. Steps x order x temperature, and the knee of each curve.

For each order and temperature, quality is measured for growing numbers of steps. The *knee* is the fewest steps that
make 90 % of the gain from the fewest steps to the best number of them:

    knee = min { s : Q(s) >= Q(s_min) + 0.9 (max_s Q(s) - Q(s_min)) }

Its interval repeats that on resampled texts (percentiles, 95 %). Nothing is trained: more steps are more compute at
inference time. `ancestral` and the remasking orders go on beyond one step per position, the others stop there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import data, decoders, learning
from ..arrays import Floats, Ints, check_counts
from ..decoders.orders import Ranked
from ..processes import Autoregressive, MaskedDiffusion
from ..transformer import Model
from .texts import ByJudge, ByLaw, Measure, interval, resampled_means

Number = TypeVar("Number", int, float)

GAIN = 0.9
BATCH = 64
WAYS: dict[str, type[Any]] = {
    "low_confidence": decoders.LowConfidence,
    "entropy": decoders.Entropy,
    "margin": decoders.Margin,
    "random": decoders.Random,
    "ancestral": decoders.Ancestral,
    "remask_cap": decoders.RemaskCap,
    "remask_rescale": decoders.RemaskRescale,
    "remask_confidence": decoders.RemaskConfidence,
    "most_likely": decoders.MostLikely,
    "left_to_right": decoders.LeftToRight,
}
"""Orders that can be swept. The place in this list is part of the seed: new ones go to the end."""
BEYOND = {name for name in WAYS if name == "ancestral" or name.startswith("remask_")}
"""Those that can take more steps than there are positions."""


@dataclass(frozen=True)
class Cell:
    """One setting of the dial and what came of it.

    Attributes
    ----------
    order, steps, temperature : the setting
    scores : (n,) of each text, more is better
    seconds : of processor time per text
    columns : further figures of the texts as a whole, see `texts`
    example : the first text, (L,)

    """

    order: str
    steps: int
    temperature: float
    scores: Floats
    seconds: float
    columns: dict[str, float]
    example: Ints


def default_steps(length: int) -> list[int]:
    """Powers of two up to the length, and the length itself."""
    return sorted({2**i for i in range(length.bit_length()) if 2**i <= length} | {length})


def plan(
    length: int, steps: Sequence[int], orders: Sequence[str], temperatures: Sequence[float]
) -> list[tuple[str, float, int]]:
    """The cells to measure, (order, temperature, steps): all combinations that make sense, or ValueError."""
    for order in orders:
        if order not in WAYS:
            raise ValueError(f"order is {order!r}; expected one of {', '.join(WAYS)}")
    for name, given in (("steps", steps), ("order", orders), ("temperature", temperatures)):
        if len(set(given)) != len(given) or not given:
            raise ValueError(f"{name} is {', '.join(map(str, given)) or 'empty'}; expected one or more, none twice")
    for number in steps:
        check_counts(steps=number)
    for temperature in temperatures:
        if not (np.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
    cells = [(o, t, s) for o, t, s in product(orders, temperatures, sorted(steps)) if s <= length or o in BEYOND]
    for order, temperature in product(orders, temperatures):
        if not any(cell[:2] == (order, temperature) for cell in cells):
            raise ValueError(f"steps is {min(steps)}, but {order} takes at most one step per position, {length}")
    return cells


def numbers(name: str, given: str, kind: type[Number]) -> list[Number]:
    """Numbers separated by commas."""
    try:
        return [kind(part) for part in given.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name} is {given!r}; expected {what} separated by commas, like 1,2,4") from None


def measure_of(run: Path, config: dict[str, Any], judge: Path | None, length: int, texts: int) -> Measure:
    """How to score texts of the run in `run`: by the law of its data, or else by a judge trained on the same."""
    name = config["data"]["name"]
    if name in data.LAWS:
        if judge is not None:
            raise ValueError(f"judge is {judge}, but the law of {name} is known; leave it out")
        return ByLaw(data.LAWS[name]())
    if judge is None:
        raise ValueError(
            f"judge is missing: the law of {name} is not known, so its texts need an autoregressive judge; train one "
            "with the same data and --process autoregressive"
        )
    model, process, codec, _ = learning.load(judge)
    if not isinstance(process, Autoregressive) or codec is None:
        raise ValueError(f"judge is {judge}, a run of {process.config['process']}; expected an autoregressive one")
    if any(codec.config.get(key) != config["data"].get(key) for key in ("alphabet", "words", "merges", "eos")):
        raise ValueError(f"judge is {judge}, whose alphabet is not that of {run}; train it on the same data")
    if model.length < length:
        raise ValueError(f"judge is {judge}, which reads {model.length} characters; {run} writes {length}")
    corpus = learning.corpus_of(run, config)
    assert isinstance(corpus, data.Corpus)
    return ByJudge(process, model, corpus.batch(length, texts, np.random.default_rng(1), held_out=True))


def decoder_of(order: str, steps: int, temperature: float, choice_temperature: float = 0.0) -> decoders.Decoder:
    """The decoder of one cell; `choice_temperature` for the orders that ask the model."""
    kind = WAYS[order]
    noise = {"choice_temperature": choice_temperature} if issubclass(kind, Ranked) else {}
    made: decoders.Decoder = kind(steps=steps, draw=decoders.Draw(temperature), **noise)
    return made


def sweep(
    model: Model,
    process: MaskedDiffusion,
    length: int,
    measure: Measure,
    cells: Sequence[tuple[str, float, int]],
    *,
    texts: int,
    seed: int = 0,
    choice_temperature: float = 0.0,
) -> Iterator[Cell]:
    """Measure each cell of a `plan` on that many texts.

    The random numbers of a cell depend on the seed and on nothing that was measured before.
    """
    if texts < 2:
        raise ValueError(f"texts is {texts}; an interval needs at least 2")
    for order, temperature, steps in cells:
        decoder = decoder_of(order, steps, temperature, choice_temperature)
        rng = np.random.default_rng([seed, list(WAYS).index(order), steps, round(1e6 * temperature)])
        start, parts = time.process_time(), []
        for first in range(0, texts, BATCH):
            batch = min(BATCH, texts - first)
            *_, last = process.sample(model, length, batch, decoder=decoder, rng=rng)
            parts.append(last.state)
        seconds, ids = (time.process_time() - start) / texts, np.concatenate(parts)
        yield Cell(order, steps, temperature, measure.score(ids), seconds, measure.columns(ids), ids[0])


def knee_of(steps: Sequence[int], quality: Floats) -> int:
    """The fewest of the (S,) steps, in rising order, that make 90 % of the gain, as defined above."""
    gain = quality.max() - quality[0]
    return int(steps[int(np.argmax(quality >= quality[0] + GAIN * gain))])


def knee(cells: Sequence[Cell], rng: np.random.Generator) -> tuple[int, float, float]:
    """The knee of the cells of one order and temperature, in rising order of steps, and its bootstrap interval."""
    steps = [cell.steps for cell in cells]
    means = np.stack([resampled_means(cell.scores, rng) for cell in cells], axis=1)  # (resamples, S)
    found = np.array([knee_of(steps, row) for row in means], np.float64)
    low, high = interval(found, method="inverted_cdf")  # numbers of steps that were measured
    return knee_of(steps, np.array([cell.scores.mean() for cell in cells])), low, high


def curves(cells: Sequence[Cell]) -> dict[tuple[str, float], list[Cell]]:
    """The cells of each order and temperature, by rising steps."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.steps):
        groups.setdefault((cell.order, cell.temperature), []).append(cell)
    return groups
