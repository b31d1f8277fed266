"""The results of a class, from the sheets that were handed in: a page for the teacher, without any server.

Every sheet is checked anew. The page has a row for each learner and a column for each question, and says below which
mistakes are made most often: what to talk about next time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .catalogue import QUESTIONS, find
from .question import Verdict
from .sandbox import check_file

STYLE = """body { font: 16px/1.4 system-ui, sans-serif; margin: 2em; color: #111; background: #fff }
table { border-collapse: collapse; margin: 1em 0 } th, td { border: 1px solid #bbb; padding: .2em .5em }
th { text-align: left; font-weight: 600 } td.mark { text-align: center } td.number { text-align: right }
.right { background: #cfe8cf } .wrong { background: #f6d5c3 } .none { color: #777 } li { margin: .3em 0 }"""
MARKS = {"right": ("right", "✓"), "missing": ("none", "–"), "unwritten": ("none", "–")}


@dataclass(frozen=True)
class Result:
    """One sheet: whose it is, and its verdicts; `broken` says why it could not be read."""

    learner: str
    verdicts: dict[str, Verdict]
    broken: str = ""

    @property
    def right(self) -> int:
        return sum(verdict.right for verdict in self.verdicts.values())


def results(folder: Path, progress: Callable[[str], object] = lambda line: None) -> list[Result]:
    """Check all sheets below a folder, in the order of their names; a learner with several has one line for all.

    A sheet in a folder of its own is named after that folder, else after its file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name the one with the sheets that were handed in")
    sheets = sorted(path for path in folder.rglob("*.py") if not path.name.startswith("."))
    if not sheets:
        raise FileNotFoundError(f"{folder} holds no sheets; expected Python files, in it or in folders below")
    found: dict[str, Result] = {}
    for path in sheets:
        learner = path.stem if path.parent == folder else path.relative_to(folder).parts[0]
        progress(f"{learner}: {path.name}")
        checked = dict(check_file(path))
        broken = checked.pop("", None)
        before = found.get(learner, Result(learner, {}))
        words = f"{path.name}: {broken.says}" if broken else ""
        found[learner] = Result(learner, before.verdicts | checked, " ".join(filter(None, [before.broken, words])))
    return list(found.values())


def mistakes(every: list[Result]) -> list[tuple[str, str, int]]:
    """Question, sentence and number of learners, of the mistakes that were recognised: the most frequent first."""
    counted = Counter(
        (name, verdict.says)
        for result in every
        for name, verdict in result.verdicts.items()
        if verdict.kind == "suspect"
    )
    return [(name, says, count) for (name, says), count in counted.most_common()]


def page(every: list[Result]) -> str:
    """The page, as HTML with nothing to fetch."""
    names = [name for name in QUESTIONS if any(name in result.verdicts for result in every)]
    head = "".join(f'<th title="{escape(find(name).title)}">{name}</th>' for name in names)
    rows = []
    for result in every:
        cells = "".join(_cell(result.verdicts.get(name)) for name in names)
        broken = f'<td class="wrong">{escape(result.broken)}</td>' if result.broken else ""
        rows.append(f'<tr><th>{escape(result.learner)}</th>{cells}<td class="number">{result.right}</td>{broken}</tr>')
    share = "".join(
        f'<td class="number">{sum(name in r.verdicts and r.verdicts[name].right for r in every)}</td>' for name in names
    )
    often = "".join(
        f"<li><b>{escape(name)} {escape(find(name).title)}</b>, {count} of {len(every)}: {escape(says)}</li>"
        for name, says, count in mistakes(every)
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Practice</title>\n<style>{STYLE}</style>\n'
        f"<h1>Practice: {len(every)} learners, {len(names)} questions</h1>\n"
        f"<table><tr><th></th>{head}<th>right</th></tr>\n"
        + "\n".join(rows)
        + f"\n<tr><th>right</th>{share}</tr></table>\n"
        "<p>Hold the pointer over a mark to read what was said.</p>\n"
        f"<h2>Mistakes, the most frequent first</h2>\n<ul>{often or '<li>None was recognised.</li>'}</ul>\n</html>\n"
    )


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return '<td class="mark none"></td>'
    style, mark = MARKS.get(verdict.kind, ("wrong", "✗"))
    return f'<td class="mark {style}" title="{escape(verdict.says)}">{mark}</td>'
