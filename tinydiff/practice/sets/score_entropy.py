"""Set 5: score entropy. Ratios of probabilities, and a loss that keeps them positive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arrays import Floats
from ...processes import transitions
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 5.2 --------------------------------------------------------------------------------------------------------------


def score_entropy(s: float, r: float) -> float:
    """The price of the score s > 0 where the true ratio is r >= 0: never negative, 0 only at s = r.

    Its derivative by s is 1 - r / s.
    """
    return s - r * math.log(s) + (r * (math.log(r) - 1) if r > 0 else 0.0)


def by_integration(s: float, r: float) -> float:
    """The integral of the derivative from r to s; from 0 there is nothing to be careful about."""
    points, weights = np.polynomial.legendre.leggauss(60)
    if r == 0:
        return s
    u = math.log(r) + (math.log(s) - math.log(r)) * (points + 1) / 2  # in log s, where the integrand is smooth
    return float((math.log(s) - math.log(r)) / 2 * (weights @ (np.exp(u) - r)))


def pairs(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Scores and ratios; one ratio is 0."""
    made: list[tuple[Any, ...]] = [(float(s), float(r)) for s, r in rng.uniform(0.1, 4, (5, 2))]
    return [*made, (0.7, 0.0), (2.0, 2.0)]


# --- 5.5 --------------------------------------------------------------------------------------------------------------


def masked_score(p: Floats, alpha: float) -> Floats:
    """The ratios p_t(y) / p_t(MASK) at a masked position, for every token y, the other positions as they are: (V,).

    p (V,) is what the visible positions say about the token, and alpha the probability that a token is not masked.
    """
    return np.asarray(alpha / (1 - alpha) * p)


def masked_by_noise(p: Floats, alpha: float) -> Floats:
    """The noised law of the position, over its value at MASK."""
    mask = np.array([[len(p)]])
    noise = transitions.Absorbing(len(p))
    return transitions.concrete_score(noise, p[None, None], mask, np.array([-math.log(alpha)]))[0, 0, :-1]


# --- 5.7 --------------------------------------------------------------------------------------------------------------


def denoiser(score: Floats, alpha: float) -> Floats:
    """What the other positions say about x_0 at a position, from its scores under uniform noise: (V,) to (V,).

    score[y] = p_t(y) / p_t(x), for all tokens y, the one that is there, x, among them (it has 1). A token survives with
    probability alpha, else it is drawn anew from all V.
    """
    law = score / score.sum()
    return np.asarray((law - (1 - alpha) / len(score)) / alpha)


def by_solving(score: Floats, alpha: float) -> Floats:
    """Solve p Q = law for p."""
    v = len(score)
    q = alpha * np.eye(v) + (1 - alpha) / v
    return np.asarray(np.linalg.solve(q.T, score / score.sum()))


