"""All questions by their names, and the sheets that they are answered on.

A sheet is a Python file: numbers and choices go into its dictionary `answers`, functions stand there as stubs. Nothing
else is in it, so that it can be handed in as it is.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
from typing import Any

from .problems import PROBLEMS
from .question import Choice, Function, Question, Series
from .sets import SETS

SERIES: dict[str, Series] = {series.key: series for series in (*SETS, *PROBLEMS)}
QUESTIONS: dict[str, Question] = {
    name: question for series in SERIES.values() for name, question in zip(series.ids(), series.questions, strict=True)
}
FUNCTIONS: dict[str, str] = {q.asks.name: name for name, q in QUESTIONS.items() if isinstance(q.asks, Function)}
"""The question that a function of that name answers."""
LETTERS = "abcdefgh"


def find(name: Any) -> Question:
    """The question of that name, "3.4" or "recipe"; ValueError if there is none."""
    if isinstance(name, float):
        raise ValueError(f"the question is {name}, a number; write it in quotes, as 1.1 and 1.10 are two questions")
    key = str(name).strip().lower()
    if key in QUESTIONS:
        return QUESTIONS[key]
    if key in SERIES:
        raise ValueError(f"{key} is a set; name one of its questions, {key}.1 to {key}.{len(SERIES[key].questions)}")
    raise ValueError(f"there is no question {str(name)!r}; expected {_near(key, [*QUESTIONS])}")


def series_of(name: str) -> Series:
    """The set or problem of that name or of the question of that name; ValueError if there is none."""
    key = str(name).strip().lower().removeprefix("set ").split(".")[0]
    if key in SERIES:
        return SERIES[key]
    raise ValueError(f"there is no set or problem {str(name)!r}; expected {_near(key, [*SERIES])}")


def _near(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 3, 0.5)
    return " or ".join(near) if near else "1.1 to 8.10, or one of " + ", ".join(p.key for p in PROBLEMS)


def words(name: str) -> str:
    """A question as it is asked: title, text, and what there is to choose from."""
    question = find(name)
    lines = [f"{name}  {question.title}  ({question.kind})", "", textwrap.fill(question.prompt, 96)]
    if isinstance(question.asks, Choice):
        lines.append("")
        for letter, option in zip(LETTERS, question.asks.options, strict=False):
            lines.append(textwrap.fill(option.text, 96, initial_indent=f"  {letter})  ", subsequent_indent="      "))
    return "\n".join(lines)


def explanation(name: str) -> str:
    """What is shown when a question is over: why, what would be better still, and where it is explained."""
    question = find(name)
    parts = [question.why]
    if isinstance(question.asks, Function) and question.asks.better:
        parts.append(f"Better still: {question.asks.better}")
    return "\n".join(parts + ([f"See {question.see}."] if question.see else []))


def solution(name: str) -> str:
    """The answer, computed now: a number, a letter, or the source of a function."""
    asks = find(name).asks
    if isinstance(asks, Function):
        return inspect.getsource(asks.solution).rstrip()
    if isinstance(asks, Choice):
        return f"{LETTERS[asks.right]})  {asks.options[asks.right].text}"
    return f"{asks.answer():.6g}{' nats' if asks.unit == 'nats' else ''}"


def stub(asks: Function) -> str:
    """The function with its docstring, not written yet."""
    names = ", ".join(inspect.signature(asks.solution).parameters)
    doc = textwrap.indent(inspect.getdoc(asks.solution) or "", "    ").strip()
    end = "\n    " if "\n" in doc else ""
    return f'def {asks.name}({names}):\n    """{doc}{end}"""\n    raise NotImplementedError("not written yet")\n'


def sheet(key: str) -> str:
    """The file on which a set or a problem is answered."""
    series = series_of(key)
    heading = f"Set {key}: {series.title}" if len(series.questions) > 1 else series.title
    parts = [
        f'"""{heading}. Check it with: tinydiff practice check FILE"""\n\nimport math\n\nimport numpy as np\n\n'
        f'from tinydiff import ops\n\npractice = "{key}"\nanswers = {{}}\n'
    ]
    for name, question in zip(series.ids(), series.questions, strict=True):
        asked = "\n".join(f"# {line}".rstrip() for line in words(name).splitlines())
        if isinstance(question.asks, Function):
            parts.append(f"\n{asked}\n\n{stub(question.asks)}")
        else:
            parts.append(f'{asked}\n\nanswers["{name}"] = None\n')
    return "\n".join(parts)
