"""Trajectories of text as pages, GIFs and figures: every frame is in them, at its time, and nothing else."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from tinydiff import data
from tinydiff.decoders import Frame
from tinydiff.views import figures
from tinydiff.views.fonts import FAMILY, fonts_for
from tinydiff.views.gif import CELL_HEIGHT, CELL_WIDTH, INK, LEAST, MARGIN, REST, START, save_gif
from tinydiff.views.html import player, save_html
from tinydiff.views.terminal import state_text
from tinydiff.views.trajectory import (
    AGAIN,
    AGAIN_INK,
    COLOURS,
    MASK,
    NEWLINE,
    REMASKED,
    Trajectory,
    cells,
    lines,
    playback,
    record,
    timed,
    visible,
)

TEXT = "</script><b>&amp;\n\t x\U0001d54f\u2028'\"</b><!--$x_1$"
CODEC = data.Characters.of(TEXT)
SHOWN = "".join(map(visible, TEXT))


WORDS = "a catalogue \u5929\u5730 e\u0301 \U0001f600\n of-" + "long" * 20 + " words"
"""Of two columns each, a mark on a letter, and a word that is longer than a line."""


def way(
    steps: int = 4,
    batch: int = 2,
    seconds: float = 1.0,
    title: str = "way",
    text: str = TEXT,
    codec: data.Codec | None = None,
) -> Trajectory:
    """A text that is filled in over the steps; at the last but one the first position is masked again."""
    codec = codec or data.Characters.of(text)
    ids = np.tile(codec.encode(text), (batch, 1))
    turn = np.arange(ids.size).reshape(ids.shape) % steps + 1
    frames = []
    for step in range(steps + 1):
        there, again = turn <= step, np.zeros(ids.shape, bool)
        if step == steps - 1:
            again[:, 0], there[:, 0] = True, False
        frames.append(
            Frame(
                step, steps, 1 - step / steps, np.where(there, ids, codec.vocab_size), turn == step, again,
                np.where(there, turn / steps, 0.0), turn == 0,
            )
        )  # fmt: skip
    return Trajectory(frames, codec, title, np.linspace(0, seconds, steps + 1).tolist())


class Page(HTMLParser):
    """What a browser makes of a page: tags, the text of each row, the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open = [""]
        self.rows: list[str] = []
        self.scripts: list[str] = []
        self.titles: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if dict(attrs).get("class") == "row":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        tag = self.open[-1]
        if tag == "script":
            self.scripts.append(text)
        elif tag == "i":
            self.rows[-1] += text
        elif tag in ("title", "b"):
            self.titles.append(text)


def held(page: Page, name: str) -> object:
    """A constant of the page's script."""
    return json.loads(re.search(rf"^const {name} = (.*);$", page.scripts[0], re.M)[1])


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_every_character_takes_one_place_and_can_be_seen() -> None:
    """Line breaks, tabs and separators that move the rest about; a space replaced by a sign."""
    assert f"</script><b>&amp;{NEWLINE}\u21e5 x\U0001d54f\ufffd'\"</b><!--$x_1$" == SHOWN


def test_cells_say_what_happened() -> None:
    """Given shown as filled in, masked again as masked, fresh as kept, or levels off by one at confidence 1."""
    frame = Frame(
        1, 2, 0.5, np.array([[0, 1, 3, 3]]), np.array([[False, True, False, False]]),
        np.array([[False, False, True, False]]), np.array([[1.0, 0.39, 0.0, 0.0]]),
        np.array([[True, False, False, False]]),
    )  # fmt: skip
    assert cells(data.Characters("abc"), frame, 0) == [
        ("a", "given", 4), ("b", "fresh", 1), (REMASKED, "remasked", 0), (MASK, "mask", 0),
    ]  # fmt: skip


def in_words() -> Trajectory:
    return way(text=WORDS, codec=data.Words.of(WORDS))


