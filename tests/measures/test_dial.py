"""The dial: the cells of a sweep, the knee of a curve, and the command with its files."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import fails, tinydiff
from tinydiff import MaskedDiffusion, Options, Run, Transformer, data, decoders, load, train
from tinydiff.measures import dial, dial_report
from tinydiff.measures.texts import ByLaw


def cell(steps: int, scores: list[float], order: str = "random", temperature: float = 1.0) -> dial.Cell:
    columns = {"entropy": 1.0, "entropy_real": 2.0}
    return dial.Cell(order, steps, temperature, np.array(scores), 0.1, columns, np.zeros(3, int))


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sums, hardly trained; to be read only."""
    corpus, folder = data.load("sums"), tmp_path_factory.mktemp("runs") / "sums"
    model = Transformer(
        corpus.vocab_size, 9, d_model=8, layers=1, heads=2, positions="learned", rng=np.random.default_rng(0)
    )
    options = Options(steps=5, batch=8, warmup=5, evaluate_windows=64)
    for _ in train(Run(corpus, MaskedDiffusion(corpus.vocab_size), model, options, folder)):
        pass
    return folder


def test_knee_is_the_fewest_steps_that_make_90_percent_of_the_gain() -> None:
    """Not the best point, not the first rise; a flat or falling curve has its knee at the fewest steps."""
    steps = [1, 2, 4, 8]
    assert dial.knee_of(steps, np.array([0.1, 0.5, 0.92, 1.0])) == 4  # 0.1 + 0.9 * 0.9 = 0.91
    assert dial.knee_of(steps, np.array([0.1, 0.5, 0.90, 1.0])) == 8
    assert dial.knee_of(steps, np.array([0.0, 1.0, 0.2, 0.9])) == 2
    assert dial.knee_of(steps, np.array([0.5, 0.5, 0.5, 0.5])) == 1
    assert dial.knee_of(steps, np.array([0.9, 0.5, 0.4, 0.2])) == 1


def test_knee_interval_tells_sure_from_unsure() -> None:
    """Many texts that agree give a point; a few that do not give a range around it."""
    sure = [cell(1, [0.0] * 500), cell(2, [0.0] * 500), cell(4, [1.0] * 500), cell(8, [1.0] * 500)]
    assert dial.knee(sure, np.random.default_rng(0)) == (4, 4, 4)
    rng = np.random.default_rng(0)
    unsure = [cell(s, (rng.random(40) < p).astype(float)) for s, p in ((1, 0.0), (2, 0.8), (4, 0.85), (8, 0.9))]
    at, low, high = dial.knee(unsure, np.random.default_rng(0))
    assert low <= at <= high
    assert low < high


def test_ends_of_a_knee_are_numbers_of_steps() -> None:
    """Between two knees lies nothing that was measured."""
    unsure = [cell(4, [0.0] * 30), cell(8, [0.0] * 3 + [1.0] * 27), cell(16, [1.0] * 30)]
    assert set(dial.knee(unsure, np.random.default_rng(0))[1:]) <= {4, 8, 16}


def test_table_of_texts_without_a_valid_one(tmp_path: Path) -> None:
    """JSON knows no NaN."""
    unknown = dataclasses.replace(cell(1, [0.0, 0.0]), columns={"nll": float("nan"), "entropy": 0.0})
    dial_report.write_table(tmp_path / "table.json", [unknown])
    (row,) = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert row["nll"] is None
    assert row["entropy"] == 0


def test_every_order_has_its_own_decoder_and_look() -> None:
    """An order drawn like another, or swept as another; options that are lost on the way."""
    assert len(set(dial_report.COLOURS)) >= len(dial.WAYS) <= len(set(dial_report.MARKERS))
    assert len(set(dial.WAYS.values())) == len(dial.WAYS)
    made = dial.decoder_of("most_likely", 3, 0.5, 2.0)
    assert made == decoders.MostLikely(3, decoders.Draw(0.5), choice_temperature=2.0)
    assert dial.decoder_of("left_to_right", 3, 0.5, 2.0) == decoders.LeftToRight(3, decoders.Draw(0.5))
    assert dial.decoder_of("remask_cap", 30, 0.5) == decoders.RemaskCap(30, draw=decoders.Draw(0.5))


