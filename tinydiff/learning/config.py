"""What `config.json` may say: every value is checked by type and size before anything is built from it.

Types come from the signatures of what is built, so that there is one list of options. Sizes are compared with the
arrays of the state, where there is one: a network of a billion layers is refused, not built.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..processes import PROCESSES
from ..transformer import Transformer
from .options import MOST, Options

SECTIONS = ("process", "model", "data", "training")
LIMITS = {
    "vocab_size": 1 << 21, "length": 1 << 20, "d_model": 1 << 16, "layers": 1 << 12, "heads": 1 << 16,
    "features": 1 << 20, "classes": 1 << 21, "T": 1 << 24, "experts": 1 << 16,
}  # fmt: skip
"""Beyond all that fits into a laptop."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming key and value, if this is not what a run can be built from."""
    for section in SECTIONS:
        if section not in config:
            raise ValueError(f"{section} is missing")
        if not isinstance(config[section], dict):
            raise ValueError(f"{section} is {_shown(config[section])}; expected an object")
    for name in config:
        if name not in SECTIONS:
            raise ValueError(f"{name} is {_shown(config[name])}; there is no such key")
    process = dict(config["process"])
    name = process.pop("process", None)
    if not isinstance(name, str) or name not in PROCESSES:
        raise ValueError(f"process.process is {_shown(name)}; expected one of {', '.join(PROCESSES)}")
    _check("process", process, PROCESSES[name])
    _check("model", config["model"], Transformer)
    _check("training", config["training"], Options)
    Options(**config["training"])
    for key in ("name", "sha256"):
        if not isinstance(config["data"].get(key), str):
            raise ValueError(f"data.{key} is {_shown(config['data'].get(key))}; expected text")


def _check(section: str, values: Mapping[str, Any], builder: Callable[..., Any]) -> None:
    """Every value has the type of the argument that it is for; none is unknown, none that is needed is missing."""
    arguments = inspect.signature(builder).parameters
    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    for key, value in values.items():
        if key not in arguments or key == "rng":
            raise ValueError(f"{section}.{key} is {_shown(value)}; there is no such key")
        kind = Literal["float32", "float64"] if key == "dtype" else hints[key]
        if not _fits(value, kind):
            raise ValueError(f"{section}.{key} is {_shown(value)}; expected {_named(kind)}")
        limit = LIMITS.get(key, MOST)
        if isinstance(value, int) and abs(value) > limit:
            raise ValueError(f"{section}.{key} is {_shown(value)}; it must be at most {limit}")
    for key, argument in arguments.items():
        if argument.default is argument.empty and key not in values and key != "rng":
            raise ValueError(f"{section}.{key} is missing")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is one of that type; a whole number may stand for a float, true and false for neither."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return _number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    return isinstance(value, list) and all(_number(each) or _fits(each, kind) for each in value)  # an array


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MOST if isinstance(value, int) else math.isfinite(value)


def _named(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(each) for each in get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(kind, "a list of numbers")


def _shown(value: Any) -> str:
    """The value as JSON has it, cut short: it may be a megabyte of digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MOST:
        return f"a number of {value.bit_length()} bits"
    text = {True: "true", False: "false", None: "null"}.get(value, "") if isinstance(value, bool | None) else ""
    text = text or repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def check_sizes(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError, naming key and value, unless a network of this size has arrays of these shapes.

    Parameters
    ----------
    config : the section "model"
    shapes : of the arrays of the state, by name

    """
    sizes = {name.removeprefix("ema/"): shape for name, shape in shapes.items() if name.startswith("ema/")}
    blocks = {name.split(".")[0] for name in sizes if name.startswith("block")}
    there = {"layers": len(blocks)}
    outputs = "features" if config.get("features") else "vocab_size"
    for key, name, more in (
        ("d_model", "norm.weight", 0), (outputs, "head.bias", 0), ("length", "position", 0), ("classes", "class", 1),
        ("experts", "block0.router.bias", 0),
    ):  # fmt: skip
        if sizes.get(name):
            there[key] = sizes[name][0] - more
    for key, size in there.items():
        if config.get(key, size) != size:
            raise ValueError(f"model.{key} is {_shown(config[key])}, but the arrays of the state are of {size}")


def check_same(section: str, config: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Raise ValueError, naming key and values, if a section of `config.json` is not the one the state was written with.

    Steps and rate of a run may change: `Run.extend` writes both.
    """
    for key in {**written, **config}:
        there, here = (_shown(values[key]) if key in values else "missing" for values in (written, config))
        if key not in written or key not in config or written[key] != config[key]:
            changed = "; a run is extended with: tinydiff train --resume --steps --lr" if section == "training" else ""
            raise ValueError(f"{section}.{key} is {here}, but was {there} when the state was written{changed}")
