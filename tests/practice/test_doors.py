"""The terminal, the notebook, pytest and the teacher's page; and answers that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_cli

from tinydiff.practice import check, check_file, hint
from tinydiff.practice import progress as kept
from tinydiff.practice.catalogue import QUESTIONS, SERIES, find, series_of, sheet, solution
from tinydiff.practice.classroom import mistakes, page, results
from tinydiff.practice.question import Choice, Function, Number

RIGHT = """
import math
practice = "3"
answers = {"3.1": "70 %", "3.3": "a", "3.5": math.sqrt(.75 * .25 / 64), "3.6": "b", "3.7": "B)"}
answers |= {"3.9": 0.62, "3.10": "0.00971"}

def many_steps(betas, vocab_size):
    import numpy as np
    alpha = np.prod(1 - betas)
    return alpha * np.eye(vocab_size) + (1 - alpha) / vocab_size

def unmasking(alpha_s, alpha_t):
    return (1 - alpha_s) / (1 - alpha_t), (alpha_s - alpha_t) / (1 - alpha_t)

def generator(weights):
    import numpy as np
    return weights - np.diag(weights.sum(axis=0))
"""


def tinydiff(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return test_cli.tinydiff("practice", *arguments, cwd=cwd)


def verdicts(folder: Path, source: str, seconds: float = 20) -> dict[str, str]:
    """What is said about a sheet, with the kind in front."""
    path = folder / "sheet.py"
    path.write_text(source)
    return {name: f"{verdict.kind}: {verdict.says}" for name, verdict in check_file(path, seconds)}


# --- sheets -----------------------------------------------------------------------------------------------------------


def test_a_whole_set_from_a_sheet(tmp_path: Path) -> None:
    """Ten right answers, as numbers, text and functions."""
    found = verdicts(tmp_path, RIGHT)
    assert list(found) == SERIES["3"].ids()
    assert all(line.startswith("right: Right") for line in found.values()), found


@pytest.mark.parametrize("key", ["1", "recipe"])
def test_an_empty_sheet(key: str, tmp_path: Path) -> None:
    """Every question is on it, and none is answered."""
    found = verdicts(tmp_path, sheet(key))
    assert list(found) == SERIES[key].ids()
    assert {line.split(":")[0] for line in found.values()} <= {"missing", "unwritten"}


def test_a_function_without_a_sheet(tmp_path: Path) -> None:
    """Its name says which question it answers; one that was imported is no answer."""
    assert list(verdicts(tmp_path, "def weight(t, power):\n    return power / t")) == ["4.3"]
    assert verdicts(tmp_path, "from tinydiff.practice.sets.elbo import weight") == {}
    assert verdicts(tmp_path, "x = 3") == {}


def test_a_helper_with_the_name_of_another_question(tmp_path: Path) -> None:
    """Only the questions of the sheet's own set are looked at."""
    source = 'practice = "recipe"\ndef weight(k):\n    return 1 / k\ndef masked_loss(*arguments):\n    return None'
    assert list(verdicts(tmp_path, source)) == ["recipe"]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("import time\n    while True: time.sleep(.01)", "late", "not ended"),
        (
            "import time\n    while True:\n        try:\n            time.sleep(.01)\n"
            "        except BaseException:\n            pass", "late", "not ended",
        ),
        ("import os; os.remove(VICTIM)", "forbidden", "delete victim"),
        ("import shutil; shutil.rmtree(FOLDER)", "forbidden", "delete"),
        ("open(VICTIM, 'w').write('x')", "forbidden", "write victim"),
        (
            "import threading\n    job = threading.Thread(target=lambda: open(VICTIM, 'w'))\n    job.start()\n"
            "    job.join()\n    return power / t", "right", "Right",
        ),
        ("import pathlib; pathlib.Path(VICTIM).rename(VICTIM + 'x')", "forbidden", "rename"),
        ("import os; os.system('true')", "forbidden", "start a program"),
        ("import subprocess; subprocess.run(['true'])", "forbidden", "start a program"),
        ("import socket; socket.create_connection(('localhost', 9))", "forbidden", "network"),
        ("return float(input('t?'))", "forbidden", "asks for input"),
        ("import sys; sys.exit(3)", "raises", "ends the program"),
        ("import os; os._exit(0)", "raises", "ended Python"),
        ("import os; os.abort()", "raises", "ended Python"),
        ("return weight(t, power)", "raises", "calls itself without end"),
        ("return bytearray(1 << 36)", "raises", "memory"),
        ("return undefined", "raises", "NameError"),
        ("return 'power / t'", "type", "str"),
        ("return {'a': 1}", "type", "dict"),
        ("return weight", "type", "function"),
        ("return (power / t) * 1j", "type", "complex"),
        ("return [[1], [1, 2]]", "type", "no array"),
        ("print('x' * 10**7); return power / t", "right", "Right"),
        ("import sys; sys.stdout.write('a'); sys.stderr.write('b'); return power / t", "right", "Right"),
    ],
)  # fmt: skip
def test_answers_that_misbehave(body: str, kind: str, says: str, tmp_path: Path) -> None:
    """A kind sentence; nothing is lost, and what comes after is checked."""
    folder = tmp_path / "precious"
    folder.mkdir()
    victim = folder / "victim.txt"
    victim.write_text("precious")
    source = f"VICTIM, FOLDER = {str(victim)!r}, {str(folder)!r}\ndef weight(t, power):\n    {body}\n"
    source += "answers = {'3.1': 0.7, '5.6': 0.307}\n"
    start = time.monotonic()
    found = verdicts(tmp_path, source, 4)
    assert time.monotonic() - start < 60
    assert found["4.3"].startswith(f"{kind}: ")
    assert says.lower() in found["4.3"].lower()
    assert found["3.1"] == found["5.6"] == "right: Right."
    assert victim.read_text() == "precious"
    for process in Path("/proc").glob("[0-9]*/cmdline"):  # on Linux: nothing is left running
        with contextlib.suppress(OSError):
            assert os.fsencode(tmp_path) not in process.read_bytes()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def weight(t, power:\n    pass", "no Python"), ("\x00", "no Python"), ("1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "ModuleNotFoundError"), ("raise SystemExit(2)", "SystemExit"),
        ("import time\nwhile True: time.sleep(.01)", "not ended"), ("input()", "asks for input"),
        ("open('/nowhere/x', 'w')", "tries to write"),
        ("import os; os._exit(3)", "ended Python"),
    ],
)  # fmt: skip
def test_sheets_that_cannot_be_read(source: str, says: str, tmp_path: Path) -> None:
    """One sentence about the file."""
    found = verdicts(tmp_path, source, 3)
    assert list(found) == [""]
    assert says in found[""]


