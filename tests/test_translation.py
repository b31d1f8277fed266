"""Translation with a known law: the tasks, what is given, the measures, distillation and what is refused."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import CMLM, Autoregressive, MaskedDiffusion, OnePass, Options, Run, Transformer, data, decoders, exact
from tinydiff import train as train_run
from tinydiff.data import TRANSLATIONS, Batch, Translations, examples, phrasebook
from tinydiff.data.translation import Pair
from tinydiff.learning import distillation
from tinydiff.measures import translations as measures
from tinydiff.processes import PROCESSES

MERCI = phrasebook.phrasebook(1, {"merci": phrasebook.CONCEPTS["merci"]})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_task_is_a_law(name: str) -> None:
    """Every source and target once, probabilities of 1 for each source; codec, places and draws agree."""
    law = TRANSLATIONS[name]()
    assert len(set(law.texts)) == len(law.texts)
    np.testing.assert_allclose(np.bincount(law.source, law.conditional), np.ones(len(law.sources)))
    np.testing.assert_allclose(law.of_source, np.full(len(law.sources), 1 / len(law.sources)))
    for i in (0, len(law.texts) - 1):
        assert law.decode(law.ids[i]) == law.texts[i]
        assert law.valid(law.texts[i])
        assert law.texts[i].split(" > ")[0] == law.decode(law.sources[law.source[i], :-1])
        words = law.texts[i].split(" > ")[1].split()
        assert law.target(law.ids[i]) == " ".join(w for w in words if w[0] not in "N¶")
        assert len(law.target(law.ids[i]).split()) == law.lengths[i] == law.fertilities[i].sum()
    drawn = law.draw(200, rng())
    assert (law.places(drawn) >= 0).all()
    assert law.counted == (len(set(law.lengths.tolist())) > 1)


def test_the_tasks_by_hand() -> None:
    """One of each: words, alignments, probabilities."""
    law = phrasebook.orders(2, 3 / 7)
    assert law.texts[:2] == ("hier ici > yesterday here", "hier ici > here yesterday")
    np.testing.assert_allclose(law.conditional[:2], [0.7, 0.3])
    assert law.alignments[:2].tolist() == [[0, 1], [1, 0]]
    law = phrasebook.orders(3, 0.5)  # inversions 0, 1, 1, 2, 2, 3
    np.testing.assert_allclose(law.conditional[:6], np.array([8, 4, 4, 2, 2, 1]) / 21)
    law = phrasebook.dates()
    assert len(law.texts) == 4 * 365
    at = law.texts.index("2023 12 31 > N5 31 / 12 / 2023")
    np.testing.assert_allclose(law.conditional[at], 0.2)
    assert law.fertilities[at].tolist() == [1, 2, 2]
    assert law.texts[at - 1] == "2023 12 31 > N4 December 31 , 2023 ¶"
    law = phrasebook.numbers()
    assert law.texts[:2] == ("2 1 > N2 twenty one ¶", "2 1 > N3 one and twenty")
    law = phrasebook.phrasebook(2, phrasebook.UNEVEN)
    assert law.texts[1] == "merci merci > N3 thanks thank you ¶"
    np.testing.assert_allclose(law.conditional, 0.25)


def test_what_knowing_the_length_is_worth() -> None:
    """One word or two for each source word: TC falls with the length known, and to 0 with the fertilities.

    By hand, with one word in the source: N and two places. H(Y | x) = log 2, and each of the three has log 2.
    With two: H = 2 log 2, in nats; given the length 1/2 log 2; given the fertilities 0.
    """
    one, two = (phrasebook.phrasebook(words, phrasebook.UNEVEN) for words in (1, 2))
    np.testing.assert_allclose(exact.total_correlation(one), 2 * math.log(2))
    np.testing.assert_allclose(exact.target_entropy(two, "length"), 0.5 * math.log(2))
    np.testing.assert_allclose(exact.total_correlation(two, "length"), math.log(2))  # 3 places, half of the time
    tcs = [exact.total_correlation(two, known) for known in ("source", "length", "fertility")]
    assert tcs[0] > tcs[1] > tcs[2]
    assert abs(tcs[2]) < 1e-12
    with pytest.raises(ValueError, match="known is 'words'; expected 'source', 'length' or 'fertility'"):
        exact.total_correlation(two, "words")


def test_complexity_and_faithfulness_by_hand() -> None:
    """Merci: words thank .2, you .2, many .15, best .15, thanks .3 (Zhou et al. 2020)."""
    p = np.array([0.2, 0.2, 0.15, 0.15, 0.3])
    np.testing.assert_allclose(exact.complexity(MERCI), -(p * np.log(p)).sum())
    np.testing.assert_allclose(exact.complexity(MERCI.modes()), math.log(2))
    assert exact.faithfulness(MERCI, MERCI) == 0
    assert exact.faithfulness(MERCI, MERCI.modes()) == np.inf
    even = replace(MERCI, p=np.full(3, 1 / 3))  # thank, you, many, best 1/6 each, thanks 1/3
    np.testing.assert_allclose(
        exact.faithfulness(MERCI, even), (p * np.log(p / np.array([1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3]))).sum()
    )


def test_words() -> None:
    """Tokens are words with the blank before them; ids come back as words, MASK as a sign; what is unknown is named."""
    assert MERCI.decode(np.append(MERCI.encode("merci  > thank"), MERCI.codec.vocab_size)) == "merci > thank \u2591"
    np.testing.assert_array_equal(MERCI.codec.encode(" merci > thank"), MERCI.encode("merci > thank"))
    assert MERCI.codec.eos_id == MERCI.fill_id == MERCI.encode("¶")[0]
    with pytest.raises(ValueError, match="'gracias' is none of the 8 words: > best many merci thank"):
        MERCI.encode("merci gracias")


def test_a_corpus_gives_its_sources() -> None:
    """Sources are given in training and in evaluation, targets free; with `told` the length of some too."""
    corpus = data.load("numbers")
    law = corpus.law
    batch = corpus.examples(law.length, 50, rng())
    assert (batch.given == law.given).all()
    held = corpus.examples(law.length, 500, rng(), held_out=True)
    assert {row.tobytes() for row in held.x0} <= {
        row.tobytes() for row in corpus.held_out.astype(np.int64).reshape(-1, law.length)
    }
    told = replace(corpus, law=replace(law, told=0.5)).examples(law.length, 4_000, rng())
    known = told.given[:, law.begin]
    assert abs(known.mean() - 0.5) < 0.04
    expected = law.given | (known[:, None] & ((told.x0 == law.fill_id) | (np.arange(law.length) == 3)))
    np.testing.assert_array_equal(told.given, expected)
    frequency = np.bincount(law.places(corpus.ids.reshape(-1, law.length)), minlength=144) / 20_000
    assert np.abs(frequency - law.p).max() < 5 * math.sqrt(law.p.max() / 20_000)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: phrasebook.phrasebook(0), "words is 0; it must be at least 1"),
        (lambda: phrasebook.orders(7), "words is 7; expected 1 <= words <= 6"),
        (lambda: phrasebook.orders(2, 0.0), "skew is 0.0; expected 0 < skew <= 1"),
        (lambda: replace(MERCI, told=0.5), "told is 0.5; expected 0 <= told <= 0, as all targets are of the same"),
        (lambda: replace(phrasebook.numbers(), told=1.5), "told is 1.5; expected 0 <= told <= 1"),
        (lambda: Translations(("a > b", "a > b c"), np.ones(2), np.ones((2, 1), int), ("a",)), "fill up the shorter"),
        (lambda: replace(MERCI, p=np.full(3, 0.5)), "p has shape"),
        (lambda: MERCI.count_ids, "all targets of this law are of the same length"),
        (lambda: MERCI.asked("merci merci"), "source has 2 words: 'merci merci'; expected 1, like 'merci'"),
        (lambda: MERCI.asked("gracias"), "'gracias' is none of the 8 words"),
        (lambda: MERCI.asked("thanks"), "source is 'thanks', which is none; one is 'merci'"),
        (lambda: MERCI.asked("merci", 3), "length is 3, but targets have 2 words"),
        (lambda: phrasebook.numbers().asked("2 1", 4), "length is 4, but targets have 2, 3 words: choose one"),
        (lambda: measures.sources_of(MERCI, np.zeros((1, 4), int)), "whose source the law does not have"),
    ],
)  # fmt: skip
def test_bad_input(call: object, words: str) -> None:
    """Errors that name argument, value and remedy."""
    with pytest.raises(ValueError, match=words):
        call()


def test_asking_for_a_length() -> None:
    """Number and filling are given with it; without, and where all targets are as long, the source alone."""
    law = phrasebook.numbers()
    ids, given = law.asked("2 1", 2)
    assert law.decode(np.where(given, ids, law.codec.vocab_size)) == "2 1 > N2 ░ ░ ¶"
    ids, given = law.asked("2 1")
    assert law.decode(np.where(given, ids, law.codec.vocab_size)) == "2 1 > ░ ░ ░ ░"
    np.testing.assert_array_equal(MERCI.asked("merci", 2)[1], MERCI.given)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    """Four translations of merci: thank you twice, many thanks, and thanks thanks."""
    at = {law: MERCI.encode(f"merci > {law}") for law in ("thank you", "many thanks", "thanks thanks")}
    ids = np.stack([at["thank you"], at["thank you"], at["many thanks"], at["thanks thanks"]])
    found = measures.columns(MERCI, ids)
    assert found["valid"] == 0.75
    np.testing.assert_allclose(found["nll"], -(2 * math.log(0.4) + math.log(0.3)) / 3)
    np.testing.assert_allclose(found["tv"], (0.1 + 0.05 + 0.3 + 0.25) / 2)
    np.testing.assert_allclose(found["entropy"], -(0.5 * math.log(0.5) + 0.5 * math.log(0.25)))
    assert found["repeats"] == 0.25
    assert measures.valid_texts(MERCI, ids).tolist() == [1, 1, 1, 0]
    nothing = measures.columns(MERCI, ids[3:])
    assert math.isnan(nothing["nll"])
    assert (nothing["valid"], nothing["tv"], nothing["entropy"]) == (0, 1, 0)


def test_repeats_are_of_words_only() -> None:
    """What fills up does repeat, and is no word; nor is the number of words."""
    law = phrasebook.numbers()
    assert measures.repeats(law, law.encode("2 1 > N2 twenty ¶ ¶")[None]) == 0
    assert measures.repeats(law, law.encode("2 1 > N3 one one twenty")[None]) == 0.5


def test_measures_of_real_translations() -> None:
    """Each source by its own law: 60 of each of 16 sources are near it, and the mode alone is 1 - max p away."""
    law = phrasebook.phrasebook(2)
    found = measures.columns(law, law.draw(20_000, rng()))
    assert found["valid"] == 1
    assert found["tv"] < 0.05
    assert abs(found["entropy"] - exact.target_entropy(law)) < 0.02
    modes = measures.columns(law, np.repeat(law.modes().ids, 3, axis=0))
    np.testing.assert_allclose(modes["tv"], 1 - 0.16)
    np.testing.assert_allclose(modes["nll"], -math.log(0.16))
    assert modes["entropy"] == 0


def test_bleu_and_chrf() -> None:
    """All references: 100 for every valid text. One: a valid mode that is not the reference loses. Streams by hand."""
    pytest.importorskip("sacrebleu")
    law = phrasebook.numbers()
    real = law.draw(200, rng())
    found = measures.bleu_chrf(law, real, rng(1))
    np.testing.assert_allclose((found["bleu"], found["chrf"]), 100)
    assert found["bleu1"] < 90
    assert found["chrf1"] < 95
    wrong = np.stack([law.encode("2 1 > N2 twenty two ¶")] * 2)
    assert measures.bleu_chrf(law, wrong, rng())["bleu"] == 0  # no pair of words is right: no smoothing hides that


# --- distillation and training ----------------------------------------------------------------------------------------


def test_distillation_keeps_sources_and_splits() -> None:
    """Text by text the same source; a corpus like the one before, with the teacher's words."""
    corpus = examples.parallel(MERCI, draws=200)
    teacher, model = Autoregressive(corpus.vocab_size), exact.ListedNextWord(MERCI)
    found = distillation.distilled(teacher, model, corpus, rng=rng())
    assert {found.law.decode(row) for row in found.ids.reshape(-1, 4)} == {"merci > thank you"}
    assert len(found.ids) == len(corpus.ids)
    assert found.law is corpus.law
    assert found.name == "translations, distilled"
    two = examples.parallel(phrasebook.phrasebook(2), draws=300)
    found = distillation.distilled(Autoregressive(25), exact.ListedNextWord(two.law), two, decoders.NextToken(), rng())
    np.testing.assert_array_equal(found.ids.reshape(-1, 7)[:, :3], two.ids.reshape(-1, 7)[:, :3])
    with pytest.raises(ValueError, match="teacher is MaskedDiffusion; expected Autoregressive"):
        distillation.distilled(MaskedDiffusion(8), model, corpus)
    with pytest.raises(ValueError, match="teacher has 9 tokens and translations 8"):
        distillation.distilled(Autoregressive(9), model, corpus)


