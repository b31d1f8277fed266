"""Every lesson runs from top to bottom, and is committed with the outputs of such a run."""

from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("*.ipynb"))
LARGEST = 300_000  # bytes: a repository keeps every version of every figure

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[path.stem for path in LESSONS])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: NotebookNode) -> set[str]:
    """What a cell shows: "stdout", "image/png" and so on."""
    return {kind for output in cell.outputs for kind in ([output.name] if "name" in output else output.get("data", {}))}


# On Windows zmq and asyncio's event loop do not fit together; zmq works around it and says so.
@pytest.mark.filterwarnings("ignore:Proactor event loop does not implement add_reader:RuntimeWarning")
@each_lesson
def test_runs_in_smoke_mode(lesson: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYDIFF_SMOKE", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own: another one might draw nothing
    committed = nbformat.read(lesson, as_version=4)
    fresh = deepcopy(committed)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}  # where it runs: what it writes is thrown away
    NotebookClient(fresh, timeout=60, kernel_name="python3", resources=resources).execute()
    for before, after in zip(code_cells(committed), code_cells(fresh), strict=True):
        assert after.execution_count is not None or not after.source.strip(), f"{before.id} did not run"
        assert kinds(before) == kinds(after), f"{before.id} is committed with other kinds of output than it produces"


@each_lesson
def test_is_committed_with_clean_outputs(lesson: Path) -> None:
    notebook = nbformat.read(lesson, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not run from top to bottom"
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"], f"{cell.id} raised"
        assert "stderr" not in kinds(cell), f"{cell.id} warned"
    assert lesson.stat().st_size < LARGEST, f"{lesson.name} has {lesson.stat().st_size} bytes; draw smaller figures"
