"""A model to play with in a browser: `tinydiff page` and `tinydiff serve`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import box
from ..learning.files import refuse_existing
from ..views.page import read_both, save_page
from .common import RunFolder, console, epilog, say

app = typer.Typer()

Rival = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="An autoregressive run on the same data, to race against; stories_ar is in the box.",
        callback=lambda run: run and box.found(run),
    ),
]


@app.command(
    epilog=epilog(
        "tinydiff page runs/demo --out demo.html",
        "tinydiff page stories --rival stories_ar --out stories.html",
        "tinydiff page runs/sums --rival runs/sums-ar --out race.html",
    )
)
def page(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    rival: Rival = None,
    precision: Annotated[
        Literal["half", "single"], typer.Option(help="Of the weights in the file: half is half as large.")
    ] = "half",
) -> None:
    """Write a masked model as one page that runs it in any browser: no server, no network."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out is {out}; a page ends in .html")
    refuse_existing(out)
    size = save_page(out, *read_both(run, rival), precision)
    console.print(f"{out}: {size / 1e6:.2f} MB. Open it in a browser.")


@app.command(epilog=epilog("tinydiff serve runs/demo", "tinydiff serve runs/sums --rival runs/sums-ar --port 0"))
def serve(
    run: RunFolder,
    rival: Rival = None,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 takes any that is free.")] = 8000,
) -> None:
    """Serve the page to this machine's browser, with the model in Python: any size, every decoder."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise FileNotFoundError(f"{name} is missing, which serves pages; install it: pip install 'tinydiff[serve]'")
    from . import serve as server

    server.serve(*read_both(run, rival), port, ready=lambda address: say(f"{address} (Ctrl-C ends it)"))
