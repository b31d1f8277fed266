"""Pictures of trajectories: the GIF, the player, the figures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydiff.data.toys import points, ring
from tinydiff.processes.paths import VectorFrame
from tinydiff.views import animation, figures

CORNER = np.array([[[2.9], [2.9]], [[-2.9], [-2.9]]])  # top right and bottom left


def frames(count: int = 6, state: np.ndarray = CORNER) -> list[VectorFrame]:
    return [VectorFrame(i, count - 1, 1 - i / (count - 1), state * (i + 1) / count, state) for i in range(count)]


def test_points_are_drawn_where_they_are() -> None:
    """Axes swapped or upside down; points outside the picture wrapped to its other side."""
    still = animation.shades(frames())[-1]
    assert still[:10, -10:].min() < animation.SHADES - 1
    assert still[-10:, :10].min() < animation.SHADES - 1
    assert still[:10, :10].min() == still[-10:, -10:].min() == animation.SHADES - 1
    assert (animation.scatter(np.array([[3.2, 0.0], [0.0, -3.2], [np.pi, 9.0]])) == 0).all()


def test_pictures_are_tiled_in_rows() -> None:
    """Tiles in columns, or a picture lost."""
    tiles = np.full((3, 4, 4), -1.0)
    tiles[1] = 1.0
    ink = animation.grid(tiles)
    assert ink.shape == (12, 12)
    assert ink[1:5, 7:11].min() == 1
    assert ink.sum() == 16


def test_gif_and_player_show_every_moment(tmp_path: Path) -> None:
    """A GIF that stands still, or a player whose picture has other frames than its slider."""
    way = frames(30, points("spiral", 500, np.random.default_rng(0)))
    animation.save_gif(tmp_path / "way.gif", way, seconds=1.0)
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.n_frames == 30
    with pytest.raises(ValueError, match="exists already"):
        animation.save_gif(tmp_path / "way.gif", way)
    html = animation.player(way, moments=12)
    data = base64.b64decode(re.search(r"base64,([^\"]+)\"", html)[1])
    with Image.open(io.BytesIO(data)) as sprite:
        assert sprite.size == (animation.PIXELS, 12 * animation.PIXELS)
        drawn = np.asarray(sprite).reshape(12, animation.PIXELS, -1)
    np.testing.assert_array_equal(drawn, animation.shades(way, moments=12))
    assert 'max="11"' in html
    assert len(html) < 60_000


def test_gif_of_points_says_what_they_should_become(tmp_path: Path) -> None:
    """A GIF of points without the true ones, or without the time, which changes from picture to picture."""
    way, true = frames(5), points("spiral", 500, np.random.default_rng(0))
    animation.save_gif(tmp_path / "way.gif", way, data=true)
    animation.save_gif(tmp_path / "alone.gif", way)
    side = animation.PIXELS * 2
    with Image.open(tmp_path / "way.gif") as gif, Image.open(tmp_path / "alone.gif") as alone:
        assert gif.width == 2 * alone.width == 2 * (animation.LEFT + side + 12)
        stills = []
        for i in range(gif.n_frames):
            gif.seek(i)
            stills.append(np.asarray(gif.convert("L")))
    titles = [still[: animation.TOP - 2, : alone.width] for still in stills]
    assert len({title.tobytes() for title in titles}) == 5
    assert all((title < 128).any() for title in titles)
    right = [still[:, alone.width :] for still in stills]
    assert all((each == right[0]).all() for each in right)
    top, left = animation.TOP, animation.LEFT
    shown = right[0][top : top + side, left : left + side][::2, ::2]
    ink = np.clip(animation.scatter(true.reshape(-1, 2)), 0, 1)
    np.testing.assert_allclose(1 - shown / 255, ink, atol=0.5 / (animation.SHADES - 1) + 0.01)


def test_figures_show_what_they_are_given() -> None:
    """Panels without their data or their title."""
    import matplotlib.pyplot as plt

    way = frames(6, points("moons", 50, np.random.default_rng(0)))
    clouds = figures.clouds(way, moments=3)
    assert [axes.get_title() for axes in clouds.axes] == ["t = 1.00", "t = 0.60", "t = 0.00"]
    np.testing.assert_array_equal(clouds.axes[2].lines[0].get_xydata(), way[-1].state[:, :, 0])
    ways = figures.trajectories({"one": way, "two": way[::-1]}, count=7)
    assert [axes.get_title() for axes in ways.axes] == ["one", "two"]
    assert len(ways.axes[0].lines) == 1 + 7 + 2
    dissolved = figures.dissolving(frames(4, np.zeros((5, 16, 16))), patch=4, moments=4)
    assert [axes.images[0].get_array().shape for axes in dissolved.axes] == [(36, 54)] * 4  # two rows of three
    plain, axes = plt.subplots()
    figures.field(axes, ring().score, "score", across=5)
    assert axes.collections[0].N == 25
    for figure in (clouds, ways, dissolved, plain):
        plt.close(figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: animation.shades([]), "frames is empty"),
        (lambda: figures.clouds([]), "frames is empty"),
        (lambda: animation.shades(frames(3, np.zeros((4, 3, 1)))), "points has 3 coordinates"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each says what was expected."""
    with pytest.raises(ValueError, match=words):
        call()
