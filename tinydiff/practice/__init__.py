"""Practice: eight sets of ten questions and four coding problems, with a checker that knows why an answer is wrong.

    from tinydiff.practice import check, hint

    check("3.5", 0.054)                 # a number, or "sqrt(0.75 * 0.25 / 64)"
    check("2.4", "b")                   # a choice
    check("recipe", masked_loss)        # a function
    hint("3.5")                         # the next hint

- question.py: what a question is; judge.py: what is right, and which mistake it is; reading.py: numbers as typed
- sets/, problems/: the questions themselves, to be read like a text; models.py: networks small enough to enumerate
- catalogue.py: their names, and the sheets that they are answered on
- guard.py, worker.py, sandbox.py: answers run where they can do no harm, and can be stopped
- progress.py: what was answered; classroom.py: the results of many sheets on one page
- plugin.py: `pytest --practice FILE`; the command `tinydiff practice` is in `cli/practice.py`
"""

from __future__ import annotations

from typing import Any

from .catalogue import QUESTIONS, SERIES, explanation, find
from .guard import TooLong, limited, watched
from .judge import judge
from .question import Question, Series, Verdict
from .sandbox import SECONDS, check_file

__all__ = ["QUESTIONS", "SERIES", "Question", "Series", "Verdict", "check", "check_file", "hint"]

_given: dict[str, int] = {}


def check(name: str, answer: Any, seconds: float = SECONDS) -> Verdict:
    """The verdict on an answer, which shows itself in a notebook; with the explanation once it is right.

    Parameters
    ----------
    name : of the question, such as "3.4" or "recipe"
    answer : a number or text that means one, the letter of a choice, or a function
    seconds : after which a function is stopped

    """
    question = find(name)
    try:
        with watched() as printed, limited(seconds):
            verdict = judge(question, answer)
    except TooLong:
        return Verdict("late", f"It has not ended after {seconds:g} seconds, and was stopped.", printed.text.strip())
    return Verdict(verdict.kind, verdict.says, printed.text.strip(), explanation(str(name)) if verdict.right else "")


def hint(name: str) -> None:
    """Print the next hint; all that were given, when there is no further one."""
    question = find(name)
    shown = _given[str(name)] = min(_given.get(str(name), 0) + 1, len(question.hints))
    for i, words in enumerate(question.hints[:shown], start=1):
        print(f"Hint {i} of {len(question.hints)}: {words}")
