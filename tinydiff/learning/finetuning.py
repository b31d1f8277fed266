"""Fine-tuning: a run on text learns to answer (LLaDA, Nie et al. 2025, section 2.3).

Nothing changes in the process: the prompt is given, the answer and the EOS that fill the canvas are masked and scored,

    L = E_t E_{x_t} [ 1/t  sum over masked i of the answer of -log p_theta(x_0^i | prompt, x_t) ] / A,

A the tokens of the answer with all its EOS. What changes is the vocabulary: a run on text has no EOS, and questions may
have characters that the text had not. They get rows in the embedding, before that of MASK, and columns in the head,
drawn as at the start.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..data import RAINBOW, Characters, Codec
from ..data.codec import sign_for
from ..processes import Process, from_config
from ..transformer import Transformer


def codec_for(codec: Codec, texts: str, rainbow: int = 0) -> Codec:
    """The codec with EOS, the colours of a rainbow and the characters of `texts`, behind what it has.

    Only a codec of characters can grow; another is returned as it is, if it can end a text, or refused.
    """
    signs = RAINBOW[:rainbow]
    if not isinstance(codec, Characters):
        if codec.eos_id is None:
            raise ValueError(
                f"the run is on {codec.unit}s without an end of a text, and only characters can be added to: train it "
                "on characters, or on pairs"
            )
        return codec
    new = "".join(sorted({*texts, *signs} - {*codec.alphabet}))
    if codec.eos is not None:
        return replace(codec, alphabet=codec.alphabet + new)
    sign = sign_for(codec.alphabet + texts)
    return Characters(codec.alphabet + new + sign, sign)


def widened(model: Transformer, process: Process, vocab_size: int, rng: np.random.Generator) -> tuple[Transformer, Any]:
    """The network and its process for that many tokens, the new ones behind those it has; what it says of these stays.

    Parameters
    ----------
    vocab_size : at least as many as there are
    rng : of the new rows

    """
    old = model.vocab_size
    if old is None or vocab_size < old:
        raise ValueError(f"vocab_size is {vocab_size}, but the model has {old}; it can only grow")
    grown = Transformer(**model.config | {"vocab_size": vocab_size}, rng=rng)
    for name, p in model.params.items():
        mine = grown.params[name].data
        if name == "embed":
            mine[:old], mine[-1] = p.data[:old], p.data[old]  # the last: MASK, or START
        elif name in ("head.weight", "head.bias"):
            mine[..., :old] = p.data
        else:
            mine[...] = p.data
    return grown, from_config(process.config | {"vocab_size": vocab_size})
