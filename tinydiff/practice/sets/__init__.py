"""The eight practice sets, ten questions each, from "did you read it" to "could you have found it"."""

from ..question import Series
from . import decoding, elbo, gaussian, hazards, left_to_right, lineage, score_entropy, tokens

SETS: tuple[Series, ...] = (
    left_to_right.SET, gaussian.SET, tokens.SET, elbo.SET, score_entropy.SET, decoding.SET, lineage.SET, hazards.SET
)  # fmt: skip

__all__ = ["SETS"]
