"""The page that runs a model in a browser: its numbers are those of Python, its hands and keys do what they should."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import PHONE, address_of, check_looks, launched, opened

from tinydiff import Transformer, cli, data, decoders, load, no_grad, ops
from tinydiff.processes import Autoregressive, MaskedDiffusion
from tinydiff.views.page import Shown, page, read, read_both, rounded, save_page

if TYPE_CHECKING:
    from conftest import Runs

CODEC = data.Characters.of("abcdefghi +=\n</script>&")
LENGTH = 20


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for this module: while it is open an event loop runs, which others would trip over."""
    with launched() as browser:
        yield browser


def shown(seed: int = 0, scale: float = 2.0, codec: data.Codec = CODEC, **options: Any) -> Shown:
    """A network that nobody has trained, with weights large enough for logits of several nats."""
    chosen = {"length": LENGTH, "d_model": 24, "layers": 2, "heads": 3, "positions": "both"} | options
    rng = np.random.default_rng(seed)
    model = Transformer(codec.vocab_size, chosen.pop("length"), **chosen, rng=rng)
    for p in model.params.values():
        p.data = (p.data * scale + 0.1 * rng.standard_normal(p.shape)).astype(np.float32)
    config = {"data": {"name": "a text"}, "process": {"process": "masked"}}
    return Shown(Path("runs/trial"), model, MaskedDiffusion(codec.vocab_size), codec, config)


def as_in_the_page(model: Transformer, precision: str = "half") -> Transformer:
    """The model in float64 with the weights that the page has."""
    other = Transformer(**{**model.config, "dtype": "float64"}, rng=np.random.default_rng(0))
    for name, values in rounded(model, precision).items():
        other.params[name].data = values.astype(np.float64)
    return other


