"""Trajectories for the browser: a player with a button, a slider and keys, in a notebook or as a page of its own.

All of it is in the file: no server, no kernel, nothing fetched. Without JavaScript the last moment is shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from ..data.codec import SIGNS
from ..learning.files import refuse_existing, write_atomically
from .trajectory import (
    AGAIN,
    AGAIN_INK,
    COLOURS,
    NEWLINE,
    Cell,
    Trajectory,
    caption,
    cells,
    legend,
    playback,
)
from .trajectory import status as status_line

KEPT, FRESH = "01234", "abcde"  # one letter per cell: its level and whether it is fresh; g is given, m and r are masks
PLAIN = {"mask": "m", "remasked": "r", "given": "g"}

STYLE = (
    """
.tinydiff { --ink: #111; --paper: #fff; --button: #eee; --line: #767676; --hole: #e4e4e4; --hole-ink: #5f5f5f;
  color: var(--ink); background: var(--paper); font: 16px/1.4 system-ui, sans-serif; padding: .6em; max-width: 100% }
@media (prefers-color-scheme: dark) {
  .tinydiff { --ink: #eee; --paper: #16181c; --button: #2c3038; --line: #8d8d8d; --hole: #3c4048; --hole-ink: #b5b5b5 }
}
.tinydiff:focus { outline: 2px solid var(--line) }
.tinydiff .bar { display: flex; gap: .6em; align-items: center; margin-top: .6em }
.tinydiff .bar[hidden] { display: none }
.tinydiff .bar button { font: inherit; width: 5em; padding: .2em; color: inherit; background: var(--button);
  border: 1px solid var(--line); border-radius: .2em }
.tinydiff .bar input { flex: 1; min-width: 5em; max-width: 40em }
.tinydiff .bar output { font-variant-numeric: tabular-nums }
.tinydiff .tracks { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14em), 1fr)); gap: 1.2em }
.tinydiff .track b { display: block; overflow-wrap: anywhere }
.tinydiff progress { width: 100%; height: .5em; accent-color: #0072B2 }
.tinydiff .row { margin: .5em 0; overflow-wrap: anywhere;
  font: 1.3em/1.5 "DejaVu Sans Mono", Menlo, Consolas, monospace }
.tinydiff .row span { display: inline-block }
.tinydiff .row i { display: inline-block; min-width: 1.1ch; text-align: center; font-style: normal; height: 1.4em;
  line-height: 1.4em; margin: 1px; vertical-align: top; white-space: pre; border-radius: 2px; color: #111;
  forced-color-adjust: none; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.tinydiff .row .m { background: var(--hole); color: var(--hole-ink) }
.tinydiff .row .g { background: var(--paper); color: var(--ink); box-shadow: inset 0 -2px var(--ink) }
@media print { .tinydiff .bar { display: none } }
"""
    + f".tinydiff .row .r {{ background: {AGAIN}; color: {AGAIN_INK} }}\n"
    + "".join(
        f".tinydiff .row .k{a}, .tinydiff .row .k{b} {{ background: {colour} }}\n"
        for a, b, colour in zip(KEPT, FRESH, COLOURS, strict=True)
    )
    + ", ".join(f".tinydiff .row .k{b}" for b in FRESH)
    + " { outline: 2px solid var(--ink); outline-offset: -1px; font-weight: bold }\n"
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
const keys = event => {
  const steps = {ArrowRight: at() + 1, ArrowLeft: at() - 1, Home: 0, End: last};
  if (event.key in steps) { stop(); to(steps[event.key]); }
  else if (event.key === " " && event.target !== button) toggle();  // a button sees to its own presses
  else return;
  event.preventDefault(); event.stopPropagation();  // neither the page nor the notebook is to move
};
box.onkeydown = keys;
if (alone) document.addEventListener("keydown", event => { if (event.target === document.body) keys(event); });
bar.hidden = false;
to(last);
})"""

SHOW_TEXT = """(view, i) => data.tracks.forEach((track, k) => {
  const frame = track.frames[data.moments[i][k]], [, status, progress, ...rows] = view.children[k].children;
  status.textContent = frame[0]; progress.value = data.moments[i][k];
  rows.forEach((row, r) => {
    const text = Array.from(frame[1][r]), marks = frame[2][r];
    row.setAttribute("aria-label", text.join(""));
    row.querySelectorAll("i").forEach((cell, c) => {
      if (cell.textContent !== text[c]) cell.textContent = text[c];
      const name = "mrg".includes(marks[c]) ? marks[c] : "k" + marks[c];
      if (cell.className !== name) cell.className = name;
    });
  });
})"""


def controls(
    view: str, show: str, data: Any, times: Sequence[float], labels: Sequence[str], extra: str = "", alone: bool = False
) -> str:
    """A fragment of HTML: an element, and under it a button and a slider that move it through time.

    Space plays and pauses, the arrow keys step, Home and End jump. The script finds its element by a mark: some
    notebooks run scripts in a place of their own, where `document.currentScript` is none.

    Parameters
    ----------
    view : the HTML element as it looks at the last moment
    show : JavaScript, a function of that element and the number of a moment; it sees `data`
    times : when each moment comes, in seconds
    labels : what to write beside the slider
    extra : HTML under the slider
    alone : whether the keys are for it also if nothing has the focus, as on a page of its own

    """
    constants = "".join(
        f"const {name} = {_script(value)};\n"
        for name, value in (("data", data), ("times", times), ("labels", labels), ("alone", alone))
    )
    last = len(times) - 1
    mark = hashlib.sha256((view + constants).encode()).hexdigest()[:12]
    return f"""<div class="tinydiff" tabindex="0" role="group" aria-label="film" data-new="{mark}">
<style>{STYLE}</style>
{view}
<div class="bar" hidden><button type="button">Play</button>
<input type="range" aria-label="moment" min="0" max="{last}" value="{last}">
<output>{escape(labels[-1])}</output></div>
{extra}<script>(() => {{
{constants}const show = {show};
document.querySelectorAll('[data-new="{mark}"]').forEach(box => {{ box.removeAttribute("data-new");
{PLAYER}(box); }});
}})();</script></div>"""


def _script(value: Any) -> str:
    """JSON that may stand in a script: no "<" can end it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _mark(cell: Cell) -> str:
    return PLAIN.get(cell.kind, (FRESH if cell.kind == "fresh" else KEPT)[cell.level])


def _texts(row: Sequence[Cell]) -> str | list[str]:
    """What stands in each cell, as short as JavaScript's Array.from can take it apart again."""
    texts = [cell.text for cell in row]
    return "".join(texts) if all(len(text) == 1 for text in texts) else texts


def _cell(cell: Cell) -> str:
    mark = _mark(cell)
    return f'<i class="{mark if cell.kind in PLAIN else "k" + mark}">{escape(cell.text)}</i>'


def _row(row: Sequence[Cell]) -> str:
    """A text, whose words stay together; a screen reader reads it as one."""
    words: list[list[Cell]] = [[]]
    whole = False  # whether the word before ends here: behind white space, a mask, or a text
    for cell in row:
        alone = cell.kind in ("mask", "remasked") or cell.text in SIGNS
        if whole or alone or (len(cell.text) > 1 and cell.text[0] == " "):
            words.append([])
        words[-1].append(cell)
        whole = alone or cell.text in (" ", NEWLINE)
    text = escape("".join(cell.text for cell in row))
    shown = "".join(f"<span>{''.join(map(_cell, word))}</span>" for word in words if word)
    return f'<div class="row" role="img" aria-label="{text}">{shown}</div>'


def player(*trajectories: Trajectory, seconds: float = 6.0, alone: bool = False) -> str:
    """HTML of a player of text, in a notebook `IPython.display.HTML(player(record(frames, codec)))`.

    Several trajectories race side by side on their measured clock, see `playback`.

    Parameters
    ----------
    seconds : that it takes to play, at least
    alone : whether it has a page to itself, whose keys are its own

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
        shown = "\n".join(map(_row, rows))
        last = len(frames) - 1
        tracks.append(
            f'<div class="track"><b>{escape(trajectory.title)}</b><span>{escape(str(frames[-1][0]))}</span>'
            f'<progress max="{last}" value="{last}" aria-label="how far"></progress>\n{shown}</div>'
        )
        data.append({"frames": frames})
    return controls(
        f'<div class="tracks" style="font-size:{min(1.0, 2.2 / len(tracks)):.2f}em">{"".join(tracks)}</div>', SHOW_TEXT,
        {"tracks": data, "moments": [moment.frames for moment in moments]},
        [round(moment.at, 4) for moment in moments], [caption(trajectories, moment, seconds) for moment in moments],
        _legend(trajectories), alone,
    )  # fmt: skip


def _legend(trajectories: Sequence[Trajectory]) -> str:
    there = set().union(*(t.kinds for t in trajectories))
    lines = [
        f"<span>{''.join(map(_cell, samples))} {words}</span>"
        for samples, words in legend(there, trajectories[0].colours)
    ]
    return f'<div class="row" style="font-size:.9em">{" &emsp; ".join(lines)}</div>'


def save_html(path: Path, *trajectories: Trajectory, seconds: float = 6.0) -> None:
    """Write a page that holds the `player` and needs nothing else."""
    refuse_existing(path)
    title = escape(" and ".join(title for title, _ in groupby(t.title for t in trajectories)))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 2vw; color-scheme: light dark }} body .tinydiff {{ font-size: clamp(16px, 2vw, 40px) }}
p {{ font: 14px system-ui, sans-serif; margin: 1em }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181c; color: #ddd }} }}
@media print {{ p {{ display: none }} }}</style></head>
<body>{player(*trajectories, seconds=seconds, alone=True)}
<p>Space plays and pauses, the arrow keys step.</p></body></html>
"""
    write_atomically(path, page.encode())
