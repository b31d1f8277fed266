"""A few dozen of the attacks of chaos.py; run thousands of them by hand."""

from __future__ import annotations

from pathlib import Path

import chaos


def test_kills(tmp_path: Path) -> None:
    """A run that cannot be resumed, is behind what was printed, or comes out otherwise."""
    assert sum(chaos.kills(12, tmp_path, steps=1000).values()) == 12


def test_corruptions(tmp_path: Path) -> None:
    """Damage that is not noticed."""
    ends = chaos.corruptions(60, tmp_path)
    assert sum(ends.values()) == 60
    refused = [end for end in ends if "refused" in end]
    assert refused
    assert not [end for end in ends if "without its name" in end or (end.startswith("log") and "refused" in end)]
