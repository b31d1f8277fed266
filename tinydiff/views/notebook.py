"""What a notebook of a lesson needs: one look for figures, films of text, and exercises that are checked.

    from tinydiff.views.notebook import BLUE, GREY, attempt, film, predicted, show, smoke, use_style

Colours have a meaning, the same in every lesson; `MEANING` lists it. A figure is shown with `show(alt)`: as SVG where
it is made of lines, and as a small PNG for viewers that draw no SVG. Its alternative text is not optional, and stands
below it, folded (`_show`). A film is a picture of some moments of a sampler and, where scripts run, the player of
`views.html` above it.

Nothing here knows a particular lesson, and nothing is drawn on import.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from html import escape
from numbers import Real
from typing import Any

from .html import player
from .trajectory import Trajectory

smoke = bool(os.environ.get("TINYDIFF_SMOKE"))
"""Whether to run every cell with fewer steps, to see that it runs."""

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#CC3311"
SKY, PURPLE, GREY = "#56B4E9", "#AA3377", "#555555"

MEANING = {
    "masked diffusion": BLUE,
    "left to right": ORANGE,
    "uniform noise": GREEN,
    "nearest-neighbour noise": PURPLE,
    "score entropy": SKY,
    "exact, or the data": GREY,
    "wrong, or what to watch": RED,
}
"""What a colour stands for wherever these things are compared. Chosen to be told apart with every kind of colour
vision; lines that meet in a figure have markers too."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.figsize": (9, 4.6),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 15,
    "axes.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.5,
    "lines.markersize": 9,
    "legend.frameon": False,
    "legend.fontsize": 13,
    "svg.fonttype": "none",  # letters stay letters: a third of the size, and a reader may search them
    "svg.hashsalt": "tinydiff",  # the same figure, the same file
}


WIDEST = 630.0
"""Points, 840 pixels: what JupyterLab has beside its list of files on a small laptop. It cuts off wider SVGs."""


FAMILY = "font-family: 'DejaVu Sans', sans-serif; "


