"""Set 3: noise for tokens. Transition matrices small enough to write down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arrays import Floats
from ...processes import discrete, transitions
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 3.2 --------------------------------------------------------------------------------------------------------------


def many_steps(betas: Floats, vocab_size: int) -> Floats:
    """The matrix (V, V) of all steps together, [i, j] = p(token j after | token i before).

    In step k a token is drawn anew, from all V with equal chances, with probability betas[k]; else it stays.
    """
    alpha = np.prod(1 - np.asarray(betas))
    return np.asarray(alpha * np.eye(vocab_size) + (1 - alpha) / vocab_size)


def step_by_step(betas: Floats, vocab_size: int) -> Floats:
    """The product of the matrices."""
    total = np.eye(vocab_size)
    for beta in betas:
        total = total @ ((1 - beta) * np.eye(vocab_size) + beta / vocab_size)
    return np.asarray(total)


# --- 3.4 --------------------------------------------------------------------------------------------------------------


def unmasking(alpha_s: float, alpha_t: float) -> tuple[float, float]:
    """A token is MASK at t: the probabilities that at s < t it was MASK too, and that it was not: (stays, revealed).

    alpha is the probability that a token still carries its value.
    """
    revealed = (alpha_s - alpha_t) / (1 - alpha_t)
    return 1 - revealed, revealed


def unmasking_by_bayes(alpha_s: float, alpha_t: float) -> tuple[float, float]:
    """The posterior of absorbing noise over two tokens and MASK."""
    noise = transitions.Absorbing(2)
    q = transitions.posterior(noise, np.array(0), np.array(2), -math.log(alpha_s), -math.log(alpha_t))
    return float(q[2]), float(q[0])


# --- 3.8 --------------------------------------------------------------------------------------------------------------


def generator(weights: Floats) -> Floats:
    """Rates (V, V) of a noise that moves tokens to their neighbours, and whose stationary law is uniform.

    weights[i, j] = weights[j, i] >= 0 says how much i and j are neighbours; the diagonal is 0. A token goes from i to j
    at the rate weights[i, j].
    """
    return np.asarray(weights - np.diag(weights.sum(axis=1)))


def neighbours(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Symmetric weights."""
    made: list[tuple[Any, ...]] = []
    for v in (2, 3, 4):
        w = rng.uniform(0.1, 1.5, (v, v))
        w = w + w.T
        np.fill_diagonal(w, 0)
        made.append((w,))
    return made


def rows_vanish(weights: Floats, rates: Floats) -> str | None:
    """A generator conserves probability."""
    row = np.abs(rates.sum(axis=1))
    if row.max() < 1e-6 * np.abs(rates).max():
        return None
    return f"Row {int(row.argmax())} of the rates sums to {rates[row.argmax()].sum():.3g}, and should to 0."


def _prior_kl(reverse: bool = False) -> float:
    """L_T of a token under uniform noise of which 0.1 of the tokens escape."""
    q = transitions.Uniform(3).rows(-math.log(0.1), np.array(0))
    flat = np.full(3, 1 / 3)
    return float(discrete.divergence(flat, q) if reverse else discrete.divergence(q, flat))


