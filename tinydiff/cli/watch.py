"""A sampler at work: on the terminal while it runs, and afterwards as the pages and pictures that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .. import data
from ..decoders import Frame
from ..learning.files import refuse_existing
from ..views import figures, terminal
from ..views.gif import save_gif
from ..views.html import save_html
from ..views.trajectory import Trajectory, timed
from .common import console, need_matplotlib


def watch(
    frames: Iterable[Frame],
    codec: data.Codec,
    run: Path,
    delay: float,
    strip: Path | None,
    html: Path | None,
    gif: Path | None,
) -> Frame:
    """Show the frames, write the views that were asked for, and return the last frame."""
    refuse_existing(html, gif)
    need_matplotlib(strip, gif)
    if strip is not None:
        figures.check_figure(strip)
    seconds, kept = [], []

    def recorded() -> Iterator[Frame]:
        for second, frame in timed(frames):
            seconds.append(second)
            kept.append(frame)
            yield frame

    last = terminal.show_sampling(console, codec, recorded(), title=str(run), delay=delay)
    write_views(strip, html, gif, Trajectory(kept, codec, str(run), seconds))
    return last


def write_views(strip: Path | None, html: Path | None, gif: Path | None, *trajectories: Trajectory) -> None:
    """Write the views that have a path."""
    if strip is not None:
        figures.save(strip, figures.strip(trajectories[0]))
    if html is not None:
        save_html(html, *trajectories)
    if gif is not None:
        save_gif(gif, *trajectories)