def test_answers_of_all_kinds_of_values(tmp_path: Path) -> None:
    """Whatever stands in the dictionary, there is a sentence."""
    source = "answers = {'3.1': [1], '3.3': 3, '3.5': open, '3.9': 'many', '3.10': None, 3.6: 'b', 'x': 1}"
    found = verdicts(tmp_path, source)
    assert {name: line.split(":")[0] for name, line in found.items()} == {
        "3.1": "type", "3.3": "type", "3.5": "type", "3.6": "right", "3.9": "type", "3.10": "missing",
    }  # fmt: skip


def test_scratch_folders_may_be_used_and_are_gone(tmp_path: Path) -> None:
    """An answer may write where it is run, which is not where the sheet is."""
    source = "open('notes.txt', 'w').write('x')\ndef weight(t, power):\n    return power / t"
    assert verdicts(tmp_path, source) == {"4.3": "right: Right."}
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.py"]


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_check_in_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    """It shows itself: the verdict, and the explanation once it is right."""
    wrong, right = check("3.1", 0.6), check("3.1", 0.7)
    assert repr(wrong) == "Not yet. A token that is drawn anew may come out the same."
    assert repr(right).startswith("Right.\nalpha is the probability")
    assert check("3.1", "seventy").kind == "type"
    assert check("2.4", "b").right
    assert check("4.3", lambda t, power: power / t).right
    assert "hand in the function itself" in check("4.3", 3.0).says
    assert capsys.readouterr().out == ""


def test_check_stops_what_never_ends_and_keeps_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the notebook's own process."""

    def forever(t: float, power: float) -> float:
        print("going round")
        while True:
            pass

    start = time.monotonic()
    verdict = check("4.3", forever, seconds=0.5)
    assert verdict.kind == "late"
    assert verdict.printed == "going round"
    assert time.monotonic() - start < 10
    monkeypatch.setattr("builtins.input", lambda: "7")  # as in a notebook, where somebody would be asked
    assert check("4.3", lambda t, power: input()).kind == "forbidden"
    assert input() == "7"
    time.sleep(0.6)  # the time limit of an answer that is through must not strike later


def test_check_lets_nothing_be_deleted(tmp_path: Path) -> None:
    """Nor does the rail stand after the check."""
    victim = tmp_path / "victim"
    victim.write_text("x")
    assert check("4.3", lambda t, power: os.remove(victim)).kind == "forbidden"
    assert victim.exists()
    victim.unlink()


def test_hints_one_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """And no more than there are."""
    for count in (1, 2, 2):
        hint("8.1")
        assert capsys.readouterr().out.count("Hint ") == count


