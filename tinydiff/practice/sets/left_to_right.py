"""Set 1: left to right and its price. What an autoregressive model knows exactly, and what it cannot ask itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ...arrays import Floats, Ints
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap


def law(rng: np.random.Generator, *shape: int) -> Floats:
    """Rows of probabilities."""
    return np.asarray(rng.dirichlet(np.full(shape[-1], 1.5), shape[:-1]))


def chain_cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """A first law, transitions, and a text; short ones first."""
    return [(law(rng, v), law(rng, v, v), rng.integers(v, size=n)) for v, n in ((2, 1), (2, 2), (3, 4), (4, 6))]


# --- 1.6 --------------------------------------------------------------------------------------------------------------


def chain_nll(start: Floats, matrix: Floats, x: Ints) -> float:
    """-log p(x) in nats of a text whose tokens depend on the one before only.

    start[a] is the probability that x[0] is a, and matrix[a, b] that b follows a.
    """
    total = -math.log(start[x[0]])
    for before, after in itertools.pairwise(x):
        total -= math.log(matrix[before, after])
    return total


# --- 1.7 --------------------------------------------------------------------------------------------------------------


def middle(matrix: Floats, left: int, right: int) -> Floats:
    """The law (V,) of a token between two known ones in a Markov chain, matrix[a, b] being p(b follows a)."""
    joint = matrix[left] * matrix[:, right]
    return np.asarray(joint / joint.sum())


def middle_by_listing(matrix: Floats, left: int, right: int) -> Floats:
    """The same by listing all texts of three tokens, from any law of the first."""
    v = len(matrix)
    p = np.array([[[matrix[a, b] * matrix[b, c] / v for c in range(v)] for b in range(v)] for a in range(v)])
    return np.asarray(p[left, :, right] / p[left, :, right].sum())


# --- 1.9 --------------------------------------------------------------------------------------------------------------


def backwards(first: Floats, matrix: Floats) -> Floats:
    """The other factorisation of two tokens: p(x1 = a | x2 = b) at [b, a].

    first[a] is p(x1 = a), and matrix[a, b] is p(x2 = b | x1 = a).
    """
    joint = first[:, None] * matrix
    return np.asarray((joint / joint.sum(axis=0)).T)


def backwards_by_loops(first: Floats, matrix: Floats) -> Floats:
    """Bayes' rule, one entry at a time."""
    v = len(first)
    p2 = [sum(first[a] * matrix[a, b] for a in range(v)) for b in range(v)]
    return np.array([[first[a] * matrix[a, b] / p2[b] for a in range(v)] for b in range(v)])


