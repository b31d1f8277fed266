"""Time to quality: who takes part. Recipes and sizes, shared by `quality_ours.py` and `quality_torch.py`.

An entry counts if its held-out bits, averaged over the seeds, are at the level or below after its own fixed number of
steps. Its time is that number times the median milliseconds of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CORPUS = "python_docs"
Mode = Literal["masked", "autoregressive"]
Board = tuple[Literal["S", "M"], Mode]
SEEDS: dict[Board, tuple[int, ...]] = {
    ("S", "masked"): (0, 1, 2),
    ("S", "autoregressive"): (0, 1, 2),
    ("M", "masked"): (0, 1, 2),
    ("M", "autoregressive"): (0, 1, 2),
}
"""The boards: size (`cases.SIZES`) and process, and the seeds that an entry trains with."""


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard.

    Attributes
    ----------
    module : whose implementation, `benchmarks.{module}`
    steps : how many for each board it is on; the learning rate is at a tenth of its peak after them
    lr : peak learning rate for each of these boards
    optimiser : AdamW, or Muon for the matrices of the blocks and AdamW for the rest, at the same rate
    estimator : how masks are drawn, see `tinydiff.MaskedDiffusion`
    averaged : whether a moving average of the weights (decay 0.995) is what counts
    precision, positions : of our network, see `tinydiff.Transformer`; PyTorch's has rotary positions and full precision

    """

    module: Literal["quality_ours", "quality_torch"]
    steps: dict[Board, int]
    lr: dict[Board, float]
    optimiser: Literal["adamw", "muon"] = "adamw"
    estimator: Literal["time", "count"] = "time"
    averaged: bool = False
    precision: Literal["full", "bfloat16"] = "full"
    positions: Literal["both", "rotary"] = "both"


PLAIN: dict[Board, int] = {
    ("S", "masked"): 3000, ("S", "autoregressive"): 3000, ("M", "masked"): 400, ("M", "autoregressive"): 400,
}  # fmt: skip
BEST: dict[Board, int] = {
    ("S", "masked"): 1100, ("S", "autoregressive"): 700, ("M", "masked"): 210, ("M", "autoregressive"): 165,
}  # fmt: skip
SLOW, FAST = dict.fromkeys(PLAIN, 2e-3), {board: 0.02 if board[0] == "S" else 0.04 for board in BEST}
"""Rates of AdamW, and of Muon: the default, and twice that for the few steps at M."""
REFERENCE = "PyTorch, AdamW"
"""Sets the level: what it reaches in the steps of `PLAIN`. At size M that is early in training, which is long there."""
ENTRIES: dict[str, Entry] = {
    REFERENCE: Entry("quality_torch", PLAIN, SLOW),
    "PyTorch, Muon": Entry("quality_torch", BEST, FAST, "muon", "count", averaged=True),
    "tinydiff, AdamW": Entry(
        "quality_ours", {("S", "masked"): 2900, ("S", "autoregressive"): 2400}, SLOW, averaged=True
    ),
    "tinydiff, Muon": Entry("quality_ours", BEST, FAST, "muon", "count", averaged=True),
    "tinydiff, Muon, rotary": Entry(
        "quality_ours", {("M", "masked"): 180}, FAST, "muon", "count", averaged=True, positions="rotary"
    ),
    "tinydiff, Muon, bfloat16": Entry("quality_ours", BEST, FAST, "muon", "count", True, "bfloat16"),
}
