"""Between autoregression and diffusion: blocks, caches, orders, the clock, and code with a gap.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.spectrum all --out runs/spectrum

- blocks: one network size, blocks of 1 to 64 tokens: held-out bits per character, and how much the loss varies
- twins: blocks of one token that are always masked, against left to right, three seeds
- orders: one masked network, the exact likelihood of its decoders: the steps dial in bits
- cache: block decoding with and without kept keys and values (untrained; speed does not depend on weights)
- frontier: `stories` by the networks in the box and one for blocks that began as the masked one: how many are valid,
  how varied they are, and how far the law of what is written is from theirs, exactly where the decoder has a law
- race: the same decoders on the clock, batch 1: milliseconds, calls and FLOPs
- infilling: lines and spans of `python_source` with a gap: autoregressive with fill-in-the-middle, masked, block
- tables, figures: prints and draws what has been measured

Each part writes PART.json and what it trained into the folder, and does not train again what is there. Given again, it
measures again: run cache, race and infilling when nothing else runs. Some half an hour of one core in all.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

import tinydiff as td
from tinydiff import box, decoders, learning
from tinydiff.arrays import Floats, Ints
from tinydiff.data.middles import SENTINELS, Middles, middle_last, middle_of
from tinydiff.data.stories import STORIES
from tinydiff.measures.clock import Call, flops
from tinydiff.measures.decoder_law import DecoderLaw

S: dict[str, Any] = {"d_model": 64, "layers": 2, "heads": 4}
M: dict[str, Any] = {"d_model": 128, "layers": 4, "heads": 4}
STEPS = {"blocks": 1000, "twins": 1000, "orders": 1000, "frontier": 3000, "infilling": 2000}
LENGTHS = (1, 2, 4, 8, 16, 64)
GREEDY = decoders.Draw(0.0)


def trained(out: Path, name: str, corpus: Any, process: Any, model: Any, steps: int, **options: Any) -> Any:
    """The network of that name with averaged weights, from the folder if it is there; trained by the recipe of S."""
    path = out / f"{name}_{steps}.npz"
    if path.exists():
        for key, values in np.load(path).items():
            model.params[key].data = values
        return model
    recipe: dict[str, Any] = {"batch": 32, "lr": 0.02, "optimiser": "muon", "evaluate_windows": 64}
    run = td.Run(corpus, process, model, td.Options(steps=steps, evaluate_every=steps, **(recipe | options)))
    *_, last = td.train(run)
    print(f"{name}: {steps} steps, {last.held_out.mean:.3f} {corpus.unit}", flush=True)
    model = run.averaged()
    np.savez(path, **{key: p.data for key, p in model.params.items()})
    return model


def write(out: Path, part: str, found: dict[str, Any]) -> None:
    """What has been measured so far, as JSON."""
    (out / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def new_model(corpus: Any, length: int) -> Any:
    """An untrained network of size S."""
    return td.Transformer(corpus.vocab_size, length, **S, rng=np.random.default_rng(0))


# --- blocks ---------------------------------------------------------------------------------------------------------


class SameWindows:
    """A corpus whose windows of training are drawn by a generator of their own: the same ones for every process."""

    def __init__(self, corpus: Any, seed: int) -> None:
        self.corpus, self.rng = corpus, np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.corpus, name)

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> td.data.Batch:
        """Windows of the corpus."""
        batch: td.data.Batch = self.corpus.examples(length, size, rng if held_out else self.rng, held_out=held_out)
        return batch


def in_docs(out: Path, name: str, process: Any, steps: int, seed: int = 0) -> tuple[Any, Any]:
    """The corpus of `blocks`, and the network of that name: those of a seed differ in what they are taught alone.

    They begin with the same weights and read the same windows in the same order.
    """
    corpus = td.data.load("python_docs")
    model = td.Transformer(corpus.vocab_size, 64, **S, rng=np.random.default_rng(seed))
    return corpus, trained(out, f"{name}_{seed}", SameWindows(corpus, seed), process, model, steps, seed=seed)


def blocks(out: Path, steps: int) -> dict[str, Any]:
    """Bits per character by block length, all on the same windows, and how much the loss of a window varies, per token.

    Blocks of 4 and 16 are also trained with the interval of times that varies least, and one network with a length
    drawn for each batch. Written as it goes: what is there is kept.
    """
    v = td.data.load("python_docs").vocab_size
    found: dict[str, Any] = {"steps": steps, "rows": [], "clips": []}
    if (out / "blocks.json").exists():
        before = json.loads((out / "blocks.json").read_text("utf-8"))
        found = before if before["steps"] == steps else found
    left_to_right, all_masked = td.Autoregressive(v), td.BlockDiffusion(v, 1, clip=(1, 1))
    corpus, model = in_docs(out, "autoregressive", left_to_right, steps)
    left = bits_of_windows(left_to_right, model, corpus)

    def measure(name: str, process: Any, model: Any) -> None:
        if any(row["way"] == name for row in found["rows"]):
            return
        bits, part = bits_of_windows(process, model, corpus)
        (mean, error), (more, error_of_more) = mean_of(bits, part), mean_of(bits - left[0], part)
        found["rows"].append({
            "way": name, "block": getattr(process, "block_length", 0), "bits": mean, "error": error, "more": more,
            "error_of_more": error_of_more, "deviation": spread(model, process, corpus),
        })  # fmt: skip
        print(found["rows"][-1], flush=True)
        write(out, "blocks", found)

    measure("autoregressive", left_to_right, model)
    measure("block of 1, all masked", all_masked, in_docs(out, "all_masked", all_masked, steps)[1])
    for b in LENGTHS:
        process = td.BlockDiffusion(v, b)
        _, model = in_docs(out, f"block_of_{b}", process, steps)
        measure(f"block of {b}", process, model)
        if not any(row["block"] == b for row in found["clips"]):
            found["clips"] += clips(process, model, corpus)
            write(out, "blocks", found)
    for b in (4, 16):
        best = next(row["clip"] for row in found["clips"] if row["block"] == b)
        process = td.BlockDiffusion(v, b, clip=best)
        measure(f"block of {b}, clipped", process, in_docs(out, f"clipped_{b}", process, steps)[1])
    _, mixed = in_docs(out, "mixture", td.BlockDiffusion(v, 8, mixture=LENGTHS, estimator="count"), steps)
    for b in LENGTHS:
        measure(f"mixture, block of {b}", td.BlockDiffusion(v, b, estimator="count"), mixed)
    return found


def twins(out: Path, steps: int) -> dict[str, Any]:
    """Left to right against blocks of 1 that are always masked, three seeds: one objective, two ways into one network.

    The one reads the token before, the other a MASK that has to look for it.
    """
    v = td.data.load("python_docs").vocab_size
    left_to_right, all_masked = td.Autoregressive(v), td.BlockDiffusion(v, 1, clip=(1, 1))
    rows = []
    for seed in range(3):
        corpus, left = in_docs(out, "autoregressive", left_to_right, steps, seed)
        _, block = in_docs(out, "all_masked", all_masked, steps, seed)
        bits, part = bits_of_windows(left_to_right, left, corpus)
        more = bits_of_windows(all_masked, block, corpus)[0] - bits
        (mean, error), (beyond, error_of_more) = mean_of(bits, part), mean_of(more, part)
        rows.append({"seed": seed, "bits": mean, "error": error, "more": beyond, "error_of_more": error_of_more})
        print(rows[-1], flush=True)
        write(out, "twins", {"steps": steps, "rows": rows})
    return {"steps": steps, "rows": rows}


def bits_of_windows(process: Any, model: Any, corpus: Any, windows: int = 1024) -> tuple[Floats, Ints]:
    """Bits per character of each of the same windows of held-out text, the mean of 4 bounds; and its part of the text.

    Windows overlap, so errors are those of the means of 24 parts, which hardly do.
    """
    chance, draws = np.random.default_rng(1), 1 if isinstance(process, td.Autoregressive) else 4
    starts = np.sort(np.random.default_rng(0).integers(0, len(corpus.held_out) - 64, windows))
    x0 = corpus.held_out[starts[:, None] + np.arange(64)].astype(np.int64)
    bounds = [
        np.mean([process.bound(model, x0[i : i + 64], chance) for _ in range(draws)], axis=0)
        for i in range(0, windows, 64)
    ]
    return np.concatenate(bounds) / 64 / math.log(2), starts * 24 // len(corpus.held_out)


def mean_of(bits: Floats, part: Ints) -> tuple[float, float]:
    """The mean and its standard error, by the spread over parts of the text."""
    means = np.array([bits[part == i].mean() for i in np.unique(part)])
    return float(bits.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))


def spread(model: Any, process: Any, corpus: Any, draws: int = 32) -> float:
    """Standard deviation of the loss of one window over its masks, in nats per token: mean over 24 windows."""
    rng, windows = np.random.default_rng(0), corpus.batch(64, 24, np.random.default_rng(1), held_out=True)
    with td.no_grad():
        losses = [[process.loss(model, window[None], rng).item() for _ in range(draws)] for window in windows]
    return float(np.sqrt(np.var(losses, axis=1, ddof=1).mean()))


def clips(process: Any, model: Any, corpus: Any) -> list[dict[str, Any]]:
    """How much the loss of a window varies over its masks with times drawn from narrower intervals: least first."""
    windows = corpus.batch(64, 8, np.random.default_rng(1), held_out=True)
    tried = ((0.3, 0.8), (0.45, 0.95), (0.5, 1.0), process.clip)
    ranked = td.processes.block.least_varying(process, model, windows, np.random.default_rng(0), clips=tried, draws=32)
    return [{"block": process.block_length, "clip": clip, "deviation": deviation} for deviation, clip in ranked]


# --- orders ---------------------------------------------------------------------------------------------------------


class RightToLeft(decoders.LeftToRight):
    """The rightmost first."""

    def pick(self, model: Any, look: Any, quota: Ints, rng: np.random.Generator) -> Any:
        place = np.arange(look.state.shape[1])
        chosen = decoders.quotas.highest(np.where(look.hidden, place, -np.inf), quota)
        return chosen, *decoders.draws.reveal(model, look.state, chosen, look.t, self.draw, rng)


class WorstFirst(decoders.Entropy):
    """Where the model knows least."""

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        return -super().rank(p, tokens)


def orders(out: Path, steps: int) -> dict[str, Any]:
    """Exact bits per character of what decoders of one masked network write, against looks at a text."""
    corpus = td.data.load("python_docs")
    process = td.MaskedDiffusion(corpus.vocab_size)
    _, model = in_docs(out, "block_of_64", td.BlockDiffusion(corpus.vocab_size, 64), steps)
    bound = td.evaluate(model, Averaged(process), corpus, windows=128)
    rows = [{"order": "any order (bound)", "looks": 64, "bits": bound.mean, "error": bound.error}]
    ways: list[tuple[str, Any, tuple[int, ...]]] = [
        ("entropy", decoders.Entropy, (64, 32, 16, 8, 4)), ("margin", decoders.Margin, (64, 32, 16, 8, 4)),
        ("left to right", decoders.LeftToRight, (64, 32, 16, 8, 4)), ("right to left", RightToLeft, (64,)),
        ("worst first", WorstFirst, (64,)),
    ]  # fmt: skip
    listed = [(name, kind(looks), looks) for name, kind, many in ways for looks in many]
    listed += [
        (f"entropy-bounded {gamma}", decoders.EntropyBounded(gamma=gamma), 0) for gamma in (0.1, 0.5, 2.0, 5.0, 10.0)
    ]
    listed += [(f"Frechet {factor}", decoders.Frechet(factor=factor), 0) for factor in (0.5, 1.0)]
    for name, decoder, looks in listed:
        law = Lawful(process, decoder)
        held_out = td.evaluate(model, law, corpus, windows=128)
        rows.append({"order": name, "looks": looks or law.looks, "bits": held_out.mean, "error": held_out.error})
        print(rows[-1], flush=True)
    return {"steps": steps, "rows": rows}


class Averaged:
    """A process whose bound is the mean of 32 draws, and uses none of the chance that the windows are drawn by."""

    def __init__(self, process: Any) -> None:
        self.process, self.rng = process, np.random.default_rng(0)

    def bound(self, model: Any, batch: Any, rng: np.random.Generator) -> Floats:
        return np.mean([self.process.bound(model, batch, self.rng) for _ in range(32)], axis=0)


class Lawful(DecoderLaw):
    """The same, counting looks per text where the text decides."""

    looks = 0.0

    def bound(self, model: Any, batch: Any, rng: np.random.Generator) -> Floats:
        rows = 0

        def counting(x: Ints, t: Any = None, *, select: Any = None, causal: int = 0) -> td.Tensor:
            nonlocal rows
            rows += int(select.any(axis=1).sum())
            return model(x, t, select=select, causal=causal)

        found = super().bound(counting, batch, rng)
        self.looks = rows / len(found)
        return found


# --- the clock ------------------------------------------------------------------------------------------------------


def milliseconds(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Wall clock of each job, the median of runs in which all take turns."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            spent[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(each[1:])) for name, each in spent.items()}


def spent(frames: Iterator[Any]) -> None:
    """Take all frames."""
    for _ in frames:
        pass


def cache(out: Path, steps: int) -> dict[str, Any]:
    """Size M, length 256, batch 1: blocks with a cache, without, and full attention with stale keys."""
    v, length = 100, 256
    model = td.Transformer(v, length, **M, rng=np.random.default_rng(0))
    masked, ar = td.MaskedDiffusion(v), td.Autoregressive(v)

    def run(process: Any, decoder: Any) -> Callable[[], object]:
        return lambda: spent(process.sample(model, length, decoder=decoder, rng=np.random.default_rng(0)))

    jobs: dict[str, Callable[[], object]] = {"left to right, cache": run(ar, decoders.NextToken())}
    calls = {"left to right, cache": length}
    for b in (4, 16, 64):
        process = td.BlockDiffusion(v, b)
        for per in (b // 4, b):
            for kept in (True, False):
                name = f"block of {b}, {per} steps each, {'cache' if kept else 'no cache'}"
                jobs[name] = run(process, decoders.Blocks(decoders.Entropy(per), cache=kept))
                calls[name] = length // b * per
    for how in ("nothing", "prefix", "both"):
        name = f"full attention, blocks of 16, kept: {how}"
        jobs[name] = run(masked, decoders.StaleBlocks(decoders.Entropy(16), block_length=16, kept=how))
        calls[name] = length
    ms = milliseconds(jobs, 3)
    rows = [{"way": name, "calls": calls[name], "ms": ms[name]} for name in jobs]
    for row in rows:
        print(row, flush=True)
    return {"length": length, "rows": rows, "difference": difference(model, length)}


def difference(model: Any, length: int) -> float:
    """The largest difference of a logit with and without the cache, in float32, over all blocks of 16."""
    from tinydiff.decoders.blocks import Reader

    text = np.random.default_rng(0).integers(0, model.vocab_size, (1, length))
    kept, fresh = Reader(model, 16), Reader(model, 16, cache=False)
    largest = 0.0
    for start in range(0, length, 16):
        x = np.full((1, 16), model.vocab_size)
        one, other = (reader.block(text, start, start + 16)(x).data for reader in (kept, fresh))
        largest = max(largest, float(np.abs(one - other).max()))
    return largest


# --- frontier -------------------------------------------------------------------------------------------------------


def frontier(out: Path, steps: int) -> dict[str, Any]:
    """Valid stories against looks: networks of one size, the two in the box and one for blocks that began as `stories`.

    Valid are the stories that keep every rule, of 1,000; `variety` is the entropy of the choices in the valid ones over
    that of as many real ones. `nats` is KL(stories || what is written), where the decoder has a law.
    """
    models, processes, ways = contestants(out, steps)
    law, n, rows = STORIES, 1000, []
    held_out = law.draw(192, np.random.default_rng(2))
    surprise = -law.log_p(held_out)
    for name, decoder in ways:
        process, model = processes[name], models[name]
        chance = np.random.default_rng(0)
        frames = list(process.sample(model, law.length, n, decoder=decoder, rng=chance))
        looks = float(np.mean(sum(frame.committed.any(axis=1) for frame in frames[1:])))
        ids = frames[-1].state
        good = ids[[fault is None for fault in law.faults(ids)]]
        valid = len(good) / n
        nll = likelihood(process, model, decoder, held_out) if temperature(decoder) == 1 else None
        away = None if nll is None else nll - surprise
        rows.append({
            "model": name, "decoder": shown(decoder), "temperature": temperature(decoder), "looks": looks,
            "valid": valid, "error": math.sqrt(max(valid * (1 - valid), 1 / n) / n),
            "variety": law.variety(good) / law.variety(law.draw(len(good), np.random.default_rng(1)))
            if len(good) > 1 else 0.0,
            "nats": None if away is None else float(away.mean()),
            "nats_error": None if away is None else float(away.std() / math.sqrt(len(away))),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return {"steps": steps, "rows": rows}


def contestants(out: Path, steps: int) -> tuple[dict[str, Any], dict[str, Any], list[tuple[str, Any]]]:
    """Networks and processes by name, and the decoders of each that race."""
    found = {name: learning.load(box.found(Path(name)))[:2] for name in ("stories", "stories_ar")}
    models = {"autoregressive": found["stories_ar"][0], "masked": found["stories"][0]}
    processes: dict[str, Any] = {"autoregressive": found["stories_ar"][1], "masked": found["stories"][1]}
    corpus, v = td.data.load("stories"), processes["masked"].vocab_size
    learner = td.BlockDiffusion(v, 9, mixture=(5, 9, 15), estimator="count")
    start = learning.load(box.found(Path("stories")))[0]
    in_blocks = trained(out, "stories_blocks", corpus, learner, start, steps, lr=0.01, muon_lr=0.01)
    for b in learner.mixture:
        models[f"block of {b}"], processes[f"block of {b}"] = in_blocks, td.BlockDiffusion(v, b)
    ways: list[tuple[str, Any]] = []
    for draw in (decoders.Draw(1.0), decoders.Draw(0.7)):
        bounded = [decoders.EntropyBounded(gamma=gamma, draw=draw) for gamma in (0.05, 0.2, 0.5, 1.0)]
        ways += [("autoregressive", decoders.NextToken(draw=draw)), ("masked", decoders.Entropy(draw=draw))]
        ways += [("masked", decoder) for decoder in bounded]
        ways += [
            ("masked", decoders.Threshold(0.9, draw=draw)), ("masked", decoders.Frechet(draw=draw)),
            ("masked", decoders.Speculate(4, draw=draw)),
            ("masked", decoders.StaleBlocks(bounded[1], block_length=15, kept="both")),
        ]  # fmt: skip
        inside = [decoders.Entropy(draw=draw), *bounded, decoders.Threshold(0.9, draw=draw)]
        ways += [(f"block of {b}", decoders.Blocks(decoder)) for b in learner.mixture for decoder in inside]
    return models, processes, ways


def temperature(decoder: Any) -> float:
    """That of the decoder, or of the one inside."""
    return float(getattr(decoder, "inside", decoder).draw.temperature)


class Listening(td.Transformer):
    """A Transformer that counts the work of its calls, and the seconds they take."""

    made: list[Call]
    seconds: list[float]

    def __call__(
        self, x: Any, t: Any = None, *, select: Any = None, cache: Any = None, causal: int = 0, **o: Any
    ) -> Any:
        past = 0 if cache is None else cache.length
        rows = np.size(x) if select is None else int(select.sum())
        self.made.append(Call(len(x), np.shape(x)[1], past, rows, int(causal)))
        start = time.perf_counter()
        answer = super().__call__(x, t, select=select, cache=cache, causal=causal, **o)
        self.seconds.append(time.perf_counter() - start)
        return answer


def work(process: Any, model: Any, decoder: Any, texts: int = 20) -> tuple[float, float, float]:
    """Calls of the network for a text, MFLOP of its matrix products, milliseconds in it: of some texts the mean."""
    listening = copy.copy(model)
    listening.__class__, listening.made, listening.seconds = Listening, [], []
    for seed in range(texts):
        spent(process.sample(listening, model.length, decoder=decoder, rng=np.random.default_rng(seed)))
    calls = len(listening.made) / texts
    mflop = sum(flops(model, call) for call in listening.made) / texts / 1e6
    return calls, mflop, 1e3 * float(np.median(listening.seconds)) * calls


def race(out: Path, steps: int) -> dict[str, Any]:
    """Milliseconds, calls and MFLOP for one story by each way of `frontier`, batch 1: medians, all taking turns."""
    models, processes, ways = contestants(out, steps)

    def run(name: str, decoder: Any) -> Callable[[], object]:
        seeds = iter(range(10_000))
        return lambda: spent(
            processes[name].sample(
                models[name], STORIES.length, decoder=decoder, rng=np.random.default_rng(next(seeds))
            )
        )

    ms = milliseconds({str(i): run(*way) for i, way in enumerate(ways)}, 60)
    rows = []
    for i, (name, decoder) in enumerate(ways):
        calls, mflop, inside = work(processes[name], models[name], decoder)
        rows.append({
            "model": name, "decoder": shown(decoder), "temperature": temperature(decoder), "ms": ms[str(i)],
            "ms_in_network": inside, "calls": calls, "mflop": mflop,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return {"rows": rows}


def likelihood(process: Any, model: Any, decoder: Any, x0: Ints) -> Floats | None:
    """-log p of texts under a decoder, (n,) nats; None if it has no law."""
    if isinstance(process, td.Autoregressive):
        found: Floats = process.bound(model, x0, np.random.default_rng(0))
        return found
    try:
        return decoders.replay(process, model, decoder, x0)
    except ValueError:
        return None


def shown(decoder: Any) -> str:
    """The decoder in a few words."""
    inside = getattr(decoder, "inside", None)
    if inside is not None:
        return shown(inside) + (", stale keys" if isinstance(decoder, decoders.StaleBlocks) else "")
    name = type(decoder).__name__
    for option in ("steps", "gamma", "factor", "threshold", "drafts"):
        if getattr(decoder, option, None) is not None:
            return f"{name} {getattr(decoder, option)}"
    return name


# --- infilling ------------------------------------------------------------------------------------------------------


def parses(line: str) -> bool:
    """Whether a line is Python by itself, or is the head of a block."""
    for whole in (line.strip(), line.strip() + "\n    pass"):
        try:
            ast.parse(whole)
        except (SyntaxError, ValueError):
            continue
        return True
    return False


def gaps(corpus: Any, length: int, count: int, whole: bool) -> list[tuple[Ints, int, int]]:
    """Windows of held-out code with a gap, (ids, start, stop): a line of 2 to 8 pieces, or 2 pieces within one."""
    rng, found = np.random.default_rng(3), []
    while len(found) < count:
        ids = corpus.batch(length, 1, rng, held_out=True)[0]
        pieces = [corpus.codec.decode(ids[i : i + 1]) for i in range(length)]
        ends = [i for i, piece in enumerate(pieces) if "\n" in piece]
        lines = []
        for a, b in pairwise(ends):
            line = "".join(pieces[a + 1 : b])
            start = a + 1 + next((i for i, piece in enumerate(pieces[a + 1 : b]) if piece.strip()), b)
            if 2 <= b - start <= 8 and length // 4 <= start <= length // 2 and parses(line):
                lines.append((start, b))
        if not lines:
            continue
        start, stop = lines[rng.integers(len(lines))]
        if not whole:
            start += int(rng.integers(0, stop - start - 1))
            stop = start + 2
        found.append((ids, start, stop))
    return found


def infilling(out: Path, steps: int, count: int = 200) -> dict[str, Any]:
    """Exact match and whether the line parses, most likely tokens; tokens per second, one gap at a time."""
    text = td.data.python_source()
    corpus = td.data.Corpus("python_source", text, td.data.Pieces.of(text[: 1 << 19], 1024))
    length, v = 64, corpus.vocab_size
    masked, ar = td.MaskedDiffusion(v, estimator="count"), td.Autoregressive(v + SENTINELS)
    block = td.BlockDiffusion(v, 8, estimator="count")
    filled = Middles(corpus, share=0.7, longest=12)
    models = {
        "masked": trained(out, "code_masked", corpus, masked, new_model(corpus, length), steps),
        "ar": trained(out, "code_middles", filled, ar, new_model(filled, length + SENTINELS), steps),
        "block": trained(out, "code_block", corpus, block, new_model(corpus, length), steps),
    }
    rng = np.random.default_rng(0)
    real = np.arange(v + SENTINELS) < v

    def by_mask(decoder: Any, offered: int = 0) -> Callable[[Ints, int, int], Ints]:
        def fill(ids: Ints, start: int, stop: int) -> Ints:
            return offer(decoder, ids, start, stop, max(stop - start + offered, 1))[0]

        return fill

    def offer(decoder: Any, ids: Ints, start: int, stop: int, n: int) -> tuple[Ints, float]:
        """What is written into n masks, and the mean log probability that its tokens had when they were."""
        x0 = np.concatenate([ids[:start], np.zeros(n, np.int64), ids[stop:]])[:length]
        given = (np.arange(len(x0)) < start) | (np.arange(len(x0)) >= start + n)
        *_, last = masked.sample(models["masked"], len(x0), decoder=decoder, x0=x0, given=given, rng=rng)
        there = slice(start, start + n)
        return last.state[0, there], float(np.log(np.maximum(last.confidence[0, there], 1e-9)).mean())

    def by_length(ids: Ints, start: int, stop: int) -> Ints:
        """Nobody says how long the gap is: of 1 to 8 masks those whose tokens are the surest."""
        return max((offer(decoders.Entropy(draw=GREEDY), ids, start, stop, n) for n in range(1, 9)), key=itemgetter(1))[
            0
        ]

    def by_block(ids: Ints, start: int, stop: int) -> Ints:
        given = np.arange(stop) < start  # it cannot see what follows
        x0 = np.where(given, ids[:stop], 0)
        decoder = decoders.Blocks(decoders.Entropy(draw=GREEDY))
        *_, last = block.sample(models["block"], stop, decoder=decoder, x0=x0, given=given, rng=rng)
        return last.state[0, start:]

    def by_middle(ids: Ints, start: int, stop: int) -> Ints:
        """As long as it likes: until END is likeliest."""
        for written, n in middles(ids, start, stop, 9, np.ones(v + SENTINELS, bool)):
            middle = middle_of(written[: n + 1], v)
            if middle is not None:
                return middle
        return np.zeros(0, np.int64)

    def by_middle_told(ids: Ints, start: int, stop: int) -> Ints:
        """Told the length, as the masked model is."""
        *_, (written, n) = middles(ids, start, stop, stop - start, real)
        return written[n + 1 - (stop - start) : n + 1]

    def by_likeliest_end(ids: Ints, start: int, stop: int) -> Ints:
        """Of 8 tokens those before which END is the likeliest, nobody saying how many: one more call asks."""
        *_, (written, n) = middles(ids, start, stop, 8, real)
        with td.no_grad():
            read = np.concatenate([[v + SENTINELS], written[: n + 1]])[None]
            logits = models["ar"](read, causal=True).data[0, -8:].astype(np.float64)  # behind 1 to 8 tokens
        end = logits[:, -1] - np.logaddexp.reduce(logits, axis=-1)
        return written[n - 7 : n - 7 + 1 + int(end.argmax())]

    def middles(ids: Ints, start: int, stop: int, most: int, allowed: Any) -> Iterator[tuple[Ints, int]]:
        """What is written behind MID, token by token, and the place of the last one: room for 8 of them and END."""
        ids = ids[: length - 6]  # a gap has at least 2
        known = len(ids) - (stop - start) + 3
        x0, n = np.zeros(known + most, np.int64), known + most
        x0[:known] = middle_last(ids, start, stop, v)[:known]
        given = np.arange(n) < known
        rows = given[:, None] | allowed  # of what is given nobody asks
        frames = ar.sample(
            models["ar"], n, decoder=decoders.NextToken(GREEDY), x0=x0, given=given, allowed=rows, rng=rng
        )
        for i, frame in enumerate(frames):
            if i:
                yield frame.state[0], known + i - 1

    def by_prefix(ids: Ints, start: int, stop: int) -> Ints:
        """The same network on what comes before alone, as its uncut windows are."""
        given = np.arange(stop) < start
        *_, last = ar.sample(
            models["ar"], stop, decoder=decoders.NextToken(GREEDY), x0=np.where(given, ids[:stop], 0), given=given,
            allowed=np.tile(real, (stop, 1)), rng=rng,
        )  # fmt: skip
        return last.state[0, start:]

    ways: dict[str, Callable[[Ints, int, int], Ints]] = {
        "autoregressive, sees the prefix": by_prefix, "autoregressive, fill-in-the-middle": by_middle_told,
        "autoregressive, fill-in-the-middle, until END": by_middle,
        "autoregressive, fill-in-the-middle, finds the length": by_likeliest_end,
        "block of 8, sees the prefix": by_block, "masked, one at a time": by_mask(decoders.Entropy(draw=GREEDY)),
        "masked, Frechet 1": by_mask(decoders.Frechet(draw=GREEDY)),
        "masked, entropy-bounded 0.5": by_mask(decoders.EntropyBounded(draw=GREEDY, gamma=0.5)),
        "masked, all at once": by_mask(decoders.AtOnce(draw=GREEDY)), "masked, finds the length": by_length,
    }  # fmt: skip
    ways |= {f"masked, offered {n:+d}": by_mask(decoders.Entropy(draw=GREEDY), n) for n in (-1, 1, 2)}
    rows = []
    for kind, whole in (("line", True), ("span", False)):
        cases = gaps(corpus, length, count, whole)
        for name, fill in ways.items():
            right = good = tokens = 0
            start_time = time.perf_counter()
            filled_in = [fill(*case) for case in cases]
            seconds = time.perf_counter() - start_time
            for (ids, start, stop), middle in zip(cases, filled_in, strict=True):
                before, here, after = (corpus.codec.decode(x) for x in (ids[:start], middle, ids[stop:]))
                line = before[before.rfind("\n") + 1 :] + here + after[: max(after.find("\n"), 0)]
                right += here == corpus.codec.decode(ids[start:stop])
                good += bool(line.strip()) and "\n" not in line.strip("\n") and parses(line)
                tokens += len(middle)
            share, whole_lines = right / count, good / count
            rows.append({
                "gap": kind, "way": name, "exact": share,
                "error": math.sqrt(max(share * (1 - share), 1 / count) / count),
                "parses": whole_lines, "tokens_per_second": tokens / seconds, "ms": 1e3 * seconds / count,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return {"steps": steps, "count": count, "rows": rows}


# --- tables and figures ---------------------------------------------------------------------------------------------


def table(head: str, rows: list[list[Any]]) -> str:
    """Markdown."""
    names = head.split("|")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def contest(out: Path) -> list[dict[str, Any]]:
    """Rows of `frontier`, each with what `race` measured of the same way, if it has been run."""
    found = [json.loads((out / f"{part}.json").read_text("utf-8"))["rows"] if (out / f"{part}.json").exists() else []
             for part in ("frontier", "race")]  # fmt: skip
    key = itemgetter("model", "decoder", "temperature")
    raced = {key(row): row for row in found[1]}
    return [row | raced.get(key(row), {}) for row in found[0]]


def tables(out: Path) -> None:
    """Print what has been measured, as benchmarks/README.md has it."""

    def rows_of(part: str) -> list[dict[str, Any]]:
        path = out / f"{part}.json"
        return json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []

    print(table("way|bits per character|more than autoregressive|deviation", [
        [r["way"], f"{r['bits']:.3f}", f"{r['more']:+.3f} ± {r['error_of_more']:.3f}", f"{r['deviation']:.2f}"]
        for r in rows_of("blocks")
    ]))  # fmt: skip
    found = json.loads((out / "blocks.json").read_text("utf-8")) if (out / "blocks.json").exists() else {"clips": []}
    rows = sorted(found["clips"], key=itemgetter("block", "clip"))
    print(table("block|" + "|".join(str(tuple(row["clip"])) for row in rows[:4]), [
        [b, *(f"{row['deviation']:.2f}" for row in rows if row["block"] == b)] for b in LENGTHS if rows
    ]))  # fmt: skip
    print(table("seed|autoregressive|blocks of 1, all masked", [
        [r["seed"], f"{r['bits']:.3f}", f"{r['more']:+.4f} ± {r['error_of_more']:.4f}"] for r in rows_of("twins")
    ]))  # fmt: skip
    print(table("order|looks|bits", [[r["order"], f"{r['looks']:.0f}", f"{r['bits']:.3f}"] for r in rows_of("orders")]))
    print(table("way|calls|ms", [[r["way"], r["calls"], f"{r['ms']:.0f}"] for r in rows_of("cache")]))
    print(table("model|decoder|T|calls|MFLOP|ms|of it network|valid|variety|nats", [
        [r["model"], r["decoder"], r["temperature"], f"{r.get('calls', r['looks']):.1f}",
         f"{r.get('mflop', math.nan):.0f}", f"{r.get('ms', math.nan):.1f}",
         f"{r.get('ms_in_network', math.nan):.1f}", f"{r['valid']:.3f} ± {r['error']:.3f}", f"{r['variety']:.3f}",
         "" if r["nats"] is None else f"{r['nats']:.1f} ± {r['nats_error']:.1f}"]
        for r in contest(out)
    ]))  # fmt: skip
    print(table("gap|way|exact|parses|tokens/s", [
        [r["gap"], r["way"], f"{r['exact']:.3f} ± {r['error']:.3f}", f"{r['parses']:.2f}",
         f"{r['tokens_per_second']:.0f}"]
        for r in rows_of("infilling")
    ]))  # fmt: skip


BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


def figures(out: Path) -> None:
    """Blocks, orders, the frontier: one picture for each that has been measured."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.5})

    def measured(part: str) -> Any:
        path = out / f"{part}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    if found := measured("blocks"):
        drawing, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
        ways = {r["way"]: r for r in found["rows"]}
        kinds = {
            "a network for each length": ("block of {}", BLUE, "o-", 9),
            "one network for all lengths": ("mixture, block of {}", GREEN, "s--", 8),
            "times that vary least": ("block of {}, clipped", RED, "D", 11),
            "always masked": ("block of {}, all masked", ORANGE, "*", 20),
        }
        for label, (name, colour, style, size) in kinds.items():
            rows = [ways[name.format(b)] for b in LENGTHS if name.format(b) in ways]
            axis.errorbar(
                [r["block"] for r in rows], [r["more"] for r in rows], [2 * r["error_of_more"] for r in rows],
                fmt=style, color=colour, capsize=4, ms=size, label=label,
            )  # fmt: skip
        axis.axhline(0, color=GREY, ls="--", lw=2)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LENGTHS, [str(b) for b in LENGTHS])
        axis.set(xlabel="tokens in a block", ylabel="more bits per character\nthan left to right")
        axis.legend(fontsize=12, loc="upper left")
        drawing.savefig(out / "blocks.png", dpi=90)
    if found := measured("orders"):
        drawing, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
        styles = {"entropy": (BLUE, "o-"), "margin": (GREEN, "s--"), "left to right": (ORANGE, "^-")}
        for name, (colour, style) in styles.items():
            rows = [r for r in found["rows"] if r["order"] == name]
            axis.plot([r["looks"] for r in rows], [r["bits"] for r in rows], style, color=colour, ms=9, label=name)
        for name, colour, marker in (("entropy-bounded", RED, "D"), ("Frechet", GREY, "X")):
            rows = [r for r in found["rows"] if r["order"].startswith(name)]
            axis.plot([r["looks"] for r in rows], [r["bits"] for r in rows], marker, color=colour, ms=11, label=name)
        axis.axhline(found["rows"][0]["bits"], color=GREY, ls="--", label="any order (bound)")
        axis.set_xscale("log", base=2)
        axis.set_xticks([4, 8, 16, 32, 64], ["4", "8", "16", "32", "64"])
        axis.set(xlabel="looks at a text of 64", ylabel="exact bits per character\nof what the decoder writes")
        axis.legend(fontsize=12)
        drawing.savefig(out / "orders.png", dpi=90)
    if (out / "frontier.json").exists() and (out / "race.json").exists():
        drawing, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", sharey=True)
        groups = {"autoregressive": (ORANGE, "*"), "masked": (BLUE, "o"), "block of 5": (GREEN, "^"),
                  "block of 9": (GREEN, "s"), "block of 15": (GREEN, "D")}  # fmt: skip
        every = contest(out)
        for axis, t in zip(axes, (1.0, 0.7), strict=True):
            for name, (colour, marker) in groups.items():
                rows = [r for r in every if r["model"] == name and r["temperature"] == t]
                axis.errorbar(
                    [r["ms"] for r in rows], [r["valid"] for r in rows], [2 * r["error"] for r in rows], fmt=marker,
                    color=colour, ms=18 if marker == "*" else 9, capsize=3, label=name,
                )  # fmt: skip
            axis.set_xscale("log")
            axis.minorticks_off()
            axis.set_xticks([4, 8, 16, 32], ["4", "8", "16", "32"])
            axis.set(xlabel="milliseconds for one story", title=f"temperature {t:g}", ylim=(-0.03, 1.05))
        axes[0].set(ylabel="share of valid stories")
        axes[1].legend(fontsize=12)
        drawing.savefig(out / "frontier.png", dpi=90)


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "cache": cache, "frontier": frontier, "race": race, "blocks": blocks, "twins": twins, "orders": orders,
    "infilling": infilling,
}  # fmt: skip


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="+", choices=[*PARTS, "tables", "figures", "all"])
    parser.add_argument("--out", type=Path, default=Path("runs/spectrum"))
    parser.add_argument("--steps", type=int, help="of every training, to try it out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if name in arguments.part or "all" in arguments.part:
            steps = arguments.steps or STEPS.get("frontier" if name == "race" else name, 1)
            found = part(arguments.out, steps)
            write(arguments.out, name, found)
    if "tables" in arguments.part:
        tables(arguments.out)
    figures(arguments.out)


if __name__ == "__main__":
    main()
