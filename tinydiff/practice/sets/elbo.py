"""Set 4: derivations of the ELBO. From a sum over steps to an integral, to counts, to orders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import exact
from ...arrays import Bools, Floats
from ...processes import MaskedDiffusion
from ...schedules import polynomial
from ..models import Table
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 4.3 --------------------------------------------------------------------------------------------------------------


def weight(t: float, power: float) -> float:
    """The weight w(t) of the masked cross-entropy in the ELBO for the schedule alpha(t) = 1 - t^power."""
    return power / t


def weight_by_schedule(t: float, power: float) -> float:
    """-alpha' / (1 - alpha), as the schedule has it."""
    return float(polynomial(power).weight(t))


# --- 4.5 --------------------------------------------------------------------------------------------------------------


def nelbo(masks: Bools, ce: Floats) -> float:
    """The NELBO of a text in nats, from its cross-entropies under all sets of masks.

    masks (2^L, L) lists every set; ce (2^L,) is the sum of -log p over the masked positions of each. The model does not
    look at the time, and the schedule runs from alpha = 1 to 0.
    """
    k, L = masks.sum(axis=1), masks.shape[1]
    weights = np.array([0.0 if i == 0 else 1 / (i * math.comb(L, i)) for i in k])
    return float(weights @ ce)


def nelbo_by_time(masks: Bools, ce: Floats) -> float:
    """The integral over t of the linear schedule, by quadrature."""
    points, weights = np.polynomial.legendre.leggauss(40)
    t, k, length = (points + 1) / 2, masks.sum(axis=1), masks.shape[1]
    q = t[:, None] ** k * (1 - t[:, None]) ** (length - k)
    return float((weights / 2 / t) @ (q @ ce))


def _by_count(masks: Bools, ce: Floats, factor: Any) -> float:
    k, length = masks.sum(axis=1), masks.shape[1]
    return float(sum(factor(int(i), length) * c for i, c in zip(k, ce, strict=True) if i))


