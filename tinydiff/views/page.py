"""A trained model as one page that runs it: weights, network and decoders in a file for any browser, without a server.

The front end is in `front/`: `network.js` is the forward pass, `decoders.js` the way from masks to text, `app.js` what
is seen of both. `tinydiff serve` shows the same page with the model left in Python.

The page knows tokens as strings, and how a text is cut into them: see `vocabulary`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import __version__, box, learning
from ..arrays import Floats
from ..data import LAWS, Codec
from ..learning.files import refuse_existing, write_atomically
from ..processes import Autoregressive, MaskedDiffusion, Process
from ..transformer import Transformer
from .trajectory import AGAIN, AGAIN_INK, COLOURS

Precision = Literal["half", "single"]
FRONT = Path(__file__).parent / "front"
KNOWN = {
    "positions": ("rotary", "learned", "both"), "features": (None,), "time": (False,), "classes": (0,),
    "dtype": ("float32", "float64"), **dict.fromkeys(("vocab_size", "length", "d_model", "layers", "heads")),
}  # fmt: skip
"""What `network.js` can do: the options of a Transformer, and their values where it does not know all."""
ORDERS = ("low_confidence", "most_likely", "entropy", "margin", "random", "left_to_right")
NOISY = ("low_confidence", "most_likely", "entropy", "margin")  # of them, those with a choice temperature
TEMPERATURE = 0.7


class Shown(NamedTuple):
    """A run as the page needs it, see `read`."""

    folder: Path
    model: Transformer
    process: Process
    codec: Codec
    config: dict[str, Any]


def read(folder: Path, kind: type[Process], name: str) -> Shown:
    """Load a run; ValueError if it is not of that kind of process."""
    model, process, codec, config = learning.load(folder)
    if codec is None or type(process) is not kind:
        raise ValueError(f"{folder} is a run of {config['process']['process']}; expected one of {name}")
    return Shown(folder, model, process, codec, config)


def read_both(run: Path, rival: Path | None) -> tuple[Shown, Shown | None]:
    """A masked run and its autoregressive rival, which must read the same tokens."""
    masked = read(run, MaskedDiffusion, "masked")
    if rival is None:
        return masked, None
    other = read(rival, Autoregressive, "autoregressive")
    if other.codec != masked.codec:
        raise ValueError(f"{run} and {rival} have different tokens; train both on the same data")
    if other.model.length < masked.model.length:
        raise ValueError(
            f"{rival} writes at most {other.model.length} positions, and {run} has {masked.model.length}; "
            "train both with the same --length"
        )
    return masked, other


def check_known(shown: Shown) -> None:
    """ValueError, naming it, for anything about a network that `network.js` does not know."""
    for key, value in shown.model.config.items():
        values = KNOWN.get(key, ())
        if values is not None and value not in values:
            raise ValueError(
                f"model.{key} of {shown.folder} is {value!r}, which the page's network does not know; train without "
                f"it, or show the model with: tinydiff serve {shown.folder}"
            )
    used = {"embed", "position"}
    for name in ("norm", "head", *(f"block{i}.{part}" for i in range(shown.model.layers) for part in
                                   ("norm1", "qkv", "out", "norm2", "up", "down"))):  # fmt: skip
        used |= {f"{name}.weight", f"{name}.bias"}
    for name in sorted(set(shown.model.params) - used):
        raise ValueError(
            f"{shown.folder} has an array {name}, which the page's network does not know; show the model with: "
            f"tinydiff serve {shown.folder}"
        )


def rounded(model: Transformer, precision: Precision) -> dict[str, Floats]:
    """The weights as the page has them, little-endian; ValueError for one that half precision cannot hold."""
    dtype = {"half": "<f2", "single": "<f4"}[precision]
    with np.errstate(over="ignore"):
        arrays: dict[str, Floats] = {name: p.data.astype(dtype) for name, p in model.params.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} has a weight of {np.abs(model.params[name].data).max():.3g}, too large for half precision; "
                "use precision='single'"
            )
    return arrays


def vocabulary(codec: Codec) -> dict[str, Any]:
    """The tokens as strings, and how the codec cuts a text into them: see `Vocabulary` in `front/app.js`."""
    return {
        "tokens": list(codec.tokens),
        "unit": "letter" if codec.unit == "character" else codec.unit,
        "eos": codec.eos_id,
        "merges": codec.config.get("merges"),
    }


def describe(masked: Shown, rival: Shown | None) -> dict[str, Any]:
    """What page and server tell the front end of the models, all but their weights."""
    words = vocabulary(masked.codec)
    model = masked.model
    pad = masked.codec.eos_id  # texts with a law are padded, with spaces where nothing else ends them
    if pad is None and " " in words["tokens"]:
        pad = words["tokens"].index(" ")
    size = sum(p.data.size for p in model.params.values())
    return words | {
        "length": model.length,
        "pad": pad if masked.config["data"]["name"] in LAWS else None,
        "race": rival is not None,
        "orders": ORDERS,
        "noisy": NOISY,
        "attention": [model.layers, model.heads],
        "defaults": {
            "order": ORDERS[0], "temperature": TEMPERATURE, "noise": box.choice_temperature(masked.config), "rounds": 0,
            "seed": 0,
        },
        "facts": f"{masked.folder.name}: {size:,} parameters, {model.layers} layers, {model.heads} heads; "
        f"{len(words['tokens'])} tokens, texts of up to {model.length}. Made by tinydiff {__version__}.",
    }  # fmt: skip


def page(masked: Shown, rival: Shown | None = None, precision: Precision = "half") -> str:
    """The page of a masked run, and of an autoregressive one beside it to race against.

    Parameters
    ----------
    precision : of the weights in the file, "half" or "single"

    """
    models, weights = {}, []
    for name, shown in (("masked", masked), ("rival", rival)):
        if shown is None:
            continue
        check_known(shown)
        arrays = rounded(shown.model, precision)
        models[name] = {
            "config": shown.model.config,
            "precision": precision,
            "shapes": [[array, values.shape] for array, values in arrays.items()],
        }
        content = base64.b64encode(b"".join(values.tobytes() for values in arrays.values())).decode()
        weights.append(f'<script id="weights-{name}" type="text/plain">{content}</script>')
    return front(masked.folder.name, {**describe(masked, rival), "models": models}, weights)


def front(title: str, data: Mapping[str, Any], weights: list[str] | None = None) -> str:
    """The front end around what it is told; without weights it asks the server that it came from."""
    colours = {f"k{i}": colour for i, colour in enumerate(COLOURS)} | {"again": AGAIN, "again-ink": AGAIN_INK}
    style = ":root { " + "; ".join(f"--{name}: {value}" for name, value in colours.items()) + " }\n"
    parts = {
        "TITLE": escape(title),
        "UNIT": escape(str(data["unit"])),
        "CONNECT": "'self'" if weights is None else "'none'",
        "STYLE": style + _part("front.css"),
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # no "<" ends the script
        "WEIGHTS": "\n".join(weights or []),
        "SCRIPT": "\n".join(map(_part, ("network.js", "decoders.js", "app.js"))),
    }
    first, *rest = _part("front.html").split("{{")
    return first + "".join(parts[name] + more for name, more in (piece.split("}}", 1) for piece in rest))


def _part(name: str) -> str:
    return (FRONT / name).read_text("utf-8")


def save_page(path: Path, masked: Shown, rival: Shown | None = None, precision: Precision = "half") -> int:
    """Write the page of one or two models; its size in bytes."""
    refuse_existing(path)
    content = page(masked, rival, precision).encode()
    write_atomically(path, content)
    return len(content)
