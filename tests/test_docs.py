"""The pages of the documentation site: what they show runs, and no public name is left out."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

API = Path(__file__).parents[1] / "docs" / "site" / "api"
PAGES = sorted(page.stem for page in API.glob("*.md"))


def blocks(page: str) -> list[str]:
    """Its Python."""
    return re.findall(r"```python\n(.*?)```", (API / f"{page}.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page from top to bottom, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("module", ["", "data", "processes", "decoders", "learning", "exact", "measures"])
def test_every_public_name_is_shown(module: str) -> None:
    """A name that was added and that no example uses."""
    used = set(re.findall(r"\w+", "\n".join(code for page in PAGES for code in blocks(page))))
    public = importlib.import_module(f"tinydiff.{module}".rstrip(".")).__all__
    assert [name for name in public if name not in used] == []


DOCSTRING = """
Sums of `x * y`; a * alone and `under_score`.

    sum_i x_i * y_i

Parameters
----------
x, y : (n,)
    Of one length, or x_i is missing.

- one, and
  its end
"""
AS_RST = r"""
Sums of \ ``x * y``\ ; a \* alone and \ ``under_score``\ .


::

        sum_i x_i * y_i


.. rubric:: Parameters


- ``x, y``: (n,)
  Of one length, or x\_i is missing.

- one, and
  its end
"""


def test_docstrings_are_shown_as_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas stand alone and as they are, parameters are a list, and signs that Sphinx knows mean nothing."""
    monkeypatch.syspath_prepend(str(API.parent))
    plain = importlib.import_module("plain")
    rst = plain.as_rst(DOCSTRING.strip("\n").split("\n"))
    assert [line.rstrip() for line in rst if line.strip()] == [line for line in AS_RST.splitlines() if line.strip()]
