"""The clock: left to right with and without a cache beside diffusion, measured, and predicted from counted work.

A sampler is a list of calls of the network. Left to right makes L of them, each on one new token with a cache or on
the whole prefix without; diffusion makes S, each on all L positions; blocks of b tokens make b / 4 each, on the block
alone but for the first, which also reads the block before. What a list of calls costs is predicted as

    calls x (call + around) + FLOPs / rate + drawn x draw

where the FLOPs are counted (`flops`) and the other four are measured apart from the race (`calibration`): the time of a
call that computes next to nothing, what each decoder does around a call (which places to fill, a frame), the rate of
forwards at other lengths than those of the race, and the time to draw a token from its logits. The prediction says
when diffusion pays: a call on one token is nearly all overhead, so with few steps the many FLOPs of diffusion can still
take less time than the many calls of its rival. It is made for one sequence: the products of a small batch are too
narrow to reach the rate, and take longer than it says.

What a network computes does not depend on its weights, so untrained ones race as fast as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from .. import kernels
from ..arrays import Floats, Ints, check_counts
from ..decoders import CHOICE_TEMPERATURE, Blocks, Draw, Entropy, Frame, LowConfidence, NextToken
from ..processes import Autoregressive, BlockDiffusion, MaskedDiffusion
from ..tensor import Tensor, no_grad
from ..transformer import Cache, Transformer

SIZES = {"S": (64, 2, 4), "M": (128, 4, 4)}  # d_model, layers, heads
CALIBRATION_LENGTHS = (0.2, 0.35, 0.6, 0.85)  # of the longest of the race, none of which it runs
LOOKS = 8  # of diffusion, when its decoder is timed alone
BATCH_REPEATS = 3  # a batch takes long, and its time varies less
SHORT = 20  # calls in a row when one would be too short for the clock

BLOCK = 16  # tokens in a block
AT_ONCE = 4  # of them committed by a look at it

Kind = Literal["cached", "uncached", "diffusion", "blocks"]
NAMES: dict[Kind, str] = {
    "cached": "left to right, KV-cache", "uncached": "left to right, no cache", "diffusion": "diffusion",
    "blocks": "block diffusion, KV-cache",
}  # fmt: skip


def untrained(size: Literal["S", "M"], vocab_size: int, length: int, rng: np.random.Generator) -> Transformer:
    """A network with random weights."""
    d_model, layers, heads = SIZES[size]
    return Transformer(vocab_size, length, d_model=d_model, layers=layers, heads=heads, rng=rng)


class Call(NamedTuple):
    """One call of the network: `new` positions of each of `batch` sequences, after `past` ones in the cache.

    `selected` rows go through the output head. `causal` is 0 for all, or the length of the blocks whose end
    limits what a position sees: 1 for itself and those before.
    """

    batch: int
    new: int
    past: int
    selected: int
    causal: int


def flops(model: Transformer, call: Call) -> int:
    """Floating-point operations of the matrix products in a call, a multiplication and an addition counted as two.

    Linear layers: 2 x rows x inputs x outputs, where inputs x outputs of a block are d (3d + d + 4d + 4d) = 12 d^2, and
    d V of the head. Attention: 2 d for the score of a query and a key that it sees, 2 d for adding up the value.
    Embeddings, norms, softmax and activations are left out: they grow with d, not d^2.
    """
    d, rows = model.d_model, call.batch * call.new
    outputs = model.vocab_size or model.features or 0
    b = call.causal or call.new  # the end of each position's block, as far as there are new ones
    whole, rest = divmod(call.new, b)
    seen = b * b * whole * (whole + 1) // 2 + rest * call.new
    pairs = call.batch * (call.new * call.past + seen)
    time = 2 * call.batch * 2 * d * d if model.time else 0
    return model.layers * (2 * rows * 12 * d * d + 4 * pairs * d) + 2 * call.selected * d * outputs + time


def calls(kind: Kind, length: int, steps: int, batch: int = 1) -> list[Call]:
    """The calls of the network that sample `batch` sequences; `steps` is for diffusion, which spreads L over them."""
    if kind == "cached":
        return [Call(batch, 1, i, batch, True) for i in range(length)]
    if kind == "uncached":
        return [Call(batch, i + 1, 0, batch, True) for i in range(length)]
    if kind == "blocks":
        made = []
        for start in range(0, length, BLOCK):
            size, looks = min(BLOCK, length - start), looks_at(min(BLOCK, length - start))
            for look in range(looks):
                again = BLOCK if look == 0 and start else 0  # the block before is finished now, and read
                masks = size - size * look // looks
                made.append(Call(batch, again + size, start - again, batch * masks, BLOCK))
        return made
    return [Call(batch, length, 0, batch * (length - length * i // steps), False) for i in range(steps)]


def looks_at(size: int) -> int:
    """How many looks fill a block of that many tokens."""
    return max(1, min(BLOCK // AT_ONCE, size))


def all_looks(length: int) -> int:
    """And a whole text, block by block."""
    return sum(looks_at(min(BLOCK, length - start)) for start in range(0, length, BLOCK))


def drawn(kind: Kind, length: int, steps: int, batch: int = 1) -> int:
    """Tokens drawn from logits: one per call and sequence left to right, all masked ones in diffusion."""
    return (
        batch * length
        if kind in ("cached", "uncached")
        else sum(call.selected for call in calls(kind, length, steps, batch))
    )


def sampler(
    kind: Kind,
    model: Transformer,
    length: int,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> Iterator[Frame]:
    """The frames of one racer."""
    assert model.vocab_size is not None
    if kind == "diffusion":
        surest = LowConfidence(steps, Draw(temperature), choice_temperature=CHOICE_TEMPERATURE)
        return MaskedDiffusion(model.vocab_size).sample(model, length, batch, decoder=surest, rng=rng)
    if kind == "blocks":
        inside = Blocks(Entropy(looks_at(BLOCK), Draw(temperature)))
        return BlockDiffusion(model.vocab_size, BLOCK).sample(model, length, batch, decoder=inside, rng=rng)
    next_token = NextToken(Draw(temperature), cache=kind == "cached")
    return Autoregressive(model.vocab_size).sample(model, length, batch, decoder=next_token, rng=rng)


@dataclass(frozen=True)
class Costs:
    """What predicts the time of a sampler on this machine.

    Attributes
    ----------
    call : seconds per call of the network, beyond the work counted below
    rate : FLOPs per second
    draw : seconds per token drawn
    around : seconds that each kind of sampler spends around a call, beyond its draws; 0 for those that are not there

    """

    call: float
    rate: float
    draw: float
    around: Mapping[Kind, float] = field(default_factory=dict)

    def seconds(self, model: Transformer, kind: Kind, length: int, steps: int, batch: int = 1) -> float:
        """The predicted time of a sampler."""
        made = calls(kind, length, steps, batch)
        work = sum(flops(model, call) for call in made)
        each = self.call + self.around.get(kind, 0.0)
        return len(made) * each + work / self.rate + drawn(kind, length, steps, batch) * self.draw


class Idle:
    """In place of a network, to time a decoder alone: its answer, the same logits for all, takes no time."""

    def __init__(self, model: Transformer) -> None:
        assert model.vocab_size is not None
        self.vocab_size, self.length, self.new_cache = model.vocab_size, model.length, model.new_cache
        self.logits = Tensor(np.zeros((model.length, self.vocab_size), model.dtype))

    def __call__(self, x: Ints, t: Any = None, *, select: Any = None, cache: Cache | None = None, **_: Any) -> Tensor:
        if cache is not None:
            cache.length += x.shape[1]
        return self.logits[: select.sum()] if select is not None else self.logits[None, : x.shape[1]]


Job = Callable[[], object]


def measure(jobs: Mapping[Any, Job], repeats: int) -> Iterator[dict[Any, float]]:
    """Seconds of each job, `repeats` times: they take turns, so that a machine that slows down slows all of them."""
    for _ in range(repeats):
        seconds = {}
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name] = time.perf_counter() - start
        yield seconds


def calibration(model: Transformer, raced: Sequence[int], rng: np.random.Generator) -> dict[Any, Job]:
    """The jobs whose times `fit` turns into costs, at other lengths than those of the race."""
    assert model.vocab_size is not None
    vocabulary, draw = model.vocab_size, Draw()

    def forward(length: int) -> Job:
        ids = np.zeros((1, length), np.int64)

        def run() -> None:
            with no_grad():
                model(ids)

        return run

    def draws(logits: Floats) -> None:
        for _ in range(SHORT):
            draw(logits, rng)

    def one_token() -> None:
        for _ in range(SHORT):
            with no_grad():
                model(np.zeros((1, 1), np.int64), causal=True, cache=cache)
            cache.length = 0

    def sample(kind: Kind) -> None:
        for _ in sampler(kind, idle, longest, min(LOOKS, longest), 1, rng):
            pass

    cache = model.new_cache(1)
    near = {min(max(2, round(share * max(raced))), model.length) for share in CALIBRATION_LENGTHS}
    lengths = sorted(near - set(raced) or near)  # a race over one or two tokens leaves no other
    jobs: dict[Any, Job] = {("one token",): one_token}
    jobs |= {("forward", length): forward(length) for length in lengths}
    longest, idle = lengths[-1], cast(Transformer, Idle(model))
    jobs |= {("around", kind, longest): partial(sample, kind) for kind in NAMES}
    for rows in (1, lengths[-1]):
        logits = rng.standard_normal((rows, vocabulary)).astype(model.dtype)
        jobs["draw", rows] = partial(draws, logits)
    return jobs


def fit(model: Transformer, seconds: Mapping[Any, float]) -> Costs:
    """The costs from the median times of the jobs of `calibration`.

    The rate is the least-squares slope of time over FLOPs through the forward of one token; what that one takes beyond
    its FLOPs is the overhead of a call. What a sampler takes beyond its draws with an idle network is around its calls.
    """
    one, token = flops(model, Call(1, 1, 0, 1, True)), seconds[("one token",)] / SHORT
    lengths = [job[1] for job in seconds if job[0] == "forward"]
    work = np.array([flops(model, Call(1, n, 0, n, False)) - one for n in lengths], np.float64)
    more = np.array([seconds["forward", n] for n in lengths]) - token
    rate = float(work @ work / (work @ more))
    (few, first), (many, last) = sorted((job[1], value / SHORT) for job, value in seconds.items() if job[0] == "draw")
    draw = max((last - first) / (many - few), 0.0)
    around: dict[Kind, float] = {}
    for kind, n in (job[1:] for job in seconds if job[0] == "around"):
        looks = min(LOOKS, n)
        beyond = seconds["around", kind, n] - drawn(kind, n, looks) * draw
        around[kind] = max(beyond, 0.0) / len(calls(kind, n, looks))
    return Costs(token - one / rate, rate, draw, around)


def crossing(at: Sequence[float], difference: Sequence[float]) -> float | None:
    """Where a difference, given at rising places, first changes its sign, on straight lines; None if nowhere."""
    for x, y, a, b in zip(at, at[1:], difference, difference[1:], strict=False):
        if a == 0 or b == 0 or (a < 0) != (b < 0):
            return float(x + (y - x) * a / (a - b)) if a != b else float(x)
    return None


@dataclass(frozen=True)
class Entry:
    """One racer at one length, as `race` reports it.

    Attributes
    ----------
    batch : sequences at once
    calls, flops : of the network, in all
    times : every measured time in seconds
    seconds : their median
    spread : half the interquartile range over the median
    predicted : seconds
    tokens_per_second : batch x length / seconds

    """

    kind: Kind
    length: int
    steps: int
    batch: int
    calls: int
    flops: int
    times: list[float]
    seconds: float
    spread: float
    predicted: float
    tokens_per_second: float


def race(
    rival: Transformer,
    diffusion: Transformer,
    *,
    lengths: Sequence[int],
    steps: int = 16,
    batch: int = 8,
    repeats: int = 7,
    rng: np.random.Generator,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Let all of them run, and report, as something that JSON can hold.

    Parameters
    ----------
    rival, diffusion : the networks; may be the same one
    lengths : of the sequences
    steps : of diffusion where lengths and batches are compared; other numbers of steps are run besides
    batch : sequences at once when throughput is measured; latency is measured with one
    repeats : interleaved runs, of which medians are reported
    progress : told what is being done

    """
    lengths = sorted(set(lengths))
    check_counts(steps=steps, batch=batch, repeats=repeats, lengths=min(lengths, default=0))
    longest = min(rival.length, diffusion.length)
    if lengths[-1] > longest:
        raise ValueError(f"lengths goes up to {lengths[-1]}; these models take at most {longest}")
    if steps > lengths[0]:
        raise ValueError(f"steps is {steps}, but the shortest length is {lengths[0]}; use at most as many steps")
    models: dict[Kind, Transformer] = {"cached": rival, "uncached": rival, "diffusion": diffusion, "blocks": diffusion}

    def run(kind: Kind, length: int, count: int, size: int) -> Job:
        return lambda: [None for _ in sampler(kind, models[kind], length, count, size, rng)]

    single: list[tuple[Kind, int, int, int]] = []
    for length in lengths:
        single += [("cached", length, length, 1), ("uncached", length, length, 1)]
        single.append(("blocks", length, all_looks(length), 1))
        counts = {1, 4, 16, 64, steps, length}
        single += [("diffusion", length, count, 1) for count in sorted(counts) if count <= length]
    many: list[tuple[Kind, int, int, int]] = [
        (kind, lengths[-1], {"diffusion": steps, "blocks": all_looks(lengths[-1])}.get(kind, lengths[-1]), batch)
        for kind in models
    ]
    jobs: dict[Any, Job] = {key: run(*key) for key in single}
    for model in {rival, diffusion}:
        jobs |= {(id(model), *name): job for name, job in calibration(model, lengths, rng).items()}
    samples: dict[Any, list[float]] = {}

    def collect(chosen: Mapping[Any, Job], count: int, what: str) -> None:
        for done, seconds in enumerate(measure(chosen, count), start=1):
            progress(f"{what}: {done}/{count}")
            for name, value in seconds.items():
                samples.setdefault(name, []).append(value)

    collect(jobs, 1, "warming up")
    samples.clear()
    collect(jobs, repeats, "one sequence")
    collect({(*key, "batch"): run(*key) for key in many}, min(repeats, BATCH_REPEATS), f"batch of {batch}")

    medians = {name: float(np.median(values)) for name, values in samples.items()}
    costs = {
        id(model): fit(model, {name[1:]: value for name, value in medians.items() if name[0] == id(model)})
        for model in {rival, diffusion}
    }

    def entry(key: tuple[Kind, int, int, int], name: Any) -> Entry:
        kind, length, count, size = key
        model, made = models[kind], calls(kind, length, count, size)
        low, high = np.quantile(samples[name], [0.25, 0.75])
        work = sum(flops(model, call) for call in made)
        return Entry(
            kind, length, count, size, len(made), work, samples[name], medians[name],
            float(high - low) / 2 / medians[name], costs[id(model)].seconds(model, kind, length, count, size),
            size * length / medians[name],
        )  # fmt: skip

    one = [entry(key, key) for key in single]
    return {
        "machine": machine(),
        "network": {"left to right": shape(rival), "diffusion": shape(diffusion)},
        "repeats": repeats,
        "steps": steps,
        "costs": {"left to right": asdict(costs[id(rival)]), "diffusion": asdict(costs[id(diffusion)])},
        "one": [asdict(e) for e in one],
        "batch": [asdict(entry(key, (*key, "batch"))) for key in many],
        "crossover_steps": [
            {"length": length, "against": kind} | _in_steps(one, length, kind, costs[id(diffusion)], diffusion)
            for length in lengths
            for kind in ("cached", "uncached")
        ],
        "crossover_length": [
            {"steps": steps, "against": kind} | _in_length(one, lengths, steps, kind) for kind in ("cached", "uncached")
        ],
    }


