"""The table of benchmarks/README.md is what benchmarks/lineage.json says."""

import json
from pathlib import Path

import pytest

lineage = pytest.importorskip("benchmarks.lineage")
HERE = Path(lineage.__file__).parent


def test_the_table_is_what_was_measured() -> None:
    """Row by row; and where a trained model misses the exact figure, it is one of those that the text explains."""
    results = json.loads((HERE / "lineage.json").read_text("utf-8"))
    text = (HERE / "README.md").read_text("utf-8")
    for line in lineage.short(results):
        assert line in text, line
    missed = {
        (row["model"], row["decoder"].rstrip(" 0123456789"))
        for task in lineage.TASKS
        for row in results[task]
        if lineage.misses(row)
    }
    assert missed == {
        ("autoregressive", "draws"),
        ("diffusion", "draws"),
        ("diffusion", "commits once"),
        ("CMLM", "Mask-Predict, kept"),
    }
    assert not any(lineage.misses(row) for row in (*results["orders"], *results["lengths"]))
