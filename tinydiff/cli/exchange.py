"""Models for other tools, and theirs as runs: `tinydiff export` and `tinydiff import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..exchange import hugging_face, nanogpt
from ..learning.files import quoted
from .common import RunFolder, console, epilog

export = typer.Typer(
    no_args_is_help=True, help="Write a run for other tools.", epilog=epilog("tinydiff export hf stories out/stories")
)
imports = typer.Typer(
    no_args_is_help=True,
    help="Make a run of a model of other tools.",
    epilog=epilog(
        "tinydiff import hf out/book --out runs/back",
        "tinydiff import nanogpt model.safetensors --text input.txt --heads 6 --out runs/gpt",
    ),
)

NewRun = Annotated[Path, typer.Option(help="Folder of the run to write.", show_default=False)]


@export.command("hf", epilog=epilog("tinydiff export hf stories out/stories", "tinydiff export hf runs/book out/book"))
def export_hf(
    run: RunFolder, out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)]
) -> None:
    """Write a run as a Hugging Face folder: transformers loads it, with its tokenizer and a card."""
    hugging_face.export(run, out)
    console.print(f"{out}: load it with AutoTokenizer and AutoModel...from_pretrained(..., trust_remote_code=True)")


@imports.command("hf", epilog=epilog("tinydiff import hf out/book --out runs/back"))
def import_hf(
    folder: Annotated[Path, typer.Argument(help="A folder that export hf has written.", show_default=False)],
    out: NewRun,
) -> None:
    """Make a run of an exported folder, whose weights may have been trained on meanwhile."""
    hugging_face.read(folder, out)
    console.print(f"{out}: try it with: tinydiff sample {quoted(out)}")


@imports.command(
    "nanogpt", epilog=epilog("tinydiff import nanogpt model.safetensors --text input.txt --heads 6 --out runs/gpt")
)
def import_nanogpt(
    file: Annotated[Path, typer.Argument(help="The weights, as safetensors.", show_default=False)],
    text: Annotated[str, typer.Option(help="The text that it was trained on: its tokens are those characters.")],
    heads: Annotated[int, typer.Option(help="Attention heads (n_head).")],
    out: NewRun,
) -> None:
    """Make an autoregressive run of a character model of nanoGPT."""
    nanogpt.read(file, text, heads, out)
    console.print(f"{out}: how good it is says: tinydiff evaluate {quoted(out)}")