def test_a_cell_per_token() -> None:
    """Words are words, and their masks as wide as a short one, with a blank between them."""
    trajectory = in_words()
    length = trajectory.frames[0].state.shape[1]
    assert length == len(re.findall(r" ?\w+| ?[^\w\s]|\s", WORDS)) == 11
    assert [cell.text for cell in cells(trajectory.codec, trajectory.frames[0], 0)] == [" " + 3 * MASK] * length
    again = cells(trajectory.codec, trajectory.frames[3], 0)[0]
    assert (again.text, again.kind) == (" " + 3 * REMASKED, "remasked")
    shown = [cell.text for cell in cells(trajectory.codec, trajectory.frames[-1], 0)]
    assert shown[:7] == ["a", " catalogue", " \u5929\u5730", " e", "\u25cc\u0301", " \U0001f600", NEWLINE]
    assert visible("e\u0301\n") == f"e\u0301{NEWLINE}"  # one token: the mark is on its letter


@pytest.mark.parametrize("width", [2, 7, 16, 40])
def test_lines_are_as_wide_as_they_may_be(width: int) -> None:
    """Characters that take two columns, tokens cut in two or too long for a line; nothing lost, no line left empty."""
    trajectory = in_words()
    for frame in trajectory.frames:
        row = cells(trajectory.codec, frame, 0)
        broken = lines(row, width)
        widths = [sum(cell_len(cell.text) for cell in line) for line in broken]
        assert min(widths) > 0
        assert max(widths) <= width
        assert "".join(cell.text for line in broken for cell in line) == "".join(cell.text for cell in row)
        assert {cell for line in broken for cell in line} >= {cell for cell in row if cell_len(cell.text) <= width}
        for line, after in itertools.pairwise(broken):
            assert sum(cell_len(cell.text) for cell in (*line, after[0])) > width
        text = state_text(trajectory.codec, frame, 0, width).plain
        assert [cell_len(line) for line in text.split("\n")] == widths
    every = [cells(trajectory.codec, frame, i) for frame in trajectory.frames for i in range(len(frame.state))]
    assert trajectory.most_columns == max(sum(cell_len(cell.text) for cell in row) for row in every)
    assert trajectory.most_lines(width) == max(len(lines(row, width)) for row in every)


@pytest.mark.filterwarnings("ignore:no font here has")
def test_pages_and_pictures_of_words(tmp_path: Path) -> None:
    """A token per cell in every frame of a page; a GIF and a figure of as many lines as the words take."""
    trajectory = in_words()
    save_html(tmp_path / "way.html", trajectory)
    page = Page((tmp_path / "way.html").read_text("utf-8"))
    shown = [cell.text for cell in cells(trajectory.codec, trajectory.frames[-1], 0)]
    assert page.rows[0] == "".join(shown)
    frames = held(page, "data")["tracks"][0]["frames"]
    assert frames[-1][1][0] == shown
    assert [len(marks) for _, _, rows in frames for marks in rows] == [len(shown)] * 2 * len(frames)
    heights = []
    for columns in (20, 40):
        save_gif(tmp_path / f"{columns}.gif", trajectory, columns=columns)
        with Image.open(tmp_path / f"{columns}.gif") as picture:
            heights.append(picture.size[1])
    rows = trajectory.frames[0].state.shape[0]
    assert heights[0] - heights[1] == rows * CELL_HEIGHT * (trajectory.most_lines(20) - trajectory.most_lines(40))
    drawn = [text.get_text() for text in figures.strip(trajectory, moments=2, columns=30).axes[0].texts]
    assert "catalogue" in drawn
    assert 3 * MASK in drawn


def test_a_word_fills_its_cell(tmp_path: Path) -> None:
    """In a GIF, to its last letter and no further."""
    save_gif(tmp_path / "one.gif", way(steps=1, batch=1, text="abcdefgh", codec=data.Words.of("abcdefgh")))
    with Image.open(tmp_path / "one.gif") as picture:
        picture.seek(1)
        colours = [
            picture.convert("RGB").getpixel((MARGIN + x, MARGIN + 3 * CELL_HEIGHT)) for x in range(9 * CELL_WIDTH)
        ]
    white = [i for i, colour in enumerate(colours) if colour == (255, 255, 255)]
    assert white[0] <= 1
    assert set(range(3, 8 * CELL_WIDTH - 2)).isdisjoint(white)
    assert set(range(8 * CELL_WIDTH, 9 * CELL_WIDTH)) <= set(white)


def test_fonts_are_found_for_what_is_missing() -> None:
    """DejaVu Sans Mono is enough for most; emoji are in DejaVu Sans; what no font has is named, once."""
    assert [font.family for font in fonts_for(frozenset("a\u25cc" + MASK))] == [FAMILY]
    two = fonts_for(frozenset("a\U0001f600"))
    assert len(two) == 2
    assert two[1].characters == {"\U0001f600"}
    with pytest.warns(UserWarning, match="no font here has \U0010fffd, which pictures show as boxes"):
        assert len(fonts_for(frozenset("a\U0010fffd"))) == 1


