"""Many runs from a table: what is refused before anything is written, what is trained, and what is said of it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.test_cli import fails, tinydiff
from tinydiff import Run, train
from tinydiff.cli import runs as command
from tinydiff.learning.checkpoint import read_config
from tinydiff.learning.table import Group, Row, groups, read_table, result_of, share_of, state_of, student

if TYPE_CHECKING:
    from conftest import Runs

KNOWN = ["text", "process", "seed", "steps", "d_model", "size", "block_length"]
SMALL = {"length": "16", "batch": "4", "d_model": "8", "layers": "1", "heads": "2"}
needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML is read by Python 3.11 and newer")


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- tables -----------------------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    """A column by any of its names, a cell that is empty, a line that is."""
    file = table(tmp_path / "t.csv", "--process,d-model,seed\n masked ,8,0\n\nblock,,1\n")
    rows = read_table(file, KNOWN)
    assert [row.options for row in rows] == [
        {"process": "masked", "d_model": "8", "seed": "0"},
        {"process": "block", "seed": "1"},
    ]
    assert [row.where for row in rows] == ["row 2", "row 4"]
    assert rows[0].name == "d_model-8,process-masked,seed-0"


@needs_toml
def test_toml(tmp_path: Path) -> None:
    """Every combination of the lists, and of each table with what is outside."""
    file = table(
        tmp_path / "t.toml",
        'steps = 5\nseed = [0, 1]\n[[runs]]\nprocess = ["masked", "bert"]\n[[runs]]\nprocess = "block"\nsteps = 7\n',
    )
    rows = read_table(file, KNOWN)
    assert len(rows) == 6
    assert rows[3].options == {"steps": "5", "seed": "1", "process": "bert"}
    assert rows[5].options == {"steps": "7", "seed": "1", "process": "block"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed,stepz\n1,2\n", r"t\.csv, row 1, column 2 \('stepz'\): tinydiff train has no such option; is it steps\?"),
        ("seed,seed\n1,2\n", r"row 1, column 2 \('seed'\): it is there twice"),
        ("seed\n1\n2,3\n", r"row 3, column 2 \('3'\): it has no name"),
        ("seed\n1\n1\n", r"row 3: the same as row 2"),
        ("seed\n", "has no runs"),
        ("", "has no runs"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Without row and column one would have to search for it."""
    with pytest.raises(ValueError, match=words):
        read_table(table(tmp_path / "t.csv", text), KNOWN)


@needs_toml
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 1", r"t\.toml, 'stepz': tinydiff train has no such option; is it steps\?"),
        ("[[runs]]\nseed = 1\n[[runs]]\nsizes = 'S'", r"table 2 of \[\[runs\]\], 'sizes': .* is it size\?"),
        ("seed = [1, true]", r"'seed': True; expected text, numbers, or a list of them"),
        ("seed = []", "'seed': an empty list"),
        ("runs = 3", r"write \[\[runs\]\] above each"),
        ("seed = ", "is not TOML"),
        ("", "has no runs"),
        (f"seed = {[*range(101)]}\nsteps = {[*range(100)]}", "more than 10,000 runs"),
    ],
)
def test_toml_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match=words):
        read_table(table(tmp_path / "t.toml", text), KNOWN)


def test_names_of_folders() -> None:
    """Two runs in one folder; a folder outside; one that no system takes."""
    names = [
        Row("", options).name
        for options in ({"text": "a/b"}, {"text": "a_b"}, {"text": "../x"}, {"text": "x" * 500}, {"text": "x" * 501})
    ]
    assert len({*names}) == 5
    assert all("/" not in name and len(name) <= 120 and not name.startswith(".") for name in names)
    assert Row("", {"b": "1", "a": "2"}).name == Row("", {"a": "2", "b": "1"}).name


def test_an_array_has_every_row_once() -> None:
    """A row that no task trains, or two do."""
    rows = [Row(str(i), {"seed": str(i)}) for i in range(7)]
    parts = [share_of(rows, f"{i}/3") for i in range(3)]
    assert sorted(row.where for part in parts for row in part) == list("0123456")
    for part in ("3/3", "1", "-1/3", "1/0", "a/b"):
        with pytest.raises(ValueError, match="--array is"):
            share_of(rows, part)


