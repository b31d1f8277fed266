"""A process that reads a sheet, runs it, and says its verdicts, one line of JSON each; `sandbox` starts and watches it.

Usage: python -m tinydiff.practice.worker FILE [NAME ...], with the questions that need no answer any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import guard
from .catalogue import FUNCTIONS, QUESTIONS, SERIES
from .judge import judge
from .question import Function, Verdict

MEMORY = 4 << 30


class Unreadable(Exception):
    """A sheet that cannot be run at all."""


def read(path: Path) -> dict[str, Any]:
    """Run a sheet, and return its answers by question. `Unreadable`, with a sentence, if that cannot be done."""
    try:
        source = path.read_bytes()
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise Unreadable(f"The file is no Python: {getattr(error, 'msg', error)}{where}.") from error
    module = types.ModuleType("practice_sheet")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(code, module.__dict__)
    except (guard.Forbidden, EOFError) as error:
        raise Unreadable(
            f"{'It asks for input' if isinstance(error, EOFError) else error}, while it is read."
        ) from error
    except (Exception, SystemExit) as error:
        raise Unreadable(
            f"Reading the file raises {type(error).__name__}: {str(error)[:200]}{_line(error, path)}."
        ) from error
    return answers_in(vars(module))


def _line(error: BaseException, path: Path) -> str:
    trace, line = error.__traceback__, 0
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def answers_in(names: dict[str, Any]) -> dict[str, Any]:
    """The answers among the names of a sheet; None for a question that has none."""
    found: dict[str, Any] = {}
    given = names.get("answers")
    for name, answer in given.items() if isinstance(given, dict) else ():
        if str(name) in QUESTIONS:
            found[str(name)] = answer
    for name, question in FUNCTIONS.items():
        value = names.get(name)
        if callable(value) and getattr(value, "__module__", "practice_sheet") == "practice_sheet":
            found[question] = value
    series = SERIES.get(str(names.get("practice", "")))
    if series:  # all of its questions, and no other's: a helper may be called like another question's function
        found = {name: found.get(name) for name in series.ids()}
    return dict(sorted(found.items(), key=lambda entry: list(QUESTIONS).index(entry[0])))


def verdicts(path: Path, over: list[str]) -> Iterator[tuple[str, Verdict]]:
    """Every question on the sheet that is not over, in order; ("", verdict) for a sheet that cannot be read."""
    with guard.watched(everywhere=True) as printed:
        try:
            answers = read(path)
        except Unreadable as error:
            yield "", Verdict("raises", str(error))
            return
    loose = printed.text
    for name, answer in answers.items():
        if name in over:
            continue
        yield f"?{name}", Verdict("late", "")  # what is being checked, should it never end
        with guard.watched(everywhere=True) as printed:
            verdict = judge(QUESTIONS[name], answer)
        said = printed.text.strip() or (loose.strip() if isinstance(QUESTIONS[name].asks, Function) else "")
        yield name, Verdict(verdict.kind, verdict.says, said)


def main() -> None:
    """Say the verdicts on what was standard output; whatever the sheet writes goes nowhere."""
    path, over = Path(sys.argv[1]), sys.argv[2:]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(path.parent))
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.nice(10)
    os.chdir(guard.SCRATCH or path.parent)
    for name, verdict in verdicts(path, over):
        out.write(json.dumps([name, verdict.kind, verdict.says, verdict.printed]) + "\n")
        out.flush()
    os._exit(0)  # threads that the sheet has left behind are not waited for


if __name__ == "__main__":
    main()
