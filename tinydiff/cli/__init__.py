"""The `tinydiff` command.

- `common`: the console and the options that several commands have
- `train`: demo, train; `runs`: sweep-runs
- `generate`: sample, infill; `watch`: what is seen of them
- `answer`: finetune, ask
- `translate`: translate
- `page`: page, serve; `serve`: what is served
- `measure`: evaluate, sweep, race
- `hazards`: prefer, ablate
- `practice`: practice and its own commands
- `exchange`: export, import
- `info`: info

Every error that a user can cause ends in `main`.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .. import __version__, _start, box
from ..learning.files import CheckpointError
from ..learning.interrupts import STOPS
from ..learning.ranks import RankLost, place
from . import answer, exchange, generate, hazards, info, measure, page, practice, runs, train, translate
from .common import CLOSED, console, say, tame


class Commands(TyperGroup):
    """The commands; what they say about a wrong option shows no control character that was in it."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _tamed():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _tamed():
            return super().invoke(ctx)


@contextmanager
def _tamed() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):
            error.message = tame(error.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print it and leave."""
    if wanted:
        say(f"tinydiff {__version__}")
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Diffusion and non-autoregressive language models from scratch."""


# the order of the help
for commands in (
    train.app, runs.app, generate.app, answer.app, translate.app, page.app, measure.app, hazards.app
):  # fmt: skip
    app.add_typer(commands)
app.add_typer(exchange.export, name="export")
app.add_typer(exchange.imports, name="import")
app.add_typer(practice.app, name="practice")
app.add_typer(info.app)


def main() -> NoReturn:
    """Run the command; every expected error becomes one line and an exit code.

    0 done; 1 it failed, 2 it was asked for something impossible; 128 and the number of the signal that stopped it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what cannot be encoded is shown escaped, not lost
    if place():
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (to the end): of several ranks the first speaks for all
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _report("warning", str(message), "yellow")
        stop = _Stop()
        try:
            code = _flushed(_run())
        except KeyboardInterrupt:  # in the middle of saying how it ended
            code = _flushed(stop.code)
        stop.end(code)
    sys.exit(code)


def _run() -> int:
    """Run the command; its exit code."""
    try:
        check_arguments(sys.argv[1:])
        app()
    except SystemExit as end:
        # typer makes exits of what it catches: what was it?
        if isinstance(end.__context__, BrokenPipeError):
            return CLOSED
        stop = getattr(end.__context__, "__cause__", None)
        if isinstance(stop, KeyboardInterrupt):
            return _stopped(stop)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except BrokenPipeError:
        return CLOSED
    except (ValueError, FileNotFoundError) as error:
        return _failed(error, 2)
    except (CheckpointError, RankLost, FloatingPointError, NotImplementedError, OSError, MemoryError) as error:
        return _failed(error, 1)
    return 0


def check_arguments(arguments: list[str]) -> None:
    """ValueError for an option that is empty, which a path takes for the current folder, or a text with a dash."""
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for before, argument in pairwise(["", *arguments]):
        if argument == "" and before == arguments[0]:
            raise ValueError("RUN is empty; name the folder of a run")
        empty = before if argument == "" and before.startswith("--") else argument[:-1]
        if (argument == "" or argument.endswith("=")) and re.fullmatch(r"--[a-z-]+", empty):
            raise ValueError(f"{empty} is empty; give it a value or leave it out")
        value = before.startswith("--") and "=" not in before
        option = argument.removeprefix("--").partition("=")[0] in signature(generate.infill).parameters  # --top_k
        if arguments[0] == "infill" and not (value or option) and re.match(r"-[^-]|--(?![a-z-]+(=|$))", argument):
            raise ValueError(
                f"{argument!r} begins with a dash, which options do; a text that does goes last, after --, for "
                f"instance: tinydiff infill RUN -- {shlex.quote(argument)}"
            )


def as_typed(words: str, arguments: list[str]) -> str:
    """A sentence of the library, with options, and models in the box, named as they were typed."""
    in_the_box = "|".join(re.escape(str(box.ROOT / name)) for name in box.NAMES)
    words = re.sub(rf"(?:{in_the_box})(?= )", lambda path: Path(path[0]).name, words)  # files in them keep their path
    typed = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}

    def named(match: re.Match[str]) -> str:
        option = "--" + match[2].replace("_", "-")
        named_otherwise = match[2] in arguments  # a folder, say, that is called like an option
        return match[1] + (option if option in typed and not named_otherwise else match[2])

    ours = re.split("['\"]", words, maxsplit=1)[0]  # what is quoted is the user's
    return re.sub(r"(^|, but | and )([a-z_]+)(?= is )", named, ours) + words[len(ours) :]


class _Stop:
    """SIGTERM and SIGHUP do what Ctrl-C does, so that all is tidied up; what the caller has set is left alone.

    The first of them counts. Others come while it is answered and would cut that short.
    """

    def __init__(self) -> None:
        self.code = 0
        self._before: dict[int, Any] = {}
        for number in STOPS:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler, _start.stopped):
                with suppress(ValueError):  # another thread than the main one
                    self._before[number] = signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.code:
            self.code = 128 + number
            raise KeyboardInterrupt(number)

    def end(self, code: int) -> None:
        """Put back what was there, unless the process is to end anyway."""
        self.code = code
        for number, handler in self._before.items() if code < 128 else ():
            signal.signal(number, signal.default_int_handler if handler is _start.stopped else handler)


def _stopped(stop: KeyboardInterrupt) -> int:
    _report("Stopped.", "", "bold")
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _failed(error: BaseException, code: int) -> int:
    words = as_typed(str(error), sys.argv[1:]) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:  # the system's, with a number in front
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    _report(f"error on rank {place()}" if place() else "error", words, "bold red")
    return code


def _report(kind: str, message: str, style: str) -> None:
    """One line on standard error, if there still is somebody to read it."""
    with suppress(OSError, SystemExit):
        if message:
            console.print(f"{kind}:", style=style, end=" ")
            console.print(re.sub(r"\s*\n\s*", " ", message))
        else:
            console.print(kind)


def _flushed(code: int) -> int:
    """The exit code once everything is written, or could not be; after this the interpreter finds nothing to flush."""
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                code = code or CLOSED
            elif stream is sys.stdout:
                code = _failed(OSError(f"cannot write to standard output: {error.strerror}"), 1)
            else:
                code = code or 1
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return code
