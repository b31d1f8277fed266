"""The player of a trajectory in a browser: keys, words, what a screen reader hears, paper, dark, and notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PHONE, address_of, check_looks, launched, opened

from tinydiff import data
from tinydiff.decoders import Frame
from tinydiff.processes.paths import VectorFrame
from tinydiff.views import animation
from tinydiff.views.html import player, save_html
from tinydiff.views.trajectory import MASK, Trajectory

TEXT = "the extraordinary cat sat on a remarkable mat and there it remained for a considerable time"
CODEC = data.Characters.of(TEXT)


def way(steps: int = 6, title: str = "runs/cats") -> Trajectory:
    """The text filled in over the steps, behind a word that is given; one position is masked again."""
    ids = CODEC.encode(TEXT)[None]
    given = (np.arange(len(TEXT)) < 4)[None]
    turn = np.arange(len(TEXT))[None] * 7 % steps + 1
    frames = []
    for step in range(steps + 1):
        there, again = given | (turn <= step), np.zeros(ids.shape, bool)
        again[0, 20], there[0, 20] = step == 4, there[0, 20] and step != 4
        state, sure = np.where(there, ids, CODEC.vocab_size), np.where(there, turn / steps, 0.0)
        frames.append(Frame(step, steps, 1 - step / steps, state, (turn == step) & ~given, again, sure, given))
    return Trajectory(frames, CODEC, title, np.linspace(0, 1, steps + 1).tolist())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for this module."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the player."""
    path = tmp_path_factory.mktemp("player") / "way.html"
    save_html(path, way(), seconds=2.0)
    return path


def test_keys_work_before_anything_has_the_focus(browser: Any, written: Path) -> None:
    """A page that must be clicked first."""
    from playwright.sync_api import expect

    with opened(browser, address_of(written)) as tab:
        status, button = tab.locator(".track span").first, tab.locator("button")
        expect(status).to_contain_text("step 6/6")
        tab.keyboard.press("Home")
        expect(status).to_contain_text("step 0/6")
        tab.keyboard.press("ArrowRight")
        expect(status).to_contain_text("step 1/6")
        tab.keyboard.press(" ")
        expect(button).to_have_text("Pause")
        tab.keyboard.press(" ")
        expect(button).to_have_text("Play")
        button.focus()
        tab.keyboard.press(" ")
        expect(button).to_have_text("Pause")
        expect(status).to_contain_text("step 6/6")
        expect(button).to_have_text("Play")


def test_words_stay_whole_and_letters_in_their_place(browser: Any, written: Path) -> None:
    """A word broken at the end of a line, or letters that jump from frame to frame."""
    places = """() => [...document.querySelectorAll(".track .row i")].map(each => {
      const box = each.getBoundingClientRect();
      return [Math.round(box.left), Math.round(box.top)];
    })"""
    with opened(browser, address_of(written), viewport=PHONE) as tab:
        check_looks(tab)
        seen = []
        for _ in range(7):
            seen.append(tab.evaluate(places))
            tab.keyboard.press("ArrowLeft")
        assert all(each == seen[0] for each in seen)
        tops = [top for _, top in seen[0]]
        assert len(set(tops)) > 3
        start = 0
        for word in TEXT.split(" "):
            assert len(set(tops[start : start + len(word)])) == 1, word
            start += len(word) + 1


def test_marks_stay_with_their_word(browser: Any, tmp_path: Path) -> None:
    """A line that begins with the full stop of the line before."""
    words = data.Words.of("Ann saw Tom. Tom saw it, too. ")
    ids = words.encode("Ann saw Tom. " * 12)[None]
    nothing = np.zeros(ids.shape, bool)
    last = Frame(1, 1, 0.0, ids, nothing, nothing, np.ones(ids.shape), nothing)
    save_html(tmp_path / "words.html", Trajectory([last], words, "words", [0.0]))
    with opened(browser, address_of(tmp_path / "words.html"), viewport=PHONE) as tab:
        tops = tab.evaluate("""() => [...document.querySelectorAll(".track .row i")]
          .map(each => [each.textContent, Math.round(each.getBoundingClientRect().top)])""")
        assert len({top for _, top in tops}) > 2
        assert all(top == before for (_, before), (text, top) in itertools.pairwise(tops) if text == ".")
        assert tab.locator(".track .row").get_attribute("aria-label") == "Ann saw Tom. " * 12  # no commas between