def use_style() -> None:
    """Set matplotlib's defaults to the look of the lessons: large letters, thick lines, white paper."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)


def show(alt: str, lines: bool = True, colours: int | None = None) -> None:
    """Show the current figure and close it.

    Parameters
    ----------
    alt : what it shows, in a sentence or two, for those who do not see it
    lines : whether it is made of lines and letters, and so is shown as SVG, sharp at any size; say False for pictures
        and clouds of points. A PNG is stored in any case
    colours : of the PNG; by default 32, or 64 for pictures, which keep the steps of a colour map apart. Clouds and
        arrows do with 16

    """
    import matplotlib.pyplot as plt

    figure = plt.gcf()
    bundle: dict[str, Any] = {
        "image/png": _png(figure, 0.6 if lines else 0.75, colours or (32 if lines else 64)),
        "text/plain": _checked(alt),
    }
    if lines:
        bundle["image/svg+xml"] = _svg(figure, alt)
    plt.close(figure)
    _show(bundle, alt)


def film(*trajectories: Trajectory, alt: str, moments: int = 6, columns: int = 64, seconds: float = 6.0) -> None:
    """Show text on its way: a picture of some moments, and a player above it where scripts run.

    Parameters
    ----------
    trajectories : from `views.trajectory.record`; several are played side by side, on their own clocks, and the picture
        is of the first
    alt : what is to be seen, for those who do not see it; the texts of the moments are added
    moments : in the picture
    columns : characters per line of the picture

    """
    import matplotlib.pyplot as plt

    from .figures import strip
    from .trajectory import evenly

    first = trajectories[0]
    texts = [f"step {frame.step}: {first.codec.decode(frame.state[0])}" for frame in evenly(first.frames, moments)]
    play(player(*trajectories, seconds=seconds), alt)
    with plt.rc_context({"figure.constrained_layout.use": False, "font.size": 10}):
        figure = strip(first, moments, columns)
        figure.axes[0].set_title(first.title, loc="left", fontsize=12)
    bundle = {"image/png": _png(figure, 1.2, 48), "text/plain": f"{alt} {'; '.join(texts)}"}
    plt.close(figure)
    _show(bundle, bundle["text/plain"])


def play(html: str, alt: str) -> None:
    """Show a player of `views.html` or `views.animation` where scripts run, and `alt` where they do not.

    A notebook that is not trusted, and a viewer of files such as GitHub's, would show a dead button.
    """
    markup, script = html.split("<script>")
    mark = hashlib.sha256(script.encode()).hexdigest()[:12]
    inner = json.dumps(markup + "</div>", ensure_ascii=False).replace("<", "\\u003c")
    shown = (
        f'<div data-film="{mark}"><p>{escape(alt)} (A film, where scripts run.)</p></div>'
        f"<script>document.querySelectorAll('[data-film=\"{mark}\"]')"
        f".forEach(box => {{ box.removeAttribute('data-film'); box.innerHTML = {inner}; }});\n"
        f"{script.removesuffix('</div>')}"
    )
    _display({"text/html": shown, "text/plain": _checked(alt)})


PLACES = ("left to right", "blocks", "masked diffusion", "one pass")


def spectrum(here: str | Sequence[str]) -> None:
    """Draw the line from left to right to one pass, with "you are here".

    Parameters
    ----------
    here : one of PLACES, or several

    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    marked = [here] if isinstance(here, str) else list(here)
    if unknown := set(marked) - set(PLACES):
        raise ValueError(f"here has {', '.join(sorted(unknown))}; expected some of {', '.join(PLACES)}")
    axes = plt.figure(figsize=(10, 4)).subplots()
    axes.set(xlim=(-0.5, 3.5), ylim=(-1.6, 1.5))
    axes.axis("off")
    axes.annotate("", (3.49, 0), (-0.49, 0), arrowprops={"arrowstyle": "<->", "lw": 2.5, "color": GREY})
    passes = (
        "n passes,\none token each",
        "block by block,\na few passes each",
        "S passes,\nn / S tokens each",
        "1 pass,\nall tokens",
    )
    shades = ((1, 2, 3, 4, 5, 6, 7, 8), (2, 1, 1, 2, 4, 3, 3, 4), (2, 1, 4, 1, 3, 2, 4, 3), (1,) * 8)
    colours = (ORANGE, PURPLE, BLUE, RED)
    for x, (name, words, order) in enumerate(zip(PLACES, passes, shades, strict=True)):
        is_here = name in marked
        axes.plot(x, 0, "o", ms=18 if is_here else 11, color=colours[x], mec="black", mew=2 if is_here else 0)
        for i, when in enumerate(order):  # when each of eight tokens is written
            axes.add_patch(Rectangle((x - 0.42 + 0.105 * i, 0.22), 0.097, 0.28, facecolor=colours[x], alpha=0.6))
            axes.text(x - 0.372 + 0.105 * i, 0.35, str(when), ha="center", va="center", color="black", fontsize=15)
        axes.text(x, 0.62, name, ha="center", fontsize=18, weight="bold" if is_here else "normal")
        axes.text(x, -0.2, words, ha="center", va="top", fontsize=15)
        if is_here:
            axes.annotate(
                "you are here", (x, 0.88), (x, 1.4), ha="center", va="center", fontsize=17, color=RED,
                arrowprops={"arrowstyle": "->", "lw": 2.5, "color": RED},
            )  # fmt: skip
    axes.text(-0.48, -1.2, "exact, slow", fontsize=15, color=GREY)
    axes.text(3.48, -1.2, "fast, words do not know of each other", fontsize=15, color=GREY, ha="right")
    words = "A number says in which pass a token is written; n tokens, S passes."
    axes.text(-0.48, -1.55, words, fontsize=15, color=GREY)
    show(f"A line with four places: {', '.join(PLACES)}; over each, eight tokens with numbers. {words} "
         f"You are at: {', '.join(marked)}.")  # fmt: skip


def attempt(check: Callable[[Any], None], solution: Callable[..., Any]) -> None:
    """Run a check on a student's function, or say that it is still to be written, or that it returns nothing."""

    @functools.wraps(solution)
    def called(*args: Any, **options: Any) -> Any:
        answer = solution(*args, **options)
        assert answer is not None, "it returned None: is its `return` missing?"
        return answer

    try:
        check(called)
    except NotImplementedError:
        print(f"{solution.__name__}: not written yet; fill it in and run its cell and this one again")
    except AssertionError as error:
        if not str(error):
            raise
        raise AssertionError(f"{solution.__name__}: {error}") from None  # without the lines of the check
    else:
        print(f"{solution.__name__}: correct")