SET = Series(
    "1",
    "Left to right and its price",
    "lessons/00b_transformer.ipynb",
    (
        Question(
            "A text, one token at a time",
            "A model of the letters a and b says: the first letter is a with 0.6; after a comes b with 0.25; after b "
            "comes "
            'b with 0.5. What is -log p of the text "ab", in nats?',
            Number(
                lambda: -math.log(0.6 * 0.25),
                (
                    Trap(lambda: -math.log(0.25), "The first letter is missing: p(a) is a factor too."),
                    Trap(lambda: -math.log(0.6 * 0.25) / 2, "This is per letter; the whole text is asked for."),
                    Trap(lambda: 0.15, "This is p itself; take minus its logarithm."),
                    Trap(lambda: -math.log(0.6 * 0.5), "0.5 is what follows b. The letter before is a here."),
                ),
                unit="nats",
            ),
            ("p(ab) = p(a) p(b | a).", "Logarithms turn the product into a sum: -log 0.6 - log 0.25."),
            "The chain rule is exact: p(x) = p(x1) p(x2 | x1) ..., with nothing left out, for any law. That is why an "
            "autoregressive model has a likelihood and not only a bound.",
            "lessons/00b, section 5",
        ),
        Question(
            "How much faster",
            "A text has 256 tokens. Left to right takes 256 calls of 8 ms, diffusion 16 calls of 20 ms. By which "
            "factor is "
            "diffusion faster?",
            Number(
                lambda: 256 * 8 / (16 * 20),
                (
                    Trap(
                        lambda: 256 / 16,
                        "This is the ratio of the calls. A call of diffusion computes every position, "
                        "and takes longer.",
                    ),
                    Trap(lambda: 16 * 20 / (256 * 8), "This is the ratio turned round."),
                    Trap(lambda: 256 * 20 / (16 * 8), "The longer call is diffusion's, not the other one."),
                ),
            ),
            ("Time is calls times milliseconds per call, for each.", "2048 ms against 320 ms."),
            "n / S is the speed-up only if a call on all positions takes as long as one on a single position, which is "
            "nearly so where a call is all overhead, and not at all in a full batch.",
            "lessons/05, section 9",
        ),
        Question(
            "Training at once, sampling in a row",
            "Why can a causal transformer train all positions of a text in one pass, and not sample them in one?",
            Choice(
                (
                    Option(
                        "Training uses more memory, which sampling does not have.",
                        "Memory is not what stops it: sampling in one pass would need less than training.",
                    ),
                    Option(
                        "In training every prefix is known beforehand; in sampling a prefix exists only when the token "
                        "before has been drawn.",
                        "Right. The mask hides the future, so all n predictions are made side by side, from prefixes "
                        "that are there. When sampling, prefix i + 1 is the outcome of draw i.",
                        right=True,
                    ),
                    Option(
                        "The mask is switched off when sampling.",
                        "It is not: the same mask holds, and the weights would be useless without it.",
                    ),
                    Option(
                        "Sampling needs float64.",
                        "That is true of draws far in the tail, and no reason to go in a row.",
                    ),
                )
            ),
            (
                "What does position i read in training, and where does that come from when sampling?",
                "Could you write down the input of the last position before the first draw?",
            ),
            "This is the price of the exact factorisation: n passes that cannot overlap, on any machine.",
            "lessons/00b, section 2",
        ),
        Question(
            "What the cache saves",
            "Sampling 64 tokens left to right, position by position through the linear layers: without a cache call i "
            "computes all i positions so far, with a cache only the new one. By which factor is the work of the linear "
            "layers smaller with the cache?",
            Number(
                lambda: sum(range(1, 65)) / 64,
                (
                    Trap(lambda: 64, "Call i computes i positions, not 64: the prefix grows."),
                    Trap(lambda: 32, "Nearly: 1 + 2 + ... + 64 is 64 x 65 / 2."),
                    Trap(lambda: 2080, "This is the number of positions without a cache; divide by that with one."),
                ),
            ),
            ("Without: 1 + 2 + ... + 64 positions. With: 64.", "The sum of 1 .. n is n (n + 1) / 2."),
            "(n + 1) / 2: the cache turns a quadratic number of positions into a linear one. Attention still looks "
            "back at "
            "all keys. Diffusion with full attention cannot keep one: every commit changes every key.",
            "lessons/05, section 9",
        ),
        Question(
            "Filling a gap",
            "A gap of two tokens, with text before and after it, is to be filled by an autoregressive model as it is. "
            "What "
            "is true?",
            Choice(
                (
                    Option(
                        "It cannot: it has no way to see what comes after.",
                        "It has one: it can score whole texts. Every candidate for the gap gives a text, whose "
                        "probability it knows.",
                    ),
                    Option(
                        "It can, exactly, by drawing the gap from the prefix alone.",
                        "That draws from p(gap | before). What comes after is ignored, and may not fit.",
                    ),
                    Option(
                        "It can, exactly, by scoring all V^2 candidates with the whole text; the cost grows as V^gap.",
                        "Right. p(gap | before, after) is p(before, gap, after) normalised over gaps: the knowledge is "
                        "there, the price is the enumeration.",
                        right=True,
                    ),
                    Option(
                        "It can, exactly, by reading the text backwards.",
                        "Its conditionals are of the next token given those before; it has learnt none the other way.",
                    ),
                )
            ),
            (
                "What can such a model compute exactly? p of a whole text.",
                "Bayes: p(gap | before, after) is proportional to p(before, gap, after).",
            ),
            "The law is the same in every order; what differs is which conditionals cost one call. A masked model "
            "asks for "
            "the gap directly.",
            "lessons/03, section 7",
        ),
        Question(
            "The likelihood, in code",
            "Write the likelihood of a text in the smallest autoregressive model, a Markov chain.",
            Function(
                chain_nll,
                chain_cases,
                (
                    Suspect(
                        lambda start, matrix, x: -sum(math.log(matrix[a, b]) for a, b in itertools.pairwise(x)),
                        "The first token is missing: its law is start.",
                    ),
                    Suspect(
                        lambda start, matrix, x: (
                            -math.log(start[x[0]]) - sum(math.log(matrix[b, a]) for a, b in itertools.pairwise(x))
                        ),
                        "Rows and columns are swapped: matrix[before, after] is what follows.",
                    ),
                    Suspect(
                        lambda start, matrix, x: chain_nll(start, matrix, x) / len(x),
                        "This is the mean per token; the whole text is asked for.",
                    ),
                    Suspect(
                        lambda start, matrix, x: math.exp(-chain_nll(start, matrix, x)),
                        "This is p(x); minus its logarithm is asked for.",
                    ),
                    Suspect(
                        lambda start, matrix, x: -sum(math.log(start[a]) for a in x),
                        "Every token is taken as if it were the first one: after the first, matrix says what follows.",
                    ),
                ),
                unit="nats",
            ),
            ("Start with -log start[x[0]].", "Then add -log matrix[x[i - 1], x[i]] for i = 1, 2, ..."),
            "Add logarithms, do not multiply probabilities: a product of a thousand of them underflows.",
            "lessons/00b, section 5",
        ),
        Question(
            "Between two neighbours",
            "In a Markov chain the token before and the token after are known. Derive the law of the one between.",
            Function(
                middle,
                lambda rng: [(law(rng, v, v), int(rng.integers(v)), int(rng.integers(v))) for v in (2, 3, 3, 4)],
                (
                    Suspect(
                        lambda matrix, left, right: matrix[left],
                        "This is the law given what is to the left only: an autoregressive model's answer.",
                    ),
                    Suspect(
                        lambda matrix, left, right: matrix[:, right] / matrix[:, right].sum(),
                        "This uses what is to the right only.",
                    ),
                    Suspect(
                        lambda matrix, left, right: matrix[left] * matrix[:, right],
                        "The product is right, but it does not sum to one: divide by its sum.",
                    ),
                    Suspect(
                        lambda matrix, left, right: matrix[left] * matrix[right] / (matrix[left] @ matrix[right]),
                        "matrix[right] is what follows `right`. How likely `right` follows each token is a column.",
                    ),
                ),
                oracle=middle_by_listing,
                derived=True,
            ),
            (
                "p(b | a, c) is proportional to p(a, b, c) = p(a) p(b | a) p(c | b).",
                "p(a) does not depend on b: it goes when you normalise.",
            ),
            "Two factors, one from each side. How much the right one adds is the mutual information of the token and "
            "its "
            "right neighbour given the left, which a left-to-right model cannot use.",
            "lessons/02, section 6",
        ),
        Question(
            "The reversal curse",
            'A model trained on "A is B" answers "who is B?" no better than chance. Which conditional is missing?',
            Choice(
                (
                    Option("p(B | A): it was never trained.", "That is the one which it was trained on."),
                    Option("p(A): how often A comes up.", "It has that: A is generated first."),
                    Option(
                        "p(A | B) as a forward pass: it follows from p(A) p(B | A) by Bayes' rule, but only by scoring "
                        "every A.",
                        "Right. The joint law is known, and with it p(A | B). But no single pass gives it: the curse "
                        "is "
                        "one of generation, not of knowledge.",
                        right=True,
                    ),
                    Option(
                        "None: the law is wrong.",
                        "The law is right: scoring all candidates A answers without an error.",
                    ),
                )
            ),
            ("Write p(A, B) in the order of training.", "How would you compute p(A | B) from it, and at what price?"),
            "Identity Y2: by scoring candidates an autoregressive model inverts a relation exactly.",
            "lessons/08, section 7",
        ),
        Question(
            "The other factorisation",
            "Two tokens, x1 then x2. Derive the law of x1 given x2: what a model that runs right to left must learn.",
            Function(
                backwards,
                lambda rng: [(law(rng, v), law(rng, v, v)) for v in (2, 2, 3, 4)],
                (
                    Suspect(
                        lambda first, matrix: matrix.T,
                        "This is p(x2 = b | x1 = a) written the other way. Turning a conditional round takes Bayes' "
                        "rule, and the law of x1.",
                    ),
                    Suspect(
                        lambda first, matrix: (matrix / matrix.sum(axis=0)).T,
                        "The law of x1 is missing: this is right only if all x1 are equally likely.",
                    ),
                    Suspect(
                        lambda first, matrix: (first[:, None] * matrix).T, "This is the joint law. Divide by p(x2 = b)."
                    ),
                    Suspect(
                        lambda first, matrix: (first[:, None] * matrix) / (first @ matrix),
                        "Right numbers, turned round: [b, a] is asked for, and each row is to sum to one.",
                    ),
                ),
                oracle=backwards_by_loops,
                derived=True,
            ),
            ("p(x1 | x2) = p(x1) p(x2 | x1) / p(x2).", "p(x2 = b) is the sum over a of first[a] matrix[a, b]."),
            "Both factorisations are exact and need not be equally easy: multiplication one way is factoring the "
            "other.",
            "lessons/03, section 7",
        ),
        Question(
            "A bound is no likelihood",
            "The NELBO of a masked model is 2 nats per token. Its gap, which nobody has measured, is 0.3. Which upper "
            "bound of its perplexity may be reported?",
            Number(
                lambda: math.exp(2.0),
                (
                    Trap(
                        lambda: math.exp(1.7),
                        "That is the true perplexity; but the gap is not known, so it cannot be reported.",
                    ),
                    Trap(lambda: 2.0**2.0, "The bound is in nats: the base is e, not 2."),
                    Trap(lambda: math.exp(2.3), "The gap goes the other way: the likelihood is better than its bound."),
                    Trap(lambda: 2.0, "This is the NELBO; perplexity is its exponential."),
                ),
            ),
            (
                "Perplexity is exp of nats per token.",
                "A NELBO is an upper bound of -log p, so what follows from it is one too.",
            ),
            "Beside an autoregressive model's exact perplexity this number is a handicap: how much of the difference "
            "is gap "
            "and how much model, it does not say.",
            "lessons/03, sections 8 and 11",
        ),
    ),
)
