"""Coding problem: the decoder. From masks to text in any number of steps, its law compared with the exact one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ... import exact
from ...arrays import Bools, Floats, Ints
from ...processes import MaskedDiffusion
from ..judge import Refused, array
from ..models import Asked, Reduced, Table
from ..question import Function, Question, Seen, Series, Suspect

ROWS = 2000


def decode(model: Any, x: Ints, mask_id: int, steps: int, order: str, rng: np.random.Generator) -> Ints:
    """Fill the masks of a batch in so many steps, and return the texts.

    Every step takes one look at the texts, draws a token at each mask from what the model says there, keeps some of
    them and forgets the others. Each step keeps equally many: the number of masks in a row is a multiple of `steps`,
    and the same in every row. Which ones are kept is the order, in each row on its own, ties to the left:

        "random"           any, whatever the model says
        "left_to_right"    the leftmost
        "low_confidence"   those whose drawn token has the highest probability
        "entropy"          those where the law of the model has the lowest entropy

    Parameters
    ----------
    model : model(x) gives the probabilities (B, L, V) of each token at each position
    x : (B, L) token ids, mask_id where something is to be filled in; everything else is given and stays
    rng : all chance comes from here

    Returns
    -------
    (B, L) token ids without masks

    """
    x = x.copy()
    quota = int((x[0] == mask_id).sum()) // steps
    for _ in range(steps):
        p = model(x)  # (B, L, V)
        drawn = (p.cumsum(axis=-1) < rng.random(x.shape)[..., None]).sum(axis=-1)
        drawn = np.minimum(drawn, p.shape[-1] - 1)
        rank = {
            "random": rng.random(x.shape),
            "left_to_right": -np.broadcast_to(np.arange(x.shape[1]), x.shape),
            "low_confidence": np.take_along_axis(p, drawn[..., None], axis=-1)[..., 0],
            "entropy": (p * np.log(np.maximum(p, 1e-300))).sum(axis=-1),
        }[order]
        best = np.argsort(-np.where(x == mask_id, rank, -np.inf), axis=1, kind="stable")[:, :quota]
        np.put_along_axis(x, best, np.take_along_axis(drawn, best, axis=1), axis=1)
    return x


# --- how it is judged -------------------------------------------------------------------------------------------------


def cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """All orders, in one step, in two and in one per position; and once with something given."""
    made: list[tuple[Any, ...]] = []
    wanted = [
        (2, "__", 1, "random"), (2, "__", 2, "left_to_right"), (2, "__", 2, "low_confidence"), (2, "__", 2, "entropy"),
        (2, "____", 2, "random"), (2, "____", 2, "low_confidence"), (2, "____", 2, "entropy"),
        (3, "__1", 2, "random"), (2, "_1__", 3, "left_to_right"), (2, "0_1__", 3, "low_confidence"),
    ]  # fmt: skip
    for v, text, steps, order in wanted:
        model = Asked(Table(v, len(text), rng, strength=2.0))
        row = np.array([v if letter == "_" else int(letter) for letter in text], np.int64)
        made.append((model, np.tile(row, (ROWS, 1)), v, steps, order, np.random.default_rng(rng.integers(1 << 30))))
    return made


def truth(model: Asked, x: Ints, mask_id: int, steps: int, order: Any, rng: np.random.Generator) -> Floats:
    """The law of the free positions, by enumerating every draw of every step."""
    reduced = Reduced(model.model, x[0])
    quotas = [len(reduced.free) // steps] * steps
    return exact.unmask_law(MaskedDiffusion(mask_id), reduced, quotas, order)


def observe(function: Callable[..., Any], case: tuple[Any, ...]) -> Seen:
    """How often each text comes out, for the free positions, in the order of `exact.all_sequences`."""
    model, x, mask_id, steps, order, rng = case
    output = array(function(model, x, mask_id, steps, order, rng), x.shape)
    texts = output.astype(np.int64)
    if not np.isin(output, np.arange(mask_id + 1)).all():
        raise Refused("property", "The texts contain something else than token ids.")
    free = x[0] == mask_id
    if (texts[:, ~free] != x[:, ~free]).any():
        raise Refused("property", "A token that was given has changed: fill in what is masked, and nothing else.")
    if (texts == mask_id).any():
        raise Refused("property", "Masks are left at the end: the last step must leave none.")
    count = np.bincount(exact.state_index(texts[:, free], mask_id), minlength=mask_id ** int(free.sum()))
    law = count / len(x)
    return law, np.sqrt((law * (1 - law) + 8 / len(x)) / len(x))  # 8: rare texts vary more than they show


# --- what goes wrong --------------------------------------------------------------------------------------------------


def draw(p: Floats, rng: np.random.Generator) -> Ints:
    """A token from each law."""
    return np.asarray(np.minimum((p.cumsum(axis=-1) < rng.random(p.shape[:-1])[..., None]).sum(-1), p.shape[-1] - 1))


def ranks(p: Floats, drawn: Ints, order: str, rng: np.random.Generator) -> Floats:
    """The surest highest."""
    if order == "random":
        return rng.random(drawn.shape)
    if order == "left_to_right":
        return np.broadcast_to(-np.arange(float(drawn.shape[1])), drawn.shape)
    if order == "low_confidence":
        return np.asarray(np.take_along_axis(p, drawn[..., None], axis=-1)[..., 0])
    return np.asarray((p * np.log(np.maximum(p, 1e-300))).sum(axis=-1))


def keep(x: Ints, hidden: Bools, rank: Floats, drawn: Ints, quota: int) -> Ints:
    """x with the best of the hidden positions filled."""
    x = x.copy()
    best = np.argsort(-np.where(hidden, rank, -np.inf), axis=1, kind="stable")[:, :quota]
    np.put_along_axis(x, best, np.take_along_axis(drawn, best, axis=1), axis=1)
    return x


def _variant(model: Any, x: Ints, mask_id: int, steps: int, order: str, rng: np.random.Generator, wrong: str) -> Ints:
    """The decoder with one mistake in it."""
    quota = int((x[0] == mask_id).sum()) // steps
    first = model(x)
    for step in range(steps - (wrong == "short")):
        p = first if wrong == "one look" else model(x)
        drawn = p.argmax(axis=-1) if wrong == "greedy" else draw(p, rng)
        by = {"chance": "random", "blind": "left_to_right"}.get(wrong, order)
        rank = ranks(p, drawn, by, rng)
        if wrong == "likeliest" and order == "low_confidence":
            rank = p.max(axis=-1)
        if wrong == "turned" and order in ("low_confidence", "entropy"):
            rank = -rank
        if wrong == "leaves right" and order == "left_to_right":
            rank = -rank
        hidden = x == mask_id
        if wrong == "overwrites":
            hidden = np.ones_like(hidden)
        if wrong == "whole batch":  # the best of all rows together
            flat = np.argsort(-np.where(hidden, rank, -np.inf), axis=None, kind="stable")[: quota * len(x)]
            x = x.copy()
            x.flat[flat] = drawn.flat[flat]
            continue
        if wrong == "all at once" and step == 0:
            return np.where(hidden, drawn, x)
        if wrong == "one by one":
            for _ in range(quota):
                p = model(x)
                drawn = draw(p, rng)
                x = keep(x, x == mask_id, ranks(p, drawn, order, rng), drawn, 1)
            continue
        x = keep(x, hidden, rank, drawn, quota)
    return x


def _mistaken(wrong: str, says: str) -> Suspect:
    return Suspect(partial(_variant, wrong=wrong), says)


PROBLEM = Series(
    "decoder",
    "The decoder: from masks to text",
    "lessons/05_sampling_and_the_steps_dial.ipynb",
    (
        Question(
            "The decoder",
            "Write the decoder of masked diffusion, with four orders and with what is given left alone. The law of its "
            "texts is compared with the exact one, found by enumerating every draw of every step.",
            Function(
                decode,
                cases,
                (
                    _mistaken(
                        "greedy",
                        "The most likely token is taken everywhere. Draw from the law: else every text is the same "
                        "one.",
                    ),
                    _mistaken(
                        "chance",
                        "The order makes no difference: positions are always chosen by chance. Use what was asked for.",
                    ),
                    _mistaken("blind", "The order makes no difference: positions are always filled left to right."),
                    _mistaken(
                        "turned",
                        "The least sure positions are kept first. Turn the sorting round: high probability and low "
                        "entropy come first.",
                    ),
                    _mistaken("leaves right", '"left_to_right" fills from the right.'),
                    _mistaken(
                        "likeliest",
                        '"low_confidence" ranks by the probability of the most likely token. It should be that of the '
                        "token just drawn; yours is a good order too, and has an exact law, which this one has not.",
                    ),
                    _mistaken(
                        "overwrites",
                        "Positions that hold a token already are chosen, and filled once more. Only masks are: what is "
                        "given or committed stays.",
                    ),
                    _mistaken(
                        "short", "Masks are left at the end: one step is missing. range(steps - 1) stops too early."
                    ),
                    _mistaken(
                        "one look",
                        "The model is asked only once, before the first step. Ask it again in every step: what was "
                        "committed changes what it says about the rest.",
                    ),
                    _mistaken(
                        "all at once",
                        "Everything is filled in the first step, whatever `steps` says. Keep a share, forget the "
                        "others.",
                    ),
                    _mistaken(
                        "one by one",
                        "Every position gets a look of its own. A step takes one look and keeps several from it: that "
                        "is what few steps save, and what they cost.",
                    ),
                    _mistaken(
                        "whole batch",
                        "The best of the whole batch are kept. Each text is to keep its own best: sort along axis 1.",
                    ),
                ),
                oracle=truth,
                observe=observe,
                better="Leave the even steps: commit all positions whose entropies stay within a budget, "
                "sum H - max H <= gamma, which bounds the KL per step by gamma (see K4 in the tests). And allow "
                "another "
                "number of masks in each row.",
            ),
            (
                "The loop has four lines: p = model(x); a token drawn at every position; a rank for every position; "
                "the "
                "`quota` highest ranks among the masks get their token.",
                "To draw from each law at once: (p.cumsum(-1) < u[..., None]).sum(-1) with one uniform number u per "
                "position. To keep visible positions out: give them rank -inf. To work row by row: argsort along axis "
                "1.",
                "Check it without any oracle: model = lambda x: np.full((*x.shape, 2), 0.5) must give all texts "
                "equally "
                "often, in every order and any number of steps; and x where nothing is masked must come back as it "
                "was.",
            ),
            "A rule that looks only at the state (random, left to right, entropy) has an exact law, the product of "
            "what it "
            "commits. low_confidence looks at the draws, and so prefers texts whose tokens are likely: with one "
            "position "
            "per step and a perfect model the first three give the data's law, and this one does not.",
            "lessons/05_sampling_and_the_steps_dial.ipynb, sections 2 and 3",
        ),
    ),
)