def predicted(guess: Any, answer: Any, unit: str = "") -> None:
    """Print an answer beside what the reader predicted; None is no prediction."""
    shown = f"{answer:.3g}" if isinstance(answer, float) else f"{answer}"
    line = f"answer: {shown}{unit and ' ' + unit}"
    if guess is None:
        print(f"{line}; you made no prediction")
    elif isinstance(answer, float) and isinstance(guess, Real):
        print(f"{line}; you said {guess:g}, which is {abs(guess - answer):.3g} away")
    else:
        print(f"{line}; you said {guess}" + (", and you are right" if guess == answer else ""))


def _checked(alt: str) -> str:
    if not alt.strip():
        raise ValueError("alt is empty; say in a sentence what the figure shows, for those who do not see it")
    return alt


def _show(picture: dict[str, Any], alt: str) -> None:
    """Display a picture, and below it what it shows, in words that unfold.

    The words are an output of their own. A picture's metadata hold them as well, but hardly a viewer hands those on:
    JupyterLab puts PNG and SVG into an `<img>` without `alt`, trusted or not, and of nbconvert's templates only
    `classic` reads them. An `<img alt="...">` in HTML would reach JupyterLab's reader, but be stored beside the PNG a
    second time, and where a sanitizer takes data out of addresses no picture would be left. `<details>` passes the
    sanitizer of JupyterLab; where one takes the tags away, or shows them as nbconvert's does, the words are left.
    """
    _display(picture, {"image/png": {"alt": alt}})
    _display({"text/html": f"<details><summary>In words</summary>{escape(alt)}</details>"})


def _display(bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    import IPython.display

    display: Any = IPython.display.display
    display(bundle, raw=True, metadata=metadata or {})


def _draw(figure: Any, file: Any, kind: str, dpi: float, **options: Any) -> None:
    """Save it without its empty edges, for which it is laid out twice and drawn twice; with `smoke` once, whole."""
    if not smoke:
        figure.savefig(file, format=kind, dpi=dpi, bbox_inches="tight", pad_inches=0.05, **options)
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure) if kind == "png" else FigureCanvasSVG(figure)
    (canvas.print_png if kind == "png" else canvas.print_svg)(file, **options)


def _png(figure: Any, scale: float, colours: int) -> str:
    """A PNG in few colours, which looks the same and keeps the notebook small."""
    import PIL.Image

    full, small = io.BytesIO(), io.BytesIO()
    _draw(figure, full, "png", figure.dpi * scale / (3 if smoke else 1))
    picture = PIL.Image.open(full).convert("RGB")
    picture.quantize(colours, method=PIL.Image.Quantize.FASTOCTREE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _fitted(size: re.Match[str]) -> str:
    """The size of an SVG, made at most WIDEST wide. Its `viewBox` scales what is in it."""
    width, height = float(size[1]), float(size[2])
    scale = min(1.0, WIDEST / width)
    return f'width="{width * scale:.0f}pt" height="{height * scale:.0f}pt"'


def _svg(figure: Any, alt: str) -> str:
    """An SVG with a title for screen readers, and no more decimals than can be seen."""
    buffer = io.StringIO()
    _draw(figure, buffer, "svg", 72, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]

    def fewer(place: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", place[0])

    text = re.sub(r'(?:(?: d| x| y)="|translate\()[^")]*', fewer, text)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # names that nothing refers to
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text).replace("> <", "><")
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)  # that turn nothing
    text = text.replace(FAMILY, "").replace("*{stroke", "text{" + FAMILY + "}*{stroke", 1)  # said once
    text = re.sub(r'width="([\d.]+)pt" height="([\d.]+)pt"', _fitted, text, count=1)
    opening = f'<svg role="img" aria-label="{escape(alt)}" '
    text = text.replace("<svg ", opening, 1)
    return text.replace(">", f"><title>{escape(alt)}</title>", 1)
