"""Set 8: hazards. Noisy margins, collapse, reversal, suffixes, and a budget of time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 8.3 --------------------------------------------------------------------------------------------------------------


def estimate_variance(v_t: float, v_y: float, n_t: int, n_y: int) -> float:
    """The variance of an ELBO estimate, the mean over n_t independent times with n_y independent masks at each.

    v_t is the variance over times of the mean at that time, v_y the mean over times of the variance over masks.
    """
    return v_t / n_t + v_y / (n_t * n_y)


def variance_by_listing(v_t: float, v_y: float, n_t: int, n_y: int) -> float:
    """Times that move the estimate by +- sqrt(v_t), masks by +- sqrt(v_y): every outcome, equally likely."""
    total, outcomes = 0.0, 0
    for times in itertools.product((-1, 1), repeat=n_t):
        for masks in itertools.product((-1, 1), repeat=n_t * n_y):
            estimate = math.sqrt(v_t) * sum(times) / n_t + math.sqrt(v_y) * sum(masks) / (n_t * n_y)
            total, outcomes = total + estimate**2, outcomes + 1
    return total / outcomes


def allocations(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Small numbers of draws."""
    sizes = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (1, 4))
    return [(float(rng.uniform(0.5, 3)), float(rng.uniform(0.5, 3)), n_t, n_y) for n_t, n_y in sizes]


# --- 8.8 --------------------------------------------------------------------------------------------------------------


def given_suffix(pi: float, r: float) -> float:
    """P(F | prefix, suffix): how likely a forbidden text is once its end is fixed.

    pi is P(F | prefix), and r how much likelier the suffix is otherwise: P(suffix | not F) / P(suffix | F), both given
    the prefix.
    """
    return pi / (pi + (1 - pi) * r)


def by_listing(pi: float, r: float) -> float:
    """A table of F and not F, with the suffix and without."""
    likely = min(1.0, 1 / r) / 2 if r > 0 else 0.5
    joint = {(True, True): pi * likely, (False, True): (1 - pi) * likely * r}
    return joint[True, True] / (joint[True, True] + joint[False, True])


# --- 8.10 -------------------------------------------------------------------------------------------------------------


def masked_whole(m: int, rate: float | None) -> float:
    """The probability that all m tokens of a name are masked at once.

    Every token is masked independently with probability `rate`; if that is None, the rate is drawn anew for every text,
    uniformly between 0 and 1.
    """
    return 1 / (m + 1) if rate is None else rate**m


def whole_by_quadrature(m: int, rate: float | None) -> float:
    """The mean of u^m over the rates."""
    if rate is not None:
        return math.prod([rate] * m)
    points, weights = np.polynomial.legendre.leggauss(30)
    return float(weights / 2 @ ((points + 1) / 2) ** m)