@pytest.mark.parametrize(
    ("name", "says"),
    [("3", "3.1 to 3.10"), (1.1, "in quotes"), ("9.9", "expected"), ("recpe", "recipe"), ("", "1.1 to 8.10")],
)
def test_names_that_are_none(name: object, says: str) -> None:
    """The error says what would be right."""
    with pytest.raises(ValueError, match=says):
        find(name)
    if name not in ("3", 1.1):
        with pytest.raises(ValueError, match="expected"):
            series_of(str(name))


# --- pytest -----------------------------------------------------------------------------------------------------------


def run_pytest(folder: Path, *arguments: str) -> str:
    others = [word for name in ("cacheprovider", "xdist", "hypothesispytest", "anyio") for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", *others, *arguments]
    variables = os.environ | {"PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, env=variables)
    return done.stdout + done.stderr


def test_pytest_door(tmp_path: Path) -> None:
    """A test for each question, with the checker's sentence, and none of pytest's own of the same file."""
    path = tmp_path / "set3.py"
    path.write_text(RIGHT.replace("0.62", "0.38") + "\ndef test_of_my_own():\n    assert False\n")
    said = run_pytest(tmp_path, "--practice", "set3.py")
    assert "1 failed, 9 passed" in said
    assert "This is the share of the valid ones." in said
    assert "Traceback" not in said
    assert "is not there" in run_pytest(tmp_path, "--practice", "set4.py")
    path.write_text("while")
    assert "The file is no Python" in run_pytest(tmp_path, "--practice", "set3.py")


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_a_set_in_the_terminal(tmp_path: Path) -> None:
    """List, next, hint, answer, sheet, check, solution; progress stays."""
    assert "Noise for tokens                                0 of 10" in tinydiff(cwd=tmp_path).stdout
    asked = tinydiff("next", "3", cwd=tmp_path)
    assert asked.stdout.startswith("3.1  Chance hits")
    assert "tinydiff practice answer 3.1" in asked.stdout
    wrong = tinydiff("answer", "3.1", "0.6", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (1, "✗ A token that is drawn anew may come out the same.\n")
    assert tinydiff("hint", "3.1", cwd=tmp_path).stdout.count("Hint") == 1
    assert tinydiff("hint", "3.1", cwd=tmp_path).stdout.count("Hint") == 2
    assert "✓ Right." in tinydiff("answer", "3.1", "0.7", cwd=tmp_path).stdout
    asked = tinydiff("next", "3", cwd=tmp_path)
    assert asked.stdout.startswith("3.2  Many steps")
    assert "practice/set3.py" in asked.stdout.replace("\\", "/")
    assert tinydiff("sheet", "3", cwd=tmp_path).returncode == 0
    again = tinydiff("sheet", "3", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    path = tmp_path / "practice" / "set3.py"
    path.write_text(RIGHT)
    checked = tinydiff("check", path, cwd=tmp_path)
    assert (checked.returncode, "10 of 10 right" in checked.stdout) == (0, True)
    assert "Noise for tokens                               10 of 10" in tinydiff("list", cwd=tmp_path).stdout
    state = json.loads((tmp_path / "practice" / "progress.json").read_text())
    assert state["version"] == 1
    assert state["questions"]["3.1"] == {"tries": 3, "hints": 2, "right": True, "shown": False}
    path.write_text(RIGHT.replace("0.62", "0.5"))
    checked = tinydiff("check", path, cwd=tmp_path)
    assert (checked.returncode, "✗ 3.9" in checked.stdout, "9 of 10" in checked.stdout) == (1, True, True)
    assert "Noise for tokens                               10 of 10" in tinydiff("list", cwd=tmp_path).stdout, (
        "stays right"
    )


def test_solutions_open_when_it_is_over(tmp_path: Path) -> None:
    """After a pass, or on giving up."""
    refused = tinydiff("solution", "recipe", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--give-up" in refused.stderr
    assert not (tmp_path / "practice").exists()
    shown = tinydiff("solution", "recipe", "--give-up", cwd=tmp_path)
    assert "def masked_loss" in shown.stdout
    assert "Better still" in shown.stdout
    assert "1 shown" in tinydiff(cwd=tmp_path).stdout
    tinydiff("answer", "3.9", "0.62", cwd=tmp_path)
    assert tinydiff("solution", "3.9", cwd=tmp_path).stdout.startswith("0.62\n")


def test_watch_checks_again_when_the_file_is_saved(tmp_path: Path) -> None:
    """And ends when all is right."""
    path = tmp_path / "sheet.py"
    path.write_text("def weight(t, power):\n    return 1 / t\n")
    command = [sys.executable, "-m", "tinydiff", "practice", "watch", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert "linear schedule's" in lines[1]
        path.write_text("def weight(t, power):\n    return power / t\n")
        assert "1 of 1 right" in process.stdout.read()
    assert process.returncode == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}', '{"version": "x", "questions": {}}', "\xff\xfe",
                                     '{"version": 1, "questions": {"3.1": {"tries": "x"}}}', ""])  # fmt: skip
def test_damaged_progress_is_put_aside(content: str, tmp_path: Path) -> None:
    """Nothing of it is lost."""
    (tmp_path / "progress.json").write_text(content, encoding="latin-1")
    state = kept.load(tmp_path)
    assert "damaged" in state.notice
    state.tried("3.1", True)
    state.save()
    assert kept.load(tmp_path).of("3.1").right
    assert (tmp_path / "progress.damaged-1.json").read_text(encoding="latin-1") == content


def test_progress_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """A sentence, exit code 2, and not a byte changed."""
    path = tmp_path / "practice" / "progress.json"
    path.parent.mkdir()
    path.write_text('{"version": 2, "things": 1}')
    done = tinydiff("answer", "3.1", "0.7", cwd=tmp_path)
    assert done.returncode == 2
    assert "newer tinydiff" in done.stderr
    assert path.read_text() == '{"version": 2, "things": 1}'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("answer", "3.2", "1"), "asks for a function"), (("answer", "12.1", "1"), "no question"),
        (("next", "9"), "no set or problem"), (("check", "nothing.py"), "is not there"),
        (("watch", "nothing.py"), "is not there"),
        (("class", "nowhere"), "no folder"), (("sheet", "0"), "no set or problem"),
    ],
)  # fmt: skip
def test_what_is_asked_for_must_exist(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """One line, exit code 2."""
    done = tinydiff(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_sitting(tmp_path: Path) -> None:
    """On a terminal `next` asks one question after the other."""
    import pty

    main, other = pty.openpty()
    command = [sys.executable, "-m", "tinydiff", "practice", "next", "3"]
    variables = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other, cwd=tmp_path, env=variables) as process:
        os.close(other)
        os.write(main, b"hint\n0.6\n0.7\nskip\ngive up\nstop\n")
        said = b""
        try:
            while piece := os.read(main, 4096):
                said += piece
        except OSError:  # the other end is closed
            pass
    os.close(main)
    text = said.decode()
    assert process.returncode == 0
    for words in (
        "Hint 1 of 2",
        "may come out the same",
        "Right.",
        "Many steps in one matrix",
        "Eigenvalues",
        "a)  1 once",
    ):
        assert words in text, words
    state = kept.load(tmp_path / "practice")
    assert (state.of("3.1").right, state.of("3.1").tries, state.of("3.2").over, state.of("3.3").shown) == (
        True,
        2,
        False,
        True,
    )
    assert (tmp_path / "practice" / "set3.py").is_file()


# --- the teacher's page -----------------------------------------------------------------------------------------------


def test_the_page_of_a_class(tmp_path: Path) -> None:
    """A row for each learner; the frequent mistakes; nothing to fetch; names cannot break out."""
    (tmp_path / "ada.py").write_text(RIGHT)
    (tmp_path / "ben.py").write_text(RIGHT.replace("70 %", "0.6").replace("0.62", "0.38"))
    (tmp_path / "<b>eve").mkdir()
    (tmp_path / "<b>eve" / "set3.py").write_text(RIGHT.replace("70 %", "60 %"))
    (tmp_path / "<b>eve" / "broken.py").write_text("while")
    every = results(tmp_path)
    assert [(r.learner, r.right) for r in every] == [("<b>eve", 9), ("ada", 10), ("ben", 8)]
    assert "broken.py: The file is no Python" in every[0].broken
    assert mistakes(every)[0] == ("3.1", "A token that is drawn anew may come out the same.", 2)
    html = page(every)
    assert "&lt;b&gt;eve" in html
    assert "<b>eve" not in html
    assert "http" not in html
    done = tinydiff("class", tmp_path, "--html", tmp_path / "out" / "class.html", cwd=tmp_path)
    assert done.returncode == 0
    assert "ada                       10 of 10 right" in done.stdout
    assert (tmp_path / "out" / "class.html").read_text("utf-8") == html


def test_solutions_answer_their_own_questions() -> None:
    """What `solution` prints is right."""
    for name, question in QUESTIONS.items():
        if isinstance(question.asks, Number):
            assert check(name, solution(name)).right, name
        elif isinstance(question.asks, Choice):
            assert check(name, solution(name)[0]).right, name
        else:
            assert isinstance(question.asks, Function)
            assert f"def {question.asks.name}(" in solution(name)