def test_plan_leaves_out_what_cannot_be() -> None:
    """Orders that commit for good stop at one step per position; those that mask again go on."""
    cells = dial.plan(9, [1, 9, 18], ["random", "remask_cap"], [1.0])
    assert cells == [("random", 1.0, 1), ("random", 1.0, 9), *[("remask_cap", 1.0, s) for s in (1, 9, 18)]]
    assert dial.default_steps(9) == [1, 2, 4, 8, 9]
    assert dial.default_steps(16) == [1, 2, 4, 8, 16]
    for arguments, words in (
        ((9, [0], ["random"], [1.0]), "steps is 0"),
        ((9, [10], ["random"], [1.0]), "steps is 10, but random takes at most one step per position, 9"),
        ((9, [1, 1], ["random"], [1.0]), "none twice"),
        ((9, [1], ["sideways"], [1.0]), "order is 'sideways'"),
        ((9, [1], ["random"], [-1.0]), "temperature is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            dial.plan(*arguments)


def test_cells_are_independent_of_each_other(sums: Path) -> None:
    """The same cell measured alone or after others: the same texts, so that a sweep can be taken up again in parts."""
    model, process, _, _ = load(sums)
    measure = ByLaw(data.LAWS["sums"]())

    def measured(cells: list) -> dial.Cell:
        *_, last = dial.sweep(model, process, 9, measure, cells, texts=70)
        return last

    alone = measured([("random", 1.0, 3)])
    after = measured([("low_confidence", 1.0, 2), ("random", 1.0, 3)])
    np.testing.assert_array_equal(alone.example, after.example)
    np.testing.assert_equal(alone.columns, after.columns)
    assert alone.scores.shape == (70,)
    # In one step all orders are the same decoder: equal texts would be the same random numbers, not independent ones.
    one, other = (measured([(order, 1.0, 1)]) for order in ("entropy", "margin"))
    assert (one.example != other.example).any()


def test_sweep_writes_table_figure_and_knees(sums: Path, tmp_path: Path) -> None:
    """The command a user runs."""
    out = tmp_path / "sweep.csv"
    done = tinydiff("sweep", sums, "--steps", "1,3", "--texts", 20, "--temperature", "1,0", "--out", out)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["order"], float(row["temperature"]), int(row["steps"])) for row in rows] == [
        (order, t, s) for order in ("low_confidence", "random") for t in (1.0, 0.0) for s in (1, 3)
    ]
    for row in rows:
        assert float(row["low"]) <= float(row["quality"]) <= float(row["high"])
        assert float(row["entropy"]) <= np.log(20) + 1e-9
        assert int(row["knee"]) in (1, 3)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.count("knee at") == 4
    assert "In 1 steps: " in done.stdout
    assert done.stderr.count("steps: ") == 8
    again = tinydiff("sweep", sums, "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_sweep_on_text_needs_a_judge(trained: Path, autoregressive: Path, tmp_path: Path) -> None:
    """Judged by the exact likelihood of another model, with real texts beside."""
    out = tmp_path / "dial.json"
    done = tinydiff("sweep", trained, "--judge", autoregressive, "--steps", "1,16", "--texts", 16, "--out", out)
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())[0]
    assert row["quality"] == pytest.approx(-row["nll"])
    assert {"entropy_real", "distinct", "distinct_real", "nll_real"} <= row.keys()


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """The table holds every finished cell, and the loop says that it was cut short."""
    from rich.console import Console

    def cells():
        yield cell(1, [0.0, 1.0])
        yield cell(2, [1.0, 1.0])
        raise KeyboardInterrupt

    out = tmp_path / "sweep.csv"
    done, stopped = dial_report.follow(Console(quiet=True), cells(), 5, out)
    assert stopped
    assert [c.steps for c in done] == [1, 2]
    assert [row["steps"] for row in csv.DictReader(out.read_text().splitlines())] == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1,two"], "steps is '1,two'; expected whole numbers separated by commas"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--order", "sideways"], "order is 'sideways'"),
        (["--texts", 1], "texts is 1"),
        (["--out", "dial.txt"], "expected a name ending in .csv or .json"),
        (["--judge", "somewhere"], "the law of sums is known"),
        (["--seed", -1], "--seed is -1"),
    ],
)
def test_sweep_refuses(
    options: list[object], message: str, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Options that measure nothing."""
    monkeypatch.setenv("COLUMNS", "1000")
    out = [] if "--out" in options else ["--out", tmp_path / "sweep.csv"]
    code, error = fails(capsys, monkeypatch, "sweep", sums, *out, *options)
    assert message in error
    assert code == 2


def test_sweep_refuses_runs(
    trained: Path, autoregressive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs without steps, texts without a law, judges that are none."""
    monkeypatch.setenv("COLUMNS", "1000")
    for arguments, message in (
        ([autoregressive], "only masked ones have steps to sweep"),
        ([trained], "judge is missing"),
        ([trained, "--judge", trained], "expected an autoregressive one"),
    ):
        code, error = fails(capsys, monkeypatch, "sweep", *arguments)
        assert message in error
        assert code == 2
