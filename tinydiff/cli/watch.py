"""A sampler at work: on the terminal while it runs, and afterwards as the pages and pictures that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .. import box, data
from ..decoders import Frame
from ..views import figures, terminal
from ..views.gif import check_gif, check_name, save_gif
from ..views.html import save_html
from ..views.trajectory import Trajectory, timed
from .common import check_delay, check_views, console, need_matplotlib, write_all


def watch(
    frames: Iterable[Frame],
    codec: data.Codec,
    run: Path,
    delay: float,
) -> Trajectory:
    """Show the frames, and return them all."""
    seconds, kept = [], []

    def recorded() -> Iterator[Frame]:
        for second, frame in timed(frames):
            seconds.append(second)
            kept.append(frame)
            yield frame

    title = run.name if run.parent == box.ROOT else str(run)
    terminal.show_sampling(console, codec, recorded(), title=title, delay=delay)
    return Trajectory(kept, codec, title, seconds)


def check_watching(batch: int, delay: float, strip: Path | None, html: Path | None, gif: Path | None) -> None:
    """Raise if what is asked for cannot be shown or written, before the sampler is at work."""
    check_delay(delay)
    if strip is not None:
        figures.check_figure(strip)
    check_name(gif)
    check_views(strip, html, gif)
    need_matplotlib(strip, gif)
    if gif is not None:
        check_gif(batch)


def write_views(strip: Path | None, html: Path | None, gif: Path | None, *trajectories: Trajectory) -> None:
    """Write the views that have a path: each, also if another cannot be."""
    wanted: list[tuple[Path | None, Callable[[Path], None]]] = [
        (strip, lambda path: figures.save(path, figures.strip(trajectories[0]))),
        (html, lambda path: save_html(path, *trajectories)),
        (gif, lambda path: save_gif(path, *trajectories)),
    ]
    write_all(wanted)
