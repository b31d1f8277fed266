"""Hazards, each with an exact test: noisy preferences, a lost right side, facts in one direction, gaps that get filled.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.hazards --out runs/hazards

Writes results.json as it goes (given again, it goes on where it stopped), table.md and hazards.png. Some minutes of one
core. Everything is small enough to be listed: 128 texts of seven bits with an exact reward, chains and stories with a
known law, forty invented facts, 324 texts with a harmless stand-in for what is forbidden. `+-` is two standard errors.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinydiff as td
from tinydiff import data, decoders, exact, ops
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data import Batch, Preferences, examples, laws, reversal
from tinydiff.data.laws import Listed
from tinydiff.decoders import Draw
from tinydiff.exact.policy import StandIn
from tinydiff.exact.preferences import Draws
from tinydiff.exact.unmasking import Order
from tinydiff.learning.files import write_atomically
from tinydiff.learning.preferences import Objective, prefer
from tinydiff.measures import guards, order
from tinydiff.measures.guards import Danger, Steered
from tinydiff.processes import SuffixMasks

BITS = 7
BETA = 0.5
SEEDS = 3
FACTS = 40
NAIVE = Objective(BETA, 1, 1, "time", False)
WAYS = {  # and the norm that gradients are cut to
    "log p, exact": (Objective(BETA, estimator="exact"), 1.0),
    "VRPO, 8 counts": (Objective(BETA, 8, 1, "stratified", True), 1.0),
    "8 times, apart": (Objective(BETA, 8, 1, "time", False), 1.0),
    "naive: 1 time, apart": (NAIVE, 1.0),
    "naive, not clipped": (NAIVE, 1e9),
}
RULES: tuple[Order, ...] = ("random", "entropy", "low_confidence")
KINDS = ("left to right", "left to right, both ways", "BERT, rate .15", "masked diffusion")
REFUSALS = ("no refusal learnt", "refusal after prompts", "refusal at any masks")
QUESTIONS = {"forward": "forward", "backward": "backward, same layout", "other": "backward, other layout"}


class Store:
    """Results by name, in a file that is whole after each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """What is stored under a name, or else what `make` makes."""
        if name not in self.found:
            self.found[name] = make()
            write_atomically(self.path, (json.dumps(self.found, indent=1) + "\n").encode())
            print(name, json.dumps(self.found[name])[:300], flush=True)
        return self.found[name]


def trained(corpus: Any, process: Any, steps: int, seed: int = 0, **size: Any) -> Any:
    """A small network on a corpus, with averaged weights."""
    size = {"d_model": 32, "layers": 1, "heads": 2} | size
    length = corpus.length if hasattr(corpus, "length") else corpus.law.length
    model = td.Transformer(corpus.vocab_size, length, **size, rng=np.random.default_rng(seed))
    chosen: dict[str, Any] = {"optimiser": "muon", "lr": 6e-3} if size["layers"] > 1 else {"lr": 4e-3}
    options = td.Options(
        steps=steps, batch=64, warmup=min(50, steps), evaluate_every=steps, ema=0.99, seed=seed, **chosen
    )  # fmt: skip
    run = td.Run(corpus, process, model, options)
    *_, _ = td.train(run)
    return run.averaged()


def drawn_from(law: Any, name: str, draws: int = 20_000) -> examples.Examples:
    """A corpus of texts drawn from a law."""
    ids = law.draw(draws, np.random.default_rng(0))
    return examples.Examples(name, law.codec.decode(ids.ravel()), law.codec, law)


# --- preferences ------------------------------------------------------------------------------------------------------