def test_one_trajectory_plays_evenly() -> None:
    """Frames left out, or the first or last not where they belong."""
    moments = playback([way(4, seconds=77.0)], seconds=2.0)
    assert [moment.at for moment in moments] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [moment.frames for moment in moments] == [(0,), (1,), (2,), (3,), (4,)]


def test_a_race_keeps_the_measured_clock() -> None:
    """A racer shown before its frame was there, each on a clock of its own, or a slow race hurried."""
    quick, slow = way(2, seconds=0.1), way(4, seconds=0.4)
    moments = playback([quick, slow], seconds=4.0)
    assert [round(moment.clock, 9) for moment in moments] == [0.0, 0.05, 0.1, 0.2, 0.3, 0.4]
    assert [round(moment.at, 9) for moment in moments] == [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
    assert [moment.frames for moment in moments] == [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3), (2, 4)]
    assert playback([quick, slow], seconds=0.04)[-1].at == pytest.approx(0.4)


def test_moments_that_come_too_fast_are_joined() -> None:
    """The masks or the end of a race lost among the moments that are left out, or two moments closer than asked for."""
    moments = playback([way(100, seconds=1.0), way(3, seconds=0.5)], seconds=1.0, least=0.15)
    assert moments[0].frames == (0, 0)
    assert moments[1].frames == (29, 1)
    assert moments[-1].frames == (100, 3)
    assert [round(moment.at, 9) for moment in moments] == [0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9]


def test_the_clock_stands_still_between_frames() -> None:
    """The time a view takes to draw counted as the sampler's."""
    import time

    seconds = []
    for second, _ in timed(way(3).frames):
        seconds.append(second)
        time.sleep(0.05)
    assert seconds == sorted(seconds)
    assert seconds[-1] < 0.05
    kept = record(iter(way(3).frames), CODEC, "x")
    assert [frame.step for frame in kept.frames] == [0, 1, 2, 3]
    assert len(kept.seconds) == 4


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_page_holds_every_frame_and_needs_nothing_else(tmp_path: Path) -> None:
    """A text that ends the script or becomes markup, a frame missing, anything fetched from elsewhere."""
    trajectory = way(title="runs/<b>old</b> & </script>new")
    save_html(tmp_path / "way.html", trajectory, seconds=2.0)
    written = (tmp_path / "way.html").read_text("utf-8")
    page = Page(written)
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import|<link", written)
    assert not [tag for tag, attributes in page.tags if {"src", "href"} & attributes.keys()]
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.titles == ["runs/<b>old</b> & </script>new"] * 2
    assert page.rows[:2] == [SHOWN, SHOWN]
    assert written.count(">&lt;</i>") == 2 * TEXT.count("<")
    assert held(page, "times") == [0.0, 0.5, 1.0, 1.5, 2.0]
    (track,) = held(page, "data")["tracks"]
    assert len(track["frames"]) == 5
    for (status, rows, marks), frame in zip(track["frames"], trajectory.frames, strict=True):
        assert status.startswith(f"step {frame.step}/4")
        for row in range(2):
            expected = cells(CODEC, frame, row)
            assert rows[row] == "".join(cell.text for cell in expected)
            assert len(marks[row]) == len(TEXT)
            assert [mark == "m" for mark in marks[row]] == [cell.kind == "mask" for cell in expected]
            assert [mark == "r" for mark in marks[row]] == [cell.kind == "remasked" for cell in expected]
            assert [mark in "abcde" for mark in marks[row]] == [cell.kind == "fresh" for cell in expected]
    assert "masked again" in written
    with pytest.raises(ValueError, match=r"way\.html exists already"):
        save_html(tmp_path / "way.html", trajectory)


