"""Set 6: decoding and the steps dial. What several tokens from one look cost, and how orders differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import exact
from ...arrays import Floats
from ...processes import MaskedDiffusion
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 6.3 --------------------------------------------------------------------------------------------------------------


def surest_draw_first(p: Floats, q: Floats) -> Floats:
    """The law (V, V) of two independent tokens that are decoded by low confidence, one per step.

    p and q (V,) are the laws of the two positions. Step 1 draws at both, keeps the draw that has the higher probability
    (the left one in a tie) and forgets the other, which step 2 draws again.
    """
    left_wins = np.array([q[q <= a].sum() for a in p])  # the chance that the right draw is no surer, for each left one
    right_wins = np.array([p[p < b].sum() for b in q])
    return np.asarray(np.outer(p, q) * (left_wins[:, None] + right_wins))


def by_enumeration(p: Floats, q: Floats) -> Floats:
    """Every draw of both steps."""
    law = np.outer(p, q).ravel()
    model = exact.BayesDenoiser(law, len(p), 2)
    return exact.unmask_law(MaskedDiffusion(len(p)), model, [1, 1], "low_confidence").reshape(len(p), -1)


def two_laws(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Laws of two positions; the last have a tie."""
    made: list[tuple[Any, ...]] = [(rng.dirichlet(np.ones(v)), rng.dirichlet(np.ones(v))) for v in (2, 2, 3, 4)]
    return [*made, (np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.25, 0.25]))]


def sums_to_one(p: Floats, q: Floats, law: Floats) -> str | None:
    """A law."""
    return None if abs(law.sum() - 1) < 1e-6 else f"The law sums to {law.sum():.4g}, and should to 1."


# --- 6.5 --------------------------------------------------------------------------------------------------------------


def total_correlation(joint: Floats) -> float:
    """What drawing two tokens independently from one look loses: KL(joint || product of the marginals), in nats.

    joint (V, W) is the law of both given what is visible; entries may be 0.
    """
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def by_entropies(joint: Floats) -> float:
    """Sum of the entropies minus the joint one."""
    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)