@pytest.fixture(scope="module")
def written(trained: Path, autoregressive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the trained run and its rival."""
    path = tmp_path_factory.mktemp("page") / "cats.html"
    save_page(path, *read_both(trained, autoregressive))
    return path


def placed(tmp_path: Path, *of: Any) -> str:
    """The address of a page that is written for one test."""
    path = tmp_path / "page.html"
    path.write_text(page(*of), "utf-8")
    return address_of(path)


def state_of(tab: Any) -> str:
    """The letters that are seen, "_" for masks."""
    return "".join(
        "_" if "mask" in cell.get_attribute("class") else cell.inner_text() or " "
        for cell in tab.locator("#text .cell").all()
    )


def filled(tab: Any) -> None:
    """Fill the masks and wait for the end."""
    from playwright.sync_api import expect

    tab.click("#fill")  # from now on it is "Stop"
    expect(tab.locator("#fill")).to_have_text("Fill the masks")


# --- the same numbers -------------------------------------------------------------------------------------------------

LOGITS = """({ids, causal, name}) => {
  const engine = new Local(JSON.parse(document.getElementById("data").textContent));
  return [...engine[name].logits(Int32Array.from(ids), {causal})];
}"""


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "rotary"},
        {"positions": "learned", "d_model": 15, "heads": 5},
        {"layers": 1, "heads": 1, "d_model": 8},
    ],
    ids=["both", "rotary", "learned", "small"],
)
def test_logits_are_those_of_python(browser: Any, tmp_path: Path, options: dict[str, Any], precision: str) -> None:
    """A weight read wrongly, a position off by one, an epsilon forgotten: anything that is another network."""
    made = shown(**options)
    rng = np.random.default_rng(1)
    with opened(browser, placed(tmp_path, made, None, precision)) as tab:
        for length, causal in ((LENGTH, False), (LENGTH, True), (3, False), (1, True)):
            ids = rng.integers(0, CODEC.vocab_size + 1, length)
            with no_grad():
                expected = as_in_the_page(made.model, precision)(ids[None], causal=causal).data[0]
            ours = np.array(tab.evaluate(LOGITS, {"ids": ids.tolist(), "causal": causal, "name": "masked"}))
            assert np.ptp(expected) > 3  # nats: not all alike
            np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=1e-4, rtol=0)


def test_what_is_kept_of_the_positions_before_changes_nothing(browser: Any, tmp_path: Path) -> None:
    """Keys and values kept at the wrong place, or positions that begin again with each call."""
    made = shown()
    ids = np.random.default_rng(1).integers(0, CODEC.vocab_size + 1, LENGTH)
    with no_grad():
        expected = as_in_the_page(made.model)(ids[None], causal=True).data[0]
    with opened(browser, placed(tmp_path, made)) as tab:
        parts = tab.evaluate(
            """ids => {
              const network = new Local(JSON.parse(document.getElementById("data").textContent)).masked;
              const cache = network.newCache();
              return [[0, 7], [7, 8], [8, ids.length]].map(([from, to]) =>
                [...network.logits(ids.slice(from, to), {causal: true, cache, select: [to - from - 1]})]);
            }""",
            ids.tolist(),
        )
    np.testing.assert_allclose(parts, expected[[6, 7, LENGTH - 1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("positions", ["both", "learned"])
def test_attention_is_what_is_painted(browser: Any, tmp_path: Path, positions: str) -> None:
    """The attention of another head or position, or a column painted for a row."""
    made = shown(positions=positions)
    model, ids = as_in_the_page(made.model), np.random.default_rng(2).integers(0, CODEC.vocab_size, LENGTH)
    p, depth = model.params, model.depth
    with no_grad():
        h = ops.layer_norm(
            ops.embedding(p["embed"], ids[None]) + p["position"][:LENGTH],
            p["block0.norm1.weight"],
            p["block0.norm1.bias"],
        )
        qkv = ops.linear(h, p["block0.qkv.weight"], p["block0.qkv.bias"]).reshape(1, LENGTH, 3, 3, depth)
        if positions == "both":
            qkv = ops.rotary(qkv, model._cos[:LENGTH], model._sin[:LENGTH])
        q, k = qkv.data[0, :, 0], qkv.data[0, :, 1]
        scores = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(depth))
    with opened(browser, placed(tmp_path, made)) as tab:
        seen = tab.evaluate(
            """async ids => {
              const engine = new Local(JSON.parse(document.getElementById("data").textContent));
              return (await engine.look(Int32Array.from(ids), 4)).attention.map(layer => layer.map(row => [...row]));
            }""",
            ids.tolist(),
        )
    np.testing.assert_allclose(np.sum(seen, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(seen[0], (scores / scores.sum(-1, keepdims=True))[:, 4], atol=1e-5)


DECODERS = {
    "low_confidence": decoders.LowConfidence, "most_likely": decoders.MostLikely, "entropy": decoders.Entropy,
    "margin": decoders.Margin, "left_to_right": decoders.LeftToRight,
}  # fmt: skip
FILL = """({name, start, options}) => {
  const engine = new Local(JSON.parse(document.getElementById("data").textContent));
  const run = name === "rival" ? write : fill, frames = run(engine[name], Int32Array.from(start), options);
  return [...frames].map(each => ({...each, state: [...each.state], sure: [...each.sure]}));
}"""


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("order", DECODERS)
def test_greedy_decoders_are_those_of_python(browser: Any, tmp_path: Path, order: str, ties: bool) -> None:
    """Another quota, another order, ties to the other side, confidences of other tokens."""
    made, steps = shown(scale=0.0 if ties else 2.0), 7
    if ties:  # nothing is likelier than anything else, anywhere
        for p in made.model.params.values():
            p.data[...] = 0
    ids = np.random.default_rng(3).integers(0, CODEC.vocab_size, LENGTH)
    given = np.arange(LENGTH) % 5 == 1
    decoder = DECODERS[order](steps=steps, draw=decoders.Draw(0))
    frames = list(
        made.process.sample(
            as_in_the_page(made.model), LENGTH, decoder=decoder, x0=ids, given=given, rng=np.random.default_rng(0)
        )
    )
    with opened(browser, placed(tmp_path, made)) as tab:
        options = {"order": order, "steps": steps, "temperature": 0, "noise": 0, "seed": 0}
        start = np.where(given, ids, CODEC.vocab_size).tolist()
        ours = tab.evaluate(FILL, {"name": "masked", "start": start, "options": options})
    assert [each["state"] for each in ours] == [frame.state[0].tolist() for frame in frames]
    assert [sorted(each["fresh"]) for each in ours] == [np.flatnonzero(frame.committed[0]).tolist() for frame in frames]
    for each, frame in zip(ours, frames, strict=True):
        np.testing.assert_allclose(each["sure"], frame.confidence[0], atol=1e-4)
        assert (each["step"], each["steps"]) == (frame.step, frame.steps)


@pytest.mark.parametrize("order", ["low_confidence", "left_to_right"])
@pytest.mark.parametrize("steps", [3, 16])
def test_second_thoughts_are_those_of_python(browser: Any, tmp_path: Path, steps: int, order: str) -> None:
    """A round that hides more or less than a third, touches what is given, or fills otherwise than the first time."""
    made, rounds, mask = shown(), 4, CODEC.vocab_size
    ids = np.random.default_rng(3).integers(0, mask, LENGTH)
    given = np.arange(LENGTH) % 5 == 1
    options = {"order": order, "steps": steps, "temperature": 0, "noise": 0, "seed": 0}
    with opened(browser, placed(tmp_path, made)) as tab:
        asked = {"name": "masked", "start": np.where(given, ids, mask).tolist()}
        first = tab.evaluate(FILL, {**asked, "options": options})
        ours = tab.evaluate(FILL, {**asked, "options": {**options, "rounds": rounds}})
        hidden = tab.evaluate(
            """() => Array.from({length: 600}, (_, seed) => some([1, 3, 4, 7, 8, 9], 2, generator(seed)))"""
        )
    every = [tuple(sorted(pair)) for pair in hidden]
    pairs = set(itertools.combinations([1, 3, 4, 7, 8, 9], 2))
    assert set(every) == pairs
    assert all(abs(every.count(pair) - 40) < 4 * np.sqrt(40) for pair in pairs)  # level: about 15 x 6e-5
    kind, model = DECODERS[order](steps=steps, draw=decoders.Draw(0)), as_in_the_page(made.model)
    like = list(
        made.process.sample(
            model, LENGTH, decoder=decoders.Gibbs(kind, rounds), x0=ids, given=given, rng=np.random.default_rng(0)
        )
    )
    assert [(each["step"], each["steps"]) for each in ours] == [(frame.step, frame.steps) for frame in like]
    assert [len(each["again"]) for each in ours] == [frame.remasked.sum() for frame in like]
    assert [each["state"] for each in ours[: steps + 1]] == [each["state"] for each in first]
    starts = [i for i, each in enumerate(ours) if each["again"]]
    assert len({tuple(ours[i]["again"]) for i in starts}) == rounds
    for begin, end in itertools.pairwise([*starts, len(ours)]):
        state, before = np.array(ours[begin]["state"]), np.array(ours[begin - 1]["state"])
        kept = ~np.isin(np.arange(LENGTH), ours[begin]["again"])
        assert not (given & ~kept).any()
        np.testing.assert_array_equal(state, np.where(kept, before, mask))
        inside = DECODERS[order](steps=min(steps, int((~kept).sum())), draw=decoders.Draw(0))
        redone = list(
            made.process.sample(
                model, LENGTH, decoder=inside, x0=before, given=kept, rng=np.random.default_rng(0)
            )
        )  # fmt: skip
        assert [each["state"] for each in ours[begin:end]] == [frame.state[0].tolist() for frame in redone]
        for each, frame in zip(ours[begin + 1 : end], redone[1:], strict=True):
            assert sorted(each["fresh"]) == np.flatnonzero(frame.committed[0]).tolist()
            np.testing.assert_allclose(np.array(each["sure"])[~kept], frame.confidence[0, ~kept], atol=1e-4)
            np.testing.assert_array_equal(np.array(each["sure"])[kept], np.array(ours[begin]["sure"])[kept])


def test_left_to_right_is_that_of_python(browser: Any, tmp_path: Path) -> None:
    """A token read twice or not at all behind a prompt."""
    made, rival = shown(), shown(seed=5)
    ids = np.random.default_rng(3).integers(0, CODEC.vocab_size, LENGTH)
    given = np.arange(LENGTH) < 4
    frames = list(
        Autoregressive(CODEC.vocab_size).sample(
            as_in_the_page(rival.model), LENGTH, decoder=decoders.NextToken(draw=decoders.Draw(0)), x0=ids, given=given,
            rng=np.random.default_rng(0),
        )
    )  # fmt: skip
    with opened(browser, placed(tmp_path, made, rival)) as tab:
        start = np.where(given, ids, CODEC.vocab_size).tolist()
        ours = tab.evaluate(FILL, {"name": "rival", "start": start, "options": {"temperature": 0, "seed": 0}})
    assert [each["state"] for each in ours] == [frame.state[0].tolist() for frame in frames]
    np.testing.assert_allclose(ours[-1]["sure"], frames[-1].confidence[0], atol=1e-4)


def test_draws_follow_the_law_and_the_seed(browser: Any, tmp_path: Path) -> None:
    """A temperature that multiplies, a token of probability zero, noise that is none, a seed that is not asked."""
    with opened(browser, placed(tmp_path, shown())) as tab:
        counts = tab.evaluate(
            """() => {
              const random = generator(7), logits = [0, 1, 2, -Infinity], counts = [0, 0, 0, 0];
              for (let i = 0; i < 40000; i++) counts[draw(logits, softmax(logits), 0.5, random)]++;
              return counts;
            }"""
        )
        law = np.exp([0, 2, 4, -np.inf])
        law /= law.sum()
        assert np.abs(np.array(counts) / 40000 - law).max() < 4 * 0.5 / 200
        assert counts[3] == 0
        start = [CODEC.vocab_size] * LENGTH
        base = {"order": "low_confidence", "steps": 20, "temperature": 0.7, "noise": 0, "seed": 1}

        def end(**options: Any) -> list[list[int]]:
            frames = tab.evaluate(FILL, {"name": "masked", "start": start, "options": base | options})
            return [each["state"] for each in frames]

        assert end() == end()
        assert end()[-1] != end(seed=2)[-1]
        greedy = {"temperature": 0}
        assert end(**greedy) == end(**greedy, seed=2)
        assert end(**greedy) != end(**greedy, noise=9)
        assert end(**greedy, order="random") != end(**greedy, order="random", seed=2)


# --- hands and keys ---------------------------------------------------------------------------------------------------


def test_fill_step_and_think(browser: Any, written: Path, trained: Path) -> None:
    """A film with steps missing, a given letter that changes, a position whose likeliest tokens are another's."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written)) as tab:
        assert state_of(tab) == "_" * 16
        tab.fill("#own", "the cat ________")
        tab.click("#use")
        assert state_of(tab) == "the cat ________"
        tab.locator("#steps").fill("4")
        filled(tab)
        end = state_of(tab)
        assert end.startswith("the cat ")
        assert "_" not in end
        assert tab.locator("#film").get_attribute("max") == "4"
        masked = []
        for _ in range(4):
            tab.click("#back")
            masked.append(state_of(tab).count("_"))
        assert masked == [2, 4, 6, 8]
        expect(tab.locator("#status")).to_contain_text("step 0 of 4, 8 masked")
        expect(tab.locator("#back")).to_be_disabled()
        tab.hover("#text-8")
        expect(tab.locator("#place")).to_have_text("Position 9, masked")
        expect(tab.locator("#top li")).to_have_count(5)
        model, _, codec, _ = load(trained)
        ids = codec.encode("the cat         ")
        ids[8:] = codec.vocab_size
        p = decoders.draws.untempered(as_in_the_page(model)(ids[None]).data[0, 8:9])[0]
        best = tab.locator("#top li").first.inner_text().split("\n")
        letter = {" ": "space", "\n": "line break"}.get(codec.alphabet[p.argmax()], codec.alphabet[p.argmax()])
        assert best[0] == letter
        assert abs(float(best[1].removesuffix(" %")) - 100 * p.max()) < 0.6
        tab.hover("#text-4")
        expect(tab.locator("#asked")).to_contain_text("if only this were masked")
        ids[4] = codec.vocab_size
        sure = decoders.draws.untempered(as_in_the_page(model)(ids[None]).data[0, 4:5])[0].max()
        expect(tab.locator("#top li").first).to_contain_text(f"{100 * sure:.0f} %")
        tab.hover("#text-8")
        expect(tab.locator("#place")).to_have_text("Position 9, masked")
        tab.locator("#top button").nth(1).click()
        assert state_of(tab)[8] != "_"
        assert state_of(tab)[9:] == "_" * 7
        expect(tab.locator("#play")).to_be_disabled()


def test_rounds_are_seen(browser: Any, written: Path) -> None:
    """A slider that does nothing, a round that leaves no trace in the film, or masks what is given."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written)) as tab:
        expect(tab.locator("#rounds-out")).to_have_text("0")
        expect(tab.locator("#legend")).to_contain_text("masked again")
        tab.fill("#own", "the ____________")
        tab.click("#use")
        tab.locator("#steps").fill("4")
        tab.locator("#rounds").fill("2")
        expect(tab.locator("#rounds-out")).to_have_text("2")
        filled(tab)
        assert tab.locator("#film").get_attribute("max") == str(4 + 2 * (1 + 4))
        tab.locator("#film").fill("5")
        assert tab.locator("#text .cell.again").count() == 4
        assert tab.locator("#text .cell.given").count() == 4
        assert re.search(r"^step 5 of 14, 4 masked", tab.locator("#status").inner_text())
        assert tab.locator("#text .cell.again").first.get_attribute("aria-label").endswith(": masked again")
        tab.click("#mask-all")
        tab.locator("#steps").fill("2")
        tab.locator("#rounds").fill("1")
        tab.click("#race-start")
        expect(tab.locator("#tracks h3").nth(1)).to_have_text("diffusion, 2 steps, 1 round")


def test_masking_with_the_pointer(browser: Any, written: Path) -> None:
    """A click that masks a neighbour, a drag that leaves one out, a mask that cannot be undone."""
    with opened(browser, address_of(written)) as tab:
        tab.fill("#own", "the cat sat on a")
        tab.click("#use")
        tab.click("#text-4")
        assert state_of(tab) == "the _at sat on a"
        tab.click("#text-4")
        assert state_of(tab) == "the cat sat on a"
        tab.hover("#text-8")
        tab.mouse.down()
        tab.hover("#text-10")
        tab.mouse.up()
        assert state_of(tab) == "the cat ___ on a"
        tab.select_option("#order", "left_to_right")
        filled(tab)
        assert state_of(tab)[:8] + state_of(tab)[11:] == "the cat  on a"
        tab.click("#mask-all")
        assert state_of(tab) == "_" * 16


def test_everything_by_keyboard(browser: Any, written: Path) -> None:
    """A control that Tab does not reach, keys that move the page instead, a letter at the wrong place."""
    with opened(browser, address_of(written)) as tab:
        reached = set()
        for _ in range(40):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
        wanted = tab.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea, [tabindex]")]
              .filter(each => each.checkVisibility() && !each.disabled && !each.closest("#top")).map(each => each.id)"""
        )
        assert set(wanted) <= reached
        assert {"fill", "text", "steps", "rounds", "order", "race-start", "paint"} <= set(wanted)
        assert tab.locator("#play").is_disabled()  # there is no film yet
        filled(tab)
        tab.focus("#text")
        for control in ("play", "back", "film"):
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.id") == control
        tab.click("#mask-all")
        tab.focus("#text")
        tab.keyboard.press("Home")
        tab.keyboard.type("cat on ")
        assert state_of(tab) == "cat on " + "_" * 9
        tab.keyboard.press("Backspace")
        tab.keyboard.press("Home")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Shift+ArrowRight")
        tab.keyboard.press("Delete")
        assert state_of(tab) == "c__ on_________".ljust(16, "_") or state_of(tab)[:6] == "c__ on"
        assert tab.locator("#text").get_attribute("aria-activedescendant") == "text-2"
        tab.keyboard.press("Enter")
        assert tab.locator("#text-2").get_attribute("aria-label").startswith("3: ")
        tab.focus("#fill")
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(100)
        assert state_of(tab)[:1] == "c"


