"""The terminal views: nothing lost or added on the way, in any width, with and without a terminal."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from tinydiff import data, train
from tinydiff.decoders import Frame
from tinydiff.processes.paths import VectorFrame
from tinydiff.views.terminal import (
    Smooth,
    points_text,
    show_points,
    show_race,
    show_sampling,
    show_training,
    state_text,
)
from tinydiff.views.trajectory import COLOURS, MASK, NEWLINE, REMASKED, Trajectory, legend

if TYPE_CHECKING:
    from conftest import Runs

TEXT = "if a[b]:\n    c = d[:2]\n  return x\n"
CODEC = data.Characters.of(TEXT)
WIDTHS = [20, 80, 200]


def screen(terminal: bool, width: int = 80) -> Console:
    """A console that writes to a string."""
    return Console(
        force_terminal=terminal, file=io.StringIO(), width=width, color_system="truecolor" if terminal else None
    )


def shown(console: Console) -> str:
    """What was written, without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def sampling() -> list[Frame]:
    """A text that appears in three steps, in two rows."""
    ids = np.tile(CODEC.encode(TEXT), (2, 1))
    turn = np.arange(ids.size).reshape(ids.shape) % 3 + 1
    return [
        Frame(
            step, 3, 1 - step / 3, np.where(turn <= step, ids, CODEC.vocab_size), turn == step, turn < 0,
            np.where(turn <= step, turn / 3, 0.0), turn < 0,
        )
        for step in range(4)
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("terminal", [True, False])
def test_sampling_returns_the_last_frame(terminal: bool, width: int) -> None:
    """The last frame but one, or line breaks replaced for display and never put back."""
    frames = sampling()
    last = show_sampling(screen(terminal, width), CODEC, iter(frames), title="a title that is rather long", width=width)
    assert last is frames[-1]
    assert [CODEC.decode(ids) for ids in last.state] == [TEXT, TEXT]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_character_is_on_the_terminal(width: int) -> None:
    """Text cut off at the edge or eaten as markup; the number of masks, or the step, wrong."""
    console = screen(True, width)
    show_sampling(console, CODEC, sampling())
    panels = [panel.split("╰")[0] for panel in shown(console).split("╭")[1:]]  # the last one is drawn twice
    assert all(len(line) <= min(width, 70) for line in shown(console).splitlines())
    inside = ["".join(re.findall("│(.*)│", panel)) for panel in panels]
    written = ["".join(text.split()) for text in inside]
    assert written[0] == MASK * 2 * len(TEXT)
    assert written[-1] == "".join(TEXT.replace("\n", NEWLINE).split()) * 2
    assert [text.count(MASK) for text in written[:4]] == [int((f.state == CODEC.vocab_size).sum()) for f in sampling()]
    if width > 20:
        assert "step 3/3 ·   0% masked" in shown(console)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_character_is_in_the_log(width: int) -> None:
    """Lines broken at the width of a terminal that is not there, colours, or text eaten as markup."""
    console = screen(False, width)
    show_sampling(console, CODEC, sampling())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 * 4
    assert lines[0] == "   0/3  " + MASK * len(TEXT)
    assert lines[-1] == "   3/3  " + TEXT.replace("\n", NEWLINE)


def test_text_is_not_read_as_emoji() -> None:
    """Letters between colons in a text, shown as a cross."""
    codec, console = data.Characters(":x"), screen(False)
    done = np.zeros((1, 3), bool)
    show_sampling(console, codec, [Frame(1, 1, 0.0, codec.encode(":x:")[None], done, done, np.ones((1, 3)), done)])
    assert console.file.getvalue() == "   1/1  :x:\n"


def test_title_is_shown_as_it_is() -> None:
    """A folder called run[old], eaten as markup."""
    console = screen(True)
    show_sampling(console, CODEC, sampling(), title="runs/run[old]:x:")
    assert "runs/run[old]:x:" in shown(console)


def test_no_frames() -> None:
    """None in place of a frame, which fails somewhere else."""
    for terminal in (True, False):
        with pytest.raises(ValueError, match=r"frames is empty"):
            show_sampling(screen(terminal), CODEC, [])


def test_colour_is_confidence() -> None:
    """A confidence of exactly 1 beyond the last colour, the scale upside down, or fresh characters not marked."""
    codec, nothing = data.Characters("abc"), np.zeros((1, 4), bool)
    fresh = np.array([[False, False, True, False]])
    frame = Frame(1, 2, 0.25, np.array([[0, 1, 2, 3]]), fresh, nothing, np.array([[0.0, 0.5, 1.0, 0.0]]), nothing)
    text = state_text(codec, frame, 0, 10)
    assert text.plain == "abc" + MASK
    assert [span.style for span in text.spans] == [
        f"#000000 on {COLOURS[0]}", f"#000000 on {COLOURS[2]}", f"bold underline #000000 on {COLOURS[4]}", "#767676"
    ]  # fmt: skip
    given = replace(frame, given=np.array([[False, True, False, False]]))
    assert str(state_text(codec, given, 0, 10).spans[1].style) == "underline"


def test_positions_keep_their_place() -> None:
    """Words wrapped as they appear, or line breaks obeyed: characters that jump about from frame to frame."""
    for frame in sampling():
        assert [len(line) for line in state_text(CODEC, frame, 0, 10).plain.splitlines()] == [10, 10, 10, 4]


def test_masked_again_is_marked() -> None:
    """A position masked again that looks like one never filled, or a legend that does not say what its sign means."""
    fresh, again = np.array([[[0, 0, 0]], [[0, 1, 0]]], bool)
    frame = Frame(1, 2, 0.5, np.array([[0, 3, 3]]), fresh, again, np.zeros((1, 3)), fresh)
    text = state_text(data.Characters("abc"), frame, 0, 10)
    assert text.plain == "a" + REMASKED + MASK
    assert len({str(span.style) for span in text.spans}) == 3
    for again in (True, False):
        console = screen(True)
        show_sampling(console, data.Characters("abc"), [replace(frame, remasked=frame.remasked & again)])
        assert ("masked again" in shown(console)) == again
        assert "0 to 100 % sure" in shown(console)


@pytest.mark.parametrize(
    ("state", "flag", "words"),
    [
        ([0, 1, 2], None, []),
        ([0, 3, 2], None, ["masked"]),
        ([0, 1, 2], "committed", ["new"]),
        ([0, 1, 2], "given", ["given"]),
        ([0, 3, 2], "remasked", ["masked", "masked again"]),
    ],
)
def test_legend_names_what_is_to_be_seen(state: list[int], flag: str | None, words: list[str]) -> None:
    """Masks and new letters explained below a film that has neither, or left out below one that has them."""
    none, some = np.zeros((1, 3), bool), np.array([[False, True, False]])
    first = Frame(0, 1, 0.5, np.array([[0, 1, 2]]), none, none, np.ones((1, 3)), none)
    last = replace(first, step=1, state=np.array([state]), **({flag: some} if flag else {}))
    film = Trajectory([first, last], data.Characters("abc"), "", [0.0, 1.0])
    assert [said for _, said in legend(film.kinds)] == [*words, "0 to 100 % sure"]
    console = screen(True)
    show_sampling(console, film.codec, film.frames)
    legend_ = shown(console).split("sure")[-2].splitlines()[-1]  # the last that was drawn
    assert [said for said in ("masked", "given") if said in legend_] == [
        said for said in words if said in ("masked", "given")
    ]


def test_points_are_drawn_where_they_are() -> None:
    """Axes swapped or upside down, points beyond the edge at the other one, a picture wider than the terminal."""
    corners = np.array([[2.99, 2.99], [-2.99, -2.99], [-2.99, 2.99], [9.0, 0.0]])
    lines = points_text(corners, 10).splitlines()
    assert (len(lines), {len(line) for line in lines}) == (5, {10})
    assert (lines[0], lines[-1]) == ("\u2801" + "\u2800" * 8 + "\u2808", "\u2840" + "\u2800" * 9)
    assert points_text(np.array([[0.01, -0.01]]), 10).splitlines()[2][5] == "\u2804"
    console = screen(True, 30)
    show_points(console, [VectorFrame(1, 1, 0.25, corners[:, None], corners[:, None])], title="runs/a")
    assert "t = 0.25" in shown(console)
    assert max(map(len, shown(console).splitlines())) <= 30


def test_race_in_the_terminal() -> None:
    """A race whose loser is shown at its end before its time, or a result lost in a pipe."""
    quick = Trajectory(sampling(), CODEC, "quick", [0.0, 0.001, 0.002, 0.003])
    slow = Trajectory(sampling(), CODEC, "slow", [0.0, 0.01, 0.02, 0.03])
    console = screen(True, 100)
    start = time.monotonic()
    show_race(console, [quick, slow], seconds=0.3)
    assert time.monotonic() - start >= 0.3
    written = shown(console)
    assert written.index("done in 3 ms") < written.index("step 2/3") < written.index("done in 30 ms")
    assert "30 ms, shown 10 times slower" in written
    console = screen(False)
    show_race(console, [quick, slow])
    assert console.file.getvalue() == "quick: step 3/3 · done in 3 ms\nslow: step 3/3 · done in 30 ms\n"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("terminal", [True, False])
def test_training_passes_every_frame_on(runs: Runs, terminal: bool, width: int) -> None:
    """Frames swallowed or copied by the display, figures not shown or on a second line, an error in a narrow window."""
    frames = list(train(runs.new()))
    console = screen(terminal, width)
    passed = list(show_training(console, iter(frames), start=0, steps=30))
    assert [id(frame) for frame in passed] == [id(frame) for frame in frames]
    if width > 20:
        assert "30/30" in shown(console)
        assert f"held-out {frames[-1].held_out[0]:.3f}" in shown(console)
        assert not terminal or shown(console).count("\n") == 1  # one line, drawn again and again


def test_training_without_a_terminal_is_a_line_per_estimate(runs: Runs) -> None:
    """A line per step in a log file, a line broken in two, or a bar."""
    frames = list(train(runs.new()))
    console = screen(False, 20)
    list(show_training(console, iter(frames), start=0, steps=30))
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 12/30", "step 24/30", "step 30/30"]
    assert "\x1b" not in console.file.getvalue()


def test_leaving_early_gives_the_terminal_back(runs: Runs) -> None:
    """A cursor that stays hidden after the loop was left."""
    console = screen(True)
    for frame in show_training(console, train(runs.new()), start=0, steps=30):
        if frame.step == 3:
            break
    written = console.file.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0


def test_smoothing_is_unbiased_from_the_start() -> None:
    """A running mean that starts at zero, so that the loss seems to rise at first."""
    mean = Smooth(0.9)
    for _ in range(3):
        mean.add(2.0)
        assert mean.value == pytest.approx(2.0)
    mean.add(4.0)
    assert 2.0 < mean.value < 3.0
