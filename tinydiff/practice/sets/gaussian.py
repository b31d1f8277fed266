"""Set 2: Gaussian diffusion, score and flow. Everything in closed form, as long as the data are one or two points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arrays import Floats
from ...processes import GaussianDiffusion
from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

# --- 2.2 --------------------------------------------------------------------------------------------------------------


def posterior(x0: float, xk: float, before: float, now: float) -> tuple[float, float]:
    """Mean and variance of x_{k-1} given x_k and x_0, in one dimension: (mean, variance).

    q(x_{k-1} | x_0) = N(sqrt(before) x_0, 1 - before), and q(x_k | x_0) = N(sqrt(now) x_0, 1 - now), where before and
    now are alpha_bar of step k - 1 and of step k.
    """
    alpha = now / before
    of_x0 = math.sqrt(before) * (1 - alpha) / (1 - now)
    of_xk = math.sqrt(alpha) * (1 - before) / (1 - now)
    return of_x0 * x0 + of_xk * xk, (1 - before) * (1 - alpha) / (1 - now)


def posterior_by_precision(x0: float, xk: float, before: float, now: float) -> tuple[float, float]:
    """A Gaussian prior times a Gaussian likelihood: precisions add up."""
    alpha = now / before
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (math.sqrt(before) * x0 / (1 - before) + math.sqrt(alpha) * xk / (1 - alpha)) / precision
    return mean, 1 / precision


def posterior_cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Points and levels."""
    made = []
    for _ in range(5):
        before = rng.uniform(0.3, 0.95)
        made.append((float(rng.normal()), float(rng.normal()), before, before * rng.uniform(0.3, 0.95)))
    return made


# --- 2.5 --------------------------------------------------------------------------------------------------------------


def to_noise(x: Floats, output: Floats, alpha_bar: float, predict: str) -> Floats:
    """The noise eps that an output stands for, where x = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    predict says what the output is: "eps", "x0", "score" (the gradient of log p_t(x)), or "v", which is
    sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
    """
    a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if predict == "x0":
        return (x - a * output) / s
    if predict == "score":
        return -s * output
    if predict == "v":
        return s * x + a * output
    return output


def _noise_variant(wrong: str) -> Any:
    def to_noise(x: Floats, output: Floats, alpha_bar: float, predict: str) -> Floats:
        a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        if predict == "x0":
            return (x - output) / s if wrong == "unscaled" else (x - a * output) / (s * s if wrong == "variance" else s)
        if predict == "score":
            factor = {"score sign": s, "variance": -s * s, "score scale": -1.0}.get(wrong, -s)
            return factor * output
        if predict == "v":
            return (
                s * x - a * output
                if wrong == "v sign"
                else a * output + s * x
                if wrong != "v swap"
                else a * x + s * output
            )
        return output

    return to_noise


def noise_cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Every kind of output at a few levels."""
    return [
        (rng.standard_normal(n), rng.standard_normal(n), float(rng.uniform(0.1, 0.9)), predict)
        for n in (1, 3)
        for predict in ("eps", "x0", "score", "v")
    ]


# --- 2.6 --------------------------------------------------------------------------------------------------------------


def two_point_score(x: Floats, m: float, alpha_bar: float) -> Floats:
    """The score d/dx log p_t(x) where the data are +m and -m, each with probability 1/2, noised to alpha_bar."""
    a, s2 = math.sqrt(alpha_bar) * m, 1 - alpha_bar
    return (a * np.tanh(a * x / s2) - x) / s2


def score_by_weights(x: Floats, m: float, alpha_bar: float) -> Floats:
    """The two Gaussians' own scores, weighted by how likely each is at x."""
    centres, s2 = math.sqrt(alpha_bar) * np.array([m, -m])[:, None], 1 - alpha_bar
    log_weight = -((np.asarray(x) - centres) ** 2) / (2 * s2)
    weight = np.exp(log_weight - log_weight.max(axis=0))
    return np.asarray((weight / weight.sum(axis=0) * (centres - x) / s2).sum(axis=0))


def _flow_log_p(x0: float, rate: float, sign: float = 1.0, at: float | None = None) -> float:
    """log p of a point that the flow x' = rate x carries to N(0, 1) in unit time."""
    x1 = x0 * math.exp(rate) if at is None else at
    return -0.5 * math.log(2 * math.pi) - x1**2 / 2 + sign * rate


def _ddim(x: float, eps: float, now: float, before: float) -> tuple[float, float]:
    """The guess of x_0, and the step without fresh noise."""
    process = GaussianDiffusion(1, T=3, schedule=[1 - before, 1 - now / before, 0.999])
    x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
    step = process.step(np.full((1, 1, 1), x0), np.full((1, 1, 1), eps), 1, 2, 0.0, np.random.default_rng(0))
    return x0, float(step[0, 0, 0])


