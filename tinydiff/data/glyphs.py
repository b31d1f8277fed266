"""Letters and digits in the fonts that matplotlib brings along: 16 x 16 pictures with their class.

Each character of each font is drawn at several sizes and places. A picture is a sequence of 16 patches of 4 x 4 pixels,
(L, F) = (16, 16), with numbers from -1 (paper) to 1 (ink).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..arrays import Floats, Ints
from .vectors import Vectors, patches

CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which some fonts draw like 1 and 0
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral",
    "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
UNSEEN = ("DejaVuSansMono-Bold", "DejaVuSerif-Bold")
"""Fonts held out: those least like the others. Variants of a glyph are near copies of one another, so that a held-out
variant would say nothing about copying from the training pictures."""
SIDE, PATCH = 16, 4
FINE = 4  # glyphs are drawn this much larger and averaged down, so that they move by quarters of a pixel
VARIANTS = 24  # of each character in each font
SEED = 0
RECIPE = {
    "process": "ddpm", "length": (SIDE // PATCH) ** 2, "steps": 6000, "batch": 64, "d_model": 96, "layers": 4,
    "heads": 4, "optimiser": "adamw", "evaluate_every": 2000,
}  # fmt: skip


def draw(fonts: Sequence[str], rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Every character in each of these fonts, VARIANTS times: (N, 16, 16) in [-1, 1] and the (N,) classes."""
    try:
        import matplotlib
        from matplotlib.ft2font import FT2Font
    except ImportError as error:
        raise FileNotFoundError(
            "matplotlib is missing, whose fonts the glyphs are drawn in; install it: pip install 'tinydiff[lessons]'"
        ) from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pictures, labels = [], []
    for name in fonts:
        font = FT2Font(str(folder / f"{name}.ttf"))
        for size in rng.uniform(12, 14.5, VARIANTS):
            font.set_size(size * FINE, 72)
            for label, character in enumerate(CHARACTERS):
                font.clear()
                font.set_text(character)
                font.draw_glyphs_to_bitmap(antialiased=True)
                pictures.append(_placed(np.asarray(font.get_image()), rng))
                labels.append(label)
    return np.array(pictures), np.array(labels)


def _placed(ink: Floats, rng: np.random.Generator) -> Floats:
    """A bitmap in 0..255 near the middle of the picture, averaged down to its size, in [-1, 1]."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    fine = SIDE * FINE
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][:fine, :fine]
    sheet = np.zeros((fine, fine))
    top, left = (
        int(np.clip((fine - extent) // 2 + rng.integers(-FINE, FINE + 1), 0, fine - extent)) for extent in ink.shape
    )
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    means = sheet.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
    return np.asarray(np.round(means) / 127.5 - 1)


def load() -> Vectors:
    """The same pictures every time, those of the `UNSEEN` fonts held out."""
    rng = np.random.default_rng(SEED)
    train, labels = draw([name for name in FONTS if name not in UNSEEN], rng)
    held_out, held_out_labels = draw(UNSEEN, rng)
    return Vectors(
        "glyphs", patches(train, PATCH), patches(held_out, PATCH), labels, held_out_labels, CHARACTERS, PATCH,
        1 / 127.5, recipe=RECIPE,
    )  # fmt: skip