def noised(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Scores of random laws."""
    made: list[tuple[Any, ...]] = []
    for v in (2, 3, 3, 5):
        alpha = float(rng.uniform(0.2, 0.9))
        law = alpha * rng.dirichlet(np.ones(v)) + (1 - alpha) / v
        made.append((law / law[rng.integers(v)], alpha))
    return made


SET = Series(
    "5",
    "Score entropy",
    "lessons/04_score_entropy.ipynb",
    (
        Question(
            "Turning a rate round",
            "A chain of two states has p(a) = 0.8 and p(b) = 0.2 now. Forwards it jumps from a to b at the rate 0.5. "
            "At "
            "which rate does the reversed chain jump from b to a?",
            Number(
                lambda: 0.5 * 0.8 / 0.2,
                (
                    Trap(
                        lambda: 0.5 * 0.2 / 0.8,
                        "The ratio is turned round: where the chain goes to comes on top, p(a) / p(b).",
                    ),
                    Trap(lambda: 0.5, "Rates change when time is turned round, by the ratio of the probabilities."),
                    Trap(lambda: 0.5 * 0.8, "This is the flow of probability; per token in b divide by p(b)."),
                ),
            ),
            (
                "In a short time, as many jump from a to b forwards as from b to a backwards.",
                "p(a) x 0.5 = p(b) x rate.",
            ),
            "That is all that a reverse process needs: forward rates and ratios p(y) / p(x) of neighbours.",
            "lessons/04, section 3",
        ),
        Question(
            "The loss for ratios",
            "Derive the loss of a score s for a true ratio r from its slope, 1 - r / s.",
            Function(
                score_entropy,
                pairs,
                (
                    Suspect(lambda s, r: (s - r) ** 2 / 2, "This is the square; its slope is s - r."),
                    Suspect(
                        lambda s, r: s - r * math.log(s),
                        "The slope is right. The constant is missing that makes it 0 at s = r: + r (log r - 1).",
                    ),
                    Suspect(
                        lambda s, r: r * math.log(r / s) if r else 0.0,
                        "This is a term of a KL; for numbers that do not sum to one s - r is added to it.",
                    ),
                    Suspect(
                        lambda s, r: s - r * math.log(s) + (r * math.log(r) if r else 0.0),
                        "Nearly: at s = r this is r, not 0.",
                    ),
                    Suspect(
                        lambda s, r: r - s - s * math.log(r / s) if r else math.inf,
                        "s and r are swapped: the truth goes with the logarithm of the score.",
                    ),
                ),
                oracle=by_integration,
                derived=True,
            ),
            (
                "Integrate 1 - r / s by s: s - r log s + c.",
                "Choose c so that it is 0 at s = r. For r = 0, r log r is 0.",
            ),
            "s - r log s + r (log r - 1): positive, and relative, because an error of the factor 2 costs in "
            "proportion to r.",
            "lessons/04, section 4",
        ),
        Question(
            "Why not squares?",
            "What is wrong with (s - r)^2 as a loss for ratios?",
            Choice(
                (
                    Option("It has no minimum at s = r.", "It has: a square is least at 0."),
                    Option(
                        "It does not hinder negative scores, and ratios that are thousands drown all others.",
                        "Right. Score entropy goes to infinity as s goes to 0, and grows with the relative error.",
                        right=True,
                    ),
                    Option("It cannot be estimated without the true ratio.", "The denoising trick works for it too."),
                    Option("It has no gradient at 0.", "It has one there, 2 (s - r)."),
                )
            ),
            ("Ratios are positive and range over many powers of ten.", "What keeps s from becoming negative?"),
            "A reverse rate below 0 is no rate.",
            "lessons/04, section 4",
        ),
        Question(
            "What the loss learns",
            "One x_t comes from two texts: with probability 0.25 the ratio given x_0 is 4, with 0.75 it is 2/3. Which "
            "score "
            "minimises the denoising loss at x_t?",
            Number(
                lambda: 0.25 * 4 + 0.75 * 2 / 3,
                (
                    Trap(lambda: (4 + 2 / 3) / 2, "The two texts are not equally likely given x_t."),
                    Trap(
                        lambda: math.exp(0.25 * math.log(4) + 0.75 * math.log(2 / 3)),
                        "This is the geometric mean. The slope is 1 - r / s, linear in r: the ordinary mean.",
                    ),
                    Trap(lambda: 2 / 3, "This is the likelier ratio; the loss learns the mean."),
                ),
            ),
            ("The mean of the slope 1 - r / s over both is 0.", "So s is the mean of r."),
            "And that mean is the true ratio p_t(y) / p_t(x_t): which is why the unknown one may be replaced.",
            "lessons/04, section 5",
        ),
        Question(
            "Scores of masks",
            "Write the scores of a masked position from what the visible ones say.",
            Function(
                masked_score,
                lambda rng: [(rng.dirichlet(np.ones(v)), float(rng.uniform(0.1, 0.9))) for v in (2, 3, 4, 4)],
                (
                    Suspect(
                        lambda p, alpha: p / alpha * (1 - alpha),
                        "The scale is turned round: visible over masked, alpha / (1 - alpha).",
                    ),
                    Suspect(lambda p, alpha: alpha * p, "This is p_t(y). The ratio divides by p_t(MASK) = 1 - alpha."),
                    Suspect(
                        lambda p, alpha: np.array(p),
                        "This is the denoiser. A score also knows how likely a mask is now.",
                    ),
                    Suspect(lambda p, alpha: p / (1 - alpha), "p_t(y) is alpha p(y): the token must have survived."),
                ),
                oracle=masked_by_noise,
            ),
            ("p_t(y | others) = alpha p(y), and p_t(MASK | others) = 1 - alpha.", "Divide."),
            "A known scale times probabilities: with masks, learning scores and learning a denoiser is the same task.",
            "lessons/04, section 6",
        ),
        Question(
            "The price of not summing to one",
            "SEDD's scores at a masked position are right up to a factor: their sum is Z = 2 times what it should be. "
            "What "
            "does that cost, in units of w(t)?",
            Number(
                lambda: 2 - 1 - math.log(2),
                (
                    Trap(
                        lambda: math.log(2),
                        "This would be the price for probabilities that are half as large. Here it is Z - 1 - log Z.",
                    ),
                    Trap(lambda: 1.0, "Z - 1 is one part; the larger scores also earn log Z."),
                    Trap(lambda: 2 - math.log(2), "Subtract 1: at Z = 1 it costs nothing."),
                ),
            ),
            ("Put s = Z times the truth into the sum over y of s - r log s + r (log r - 1).", "Z - 1 - log Z."),
            "It is 0 at Z = 1 and positive elsewhere: masked diffusion never pays it, because softmax sums to one.",
            "lessons/04, section 6",
        ),
        Question(
            "From scores back to the data",
            "Derive the denoiser from the scores, for uniform noise.",
            Function(
                denoiser,
                noised,
                (
                    Suspect(
                        lambda score, alpha: score / score.sum(),
                        "This is p_t(y | others), the noised law. Take the noise off.",
                    ),
                    Suspect(
                        lambda score, alpha: score / score.sum() - (1 - alpha) / len(score),
                        "The uniform part is taken off; what is left must be divided by alpha.",
                    ),
                    Suspect(
                        lambda score, alpha: (score - (1 - alpha) / len(score)) / alpha,
                        "Scores are ratios, not a law: divide by their sum first.",
                    ),
                    Suspect(
                        lambda score, alpha: alpha * score / score.sum() + (1 - alpha) / len(score),
                        "This adds noise once more.",
                    ),
                ),
                oracle=by_solving,
                derived=True,
            ),
            ("score / sum(score) is p_t(y | others).", "That is alpha p(y) + (1 - alpha) / V. Solve for p."),
            "Identity S4: there and back is the identity. A score is a noised denoiser, seen as ratios.",
            "lessons/04, section 7",
        ),
        Question(
            "The end that is not quite the end",
            "Masks with alpha(1) = 0.001, 27 letters, a text of 64: the prior is the mixture that uniform letters end "
            "in, so "
            "a survivor costs log 27. What is the prior term of the whole text, in nats?",
            Number(
                lambda: 64 * 0.001 * math.log(27),
                (
                    Trap(lambda: 0.001 * math.log(27), "This is per letter; there are 64."),
                    Trap(
                        lambda: math.inf,
                        "It would be, with a prior of nothing but masks: a survivor would be impossible.",
                    ),
                    Trap(
                        lambda: 0.0, "A letter in a thousand survives, and the prior does not know which letter it is."
                    ),
                    Trap(lambda: 64 * math.log(27), "A letter survives with probability 0.001 only."),
                ),
                unit="nats",
            ),
            (
                "KL: with probability 0.999 both say MASK, equally likely; with 0.001 q knows the letter, the prior "
                "says 1/27.",
                "64 x 0.001 x log 27.",
            ),
            "Small, and in every bound of a schedule that ends above 0.",
            "lessons/04, section 8",
        ),
        Question(
            "Euler and analytic",
            "Both samplers look once per step and then let every position go on its own. What is the difference?",
            Choice(
                (
                    Option(
                        "Euler is exact, the analytic one an approximation.", "Neither is exact for several positions."
                    ),
                    Option(
                        "Euler multiplies the rates now by the length of the step; the analytic one integrates them "
                        "for "
                        "one position as if the others stood still.",
                        "Right. For a single position the analytic step is exact, and Euler's probabilities can exceed "
                        "one.",
                        right=True,
                    ),
                    Option("The analytic one needs two looks.", "One."),
                    Option("Euler draws in float32.", "No."),
                )
            ),
            (
                "Take a text of one position. Which of them is exact in one step?",
                "What happens to a rate times a long step?",
            ),
            "Both approach the exact law as steps grow: what remains is that positions move together.",
            "lessons/04, section 9",
        ),
        Question(
            "Why it need not win",
            "SEDD on masks has the NELBO of masked diffusion plus a price. Why does it not always come out behind?",
            Choice(
                (
                    Option("The price is negative for good networks.", "Z - 1 - log Z is never negative."),
                    Option("Its bound is looser and so lower.", "A looser upper bound is higher."),
                    Option(
                        "The price vanishes as Z goes to 1, and the rest is the same loss: same network, same data, a "
                        "difference within the error.",
                        "Right. In print it is a little ahead, here a little behind: details of training, not of "
                        "principle.",
                        right=True,
                    ),
                    Option("It uses uniform noise.", "Not here."),
                )
            ),
            ("Which network has price 0?", "What is the difference between the two losses then?"),
            "Identity S3 and lesson 03's table: masked, D3PM absorbing and SEDD absorbing lie within 3 %.",
            "lessons/03, section 11",
        ),
    ),
)