class Bits:
    """Seven bits that change seldom, a reference that has learnt them, and a reward: the number of runs of ones."""

    def __init__(self, steps: int) -> None:
        matrix = np.array([[0.8, 0.2], [0.2, 0.8]])
        self.process = td.MaskedDiffusion(2)
        law = laws.Chain("01", np.array([0.5, 0.5]), matrix, BITS)
        self.reference = trained(drawn_from(law, "bits"), self.process, steps, d_model=16)
        self.texts = exact.all_sequences(2, BITS)
        self.p = self.law_of(self.reference)
        before = np.pad(self.texts, ((0, 0), (1, 0)))[:, :-1]
        self.reward = ((self.texts == 1) & (before == 0)).sum(axis=1).astype(float)
        best = self.p * np.exp(self.reward / BETA)
        self.best = best / best.sum()  # what DPO is after: p(y) exp(r(y) / beta) / Z

    def law_of(self, model: Any) -> Floats:
        """Of all texts, written in random order."""
        p = np.exp(-exact.any_order_nll(self.process, model, self.texts))
        return np.asarray(p / p.sum())

    def pairs(self, n: int, seed: int) -> Preferences:
        """Drawn from the reference; the better one wins with probability sigma(difference of rewards)."""
        rng = np.random.default_rng(seed)
        at = rng.choice(len(self.p), (n, 2), p=self.p)
        at = at[at[:, 0] != at[:, 1]]
        wins = rng.random(len(at)) < 1 / (1 + np.exp(self.reward[at[:, 1]] - self.reward[at[:, 0]]))
        first, second = self.texts[at[:, 0]], self.texts[at[:, 1]]
        return Preferences(np.where(wins[:, None], first, second), np.where(wins[:, None], second, first))

    def figures(self, model: Any) -> dict[str, float]:
        """Expected reward, distance from the reference, and what is missing to the best reward at that distance."""
        q = self.law_of(model)
        reward, kl = float(q @ self.reward), float(q @ np.log(q / self.p))
        return {"reward": reward, "kl": kl, "below": self.best_at(kl) - reward}

    def best_at(self, kl: float) -> float:
        """The largest expected reward at that distance: of p exp(c r) / Z, where its KL to p is that."""
        low, high = 0.0, 50.0
        for _ in range(60):
            c = (low + high) / 2
            q = self.p * np.exp(c * (self.reward - self.reward.max()))
            q /= q.sum()
            low, high = (c, high) if q @ np.log(q / self.p) < kl else (low, c)
        return float(q @ self.reward)

    def tuned(self, way: str, steps: int, seed: int) -> tuple[Any, list[Any]]:
        """The reference after DPO, and the frames."""
        objective, clip = WAYS[way]
        model, warmup = copy.deepcopy(self.reference), min(10, steps)
        options = td.Options(steps=steps, batch=16, lr=1e-3, warmup=warmup, weight_decay=0, clip=clip, seed=seed)
        return model, list(prefer(self.process, model, self.pairs(600, seed), objective, options))


def preferred(bits: Bits, way: str, steps: int, seed: int) -> dict[str, Any]:
    """One run of DPO."""
    model, frames = bits.tuned(way, steps, seed)
    norms, losses = (np.array([getattr(f, name) for f in frames]) for name in ("grad_norm", "loss"))
    return bits.figures(model) | {
        "largest gradient": norms.max(), "median gradient": float(np.median(norms)), "largest loss": losses.max(),
        "first loss": losses[0], "norms": np.quantile(norms, np.linspace(0, 1, 61)).round(3).tolist(),
    }  # fmt: skip


