"""`tinydiff info`: what to put into a question or a report of a bug."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import typer

from .. import __version__, kernels
from ..kernels.threads import usable_cores
from .common import RUNS, epilog, say

app = typer.Typer()


@app.command(epilog=epilog("tinydiff info"))
def info() -> None:
    """Say what runs here: kernels, instruction set, threads, versions, folders."""
    native = kernels.native
    rows = {
        "tinydiff": __version__,
        "kernels": kernels.active() if native else f"numpy (native ones are not here: {kernels.remedy()})",
        "instruction set": f"{native.isa()} (of {', '.join(native.isas())})" if native else "-",
        "bfloat16": ("products in tiles (AMX)" if native.isa() == "amx" else "products (AVX512_BF16)")
        if native and native.has_bfloat16()
        else "-",
        "threads": f"{native.threads()} of {usable_cores()} cores to use, {native.pool()}" if native else "-",
        "numpy": f"{np.__version__}, BLAS {_blas()}",
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "package": str(Path(__file__).parents[1]),
        "checkpoint folder": str(RUNS.resolve()),
    }
    for name, value in rows.items():
        say(f"{name:18} {value}")


def _blas() -> str:
    """Name and version, as far as this build of NumPy tells."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return " ".join(str(blas[key]) for key in ("name", "version") if key in blas) or "unknown"
    except (KeyError, TypeError, AttributeError):
        return "unknown"