def test_the_race_is_replayed_on_its_clock(browser: Any, written: Path) -> None:
    """A racer that is shown at its end before it was there, or given letters that left to right cannot have seen."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written)) as tab:
        tab.fill("#own", "the ____ sat____")
        tab.click("#use")
        tab.locator("#steps").fill("2")
        tab.click("#race-start")
        expect(tab.locator("#tracks h3")).to_have_text(["left to right", "diffusion, 2 steps"])
        expect(tab.locator("#race-note")).to_contain_text("the other 4 are written anew")
        tab.locator("#race-film").fill("0")
        assert tab.locator("#tracks .cell.mask").count() == 12 + 8
        last = tab.locator("#race-film").get_attribute("max")
        tab.locator("#race-film").fill(last)
        assert tab.locator("#tracks .cell.mask").count() == 0
        assert re.fullmatch(r"done in \d+ ms", tab.locator("#tracks .note").first.inner_text())
        texts = [each.get_attribute("aria-label") for each in tab.locator("#tracks .cells").all()]
        assert [text[:4] for text in texts] == ["the ", "the "]
        assert texts[1][8:12] == " sat"


def test_what_cannot_be_is_said(browser: Any, written: Path) -> None:
    """An error that is nowhere seen, or that leaves a half-made text."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written)) as tab:
        for text, words in (
            ("the Cat", 'does not know "C"; it has learnt 12 letters'),
            ("the cat sat on a mat.", "has 21 letters; this model takes at most 16"),
            ("", "The text is empty"),
        ):
            tab.fill("#own", text)
            tab.click("#use")
            expect(tab.locator("#error")).to_contain_text(words)
            assert state_of(tab) == "_" * 16
        tab.fill("#own", "the cat")
        tab.click("#use")
        expect(tab.locator("#error")).to_be_hidden()
        assert state_of(tab) == "the cat"
        for button in ("#fill", "#race-start"):
            tab.click(button)
            expect(tab.locator("#error")).to_contain_text("Nothing is masked: click a letter")
        tab.fill("#length", "40")
        tab.press("#length", "Enter")
        expect(tab.locator("#error")).to_contain_text("1 to 16 positions")
        tab.fill("#length", "9")
        tab.press("#length", "Enter")
        assert state_of(tab) == "the cat__"