@pytest.mark.parametrize("name", ["nat", "cmlm", "refinement"])
def test_processes_come_back_from_their_config(name: str) -> None:
    """Name and numbers."""
    process = PROCESSES[name](vocab_size=5)
    assert process.config["process"] == name
    assert type(PROCESSES[name](**{k: v for k, v in process.config.items() if k != "process"})) is type(process)


def test_one_pass_is_told_what_is_given() -> None:
    """`OnePass`: loss and bound see the given words and masks everywhere else; `CMLM` never masks what is given."""
    seen = []

    class Recorder(Transformer):
        def __call__(self, x, *args, **options):
            seen.append(x)
            return super().__call__(x, *args, **options)

    model = Recorder(3, 4, d_model=8, heads=2, rng=rng())
    batch = Batch(np.tile([2, 1, 0, 1], (40, 1)), given=np.tile([True, False, False, False], (40, 1)))
    one = OnePass(3)
    for call in (one.loss, one.bound):
        call(model, batch, rng())
        assert (seen[-1] == [2, 3, 3, 3]).all()
    CMLM(3).loss(model, batch, rng())
    counts = (seen[-1] == 3).sum(axis=1)
    assert set(counts.tolist()) == {1, 2, 3}  # N included
    assert (seen[-1][:, 0] == 2).all()


