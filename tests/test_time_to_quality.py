"""The leaderboard of benchmarks/time_to_quality.py, and what benchmarks/laptops.py makes of two measurements."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks.time_to_quality")
from benchmarks import laptops
from benchmarks.quality_cases import ENTRIES, REFERENCE, SEEDS, Board
from benchmarks.quality_ours import run_of
from benchmarks.time_to_quality import COMMITTED, committed, cost_of_rounding, key_of, markdown_of, rows_of
from tinydiff import MaskedDiffusion, kernels

BOARD: Board = ("S", "masked")


def results(bits: dict[str, list[float]], ms: dict[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `train` and `time` leave behind."""
    kept = {key_of(BOARD, name, s): {"bits": b} for name, found in bits.items() for s, b in enumerate(found)}
    return kept, {"S masked": {name: [t / 1e3, t / 1e3, t / 1e3] for name, t in ms.items()}}


def test_what_an_entry_says_arrives_in_its_run() -> None:
    """Positions, precision, estimator, rates or steps of another recipe under an entry's name."""
    for name, entry in ENTRIES.items():
        if entry.module == "quality_ours" and (entry.precision == "full" or kernels.has_bfloat16()):
            for board, steps in entry.steps.items():
                run = run_of(entry, board, seed=1)
                assert (run.model.positions, run.model.precision) == (entry.positions, entry.precision), name
                assert (run.options.steps, run.options.lr, run.options.optimiser, run.options.seed) == (
                    steps, entry.lr[board], entry.optimiser, 1,
                ), name  # fmt: skip
                if isinstance(run.process, MaskedDiffusion):
                    assert run.process.estimator == entry.estimator, name


def test_an_entry_counts_if_its_mean_is_at_the_level_or_below() -> None:
    bits = {REFERENCE: [2.6, 2.7, 2.8], "tinydiff, AdamW": [2.5, 2.5, 2.8], "tinydiff, Muon": [2.5, 2.8, 2.81]}
    rows = rows_of(BOARD, *results(bits, {REFERENCE: 20, "tinydiff, AdamW": 15, "tinydiff, Muon": 10}))
    assert [row["entry"] for row in rows] == ["tinydiff, Muon", "tinydiff, AdamW", REFERENCE]  # the fastest first
    assert [row["reaches"] for row in rows] == [False, True, True]
    muon = rows[0]
    assert muon["seconds"] == pytest.approx(1100 * 0.010)
    assert muon["of_reference"] == pytest.approx(11 / 60)
    assert muon["spread"] == pytest.approx(np.std([2.5, 2.8, 2.81], ddof=1))


def test_an_entry_that_lacks_a_seed_or_its_time_is_left_out() -> None:
    bits = {REFERENCE: [2.6, 2.7, 2.8], "tinydiff, AdamW": [2.5, 2.5], "tinydiff, Muon": [2.5, 2.8, 2.81]}
    rows = rows_of(BOARD, *results(bits, {REFERENCE: 20, "tinydiff, AdamW": 15}))
    assert rows == []  # nobody beside the one that sets the level
    bits["tinydiff, AdamW"].append(2.5)
    rows = rows_of(BOARD, *results(bits, {REFERENCE: 20, "tinydiff, AdamW": 15}))
    assert [row["entry"] for row in rows] == ["tinydiff, AdamW", REFERENCE]
    assert rows_of(BOARD, *results({"tinydiff, Muon": [2.5, 2.8, 2.81]}, {"tinydiff, Muon": 10})) == []


def test_a_new_entry_is_judged_beside_the_committed_ones() -> None:
    """Whoever enters trains one entry, not all of them: the bits of the others are in the repository."""
    rows = [row for row in json.loads(COMMITTED.read_text())["rows"] if row["board"] == " ".join(BOARD)]
    bits, names = committed(), [row["entry"] for row in rows]
    assert {key_of(BOARD, REFERENCE, seed) for seed in SEEDS[BOARD]} <= set(bits)
    seconds = {"S masked": dict.fromkeys(names, [0.01] * 3)}
    mine = {key_of(BOARD, "tinydiff, Muon", seed): {"bits": 1.0} for seed in SEEDS[BOARD]}
    rows = rows_of(BOARD, bits | mine, seconds)
    assert {row["entry"] for row in rows} == set(names)
    assert [row["mean"] for row in rows if row["entry"] == "tinydiff, Muon"] == [1.0]
    for row in json.loads(COMMITTED.read_text())["rows"]:
        if row["board"] == "S masked" and row["entry"] != "tinydiff, Muon":
            assert next(r for r in rows if r["entry"] == row["entry"])["bits"] == row["bits"]


def test_the_tables_of_the_readme_are_the_committed_ones() -> None:
    """Whoever saves a new leaderboard puts it there too: `report --markdown`."""
    readme = COMMITTED.with_name("README.md").read_text("utf-8")
    assert markdown_of(json.loads(COMMITTED.read_text())["rows"]) in readme


def test_rounding_is_paired_by_seed() -> None:
    bits = {REFERENCE: [3.0] * 3, "tinydiff, Muon": [2.5, 2.6, 2.7], "tinydiff, Muon, bfloat16": [2.51, 2.62, 2.70]}
    cost = cost_of_rounding(rows_of(BOARD, *results(bits, dict.fromkeys(bits, 10.0))))
    assert cost["bits"] == pytest.approx([0.01, 0.02, 0.0])
    assert cost["mean"] == pytest.approx(0.01)
    assert cost["error"] == pytest.approx(0.01 / np.sqrt(3))
    assert cost_of_rounding([]) == {}


def test_the_committed_leaderboard_is_of_these_entries() -> None:
    rows = json.loads(COMMITTED.read_text())["rows"]
    boards = {" ".join(board): board for board in SEEDS}
    for row in rows:
        board = boards[row["board"]]
        assert row["steps"] == ENTRIES[row["entry"]].steps[board], row["entry"]
        assert len(row["bits"]) == len(SEEDS[board])
        assert row["seconds"] == pytest.approx(row["steps"] * row["ms"] / 1e3)


def test_only_what_a_second_thread_shortens_shrinks_with_more() -> None:
    found = {1: {"matmul": 8.0, "rotary": 1.0, laptops.ELSEWHERE: 1.0}}
    found[2] = {"matmul": 4.0, "rotary": 0.75, laptops.ELSEWHERE: 0.5}  # faster elsewhere by chance
    assert laptops.on_cores(1, found) == pytest.approx(10)
    assert laptops.on_cores(2, found) == pytest.approx(4 + 0.75 + 1)
    assert laptops.on_cores(4, found) == pytest.approx(2 + 0.5 + 0.5 / 4 + 1)
    slower = {1: {"matmul": 8.0}, 2: {"matmul": 9.0}}
    assert laptops.on_cores(8, slower) == pytest.approx(8)
    faster = {1: {"matmul": 8.0}, 2: {"matmul": 3.0}}  # by chance: not faster than twice
    assert laptops.on_cores(2, faster) == pytest.approx(4)