STORY = "Ann gave Tom the green ball, and he had it. Tom gave Ann a ball."
WORDS = data.Words(
    ("¶", ".", ",", *sorted({" " + word for word in STORY.replace(".", "").replace(",", "").split()})), "¶"
)


@pytest.mark.parametrize(
    ("codec", "named"),
    [(data.Words.of(STORY), "é"), (data.Pieces.of(STORY, 44), "é"), (WORDS, "gavé")],
    ids=["words that are spelled", "pieces", "closed words"],
)
def test_what_is_not_known_is_named(browser: Any, tmp_path: Path, codec: data.Codec, named: str) -> None:
    """A whole word, where only one letter of it has never been seen."""
    from playwright.sync_api import expect

    with opened(browser, placed(tmp_path, shown(codec=codec))) as tab:
        tab.fill("#own", "Ann gavé")
        tab.click("#use")
        expect(tab.locator("#error")).to_contain_text(
            f'does not know "{named}"; it has learnt {codec.vocab_size} {codec.unit}s.'
        )


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (data.Characters.of("Ann, 2\n\té"), "Ann,é 22\n"),
        (WORDS, " he had it, and gave Tom a ball."),
        (data.Words.of(STORY * 3 + "xyzé\n", 34), "Ann  gave\n\nzé, tall. "),
        (data.Pieces.of(STORY * 3 + "é\n", 44), "Ann, the  greenballé\nit. hadgave thengreballe"),
        (data.Pieces("abc ", (("a", "b"), ("b", "c"), (" ", "ab"))), "abc abcbc cabbc"),
    ],
    ids=["characters", "closed words", "words", "pieces", "merges"],
)
def test_texts_are_cut_as_in_python(browser: Any, tmp_path: Path, codec: data.Codec, text: str) -> None:
    """Other tokens than those that the model has learnt from: another blank, another order of merges."""
    blanks = f"{text}_{text} __" if codec.unit == "character" else f"{text.rstrip()} _{text.rstrip()} __"
    with opened(browser, placed(tmp_path, shown(codec=codec))) as tab:
        cut = """text => {
          const known = new Vocabulary(JSON.parse(document.getElementById("data").textContent));
          return [[...known.encode(text)], known.decode(known.encode(text))];
        }"""
        assert tab.evaluate(cut, text) == [codec.encode(text).tolist(), text]
        if codec is WORDS:
            return
        ids, given = data.with_blanks(codec, blanks, "_")
        seen, back = tab.evaluate(cut, blanks)
        assert seen == np.where(given, ids, codec.vocab_size).tolist()
        assert tab.evaluate(cut, back)[0] == seen