def _noisy_loss() -> float:
    """The mean of -log sigma(s) for s = +1 and -1."""
    return (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2


SET = Series(
    "8",
    "Hazards",
    "lessons/08_hazards.ipynb",
    (
        Question(
            "A noisy margin",
            "A margin is 0; its estimate is +1 or -1, equally likely. By how much is the mean of the loss -log "
            "sigma(s) above "
            "the loss of the true margin, in nats?",
            Number(
                lambda: _noisy_loss() - math.log(2),
                (
                    Trap(lambda: 0.0, "The margin is right on average; its loss is not, as -log sigma is convex."),
                    Trap(
                        lambda: 1 / 8,
                        "This is the second-order prediction, variance / 8, which is also the upper bound. "
                        "The exact value is a little below.",
                    ),
                    Trap(_noisy_loss, "This is the mean loss; subtract log 2, the loss at 0."),
                ),
                unit="nats",
            ),
            ("The mean of log(1 + e^-1) and log(1 + e).", "Minus log 2."),
            "Identity V5: 0 <= E[loss] - loss <= min(V / 8, sqrt(V) / 2). Jensen once more.",
            "lessons/08, section 4",
        ),
        Question(
            "Where spikes come from",
            "Preference training through a bound that is estimated from one time, drawn uniformly, with weight 1/t "
            "and with "
            "masks of its own for each model: what makes gradients explode?",
            Choice(
                (
                    Option("A learning rate that is too high.", "It makes it worse, and is not the cause."),
                    Option(
                        "Draws with small t: rarely is anything masked, and what is counts with 1/t; its square is not "
                        "integrable.",
                        "Right: second moments grow like log(1/eps), without limit. Counting masks, and sharing them "
                        "between the models, cures both loss and gradient of most of it.",
                        right=True,
                    ),
                    Option("Long texts.", "Variance per token does not grow with the length."),
                    Option("The sigmoid.", "Its slope is at most 1/4."),
                )
            ),
            ("Which draws have a large weight, and how likely are they to mask anything?", "Compute E[(1/t)^2 t]."),
            "Identity V6 has the variance: c^2 L (log(1/eps) / (1 - eps) - 1).",
            "lessons/08, section 3",
        ),
        Question(
            "Times or masks",
            "Derive the variance of the estimate from n_t times with n_y masks each.",
            Function(
                estimate_variance,
                allocations,
                (
                    Suspect(
                        lambda v_t, v_y, n_t, n_y: (v_t + v_y) / (n_t * n_y),
                        "All draws are taken as independent. Masks at the same time share its part of the chance.",
                    ),
                    Suspect(
                        lambda v_t, v_y, n_t, n_y: v_t / n_t + v_y / n_y,
                        "Masks at different times are independent too: there are n_t n_y of them.",
                    ),
                    Suspect(lambda v_t, v_y, n_t, n_y: v_t / n_t + v_y / n_t, "More masks per time help: / (n_t n_y)."),
                    Suspect(
                        lambda v_t, v_y, n_t, n_y: math.sqrt(v_t / n_t + v_y / (n_t * n_y)),
                        "This is the standard deviation.",
                    ),
                ),
                oracle=variance_by_listing,
                derived=True,
            ),
            (
                "Var = Var of the conditional mean + mean of the conditional variance, given the times.",
                "The first is v_t / n_t, the second v_y / (n_t n_y).",
            ),
            "With n_t n_y fixed it is least for n_y = 1: spend everything on times (identity V1).",
            "lessons/08, section 4",
        ),
        Question(
            "Shared masks",
            "Two bounds are estimated, each with variance 4. With shared masks their correlation is 0.95. What is the "
            "variance of their difference?",
            Number(
                lambda: 4 + 4 - 2 * 0.95 * 4,
                (
                    Trap(lambda: 8.0, "This is without sharing."),
                    Trap(lambda: 4 + 4 - 0.95 * 4, "The covariance counts twice."),
                    Trap(lambda: 4 + 4 + 2 * 0.95 * 4, "This is the variance of the sum."),
                    Trap(lambda: math.sqrt(0.4), "This is the standard deviation."),
                ),
            ),
            ("Var(a - b) = Var a + Var b - 2 Cov.", "Cov = 0.95 x 4."),
            "Identity V2. A factor of twenty for nothing, as long as the two models are close.",
            "lessons/08, section 5",
        ),
        Question(
            "Two meanings",
            '"Antithetic" names two things. Which statement is right?',
            Choice(
                (
                    Option(
                        "VRPO's and the u, 1 - u of statistics are the same.",
                        "One makes a covariance large, the other makes one negative.",
                    ),
                    Option(
                        "VRPO shares draws between two models, for a small variance of a difference; u and 1 - u pair "
                        "opposite draws, for a small variance of a mean.",
                        'Right. The first is known as common random numbers; the library\'s spread="antithetic" is the '
                        "second.",
                        right=True,
                    ),
                    Option("Both pair masks with their complements.", "That is a third thing, coupled masks."),
                    Option("Antithetic draws are always biased.", "Each draw on its own is uniform: no bias."),
                )
            ),
            ("Do you want to estimate a difference or a mean?", "Which sign should the covariance have?"),
            "Names travel badly between fields.",
            "lessons/08, section 5",
        ),
        Question(
            "In a row by chance",
            "A random order of 8 positions, one per step. How often, per step, is a position committed just after its "
            "left "
            "neighbour: local AR-ness at 1?",
            Number(
                lambda: (8 - 1) / 8**2,
                (
                    Trap(lambda: 1 / 8, "The first step follows nothing; per step that leaves (L - 1) / L^2."),
                    Trap(lambda: 7 / 8, "This is what left to right has."),
                    Trap(
                        lambda: 1 / 7,
                        "Neighbours are one of the 7 others, but the last position has no right neighbour, and "
                        "the first step follows none.",
                    ),
                ),
                unit="share",
            ),
            (
                "Expect it for each of the 7 pairs (i, i + 1): probability 1/8 that i + 1 comes directly after i.",
                "7 pairs x 1/8, per step: / 8.",
            ),
            "Identity Q1: the line from which collapse is measured. Order is not use, though: a perfect model that "
            "sees both "
            "sides can decode left to right.",
            "lessons/08, section 6",
        ),
        Question(
            "Where the cure ends",
            'A masked model is trained on pairs "A is B". When does it not answer "who is B?"',
            Choice(
                (
                    Option(
                        "When A is longer than one token.",
                        "Uniform rates mask all m tokens of a name with 1 / (m + 1).",
                    ),
                    Option(
                        "When A and B never stood in one window, or are asked in an order of words never seen.",
                        "Right. It fills A in where it has seen A masked beside B: same window, same layout.",
                        right=True,
                    ),
                    Option("Never: bidirectional training cures the curse.", "Only for what stood in one window."),
                    Option("Always: the curse is one of data.", "In the same window and layout it answers."),
                )
            ),
            ("What has been masked, beside what, in training?", "What if the pair is split over two windows?"),
            "Report the figure across layouts, not only in the same one.",
            "lessons/08, section 7",
        ),
        Question(
            "What a suffix does",
            "Derive how likely a forbidden text is once its end is fixed, as infilling can.",
            Function(
                given_suffix,
                lambda rng: [
                    (float(p), float(r))
                    for p, r in zip(rng.uniform(0.01, 0.5, 5), rng.uniform(0.01, 2, 5), strict=True)
                ],
                (
                    Suspect(lambda pi, r: pi, "This is what a guard on the prefix sees. The suffix changes it."),
                    Suspect(lambda pi, r: pi * r / (pi * r + 1 - pi), "The ratio is turned round: r is not F over F."),
                    Suspect(lambda pi, r: pi / (pi + r), "Weight r with the probability of not F, 1 - pi."),
                    Suspect(lambda pi, r: pi / r, "Not normalised: it can exceed one."),
                ),
                oracle=by_listing,
                derived=True,
            ),
            ("Bayes: P(F) P(suffix | F) over that plus P(not F) P(suffix | not F).", "Divide by P(suffix | F)."),
            "Identity F2: from 0.02 to 0.67 with r = 0.01, and the prefix shows none of it. So the finished text must "
            "be "
            "checked, or every step.",
            "lessons/08, section 9",
        ),
        Question(
            "Steps for a budget",
            "A text must be there within 400 ms. A step takes 20 ms on average; 95 of 100 runs stay below 25 ms per "
            "step. "
            "How many steps, if 95 of 100 texts are to be in time?",
            Number(
                lambda: math.floor(400 / 25),
                (
                    Trap(lambda: 400 / 20, "This keeps to the budget on average: half of the texts are late."),
                    Trap(lambda: 16 * 0.95, "The 95 % is in the 25 ms already."),
                    Trap(lambda: 400 / 15, "The slow side counts: 25, not 15."),
                ),
            ),
            ("Plan with the slow step.", "400 / 25."),
            "And then ask what quality 16 steps have, with its interval: the dial has two axes.",
            "lessons/05, sections 5 and 9",
        ),
        Question(
            "Masked as a whole",
            "Write how likely a name of m tokens is hidden completely: the state from which it must be recalled.",
            Function(
                masked_whole,
                lambda rng: [(1, 0.15), (2, 0.5), (4, 0.15), (1, None), (2, None), (4, None)],
                (
                    Suspect(
                        lambda m, rate: 0.5**m if rate is None else rate**m,
                        "At a uniform rate it is the mean of u^m, not the power of the mean rate.",
                    ),
                    Suspect(lambda m, rate: 1 / m if rate is None else rate**m, "The integral of u^m is 1 / (m + 1)."),
                    Suspect(
                        lambda m, rate: 1 / (m + 1) if rate is None else m * rate,
                        "All m at once: a power, not a multiple.",
                    ),
                    Suspect(lambda m, rate: 1 / (m + 1) if rate is None else rate, "This is for one token."),
                ),
                oracle=whole_by_quadrature,
            ),
            ("At a fixed rate: rate^m.", "At a uniform one: the integral of u^m from 0 to 1."),
            "Identity Y1: for m = 4, 0.0005 at BERT's 0.15 and 0.2 at a uniform rate.",
            "lessons/08, section 7",
        ),
    ),
)
