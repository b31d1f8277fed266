"""Every lesson runs from top to bottom, is committed with the outputs of such a run, and keeps the form."""

import base64
import io
import re
import sys
from copy import deepcopy
from html import escape, unescape
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parents[1]))
from lessons.__main__ import (
    BYTES,
    HERE,
    code_cells,
    differences,
    execute,
    kinds,
    main,
    tags,
    typed_numbers,
    without_solutions,
)
from tinydiff.views.notebook import WIDEST

LESSONS = sorted(HERE.glob("*.ipynb"))
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[path.stem for path in LESSONS])
FORM = ("**Time**", "**You need**", "**Afterwards you can**")


# On Windows zmq and asyncio's event loop do not fit together; zmq works around it and says so.
@pytest.mark.filterwarnings("ignore:Proactor event loop does not implement add_reader:RuntimeWarning")
@each_lesson
def test_runs_in_smoke_mode(lesson: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYDIFF_SMOKE", "1")
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # at these sizes a second thread only waits, and burns time while it does
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own: another one might draw nothing
    committed = nbformat.read(lesson, as_version=4)
    fresh = execute(committed, str(tmp_path), timeout=60)
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
    assert lesson.stat().st_size < BYTES, f"{lesson.name} has {lesson.stat().st_size} bytes; draw smaller figures"


@each_lesson
def test_keeps_the_form(lesson: Path) -> None:
    """A header that says what it takes; an alternative text for each figure; measured numbers printed, not typed."""
    notebook = nbformat.read(lesson, as_version=4)
    for words in FORM:
        assert words in notebook.cells[0].source, f"the header lacks {words}"
    for cell in code_cells(notebook):
        for output, after in pairwise([*cell.outputs, {}]):
            if {"image/png", "image/svg+xml"} & set(output.get("data", {})):
                alt = output.metadata.get("image/png", {}).get("alt")
                assert alt, f"{cell.id} shows a figure without words"
                words = after.get("data", {}).get("text/html", "")
                svg = output.data.get("image/svg+xml", "")
                assert not svg or float(svg.split(' width="')[1].split("pt")[0]) <= WIDEST, (
                    f"{cell.id} would be cut off"
                )
                assert words == f"<details><summary>In words</summary>{escape(alt)}</details>", cell.id
    assert not list(typed_numbers(notebook))


def notebook_of(source: str, text: str, *labels: str) -> nbformat.NotebookNode:
    cell = new_code_cell(source, metadata={"tags": list(labels)}, outputs=[new_output("stream", text=text)])
    return new_notebook(cells=[cell])


@pytest.mark.parametrize(
    ("labels", "old", "new", "wrong"),
    [
        ((), "mean 0.500, 12 texts", "mean 0.5004, 12 texts", 0),
        ((), "mean 0.500, 12 texts", "mean 0.502, 12 texts", 1),
        ((), "mean 0.500, 12 texts", "mean 0.500, 13 texts", 1),
        ((), "1,000 steps", "1,001 steps", 0),  # relative to the number
        ((), "difference 2e-16", "difference 9e-17", 0),
        ((), "the dog", "the hen", 1),
        (("within:0.1",), "0.50", "0.58", 0),
        (("within:0.1",), "0.50", "0.61", 1),
        (("within:0.1",), "200 texts", "215 texts", 0),
        (("varies",), "the dog", "the hen", 0),
        (("timing",), "3.1 ms", "9.7 ms", 0),
    ],
)
def test_texts_are_compared_as_the_tags_allow(labels: tuple[str, ...], old: str, new: str, wrong: int) -> None:
    before, after = (notebook_of("f()", text, *labels).cells[0] for text in (old, new))
    assert len(list(differences(before, after))) == wrong


def test_another_kind_or_size_of_figure_is_a_difference() -> None:
    import PIL.Image

    def shown(width: int) -> nbformat.NotebookNode:
        buffer = io.BytesIO()
        PIL.Image.new("RGB", (width, 100)).save(buffer, "PNG")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        return new_code_cell("plot()", outputs=[new_output("display_data", data=data)])

    assert not list(differences(shown(200), shown(206)))
    assert len(list(differences(shown(200), shown(240)))) == 1
    assert len(list(differences(shown(200), notebook_of("plot()", "no figure").cells[0]))) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 2.395 bits, 12 % more, 1,907 texts, 49 times.", 4),
        ("With $\\alpha = 0.5$ and `lr=0.01`, see (1711.02281), in 2017, section 3.", 0),
        ("**Time** 40 minutes, 2.5 to run.", 0),
        ("```\n0.25\n```\nand $$x = 0.25$$", 0),
        ("64 characters in 16 passes", 0),
    ],
)
def test_measured_numbers_in_text_are_found(text: str, found: int) -> None:
    assert len(list(typed_numbers(new_notebook(cells=[new_markdown_cell(text)])))) == found
    quoted = new_notebook(cells=[new_markdown_cell(text, metadata={"tags": ["quoted"]})])
    assert not list(typed_numbers(quoted))