def test_words_are_tokens_too(browser: Any, tmp_path: Path) -> None:
    """A page that takes a token for a letter."""
    from playwright.sync_api import expect

    with opened(browser, placed(tmp_path, shown(codec=WORDS))) as tab:
        tab.fill("#own", "Ann gave Tom, _ green ball.")
        tab.click("#use")
        cells = [cell.inner_text() for cell in tab.locator("#text .cell").all()]
        assert cells == ["Ann", "gave", "Tom", ",", "", "green", "ball", "."]
        assert tab.locator("#own").input_value() == "Ann gave Tom, _ green ball."
        tab.fill("#own", "Ann theft")
        tab.click("#use")
        expect(tab.locator("#error")).to_contain_text('does not know "theft"')
        tab.focus("#text")
        tab.keyboard.press("Home")
        tab.keyboard.type("he")
        assert tab.locator("#token").input_value() == "he"
        tab.keyboard.press("Enter")
        assert tab.locator("#text-0").inner_text() == "he"
        filled(tab)
        check_looks(tab)
        tab.set_viewport_size(PHONE)
        tab.fill("#own", "Ann gave Tom, and Ann gave Tom, and Ann gave Tom, and Ann gave Tom,")
        tab.click("#use")
        tops = tab.evaluate("""() => [...document.querySelectorAll("#text .cell")]
          .map(each => [each.textContent, Math.round(each.getBoundingClientRect().top)])""")
        assert len({top for _, top in tops}) > 2
        assert all(top == before for (_, before), (text, top) in itertools.pairwise(tops) if text == ",")