SET = Series(
    "2",
    "Gaussian diffusion, score and flow",
    "lessons/01_gaussian_diffusion_score_flow.ipynb",
    (
        Question(
            "Three steps in one",
            "Three steps of noise with beta = 0.1, 0.2 and 0.3. Which share of the data's variance is left, alpha_bar?",
            Number(
                lambda: float(GaussianDiffusion(1, T=4, schedule=[0.1, 0.2, 0.3, 0.999]).alpha_bar[3]),
                (
                    Trap(
                        lambda: 0.4, "Betas do not add up: each step keeps a share of what is left, so shares multiply."
                    ),
                    Trap(
                        lambda: math.sqrt(0.504), "This is the factor before x_0; of the variance its square is left."
                    ),
                    Trap(lambda: 1 - 0.504, "This is the share of noise."),
                ),
                unit="share",
            ),
            ("A step multiplies x by sqrt(1 - beta): the variance by 1 - beta.", "0.9 x 0.8 x 0.7."),
            "x_k = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, in one jump: training never walks the chain.",
            "lessons/01, section 2",
        ),
        Question(
            "One step back",
            "Derive mean and variance of x_{k-1} given x_k and x_0.",
            Function(
                posterior,
                posterior_cases,
                (
                    Suspect(
                        lambda x0, xk, before, now: (posterior(x0, xk, before, now)[0], 1 - now / before),
                        "The mean is right. The variance is beta in yours, that of the step forward; knowing x_0 makes "
                        "it smaller, by (1 - before) / (1 - now).",
                    ),
                    Suspect(
                        lambda x0, xk, before, now: (
                            posterior(xk, x0, before, now)[0],
                            posterior(x0, xk, before, now)[1],
                        ),
                        "The weights of x_0 and x_k are swapped.",
                    ),
                    Suspect(
                        lambda x0, xk, before, now: (math.sqrt(before) * x0, 1 - before),
                        "This is q(x_{k-1} | x_0): x_k has not been used.",
                    ),
                    Suspect(
                        lambda x0, xk, before, now: (
                            before * (1 - now / before) / (1 - now) * x0 + now / before * (1 - before) / (1 - now) * xk,
                            posterior(x0, xk, before, now)[1],
                        ),
                        "The square roots are missing in the mean: means scale with sqrt(alpha), variances with alpha.",
                    ),
                    Suspect(
                        lambda x0, xk, before, now: (
                            posterior(x0, xk, before, now)[0],
                            math.sqrt(posterior(x0, xk, before, now)[1]),
                        ),
                        "The mean is right. The second number is the standard deviation; the variance is asked for.",
                    ),
                ),
                oracle=posterior_by_precision,
                derived=True,
            ),
            (
                "Bayes: proportional to q(x_{k-1} | x_0) q(x_k | x_{k-1}), both Gaussian in x_{k-1}.",
                "Precisions add up: 1 / variance = 1 / (1 - before) + alpha / (1 - alpha), with alpha = now / before.",
                "The mean is the variance times (sqrt(before) x_0 / (1 - before) + sqrt(alpha) x_k / (1 - alpha)).",
            ),
            "A product of Gaussians is a Gaussian. This one is what a network's guess of x_0 is turned into a step "
            "with.",
            "lessons/01, section 4",
        ),
        Question(
            "From noise to data",
            "At alpha_bar = 0.64 a network sees x = 1 and predicts the noise 0.5. Which x_0 does it mean?",
            Number(
                lambda: (1 - 0.6 * 0.5) / 0.8,
                (
                    Trap(lambda: (1 - 0.36 * 0.5) / 0.64, "The square roots are missing: x = 0.8 x_0 + 0.6 eps."),
                    Trap(lambda: (1 - 0.8 * 0.5) / 0.6, "Signal and noise are swapped: sqrt(0.64) goes with x_0."),
                    Trap(lambda: 1 - 0.6 * 0.5, "Divide by the signal's scale, 0.8."),
                    Trap(lambda: 0.5, "Taking the noise off unscaled is not it: x = 0.8 x_0 + 0.6 eps."),
                ),
            ),
            (
                "x = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps. Solve for x_0.",
                "sqrt(0.64) = 0.8 and sqrt(0.36) = 0.6.",
            ),
            "Near t = 1 the division is by almost nothing: an error of eps becomes a large error of x_0. That is why "
            "guesses "
            "from much noise fly out of the data.",
            "lessons/01, section 5",
        ),
        Question(
            "A loss with a floor",
            "Why can the loss |eps - eps_hat|^2 not reach 0, even for the best network?",
            Choice(
                (
                    Option(
                        "Because of the finite number of steps T.",
                        "More steps do not help: at each one the same holds.",
                    ),
                    Option(
                        "Because many pairs (x_0, eps) lead to the same x_t; the best answer is their mean, and eps "
                        "scatters around it.",
                        "Right. The floor is the mean conditional variance of eps given x_t, and the mean is all that "
                        "the score needs.",
                        right=True,
                    ),
                    Option(
                        "Because the network is too small.", "The floor is there for the exact conditional mean too."
                    ),
                    Option(
                        "Because eps is drawn anew in every step.",
                        "Fresh noise is what makes it a mean; the floor comes from what x_t does not tell.",
                    ),
                )
            ),
            ("Fix x_t. Is eps then known?", "What minimises a mean square error?"),
            "E|eps - E[eps | x_t]|^2 is left. A low loss is no sign of good samples, and a high one none of bad ones.",
            "lessons/01, section 3",
        ),
        Question(
            "Four ways to say the same",
            "Write the conversion of any prediction into the noise that it stands for.",
            Function(
                to_noise,
                noise_cases,
                (
                    Suspect(
                        _noise_variant("v sign"),
                        "The sign of v is wrong: eps = sqrt(1 - alpha_bar) x + sqrt(alpha_bar) v.",
                    ),
                    Suspect(
                        _noise_variant("v swap"),
                        "For v the two factors are swapped: the noise takes sqrt(1 - alpha_bar) "
                        "of x and sqrt(alpha_bar) of v.",
                    ),
                    Suspect(
                        _noise_variant("score sign"),
                        "The score points towards the data, the noise away from them: eps "
                        "is minus the score times sqrt(1 - alpha_bar).",
                    ),
                    Suspect(
                        _noise_variant("score scale"), "The score is -eps / sqrt(1 - alpha_bar): the scale is missing."
                    ),
                    Suspect(
                        _noise_variant("variance"),
                        "Variance for standard deviation: divide or multiply by "
                        "sqrt(1 - alpha_bar), not by 1 - alpha_bar.",
                    ),
                    Suspect(_noise_variant("unscaled"), "x_0 enters x with the factor sqrt(alpha_bar)."),
                ),
            ),
            (
                "x0: solve x = a x_0 + s eps for eps.",
                "v = a eps - s x_0 and x = a x_0 + s eps, with a^2 + s^2 = 1: compute s x + a v.",
                "score = -eps / s.",
            ),
            "One network, four names for its output; what differs is which errors the loss weighs.",
            "lessons/01, section 5",
        ),
        Question(
            "The score of two points",
            "The data are two points, +m and -m. Derive the score of their noised law.",
            Function(
                two_point_score,
                lambda rng: [
                    (rng.normal(size=n), float(rng.uniform(0.5, 2)), float(rng.uniform(0.2, 0.9))) for n in (1, 2, 5)
                ],
                (
                    Suspect(
                        lambda x, m, alpha_bar: -np.asarray(x) / (1 - alpha_bar),
                        "This is the score of a single point at 0: the data have been left out.",
                    ),
                    Suspect(
                        lambda x, m, alpha_bar: (math.sqrt(alpha_bar) * m * np.sign(x) - x) / (1 - alpha_bar),
                        "This goes to the nearest point. Between the two both pull, each as much as it is likely: tanh "
                        "in place of sign.",
                    ),
                    Suspect(
                        lambda x, m, alpha_bar: (m * np.tanh(m * x / (1 - alpha_bar)) - x) / (1 - alpha_bar),
                        "The centres shrink with the noise: sqrt(alpha_bar) m, not m.",
                    ),
                    Suspect(
                        lambda x, m, alpha_bar: (
                            (math.sqrt(alpha_bar) * m * np.tanh(math.sqrt(alpha_bar) * m * x) - x) / (1 - alpha_bar)
                        ),
                        "Inside tanh the variance is missing: divide by 1 - alpha_bar.",
                    ),
                    Suspect(
                        lambda x, m, alpha_bar: math.sqrt(1 - alpha_bar) * two_point_score(x, m, alpha_bar),
                        "This is minus the noise, E[eps | x]; the score is that over sqrt(1 - alpha_bar).",
                    ),
                ),
                oracle=score_by_weights,
                derived=True,
            ),
            (
                "p_t is half N(a m, s^2) and half N(-a m, s^2), with a = sqrt(alpha_bar), s^2 = 1 - alpha_bar.",
                "The derivative of log of a sum: each Gaussian's own score, weighted by its share of p_t(x).",
                "The difference of the two shares is tanh(a m x / s^2).",
            ),
            "score = (a E[x_0 | x] - x) / s^2, for any data: here E[x_0 | x] = m tanh(a m x / s^2).",
            "lessons/01, section 6",
        ),
        Question(
            "A step without noise",
            "DDIM, eta = 0: from alpha_bar = 0.5 to 0.8, at x = 1.2 with the predicted noise 0.6. Where does it go?",
            Number(
                lambda: _ddim(1.2, 0.6, 0.5, 0.8)[1],
                (
                    Trap(
                        lambda: _ddim(1.2, 0.6, 0.5, 0.8)[0],
                        "This is the guess of x_0. Put the noise back: sqrt(0.8) x_0 + sqrt(0.2) eps.",
                    ),
                    Trap(
                        lambda: math.sqrt(0.8) * _ddim(1.2, 0.6, 0.5, 0.8)[0],
                        "The noise of the new level is missing: + sqrt(1 - 0.8) eps, with the same eps.",
                    ),
                    Trap(
                        lambda: posterior(_ddim(1.2, 0.6, 0.5, 0.8)[0], 1.2, 0.8, 0.5)[0],
                        "This is the posterior mean, the step of DDPM before its fresh noise.",
                    ),
                ),
            ),
            (
                "First the guess: x_0 = (x - sqrt(0.5) eps) / sqrt(0.5).",
                "Then noise it to the new level with the same eps.",
            ),
            "The same noise, less of it: a step along the probability-flow equation, which is why few of them do.",
            "lessons/01, section 6",
        ),
        Question(
            "Why a mean velocity is enough",
            "In flow matching the lines from data to noise cross, and at a crossing the network learns the mean of the "
            "velocities. Why do samples come out right all the same?",
            Choice(
                (
                    Option("Crossings are rare.", "In the middle nearly every point is one."),
                    Option(
                        "The mean velocity moves the same mass through every point: the law at each time is the same, "
                        "though single paths are not.",
                        "Right: the continuity equation contains only the mean velocity. Paths of the learnt flow "
                        "never "
                        "cross; they swap partners.",
                        right=True,
                    ),
                    Option("The network remembers which line it is on.", "It sees only x and t."),
                    Option("The solver averages the errors out.", "The exact solution has the right law already."),
                )
            ),
            ("What does the law at time t + dt depend on?", "Write down the continuity equation."),
            "Identity G8: both losses have the same gradient; G9: the flow carries noise to data.",
            "lessons/01, section 7",
        ),
        Question(
            "Straight or short",
            "Which property of a flow's paths decides how many Euler steps it needs?",
            Choice(
                (
                    Option("Their length.", "A long straight line takes one Euler step."),
                    Option(
                        "How much they bend: the change of velocity along a path.",
                        "Right: Euler's error is second order in the acceleration. A straight path at even speed is "
                        "exact "
                        "in one step.",
                        right=True,
                    ),
                    Option("How many cross.", "Paths of a flow do not cross."),
                    Option("The number of dimensions.", "The error per dimension does not know of the others."),
                )
            ),
            ("When is one step of Euler exact?", "Taylor: x(t + h) = x + h x' + h^2 x'' / 2."),
            "That is what straighter couplings, rectified flows and higher-order solvers are after.",
            "lessons/01, section 8",
        ),
        Question(
            "Likelihood by divergence",
            "A flow x' = 0.7 x runs from data at t = 0 to N(0, 1) at t = 1. What is log p of the data point 0.5?",
            Number(
                lambda: _flow_log_p(0.5, 0.7),
                (
                    Trap(
                        lambda: _flow_log_p(0.5, 0.7, sign=-1.0),
                        "The sign of the divergence: the flow spreads the data out, so they were denser before.",
                    ),
                    Trap(lambda: _flow_log_p(0.5, 0.7, sign=0.0), "The divergence is missing: + integral of 0.7 dt."),
                    Trap(
                        lambda: _flow_log_p(0.5, 0.7, at=0.5),
                        "The Gaussian is at the end of the path: x = 0.5 exp(0.7).",
                    ),
                    Trap(
                        lambda: _flow_log_p(0.5, 0.7, at=0.5 + 0.35),
                        "The path is an exponential: 0.5 exp(0.7), not one Euler step.",
                    ),
                ),
            ),
            (
                "log p_0(x_0) = log p_1(x_1) + integral of the divergence.",
                "x_1 = 0.5 exp(0.7); the divergence of 0.7 x is 0.7.",
            ),
            "Stretching by exp(0.7) thins the density by that factor.",
            "lessons/01, section 9",
        ),
    ),
)
