"""LLaDA's recipe: guidance, tails of masks, EOS, and what an answer is worth."""

import itertools

import numpy as np
import pytest

from tests.identities.conftest import random_law, random_model
from tinydiff import MaskedDiffusion, exact
from tinydiff.data.laws import Listed
from tinydiff.decoders import Draw, LowConfidence, prompted
from tinydiff.measures import answers

V = 3


def guided_law(law: np.ndarray, prompt: int, w: float, order: tuple[int, ...]) -> np.ndarray:
    """What guided conditionals, one position after the other, make of two tokens behind a prompt of one: (V, V)."""
    model = exact.BayesDenoiser(law, V, 3)
    given = np.array([[True, False, False]])
    joint = np.ones((V, V))
    for a in itertools.product(range(V), repeat=2):
        state = np.array([[prompt, V, V]])
        for i in order:
            log_p = prompted(model, given, V, w)(state, np.ones(1)).data[0, 1 + i]
            p = np.exp(log_p - log_p.max())
            joint[a] *= p[a[i]] / p.sum()
            state[0, 1 + i] = a[i]
    return joint


@pytest.mark.parametrize("w", [0.0, 0.7, 1.5])
def test_L1_guidance_sharpens_the_evidence(w: float) -> None:
    """An answer of one token: p(a) (p(c|a) / p(c))^(1+w) / Z: Bayes' rule with the likelihood of the prompt to a power.

    From p(a|c) (p(a|c) / p(a))^w (Ho and Salimans 2022; without training Nie et al. 2024, eq. 7).
    """
    law = random_law(V**2).reshape(V, V)  # prompt c, answer a
    model, given = exact.BayesDenoiser(law.ravel(), V, 2), np.array([[True, False]])
    of_answer, of_prompt = law.sum(axis=0), law.sum(axis=1)
    for c in range(V):
        log_p = prompted(model, given, V, w)(np.array([[c, V]]), np.ones(1)).data[0, 1]
        guided = np.exp(log_p) / np.exp(log_p).sum()
        wanted = of_answer * (law[c] / of_answer / of_prompt[c]) ** (1 + w)
        np.testing.assert_allclose(guided, wanted / wanted.sum(), rtol=1e-10)


def test_L1_of_two_tokens_it_has_no_law_but_the_decoders() -> None:
    """Guided conditionals are not those of p(a) (p(c|a) / p(c))^(1+w) / Z, and order matters; for w = 0 they are."""
    law, w = random_law(V**3, seed=3), 1.5
    joint = law.reshape(V, V, V)
    of_answer = joint.sum(axis=0)
    for scale, same in ((w, False), (0.0, True)):
        guided = of_answer * (joint[0] / of_answer / joint[0].sum()) ** (1 + scale)
        guided /= guided.sum()
        left, right = (guided_law(law, 0, scale, order) for order in ((0, 1), (1, 0)))
        np.testing.assert_allclose([left.sum(), right.sum()], 1, rtol=1e-10)
        away = [exact.total_variation(a, b) for a, b in ((left, guided), (right, guided), (left, right))]
        assert max(away) < 1e-10 if same else min(away) > 0.05


def test_L2_a_masked_tail_is_an_absent_one() -> None:
    """p(x^i | visible, tail all MASK) = p(x^i | visible, text cut before the tail), for Bayes conditionals.

    For every state of what is before the tail. A network need not know that: a random one answers otherwise.
    """
    whole, cut = 4, 2
    law = random_law(V**whole)
    long, short = (exact.BayesDenoiser(p, V, n) for p, n in ((law, whole), (law.reshape(V**cut, -1).sum(axis=1), cut)))
    states = exact.all_sequences(V + 1, cut)
    tail = np.concatenate([states, np.full((len(states), whole - cut), V)], axis=1)
    with np.errstate(invalid="ignore"):
        ours, theirs = (np.exp(log_p) for log_p in (long(tail).data[:, :cut], short(states).data))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    model = random_model(V, whole)
    assert np.abs(model(tail).data[:, :cut] - model(states).data).max() > 0.1


EOS = "."


def endings(letters: int, canvas: int, longest: int, colours: int = 0) -> Listed:
    """Texts of 1 .. `longest` letters, all lengths and letters as likely, ended and filled up by EOS or colours."""
    alphabet, filling = "abcdefghijklmnopqrst"[:letters], "0123456789"[:colours] or EOS
    texts, p = [], []
    for n in range(1, longest + 1):
        for word in itertools.product(alphabet, repeat=n):
            texts.append(("".join(word) + EOS + filling * canvas)[:canvas])
            p.append(1 / longest / letters**n)
    return Listed(tuple(texts), np.array(p))


def lengths_of(law: Listed, ids: np.ndarray) -> np.ndarray:
    """Letters before the first EOS."""
    return np.array([law.codec.decode(row).index(EOS) for row in ids])


