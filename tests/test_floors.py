"""The house has floors: modules import from their own or from below. And its functions have few parameters."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1] / "tinydiff"
FLOORS = [
    {"_start", "arrays", "kernels", "schedules"},
    {"data"},
    {"tensor", "ops"},
    {"transformer", "experts"},
    {"decoders"},
    {"processes"},
    {"learning", "exact"},
    {"box", "exchange", "measures", "views", "practice"},
    {"cli", "__main__"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that is in a module."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path: Path) -> set[str]:
    """The rooms of tinydiff that a module imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            whole = (*base, *(node.module.split(".") if node.module else ()))
            found |= {whole[0]} if whole else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinydiff":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found - {"__version__"}


def test_no_import_runs_upstairs() -> None:
    """Whoever reads upwards from the kernels never meets a name that is explained later."""
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(files) > 50
    for path in files:
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imports(path):
            assert FLOOR[other] <= FLOOR[room], f"{path.relative_to(ROOT)} imports {other}, which is above it"


def test_functions_have_few_parameters() -> None:
    """At most eight, for what is public. Kernels, commands and the constructors of models and processes aside."""
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("cli", "kernels"):
            continue
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
                assert len(names) <= 8, f"{path.relative_to(ROOT)}: {node.name} takes {', '.join(names)}"
