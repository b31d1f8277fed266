"""The `tinydiff` command.

- `common`: the console and the options that several commands have
- `train`: demo, train
- `generate`: sample, infill; `watch`: what is seen of them
- `measure`: evaluate, sweep, race
- `info`: info

Every error that a user can cause ends in `main`.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from ..learning.files import CheckpointError
from . import generate, info, measure, train
from .common import console

app = typer.Typer(
    help="Diffusion and non-autoregressive language models from scratch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (train.app, generate.app, measure.app, info.app):  # the order of the help
    app.add_typer(commands)


def main() -> NoReturn:
    """Run the command; every expected error becomes one line and an exit code, 2 for usage and 1 otherwise."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        _fail(error, 2)
    except (CheckpointError, FloatingPointError, OSError, MemoryError) as error:
        _fail(error, 1)
    sys.exit(0)


def _fail(error: BaseException, code: int) -> NoReturn:
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(code)