def test_an_edition_has_no_solutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in LESSONS:
        notebook = nbformat.read(path, as_version=4)
        student = without_solutions(notebook)
        assert len(student.cells) + sum("solution" in tags(cell) for cell in notebook.cells) == len(notebook.cells)
        assert "solution_" not in "".join(cell.source for cell in student.cells)
        assert "Solutions are at the end" not in "".join(cell.source for cell in student.cells), path.name
    assert main(["edition", str(tmp_path / "out"), "03"]) == 0
    written = nbformat.read(tmp_path / "out" / "03_masked_elbo.ipynb", as_version=4)
    assert len(written.cells) < len(nbformat.read(HERE / "03_masked_elbo.ipynb", as_version=4).cells)
    with pytest.raises(SystemExit, match="exists"):
        main(["edition", str(tmp_path / "out"), "03"])
    with pytest.raises(SystemExit, match="no lesson begins with 99"):
        main(["numbers", "99"])


def shown_by(call: object, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], dict[str, dict[str, str]]]]:
    from tinydiff.views import notebook

    seen: list[tuple[dict[str, str], dict[str, dict[str, str]]]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata)))
    call(notebook)
    return seen


def test_figures_have_words_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    def draw(notebook: object) -> None:
        plt.close("all")  # of tests before this one
        plt.figure(figsize=(13, 4))
        plt.plot(np.random.default_rng(0).random(200))
        notebook.show("A <wild> line & more")
        assert not plt.get_fignums()
        with pytest.raises(ValueError, match="alt is empty"):
            notebook.show(" ")
        plt.close("all")

    [(data, metadata), (words, _)] = shown_by(draw, monkeypatch)
    assert words == {"text/html": "<details><summary>In words</summary>A &lt;wild&gt; line &amp; more</details>"}
    assert metadata["image/png"]["alt"] == data["text/plain"] == "A <wild> line & more"
    svg = data["image/svg+xml"]
    assert svg.startswith('<svg role="img" aria-label="A &lt;wild&gt; line &amp; more"')
    assert "<title>A &lt;wild&gt; line &amp; more</title>" in svg
    assert len(svg) < 40_000
    size = re.search(r'width="(\d+)pt" height="(\d+)pt" viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size, "a size and a viewBox"
    wide, high, across, down = map(float, size.groups())
    assert wide == 630 < across, "fits beside JupyterLab's list of files"
    assert abs(high / wide - down / across) < 0.01
    assert not re.search(r' d="[^"]*\.\d{3}', svg), "more decimals than can be seen"
    assert len(base64.b64decode(data["image/png"])) < 30_000


def test_a_film_is_a_picture_and_a_player_that_needs_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    import tinydiff as td
    from tinydiff.views.trajectory import record

    codec = td.data.Characters.of("abc")
    process = td.MaskedDiffusion(codec.vocab_size)
    model = td.Transformer(codec.vocab_size, 6, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
    trajectory = record(process.sample(model, 6, 1, rng=np.random.default_rng(0)), codec, "a title")
    (player, _), (picture, metadata), (words_below, _) = shown_by(
        lambda n: n.film(trajectory, alt="Six letters."), monkeypatch
    )
    before, script = player["text/html"].split("<script>")
    words = re.fullmatch(r'<div data-film="\w+"><p>(.*)</p></div>', before)
    assert words, "without scripts there are words to be read, and no button to be pressed"
    assert words[1].startswith("Six letters.")
    assert "a title" in script
    assert script.count("</script>") == 1
    assert script.endswith("</script>")
    assert "Six letters. step 0: ░░░░░░" in metadata["image/png"]["alt"]
    assert codec.decode(trajectory.frames[-1].state[0]) in metadata["image/png"]["alt"]
    assert set(picture) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] in unescape(words_below["text/html"])


def test_the_spectrum_says_where_you_are(monkeypatch: pytest.MonkeyPatch) -> None:
    [(data, _), _] = shown_by(lambda n: n.spectrum(["blocks", "one pass"]), monkeypatch)
    assert "You are at: blocks, one pass." in data["text/plain"]
    with pytest.raises(ValueError, match="here has nowhere; expected some of left to right"):
        shown_by(lambda n: n.spectrum("nowhere"), monkeypatch)


def test_exercises_say_what_is_missing_and_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    from tinydiff.views.notebook import attempt, predicted

    def double(x: int) -> int:
        raise NotImplementedError

    def right(x: int) -> int:
        return 2 * x

    def forgets(x: int) -> None:
        2 * x

    def half(x: int) -> int:
        return x // 2

    def check(f: object) -> None:
        assert f(3) == 6, f"of 3 expected 6, got {f(3)}"

    attempt(check, double)
    attempt(check, right)
    with pytest.raises(AssertionError, match="half: of 3 expected 6, got 1"):
        attempt(check, half)
    with pytest.raises(AssertionError, match=r"^forgets: it returned None: is its `return` missing"):
        attempt(check, forgets)
    predicted(None, 0.25)
    predicted(0.3, 0.25, "of the texts")
    predicted("high", "high")
    predicted("35%", 0.25)
    predicted(np.float32(0.5), 0.25)
    assert capsys.readouterr().out.splitlines() == [
        "double: not written yet; fill it in and run its cell and this one again",
        "right: correct",
        "answer: 0.25; you made no prediction",
        "answer: 0.25 of the texts; you said 0.3, which is 0.05 away",
        "answer: high; you said high, and you are right",
        "answer: 0.25; you said 35%",
        "answer: 0.25; you said 0.5, which is 0.25 away",
    ]


def test_running_twice_compares_equal() -> None:
    before = notebook_of("print(1)", "1\n")
    assert not list(differences(before.cells[0], deepcopy(before).cells[0]))


def test_every_statement_has_a_section_that_shows_it() -> None:
    """The table of the README: numbered without gaps, and each section it names is there and has code."""
    table = (HERE / "README.md").read_text("utf-8").split("## Which cell shows it")[1]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 60
    notebooks = {path.stem.split("_")[0]: nbformat.read(path, as_version=4).cells for path in LESSONS}
    for number, _, places in rows:
        for place in places.split(", "):
            lesson, _, section = place.partition(" §")
            if lesson == "zero" or place.startswith("docs/"):
                assert place == "zero" or (HERE.parent / place).exists(), f"row {number}: there is no {place}"
                continue
            assert section, f"row {number} names no section of {lesson}"
            cells = notebooks[lesson]
            starts = [i for i, cell in enumerate(cells) if re.search(rf"^## {section} ·", cell.source, re.MULTILINE)]
            assert starts, f"row {number}: lesson {lesson} has no section {section}"
            after = cells[starts[0] + 1 :]
            ends = [i for i, cell in enumerate(after) if re.search(r"^## ", cell.source, re.MULTILINE)]
            assert any(cell.cell_type == "code" for cell in after[: ends[0]]), f"row {number}: {place} has no code"


def test_run_stores_and_check_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lesson that is stored agrees with itself; one whose number was changed does not, and is named with the cell."""
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setattr("lessons.__main__.HERE", tmp_path)
    path = tmp_path / "09_tiny.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("text"), new_code_cell("print('mean'); print(0.25)")]), path)
    assert main(["run", "09"]) == 0
    stored = nbformat.read(path, as_version=4)
    assert [output.text for output in stored.cells[1].outputs] == ["mean\n0.25\n"]
    assert main(["check"]) == 0
    stored.cells[1].outputs[0].text = "mean\n0.26\n"
    nbformat.write(stored, path)
    capsys.readouterr()
    assert main(["check", "09"]) == 1
    assert "09_tiny.ipynb[1] prints 0.25; committed 0.26" in capsys.readouterr().out