def entropy(p: Floats) -> float:
    """In nats, with 0 log 0 = 0."""
    p = np.asarray(p).ravel()
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def joints(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Laws of two tokens; the first is of twins."""
    made: list[tuple[Any, ...]] = [(np.diag([0.5, 0.3, 0.2]),)]
    for v, w in ((2, 2), (2, 3), (3, 3)):
        law = rng.dirichlet(np.full(v * w, 0.5)).reshape(v, w)
        made.append((law,))
    return made


def _safe_log(x: Floats) -> Floats:
    return np.log(np.where(x > 0, x, 1))


# --- 6.10 -------------------------------------------------------------------------------------------------------------


def reveal(alpha_t: float, alpha_s: float, sigma: float) -> float:
    """With which probability a mask is to be revealed in the step from t to s < t, so that the marginals stay right.

    In that step a visible token is masked again with probability sigma (ReMDM). At t a token is visible with
    probability alpha_t, at s it is to be with alpha_s.
    """
    return (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)


def by_balance(alpha_t: float, alpha_s: float, sigma: float) -> float:
    """Bisection on the share that is visible after the step."""
    low, high = -10.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if alpha_t * (1 - sigma) + (1 - alpha_t) * middle < alpha_s else (low, middle)
    return low


def balances(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Levels, and a sigma that is possible."""
    made: list[tuple[Any, ...]] = []
    for _ in range(5):
        alpha_t, alpha_s = np.sort(rng.uniform(0.1, 0.9, 2))
        made.append((float(alpha_t), float(alpha_s), float(rng.uniform(0.2, 1) * min(1.0, (1 - alpha_s) / alpha_t))))
    return made


VALID = {1: 0.10, 2: 0.40, 4: 0.70, 8: 0.72, 16: 0.73}


def _knee(within: float) -> float:
    best = max(VALID.values())
    return float(min(steps for steps, share in VALID.items() if share >= best - within - 1e-12))


SET = Series(
    "6",
    "Decoding and the dial",
    "lessons/05_sampling_and_the_steps_dial.ipynb",
    (
        Question(
            "The first step decides",
            "Three texts of four letters, equally likely, differ in every letter. The perfect denoiser commits three "
            "letters in its first step and one in its second. Which share of what it writes is one of the three texts?",
            Number(
                lambda: float(sum(x[0] == x[1] == x[2] for x in exact.all_sequences(3, 3)) / 27),
                (
                    Trap(
                        lambda: 3.0**-3,
                        "The fourth letter is drawn after a look at the other three, and is right if they are.",
                    ),
                    Trap(
                        lambda: 3.0**-1, "Three letters are drawn independently; two of them must agree with the first."
                    ),
                    Trap(
                        lambda: 1.0,
                        "A perfect denoiser gives perfect marginals; the letters of a step are independent.",
                    ),
                    Trap(lambda: 0.5, "There are three texts, not two."),
                ),
                unit="share",
            ),
            (
                "After the first letter of step 1, each further one must be of the same text.",
                "M^(1 - s) with M = 3, s = 3.",
            ),
            "Identity N2: only the first quota counts, as long as one letter tells the text.",
            "lessons/05, section 3",
        ),
        Question(
            "Bent without dependence",
            "Why does low_confidence bend the law even of words that are independent of one another?",
            Choice(
                (
                    Option("Because it commits several at once.", "It does so with one per step too."),
                    Option(
                        "Because a position is kept when a likely token came up there, and drawn again when not: "
                        "likely "
                        "tokens get more chances.",
                        "Right. Which position is kept depends on the draw, so the kept draws are not draws from the "
                        "law.",
                        right=True,
                    ),
                    Option("Because the network is not calibrated.", "It happens with the perfect one."),
                    Option("Because ties go to the left.", "Ties have nothing to do with it."),
                )
            ),
            ("What happens to an unlikely draw?", "And to a likely one?"),
            "Orders that look at the state only (entropy, margin, most likely token) do not do that.",
            "lessons/05, sections 3 and 4",
        ),
        Question(
            "How it bends",
            "Derive the law of two independent tokens under low_confidence.",
            Function(
                surest_draw_first,
                two_laws,
                (
                    Suspect(
                        lambda p, q: np.outer(p, q),
                        "This is the law of the data. The draw that is forgotten had a lower "
                        "probability, and that is a selection.",
                    ),
                    Suspect(
                        lambda p, q: np.outer(p, q) * np.array([q[q <= a].sum() for a in p])[:, None],
                        "Only the case in which the left draw is kept is there. Add the other.",
                    ),
                    Suspect(
                        lambda p, q: (
                            np.outer(p, q)
                            * (np.array([q[q > a].sum() for a in p])[:, None] + np.array([p[p >= b].sum() for b in q]))
                        ),
                        "The less sure draw is kept in yours.",
                    ),
                    Suspect(
                        lambda p, q: (
                            np.outer(p, q)
                            * (np.array([q[q < a].sum() for a in p])[:, None] + np.array([p[p <= b].sum() for b in q]))
                        ),
                        "Nearly: in a tie the left draw is kept, and yours keeps the right one.",
                    ),
                    Suspect(
                        lambda p, q: np.outer(p, q) ** 2 / (np.outer(p, q) ** 2).sum(),
                        "This is a lower temperature, every probability squared. The order tilts the law in another "
                        "way: "
                        "follow the two draws.",
                    ),
                ),
                oracle=by_enumeration,
                properties=(sums_to_one,),
                derived=True,
            ),
            (
                "The text (a, b) comes about in two ways: a is kept in step 1 and b drawn in step 2, or the other way "
                "round.",
                "a is drawn and kept: p[a] times the chance that the right draw is no surer. Then b: q[b].",
                "p[a] q[b] (Q(q <= p[a]) + P(p < q[b])).",
            ),
            "Where both tokens are likely the bracket is above 1: the law tilts towards likely texts.",
            "lessons/05, section 3",
        ),
        Question(
            "Who goes first",
            "Position A has the law 0.6, 0.1, 0.1, 0.1, 0.1, position B 0.5, 0.5. Which of them do the orders fill "
            "first: "
            "most likely token, entropy, margin?",
            Choice(
                (
                    Option("A, A, A", "Entropy: A has 1.23 nats, B only 0.69."),
                    Option(
                        "A, B, A",
                        "Right. A has the likelier token and is farther ahead (0.5 against 0), B has less "
                        "entropy: two tokens are left, but which?",
                        right=True,
                    ),
                    Option("A, B, B", "Margin: A is 0.5 ahead, B not at all."),
                    Option("B, B, B", "0.6 is more than 0.5."),
                )
            ),
            ("Entropy of B: log 2. Of A: compute it.", "Margin is the difference of the two largest."),
            "Entropy counts how much is unknown, margin how contested the best is. On sums and Sudokus they part ways.",
            "lessons/05, section 4",
        ),
        Question(
            "The price of one look",
            "Write what two tokens from one look lose.",
            Function(
                total_correlation,
                joints,
                (
                    Suspect(lambda joint: entropy(joint), "This is the entropy of the joint law."),
                    Suspect(
                        lambda joint: entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1)),
                        "This is what a look pays in all, H1 + H2. The joint entropy is to be subtracted.",
                    ),
                    Suspect(
                        lambda joint: float(np.abs(joint - np.outer(joint.sum(axis=1), joint.sum(axis=0))).sum() / 2),
                        "This is the total variation, not the KL.",
                    ),
                    Suspect(
                        lambda joint: float(
                            (
                                np.outer(joint.sum(axis=1), joint.sum(axis=0))
                                * (_safe_log(np.outer(joint.sum(axis=1), joint.sum(axis=0))) - _safe_log(joint))
                            )[joint > 0].sum()
                        ),
                        "This is the KL the other way round: the product in front. The data are drawn from the joint "
                        "law.",
                    ),
                ),
                oracle=by_entropies,
                unit="nats",
            ),
            ("KL(joint || product) = H(X) + H(Y) - H(X, Y).", "Leave out the entries that are 0."),
            "Identity K4: over a decoding, the sum of these is the KL from the data to the decoder. The "
            "entropy-bounded rule "
            "keeps each below a budget.",
            "lessons/05, section 3",
        ),
        Question(
            "Good at 64, garbled at 8",
            "A model writes well in 64 steps and garbled text in 8. What is to be done first?",
            Choice(
                (
                    Option("Train longer.", "In 64 steps it writes well: it knows the text."),
                    Option(
                        "Look for the knee between: raise the number of steps, or commit by confidence within a "
                        "budget.",
                        "Right. Tokens of one look are independent; what is lost is their dependence, and only more "
                        "looks "
                        "(or better chosen sets) bring it back.",
                        right=True,
                    ),
                    Option(
                        "Lower the temperature.",
                        "Then all positions take their likeliest token: garbled goes, and so does variety.",
                    ),
                    Option("Use a larger model.", "A perfect one garbles in few steps too."),
                )
            ),
            (
                "What would the perfect denoiser write in 8 steps?",
                "Which knob changes nothing but the number of looks?",
            ),
            "The dial trades time for quality without training.",
            "lessons/05, section 5",
        ),
        Question(
            "Reading a knee",
            "Valid texts: 0.10 in 1 step, 0.40 in 2, 0.70 in 4, 0.72 in 8, 0.73 in 16. The fewest steps within 0.02 "
            "of the "
            "best?",
            Number(
                lambda: _knee(0.02),
                (
                    Trap(lambda: 16.0, "This is the best; fewer are within 0.02 of it."),
                    Trap(lambda: _knee(0.03), "0.70 is 0.03 below the best."),
                ),
            ),
            ("The best is 0.73; what reaches 0.71?",),
            "And with how many texts were these measured? At 200 each share has a standard error of 0.03, and the "
            "knee may be "
            "at 4: a knee needs its interval.",
            "lessons/05, section 5",
        ),
        Question(
            "Too good",
            "All texts of a decoder are valid; their entropy is 0.9 nats, that of the data 4.8. What happened?",
            Choice(
                (
                    Option("The decoder is excellent.", "It writes a handful of texts over and over."),
                    Option(
                        "It collapsed to a few likely texts.",
                        "Right: exp(0.9) is about two and a half texts. Quality "
                        "without variety is measured by two numbers, or by the distance to the law.",
                        right=True,
                    ),
                    Option("The data are too simple.", "They have 4.8 nats: 120 texts' worth."),
                    Option(
                        "Nothing: entropy does not matter if all is valid.",
                        "Then a single text would be the best model.",
                    ),
                )
            ),
            ("How many equally likely texts have an entropy of 0.9?", "And 4.8?"),
            "Low temperature must not pass for quality.",
            "lessons/05, section 6",
        ),
        Question(
            "The largest sigma",
            "In a step from alpha_t = 0.4 to alpha_s = 0.75, with which probability may visible tokens be masked again "
            "at most "
            "(ReMDM)?",
            Number(
                lambda: min(1.0, (1 - 0.75) / 0.4),
                (
                    Trap(lambda: (1 - 0.4) / 0.75, "The two levels are swapped: (1 - alpha_s) / alpha_t."),
                    Trap(
                        lambda: (0.75 - 0.4) / (1 - 0.4),
                        "This is what ancestral sampling reveals, (alpha_s - alpha_t) / (1 - alpha_t).",
                    ),
                    Trap(
                        lambda: (1 - 0.75) / (1 - 0.4),
                        "This is the share of the masks that stay, without any masked again. What is asked for is a "
                        "share of the visible ones: divide by alpha_t.",
                    ),
                    Trap(lambda: 1 - 0.75, "So many are masked at s, of all tokens; how many of the visible ones?"),
                    Trap(lambda: 1.0, "Then even all masks together, 0.6 of the text, would be too few to reveal."),
                ),
                unit="share",
            ),
            (
                "Masks are revealed with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t) <= 1.",
                "alpha_s - (1 - sigma) alpha_t <= 1 - alpha_t, so sigma <= (1 - alpha_s) / alpha_t.",
            ),
            "Up to that the marginals stay those of masked diffusion, so a trained network serves unchanged.",
            "lessons/05, section 8",
        ),
        Question(
            "Masked again, in balance",
            "Derive how often masks must be revealed if visible tokens may be masked again.",
            Function(
                reveal,
                balances,
                (
                    Suspect(
                        lambda alpha_t, alpha_s, sigma: (alpha_s - alpha_t) / (1 - alpha_t),
                        "This is ancestral sampling, sigma = 0. What is masked again must be made up for.",
                    ),
                    Suspect(
                        lambda alpha_t, alpha_s, sigma: (alpha_s - (1 + sigma) * alpha_t) / (1 - alpha_t),
                        "The sign of sigma: 1 - sigma of the visible ones stay.",
                    ),
                    Suspect(
                        lambda alpha_t, alpha_s, sigma: (alpha_s - alpha_t) / (1 - alpha_t) + sigma,
                        "Sigma is a share of "
                        "the visible tokens, alpha_t sigma of all; per mask that is alpha_t sigma / (1 - alpha_t).",
                    ),
                    Suspect(
                        lambda alpha_t, alpha_s, sigma: alpha_s - (1 - sigma) * alpha_t,
                        "This is the share of all tokens; per masked token divide by 1 - alpha_t.",
                    ),
                ),
                oracle=by_balance,
                derived=True,
            ),
            ("Visible after the step: alpha_t (1 - sigma) + (1 - alpha_t) reveal.", "Set that equal to alpha_s."),
            "More steps then mean more chances to mend, even beyond one per token.",
            "lessons/05, section 8",
        ),
    ),
)
