"""The comparison of all processes: what it measures beside the bound, on a model that is known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks.compare_processes")
from benchmarks.compare_processes import LENGTH, RATES, by_rate, figures, show, show_rates
from tinydiff import Autoregressive, Tensor, data, learning


def test_bits_by_rate_of_known_models() -> None:
    """Weights by window in place of by character, visible characters counted, nats called bits."""
    corpus = data.Corpus("ab", "ab" * 40 * LENGTH, data.Characters("ab"))  # held out: 8 windows

    def knows(x: Any, select: Any) -> Tensor:
        """Sure, and right, of the places with an even number; of the others it knows nothing."""
        place = np.broadcast_to(np.arange(LENGTH), x.shape)[select]
        sure = np.where(place[:, None] % 2 == 0, [50.0, 0.0], [0.0, 0.0])
        return Tensor(sure)

    first = int(corpus.held_out[0])
    assert first == 0
    for mean, error in by_rate(lambda x, t=None, select=None, **_: knows(x, select), corpus, np.random.default_rng(0)):
        assert abs(mean - 0.5) < 6 * max(error, 1e-12)  # one bit for each of half the characters
    at_all = by_rate(
        lambda x, t=None, select=None, **_: Tensor(np.zeros((select.sum(), 2))), corpus, np.random.default_rng(0)
    )
    np.testing.assert_allclose(at_all, [[1.0, 0.0]] * len(RATES), atol=1e-12)


def test_tables_show_what_there_is() -> None:
    """A row without a chain, or without rates, that stops the table."""
    left = {"process": "autoregressive", "steps": 3000, "bound": [1.8, 0.1], "train": [1.6, 0.1]}
    masked = {"process": "masked", "steps": 3000, "bound": [2.7, 0.1], "train": [2.7, 0.1], "256": [2.7, 0.1],
              "20": [2.8, 0.1], "rates": [[math.pi, 0.05]] * len(RATES)}  # fmt: skip
    rows = {"a": left, "b": masked}
    assert show(rows).row_count == 2
    assert show_rates(rows).row_count == 1


def test_known_text_is_text_that_was_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A column "on training text" of text that was held out, or the other way round."""
    corpus, seen = (
        data.Corpus("letters", "abcdefghij" * 50 + "klmnopqrst" * 50, data.Characters("abcdefghijklmnopqrst")),
        [],
    )

    def evaluate(model: Any, process: Any, text: data.Corpus, windows: int) -> list[float]:
        seen.append(text.held_out.tolist())
        return [float(len(seen)), 0.0]

    monkeypatch.setattr(learning, "load", lambda folder: (None, Autoregressive(20), None, None))
    monkeypatch.setattr(learning, "evaluate", evaluate)
    row = figures(tmp_path, corpus)
    whole = corpus.codec.encode(corpus.text).tolist()
    assert (row["bound"], seen[0]) == ([1.0, 0.0], whole[900:])
    assert (row["train"], seen[1]) == ([2.0, 0.0], whole[810:900])
