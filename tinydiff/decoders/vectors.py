"""How to come from noise to vectors: options only, the mathematics is in `processes.gaussian` and `processes.flow`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .decoder import check_steps

Solver = Literal["euler", "heun", "rk4"]


@dataclass(frozen=True)
class Langevin:
    """Correction steps along the score after each step but the last (Song et al. 2021, algorithm 5).

    Attributes
    ----------
    steps : how many
    snr : their size, the ratio of score to noise in them

    """

    steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not (math.isfinite(self.snr) and self.snr > 0):
            raise ValueError(f"snr is {self.snr}; expected a positive number")


@dataclass(frozen=True)
class DDIM:
    """Gaussian diffusion backwards: a guess of x_0, and noise on it again (DDIM, Song, Meng and Ermon 2020, eq. 12).

    | eta | |
    |---|---|
    | 1 | ancestral sampling (DDPM, Ho et al. 2020) |
    | 0 | no noise added: the probability-flow ODE |

    Attributes
    ----------
    steps : spread evenly over 1..T; default T
    eta : the noise added in a step has eta^2 times the variance of q(x_j | x_k, x_0)
    corrector : Langevin steps in between; None for none

    """

    steps: int | None = None
    eta: float = 1.0
    corrector: Langevin | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; expected 0 (no noise) to 1 (ancestral)")


@dataclass(frozen=True)
class ODE:
    """The flow's differential equation from noise at t = 1 to data at t = 0, in equal steps (Lipman et al. 2023).

    Attributes
    ----------
    steps : how many
    solver : "euler", "heun" or "rk4": 1, 2 or 4 evaluations of the network per step

    """

    steps: int = 10
    solver: Solver = "heun"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver is {self.solver!r}; expected one of {', '.join(get_args(Solver))}")