def tables(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Random networks asked about one text under every set of masks."""
    made: list[tuple[Any, ...]] = []
    for v, length in ((2, 1), (2, 2), (2, 3), (3, 4)):
        ce, masks = exact.masked_cross_entropy(
            MaskedDiffusion(v), Table(v, length, rng, tilt=0.5), np.zeros((1, length), np.int64), 0.5
        )
        made.append((masks, ce[0]))
    return made


# --- 4.7 --------------------------------------------------------------------------------------------------------------


def two_orders(p1: float, p2: float, p1_given_2: float, p2_given_1: float) -> tuple[float, float]:
    """NELBO and exact NLL, in nats, of a text of two tokens that are revealed one at a time in random order.

    The network says p1 and p2 of its tokens when both are masked, p1_given_2 of the first when the second is visible,
    and p2_given_1 of the second when the first is. Returns (NELBO, NLL).
    """
    forwards, backwards = p1 * p2_given_1, p2 * p1_given_2
    return -(math.log(forwards) + math.log(backwards)) / 2, -math.log((forwards + backwards) / 2)


def two_orders_by_counts(p1: float, p2: float, p1_given_2: float, p2_given_1: float) -> tuple[float, float]:
    """By counts of masks, and by the recursion over what is revealed."""
    both, one = -math.log(p1 * p2), -(math.log(p1_given_2) + math.log(p2_given_1))
    likelihood = np.mean([p1 * p2_given_1, p2 * p1_given_2])
    return both / 2 + one / 2, -math.log(likelihood)


def _two_steps() -> float:
    """The bound of two steps of the linear schedule for the cross-entropies 1, 1 and 3 of two tokens."""
    alpha, total = [1.0, 0.5, 0.0], 0.0
    for i in (1, 2):
        a = alpha[i]
        total += (alpha[i - 1] - a) / (1 - a) * (2 * a * (1 - a) * 1.0 + (1 - a) ** 2 * 3.0)
    return total


SET = Series(
    "4",
    "ELBO derivations",
    "lessons/03_masked_elbo.ipynb",
    (
        Question(
            "Jensen's gap",
            "A text of two tokens can be revealed in two orders. In one its likelihood is 0.2, in the other 0.05. How "
            "many "
            "nats does the bound give away?",
            Number(
                lambda: math.log(0.125) - (math.log(0.2) + math.log(0.05)) / 2,
                (
                    Trap(lambda: -math.log(0.125), "This is the exact -log p; the gap is the bound minus that."),
                    Trap(
                        lambda: -(math.log(0.2) + math.log(0.05)) / 2, "This is the bound; subtract the exact -log p."
                    ),
                    Trap(
                        lambda: math.log(0.25) - math.log(0.01),
                        "p is the mean of the two likelihoods, not their sum, and the bound the mean of the logs.",
                    ),
                ),
                unit="nats",
            ),
            (
                "The exact likelihood is the mean of the two; the bound takes the mean of their logarithms.",
                "log of 0.125 minus the mean of log 0.2 and log 0.05.",
            ),
            "It is 0 only if all orders agree, as they do for conditionals that belong to one law.",
            "lessons/03, section 8",
        ),
        Question(
            "The Beta integral",
            "What is the weight of one set of 2 masks among 4 positions in the continuous-time NELBO?",
            Number(
                lambda: 1 / (2 * math.comb(4, 2)),
                (
                    Trap(lambda: 1 / 6, "The number of sets is there, 1/k is missing."),
                    Trap(
                        lambda: 1 / 24,
                        "This is the probability of drawing that set with a uniform count, 1 / (L C). Its "
                        "weight in the loss is L / k on top of that.",
                    ),
                    Trap(lambda: 1 / 2, "1/k is the weight of all sets of 2 masks together; there are 6."),
                    Trap(lambda: 2.0, "L / k is the factor of a drawn set; its probability is missing."),
                ),
            ),
            ("Integrate (1/t) t^2 (1 - t)^2 over t.", "B(2, 3) = 1! 2! / 4!."),
            "The integral of t^(k-1) (1 - t)^(L-k) is 1 / (k C(L, k)).",
            "lessons/03, section 4",
        ),
        Question(
            "The weight of a schedule",
            "Derive w(t) for alpha(t) = 1 - t^power.",
            Function(
                weight,
                lambda rng: [
                    (float(t), float(p)) for t, p in zip(rng.uniform(0.1, 0.95, 6), rng.uniform(0.5, 4, 6), strict=True)
                ],
                (
                    Suspect(lambda t, power: 1 / t, "This is the linear schedule's, power = 1."),
                    Suspect(
                        lambda t, power: power * t ** (power - 1),
                        "This is -alpha'. Divide by 1 - alpha, the masked share.",
                    ),
                    Suspect(
                        lambda t, power: power * t ** (power - 1) / (1 - t**power),
                        "You divide by alpha; it is 1 - alpha, the probability of being masked.",
                    ),
                    Suspect(
                        lambda t, power: 1 / t**power,
                        "This is 1 / (1 - alpha): the speed of masking, -alpha', is missing.",
                    ),
                ),
                oracle=weight_by_schedule,
                derived=True,
            ),
            ("w = -alpha' / (1 - alpha).", "alpha' = -power t^(power - 1), and 1 - alpha = t^power."),
            "Among those masked at t, w dt is the share that was masked just now: the rate at which the reverse "
            "process "
            "reveals.",
            "lessons/03, section 2",
        ),
        Question(
            "The schedule drops out",
            "Why is the continuous-time NELBO the same for every schedule from 1 to 0?",
            Choice(
                (
                    Option(
                        "Because the network learns to correct for it.",
                        "It is an identity for any network that does not look at t, trained or not.",
                    ),
                    Option(
                        "Because with u = 1 - alpha(t) as variable the integrand is E[ce at masking rate u] / u, and "
                        "t is "
                        "gone.",
                        "Right: w(t) dt = du / u. The schedule says only how densely the rates are looked at.",
                        right=True,
                    ),
                    Option("Because all schedules are linear near 0.", "They are not, and it would not matter."),
                    Option(
                        "It is not the same: the cosine schedule has a lower one.",
                        "Its training loss may vary less; the bound is the same number.",
                    ),
                )
            ),
            ("Change the variable of the integral to the masked share.", "du = -alpha' dt."),
            "What does depend on the schedule is the variance of an estimate, and the bound of a chain of few steps.",
            "lessons/03, section 3",
        ),
        Question(
            "The bound from a table",
            "Write the NELBO as a sum over all sets of masks.",
            Function(
                nelbo,
                tables,
                (
                    Suspect(
                        lambda masks, ce: _by_count(masks, ce, lambda k, n: 1 / math.comb(n, k)),
                        "1/k is missing: the mean over sets of k masks counts with 1/k.",
                    ),
                    Suspect(
                        lambda masks, ce: _by_count(masks, ce, lambda k, n: 1 / (n * math.comb(n, k))),
                        "This is the mean with a uniform count, without the weight L / k: no bound.",
                    ),
                    Suspect(
                        lambda masks, ce: _by_count(masks, ce, lambda k, n: n / (k * 2**n)),
                        "All sets count equally here. A uniform count makes sets of few and of many masks likelier "
                        "each.",
                    ),
                    Suspect(
                        lambda masks, ce: _by_count(masks, ce, lambda k, n: 1 / k),
                        "The sets of k masks are added up; take their mean, there are C(L, k) of them.",
                    ),
                    Suspect(
                        lambda masks, ce: _by_count(masks, ce, lambda k, n: 1.0 if k == n else 0.0),
                        "Only the set with everything masked is used: that is the bound of a single step.",
                    ),
                ),
                oracle=nelbo_by_time,
                unit="nats",
            ),
            (
                "sum over k of 1/k times the mean of ce over the sets of k masks.",
                "The weight of a set of k masks is 1 / (k C(L, k)); the empty one has none.",
            ),
            "2^L numbers instead of an integral: exact, and the oracle that the recipe is checked with.",
            "lessons/03, section 4",
        ),
        Question(
            "Two steps",
            "Two tokens: ce = 1 nat with one of them masked, whichever it is, and 3 with both. What is the bound of a "
            "chain "
            "of two steps, linear schedule?",
            Number(
                _two_steps,
                (
                    Trap(lambda: 2.5, "This is the limit of infinitely many steps."),
                    Trap(lambda: 3.0, "This is the bound of one step."),
                    Trap(
                        lambda: 2.125,
                        "The factor (alpha_{t-1} - alpha_t) / (1 - alpha_t) is 1 in the step from t = 1/2 and "
                        "1/2 in the one from t = 1.",
                    ),
                    Trap(
                        lambda: 1.25 + 3.0, "The step from t = 1 counts with (alpha_1 - alpha_2) / (1 - alpha_2) = 1/2."
                    ),
                ),
                unit="nats",
            ),
            (
                "sum over steps of (alpha_{t-1} - alpha_t) / (1 - alpha_t) E[ce at t].",
                "At t = 1/2: E[ce] = 1/4 x 0 + 1/2 x 1 + 1/4 x 3. At t = 1: 3.",
            ),
            "1 step 3, 2 steps 2.75, infinitely many 2.5: each split of a step lets later tokens see earlier ones.",
            "lessons/02, section 9, and lessons/03, section 2",
        ),
        Question(
            "Two tokens, two orders",
            "Derive the NELBO and the exact likelihood of two tokens from the four things that the network says.",
            Function(
                two_orders,
                lambda rng: [tuple(map(float, rng.uniform(0.05, 0.95, 4))) for _ in range(5)],
                (
                    Suspect(
                        lambda p1, p2, p1_given_2, p2_given_1: (-math.log(p1 * p2), -math.log(p1 * p2)),
                        "This is one look for both: the conditionals have not been used.",
                    ),
                    Suspect(
                        lambda p1, p2, p1_given_2, p2_given_1: two_orders(p1, p2, p2_given_1, p1_given_2),
                        "The conditionals are swapped: first the one, then the other given it: p1 p2_given_1.",
                    ),
                    Suspect(
                        lambda p1, p2, p1_given_2, p2_given_1: (two_orders(p1, p2, p1_given_2, p2_given_1)[0],) * 2,
                        "The NELBO is right, and the NLL is not the same: minus the log of the mean, not the mean of "
                        "minus the logs.",
                    ),
                    Suspect(
                        lambda p1, p2, p1_given_2, p2_given_1: tuple(
                            x - shift
                            for x, shift in zip(
                                two_orders(p1, p2, p1_given_2, p2_given_1), (0, math.log(2)), strict=True
                            )
                        ),
                        "The likelihoods of the two orders are added up; each order has probability 1/2.",
                    ),
                    Suspect(
                        lambda p1, p2, p1_given_2, p2_given_1: (-math.log(p1 * p2_given_1), -math.log(p1 * p2_given_1)),
                        "This is left to right alone; the order is random.",
                    ),
                ),
                oracle=two_orders_by_counts,
                unit="nats",
                derived=True,
            ),
            (
                "An order gives a product: p1 p2_given_1, or p2 p1_given_2.",
                "The NELBO is the mean of minus their logarithms, the NLL minus the logarithm of their mean.",
            ),
            "Masked diffusion is autoregression in all orders at once, with Jensen's gap between.",
            "lessons/03, sections 7 and 8",
        ),
        Question(
            "Which is a bound?",
            "k is uniform on 1 .. L. Which of these, on average, is an upper bound of -log p(x)?",
            Choice(
                (
                    Option(
                        "The sum of -log p over the masked tokens.",
                        "Without a weight states with few masks count too little: it can be below -log p.",
                    ),
                    Option(
                        "L times the sum over the masked tokens of the batch divided by how many those are.",
                        "A mean over the batch weights each token the same, whatever the number of masks in its text.",
                    ),
                    Option(
                        "L times each text's own mean of -log p over its masked tokens.",
                        "Right: ce / k times L is the weight L / k. This is how Mask-Predict's loss, averaged per "
                        "sentence, "
                        "turns out to be the NELBO.",
                        right=True,
                    ),
                    Option(
                        "None of them: only an integral over t is.",
                        "Integrating over t is the same as drawing a uniform count.",
                    ),
                )
            ),
            ("Which weight does a set of k masks need?", "Is a mean over the batch the mean of the texts' means?"),
            "Identity N5: E[ce / k] = NELBO / L, for counts that include L.",
            "lessons/03, section 4",
        ),
        Question(
            "The variance of drawing times",
            "Every masked token costs 1 nat, always; L = 16. Times are drawn uniformly above eps = 0.001, masks "
            "independently, weight 1/t. What is the variance of the estimate of the NELBO, in square nats?",
            Number(
                lambda: 16 * (math.log(1000) / (1 - 0.001) - 1),
                (
                    Trap(
                        lambda: 0.0,
                        "That is the variance of counting: k tokens times L / k is always L. With times the "
                        "number of masks varies around t L, and 1/t makes that large.",
                    ),
                    Trap(lambda: math.inf, "It is infinite at eps = 0. Here eps is 0.001."),
                    Trap(
                        lambda: 16 * math.log(1000) / (1 - 0.001), "This is E[1/t] L; of it E[1] L is to be subtracted."
                    ),
                    Trap(
                        lambda: (math.log(1000) / (1 - 0.001) - 1) / 16,
                        "This is the variance per token of the mean; the sum over 16 tokens is asked for.",
                    ),
                ),
            ),
            (
                "Given t the number of masks is binomial: variance L t (1 - t), mean L t, which 1/t makes L whatever "
                "t is.",
                "So the variance is E[L t (1 - t) / t^2] = L (E[1/t] - 1).",
                "E[1/t] = log(1 / eps) / (1 - eps).",
            ),
            "Identity V6. Counting masks has variance 0 here: count, do not draw times.",
            "lessons/03, section 9",
        ),
        Question(
            "One slice",
            "BERT is trained at one masking rate, 0.15. What does it have of the NELBO?",
            Choice(
                (
                    Option("All of it, up to a factor.", "The cross-entropy at other rates can be anything."),
                    Option(
                        "One point of the integrand; the network has not been asked about other rates, and one point "
                        "bounds nothing.",
                        "Right. The bound is the integral of E[ce at rate u] / u over all u. The start of generation, "
                        "u = 1, "
                        "is farthest from what BERT knows.",
                        right=True,
                    ),
                    Option("A lower bound.", "Nothing orders one slice and the integral."),
                    Option("Nothing: BERT predicts other things.", "It predicts the same: tokens behind masks."),
                )
            ),
            ("Write the NELBO as an integral over the masking rate.", "Which rates does generating text go through?"),
            "Identity M10: the integral over all rates is the NELBO.",
            "lessons/03, section 10",
        ),
    ),
)