def test_a_screen_reader_hears_the_text_once(browser: Any, written: Path) -> None:
    """Letter by letter, or always what was there at the end."""
    with opened(browser, address_of(written)) as tab:
        row = tab.get_by_role("img", name=TEXT, exact=True)
        assert row.count() == 1
        tab.keyboard.press("Home")
        assert tab.get_by_role("img", name="the " + MASK * (len(TEXT) - 4), exact=True).count() == 1
        assert tab.get_by_role("slider", name="moment").count() == 1
        assert tab.get_by_role("group", name="film").count() == 1
        assert tab.get_by_role("progressbar", name="how far").count() == 1
        assert not tab.get_by_text("e", exact=True).and_(tab.locator("[aria-label=e]")).count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_looks(browser: Any, written: Path, scheme: str) -> None:
    """Letters, masks and marks that cannot be read; given letters that look filled in."""
    with opened(browser, address_of(written), color_scheme=scheme) as tab:
        for _ in range(7):
            check_looks(tab)
            tab.keyboard.press("ArrowLeft")
        kinds = tab.evaluate('[...document.querySelectorAll(".track .row i")].map(each => each.className).join(" ")')
        assert kinds.split() == ["g"] * 4 + ["m"] * (len(TEXT) - 4)
        ground = 'getComputedStyle(document.querySelector("{}")).backgroundColor'
        assert tab.evaluate(ground.format(".track .g")) == tab.evaluate(ground.format(".tinydiff"))
        assert tab.evaluate(ground.format("body")) == ("rgb(22, 24, 28)" if scheme == "dark" else "rgba(0, 0, 0, 0)")


def test_the_scale_stays_on_paper_and_in_forced_colours(browser: Any, written: Path) -> None:
    """All cells white."""
    colours = """() => [...new Set([...document.querySelectorAll(".track .row i")]
      .map(each => getComputedStyle(each)).map(style => style.backgroundColor + style.printColorAdjust))].length"""
    with opened(browser, address_of(written), forced_colors="active") as tab:
        assert tab.evaluate(colours) >= 5
    with opened(browser, address_of(written)) as tab:
        tab.emulate_media(media="print")
        assert tab.evaluate(colours) >= 5
        assert tab.evaluate('getComputedStyle(document.querySelector(".track i")).printColorAdjust') == "exact"
        assert not tab.locator(".bar").is_visible()


POINTS = [VectorFrame(i, 4, 1 - i / 4, np.full((3, 2, 1), i / 4), np.zeros((3, 2, 1))) for i in range(5)]


@pytest.mark.parametrize("html", [player(way()), animation.player(POINTS)], ids=["text", "points"])
def test_in_a_notebook(browser: Any, html: str, tmp_path: Path) -> None:
    """A script that is run where it is not, as VS Code does, or twice over: a player that does not answer."""
    (tmp_path / "empty.html").write_text("<!DOCTYPE html><title>notebook</title><body></body>")
    with opened(browser, address_of(tmp_path / "empty.html")) as tab:
        for _ in range(2):
            tab.evaluate(
                """html => {
                  const output = document.createElement("div");
                  output.innerHTML = html;
                  document.body.append(output);
                  const script = document.createElement("script");
                  script.textContent = output.querySelector("script").textContent;
                  document.head.append(script);
                }""",
                html,
            )
        for i in range(2):
            box = tab.locator(".tinydiff").nth(i)
            slider = box.locator("input")
            assert slider.is_visible()
            slider.fill("0")
            slider.focus()
            tab.keyboard.press("ArrowRight")
            assert slider.input_value() == "1"
        shown = tab.locator("output, .track span").all_inner_texts()
        assert shown.count("t = 0.75") + sum("step 1/6" in text for text in shown) == 2


def test_where_no_scripts_run(browser: Any, tmp_path: Path) -> None:
    """Nothing, or the first moment; a button that does nothing."""
    path = tmp_path / "way.html"
    path.write_text(f"<!DOCTYPE html><title>notebook</title>{player(way())}{animation.player(POINTS)}", "utf-8")
    with opened(browser, address_of(path), java_script_enabled=False) as tab:
        assert tab.get_by_role("img", name=TEXT, exact=True).is_visible()
        picture = tab.get_by_role("img", name="3 points in the plane, from noise to data in 5 moments")
        box, window = picture.bounding_box(), picture.locator("..").bounding_box()
        assert box["y"] + box["height"] == pytest.approx(window["y"] + window["height"], abs=3)
        assert not tab.locator("button").first.is_visible()