SET = Series(
    "3",
    "Noise for tokens",
    "lessons/02_discrete_noise.ipynb",
    (
        Question(
            "Chance hits",
            "Uniform noise over 4 tokens: with probability 0.6 a token survives, else it is drawn anew from all 4. "
            "With "
            "which probability is it the same as before?",
            Number(
                lambda: float(transitions.Uniform(4).rows(-math.log(0.6), np.array(1))[1]),
                (
                    Trap(lambda: 0.6, "A token that is drawn anew may come out the same."),
                    Trap(lambda: 0.1, "This is the probability of one of the others."),
                    Trap(lambda: 0.6 + 0.4 / 3, "It is drawn from all 4, itself among them, not from the 3 others."),
                ),
                unit="share",
            ),
            ("Survive, or be drawn anew and hit the same.", "0.6 + 0.4 / 4."),
            "alpha is the probability of surviving, not of being the same. With few tokens the difference is large.",
            "lessons/02, section 2",
        ),
        Question(
            "Many steps in one matrix",
            "Derive the matrix of all steps of uniform noise together.",
            Function(
                many_steps,
                lambda rng: [(rng.uniform(0, 0.6, n), v) for n, v in ((1, 2), (2, 2), (3, 3), (5, 4))],
                (
                    Suspect(
                        lambda betas, vocab_size: (1 - np.sum(betas)) * np.eye(vocab_size) + np.sum(betas) / vocab_size,
                        "The betas have been added up. A token survives all steps with the product of 1 - beta.",
                    ),
                    Suspect(
                        lambda betas, vocab_size: (
                            np.prod(1 - betas) * np.eye(vocab_size)
                            + (1 - np.prod(1 - betas)) / (vocab_size - 1) * (1 - np.eye(vocab_size))
                        ),
                        "What is drawn anew may be the token itself: (1 - alpha) / V in every entry, the diagonal too.",
                    ),
                    Suspect(
                        lambda betas, vocab_size: (1 - betas[-1]) * np.eye(vocab_size) + betas[-1] / vocab_size,
                        "This is the last step alone.",
                    ),
                    Suspect(
                        lambda betas, vocab_size: (
                            np.prod(1 - betas) * np.eye(vocab_size)
                            + (1 - np.prod(1 - betas)) * np.ones((vocab_size, vocab_size))
                        ),
                        "The rows do not sum to one: what is drawn anew is spread over V tokens, (1 - alpha) / V each.",
                    ),
                ),
                oracle=step_by_step,
                derived=True,
            ),
            (
                "Multiply two such matrices out. U = 1 1^T / V obeys U U = U.",
                "(a I + (1 - a) U)(b I + (1 - b) U) = a b I + (1 - a b) U.",
            ),
            "The survival probabilities multiply and the form stays: so one jump does the work of many steps.",
            "lessons/02, section 5",
        ),
        Question(
            "Eigenvalues",
            "Absorbing noise keeps a token with probability alpha, else it becomes MASK. Which eigenvalues does its "
            "matrix "
            "over V tokens and MASK have?",
            Choice(
                (
                    Option(
                        "1 once and alpha V times.",
                        "Right. The matrix is triangular with the diagonal alpha, ..., alpha, 1; the uniform one has 1 "
                        "once and alpha V - 1 times.",
                        right=True,
                    ),
                    Option("1 and 0.", "That is so at alpha = 0 only."),
                    Option("alpha V + 1 times.", "Rows sum to one, so 1 is always an eigenvalue."),
                    Option(
                        "1 V times and alpha once.",
                        "Turned round: V stationary laws would mean that tokens are never forgotten.",
                    ),
                )
            ),
            (
                "Write the matrix for V = 2. Which entries are 0?",
                "A triangular matrix has its eigenvalues on the diagonal.",
            ),
            "All that is not stationary shrinks at the same rate, alpha. Nearest-neighbour noise has many rates: what "
            "many "
            "neighbours share is forgotten last.",
            "lessons/02, section 5",
        ),
        Question(
            "A mask, a moment before",
            "Write the posterior of a token that is masked at t: was it masked at s already?",
            Function(
                unmasking,
                lambda rng: [
                    (float(s), float(s * r))
                    for s, r in zip(rng.uniform(0.3, 0.99, 5), rng.uniform(0.1, 0.9, 5), strict=True)
                ],
                (
                    Suspect(
                        lambda alpha_s, alpha_t: (1 - alpha_s + alpha_t, alpha_s - alpha_t),
                        "This is the probability of being masked between s and t. It is known that the token is masked "
                        "at t: divide by 1 - alpha_t.",
                    ),
                    Suspect(
                        lambda alpha_s, alpha_t: (1 - alpha_s, alpha_s),
                        "This is the law at s when nothing is known about t.",
                    ),
                    Suspect(
                        lambda alpha_s, alpha_t: (1 - alpha_t / alpha_s, alpha_t / alpha_s),
                        "This is the step forward: a token that is visible at s stays visible with alpha_t / alpha_s.",
                    ),
                    Suspect(
                        lambda alpha_s, alpha_t: unmasking(alpha_s, alpha_t)[::-1],
                        "The two numbers are swapped: (stays masked, revealed).",
                    ),
                ),
                oracle=unmasking_by_bayes,
            ),
            (
                "Masked at t: probability 1 - alpha_t. Masked at s too: 1 - alpha_s.",
                "A mask stays a mask, so being masked at s implies being masked at t.",
            ),
            "stays = (1 - alpha_s) / (1 - alpha_t), revealed = (alpha_s - alpha_t) / (1 - alpha_t): the same whatever "
            "the "
            "token is, which is why a bound with masks becomes a cross-entropy.",
            "lessons/02, sections 6 and 8",
        ),
        Question(
            "Is it exact?",
            "At alpha = 0.75 a text of 64 tokens has a quarter of them masked on average. What is the standard "
            "deviation "
            "of the masked share?",
            Number(
                lambda: math.sqrt(0.75 * 0.25 / 64),
                (
                    Trap(lambda: 0.0, "Positions are masked independently: only the mean is a quarter."),
                    Trap(lambda: 0.75 * 0.25 / 64, "This is the variance."),
                    Trap(
                        lambda: math.sqrt(0.75 * 0.25 * 64),
                        "This is for the number of masks; the share is that over 64.",
                    ),
                    Trap(lambda: math.sqrt(0.75 * 0.25), "This is for one token; the mean of 64 varies less."),
                ),
                unit="share",
            ),
            ("The number of masks is binomial.", "Its variance is L alpha (1 - alpha); the share divides it by L^2."),
            '"The masked share is 1 - alpha" is true of the mean. Counting masks in place of drawing times takes this '
            "chance out of an estimate.",
            "lessons/02, section 3",
        ),
        Question(
            "What the others say",
            "For uniform noise the network's answer for a position is best read as what the other positions say about "
            "it. "
            "Why not what all of x_t says, the token at the position included?",
            Choice(
                (
                    Option(
                        "Because the token at the position is noise and means nothing.",
                        "At small noise it means a great deal.",
                    ),
                    Option(
                        "Because Bayes' rule then multiplies with the likelihood of that token, which would be counted "
                        "twice.",
                        "Right. q(x_t | x_0) of the token itself is known exactly and comes in by Bayes' rule; the "
                        "network "
                        "need not learn it, and must not repeat it.",
                        right=True,
                    ),
                    Option("Because the network does not see its own position.", "It does: attention includes it."),
                    Option(
                        "Because for masks it is the same.",
                        "It is the same there, as MASK says nothing, and this is no reason for uniform noise.",
                    ),
                )
            ),
            ("Which two sources speak about x_0 at a position?", "Are they independent given x_0?"),
            "The posterior is prior times likelihood: the prior from the others, the likelihood from the token seen "
            "there.",
            "lessons/02, section 6",
        ),
        Question(
            "Noise that never forgets",
            "A neighbour noise leaves the tokens in two groups without a link between them. What breaks?",
            Choice(
                (
                    Option("The rows of the matrix no longer sum to one.", "They do, in each group."),
                    Option(
                        "x_1 still tells the group of x_0, so the first term KL(q(x_1 | x_0) || prior) stays above 0 "
                        "for "
                        "every amount of noise.",
                        "Right: the eigenvalue 1 is there twice, and no prior without knowledge of x_0 fits both "
                        "groups.",
                        right=True,
                    ),
                    Option("The posterior is not defined.", "It is, by Bayes' rule, as ever."),
                    Option(
                        "Nothing, as long as training is long enough.",
                        "No network can know the group at the start of "
                        "sampling: it costs log 2 per token if groups are equally likely.",
                    ),
                )
            ),
            ("What is left of x_0 after infinitely much noise?", "How many stationary laws are there?"),
            "The library refuses such embeddings and says how many groups there are.",
            "lessons/02, section 4",
        ),
        Question(
            "A generator for neighbours",
            "Derive the generator of a noise that moves between neighbours and forgets everything: uniform in the end.",
            Function(
                generator,
                neighbours,
                (
                    Suspect(
                        lambda weights: weights / weights.sum(axis=1, keepdims=True) - np.eye(len(weights)),
                        "Every token leaves at the rate 1 here, and so tokens with strong neighbours are visited more "
                        "often: the stationary law is not uniform. Keep the weights as rates.",
                    ),
                    Suspect(
                        lambda weights: weights - np.eye(len(weights)),
                        "The diagonal must be minus the sum of the row, so that the rows sum to 0.",
                    ),
                    Suspect(
                        lambda weights: weights + np.diag(weights.sum(axis=1)),
                        "The sign of the diagonal: what leaves a token is taken away from it.",
                    ),
                    Suspect(
                        lambda weights: np.array(weights),
                        "The diagonal is missing: what leaves a token must be taken away from it.",
                    ),
                ),
                properties=(rows_vanish,),
                derived=True,
            ),
            (
                "Probability is conserved: rows of a generator sum to 0.",
                "Uniform is stationary if the columns sum to 0 too. When do they?",
            ),
            "A symmetric generator has the uniform stationary law: what flows from i to j flows back.",
            "lessons/02, section 4",
        ),
        Question(
            "Three twins",
            "Texts of two equal letters: aa with 0.5, bb with 0.3, cc with 0.2. The perfect denoiser reveals both "
            "masks in "
            "one step. Which share of the texts is none that exists?",
            Number(
                lambda: 1 - (0.5**2 + 0.3**2 + 0.2**2),
                (
                    Trap(lambda: 0.38, "This is the share of the valid ones."),
                    Trap(lambda: 2 / 3, "The letters are not equally likely."),
                    Trap(lambda: 0.0, "Each position has the right law, but they are drawn independently."),
                    Trap(lambda: 0.5, "Only a text that begins with a has this chance of a wrong second letter."),
                ),
                unit="share",
            ),
            (
                "One look says 0.5, 0.3, 0.2 at both positions, and they are drawn independently.",
                "Both equal: 0.25 + 0.09 + 0.04.",
            ),
            "The network is perfect and 62 % of its texts are wrong: what is lost in parallel is the dependence.",
            "lessons/05, section 3",
        ),
        Question(
            "The price of the start",
            "Uniform noise over 3 tokens ends with alpha(1) = 0.1. What does a uniform prior cost per token in the "
            "bound, "
            "in nats?",
            Number(
                _prior_kl,
                (
                    Trap(lambda: _prior_kl(reverse=True), "This is KL(prior || q); the bound has KL(q || prior)."),
                    Trap(
                        lambda: 0.1 * math.log(3), "This is what masks would pay: there a token that survived is known."
                    ),
                    Trap(lambda: 0.0, "A tenth of the tokens survive: x_1 still says a little about x_0."),
                ),
                unit="nats",
            ),
            ("q(x_1 | x_0) is 0.4, 0.3, 0.3.", "0.4 log(0.4 x 3) + 2 x 0.3 log(0.3 x 3)."),
            "L_T is small, but it is there in every bound whose noise stops short of the prior; for masks that end at "
            "0 it "
            "is exactly 0.",
            "lessons/02, section 7",
        ),
    ),
)