def _in_steps(one: Sequence[Entry], length: int, kind: Kind, costs: Costs, model: Transformer) -> dict[str, Any]:
    """At how many steps diffusion takes as long as its rival: measured, and predicted at every number of steps."""
    rival = next(e for e in one if e.kind == kind and e.length == length)
    runs = [e for e in one if e.kind == "diffusion" and e.length == length]
    counts = range(1, length + 1)
    return {
        "measured": crossing([e.steps for e in runs], [e.seconds - rival.seconds for e in runs]),
        "predicted": crossing(
            counts, [costs.seconds(model, "diffusion", length, count) - rival.predicted for count in counts]
        ),
    }


def _in_length(one: Sequence[Entry], lengths: Sequence[int], steps: int, kind: Kind) -> dict[str, Any]:
    """At which length diffusion in so many steps takes as long as its rival."""

    def at(which: Kind, length: int) -> Entry:
        return next(
            e for e in one if e.kind == which and e.length == length and (which != "diffusion" or e.steps == steps)
        )

    pairs = [(at("diffusion", length), at(kind, length)) for length in lengths]
    return {
        "measured": crossing(lengths, [a.seconds - b.seconds for a, b in pairs]),
        "predicted": crossing(lengths, [a.predicted - b.predicted for a, b in pairs]),
    }


