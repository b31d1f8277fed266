"""Sequence-level distillation: the targets of a corpus are replaced by what a teacher makes of its sources.

    L = -sum_y q(y | x) log p(y | x)  ~  -log p(yhat | x),   yhat = argmax_y q(y | x)      (Kim and Rush 2016)

The teacher writes left to right, and `decoders.Beam` finds about its likeliest target. Then every source has one
target, H(Y | x) = TC(Y | x) = 0, and a student that writes all at once has nothing to lose any more. What it costs: the
other targets are gone, a share 1 - max p of the law. A teacher that *draws* its targets leaves the law as it is, and
helps nobody: what helps is that the mode is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import decoders
from ..data import Parallel
from ..processes import Autoregressive, Process
from ..transformer import Model

AT_ONCE = 256


def distilled(
    teacher: Process, model: Model, corpus: Parallel, decoder: Any = None, rng: np.random.Generator | None = None
) -> Parallel:
    """The corpus with a teacher's targets. It is in memory: a run that is to be resumed from disk needs data of a name.

    Parameters
    ----------
    teacher, model : an autoregressive process, and its network
    decoder : of the teacher, by default `decoders.Beam`, which draws nothing; with `decoders.NextToken` it draws
    rng : of the teacher's draws

    """
    if not isinstance(teacher, Autoregressive):
        raise ValueError(f"teacher is {type(teacher).__name__}; expected Autoregressive, whose targets hold together")
    if teacher.vocab_size != corpus.vocab_size:
        raise ValueError(
            f"teacher has {teacher.vocab_size} tokens and {corpus.name} {corpus.vocab_size}; expected the same words"
        )
    decoder = decoder or decoders.Beam()
    rng = rng or np.random.default_rng(0)
    texts = corpus.ids.reshape(-1, corpus.law.length)
    # A decoder that draws nothing says the same of the same source.
    draws = isinstance(decoder, decoders.NextToken) and decoder.draw.temperature > 0
    asked, back = (texts, np.arange(len(texts))) if draws else np.unique(
        np.where(corpus.law.given, texts, corpus.law.fill_id), axis=0, return_inverse=True
    )  # fmt: skip
    written = []
    for i in range(0, len(asked), AT_ONCE):
        x0 = asked[i : i + AT_ONCE]
        *_, last = teacher.sample(
            model, corpus.law.length, len(x0), decoder=decoder, x0=x0, given=corpus.law.given, rng=rng
        )
        written.append(last.state)
    ids = np.concatenate(written)[back.reshape(-1)]
    return replace(corpus, name=f"{corpus.name}, distilled", text=corpus.codec.decode(ids.ravel()))
