"""Numbers as people type them: `0.673`, `2/3`, `ln 2`, `25 %`, `1.2 bits`, `3^4`.

Only arithmetic is understood, by walking the syntax tree: nothing that is typed is ever run.
"""

from __future__ import annotations

import ast
import math
import numbers
import operator
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..tensor import Tensor

FUNCTIONS: dict[str, Callable[..., float]] = {
    "log": math.log, "ln": math.log, "log2": math.log2, "log10": math.log10, "exp": math.exp, "sqrt": math.sqrt,
    "factorial": lambda n: float(math.factorial(_small(n))),
    "comb": lambda n, k: float(math.comb(_small(n), _small(k))),
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "abs": abs, "erf": math.erf, "sum": lambda *a: math.fsum(a),
}  # fmt: skip
CONSTANTS = {"pi": math.pi, "π": math.pi, "e": math.e, "inf": math.inf, "infinity": math.inf, "∞": math.inf}
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda a, b: float(a) ** b,
}  # fmt: skip
UNITS = {"nats": 1.0, "nat": 1.0, "bits": math.log(2), "bit": math.log(2)}


def number(answer: Any, unit: Literal["", "nats", "share"] = "") -> float:
    """The number that is meant; ValueError, in a sentence, if none is.

    Parameters
    ----------
    unit : of the result: bits become nats, percents become shares

    """
    if isinstance(answer, str):
        return _typed(answer, unit)
    if isinstance(answer, Tensor):
        answer = answer.data
    if isinstance(answer, np.ndarray):
        if answer.ndim:
            raise ValueError(f"one number is asked for, and this is an array of shape {answer.shape}")
        answer = answer.item()
    if isinstance(answer, bool) or answer is None or callable(answer):
        raise ValueError(f"a number is asked for, and this is {_a(answer)}")
    if isinstance(answer, numbers.Complex) and not isinstance(answer, numbers.Real):
        raise ValueError(f"a real number is asked for, and this is {answer}")
    try:
        return float(answer)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"a number is asked for, and this is {_a(answer)}") from None


def _typed(text: str, unit: str) -> float:
    words = (
        text.strip()
        .lower()
        .replace("−", "-")
        .replace("×", "*")
        .replace("·", "*")
        .replace("√", "sqrt ")
        .replace("÷", "/")
        .replace("²", "^2")
    )
    words = words.removeprefix("=").removeprefix("≈").removeprefix("~").strip()
    factor = 1.0
    for name, size in UNITS.items():
        if re.search(rf"(?<![a-z]){name}\.?$", words):
            words, factor = re.sub(rf"\s*{name}\.?$", "", words), size
            if unit != "nats":
                raise ValueError(f"this is in {name}, and the question is not about information; leave the unit out")
            break
    if words.endswith("%"):
        words, factor = words[:-1], 0.01
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", words):  # 1,000
        words = words.replace(",", "")
    if re.fullmatch(r"[-+]?\d+,\d+", words):  # a decimal comma
        words = words.replace(",", ".")
    words = re.sub(r"(\d+(?:\.\d+)?)\s*!", r"factorial(\1)", words).replace("^", "**")
    words = re.sub(r"\b(ln|log2|log10|log|sqrt|exp)\s+(\d+(?:\.\d+)?|e|pi|π)", r"\1(\2)", words)
    words = re.sub(r"(?<=[\d)])\s*(?=(?:ln|log|log2|sqrt|exp|pi|π)\b)", "*", words)
    try:
        value = _value(ast.parse(words.strip(), mode="eval").body) * factor
    except ZeroDivisionError:
        raise ValueError(f"{text.strip()!r} divides by zero") from None
    except (SyntaxError, KeyError, TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        raise ValueError(
            f"a number is asked for, and {text.strip()[:60]!r} is none; write it as 0.25, 1/4, 2*ln(2) or 25 %"
        ) from None
    if isinstance(value, complex):
        raise ValueError(f"a real number is asked for, and {text.strip()!r} is {value}")
    return float(value)


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Attribute):  # math.pi, np.pi
        return CONSTANTS[node.attr]
    if isinstance(node, ast.Call) and not node.keywords:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return FUNCTIONS[name](*map(_value, node.args))
    raise ValueError(node)


def _small(n: float) -> int:
    if n != int(n) or not 0 <= n <= 170:
        raise ValueError(n)
    return int(n)


def _a(answer: Any) -> str:
    if answer is None:
        return "None: nothing is there yet"
    if callable(answer):
        return "a function: call it and hand in the result"
    return f"of type {type(answer).__name__}"
