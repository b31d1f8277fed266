"""`pytest --practice FILE`: every question of a sheet is a test, which passes, or fails with the checker's sentence.

The sheet runs in a process of its own, as everywhere: pytest never imports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .question import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    group = parser.getgroup("tinydiff")
    group.addoption(
        "--practice", metavar="FILE", action="append", default=[], help="check a practice sheet of tinydiff"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sheets, and nothing else, are collected."""
    sheets = config.getoption("--practice")
    if not sheets:
        return
    for sheet in sheets:
        if not Path(sheet).is_file():
            raise pytest.UsageError(f"--practice is {sheet}, which is not there; write one: tinydiff practice sheet 1")
    config.args[:] = sheets


@pytest.hookimpl(hookwrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    """In place of pytest's own collector, which would import the file."""
    outcome: Any = yield
    sheets = {Path(sheet).resolve() for sheet in parent.config.getoption("--practice")}
    if file_path.resolve() in sheets:
        outcome.force_result([Sheet.from_parent(parent, path=file_path)])


class Sheet(pytest.File):
    """A sheet; checked once, when its questions are collected."""

    def collect(self) -> Iterator[Answer]:
        """A test for each question."""
        from .sandbox import check_file

        for name, verdict in check_file(self.path):
            yield Answer.from_parent(self, name=name or "the file", verdict=verdict)


class Answer(pytest.Item):
    """A question and what is said about its answer."""

    def __init__(self, *, verdict: Verdict, **options: Any) -> None:
        super().__init__(**options)
        self.verdict = verdict

    def runtest(self) -> None:
        """It passes if it is right."""
        if not self.verdict.right:
            pytest.fail(repr(self.verdict), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What the report calls it."""
        return self.path, None, self.name