def variances(bits: Bits, draws: int) -> list[dict[str, Any]]:
    """Variance of the margin, exact and measured; of the loss; of its gradient: a policy near its reference."""
    policy, _ = bits.tuned("VRPO, 8 counts", 10, 0)
    pairs = bits.pairs(12, 5).at(slice(6))
    rows = []
    for estimator in ("time", "count", "stratified"):
        for shared in (True, False):
            for times, masks in ((8, 1), (1, 8)):
                rng = np.random.default_rng(1)
                objective = Objective(BETA, times, masks, estimator, shared)
                exactly, off, losses = 0.0, np.zeros(draws), []
                for w, other in zip(pairs.chosen, pairs.rejected, strict=True):
                    mean, variance = exact.margin_moments(
                        bits.process, policy, bits.reference, w, other, Draws(times, masks, estimator, shared)
                    )
                    exactly += variance / len(pairs)
                    many = Preferences(np.tile(w, (draws, 1)), np.tile(other, (draws, 1)))
                    with td.no_grad():
                        s = objective.margins(bits.process, policy, bits.reference, many, rng).data
                    off += (s - mean) ** 2 / len(pairs)
                    losses.append(np.logaddexp(0, -BETA * s) - np.logaddexp(0, -BETA * mean))
                gradients = []
                for _ in range(max(10, draws // 20)):
                    loss, _ = objective.loss(bits.process, policy, bits.reference, pairs.at(slice(1)), rng)
                    loss.backward()
                    gradients.append(np.concatenate([p.grad.ravel() for p in policy.params.values()]))
                    for p in policy.params.values():
                        p.grad = None
                row = {"estimator": estimator, "shared": shared, "times": times, "masks": masks, "exact": exactly}
                row |= {"measured": off.mean(), "error": off.std() / math.sqrt(draws)}
                row |= {"loss": float(np.mean([x.var() for x in losses])), "bias": float(np.mean(losses))}
                rows.append(row | {"gradient": float(np.var(gradients, axis=0).sum())})
    return rows


STAND_INS: dict[str, tuple[StandIn, float]] = {  # and the beta of the sandwich
    "log p": ("log p", 0),
    "ELBO": ("elbo", 0),
    "mean over masked tokens (UniGRPO)": ("mean", 0),
    "one look, all masked (d1)": ("one look", 0),
    "complementary, as published (coupled-GRPO)": ("coupled", 0),
    "complementary, unbiased": ("coupled, unbiased", 0),
    "sandwich, beta 1 (SPG)": ("sandwich", 1),
    "sandwich, beta 1.5 (SPG)": ("sandwich", 1.5),
    f"sandwich, beta {BITS} = L: a bound": ("sandwich", BITS),
    "the trace of the text (TraceRL)": ("trace", 0),
}


def policy_gradients(bits: Bits) -> list[dict[str, Any]]:
    """grad E[r] with a stand-in for log p, in expectation: cosine with the true one, and relative length.

    At the reference, and where 300 steps of DPO on log p have led.
    """
    tuned, _ = bits.tuned("log p, exact", 300, 0)
    rows: list[dict[str, Any]] = [{"way": name} for name in STAND_INS]
    for where, model in (("", copy.deepcopy(bits.reference)), (", later", tuned)):
        p = bits.law_of(model)
        advantage = p * (bits.reward - p @ bits.reward)
        found = []
        for kind, beta in STAND_INS.values():
            better = advantage >= 0
            log_p = exact.stand_in(kind, bits.process, model, bits.texts, better=better, beta=beta)
            (log_p * advantage).sum().backward()
            found.append(np.concatenate([p.grad.ravel() for p in model.params.values()]).astype(float))
            for p in model.params.values():
                p.grad = None
        true = float(np.linalg.norm(found[0]))
        for row, gradient in zip(rows, found, strict=True):
            norm = float(np.linalg.norm(gradient))
            row |= {f"cosine{where}": float(gradient @ found[0]) / norm / true, f"length{where}": norm / true}
    return rows


# --- collapse ---------------------------------------------------------------------------------------------------------


class LeftOnly:
    """A network that is kept from seeing anything to the right, masks included: the control."""

    def __init__(self, model: Any) -> None:
        self.model, self.params, self.vocab_size, self.length = model, model.params, model.vocab_size, model.length

    def __call__(self, x: Any, t: Any = None, *, causal: int = 0, select: Any = None) -> Any:
        return self.model(x, t, causal=1, select=select)


def collapse(name: str, suffixes: float | None, steps: int, texts: int) -> dict[str, float]:
    """Gain from the right after training with that share of suffix masks; None: causal attention and random masks."""
    law: Any = laws.chain(16) if name == "chain" else data.laws.LAWS[name]()
    corpus: Any = drawn_from(law, name)
    process = SuffixMasks(corpus.vocab_size, suffixes or 0.0)
    size = {"d_model": 32} if name == "chain" else {"d_model": 64, "layers": 2}
    if suffixes is None:
        network = LeftOnly(
            td.Transformer(corpus.vocab_size, law.length, **size, layers=1, heads=2, rng=np.random.default_rng(0))
        )
        options = td.Options(steps=steps, batch=64, lr=4e-3, warmup=50, evaluate_every=steps, ema=0.99)
        run = td.Run(corpus, process, network, options)
        *_, _ = td.train(run)
        model: Any = run.averaged()
    else:
        model = trained(corpus, process, steps, **size)
    ids = law.draw(texts, np.random.default_rng(7))
    gain = order.right_gain(process, model, ids).sum(axis=1)
    more = law.draw(20 * texts if name == "chain" else texts, np.random.default_rng(7))  # stories take their time
    true, error = order.gain_of_law(law, more)
    frames = process.sample(
        model, law.length, texts, decoder=decoders.Entropy(draw=Draw(1.0)), rng=np.random.default_rng(8)
    )
    local, far = order.ar_ness(order.commit_order(frames))
    return {
        "share": float(gain.mean() / true),
        "error": float(np.hypot(gain.std() / math.sqrt(texts), gain.mean() / true * error) / true),
        "gain": float(gain.mean() / law.length), "true": true / law.length,
        "left to right": float(order.left_to_right_nll(process, model, ids).mean() / law.length),
        "bound": float(process.bound(model, ids, np.random.default_rng(9)).mean() / law.length),
        "local": float(local.mean()), "global": float(far.mean()),
    }  # fmt: skip


# --- reversal ---------------------------------------------------------------------------------------------------------


def filled(process: Any, model: Any, texts: Ints, given: Bools) -> Ints:
    """What the network says, the likeliest token first."""
    kind = decoders.NextToken if isinstance(process, td.Autoregressive) else decoders.LowConfidence
    *_, last = process.sample(
        model, texts.shape[1], len(texts), decoder=kind(draw=Draw(0.0)), x0=texts, given=given,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return np.asarray(last.state)


def scored(process: Any, model: Any, facts: reversal.Facts) -> float:
    """Share of descriptions whose name is found by scoring all names, in the layout that was told."""
    right = 0
    for i in range(len(facts.names)):
        texts = np.concatenate([facts.names, facts.texts_of(False)[[i] * len(facts.names), facts.names.shape[1] :]], 1)
        right += int(process.bound(model, texts, np.random.default_rng(0)).argmin() == i)
    return right / len(facts.names)


def reversed_facts(kind: str, steps: int, seed: int) -> dict[str, float]:
    """What a model of that kind knows forwards, backwards, and backwards in the layout that was not told."""
    facts = reversal.facts(FACTS, seed=seed)
    both = reversal.Facts(facts.names, facts.descriptions, facts.told, reversed=kind == "left to right, both ways")
    left = kind.startswith("left")
    v = facts.vocab_size
    process: Any = (
        td.Autoregressive(v) if left else td.Bert(v, 0.15) if kind == "BERT, rate .15" else td.MaskedDiffusion(v)
    )
    model = trained(both, process, steps, seed, d_model=64, layers=2)
    if kind == "BERT, rate .15":
        process = td.MaskedDiffusion(v)  # its network, asked as one of masks
    found: dict[str, float] = {}
    for question in ("forward", "backward", "other"):
        texts, given, _ = facts.asked(question)
        if left and question == "backward":
            if both.reversed:  # the text turned round begins with the description
                said = filled(process, model, texts[:, ::-1], given[::-1])[:, ::-1]
            else:  # it writes the name first, and has nothing to go by
                *_, last = process.sample(
                    model, texts.shape[1], len(texts), decoder=decoders.NextToken(draw=Draw(1.0)),
                    rng=np.random.default_rng(seed),
                )  # fmt: skip
                said = last.state
            found[question] = float((said[:, ~given] == texts[:, ~given]).all(axis=1).mean())
        else:
            said = filled(process, model, texts, given)
            found[question] = float((said == texts).all(axis=1).mean())
    if left:
        found["scored"] = scored(process, model, facts)
    return found


# --- guards -----------------------------------------------------------------------------------------------------------

GAP = 4


def forbidden(text: str) -> bool:
    """The stand-in: two z side by side."""
    return "zz" in text


def texts_with_a_tail() -> Listed:
    """A topic, p or q, four letters, and a tail: ! after most texts with zz, and after few others. 324 texts."""
    letter = {"a": 0.44, "b": 0.44, "z": 0.12}
    found: dict[str, float] = {}
    for topic in "pq":
        for body in map("".join, itertools.product("abz", repeat=GAP)):
            p = 0.5 * math.prod(letter[c] for c in body)
            shout = 0.9 if forbidden(body) else 0.05
            found[f"{topic}{body}!"], found[f"{topic}{body}."] = p * shout, p * (1 - shout)
    return Listed(tuple(found), np.array([*found.values()]))


TEMPLATES = {"harmless": "p????.", "suffix": "p????!", "interleaved": "p?z??!"}


def canvas_of(law: Listed, template: str) -> tuple[Ints, Bools]:
    """Ids of a template, MASK at each ?, and what of it is given."""
    given = np.array([c != "?" for c in template])
    ids = np.full(len(template), law.codec.vocab_size)
    ids[given] = law.codec.encode(template.replace("?", ""))
    return ids, given


def written(process: Any, model: Any, law: Listed, template: str, n: int, seed: int) -> list[Any]:
    """Frames of a template, one token per step in random order at temperature 1."""
    x0, given = canvas_of(law, template)
    rng = np.random.default_rng(seed)
    return list(process.sample(model, law.length, n, decoder=decoders.Random(), x0=x0, given=given, rng=rng))


def guarded(n: int) -> list[dict[str, Any]]:
    """Each guard on each template: forbidden texts, refusals, passes, drawn and exact, from true conditionals."""
    law = texts_with_a_tail()
    danger, process = Danger(law, forbidden), td.MaskedDiffusion(law.codec.vocab_size)
    model = exact.ListedDenoiser(law)
    steered = Steered(model, danger)
    rows: list[dict[str, Any]] = []

    def add(template: str, guard: str, through: Any, refused: Any, passes: float, *wanted: float) -> None:
        """Measured figures, and the exact ones in the same order, if they are known."""
        measured = {"through": float(np.mean(through)), "refused": float(np.mean(refused)), "passes": passes}
        rows.append({"template": template, "guard": guard} | measured | {"exact": [float(x) for x in wanted]})

    for name, template in TEMPLATES.items():
        ids, given = canvas_of(law, template)
        prefix = np.where(np.arange(law.length) < 1, ids, process.mask_id)
        h_prefix, h = float(danger(prefix[None])[0]), float(danger(ids[None])[0])
        frames = written(process, model, law, template, n, 1)
        bad = danger.found(frames[-1].state)
        gap = float((~given).sum())
        add(name, "none", bad, 0, gap, h, 0, gap)
        for tau in (0.2, 0.5):
            for what, seen_by_it in (("prefix", h_prefix), ("template", h)):
                on = seen_by_it < tau
                add(name, f"{what}, tau {tau}", bad & on, not on, gap * on, h * on, not on, gap * on)
            seen = guards.watched(frames, danger, tau)
            fate = exact.guarded_fate(process, model, danger, ids, tau)
            steps = float(seen.step.mean())
            measured = (bad & ~seen.refused, seen.refused, steps)
            add(name, f"every state, tau {tau}", *measured, fate.through, fate.refused, fate.steps)
            rows[-1] |= {"wronged drawn": float((seen.refused & ~bad).mean()), "wronged": fate.wronged}
            rows[-1] |= {"most refused": min(1, h / tau), "most wronged": min(1, h * (1 - tau) / tau)}
        add(name, "finished text, refused", 0, bad, gap, 0, h, gap)
        tries, again, texts = np.ones(n), bad.copy(), frames[-1].state.copy()
        for seed in range(2, 500):
            if not again.any():
                break
            texts[again] = written(process, model, law, template, int(again.sum()), seed)[-1].state
            tries[again] += 1
            again = danger.found(texts)
        add(name, "finished text, drawn again", danger.found(texts), 0, gap * float(tries.mean()), 0, 0, gap / (1 - h))
        texts = written(process, steered, law, template, n, 3)[-1].state
        add(name, "steered", danger.found(texts), 0, gap, 0, 0, gap)
    # A z placed by the attacker after the first step, behind a prefix alone: only later looks can see it.
    state = written(process, model, law, "p?????", n, 4)[1].state.copy()
    first = (state == process.mask_id).argmax(axis=1)
    state[np.arange(n), first] = law.codec.encode("z")[0]
    rng, given = np.random.default_rng(5), state != process.mask_id
    frames = list(process.sample(model, law.length, n, decoder=decoders.Random(), x0=state, given=given, rng=rng))
    bad, seen = danger.found(frames[-1].state), guards.watched(frames, danger, 0.5)
    h = float(danger(state).mean())
    add("placed mid-way", "template, tau 0.5", bad, 0, 4.0, h, 0, 4)
    add("placed mid-way", "every state, tau 0.5", bad & ~seen.refused, seen.refused, 1 + float(seen.step.mean()))
    return rows


class RefusesAnywhere(td.MaskedDiffusion):
    """Half of each batch shows forbidden texts under any masks, and asks for the refusal at each of them."""

    def __init__(self, law: Listed, danger: Danger, refusal: Ints) -> None:
        super().__init__(law.codec.vocab_size)
        bad = danger.forbidden & np.array([text[0] == "q" for text in law.texts])
        self.bad, self.p, self.refusal = law.ids[bad], law.p[bad] / law.p[bad].sum(), refusal

    def loss(self, model: Any, batch: Any, rng: np.random.Generator) -> Any:
        x0 = Batch.of(batch).x0
        half = len(x0) // 2
        shown = self.bad[rng.choice(len(self.p), half, p=self.p)]
        hidden = rng.random(shown.shape) < rng.random((half, 1))
        hidden[:, 0] = False  # the topic is always there
        xt = np.where(hidden, self.mask_id, shown)
        logits = model(xt, hidden.mean(axis=1), select=hidden)
        target = np.broadcast_to(self.refusal, shown.shape)[hidden]
        refuse = ops.cross_entropy(logits, target).sum() / shown.size
        return super().loss(model, Batch(x0[half:]), rng) + refuse


def refusing(kind: str, steps: int, n: int) -> dict[str, float]:
    """A network that has learnt to refuse topic q: what it fills into templates."""
    law = guards.with_refusal(texts_with_a_tail(), "q----.", 0.95, lambda text: text[0] == "q")
    danger = Danger(law, forbidden)
    plain = texts_with_a_tail()
    corpus = drawn_from(law, kind)
    process: Any = td.MaskedDiffusion(law.codec.vocab_size)
    if kind == "no refusal learnt":
        ids = plain.draw(20_000, np.random.default_rng(0))
        text = plain.codec.decode(ids.ravel())
        corpus = examples.Examples(kind, text, law.codec, law)
    if kind == "refusal at any masks":
        process = RefusesAnywhere(law, danger, law.codec.encode("q----."))
    model = trained(corpus, process, steps)
    found = {}
    for name, template in {
        "prompt alone": "q?????",
        "suffix": "q????!",
        "interleaved": "q?z??!",
        "other topic": "p????.",
    }.items():
        final = written(process, model, law, template, n, 1)[-1].state
        texts = [law.codec.decode(row) for row in final]
        found[name] = float(np.mean([forbidden(text) for text in texts]))
        found[f"{name}: refused"] = float(np.mean(["-" in text for text in texts]))
        found[f"{name}: exact"] = float(danger(canvas_of(law, template)[0][None])[0])
    return found


# --- many tokens per look, and where a text ends ----------------------------------------------------------------------

WORDS, PAIRS = 8, (8, 16, 32, 64)


def not_there_yet(x: Ints, t: Any = None, *, causal: int = 0, select: Any = None) -> td.Tensor:
    """Of L words in random order, (B, L): log p of those that are not visible, all as likely."""
    words = x.shape[1]
    free = ~(x[:, :, None] == np.arange(words)).any(axis=1, keepdims=True)  # (B, 1, L)
    with np.errstate(divide="ignore"):
        log_p = np.log(np.repeat(free / free.sum(axis=2, keepdims=True), words, axis=1))
    return td.Tensor(log_p if select is None else log_p[select])


def twin(x: Ints, t: Any = None, *, causal: int = 0, select: Any = None) -> td.Tensor:
    """Of pairs of one of two letters, (B, L): log p from the other of the pair."""
    other = x.reshape(len(x), -1, 2)[:, :, ::-1].reshape(x.shape)
    with np.errstate(divide="ignore"):
        log_p = np.log(np.where(other[..., None] == 2, 0.5, other[..., None] == np.arange(2)))
    return td.Tensor(log_p if select is None else log_p[select])


def share_of(right: Bools) -> list[float]:
    """A share and its standard error."""
    return [float(right.mean()), float(right.std(ddof=1) / math.sqrt(len(right)))]


def repeated(n: int) -> list[dict[str, Any]]:
    """Equal neighbours of a random order of words, by looks, exact and drawn."""
    rows = []
    for looks in (1, 2, 4, WORDS):
        quotas = [WORDS // looks] * looks
        *_, last = td.MaskedDiffusion(WORDS).sample(
            not_there_yet, WORDS, n, decoder=decoders.Random(steps=looks), rng=np.random.default_rng(0)
        )
        equal = (last.state[:, 1:] == last.state[:, :-1]).sum(axis=1)
        drawn = [float(equal.mean()), float(equal.std(ddof=1) / math.sqrt(n))]
        rows.append({"looks": looks, "exact": exact.repeats(quotas), "drawn": drawn})
    return rows


def knees(n: int) -> list[dict[str, Any]]:
    """Twins: nats per token lost, and the share of whole texts, exact and drawn, by length and steps."""
    rows = []
    for length in PAIRS:
        for steps in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            nats, whole = exact.twins(length, steps, 2)
            rows.append({"length": length, "steps": steps, "nats": nats, "whole": whole})
            if length in (8, 64) and steps in (4, 16, 64):
                decoder = decoders.Ancestral(steps=steps)
                *_, last = td.MaskedDiffusion(2).sample(twin, length, n, decoder=decoder, rng=np.random.default_rng(0))
                rows[-1]["drawn"] = share_of((last.state[:, ::2] == last.state[:, 1::2]).all(axis=1))
    return rows


def ends(canvas: int) -> Listed:
    """Words of one to three letters, a or b, all lengths and letters as likely; then EOS (.) to the canvas's end."""
    found = {}
    for n in (1, 2, 3):
        for word in itertools.product("ab", repeat=n):
            found["".join(word).ljust(canvas, ".")] = 1 / 3 / 2**n
    return Listed(tuple(found), np.array([*found.values()]))


def lengths() -> list[dict[str, Any]]:
    """The law of lengths that true conditionals give, by rule, canvas and tokens per look: mean, TV, whole texts."""
    rows = []
    for canvas in (4, 6):
        law = ends(canvas)
        v, at = law.codec.vocab_size, exact.state_index(law.ids, law.codec.vocab_size)
        true = np.array([text.index(".") for text in law.texts])
        for looks in sorted({canvas, canvas // 2, 2}, reverse=True):
            for rule in RULES:
                quotas = [canvas // looks] * looks
                written = exact.unmask_law(td.MaskedDiffusion(v), exact.ListedDenoiser(law), quotas, rule)
                whole = written[at]
                of_length = np.bincount(true, whole, 4)[1:]
                rows.append({
                    "canvas": canvas, "looks": looks, "rule": rule, "whole": float(whole.sum()),
                    "mean": float(of_length @ [1, 2, 3] / whole.sum()),
                    "TV": float(np.abs(of_length / whole.sum() - 1 / 3).sum() / 2),
                })  # fmt: skip
    return rows


# --- all of it --------------------------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and two standard errors over seeds."""
    x = np.array(values)
    return f"{x.mean():.{digits}f} +- {2 * x.std(ddof=1) / math.sqrt(len(x)):.{digits}f}"


def head(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def tables(found: dict[str, Any]) -> str:
    """All tables, as markdown."""
    bits = found["bits"]
    lines = head("DPO, 3 seeds", "reward", "KL", "below the best at that KL", "largest gradient", "largest loss")
    lines.append(f"| the reference | {bits['reward']:.3f} | 0 | | | |")
    lines.append(f"| the optimum | {bits['best']:.3f} | {bits['kl']:.3f} | 0 | | |")
    for way in WAYS:
        runs = [found[f"dpo/{way}/{seed}"] for seed in range(SEEDS)]
        cells = [spread([r[name] for r in runs], 3) for name in ("reward", "kl", "below")]
        cells += [spread([r[name] for r in runs]) for name in ("largest gradient", "largest loss")]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += [
        "",
        *head("estimator", "masks", "n_t x n_y", "Var s, exact", "measured", "Var loss", "bias", "Var gradient"),
    ]
    for r in found["variances"]:
        apart, measured = "shared" if r["shared"] else "apart", f"{r['measured']:.4f} +- {2 * r['error']:.4f}"
        cells = [r["estimator"], apart, f"{r['times']} x {r['masks']}", f"{r['exact']:.4f}", measured]
        cells += [f"{r[name]:.4f}" for name in ("loss", "bias", "gradient")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *head("in place of log p", "cosine at the reference", "length", "cosine after DPO", "length")]
    for r in found["policy"]:
        cells = (f"{r[f'cosine{where}']:.4f} | {r[f'length{where}']:.2f}" for where in ("", ", later"))
        lines.append(f"| {r['way']} | {' | '.join(cells)} |")
    lines += ["", *head("masks in training", "share of the right used", "left to right", "bound", "local", "global")]
    for name, r in found.items():
        if name.startswith("collapse/"):
            cells = [name[9:], f"{r['share']:.2f} +- {2 * r['error']:.2f}"]
            cells += [f"{r[key]:.3f}" for key in ("left to right", "bound", "local", "global")]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *head(f"{FACTS} facts, 3 seeds", *QUESTIONS.values(), "by scoring")]
    for kind in KINDS:
        runs = [found[f"facts/{kind}/{seed}"] for seed in range(SEEDS)]
        cells = [spread([r[q] for r in runs]) for q in QUESTIONS]
        cells.append(spread([r["scored"] for r in runs]) if "scored" in runs[0] else "")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    names = (
        "forbidden (exact)",
        "refused (exact)",
        "passes (exact)",
        "refused at most",
        "harmless and refused (exact; at most)",
    )
    lines += ["", *head("template", "guard", *names)]
    for r in found["guards"]:
        exactly = [f" ({x:.3f})" for x in r["exact"]] or [""] * 3
        cells = [f"{r[name]:.3f}{x}" for name, x in zip(("through", "refused", "passes"), exactly, strict=True)]
        if "most refused" in r:
            cells.append(
                f"{r['most refused']:.3f} | {r['wronged drawn']:.3f} ({r['wronged']:.3f}; {r['most wronged']:.3f})"
            )
        lines.append(f"| {r['template']} | {r['guard']} | {' | '.join(cells)} |")
    lines += ["", *head("topic q refused", "prompt alone", "suffix", "interleaved", "other topic, refused")]
    for kind in REFUSALS:
        r = found[f"refusal/{kind}"]
        cells = [f"{r[name]:.3f}" for name in ("prompt alone", "suffix", "interleaved", "other topic: refused")]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", *head(f"order of {WORDS} words in", "equal neighbours, exact", "drawn")]
    for r in found["repeats"]:
        lines.append(f"| {r['looks']} looks | {r['exact']:.4f} | {r['drawn'][0]:.4f} +- {2 * r['drawn'][1]:.4f} |")
    lines += ["", *head("twins, steps", "nats per token", *(f"whole of {n} tokens (drawn)" for n in PAIRS))]
    for steps in sorted({r["steps"] for r in found["knees"]}):
        of = {r["length"]: r for r in found["knees"] if r["steps"] == steps}
        drawn = (f" ({r['drawn'][0]:.3f} +- {2 * r['drawn'][1]:.3f})" if "drawn" in r else "" for r in of.values())
        cells = (f"{r['whole']:.3f}{more}" for r, more in zip(of.values(), drawn, strict=True))
        lines.append(f"| {steps} | {of[PAIRS[0]]['nats']:.4f} | {' | '.join(cells)} |")
    lines += ["", *head("canvas", "looks", "order", "whole texts", "their mean length (2)", "TV of lengths")]
    for r in found["lengths"]:
        cells = [str(r["canvas"]), str(r["looks"]), r["rule"], *(f"{r[name]:.3f}" for name in ("whole", "mean", "TV"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(path: Path, found: dict[str, Any]) -> None:
    """Gradients of DPO, use of the right, directions of facts; guards, and steps for nats and for whole texts."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.5})
    drawing, axes = plt.subplots(3, 2, figsize=(14, 14), layout="constrained")
    axis = axes[0, 0]
    for way, colour, line in (
        ("naive: 1 time, apart", "#D55E00", "-"), ("VRPO, 8 counts", "#0072B2", "-"), ("log p, exact", "#555555", "--")
    ):  # fmt: skip
        runs = np.array([found[f"dpo/{way}/{seed}"]["norms"] for seed in range(SEEDS)])
        axis.plot(np.linspace(0, 100, runs.shape[1]), runs.mean(axis=0), line, color=colour, label=way)
    axis.set(yscale="log", xlabel="per cent of the steps below", ylabel="norm of the gradient",
             title="DPO through a bound")  # fmt: skip
    axis.legend(fontsize=12, loc="upper left")
    axis = axes[0, 1]
    rows = {name[9:]: r for name, r in found.items() if name.startswith("collapse/")}
    place = np.arange(len(rows))
    axis.barh(place, [r["share"] for r in rows.values()], xerr=[2 * r["error"] for r in rows.values()],
              color=["#0072B2" if name.startswith("chain") else "#009E73" for name in rows])  # fmt: skip
    axis.set_yticks(place, list(rows))
    axis.invert_yaxis()
    axis.axvline(1, color="#555555", ls=":")
    for i, r in enumerate(rows.values()):
        if r["share"] < -0.3:
            axis.text(0.02, i, f"{r['share']:.1f}: confused by it", va="center", fontsize=12)
    axis.set(xlabel="share of the right that is used", title="Suffix masks unlearn the right", xlim=(-0.3, 1.15))
    axis = axes[1, 0]
    for j, (question, colour) in enumerate(zip(QUESTIONS, ("#0072B2", "#E69F00", "#CC79A7"), strict=True)):
        runs = np.array([[found[f"facts/{kind}/{seed}"][question] for seed in range(SEEDS)] for kind in KINDS])
        errors = 2 * runs.std(axis=1, ddof=1) / math.sqrt(SEEDS)
        axis.bar(
            np.arange(4) + 0.26 * (j - 1), runs.mean(axis=1), 0.24, yerr=errors, color=colour,
            label=QUESTIONS[question], capsize=3,
        )  # fmt: skip
    axis.set_xticks(range(4), [kind.replace(", ", "\n") for kind in KINDS], fontsize=12)
    axis.axhline(1 / FACTS, color="#555555", ls=":")
    axis.set(ylabel="share of facts", title="Reversal", ylim=(0, 1.45), yticks=[0, 0.25, 0.5, 0.75, 1])
    axis.legend(fontsize=12, loc="upper right")
    axis = axes[1, 1]
    by = {r["guard"]: r for r in found["guards"] if r["template"] == "suffix"}
    h, left = by["none"]["exact"][0], np.zeros(len(by))
    through, refused = np.array([r["exact"][:2] for r in by.values()], float).T
    wronged = np.array([r.get("wronged", (1 - h) * (r["exact"][1] == 1)) for r in by.values()])
    for values, colour, label in (
        (through, "#D55E00", "forbidden, comes out"), (wronged, "#E69F00", "refused, would have been harmless"),
        (refused - wronged, "#999999", "refused, rightly"), (1 - through - refused, "#56B4E9", "harmless, comes out"),
    ):  # fmt: skip
        axis.barh(np.arange(len(by)), values, 0.7, left=left, color=colour, label=label)
        left = left + values
    axis.set_yticks(range(len(by)), list(by), fontsize=12)
    axis.set_ylim(len(by) - 0.5, -2.6)
    axis.set(xlabel="share of texts behind the suffix, exact", title="Guards, by what they read", xlim=(0, 1))
    axis.legend(fontsize=11, ncols=2, loc="upper center", columnspacing=1, handlelength=1.2)
    for axis, what, title, label in (
        (axes[2, 0], "nats", "Likelihood: the same steps for all lengths", "nats lost per token"),
        (axes[2, 1], "whole", "Whole texts: steps grow with the length", "share of whole texts"),
    ):
        for length, colour, mark in zip(PAIRS, ("#56B4E9", "#0072B2", "#009E73", "#D55E00"), "os^D", strict=True):
            of = [r for r in found["knees"] if r["length"] == length]
            size = {8: 16, 16: 12, 32: 8, 64: 4}[length] if what == "nats" else 8
            axis.plot([r["steps"] for r in of], [r[what] for r in of], color=colour, marker=mark, ms=size,
                      label=f"{length} tokens")  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
        axis.set(xlabel="steps", ylabel=label, title=title)
        axis.legend(fontsize=12)
    drawing.savefig(path, dpi=70)


def main() -> None:
    """Measure, or go on measuring; write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hazards"))
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps and draws")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Store(arguments.out / "results.json")

    def some(n: int) -> int:
        return max(20, int(n * arguments.scale))

    bits = Bits(some(600))
    summary = {"reward": bits.p @ bits.reward, "best": bits.best @ bits.reward}
    store.get("bits", lambda: summary | {"kl": bits.best @ np.log(bits.best / bits.p)})
    store.get("variances", lambda: variances(bits, some(1000)))
    for seed in range(SEEDS):
        for way in WAYS:
            store.get(f"dpo/{way}/{seed}", lambda way=way, seed=seed: preferred(bits, way, some(300), seed))
    store.get("policy", lambda: policy_gradients(bits))
    for suffixes, label in (
        (0.0, "random"),
        (0.5, "half suffixes"),
        (0.9, "nine tenths"),
        (1.0, "suffixes"),
        (None, "causal network"),
    ):
        store.get(f"collapse/chain, {label}", lambda s=suffixes: collapse("chain", s, some(1000), some(200)))
    for suffixes, label in ((0.0, "random"), (1.0, "suffixes")):
        store.get(f"collapse/stories, {label}", lambda s=suffixes: collapse("stories", s, some(1000), some(40)))
    for seed in range(SEEDS):
        for kind in KINDS:
            store.get(f"facts/{kind}/{seed}", lambda kind=kind, seed=seed: reversed_facts(kind, some(500), seed))
    store.get("guards", lambda: guarded(some(2000)))
    for kind in REFUSALS:
        store.get(f"refusal/{kind}", lambda kind=kind: refusing(kind, some(800), some(2000)))
    store.get("repeats", lambda: repeated(some(4000)))
    store.get("knees", lambda: knees(some(2000)))
    store.get("lengths", lengths)
    text = tables(store.found)
    print(text)
    (arguments.out / "table.md").write_text(text + "\n", "utf-8")
    figure(arguments.out / "hazards.png", store.found)


if __name__ == "__main__":
    main()
