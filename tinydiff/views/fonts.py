"""Fonts for pictures of text: DejaVu Sans Mono, which matplotlib brings along, and for what it lacks the system's.

Chinese, Japanese, Korean or emoji are drawn with the fonts that have most of them; what none has is named in a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from .trajectory import Trajectory, cells

FAMILY = "DejaVu Sans Mono"


class Font(NamedTuple):
    """A font of the system, and which of the characters asked for it has."""

    family: str
    path: str
    characters: frozenset[str]


def characters_of(trajectories: Iterable[Trajectory]) -> frozenset[str]:
    """All that can be seen in their frames."""
    return frozenset(
        character
        for trajectory in trajectories
        for frame in trajectory.frames
        for row in range(len(frame.state))
        for cell in cells(trajectory.codec, frame, row)
        for character in cell.text
    )


@lru_cache(maxsize=8)
def fonts_for(characters: frozenset[str]) -> tuple[Font, ...]:
    """DejaVu Sans Mono and as many more as it takes, those with most of what is missing first."""
    from matplotlib import font_manager, ft2font

    def held(path: str, wanted: frozenset[str]) -> frozenset[str]:
        try:
            face = ft2font.FT2Font(path)
        except (OSError, RuntimeError):
            return frozenset()
        if not face.scalable:  # pictures of emoji, in one size
            return frozenset()
        return wanted & {chr(code) for code in face.get_charmap()}

    first = font_manager.findfont(FAMILY)
    fonts = [Font(FAMILY, first, held(first, characters))]
    missing = characters - fonts[0].characters
    others = (
        [
            Font(entry.name, entry.fname, held(entry.fname, missing))
            for entry in font_manager.fontManager.ttflist
            if not entry.name.startswith("Last Resort")  # has a box for everything
        ]
        if missing
        else []
    )
    while missing and others:
        best = min(others, key=lambda font: (-len(font.characters & missing), font.family, font.path))
        if not best.characters & missing:
            break
        fonts.append(best)
        missing -= best.characters
    if missing:
        shown = "".join(sorted(missing)[:10]) + ("..." if len(missing) > 10 else "")
        warnings.warn(
            f"no font here has {shown}, which pictures show as boxes; install one that does, such as Noto Sans CJK",
            stacklevel=2,
        )
    return tuple(fonts)