def test_intervals() -> None:
    """Student's quantiles: to three places, those of tables, and the interval covers the mean in 95 of 100 cases."""
    for freedom, value in ((1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (120, 1.980)):
        assert student(freedom) == pytest.approx(value, abs=1e-3)
    drawn = np.random.default_rng(0).standard_normal((4000, 3))
    found = [Group({}, list(x), 3) for x in drawn]
    covered = np.mean([abs(group.mean) <= group.half for group in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)  # two-sided, 4 standard errors
    assert math.isnan(Group({}, [1.0], 1).half)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("masked,0,x", r"row 3, column 'd-model'"),
        ("masqued,0,8", r"row 3, column 'process'"),
        ("flow,0,8", r"row 3: process is 'flow'"),
        ("masked,0,7", r"row 3: "),
    ],
)
def test_nothing_is_trained_if_a_row_is_wrong(
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: str,
) -> None:
    """A mistake in the last row that is found when all others are trained."""
    file = table(
        tmp_path / "t.csv",
        f"process,seed,d-model,text,heads\nmasked,1,8,{runs.text},2\n{line},{runs.text},2\n",
    )
    code, error = fails(capsys, monkeypatch, "sweep-runs", file, "--out", tmp_path / "out")
    assert code == 2
    __import__("re").compile(words).search(error) or pytest.fail(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def rows_of(runs: Runs, **options: str) -> list[Row]:
    """Two processes, two seeds."""
    return [
        Row("", {"text": str(runs.text), **SMALL, "process": process, "seed": str(seed), **options})
        for process in ("masked", "autoregressive")
        for seed in (0, 1)
    ]


def written(path: Path, rows: list[Row]) -> Path:
    names = list(rows[0].options)
    lines = [",".join(names), *(",".join(row.options[name] for name in names) for row in rows)]
    return table(path, "\n".join(lines))


def test_new_ones_are_trained_stopped_ones_go_on_and_finished_ones_stay(runs: Runs, tmp_path: Path) -> None:
    """All again from the start, or a table of half of them."""
    out, rows = tmp_path / "out", rows_of(runs, steps="12")
    file = written(tmp_path / "t.csv", rows)
    for row, until in zip(rows[:2], (12, 5), strict=True):
        run = runs.new(None, steps=12, batch=4, evaluate_every=12, seed=int(row.options["seed"]))
        run.write_to(out / row.name)
        runs.train(run, until)
    before = (out / rows[0].name / "state.safetensors").read_bytes()
    part = tinydiff("sweep-runs", file, "--out", out, "--array", "0/4")
    assert part.returncode == 0, part.stderr
    assert "1 of 4 runs are finished" in part.stderr
    assert not (out / "runs.csv").exists()

    done = tinydiff("sweep-runs", file, "--out", out, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert f"{rows[1].name}: goes on from step 5 of 12" in done.stderr
    assert f"{rows[0].name}:" not in done.stderr
    assert (out / rows[0].name / "state.safetensors").read_bytes() == before
    assert [state_of(out / row.name) for row in rows] == [(12, 12)] * 4
    assert read_config(out / rows[3].name)["training"]["seed"] == 1
    found = groups(rows, out)
    assert [group.options for group in found] == [{"process": "masked"}, {"process": "autoregressive"}]
    assert found[0].results == [result_of(out / row.name) for row in rows[:2]]
    assert f"{found[0].mean:.4f}  +- {found[0].half:.4f}  process masked" in done.stdout
    assert (out / "runs.csv").read_text().splitlines()[0] == "process,runs,mean,half_of_95,results"
    assert (out / "runs.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_stops_all_of_them_and_they_are_saved(runs: Runs, tmp_path: Path) -> None:
    """Runs that go on by themselves, or lose what they have done."""
    out, rows = tmp_path / "out", rows_of(runs, steps="1000000")[:2]
    file = written(tmp_path / "t.csv", rows)
    words = [sys.executable, "-m", "tinydiff", "sweep-runs", str(file), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not all((out / row.name / "log.jsonl").exists() for row in rows):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # to it alone
        _, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.count("stopped, see") == 2
    for row in rows:
        assert not (out / row.name / "training.lock").exists()
        assert Run.resume(out / row.name).step > 0
        assert result_of(out / row.name) is None


def test_a_run_that_fails_does_not_stop_the_others(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One broken checkpoint, and a night's work is not done; or nobody is told."""
    out, rows = tmp_path / "out", rows_of(runs, steps="3")[:2]
    run = runs.new(out / rows[0].name, steps=3, evaluate_every=3)
    list(train(run))
    (out / rows[0].name / "config.json").write_text("{}")
    started: list[Any] = []

    class Done:
        returncode = 0

        def __init__(self, words: list[str], **options: Any) -> None:
            started.append((words, options["env"]["OMP_NUM_THREADS"]))

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(command.subprocess, "Popen", Done)
    monkeypatch.setattr(command, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert command.run_all(rows, out, 3) == 1
    ((words, threads),) = started
    assert words[3:6] == ["train", "--text", str(runs.text)]
    assert words[-1] == f"--out={out / rows[1].name}"
    assert threads == "2"
    assert "config.json" in capsys.readouterr().err
