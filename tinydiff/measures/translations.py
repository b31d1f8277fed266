"""How good are translations whose law is known?

    valid      share of targets that the source may have
    nll        nats per target under the law, of the valid ones; of real ones H(Y | x)
    tv         total variation between what is written for a source and its law, on average over the sources
    entropy    of what is written for a source, on average
    repeats    share of neighbouring words that are the same, where no real target has that: before any de-duplication
    bleu       with all targets of the source as references, and with one of them, drawn
    chrf       the same in characters

Valid ones alone can be had cheaply, by always writing the same: `tv` and `entropy` stand beside it. BLEU with one
reference, as it is used where nobody knows the law, takes a right answer for a wrong one if the reference is another.

BLEU and chrF are sacrebleu's (Post 2018; pip install 'tinydiff[translation]'), of words and pairs of words: targets of
two or three words have no four in a row.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..data.translation import Translations

ORDER = 2  # of BLEU


def columns(law: Translations, ids: Ints) -> dict[str, float]:
    """All but BLEU and chrF, of (n, L) texts; as many of each source as it takes to know what is written for it."""
    at, source = law.places(ids), sources_of(law, ids)
    there = np.unique(source)
    conditional, weight = law.conditional, law.of_source[there] / law.of_source[there].sum()
    tv, entropy = np.zeros(len(there)), np.zeros(len(there))
    for i, x in enumerate(there):
        _, each, counts = np.unique(ids[source == x], axis=0, return_inverse=True, return_counts=True)
        f = counts / counts.sum()
        entropy[i] = -(f * np.log(f)).sum()
        place = np.full(len(counts), -1)
        place[each.reshape(-1)] = at[source == x]
        p = np.where(place >= 0, conditional[place], 0)
        tv[i] = (np.abs(f - p).sum() + 1 - p.sum()) / 2  # and what is never written
    valid = at >= 0
    return {
        "valid": float(valid.mean()),
        "nll": float(-np.log(conditional[at[valid]]).mean()) if valid.any() else float("nan"),
        "tv": float(weight @ tv),
        "entropy": float(weight @ entropy) + 0.0,
        "repeats": float(repeats(law, ids)),
    }


def valid_texts(law: Translations, ids: Ints) -> Floats:
    """1 for every one of (n, L) texts that its source may have, 0 for the others: (n,)."""
    return np.asarray((law.places(ids) >= 0).astype(np.float64))


def sources_of(law: Translations, ids: Ints) -> Ints:
    """Which of `law.sources` each of (n, L) texts has: (n,)."""
    matches = (ids[:, None, : law.begin] == law.sources).all(axis=-1)
    if not matches.any(axis=1).all():
        raise ValueError(f"ids has {law.decode(ids[~matches.any(axis=1)][0])!r}, whose source the law does not have")
    return np.asarray(matches.argmax(axis=1))


def repeats(law: Translations, ids: Ints) -> float:
    """Share of neighbouring words of the targets that are the same, what fills up aside."""
    words = ids[:, law.begin + law.counted :]
    pairs: Bools = (words[:, 1:] != law.fill_id) & (words[:, :-1] != law.fill_id)
    return float((pairs & (words[:, 1:] == words[:, :-1])).sum() / max(pairs.sum(), 1))


def bleu_chrf(law: Translations, ids: Ints, rng: np.random.Generator) -> dict[str, float]:
    """`bleu` and `chrf` with all references, `bleu1` and `chrf1` with one that is drawn from the law: 0 to 100."""
    metrics = sacrebleu()
    source = sources_of(law, ids)
    written = [law.target(x) for x in ids]
    every = [[law.target(law.ids[i]) for i in np.flatnonzero(law.source == x)] for x in range(len(law.sources))]
    most = max(map(len, every))
    # sacrebleu takes streams: the first reference of each text, then the second of each, and so on.
    streams = [[every[x][min(j, len(every[x]) - 1)] for x in source] for j in range(most)]
    drawn = [rng.choice(np.flatnonzero(law.source == x), p=law.conditional[law.source == x]) for x in source]
    one = [[law.target(law.ids[i]) for i in drawn]]
    bleu, chrf = metrics.BLEU(tokenize="none", max_ngram_order=ORDER, smooth_method="none"), metrics.CHRF()
    return {
        "bleu": float(bleu.corpus_score(written, streams).score),
        "bleu1": float(bleu.corpus_score(written, one).score),
        "chrf": float(chrf.corpus_score(written, streams).score),
        "chrf1": float(chrf.corpus_score(written, one).score),
    }


def sacrebleu() -> Any:
    """Its metrics, or FileNotFoundError that says how to get them."""
    if find_spec("sacrebleu") is None:
        raise FileNotFoundError("sacrebleu is missing, which BLEU and chrF need: pip install 'tinydiff[translation]'")
    return import_module("sacrebleu.metrics")
