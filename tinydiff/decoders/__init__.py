"""Generation as generators of frames: from all MASK to text, some positions per step.

- frames.py: what a step tells a picture.
- draws.py: a token from logits; temperature, top-k, nucleus, constraints.
- orders.py: which positions a step commits, and how many.
- unmask.py: the decoder of masked models over those. Better text in few steps, but not the law of the process.
- reverse.py: the reverse process itself, exact: `ancestral`, `first_hitting`, and `chain` for other noise.
- guidance.py: models that know their labels, or exaggerate their prompt.
- remask.py: reverse processes that mask committed tokens again (ReMDM).

Tokens are drawn from logits over the V real tokens, so MASK (id V) is never sampled.
"""

from .draws import Draw, categorical, check_allowed
from .frames import Frame, first_frame
from .guidance import conditioned, prompted
from .orders import ORDERS, Choice, Commits, Remasking
from .remask import Remdm, remdm
from .reverse import Reverse, ancestral, chain, first_hitting
from .unmask import CHOICE_TEMPERATURE, unmask

__all__ = [
    "CHOICE_TEMPERATURE",
    "ORDERS",
    "Choice",
    "Commits",
    "Draw",
    "Frame",
    "Remasking",
    "Remdm",
    "Reverse",
    "ancestral",
    "categorical",
    "chain",
    "check_allowed",
    "conditioned",
    "first_frame",
    "first_hitting",
    "prompted",
    "remdm",
    "unmask",
]