@pytest.mark.parametrize("way", ["one pass", "distilled", "cmlm"])
def test_trained_models_do_what_the_law_says(way: str) -> None:
    """Merci, 300 steps of a small network: valid within two standard errors of .52 drawn, and 0, 1, 1 greedily."""
    corpus = examples.parallel(MERCI, draws=4_000)
    if way == "distilled":
        corpus = distillation.distilled(Autoregressive(corpus.vocab_size), exact.ListedNextWord(MERCI), corpus)
    process = CMLM(corpus.vocab_size) if way == "cmlm" else OnePass(corpus.vocab_size)
    model = Transformer(corpus.vocab_size, 4, d_model=16, layers=1, heads=2, positions="learned", rng=rng())
    run = Run(corpus, process, model, Options(steps=300, batch=64, lr=5e-3, warmup=20, evaluate_every=300, ema=0.98))
    *_, _ = train_run(run)
    averaged = run.averaged()
    x0, given = MERCI.asked("merci")

    def valid(decoder: decoders.Decoder, n: int = 1) -> float:
        *_, last = process.sample(averaged, 4, n, decoder=decoder, x0=x0, given=given, rng=rng())
        return float(measures.valid_texts(MERCI, last.state).mean())

    assert valid(decoders.AtOnce()) == (way == "distilled")
    share = valid(decoders.AtOnce(decoders.Draw()), 4_000)
    if way == "distilled":
        assert share > 0.98
    else:
        assert abs(share - 0.52) < 2 * math.sqrt(0.52 * 0.48 / 4_000) + 0.01  # and what 4,000 examples are off
    if way == "cmlm":
        assert valid(decoders.MaskPredict(2)) == 1


