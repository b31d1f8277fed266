"""What many tokens per look cost, in closed form, against listing and against the library's sampler."""

import itertools

import numpy as np
import pytest

from tinydiff import MaskedDiffusion, Tensor, decoders, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data.laws import Listed


def not_there_yet(x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
    """Of L words, (B, L): log p of those that are not visible, all as likely."""
    words = x.shape[1]
    free = ~(x[:, :, None] == np.arange(words)).any(axis=1, keepdims=True)  # (B, 1, L)
    with np.errstate(divide="ignore"):
        return Tensor(np.log(np.repeat(free / np.maximum(free.sum(axis=2, keepdims=True), 1), words, axis=1)))


def pairs(length: int, values: int) -> Listed:
    texts = ["".join(2 * c for c in text) for text in itertools.product("abcdef"[:values], repeat=length // 2)]
    return Listed(tuple(texts), np.full(len(texts), 1 / len(texts)))


@pytest.mark.parametrize("quotas", [[4], [2, 2], [3, 1], [1, 1, 2], [2, 1, 1], [1, 1, 1, 1]])
def test_repeats_of_a_random_order(quotas: list[int]) -> None:
    """E[equal neighbours] = sum of k (k - 1) / L E[1 / m], m the words left: (L - 1) / L in one look, 0 one by one."""
    length = sum(quotas)
    written = exact.unmask_law(MaskedDiffusion(length), not_there_yet, quotas)
    texts = exact.all_sequences(length, length)
    found = written @ (texts[:, 1:] == texts[:, :-1]).sum(axis=1)
    np.testing.assert_allclose(exact.repeats(quotas), found, rtol=1e-12, atol=1e-15)
    if len(quotas) == 1:
        np.testing.assert_allclose(found, (length - 1) / length)


@pytest.mark.parametrize(("length", "values", "steps"), [(4, 2, 1), (4, 2, 3), (2, 3, 2), (4, 3, 2)])
def test_twins_come_apart(length: int, values: int, steps: int) -> None:
    """Share of whole texts a^(L/2) and KL per token -log(a) / 2, a = 1 - (1 - 1/V) / S; so share = exp(-L KL)."""
    law, process = pairs(length, values), MaskedDiffusion(values)
    written = exact.ancestral_law(process, exact.ListedDenoiser(law), length, steps)
    at = exact.state_index(law.ids, values)
    nats, whole = exact.twins(length, steps, values)
    np.testing.assert_allclose(written[at].sum(), whole, rtol=1e-12)
    np.testing.assert_allclose(law.p @ np.log(law.p / written[at]) / length, nats, rtol=1e-9)
    np.testing.assert_allclose(whole, np.exp(-length * nats), rtol=1e-12)


def test_twins_are_what_the_sampler_writes() -> None:
    """4,000 texts of `Ancestral` are whole as often as the line says, within 4.5 standard errors."""
    law, process = pairs(8, 2), MaskedDiffusion(2)
    _, whole = exact.twins(8, 4, 2)
    *_, last = process.sample(
        exact.ListedDenoiser(law), 8, 4000, decoder=decoders.Ancestral(steps=4), rng=np.random.default_rng(0)
    )
    found = (last.state[:, ::2] == last.state[:, 1::2]).all(axis=1).mean()
    assert abs(found - whole) < 4.5 * np.sqrt(whole * (1 - whole) / 4000)


def test_bad_input_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="quotas is \\[2, 0\\]"):
        exact.repeats([2, 0])
    with pytest.raises(ValueError, match="length is 3; expected an even number"):
        exact.twins(3, 1, 2)
    with pytest.raises(ValueError, match="steps is 0"):
        exact.twins(4, 0, 2)
