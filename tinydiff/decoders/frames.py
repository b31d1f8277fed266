"""What a picture of one sampling step needs."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class Frame:
    """One sampling step; arrays are (B, L) and belong to the frame.

    Attributes
    ----------
    step : 0 before anything happened, then 1, 2, ...
    steps : how many there will be; where the text decides, how many there may still be at most
    t : time after this step, averaged over sequences: 1 is all masked, 0 is done
    state : token ids
    committed : positions filled in this step
    remasked : positions masked again in this step
    confidence : untempered probability of each filled-in token when it was committed; 0 where masked, 1 where given
    given : positions that were known beforehand and stay as they are

    """

    step: int
    steps: int
    t: float
    state: Ints
    committed: Bools
    remasked: Bools
    confidence: Floats
    given: Bools
