"""From masks to text: decoders, each a small value with only its own options, that yield a frame per step.

    process.sample(model, length, batch, decoder=decoders.LowConfidence(steps=32, draw=decoders.Draw(0.7)), rng=rng)

| process | decoders, the first by default |
|---|---|
| masked | `LowConfidence`, `MostLikely`, `Entropy`, `Margin`, `Random`, `LeftToRight`: orders, some positions a step |
| | `Threshold`: whatever the model is sure of; `EntropyBounded`, `Frechet`: as much as a promise allows |
| | `Speculate`: guess several, verify them in one call |
| | `Ancestral`, `FirstHitting`: the reverse process itself |
| | `RemaskCap`, `RemaskRescale`, `RemaskConfidence`: that, with second thoughts (ReMDM) |
| | `Gibbs`: any of these, and then parts of the text again |
| | `AtOnce`, `MaskPredict`, `LengthBeam`: how translation without left to right began |
| | `StaleBlocks`: blocks under full attention, with keys and values that are out of date |
| block | `Blocks`: any of these in block after block, finished ones read once |
| autoregressive | `NextToken`, `Beam` |
| refinement | `Refine` |
| D3PM | `Chain` |
| score entropy | `Tweedie`, `Euler` |
| BERT | `Refill` |
| Gaussian diffusion, flow matching | `DDIM`; `ODE` |

Read frames.py (what a step tells a picture), canvas.py (what is to be filled), draws.py (a token from logits), then
orders.py, over quotas.py (how many positions a step commits), and the others as you like. guidance.py has models that
know their labels, or exaggerate their prompt. replay.py says how likely a decoder is to write a text. Tokens
are drawn from logits over the V real tokens, so MASK (id V) is never sampled.
"""

from .beam import Beam
from .blocks import Blocks
from .canvas import Canvas
from .certified import EntropyBounded, Frechet
from .chains import Chain, Euler, Reverse, Tweedie
from .decoder import Decoder, suited
from .draws import Draw, categorical, constrained
from .frames import Frame
from .gibbs import Gibbs
from .guidance import conditioned, prompted
from .lengths import LengthBeam
from .mask_predict import MaskPredict
from .next_token import NextToken
from .one_pass import AtOnce
from .orders import CHOICE_TEMPERATURE, Entropy, LeftToRight, LowConfidence, Margin, MostLikely, Random
from .quotas import Commits
from .refill import Refill
from .refine import Refine, orbit
from .remask import RemaskCap, RemaskConfidence, RemaskRescale
from .replay import replay
from .reverse import Ancestral, FirstHitting
from .speculate import Speculate
from .stale import StaleBlocks
from .threshold import Threshold
from .vectors import DDIM, ODE, Langevin, Solver

__all__ = [
    "CHOICE_TEMPERATURE",
    "DDIM",
    "ODE",
    "Ancestral",
    "AtOnce",
    "Beam",
    "Blocks",
    "Canvas",
    "Chain",
    "Commits",
    "Decoder",
    "Draw",
    "Entropy",
    "EntropyBounded",
    "Euler",
    "FirstHitting",
    "Frame",
    "Frechet",
    "Gibbs",
    "Langevin",
    "LeftToRight",
    "LengthBeam",
    "LowConfidence",
    "Margin",
    "MaskPredict",
    "MostLikely",
    "NextToken",
    "Random",
    "Refill",
    "Refine",
    "RemaskCap",
    "RemaskConfidence",
    "RemaskRescale",
    "Reverse",
    "Solver",
    "Speculate",
    "StaleBlocks",
    "Threshold",
    "Tweedie",
    "categorical",
    "conditioned",
    "constrained",
    "orbit",
    "prompted",
    "replay",
    "suited",
]
