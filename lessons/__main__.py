"""Keep the lessons honest. `python -m lessons COMMAND [NAME ...]`, NAME: the beginning of a lesson's file name.

check      run the lessons in full and compare with what is committed, as the tags of the cells allow
run        run them in full and write the outputs into the notebooks
numbers    list the measured numbers that are typed into text, where they grow old
edition    write them without solutions to a folder: `python -m lessons edition FOLDER [NAME ...]`

Tags of cells, in their metadata:

solution       is left out of the edition for students
timing         shows milliseconds: its text is not compared
varies         shows what a trained network wrote: only the kinds of output are compared
within:0.05    numbers of its text may differ by so much, relative to the larger of 1 and the number; 0.001 without
quoted         text with numbers from the literature, which `numbers` lets pass
"""

from __future__ import annotations

import base64
import re
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
SECONDS, BYTES = 120, 300_000  # that a lesson may take on two cores, and on disk
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?")


def lessons(names: Sequence[str]) -> list[Path]:
    """The notebooks whose names begin so, or all."""
    every = sorted(HERE.glob("*.ipynb"))
    chosen = [path for path in every if not names or any(path.name.startswith(name) for name in names)]
    if not chosen:
        raise SystemExit(f"no lesson begins with {' or '.join(names)}; there are {', '.join(p.stem for p in every)}")
    return chosen


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def tolerance(cell: NotebookNode) -> float:
    """How far a number of its text may be from the committed one."""
    return next((float(tag.removeprefix("within:")) for tag in tags(cell) if tag.startswith("within:")), 1e-3)


def kinds(cell: NotebookNode) -> set[str]:
    """What a cell shows: "stdout", "image/png" and so on."""
    return {kind for output in cell.outputs for kind in ([output.name] if "name" in output else output.get("data", {}))}


def printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def pictures(cell: NotebookNode) -> list[tuple[int, int]]:
    """Width and height of the PNGs that a cell shows."""
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [struct.unpack(">II", base64.b64decode(png)[16:24]) for png in found]


def execute(notebook: NotebookNode, folder: str, timeout: int = 600) -> NotebookNode:
    """A copy with the outputs of a run from top to bottom. The kernel keeps its own backend of matplotlib."""
    fresh = deepcopy(notebook)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": folder}}  # where it runs: what it writes is thrown away
    NotebookClient(fresh, timeout=timeout, kernel_name="python3", resources=resources).execute()
    return fresh


def differences(before: NotebookNode, after: NotebookNode) -> Iterator[str]:
    """What a cell shows now that differs from what is committed, beyond what its tags allow."""
    if kinds(before) != kinds(after):
        yield f"shows {', '.join(sorted(kinds(after)))}; committed {', '.join(sorted(kinds(before)))}"
        return
    for old, new in zip(pictures(before), pictures(after), strict=True):
        # Constrained layout and films may move by a few pixels.
        if any(abs(a - b) > 0.05 * max(a, b) for a, b in zip(old, new, strict=True)):
            yield f"has a figure of {new[0]} x {new[1]} pixels; committed {old[0]} x {old[1]}"
    if {"timing", "varies"} & set(tags(before)):
        return
    words = [" ".join(NUMBER.sub("#", printed(cell)).split()) for cell in (before, after)]
    if words[0] != words[1]:
        yield f"prints other words: {words[1][:200]!r}; committed {words[0][:200]!r}"
        return
    numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(printed(cell))] for cell in (before, after)]
    allowed = tolerance(before)
    for old, new in zip(*numbers, strict=True):
        if abs(new - old) > allowed * max(1.0, abs(old)):
            yield f"prints {new:g}; committed {old:g}, within {allowed:g}"


MEASURED = re.compile(r"(?<![\w./-])(?:\d+\.\d+|\d+(?:\.\d+)? ?%|\d{1,3}(?:,\d{3})+|\d+ times)(?![\w/-]|\.\d)")
NOT_MEASURED = re.compile(  # code, formulas, links, numbers of papers, and what a header says of minutes
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|arXiv:? ?[\d.]+|\b\d{4}\.\d{4,5}\b|<[^>]*>|^\*\*Time\*\*.*?$",
    re.DOTALL | re.MULTILINE,
)


def typed_numbers(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    """The place of a cell of text, and a number in it that looks measured."""
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and "quoted" not in tags(cell):
            text = NOT_MEASURED.sub(" ", cell.source)
            for match in MEASURED.finditer(text):
                yield i, text[max(0, match.start() - 30) : match.end() + 20].replace("\n", " ")


def without_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy for students: no solutions, and no word of them."""
    copy = deepcopy(notebook)
    copy.cells = [cell for cell in copy.cells if "solution" not in tags(cell)]
    for cell in copy.cells:
        cell.source = cell.source.replace(" Solutions are at the end; try first.", "")
    return copy


def check(path: Path, folder: str) -> int:
    committed = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    fresh = execute(committed, folder)
    spent, wrong = time.perf_counter() - start, 0
    for i, (before, after) in enumerate(zip(committed.cells, fresh.cells, strict=True)):
        for difference in differences(before, after) if before.cell_type == "code" else ():
            print(f"{path.name}[{i}] {difference}")
            wrong += 1
    if spent > SECONDS:
        print(f"{path.name} took {spent:.0f} s; at most {SECONDS}")
        wrong += 1
    print(f"{path.name}: {spent:.0f} s, {path.stat().st_size / 1000:.0f} kB, {wrong or 'no'} differences")
    return wrong


def run(path: Path, folder: str) -> int:
    start = time.perf_counter()
    fresh = execute(nbformat.read(path, as_version=4), folder)
    for cell in fresh.cells:
        cell.metadata.pop("execution", None)  # when it ran is nobody's concern
    join_streams(fresh)
    fresh.metadata["language_info"] = {"name": "python"}
    nbformat.write(fresh, path)
    size = path.stat().st_size
    print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size / 1000:.0f} kB")
    return int(size > BYTES)


def join_streams(notebook: NotebookNode) -> None:
    """Make one output of neighbouring pieces of print: how they were cut is chance."""
    for cell in code_cells(notebook):
        joined: list[NotebookNode] = []
        for output in cell.outputs:
            if joined and "name" in output and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined


def main(arguments: Sequence[str]) -> int:
    command, *names = arguments or ["help"]
    if command == "edition" and names:
        folder, *names = names
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in lessons(names):
            target = Path(folder) / path.name
            if target.exists():
                raise SystemExit(f"{target} exists; name another folder, or remove it")
            nbformat.write(without_solutions(nbformat.read(path, as_version=4)), target)
            print(target)
        return 0
    if command == "numbers":
        wrong = 0
        for path in lessons(names):
            for i, words in typed_numbers(nbformat.read(path, as_version=4)):
                print(f"{path.name}[{i}] … {words} …")
                wrong += 1
        return int(wrong > 0)
    if command in ("check", "run"):
        with tempfile.TemporaryDirectory() as folder:
            return int(sum((check if command == "check" else run)(path, folder) for path in lessons(names)) > 0)
    print(__doc__)
    return 0 if command == "help" else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
