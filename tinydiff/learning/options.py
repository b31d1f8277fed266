"""How to train: the numbers that a run keeps with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes
    ----------
    steps : optimiser steps in all
    batch : sequences per step
    lr : peak learning rate, reached after `warmup` steps, then a cosine down to a tenth
    optimiser : "adamw", or "muon" for the matrices of the blocks and AdamW for all else
    muon_lr : peak learning rate of Muon's matrices, `lr` being that of the rest; None for the default of 0.02
    weight_decay, clip, ema : see `tinydiff.learning.optim`
    seed : of windows and masks
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
    optimiser: Literal["adamw", "muon"] = "adamw"
    muon_lr: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup", "evaluate_every", "evaluate_windows", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
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
                    "leave it out or choose optimiser='muon'"
                )
            if not (math.isfinite(self.muon_lr) and self.muon_lr > 0):
                raise ValueError(f"muon_lr is {self.muon_lr}; it must be positive")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")