def test_next_word_of_a_law() -> None:
    """`ListedNextWord` is the chain rule: the product of its answers is the law, text by text."""
    law = phrasebook.orders(3, 0.5)
    process, model = Autoregressive(law.codec.vocab_size), exact.ListedNextWord(law)
    np.testing.assert_allclose(process.bound(model, law.ids, rng()), -np.log(law.p), rtol=1e-9)
    given = np.tile(law.given, (len(law.ids), 1))
    nll = process.bound(model, Batch(law.ids, given=given), rng())
    np.testing.assert_allclose(nll, -np.log(law.conditional), rtol=1e-9)


def test_pairs_of_other_lengths() -> None:
    """A law of one's own: numbers of words come first where they differ, and nowhere else."""
    pairs = [Pair(("x",), y, (0,) * len(y), 0.5) for y in (("a",), ("b", "c"))]
    assert Translations.of(pairs).texts == ("x > N1 a ¶", "x > N2 b c")
    pairs = [Pair((x,), (y,), (0,), 0.25) for x, y in itertools.product("xz", "ab")]
    assert Translations.of(pairs).texts == ("x > a", "x > b", "z > a", "z > b")


def test_empty_targets_are_refused() -> None:
    """Nothing could be written, and no token would say so."""
    with pytest.raises(ValueError, match="target of 'merci' is empty"):
        phrasebook.phrasebook(1, {"merci": {"": 0.5, "thanks": 0.5}})
    with pytest.raises(ValueError, match="pairs is empty"):
        Translations.of([])


def test_random_networks_are_welcome() -> None:
    """`LengthBeam` on a network that knows nothing still writes one of the lengths, and words only."""
    law = phrasebook.dates()
    beam = decoders.LengthBeam(law.fill_id, tuple(law.count_ids.tolist()), 3)
    x0, given = law.asked("2023 03 05")
    *_, last = MaskedDiffusion(law.codec.vocab_size).sample(
        random_model(law.codec.vocab_size, law.length), law.length, 4, decoder=beam, x0=x0, given=given, rng=rng()
    )
    for row in last.state:
        n = law.count_ids.tolist().index(row[law.begin]) + 1
        assert n in (3, 4, 5)
        assert (row[law.begin + 1 + n :] == law.fill_id).all()
        assert (row[law.begin + 1 : law.begin + 1 + n] != law.fill_id).all()
