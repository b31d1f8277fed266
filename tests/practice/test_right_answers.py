"""Right answers, written differently: loops, fractions, other ways of drawing. All must pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tinydiff import Tensor, ops
from tinydiff.practice.catalogue import QUESTIONS
from tinydiff.practice.judge import judge
from tinydiff.practice.reading import number

# --- the recipe -------------------------------------------------------------------------------------------------------


def times(model: Any, x0: Any, mask_id: int, rng: Any) -> Any:
    """Drawing times, masks independently, weight 1/t."""
    t = rng.uniform(1e-3, 1, len(x0))
    hidden = rng.random(x0.shape) < t[:, None]
    nll = ops.cross_entropy(model(np.where(hidden, mask_id, x0), select=hidden), x0[hidden])
    return (nll * np.repeat(1 / t, hidden.sum(axis=1))).sum() / x0.size


def spread(model: Any, x0: Any, mask_id: int, rng: Any) -> Any:
    """One count in each of B parts; all logits; a log-softmax picked from by a one-hot array."""
    B, L = x0.shape
    k = 1 + np.floor(rng.permutation((np.arange(B) + rng.random(B)) / B) * L).astype(int)
    weight = np.zeros((B, L))
    for b in range(B):
        weight[b, rng.permutation(L)[: k[b]]] = L / k[b]
    log_p = ops.log_softmax(model(np.where(weight > 0, mask_id, x0)))
    onehot = np.eye(log_p.shape[-1])[x0]
    return -(log_p * Tensor(onehot * weight[..., None])).sum() * (1 / (B * L))


def row_by_row(model: Any, x0: Any, mask_id: int, rng: Any) -> Any:
    """A loop over texts, each with its own call."""
    total: Any = 0.0
    for row in x0:
        k = int(rng.integers(1, len(row), endpoint=True))
        places = np.sort(rng.choice(len(row), k, replace=False))
        xt = row.copy()
        xt[places] = mask_id
        logits = model(xt[None])[0]  # (L, V)
        total = total + ops.cross_entropy(logits, row)[places].sum() * (1 / k)
    return total / len(x0)


def averaged_per_text(model: Any, x0: Any, mask_id: int, rng: Any) -> Any:
    """Mask-Predict's loss: the mean over each text's masked tokens, which is the same thing."""
    k = rng.integers(1, x0.shape[1] + 1, len(x0))
    hidden = rng.random(x0.shape).argsort(1).argsort(1) < k[:, None]
    nll = ops.cross_entropy(model(np.where(hidden, mask_id, x0), select=hidden), x0[hidden])
    return (nll * np.repeat(1.0 / k, k)).sum() / len(x0)


# --- the decoder ------------------------------------------------------------------------------------------------------


def loops(model: Any, x: Any, mask_id: int, steps: int, order: str, rng: Any) -> Any:
    """Text by text, position by position, with rng.choice."""
    done = []
    for row in x:
        row = list(row)
        masks = [i for i, token in enumerate(row) if token == mask_id]
        quota = len(masks) // steps
        for _ in range(steps):
            p = model(np.array([row]))[0]
            masks = [i for i in masks if row[i] == mask_id]
            drawn = {i: int(rng.choice(len(p[i]), p=p[i])) for i in masks}
            if order == "random":
                chosen = list(rng.permutation(masks))[:quota]
            elif order == "left_to_right":
                chosen = masks[:quota]
            elif order == "low_confidence":
                chosen = sorted(masks, key=lambda i: -p[i][drawn[i]])[:quota]
            else:
                chosen = sorted(masks, key=lambda i: -sum(q * math.log(q) for q in p[i] if q > 0))[:quota]
            for i in chosen:
                row[i] = drawn[i]
        done.append(row)
    return done


def gumbel(model: Any, x: Any, mask_id: int, steps: int, order: str, rng: Any) -> Any:
    """Gumbel noise for the draws, ranks for the choice."""
    x, B = np.array(x), len(x)
    quota = (x == mask_id).sum(axis=1)[0] // steps
    for _ in range(steps):
        p = np.asarray(model(x))
        drawn = (np.log(p) + rng.gumbel(size=p.shape)).argmax(-1)
        score = np.zeros(x.shape)
        if order == "random":
            score = rng.permuted(np.tile(np.arange(x.shape[1], dtype=float), (B, 1)), axis=1)
        elif order == "low_confidence":
            score = p[np.arange(B)[:, None], np.arange(x.shape[1]), drawn]
        elif order == "entropy":
            score = -(-p * np.log(p)).sum(-1)
        else:
            score = -np.tile(np.arange(x.shape[1], dtype=float), (B, 1))
        score = np.where(x == mask_id, score, -np.inf)
        rank = (-score).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        x = np.where((rank < quota) & (x == mask_id), drawn, x)
    return x


# --- the clock --------------------------------------------------------------------------------------------------------


def bisected(model: Any, length: int, batch: int, costs: Any) -> int:
    """Closed forms and bisection."""
    d, v, n = model.d_model, model.vocab_size, model.layers
    linear, pair, head = 24 * n * d * d, 4 * n * d, 2 * d * v
    rival = (
        length * costs.call + batch * length * costs.draw
        + batch * (length * (linear + head) + pair * length * (length + 1) / 2) / costs.rate
    )  # fmt: skip

    def seconds(steps: int) -> float:
        i = np.arange(steps)
        masked = batch * (length - length * i // steps).sum()
        work = steps * batch * (length * linear + pair * length**2) + head * masked
        return float(steps * costs.call + work / costs.rate + masked * costs.draw)

    low, high = 0, length + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= rival else (low, middle)
    return low


def counted(model: Any, length: int, batch: int, costs: Any) -> Any:
    """Lists of calls, and a numpy integer as the result."""
    d = model.d_model

    def cost(calls: list[tuple[int, int, int]]) -> float:
        total = 0.0
        for new, seen, out in calls:
            one = model.layers * (24 * new * d**2 + 4 * d * new * seen) + 2 * d * model.vocab_size * out
            total += costs.call + batch * one / costs.rate + batch * out * costs.draw
        return total

    rival = cost([(1, i + 1, 1) for i in range(length)])
    times = [cost([(length, length, length - length * i // s) for i in range(s)]) for s in range(1, length + 1)]
    return np.int64(np.sum(np.array(times) <= rival * (1 + 1e-12)))


# --- the margin -------------------------------------------------------------------------------------------------------


def one_at_a_time(theta: Any, ref: Any, win: Any, lose: Any, mask_id: int, n: int, rng: Any) -> float:
    """A loop over draws, with single texts."""
    s = 0.0
    for sign, x in ((1, win), (-1, lose)):
        for _ in range(n):
            k = int(rng.integers(1, len(x) + 1))
            places = rng.permutation(len(x))[:k]
            xt = x.copy()
            xt[places] = mask_id
            ours, theirs = theta(xt), ref(xt)
            s += sign * sum(ours[i, x[i]] - theirs[i, x[i]] for i in places) * len(x) / k / n
    return s


def stratified(theta: Any, ref: Any, win: Any, lose: Any, mask_id: int, n: int, rng: Any) -> Any:
    """Counts spread evenly, the same for both texts; less variance; a 0-d array."""
    L = len(win)
    k = 1 + np.floor((np.arange(n) + rng.random(n)) / n * L).astype(int)
    hidden = rng.random((n, L)).argsort(1).argsort(1) < k[:, None]
    parts = []
    for x in (win, lose):
        xt = np.where(hidden, mask_id, x)
        gain = np.take_along_axis(theta(xt) - ref(xt), np.broadcast_to(x, (n, L))[..., None], -1)[..., 0]
        parts.append((gain * hidden * (L / k)[:, None]).sum() / n)
    return np.array(parts[0] - parts[1])


# --- short ones, where the oracle is not another way already ----------------------------------------------------------


def noise_by_solving(x: Any, output: Any, alpha_bar: float, predict: str) -> list[float]:
    """A system of two equations for every number."""
    a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    row = {"eps": (0, 1), "x0": (1, 0), "v": (-s, a), "score": (0, -1 / s)}[predict]
    return [
        float(np.linalg.solve(np.array([[a, s], row]), np.array([xi, oi]))[1]) for xi, oi in zip(x, output, strict=True)
    ]


def noise_by_x0(x: Any, output: Any, alpha_bar: float, predict: str) -> Any:
    """By way of x_0."""
    a, s = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    if predict == "eps":
        return output
    x0 = {"x0": output, "v": a * x - s * output, "score": (x + s**2 * output) / a}[predict]
    return (x - a * x0) / s


def rates_by_loops(weights: Any) -> list[list[float]]:
    """One entry at a time."""
    n = len(weights)
    return [
        [weights[i][j] if i != j else -sum(weights[i][k] for k in range(n) if k != i) for j in range(n)]
        for i in range(n)
    ]


def rates_by_diagonal(weights: Any) -> Any:
    """A copy, whose diagonal is filled."""
    rates = weights.copy()
    np.fill_diagonal(rates, -weights.sum(axis=0))
    return rates


def quotas_by_fractions(N: int, T: int) -> Any:
    """A generator of floors of fractions."""
    for t in range(1, T):
        yield math.floor(Fraction(N * (T - t), T))


def chain_by_product(start: Any, matrix: Any, x: Any) -> float:
    """The logarithm of a product."""
    return -math.log(math.prod([start[x[0]], *(matrix[a, b] for a, b in itertools.pairwise(x))]))


def unmasking_by_fractions(s: float, t: float) -> list[Fraction]:
    """Fractions."""
    s, t = Fraction(s), Fraction(t)
    return [(1 - s) / (1 - t), (s - t) / (1 - t)]


def nelbo_by_gamma(masks: Any, ce: Any) -> float:
    """The Beta integral, by the gamma function."""
    total = 0.0
    for m, c in zip(masks, ce, strict=True):
        k, length = int(m.sum()), len(m)
        if k:
            total += c * math.gamma(k) * math.gamma(length - k + 1) / math.gamma(length + 1)
    return total


def tc_by_loops(joint: Any) -> float:
    """Entry by entry."""
    total = 0.0
    for row in joint:
        for j, p in enumerate(row):
            total += p * math.log(p / row.sum() / joint[:, j].sum()) if p > 0 else 0.0
    return total


def whole_by_midpoints(m: int, rate: float | None) -> float:
    """A numerical integral."""
    if rate is not None:
        return math.exp(m * math.log(rate))
    return sum(((i + 0.5) / 4000) ** m for i in range(4000)) / 4000


def weight_by_differences(t: float, power: float) -> float:
    """A slope by central differences."""
    h = 1e-5
    return ((t + h) ** power - (t - h) ** power) / (2 * h) / t**power


def score_by_loop(x: Any, m: float, alpha_bar: float) -> list[float]:
    """Point by point."""
    a, s2 = math.sqrt(alpha_bar) * m, 1 - alpha_bar
    return [(a * math.tanh(a * v / s2) - v) / s2 for v in x]


def posterior_by_regression(x0: float, xk: float, before: float, now: float) -> Any:
    """From the covariance of both; the values of a dictionary."""
    together = math.sqrt(now / before) * (1 - before)
    slope = together / (1 - now)
    mean = math.sqrt(before) * x0 + slope * (xk - math.sqrt(now) * x0)
    return {"mean": mean, "variance": 1 - before - slope * together}.values()


RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("recipe", times), ("recipe", spread), ("recipe", row_by_row), ("recipe", averaged_per_text),
    ("decoder", loops), ("decoder", gumbel), ("clock", bisected), ("clock", counted),
    ("margin", one_at_a_time), ("margin", stratified),
    ("1.6", lambda start, matrix, x: -np.log(start[x[0]]) - np.log(matrix[x[:-1], x[1:]]).sum()),
    ("1.6", chain_by_product),
    ("2.5", noise_by_solving), ("2.5", noise_by_x0), ("2.6", score_by_loop),
    ("3.4", lambda s, t: np.array([(1 - s) / (1 - t), 1 - (1 - s) / (1 - t)])), ("3.4", unmasking_by_fractions),
    ("3.8", rates_by_loops), ("3.8", rates_by_diagonal),
    ("4.3", lambda t, power: (power * t ** (power - 1)) / (1 - (1 - t**power))), ("4.3", weight_by_differences),
    ("4.5", lambda masks, ce: sum(ce[masks.sum(1) == k].mean() / k for k in range(1, masks.shape[1] + 1))),
    ("4.5", nelbo_by_gamma),
    ("5.5", lambda p, alpha: [q / (1 / alpha - 1) for q in p]),
    ("5.5", lambda p, alpha: Tensor(p) * (alpha / (1 - alpha))),
    ("6.5", tc_by_loops),
    ("6.5", lambda joint: np.sum(joint * np.log(np.maximum(joint, 1e-300) / np.outer(joint.sum(1), joint.sum(0))))),
    ("7.5", quotas_by_fractions), ("7.5", lambda N, T: (N * np.arange(T - 1, 0, -1)) // T),
    ("7.9", lambda n: Fraction(math.factorial(n), n**n)),
    ("8.3", lambda v_t, v_y, n_t, n_y: np.float32((v_t * n_y + v_y) / (n_t * n_y))),
    ("8.10", lambda m, rate: Fraction(1, m + 1) if rate is None else np.prod(np.full(m, rate))),
    ("8.10", whole_by_midpoints),
    ("1.7", lambda matrix, left, right: map(float, matrix[left] * matrix[:, right] / (matrix @ matrix)[left, right])),
    ("2.2", posterior_by_regression), ("4.3", lambda t, power: ((t + 1e-20j) ** power).imag / 1e-20 / t**power),
    ("7.7", lambda L, b: math.prod(i % b + 1 for i in range(L))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{n}-{i}" for i, (n, _) in enumerate(RIGHT)])
def test_right_however_it_is_written(name: str, answer: Callable[..., Any]) -> None:
    """Nothing but the result counts."""
    verdict = judge(QUESTIONS[name], answer)
    assert verdict.right, verdict


def test_every_code_question_has_two() -> None:
    """At least."""
    for name, question in QUESTIONS.items():
        if question.kind == "code":
            assert sum(other == name for other, _ in RIGHT) >= 2, name


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("0.25", 0.25), (" 1/4 ", 0.25), ("25 %", 0.25), ("25%", 0.25), ("2*ln(2)", 2 * math.log(2)),
        ("2 ln 2", 2 * math.log(2)),
        ("log(8)/log(2)", 3), ("math.log(2)", math.log(2)), ("np.sqrt(2)", 2**0.5), ("sqrt 2", 2**0.5), ("√2", 2**0.5),
        ("1,000", 1000), ("0,25", 0.25), ("3^2", 9), ("5!", 120), ("4!/4^4", 24 / 256), ("exp(-1)", math.exp(-1)),
        ("e", math.e), ("2π", 2 * math.pi), ("-0.5", -0.5), ("−0.5", -0.5), ("1e-3", 1e-3), ("1 - 0.3**2", 0.91),
        ("= 7", 7), ("~0.3", 0.3), ("comb(4, 2)", 6), ("1.5 × 2", 3),
        (Fraction(1, 3), 1 / 3), (np.float32(0.5), 0.5), (7, 7),
    ],
)  # fmt: skip
def test_numbers_as_people_type_them(typed: Any, value: float) -> None:
    """Arithmetic, however it is written."""
    assert number(typed) == pytest.approx(value)


@pytest.mark.parametrize(
    "typed", ["", "many", "__import__('os').system('x')", "(1).__class__", "[1, 2]", "1/0", "9**9**9", "3 bits",
              "lambda: 1",
              "x", "0.25.3", "(" * 500, "1j", None, True, [1], {"a": 1}, np.ones(2), "1 2", "factorial(10**9)"],
)  # fmt: skip
def test_what_is_no_number(typed: Any) -> None:
    """A sentence, and nothing is run."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        number(typed)