def machine() -> dict[str, Any]:
    """What the times depend on besides the network."""
    native = kernels.native if kernels.active() == "native" else None
    return {
        "kernels": kernels.active(),
        "instruction set": native.isa() if native else "whatever NumPy uses",
        "threads": native.threads() if native else "whatever NumPy uses",
    }


def shape(model: Transformer) -> dict[str, Any]:
    """What the FLOPs depend on."""
    return {name: getattr(model, name) for name in ("d_model", "layers", "heads", "vocab_size")}


def table(report: Mapping[str, Any]) -> str:
    """The report in lines to read."""
    on = report["machine"]
    lines = [
        f"{on['kernels']} kernels, {on['instruction set']}, {on['threads']} threads; medians of {report['repeats']} "
        "interleaved runs, +- half the interquartile range"
    ]
    same = report["network"]["left to right"] == report["network"]["diffusion"]
    for name in ["diffusion"] if same else ["left to right", "diffusion"]:
        network, costs = report["network"][name], report["costs"][name]
        lines.append(
            f"{'both' if same else name}: d_model {network['d_model']}, {network['layers']} layers, "
            f"{network['heads']} heads, vocabulary {network['vocab_size']}; predicted: "
            f"{1000 * costs['call']:.3f} ms per call + FLOPs / ({costs['rate'] / 1e9:.0f} GFLOP/s) + "
            f"{1e6 * costs['draw']:.1f} us per token drawn"
        )
        mine = [k for k in NAMES if same or (k in ("cached", "uncached")) == (name == "left to right")]
        lines.append("around a call: " + "; ".join(f"{NAMES[k]} {1000 * costs['around'][k]:.3f} ms" for k in mine))
    lines += [
        "",
        f"{'':31}{'length':>6}{'batch':>6}{'calls':>6}{'GFLOP':>8}{'ms':>10}{'+-':>5}{'predicted':>10}{'tokens/s':>10}",
    ]
    for e in [*report["one"], *report["batch"]]:
        name = NAMES[e["kind"]] + (f", {e['steps']} steps" if e["kind"] == "diffusion" else "")
        lines.append(
            f"{name:31}{e['length']:6}{e['batch']:6}{e['calls']:6}{e['flops'] / 1e9:8.2f}{1000 * e['seconds']:10.1f}"
            f"{e['spread']:5.0%}{1000 * e['predicted']:10.1f}{e['tokens_per_second']:10.0f}"
        )
    lines.append("")

    lines.append("Diffusion takes as long as")
    for c in report["crossover_steps"]:
        measured, predicted = (_number(c[how], 1, c["length"]) for how in ("measured", "predicted"))
        lines.append(
            f"  {NAMES[c['against']]:24} at length {c['length']:4} in {measured} steps (predicted {predicted})"
        )
    lengths = [c["length"] for c in report["crossover_steps"]]
    for c in report["crossover_length"]:
        measured, predicted = (_number(c[how], lengths[0], lengths[-1]) for how in ("measured", "predicted"))
        lines.append(f"  {NAMES[c['against']]:24} in {c['steps']:4} steps at length {measured} (predicted {predicted})")
    return "\n".join(lines)


def _number(value: float | None, low: int, high: int) -> str:
    return f"none from {low} to {high}" if value is None else f"{value:.1f}"