# --- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1024, "height": 768}, PHONE], ids=["laptop", "phone"])
def test_looks(browser: Any, written: Path, size: dict[str, int], scheme: str) -> None:
    """Text that cannot be read, or a page that is wider than the screen."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written), viewport=size, color_scheme=scheme) as tab:
        check_looks(tab)
        tab.fill("#own", "the cat ________")
        tab.click("#use")
        filled(tab)
        tab.locator("#film").fill("4")
        tab.select_option("#paint", "0/1")
        tab.click("#race-start")
        expect(tab.locator("#tracks h3")).to_have_count(2)
        tab.click("#text-2")
        expect(tab.locator("#text .lit")).to_have_count(16)
        expect(tab.locator("#painted")).to_be_visible()
        check_looks(tab)
        tab.select_option("#paint", "")
        check_looks(tab)


def test_without_scripts_and_in_old_browsers(browser: Any, written: Path, tmp_path: Path) -> None:
    """An empty page."""
    with opened(browser, address_of(written), java_script_enabled=False) as tab:
        assert "needs JavaScript" in tab.locator("#needs").inner_text()
        assert not tab.locator("main").is_visible()
    context = browser.new_context()
    context.add_init_script("delete Array.prototype.findLast")
    tab = context.new_page()
    tab.goto(address_of(written))
    assert "lacks what the page needs: the JavaScript of 2022" in tab.locator("#needs").inner_text()
    context.close()
    damaged = tmp_path / "damaged.html"
    damaged.write_text(re.sub(r'(id="weights-masked"[^>]*>)....', r"\1", written.read_text("utf-8")), "utf-8")
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(address_of(damaged))
    assert "damaged" in tab.locator("#needs").inner_text()
    context.close()


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_holds_all_and_asks_for_nothing(trained: Path) -> None:
    """Weights of the last step in place of the averaged ones, an address, a name that ends a script."""
    made = read(trained, MaskedDiffusion, "masked")
    html = page(made._replace(folder=Path("runs/</title><b>x")))
    assert html.count("</title>") == 1
    assert "<b>x" not in html
    assert not re.search(r"https?:|@import|\burl\(", html)
    weights = base64.b64decode(re.search(r'id="weights-masked"[^>]*>([^<]*)<', html)[1])
    model, *_ = load(trained)
    expected = np.concatenate([p.data.ravel() for p in model.params.values()]).astype("<f2")
    np.testing.assert_array_equal(np.frombuffer(weights, "<f2"), expected)
    described = json.loads(re.search(r'id="data"[^>]*>([^<]*)<', html)[1])
    defaults = {"order": "low_confidence", "temperature": 0.7, "noise": 8.0, "rounds": 0, "seed": 0}
    assert described["defaults"] == defaults
    assert len(html) < 120_000
    assert html.count("<script") == 6
    assert len(page(made, precision="single")) - len(html) == pytest.approx(len(expected) * 2 * 4 / 3, abs=99)


def test_models_that_the_page_does_not_know(tmp_path: Path) -> None:
    """A network shown as another one, because an option of it was overlooked."""
    made = shown()
    for change, words in (
        ({"time": True}, r"model\.time of runs/trial is True, which the page's network does not know"),
        ({"classes": 2}, r"model\.classes of runs/trial is 2"),
        ({"window": 5}, r"model\.window of runs/trial is 5"),
    ):
        other = shown(**{key: value for key, value in change.items() if key != "window"})
        if "window" in change:
            config = {**other.model.config, **change}
            other.model.__class__ = type("Other", (Transformer,), {"config": config})
        with pytest.raises(ValueError, match=words):
            page(other)
    made.model.params["block0.gate.weight"] = made.model.params["embed"]
    with pytest.raises(ValueError, match=r"runs/trial has an array block0\.gate\.weight"):
        page(made)
    large = shown()
    large.model.params["head.bias"].data[0] = 1e6
    with pytest.raises(ValueError, match=r"head\.bias has a weight of 1e\+06, too large for half precision"):
        page(large)
    page(large, precision="single")


def test_the_command(
    trained: Path, autoregressive: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A file written over, a run that cannot be shown and is; each is refused before anything is written."""

    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["tinydiff", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, " ".join(capsys.readouterr().err.split())

    out = tmp_path / "new" / "page.html"
    code, said = command("page", trained, "--rival", autoregressive, "--out", out)
    assert code == 0
    assert f"{out}: 0.0" in said
    assert '"race":true' in out.read_text("utf-8")
    for words, expected in (
        ((trained, "--out", out), "exists already"),
        ((trained, "--out", tmp_path / "page.txt"), "a page ends in .html"),
        ((autoregressive, "--out", tmp_path / "a.html"), "is a run of autoregressive; expected one of masked"),
        (
            (trained, "--rival", trained, "--out", tmp_path / "a.html"),
            "is a run of masked; expected one of autoregressive",
        ),
        ((tmp_path / "none", "--out", tmp_path / "a.html"), "there is no run in"),
    ):
        code, said = command("page", *words)
        assert code in (1, 2)
        assert expected in said
    broken = shutil.copytree(trained, tmp_path / "broken")
    content = bytearray((broken / "state.safetensors").read_bytes())
    content[-9] ^= 1
    (broken / "state.safetensors").write_bytes(content)
    code, said = command("page", broken, "--out", tmp_path / "a.html")
    assert (code, "is damaged" in said) == (1, True)
    assert command("train", "--data", "spiral", "--out", tmp_path / "spiral", "--steps", 2)[0] == 0
    code, said = command("page", tmp_path / "spiral", "--out", tmp_path / "a.html")
    assert (code, "is a run of ddpm; expected one of masked" in said) == (2, True)
    assert not (tmp_path / "a.html").exists()
