"""Brute-force oracles: exact likelihoods and bounds by enumerating every state, and `check_elbo`.

For vocabularies and lengths small enough to list (V up to 4, L up to 5 or so) these say what the estimators and
samplers of this package should give. They use a process's own definitions, its forward matrices and its reverse laws or
rates, and no other code that they judge.

- states.py: lists of states.
- chain.py: discrete time. Likelihood, bound, and the gap between them by enumerating paths.
- continuous.py: continuous time. The same by integrating Kolmogorov's equation.
- masked.py: closed forms for masks; any-order likelihood.
- blocks.py: block diffusion, by the oracles of masks.
- unmasking.py: decoders that commit several positions at once; speculation.py: those that guess and verify;
  parallel.py: what the former cost, where it is a line.
- truth.py: models that know the data's law.
- translation.py: what one look at a source can give; lineage.py: Mask-Predict written out again.
- preferences.py: what an estimate of the ELBO, and of a margin, does; policy.py: what stands in for log p.
- guarding.py: what a guard on every state does.
- check.py: `check_elbo`, the exact bound beside the exact likelihood.
"""

from ..processes.discrete import token_probabilities
from .blocks import block_nelbo, block_nll
from .chain import ancestral_law, chain_nelbo, path_gap, walk
from .check import ElboCheck, check_elbo
from .continuous import continuous_law, continuous_nelbo
from .guarding import Fate, guarded_fate
from .lineage import mask_predict_law
from .masked import (
    any_order_log_p,
    any_order_nll,
    discrete_nelbo,
    masked_cross_entropy,
    masks_probability,
    nelbo,
    nelbo_by_count,
    true_probabilities,
)
from .parallel import repeats, twins
from .policy import eubo, stand_in
from .preferences import Draws, estimate_moments, margin_moments, spread
from .speculation import speculative_law
from .states import MOST_STATES, all_masks, all_sequences, product_law, state_index
from .translation import (
    complexity,
    faithfulness,
    marginals,
    target_entropy,
    total_correlation,
    translation_distance,
    valid_at_once,
)
from .truth import BayesDenoiser, ListedDenoiser, ListedNextWord
from .unmasking import replayed, total_variation, unmask_law

__all__ = [
    "MOST_STATES",
    "BayesDenoiser",
    "Draws",
    "ElboCheck",
    "Fate",
    "ListedDenoiser",
    "ListedNextWord",
    "all_masks",
    "all_sequences",
    "ancestral_law",
    "any_order_log_p",
    "any_order_nll",
    "block_nelbo",
    "block_nll",
    "chain_nelbo",
    "check_elbo",
    "complexity",
    "continuous_law",
    "continuous_nelbo",
    "discrete_nelbo",
    "estimate_moments",
    "eubo",
    "faithfulness",
    "guarded_fate",
    "margin_moments",
    "marginals",
    "mask_predict_law",
    "masked_cross_entropy",
    "masks_probability",
    "nelbo",
    "nelbo_by_count",
    "path_gap",
    "product_law",
    "repeats",
    "replayed",
    "speculative_law",
    "spread",
    "stand_in",
    "state_index",
    "target_entropy",
    "token_probabilities",
    "total_correlation",
    "total_variation",
    "translation_distance",
    "true_probabilities",
    "twins",
    "unmask_law",
    "valid_at_once",
    "walk",
]
