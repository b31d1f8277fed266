"""Docstrings of tinydiff as reStructuredText: what is indented is shown as it is, and `names` in the type of code.

They are written to be read where they stand, with signs that mean something else to Sphinx.
"""

import re
from collections.abc import Sequence


def as_rst(lines: Sequence[str]) -> list[str]:
    """The lines of a docstring, whose first is not indented, for Sphinx."""
    out: list[str] = []
    at, section = 0, False
    while at < len(lines):
        line = lines[at]
        under = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if line and under and set(under) == {"-"} and not line.startswith(" "):
            out += ["", f".. rubric:: {line}", ""]
            at, section = at + 2, True
        elif line.startswith("  ") and not (section or _in_list(out)):
            block = []
            while at < len(lines) and (lines[at].startswith("  ") or not lines[at].strip()):
                block.append(lines[at])
                at += 1
            out += ["", "::", "", *("    " + each for each in block), ""]
        elif section and line and not line.startswith(" ") and " : " in line:
            name, about = line.split(" : ", 1)
            out += ["", f"- ``{name}``: {_escaped(about)}"]
            at += 1
        elif section and line.startswith(" "):
            out.append("  " + _escaped(line.strip()))
            at += 1
        else:
            bullet = re.match(r"(\s*(?:[-*]|\d+\.) )(.*)", line)
            if bullet:
                out += [""] if out and out[-1] and not _in_list(out) else []
                out.append(bullet[1] + _escaped(bullet[2]))
            else:
                indent = len(line) - len(line.lstrip())
                out.append(line[:indent] + _escaped(line[indent:]))
            at += 1
    return out


def _in_list(out: Sequence[str]) -> bool:
    """Whether the last lines are of a list, so that what is indented goes on with it."""
    for line in reversed(out):
        if not line.strip():
            return False
        if re.match(r"\s*(?:[-*]|\d+\.) ", line):
            return True
        if not line.startswith(" "):
            return False
    return False


def _escaped(text: str) -> str:
    """Words for Sphinx: only backticks mean something."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([\\*_|`])", r"\\\1", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"\\ ``{part}``\\ " if part.strip() == part and part else f"'{part}'"
        else:
            parts[i] = re.sub(r"([\\*_|])", r"\\\1", part)
    return "".join(parts).removesuffix("\\ ").removeprefix("\\ ").replace("::", ":\\:")
