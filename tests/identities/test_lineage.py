"""Translation in one look and in a few, N1 to N7: what it must lose, and which of the old cures work."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_law, random_model
from tinydiff import CMLM, Autoregressive, MaskedDiffusion, OnePass, decoders, exact
from tinydiff.arrays import Floats, Ints
from tinydiff.data import Batch, examples, phrasebook
from tinydiff.data.translation import Pair, Translations
from tinydiff.learning import distillation

GREEDY = decoders.Draw(temperature=0)
MERCI = phrasebook.phrasebook(1, {"merci": phrasebook.CONCEPTS["merci"]})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def modes_law(modes: int, n: int) -> Floats:
    """`modes` texts of n positions, all different at every position, equally likely: (modes^n,)."""
    law = np.zeros(modes**n)
    law[exact.state_index(np.repeat(np.arange(modes), n).reshape(modes, n), modes)] = 1 / modes
    return law


def orders_law(n: int) -> Floats:
    """All orders of n words, equally likely: (n^n,)."""
    valid = np.array([len(set(x)) == n for x in exact.all_sequences(n, n).tolist()])
    return valid / valid.sum()


def random_translations(seed: int) -> Translations:
    """Two sources, eight targets of three words each, all probabilities different."""
    p = iter(random_law(16, seed))
    targets = list(itertools.product("ab", repeat=3))
    return Translations.of(Pair((x,), y, (0, 0, 0), next(p)) for x in "xy" for y in targets)


def written(law: Translations, decoder: decoders.Decoder, copies: int = 1) -> Ints:
    """What the decoder makes of every source, `copies` times, if the model knows the law: (X copies, L)."""
    process = MaskedDiffusion(law.codec.vocab_size)
    x0 = np.zeros((len(law.sources), law.length), np.int64)
    x0[:, : law.begin] = law.sources
    x0 = np.repeat(x0, copies, axis=0)
    *_, last = process.sample(
        exact.ListedDenoiser(law), law.length, len(x0), decoder=decoder, x0=x0, given=law.given, rng=rng()
    )
    return last.state


@pytest.mark.parametrize("seed", range(3))
def test_N1_one_look_loses_the_total_correlation(seed: int) -> None:
    """min_q E[-log prod_i q_i(y^i | x)] = sum_i H(Y^i | x) = H(Y | x) + TC(Y | x), at the marginals.

    Any other q pays its distance from them on top, sum_i KL(P_i || q_i). Huang et al. 2022; Cover and Thomas, ch. 2.
    """
    law = random_translations(seed)
    targets, least = law.ids[:, law.begin :], exact.target_entropy(law) + exact.total_correlation(law)
    weight = np.bincount(law.source, law.p)
    best = exact.marginals(law)
    assert exact.total_correlation(law) > 0.01
    for q in (best, *(rng(i).dirichlet(np.ones(best.shape[-1]), best.shape[:2]) for i in range(5))):
        with np.errstate(divide="ignore"):
            nll = -np.log(q)[law.source[:, None], np.arange(3), targets].sum(axis=1)
        extra = np.where(best > 0, best * np.log(np.where(best > 0, best / np.maximum(q, 1e-300), 1)), 0).sum(
            axis=(1, 2)
        )
        np.testing.assert_allclose(law.p @ nll, least + weight @ extra, rtol=1e-12)


@pytest.mark.parametrize(
    "law",
    [MERCI, phrasebook.phrasebook(2, phrasebook.UNEVEN), phrasebook.orders(3, 0.5), phrasebook.numbers()],
    ids=["merci", "uneven", "orders", "numbers"],
)
def test_N1_the_likelihood_of_one_pass(law: Translations) -> None:
    """E[-log p(y | x)] of `OnePass` with the best network there is = H(Y | x) + TC(Y | x); its loss is that per word.

    With the length told, H(Y | x, N) + TC(Y | x, N).
    """
    process, model = OnePass(law.codec.vocab_size), exact.ListedDenoiser(law)
    for known in ("source", "length") if law.counted else ("source",):
        given = law.known(law.ids, known == "length")
        nll = process.bound(model, Batch(law.ids, given=given), rng())
        best = exact.target_entropy(law, known) + exact.total_correlation(law, known)
        np.testing.assert_allclose(law.p @ nll, best, rtol=1e-12, atol=1e-12)
        some = range(min(20, len(nll)))
        each = [process.loss(model, Batch(law.ids[i, None], given=given[i, None]), rng()).item() for i in some]
        np.testing.assert_allclose(each, (nll / (~given).sum(axis=1))[:20], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("modes", "n"), [(2, 2), (2, 4), (3, 3), (4, 2)])
def test_N2_modes_that_differ_everywhere(modes: int, n: int) -> None:
    """One look is valid with M^(1 - n), TC = (n - 1) log M; in several steps the first alone decides: M^(1 - s_1)."""
    law, process = modes_law(modes, n), MaskedDiffusion(modes)
    model = exact.BayesDenoiser(law, modes, n)
    pairs = [Pair(("x",), tuple(f"{mode}{i}" for i in range(n)), (0,) * n, 1 / modes) for mode in range(modes)]
    np.testing.assert_allclose(exact.total_correlation(Translations.of(pairs)), (n - 1) * math.log(modes), rtol=1e-12)
    for first in range(1, n + 1):
        for rest in {(), (n - first,), (1,) * (n - first)}:
            quotas = [first, *rest]
            if sum(quotas) != n or 0 in rest:
                continue
            for order in ("random", "left_to_right", "low_confidence", "entropy"):
                share = exact.unmask_law(process, model, quotas, order)[law > 0].sum()
                np.testing.assert_allclose(share, float(modes) ** (1 - first), rtol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_N3_words_in_any_order(n: int) -> None:
    """All n! orders: one look is valid with n!/n^n, repeats an adjacent word with 1/n; TC = n log n - log n!."""
    law, process = orders_law(n), MaskedDiffusion(n)
    found = exact.unmask_law(process, exact.BayesDenoiser(law, n, n), [n])
    np.testing.assert_allclose(found[law > 0].sum(), math.factorial(n) / n**n, rtol=1e-12)
    texts = exact.all_sequences(n, n)
    np.testing.assert_allclose(found @ (texts[:, 1:] == texts[:, :-1]), np.full(n - 1, 1 / n), rtol=1e-12)
    translations = phrasebook.orders(n)
    tc = n * math.log(n) - math.lgamma(n + 1)
    np.testing.assert_allclose(exact.total_correlation(translations), tc, rtol=1e-12)
    np.testing.assert_allclose(exact.valid_at_once(translations), math.factorial(n) / n**n, rtol=1e-12)


def test_N4_thank_thanks() -> None:
    """`thank you` .4, `many thanks` .3, `best thanks` .3: one look says "thank thanks"; drawn, .52 are valid.

    Mask-Predict in two passes, and left to right, are always valid. TC = .6730, H = 1.0889.
    """
    assert [MERCI.target(x) for x in written(MERCI, decoders.AtOnce())] == ["thank thanks"]
    law = exact.unmask_law(MaskedDiffusion(8), exact.BayesDenoiser(_merci_law(), 8, 2), [2])
    np.testing.assert_allclose(law[_merci_law() > 0].sum(), 0.52, rtol=1e-12)
    np.testing.assert_allclose(exact.valid_at_once(MERCI), 0.52, rtol=1e-12)
    np.testing.assert_allclose(exact.total_correlation(MERCI), 0.6730116670092565, rtol=1e-12)
    np.testing.assert_allclose(exact.target_entropy(MERCI), -0.4 * math.log(0.4) - 0.6 * math.log(0.3), rtol=1e-12)
    for confidence in ("kept", "fresh"):
        said = {MERCI.target(x) for x in written(MERCI, decoders.MaskPredict(2, confidence))}
        assert said <= {"many thanks", "best thanks"}
        found = exact.mask_predict_law(
            MaskedDiffusion(8), exact.BayesDenoiser(_merci_law(), 8, 2), np.full(2, 8), 2, confidence
        )
        np.testing.assert_allclose(found[_merci_law() > 0].sum(), 1)
    process = Autoregressive(MERCI.codec.vocab_size)
    *_, last = process.sample(
        exact.ListedNextWord(MERCI), MERCI.length, decoder=decoders.NextToken(GREEDY), x0=MERCI.ids[0],
        given=MERCI.given, rng=rng(),
    )  # fmt: skip
    assert MERCI.target(last.state[0]) == "thank you"


def _merci_law() -> Floats:
    """The law of the two words of the target, over all 64 pairs of the eight words."""
    law = np.zeros(64)
    law[exact.state_index(MERCI.ids[:, MERCI.begin :], 8)] = MERCI.p
    return law


@pytest.mark.parametrize("words", [2, 3])
def test_N4_several_phrases_at_once(words: int) -> None:
    """K phrases: one look valid 0 by the likeliest words, .52^K drawn, TC = .673 K; two passes cure all K at once.

    With kept confidences. Fresh ones ask the model about a text of several wrong phrases: given all but one of its
    words nothing is possible, and a model that only knows the law has no answer.
    """
    law = phrasebook.phrasebook(words)
    np.testing.assert_allclose(exact.valid_at_once(law), 0.52**words, rtol=1e-12)
    one = exact.total_correlation(MERCI)
    np.testing.assert_allclose(exact.total_correlation(law), words * one, rtol=1e-12)
    assert (law.places(written(law, decoders.AtOnce())) < 0).all()
    assert (law.places(written(law, decoders.MaskPredict(2))) >= 0).all()


@pytest.mark.parametrize("n", [3, 4])
def test_N5_the_loss_of_the_masked_words_of_each_sentence_is_the_nelbo(n: int) -> None:
    """E_k[ 1/k E_{|masks| = k}[cross-entropy] ] = NELBO / N for k uniform on 1 .. N; without k = N it is not."""
    process, model = CMLM(3), random_model(3, n)
    x = exact.all_sequences(3, n)
    nll, masks = exact.masked_cross_entropy(process, model, x, 0.5)
    k = masks.sum(axis=1)
    mean = np.stack([nll[:, k == i].mean(axis=1) / i for i in range(1, n + 1)])  # (N, n) of each k
    np.testing.assert_allclose(mean.mean(axis=0), exact.nelbo_by_count(process, model, x) / n, rtol=1e-12)
    assert (np.abs(mean[:-1].mean(axis=0) - mean.mean(axis=0)) > 1e-3).any()


@pytest.mark.parametrize("n", [3, 4, 5])
def test_N5_the_loss_of_the_process(n: int) -> None:
    """`CMLM.loss` is that, exactly, where the cross-entropy knows the number of masks only (words in any order).

    Then a batch with each k as often has no chance left in it. A given word before them changes nothing.
    """
    model = exact.BayesDenoiser(orders_law(n), n, n)
    process, x0 = CMLM(n), np.tile(np.arange(n), (n, 1))
    nelbo = exact.nelbo_by_count(process, model, x0[:1])[0]
    np.testing.assert_allclose(nelbo, math.lgamma(n + 1), rtol=1e-12)  # an exact denoiser: -log p
    np.testing.assert_allclose(process.loss(model, x0, rng()).item(), nelbo / n, rtol=1e-12)
    law = phrasebook.orders(n)
    pairs = Batch(law.ids[:n], given=np.tile(law.given, (n, 1)))
    loss = CMLM(law.codec.vocab_size).loss(exact.ListedDenoiser(law), pairs, rng()).item()
    np.testing.assert_allclose(loss, nelbo / n, rtol=1e-12)


def test_N5_the_loss_of_any_network() -> None:
    """The same for a random network with a prompt, by 32,000 draws: two-sided at 4.5 standard errors."""
    process, model, x0 = CMLM(3), random_model(3, 4), np.array([2, 0, 1, 1])
    given = np.array([True, False, False, False])
    batch = Batch(np.tile(x0, (3_999, 1)), given=np.tile(given, (3_999, 1)))
    losses = np.array([process.loss(model, batch, rng(seed)).item() for seed in range(8)])
    expected = exact.nelbo_by_count(process, model, x0[None], given=given)[0] / 3
    error = losses.std(ddof=1) / np.sqrt(8)
    assert 4.5 * error < 0.03 * expected
    assert abs(losses.mean() - expected) < 4.5 * error


@pytest.mark.parametrize(
    "law", [MERCI, phrasebook.phrasebook(2), phrasebook.orders(3, 0.5), phrasebook.numbers()],
    ids=["merci", "phrasebook", "orders", "numbers"],
)  # fmt: skip
def test_N6_distilling_the_mode(law: Translations) -> None:
    """H(Y | x) = TC(Y | x) = 0 and total variation 1 - max p, on average; one pass is then always valid."""
    modes = law.modes()
    assert exact.target_entropy(modes) == 0
    assert abs(exact.total_correlation(modes)) < 1e-12
    best = np.array([law.conditional[law.source == x].max() for x in range(len(law.sources))])
    np.testing.assert_allclose(exact.translation_distance(law, modes), 1 - law.of_source @ best, rtol=1e-12)
    assert (law.places(written(modes, decoders.AtOnce())) >= 0).all()
    np.testing.assert_allclose(exact.valid_at_once(modes), 1)


def test_N6_the_teacher_decides() -> None:
    """A teacher that knows the law: a wide beam gives the law of modes. Its samples have the law itself, and so its TC.

    20,000 samples, total variation and TC within 4 times what as many real ones are off by.
    """
    law = phrasebook.phrasebook(2)
    corpus = examples.parallel(law, draws=2_000)
    teacher, model = Autoregressive(law.codec.vocab_size), exact.ListedNextWord(law)
    by_mode = distillation.distilled(teacher, model, corpus, decoders.Beam(9), rng())
    at = {tuple(row[: law.begin]): tuple(row) for row in law.modes().ids}
    assert all(at[tuple(row[: law.begin])] == tuple(row) for row in by_mode.ids.reshape(-1, law.length))
    assert by_mode.codec == corpus.codec
    sampled = distillation.distilled(teacher, model, examples.parallel(law), decoders.NextToken(), rng(1))
    frequency = np.bincount(law.places(sampled.ids.reshape(-1, law.length)), minlength=len(law.p)) / 20_000
    assert np.abs(frequency - law.p).sum() / 2 < 4 * np.sqrt(law.p / 20_000).sum() / math.sqrt(2 * math.pi)
    of_samples = Translations(law.texts, frequency, law.alignments, law.words)
    assert abs(exact.total_correlation(of_samples) - exact.total_correlation(law)) < 0.03


@pytest.mark.parametrize("n", [3, 4, 5])
def test_N7_confidences_that_are_kept_evict_their_own_anchor(n: int) -> None:
    """Words in any order, a model that knows the law: kept confidences never end in a valid text, T up to n + 2.

    Fresh ones do from T = n on, and so does committing once; before that nothing does. With Mask-Predict's own law.
    """
    law, process = orders_law(n), MaskedDiffusion(n)
    model = exact.BayesDenoiser(law, n, n)

    def valid(decoder: decoders.Decoder) -> bool:
        *_, last = process.sample(model, n, decoder=decoder, rng=rng())
        return bool(law[exact.state_index(last.state, n)[0]] > 0)

    for passes in range(1, n + 3):
        assert not valid(decoders.MaskPredict(passes))
        assert valid(decoders.MaskPredict(passes, "fresh")) == (passes >= n)
        if passes <= n:  # more steps than masks have nothing to commit
            assert valid(decoders.LowConfidence(passes, GREEDY)) == (passes == n)
        if n < 5:
            for confidence in ("kept", "fresh"):
                found = exact.mask_predict_law(process, model, np.full(n, n), passes, confidence)
                *_, last = process.sample(model, n, decoder=decoders.MaskPredict(passes, confidence), rng=rng())
                assert found[exact.state_index(last.state, n)[0]] == 1


@pytest.mark.parametrize("confidence", ["kept", "fresh"])
@pytest.mark.parametrize("passes", [1, 2, 3, 5])
def test_N7_mask_predict_is_its_definition(confidence: str, passes: int) -> None:
    """With a random network and a prompt: the text of the greedy decoder, and the law of one that draws (G-test)."""
    process, model, start = MaskedDiffusion(3), random_model(3, 4), np.array([2, 3, 3, 3])
    known = {"x0": start % 3, "given": start < 3}
    decoder = decoders.MaskPredict(passes, confidence)
    *_, last = process.sample(model, 4, decoder=decoder, rng=rng(), **known)
    found = exact.mask_predict_law(process, model, start, passes, confidence)
    assert found[exact.state_index(last.state, 3)[0]] == 1
    decoder = decoders.MaskPredict(passes, confidence, decoders.Draw())
    law = exact.mask_predict_law(process, model, start, passes, confidence, greedy=False)
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-12)
    draws = 20_000
    *_, last = process.sample(model, 4, draws, decoder=decoder, rng=rng(1), **known)
    counts = np.bincount(exact.state_index(last.state, 3), minlength=81)
    assert counts[law == 0].sum() == 0

    def g(observed: Floats) -> Floats:
        ratio = np.divide(observed, draws * law, out=np.ones(observed.shape), where=observed > 0)
        return 2 * (observed * np.log(ratio)).sum(axis=-1)

    assert 0.001 < (g(rng(2).multinomial(draws, law, size=2_000)) < g(counts)).mean() < 0.999
