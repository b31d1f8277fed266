r"""A character model of nanoGPT (Karpathy 2022) as an autoregressive run, to evaluate, to race, and to start from.

Its block is ours: pre-norm attention and a feed-forward layer of four times the width. What differs:

- matrices are (outputs, inputs) there and (inputs, outputs) here;
- the head is the embedding, transposed, and has no bias;
- it has no START. It is told "\n" to begin with (nanoGPT's sample.py), so START gets the vector of "\n": what ours says
  of x after START is what nanoGPT says of x after "\n";
- its GELU is the exact one and ours the tanh form of it, which is at most 5e-4 away.

Checkpoints of nanoGPT are pickles, which run whatever stands in them, so that only safetensors are read. In nanoGPT:

    weights = torch.load("ckpt.pt", map_location="cpu")["model"]
    weights = {name.removeprefix("_orig_mod."): w.clone() for name, w in weights.items()}
    safetensors.torch.save_file(weights, "model.safetensors")

Not here: other tokens than characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..arrays import Floats
from ..data import Characters, Corpus, load
from ..learning import CheckpointError, Options
from ..learning.files import refuse_existing
from ..learning.run import write_weights
from ..processes import Autoregressive
from ..transformer import Transformer

PARTS = {"ln_1": "norm1", "attn.c_attn": "qkv", "attn.c_proj": "out", "ln_2": "norm2", "mlp.c_fc": "up",
         "mlp.c_proj": "down"}  # fmt: skip
IGNORED = (".attn.bias", ".attn.masked_bias")  # buffers, not weights


def read(file: Path, text: str, heads: int, out: Path) -> None:
    """Write a nanoGPT model as an autoregressive run.

    Parameters
    ----------
    file : safetensors with the names of nanoGPT's state
    text : path of the text that it was trained on, whose characters in code-point order are its tokens
    heads : attention heads, which the weights do not tell

    Raises
    ------
    ValueError : another architecture or alphabet than expected; `out` is there
    CheckpointError : the file cannot be read

    """
    refuse_existing(out)
    try:
        arrays = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); expected safetensors, which a checkpoint of nanoGPT is to be saved as"
        ) from None
    corpus = load(text)
    if not isinstance(corpus, Corpus) or not isinstance(corpus.codec, Characters):
        raise ValueError(f"text is {text}, which is no text of characters")
    model = network(arrays, corpus.codec, heads)
    corpus.check_length(model.length)
    config = {
        "process": Autoregressive(corpus.vocab_size).config, "model": model.config, "data": corpus.config,
        "training": asdict(Options()),
    }  # fmt: skip
    write_weights(out, {name: p.data for name, p in model.params.items()}, config, 0)


def network(arrays: Mapping[str, Floats], codec: Characters, heads: int) -> Transformer:
    """The network with the weights of a nanoGPT model over these characters.

    ValueError naming an array that is missing, unknown, or of another shape.
    """
    left = {name: a for name, a in arrays.items() if not name.endswith(IGNORED)}

    def take(name: str) -> Floats:
        if name not in left:
            raise ValueError(f"{name} is missing; expected the arrays of nanoGPT's model.py")
        return left.pop(name)

    embed, position = take("transformer.wte.weight"), take("transformer.wpe.weight")
    if len(embed) != codec.vocab_size:
        raise ValueError(
            f"the model has {len(embed)} tokens, but the text {codec.vocab_size} characters; name the text that it "
            "was trained on"
        )
    layers = len({name.split(".")[2] for name in left if name.startswith("transformer.h.")})
    model = Transformer(
        codec.vocab_size, len(position), d_model=embed.shape[1], layers=layers, heads=heads, positions="learned",
        rng=np.random.default_rng(0), dtype=embed.dtype if embed.dtype == np.float64 else np.float32,
    )  # fmt: skip
    start = codec.alphabet.find("\n")
    first = embed[start] if start >= 0 else embed.mean(axis=0)
    found: dict[str, Floats] = {"embed": np.concatenate([embed, first[None]]), "position": position}
    head = left.pop("lm_head.weight", embed)  # tied: files that hold no array twice lack it
    found |= {"head.weight": head.T, "head.bias": np.zeros(codec.vocab_size)}
    theirs = {f"transformer.h.{i}.{part}": f"block{i}.{ours}" for i in range(layers) for part, ours in PARTS.items()}
    for name, ours in (theirs | {"transformer.ln_f": "norm"}).items():
        weight = take(f"{name}.weight")
        found[f"{ours}.weight"] = weight.T if weight.ndim == 2 else weight
        shape = model.params[f"{ours}.bias"].shape
        found[f"{ours}.bias"] = left.pop(f"{name}.bias", np.zeros(shape))  # bias=False
    for name in sorted(left):
        raise ValueError(f"{name} is there, which nanoGPT's model.py does not have")
    for name, parameter in model.params.items():
        if found[name].shape != parameter.shape:
            raise ValueError(f"{name} has shape {found[name].shape} from nanoGPT; expected {parameter.shape}")
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{name} contains NaN or inf")
        parameter.data = np.ascontiguousarray(found[name], model.dtype)
    return model
