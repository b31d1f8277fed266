"""Plant mistakes and see which the tests let live: `python -m tests.mistakes [FILE ...] [--number N] [--seed S]`.

A mistake is one small change of one place: an option that no longer arrives, a comparison the other way, a sign, a
constant, a default, a condition, a statement that is gone. Each is planted in a copy of the project, and the tests are
run on that copy until one fails. Those that no test notices are printed with their place and their text: either a test
is missing, or the line says nothing.

Error messages, types and docstrings are left alone. A file's own tests come first, so that most mistakes die within
seconds; one that lives takes as long as all tests do.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("tinydiff", "tests", "benchmarks", "lessons", "docs", "README.md", "pyproject.toml", "CITATION.cff")
NEAREST = 6  # test files
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mistake:
    """One change: the text `before` at this place of a file becomes `after`."""

    file: Path
    line: int
    start: int
    stop: int
    before: str
    after: str

    def __str__(self) -> str:
        shown = (" ".join(text.split())[:100] for text in (self.before, self.after or "(gone)"))
        return f"{self.file.relative_to(ROOT)}:{self.line}  {'  ->  '.join(shown)}"

    def planted(self, source: bytes) -> bytes:
        """The file with the mistake."""
        return source[: self.start] + self.after.encode() + source[self.stop :]


def changed(node: ast.AST) -> Iterator[ast.AST | None]:
    """The node with one mistake in it, every way there is; None for a statement that is gone."""
    if isinstance(node, ast.Call):
        for i in range(len(node.keywords)):
            other = copy.deepcopy(node)
            del other.keywords[i]
            yield other
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        other = copy.deepcopy(node)
        other.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
        yield other
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPPED:
        other = copy.deepcopy(node)
        other.ops = [SWAPPED[type(node.ops[0])]()]  # type: ignore[list-item]
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else 2 * node.value + 0.1)
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield None


def places(node: ast.AST) -> Iterator[ast.AST]:
    """Every node whose change could matter to what the program does."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                yield child
                yield from places(child)


def mistakes(file: Path) -> list[Mistake]:
    """All that this module knows how to plant in a file."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in places(ast.parse(source)):
        if not hasattr(node, "lineno") or node.end_lineno is None or node.end_col_offset is None:
            continue
        start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        for other in changed(node):
            text = "pass" if other is None else f"({ast.unparse(other)})" if isinstance(other, ast.expr) else ""
            found.append(Mistake(file, node.lineno, start, stop, source[start:stop].decode(), text))
    return found


class Copy:
    """A copy of the project with a Python that runs it, and not the installed package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        for name in TREES:
            path = ROOT / name
            if path.is_dir():
                shutil.copytree(path, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif path.exists():
                shutil.copy(path, self.folder / name)
        from tinydiff.kernels import native  # built in place or elsewhere: the copy takes it along

        if native is not None and native.__file__ is not None:
            shutil.copy(native.__file__, self.folder / "tinydiff" / "kernels")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.python = folder / "venv" / "bin" / "python"
        packages = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        # Folders that a .pth file names are searched, but their own .pth files are not read: no editable install wins.
        Path(packages, "copy.pth").write_text(f"{self.folder}\n{sysconfig.get_path('purelib')}\n")

    def notices(self, tests: list[str], seconds: float) -> bool:
        """Whether the tests fail, or never end, on the copy as it is."""
        command = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return done.returncode not in (0, 5)


def first_tests(file: Path) -> list[str]:
    """The test files nearest to this module: those of its name, and those that name most of what it defines."""
    stem = file.parent.name if file.stem == "__init__" else file.stem
    defined = {node.name for node in ast.parse(file.read_bytes()).body
               if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")}  # fmt: skip
    near = {}
    for test in (ROOT / "tests").rglob("test_*.py"):
        words = set(re.findall(r"\w+", test.read_text("utf-8")))
        near[str(test.relative_to(ROOT))] = len(defined & words) + NEAREST * (stem in test.stem)
    return [test for test, names in sorted(near.items(), key=lambda entry: -entry[1]) if names][:NEAREST]


def main() -> None:
    """Plant, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mistakes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "files", nargs="*", type=Path, help="modules or folders to plant mistakes in; default all of tinydiff"
    )
    parser.add_argument("--number", type=int, default=10, help="how many mistakes")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--seconds", type=float, default=600, help="patience for one run of the tests")
    parser.add_argument("--near", action="store_true", help="only the tests that name the module: quicker, harsher")
    options = parser.parse_args()
    named = [path.resolve() for path in options.files] or [ROOT / "tinydiff"]
    files = [file for path in named for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    every = [mistake for file in files for mistake in mistakes(file)]
    chosen = random.Random(options.seed).sample(every, min(options.number, len(every)))
    lived = []
    with tempfile.TemporaryDirectory() as folder:
        project = Copy(Path(folder))
        for i, mistake in enumerate(chosen, start=1):
            path, source = project.folder / mistake.file.relative_to(ROOT), mistake.file.read_bytes()
            path.write_bytes(mistake.planted(source))
            start, near = time.monotonic(), first_tests(mistake.file)
            found = bool(near) and project.notices(near, options.seconds)
            if not found and not options.near:
                found = project.notices(["-n", "auto", "tests"], options.seconds)
            path.write_bytes(source)
            print(
                f"{i}/{len(chosen)} {'died ' if found else 'LIVED'} {time.monotonic() - start:5.0f} s  {mistake}",
                flush=True,
            )
            if not found:
                lived.append(mistake)
    print(f"\n{len(lived)} of {len(chosen)} lived" + ("" if lived else ": every one was noticed"))
    for mistake in lived:
        print(f"  {mistake}")


if __name__ == "__main__":
    main()
