"""How to train: the numbers that a run keeps with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from ..arrays import check_counts

MOST = 1 << 53
"""No number of steps or sequences is larger: up to here floats tell whole numbers apart."""
MUON_LR = 0.02
"""A good peak rate for Muon's matrices: how far a step turns each of them does not depend on the model."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes
    ----------
    steps : optimiser steps in all
    batch : sequences per step
    lr : peak learning rate, reached after `warmup` steps, then a cosine down to a tenth
    restart : the step at which that began: 0, or where the run was extended, see `Run.extend`
    random_lengths : share of the batches whose length is drawn uniformly, up to the model's, so that it learns what a
        text is like that ends sooner (LLaDA, Nie et al. 2025, section 2.2: 0.01). Windows of text begin at 1, pairs at
        what the longest takes
    optimiser : "adamw", or "muon" for the matrices of the blocks and AdamW for all else
    muon_lr : peak learning rate of Muon's matrices, `lr` being that of the rest; default 0.02
    weight_decay, clip, ema : see `tinydiff.learning.optim`
    seed : of windows and masks
    shards : pieces that a batch is computed in, each by itself, so that as many ranks can share in it, see
        `tinydiff.learning.shards`; at most one per sequence. Another number rounds differently
    evaluate_every : steps between estimates of the held-out bits per character
    evaluate_windows : held-out windows for each of them
    log_every : steps between lines of the log
    save_every : seconds between checkpoints

    """

    steps: int = 3000
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    evaluate_every: int = 250
    evaluate_windows: int = 256
    log_every: int = 10
    save_every: float = 20.0
    restart: int = 0
    random_lengths: float = 0.0
    optimiser: Literal["adamw", "muon"] = "adamw"
    muon_lr: float | None = None
    shards: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "optimiser" or value is field.default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int if field.type == "int" else (int, float)):
                kind = "whole number" if field.type == "int" else "number"
                raise ValueError(f"{field.name} is {value!r}; expected a {kind}")
            if isinstance(value, int) and abs(value) > MOST:
                raise ValueError(f"{field.name} is {value}; it must be at most {MOST}")
        for name in ("steps", "batch", "warmup", "evaluate_every", "evaluate_windows", "log_every", "shards"):
            check_counts(**{name: getattr(self, name)})
        if self.shards > self.batch:
            raise ValueError(f"shards is {self.shards}, but batch is {self.batch}: a shard needs at least one sequence")
        if not 0 <= self.restart < self.steps:
            raise ValueError(f"restart is {self.restart}; expected 0 <= restart < steps = {self.steps}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if not self.save_every >= 0:
            raise ValueError(f"save_every is {self.save_every}; it must be 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        for name in ("lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.optimiser not in ("adamw", "muon"):
            raise ValueError(f"optimiser is {self.optimiser!r}; expected 'adamw' or 'muon'")
        if self.muon_lr is not None:
            if self.optimiser != "muon":
                raise ValueError(
                    f"muon_lr is {self.muon_lr}, but the optimiser is {self.optimiser!r}, which has no such option; "
                    "leave it out or choose 'muon'"
                )
            if not (math.isfinite(self.muon_lr) and self.muon_lr > 0):
                raise ValueError(f"muon_lr is {self.muon_lr}; it must be positive")
        if not 0 <= self.random_lengths <= 1:
            raise ValueError(f"random_lengths is {self.random_lengths}; expected a share, 0 <= random_lengths <= 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")

    @property
    def relative_rate(self) -> float:
        """Muon's learning rate as a multiple of `lr`."""
        return (MUON_LR if self.muon_lr is None else self.muon_lr) / self.lr