@pytest.mark.parametrize(("letters", "canvas"), [(2, 8), (3, 8), (5, 8), (2, 12)])
def test_L3_the_surest_first_ends_before_it_begins(letters: int, canvas: int) -> None:
    """Greedy confidence-first with the true conditionals writes 1 letter of a mean of 3: the collapse is the decoder's.

    A rainbow of seven, and committing EOS last, cure it as long as a letter is likelier than EOS where both can stand.
    With five letters at .16 each and EOS at .2 every draw at the second place is EOS: committed last it stays at 1. In
    a rainbow all lengths tie then, and one that is likelier by a thousandth is written, be it 1.
    """
    law = endings(letters, canvas, 5)

    def length(decoder: LowConfidence, law: Listed = law) -> int:
        mine = MaskedDiffusion(law.codec.vocab_size), exact.ListedDenoiser(law)
        *_, last = mine[0].sample(mine[1], canvas, decoder=decoder, rng=np.random.default_rng(0))
        return int(lengths_of(law, last.state)[0])

    greedy = Draw(temperature=0.0)
    eos = law.codec.encode(EOS)[0]
    assert length(LowConfidence(draw=greedy)) == 1
    assert (length(LowConfidence(draw=greedy, last=eos)) > 1) == (letters < 5)
    coloured = endings(letters, canvas, 5, colours=7)
    for likelier in range(1, 6):
        p = coloured.p * np.where(lengths_of(coloured, coloured.ids) == likelier, 1.001, 1.0)
        written = length(LowConfidence(draw=greedy), Listed(coloured.texts, p / p.sum()))
        assert written == likelier if letters == 5 else written > 1


@pytest.mark.parametrize("rule", ["entropy", "most_likely", "left_to_right", "random"])
def test_L3_drawn_by_a_rule_of_the_state_lengths_have_their_law(rule: str) -> None:
    """One token per step at temperature 1 by a rule of the state: the exact law of lengths, and of texts (K3)."""
    law = endings(2, 4, 3)  # V = 3 with EOS, L = 4
    v = law.codec.vocab_size
    written = exact.unmask_law(MaskedDiffusion(v), exact.ListedDenoiser(law), [1] * 4, rule)
    wanted = np.zeros(v**4)
    wanted[exact.state_index(law.ids, v)] = law.p
    np.testing.assert_allclose(written, wanted, atol=1e-12)
    by_length = np.bincount(lengths_of(law, law.ids), written[exact.state_index(law.ids, v)])
    np.testing.assert_allclose(by_length, [0, 1 / 3, 1 / 3, 1 / 3], atol=1e-12)
    bent = exact.unmask_law(MaskedDiffusion(v), exact.ListedDenoiser(law), [1] * 4, "low_confidence")
    assert exact.total_variation(bent, wanted) > 0.05


def test_L4_the_number_of_masks_is_uniform_whatever_the_draws() -> None:
    """k of exactly k masked answer tokens is uniform on 1 .. A for 1, 2, 3, 5 and 16 draws, and the estimate unbiased.

    Counts of the masks that the model sees, chi-squared at the 1e-4 level; the mean of (A / k) CE, by enumeration, at
    4.5 standard errors (Nie et al. 2025, algorithm 3). Equally spaced rounded counts, as published code has them, are
    not uniform: of A = 2 and 16 draws 7/16 and 9/16.
    """
    a, prompt = 3, 1
    model, x0, given = random_model(V, prompt + a), np.array([2, 0, 1, 1]), np.arange(prompt + a) < prompt
    process, seen = MaskedDiffusion(V), []
    nelbo = exact.nelbo(process, model, x0[None], given=given)[0]

    def listening(x: np.ndarray, *args: object, **options: object) -> object:
        assert (x[:, :prompt] == x0[:prompt]).all()
        seen.append((x == V).sum(axis=1))
        return model(x, *args, **options)

    listening.vocab_size = V
    for draws in (1, 2, 3, 5, 16):
        seen.clear()
        rng = np.random.default_rng(draws)
        rounds = 1200
        each = np.array([answers.nats(process, listening, x0, given, draws, rng).mean() for _ in range(rounds)])
        assert abs(each.mean() - nelbo) < 4.5 * each.std(ddof=1) / np.sqrt(rounds), draws
        # Each place among the draws on its own: stratified draws are not independent of one another.
        first = np.bincount([k[0] for k in seen], minlength=a + 1)[1:]
        chi = ((first - rounds / a) ** 2 / (rounds / a)).sum()
        assert chi < 18.42, (draws, first)  # chi-squared, 2 degrees of freedom, 1e-4
    spaced = np.round(1 + np.arange(16) * 2 / 16).astype(int)  # k = 1 of A = 2, 16 draws
    assert len(set(np.bincount((spaced - 1) % 2 + 1)[1:])) == 2


def test_L4_one_token_takes_one_draw() -> None:
    """A = 1: the bound is the likelihood, and so is every draw."""
    model, x0, given = random_model(V, 3), np.array([2, 0, 1]), np.array([True, True, False])
    drawn = answers.nats(MaskedDiffusion(V), model, x0, given, 4, np.random.default_rng(0))
    np.testing.assert_allclose(drawn, exact.any_order_nll(MaskedDiffusion(V), model, x0[None], given)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="draws is 0; it must be at least 1"):
        answers.nats(MaskedDiffusion(V), model, x0, given, 0, np.random.default_rng(0))
