"""Trajectories for the browser: a player with a button, a slider and keys, in a notebook or as a page of its own.

All of it is in the file: no server, no kernel, nothing fetched. Without JavaScript the last moment is shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from ..learning.files import refuse_existing, write_atomically
from .trajectory import AGAIN, AGAIN_INK, COLOURS, Cell, Trajectory, caption, cells, legend, playback
from .trajectory import status as status_line

KEPT, FRESH = "01234", "abcde"  # one letter per cell: its level and whether it is fresh; m and r are masks

STYLE = (
    """
.tinydiff { color: #111; background: #fff; font: 16px/1.4 system-ui, sans-serif; padding: .6em; max-width: 100% }
.tinydiff:focus { outline: 2px solid #bbb }
.tinydiff .bar { display: flex; gap: .6em; align-items: center; margin-top: .6em }
.tinydiff .bar button { font: inherit; width: 5em; padding: .2em; color: #111; background: #eee; border: 1px solid #888;
  border-radius: .2em }
.tinydiff .bar input { flex: 1; min-width: 5em; max-width: 40em }
.tinydiff .bar output { font-variant-numeric: tabular-nums; white-space: nowrap }
.tinydiff .tracks { display: grid; grid-auto-columns: minmax(0, 1fr); grid-auto-flow: column; gap: 1.2em }
.tinydiff .track b { display: block }
.tinydiff progress { width: 100%; height: .5em; accent-color: #0072B2 }
.tinydiff .row { margin: .5em 0; font: 1.3em/1.5 "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere }
.tinydiff .row i { display: inline-block; min-width: 1.1ch; text-align: center; font-style: normal; height: 1.4em;
  line-height: 1.4em; margin: 1px; vertical-align: top; white-space: pre; border-radius: 2px; color: #111 }
.tinydiff .row .m { background: #e4e4e4; color: #9a9a9a }
"""
    + f".tinydiff .row .r {{ background: {AGAIN}; color: {AGAIN_INK} }}\n"
    + "".join(
        f".tinydiff .row .k{a}, .tinydiff .row .k{b} {{ background: {colour} }}\n"
        for a, b, colour in zip(KEPT, FRESH, COLOURS, strict=True)
    )
    + ", ".join(f".tinydiff .row .k{b}" for b in FRESH)
    + " { outline: 2px solid #111; outline-offset: -1px; font-weight: bold }\n"
)

PLAYER = """(function (box) {
const [, view, bar] = box.children, [button, slider, label] = bar.children, last = times.length - 1;
let timer = 0;
const at = () => +slider.value;
const to = i => {
  slider.value = Math.max(0, Math.min(last, i)); show(view, at()); label.textContent = labels[at()];
};
const stop = () => { cancelAnimationFrame(timer); timer = 0; button.textContent = "Play"; };
const play = () => {
  if (at() === last) to(0);
  const start = performance.now() - 1000 * times[at()];
  const tick = () => {
    let i = at();
    while (i < last && 1000 * times[i + 1] <= performance.now() - start) i++;
    if (i !== at()) to(i);
    if (i === last) stop(); else timer = requestAnimationFrame(tick);
  };
  button.textContent = "Pause"; timer = requestAnimationFrame(tick);
};
const toggle = () => timer ? stop() : play();
button.onclick = toggle;
slider.oninput = () => { stop(); to(at()); };
box.onkeydown = event => {
  const steps = {ArrowRight: at() + 1, ArrowLeft: at() - 1, Home: 0, End: last};
  if (event.key in steps) { stop(); to(steps[event.key]); }
  else if (event.key === " " && event.target !== button) toggle();  // a button sees to its own presses
  else return;
  event.preventDefault(); event.stopPropagation();  // neither the page nor the notebook is to move
};
to(last);
})"""

SHOW_TEXT = """(view, i) => data.tracks.forEach((track, k) => {
  const frame = track.frames[data.moments[i][k]], [, status, progress, ...rows] = view.children[k].children;
  status.textContent = frame[0]; progress.value = data.moments[i][k];
  rows.forEach((row, r) => {
    const text = Array.from(frame[1][r]), marks = frame[2][r];
    Array.from(row.children).forEach((cell, c) => {
      if (cell.textContent !== text[c]) cell.textContent = text[c];
      const name = marks[c] === "m" || marks[c] === "r" ? marks[c] : "k" + marks[c];
      if (cell.className !== name) cell.className = name;
    });
  });
})"""


def controls(view: str, show: str, data: Any, times: Sequence[float], labels: Sequence[str], extra: str = "") -> str:
    """A fragment of HTML: an element, and under it a button and a slider that move it through time.

    Space plays and pauses, the arrow keys step, Home and End jump.

    Parameters
    ----------
    view : the HTML element as it looks at the last moment
    show : JavaScript, a function of that element and the number of a moment; it sees `data`
    times : when each moment comes, in seconds
    labels : what to write beside the slider
    extra : HTML under the slider

    """
    constants = "".join(
        f"const {name} = {_script(value)};\n" for name, value in (("data", data), ("times", times), ("labels", labels))
    )
    last = len(times) - 1
    return f"""<div class="tinydiff" tabindex="0"><style>{STYLE}</style>
{view}
<div class="bar"><button type="button">Play</button>
<input type="range" aria-label="moment" min="0" max="{last}" value="{last}">
<output>{escape(labels[-1])}</output></div>
{extra}<script>(() => {{
{constants}const show = {show};
{PLAYER}(document.currentScript.parentElement);
}})();</script></div>"""


def _script(value: Any) -> str:
    """JSON that may stand in a script: no "<" can end it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _mark(cell: Cell) -> str:
    return {"mask": "m", "remasked": "r", "fresh": FRESH[cell.level], "kept": KEPT[cell.level]}[cell.kind]


def _texts(row: Sequence[Cell]) -> str | list[str]:
    """What stands in each cell, as short as JavaScript's Array.from can take it apart again."""
    texts = [cell.text for cell in row]
    return "".join(texts) if all(len(text) == 1 for text in texts) else texts


def _cell(cell: Cell) -> str:
    mark = _mark(cell)
    return f'<i class="{mark if mark in "mr" else "k" + mark}">{escape(cell.text)}</i>'


def player(*trajectories: Trajectory, seconds: float = 6.0) -> str:
    """HTML of a player of text, in a notebook `IPython.display.HTML(player(record(frames, codec)))`.

    Several trajectories race side by side on their measured clock, see `playback`.

    Parameters
    ----------
    seconds : that it takes to play, at least

    """
    moments = playback(trajectories, seconds)
    race = len(trajectories) > 1
    tracks, data = [], []
    for trajectory in trajectories:
        frames = []
        for i, frame in enumerate(trajectory.frames):
            rows = [cells(trajectory.codec, frame, row) for row in range(len(frame.state))]
            text = [_texts(row) for row in rows]
            frames.append([status_line(trajectory, i, race), text, ["".join(map(_mark, row)) for row in rows]])
        shown = "\n".join(f'<div class="row">{"".join(map(_cell, row))}</div>' for row in rows)
        last = len(frames) - 1
        tracks.append(
            f'<div class="track"><b>{escape(trajectory.title)}</b><span>{escape(str(frames[-1][0]))}</span>'
            f'<progress max="{last}" value="{last}"></progress>\n{shown}</div>'
        )
        data.append({"frames": frames})
    return controls(
        f'<div class="tracks" style="font-size:{min(1.0, 2.2 / len(tracks)):.2f}em">{"".join(tracks)}</div>', SHOW_TEXT,
        {"tracks": data, "moments": [moment.frames for moment in moments]},
        [round(moment.at, 4) for moment in moments], [caption(trajectories, moment, seconds) for moment in moments],
        _legend(trajectories),
    )  # fmt: skip


def _legend(trajectories: Sequence[Trajectory]) -> str:
    lines = [
        f"{''.join(map(_cell, samples))} {words}" for samples, words in legend(any(t.remasked for t in trajectories))
    ]
    return f'<div class="row" style="font-size:.9em">{" &emsp; ".join(lines)}</div>'


def save_html(path: Path, *trajectories: Trajectory, seconds: float = 6.0) -> None:
    """Write a page that holds the `player` and needs nothing else."""
    refuse_existing(path)
    title = escape(" and ".join(title for title, _ in groupby(t.title for t in trajectories)))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 2vw; background: #fff }} body .tinydiff {{ font-size: clamp(16px, 2vw, 40px) }}</style></head>
<body>{player(*trajectories, seconds=seconds)}
<p style="font: 14px system-ui, sans-serif; color: #555">Space plays and pauses, the arrow keys step.</p></body></html>
"""
    write_atomically(path, page.encode())
