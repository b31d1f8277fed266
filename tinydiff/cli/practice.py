"""`tinydiff practice`: questions in a terminal, with hints, a checker and solutions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..learning.files import quoted, write_atomically
from ..practice import progress as kept
from ..practice.catalogue import QUESTIONS, SERIES, explanation, find, series_of, sheet, solution, stub, words
from ..practice.classroom import page, results
from ..practice.judge import judge
from ..practice.progress import Progress
from ..practice.question import Function, Verdict
from ..practice.sandbox import SECONDS, check_file
from .common import check_views, console, epilog, on_terminal, say, write_all

FOLDER = Path("practice")
POLL = 0.3  # seconds between looks at a file that is watched

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Option(help="Where sheets and progress are kept.")]
Name = Annotated[str, typer.Argument(metavar="QUESTION", help="Such as 3.4, or recipe.", show_default=False)]
SheetFile = Annotated[Path, typer.Argument(metavar="FILE", help="A sheet.", show_default=False)]
Limit = Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer is stopped.")]


@app.callback(
    invoke_without_command=True,
    epilog=epilog(
        "tinydiff practice next 3                     # ask, answer, go on", "tinydiff practice sheet recipe",
        "tinydiff practice check practice/recipe.py",
    ),
)  # fmt: skip
def practice(context: typer.Context) -> None:
    """Practise: eight sets of ten questions, four coding problems, and a checker that says which mistake it is."""
    if context.invoked_subcommand is None:
        overview()


@app.command("list", epilog=epilog("tinydiff practice list"))
def overview(folder: Folder = FOLDER) -> None:
    """List sets and problems, and how far you are."""
    state = _load(folder)
    for key, series in SERIES.items():
        names = series.ids()
        right = sum(state.of(name).right for name in names)
        shown = sum(state.of(name).shown and not state.of(name).right for name in names)
        say(f"{key:8} {series.title:46} {right:2} of {len(names)}" + (f", {shown} shown" if shown else ""))
    following = state.following()
    if following:
        say(f"\nGo on with: tinydiff practice next {series_of(following).key}")


@app.command("next", epilog=epilog("tinydiff practice next", "tinydiff practice next 3"))
def following(
    which: Annotated[
        str | None, typer.Argument(metavar="SET", help="1 to 8, or a problem.", show_default=False)
    ] = None,
    folder: Folder = FOLDER,
) -> None:
    """Ask the next question that is open, and on a terminal the ones after it too."""
    key = None if which is None else series_of(which).key
    state = _load(folder)
    if not (on_terminal(sys.stdout) and sys.stdin is not None and sys.stdin.isatty()):
        name = state.following(key)
        if name is None:
            say("All of it is done.")
            return
        _ask(name)
        _how_to_answer(name, folder)
        return
    skipped: set[str] = set()
    for name in SERIES[key].ids() if key else list(QUESTIONS):
        if not state.of(name).over and name not in skipped and not _sitting(name, state):
            break
    else:
        say("\nThat was the last one." if state.following(key) else "\nAll of it is done.")


@app.command(epilog=epilog("tinydiff practice hint 3.4"))
def hint(name: Name, folder: Folder = FOLDER) -> None:
    """Give the next hint, and repeat those given before."""
    question, state = find(name), _load(folder)
    taken = state.of(name)
    taken.hints = min(taken.hints + 1, len(question.hints))
    for i, text in enumerate(question.hints[: taken.hints], start=1):
        say(f"Hint {i} of {len(question.hints)}: {text}")
    state.save()


@app.command(epilog=epilog("tinydiff practice answer 3.5 'sqrt(0.75 * 0.25 / 64)'", "tinydiff practice answer 2.4 b"))
def answer(
    name: Name,
    value: Annotated[str, typer.Argument(metavar="ANSWER", help="A number or a letter.", show_default=False)],
    folder: Folder = FOLDER,
) -> None:
    """Check a number or a choice."""
    question, state = find(name), _load(folder)
    if isinstance(question.asks, Function):
        raise ValueError(
            f"{name} asks for a function; write it on a sheet: tinydiff practice sheet {series_of(name).key}"
        )
    verdict = judge(question, value)
    _record(state, name, verdict)
    say(f"{'✓' if verdict.right else '✗'} {verdict.says}")
    if verdict.right:
        say(explanation(name))
    raise typer.Exit(0 if verdict.right else 1)


@app.command("sheet", epilog=epilog("tinydiff practice sheet 3", "tinydiff practice sheet recipe"))
def write_sheet(
    which: Annotated[str, typer.Argument(metavar="SET", help="1 to 8, or a problem.", show_default=False)],
    folder: Folder = FOLDER,
) -> None:
    """Write the file on which a set or a problem is answered."""
    path = sheet_path(series_of(which).key, folder)
    check_views(path)
    write_atomically(path, sheet(series_of(which).key).encode())
    say(f"{path}: answer there, then: tinydiff practice check {quoted(path)}")


@app.command(epilog=epilog("tinydiff practice check practice/set3.py"))
def check(file: SheetFile, seconds: Limit = SECONDS) -> None:
    """Check all answers on a sheet. Exit code 0 if all are right."""
    raise typer.Exit(0 if _checked(file, seconds) else 1)


@app.command(epilog=epilog("tinydiff practice watch practice/recipe.py"))
def watch(file: SheetFile, seconds: Limit = SECONDS) -> None:
    """Check a sheet whenever it is saved, until all is right or you press Ctrl-C."""
    for _ in _saved(file):
        say(f"--- {time.strftime('%H:%M:%S')}")
        if _checked(file, seconds):
            return


@app.command("solution", epilog=epilog("tinydiff practice solution 3.4", "tinydiff practice solution recipe --give-up"))
def show_solution(
    name: Name,
    give_up: Annotated[bool, typer.Option("--give-up", help="Show it before the answer is right.")] = False,
    folder: Folder = FOLDER,
) -> None:
    """Show the solution of what is right already, or that you give up."""
    find(name)
    state = _load(folder)
    found = state.of(name)
    if not (found.over or give_up):
        raise ValueError(f"{name} is not solved yet; take a hint (tinydiff practice hint {name}), or add --give-up")
    found.shown = True
    state.save()
    say(solution(name))
    say()
    say(explanation(name))


@app.command("class", epilog=epilog("tinydiff practice class handed-in --html class.html"))
def classroom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With the sheets.", show_default=False)],
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
) -> None:
    """For teachers: check all sheets in a folder, and list who has what, and which mistakes are frequent."""
    check_views(html)
    every = results(folder, lambda line: console.print(line))
    for result in every:
        said = f"{result.learner:24} {result.right:3} of {len(result.verdicts)} right"
        say(said + (f"; {result.broken}" if result.broken else ""))
    write_all([(html, lambda path: write_atomically(path, page(every).encode()))])


# --- parts ------------------------------------------------------------------------------------------------------------


def sheet_path(key: str, folder: Path) -> Path:
    """Where the sheet of a set or problem is."""
    return folder / (f"{key}.py" if len(SERIES[key].questions) == 1 else f"set{key}.py")


def _load(folder: Path) -> Progress:
    state = kept.load(folder)
    if state.notice:
        console.print(state.notice)
    return state


def _record(state: Progress, name: str, verdict: Verdict) -> None:
    if verdict.kind not in ("missing", "unwritten"):
        state.tried(name, verdict.right)
        state.save()


def _ask(name: str) -> None:
    """The question; of a function also its name, its parameters and what they mean."""
    asks = find(name).asks
    say(words(name))
    if isinstance(asks, Function):
        say(f"\n{stub(asks).rpartition('    raise')[0].rstrip()}")


def _how_to_answer(name: str, folder: Path) -> None:
    if isinstance(find(name).asks, Function):
        key = series_of(name).key
        path = sheet_path(key, folder)
        first = "" if path.exists() else f"tinydiff practice sheet {key}, then "
        say(f"\nWrite it in {path}: {first}tinydiff practice check {quoted(path)}")
    else:
        say(f"\nAnswer with: tinydiff practice answer {name} ...")


def _sitting(name: str, state: Progress) -> bool:
    """Ask one question until it is over or skipped; False to stop."""
    question = find(name)
    say()
    _ask(name)
    say()
    code = isinstance(question.asks, Function)
    if code:
        path = sheet_path(series_of(name).key, state.folder)
        if not path.exists():
            write_atomically(path, sheet(series_of(name).key).encode())
        say(f"Write the function in {path}, save, and press Enter.")
    while True:
        try:
            typed = input(
                "hint, skip, give up, stop, or Enter to check> " if code else "answer, or hint, skip, give up, stop> "
            )
        except EOFError:
            return False
        word = typed.strip().lower()
        if word in ("stop", "quit", "q", "exit"):
            return False
        if word == "skip":
            return True
        if word == "hint":
            taken = state.of(name)
            if taken.hints == len(question.hints):
                say("There are no more hints. The last one was:")
            taken.hints = min(taken.hints + 1, len(question.hints))
            say(f"Hint {taken.hints} of {len(question.hints)}: {question.hints[taken.hints - 1]}")
            state.save()
        elif word == "give up":
            state.of(name).shown = True
            state.save()
            say(f"{solution(name)}\n\n{explanation(name)}")
            return True
        elif code or word:
            verdict = _one(path, name) if code else judge(question, typed)
            _record(state, name, verdict)
            say(f"{'✓' if verdict.right else '✗'} {verdict!r}" if verdict.right else f"✗ {verdict.says}")
            if verdict.right:
                say(explanation(name))
                return True


def _one(path: Path, name: str) -> Verdict:
    """The verdict on one question of a sheet."""
    for other, verdict in check_file(path):
        if other in (name, ""):
            return verdict
    return Verdict("missing", f"{path} has no answer to {name}.")


def _checked(file: Path, seconds: float) -> bool:
    """Check a sheet and say how it went; whether all is right."""
    state, every, unanswered = _load(file.resolve().parent), [], []
    for name, verdict in check_file(file, seconds):
        if name:
            _record(state, name, verdict)
        every.append(verdict)
        if verdict.kind in ("missing", "unwritten"):
            unanswered.append(f"{name} (right before)" if state.of(name).right else name)
            continue
        say(f"{'✓' if verdict.right else '✗'} {name:5} {verdict.says}".replace("  ", " "))
        if verdict.printed:
            say(f"        printed: {verdict.printed.splitlines()[0]}")
    if unanswered:
        say(f"– not written yet: {', '.join(unanswered)}")
    if not every:
        say("There is nothing to check in it: no answers, and no function that a question asks for.")
        return False
    right = sum(verdict.right for verdict in every)
    say(f"{right} of {len(every)} right")
    if right == 1 == len(every):
        say("The solution and what would be better still: tinydiff practice solution " + series_of(name).key)
    return right == len(every)


def _saved(file: Path) -> Iterator[None]:
    """Now, and whenever the file changes."""
    before: tuple[int, int] | None = None
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; write a sheet with: tinydiff practice sheet 1")
    while True:
        try:
            now = (file.stat().st_mtime_ns, file.stat().st_size)
        except OSError:  # an editor is replacing it
            now = before or (0, 0)
        if now != before:
            before = now
            yield
        time.sleep(POLL)