def test_a_player_races() -> None:
    """Two trajectories on two clocks, or one of them not in the page."""
    page = Page(player(way(2, 1, 0.01, "quick"), way(4, 1, 0.04, "slow"), seconds=4.0))
    assert page.titles == ["quick", "slow"]
    assert [len(track["frames"]) for track in held(page, "data")["tracks"]] == [3, 5]
    assert held(page, "data")["moments"] == [[0, 0], [1, 0], [2, 1], [2, 2], [2, 3], [2, 4]]
    assert held(page, "labels")[-1] == "40 ms, shown 100 times slower"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_javascript(tmp_path: Path) -> None:
    """A script that no browser runs."""
    (tmp_path / "player.js").write_text(Page(player(way())).scripts[0], "utf-8")
    subprocess.run(["node", "--check", tmp_path / "player.js"], check=True, capture_output=True)


# --- GIFs -------------------------------------------------------------------------------------------------------------


def test_a_gif_has_every_moment_for_its_time(tmp_path: Path) -> None:
    """Frames dropped, a GIF that stands still, or one that runs at another pace."""
    save_gif(tmp_path / "way.gif", way(), seconds=2.0, columns=16)
    with Image.open(tmp_path / "way.gif") as gif:
        stills, durations = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            stills.append(np.asarray(gif.convert("RGB")))
    assert durations == [START] + [500] * 3 + [REST]
    masks = way().frames[0].state.shape[1] * 2
    grey = (stills[0] == 0xD4).all(axis=-1).sum()
    assert grey > 0.8 * masks * (CELL_WIDTH - 2) * (CELL_HEIGHT - 4)
    assert all((a != b).any() for a, b in itertools.pairwise(stills))
    with pytest.raises(ValueError, match=r"way\.gif exists already"):
        save_gif(tmp_path / "way.gif", way())
    with pytest.raises(ValueError, match=r"way\.mp4 ends in '\.mp4'; animated pictures end in \.gif"):
        save_gif(tmp_path / "way.mp4", way())


def test_a_gif_of_a_race_is_as_wide_as_its_racers(tmp_path: Path) -> None:
    """One racer drawn over the other, or a race that ends before the slower one does."""
    quick, slow = way(2, 1, 0.1), way(50, 1, 0.4)
    save_gif(tmp_path / "two.gif", quick, slow, seconds=2.0, columns=50)
    with Image.open(tmp_path / "two.gif") as two:
        assert two.width == 2 * (len(TEXT) * CELL_WIDTH + 2 * MARGIN)
        assert (np.asarray(two.convert("RGB"))[:, two.width // 2 :] < 128).any()
        durations, colours = [], set()
        for i in range(two.n_frames - 1):
            two.seek(i)
            durations.append(two.info["duration"])
            colours |= {colour for _, colour in two.convert("RGB").getcolors(two.width * two.height)}
    wanted = [*COLOURS, AGAIN, AGAIN_INK, INK, "#ffffff", "#d4d4d4"]
    assert {tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in wanted} <= colours
    assert durations[0] >= START
    assert min(durations) >= 1000 * LEAST - 1
    assert sum(durations[1:]) == pytest.approx(
        2000, abs=1000 * LEAST + 10 * len(durations)
    )  # in hundredths of a second


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg"])
def test_a_strip_shows_its_moments(suffix: str, tmp_path: Path) -> None:
    """Moments or characters missing, "$" read as mathematics, a figure that differs from run to run."""
    trajectory = way(8, text="costs $5, or $6?\n")  # of characters that the font has
    figure = figures.strip(trajectory, moments=3, columns=16)
    written = "".join(text.get_text() for text in figure.axes[0].texts)
    assert re.findall(r"step \d", written) == ["step 0", "step 4", "step 8"]
    assert written.split("step 8")[1].startswith(rf"costs \$5, or \$6?{NEWLINE}")
    for name in ("a", "b"):
        figures.save(tmp_path / (name + suffix), figures.strip(trajectory, moments=3, columns=16))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        figures.save(tmp_path / f"a{suffix}", figure)
    with pytest.raises(ValueError, match=r"ends in '\.jpeg'; figures end in \.pdf, \.png, \.svg"):
        figures.save(tmp_path / "a.jpeg", figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: replace(way(), frames=[]), "frames is empty"),
        (lambda: replace(way(), seconds=[0.0]), "seconds has 1 entries for 5 frames"),
        (lambda: replace(way(), seconds=[0.0, 2.0, 1.0, 3.0, 4.0]), "seconds goes backwards"),
        (lambda: player(), "trajectories is empty"),
    ],
)
def test_bad_trajectories(call, words: str) -> None:
    """Each says what was expected."""
    with pytest.raises(ValueError, match=words):
        call()
