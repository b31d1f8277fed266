"""Many runs: a table of options, a folder for each of its rows, and what came out, over seeds.

As CSV the first line names options of `tinydiff train`, and each other line is a run; an empty cell leaves its option
out. As TOML every combination of the lists is a run, and each table under [[runs]] stands for its combinations, on top
of what is outside:

    steps = 3000                                    # of all
    seed = [0, 1, 2]                                # three runs for each of the following
    [[runs]]
    process = ["masked", "autoregressive"]
    size = ["XS", "S"]
    [[runs]]
    process = "block"
    block_length = [4, 16]

The name of a folder says all options of its run: who adds rows later trains no other again. What comes out is the
held-out figure; runs that differ in their seed alone are a group, with the mean and its 95 % interval,

    mean +- t s / sqrt(n),    t of n - 1 degrees of freedom (Student 1908).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from . import checkpoint
from .files import CheckpointError

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t for intervals of 95 %, of 1 to 10 degrees of freedom."""
LONGEST = 120  # characters of a folder's name
MOST = 10_000  # runs


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    where : in the table, for people: "row 3"
    options : values of options of `train`, by their names with underscores

    """

    where: str
    options: dict[str, str]

    @property
    def name(self) -> str:
        """Of its folder: all options, in alphabetical order."""
        said = ",".join(f"{key}-{value}" for key, value in sorted(self.options.items()))
        safe = re.sub(r"[^\w.,+-]", "_", said)
        if safe == said and len(said) <= LONGEST:
            return said
        return f"{safe[: LONGEST - 9]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def read_table(path: Path, known: Sequence[str]) -> list[Row]:
    """The runs of a table, CSV or TOML by the end of its name.

    Parameters
    ----------
    known : the options that there are, with underscores

    Raises
    ------
    ValueError : naming row and column

    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".toml"):
        raise ValueError(f"{path} is neither a .csv nor a .toml file; expected a table of options in one of them")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; expected text") from None
    rows = _csv(path, text, known) if kind == ".csv" else _toml(path, text, known)
    if not rows:
        raise ValueError(f"{path} has no runs; add a row for each")
    seen: dict[str, Row] = {}
    for row in rows:
        if row.name in seen:
            raise ValueError(
                f"{path}, {row.where}: the same as {seen[row.name].where}; each run has a folder of its own"
            )
        seen[row.name] = row
    return rows


def _option(name: str, place: str, known: Sequence[str]) -> str:
    """The option that a column means: "--d-model", "d-model" and "d_model" are the same."""
    option = name.strip().removeprefix("--").replace("-", "_")
    if option in known:
        return option
    close = [other for other in known if other.startswith(option[:3]) or option.startswith(other[:3])]
    meant = f"; is it {' or '.join(close[:3])}?" if option and close else ""
    raise ValueError(f"{place}: tinydiff train has no such option{meant}")


def _csv(path: Path, text: str, known: Sequence[str]) -> list[Row]:
    lines = [(i, line) for i, line in enumerate(csv.reader(io.StringIO(text)), 1) if any(cell.strip() for cell in line)]
    if not lines:
        return []
    (top, header), *others = lines
    names = [_option(name, f"{path}, row {top}, column {i} ({name!r})", known) for i, name in enumerate(header, 1)]
    for i, name in enumerate(names, 1):
        if name in names[: i - 1]:
            raise ValueError(f"{path}, row {top}, column {i} ({name!r}): it is there twice")
    rows = []
    for number, line in others:
        if len(line) > len(names):
            raise ValueError(f"{path}, row {number}, column {len(names) + 1} ({line[len(names)]!r}): it has no name")
        cells = {name: cell.strip() for name, cell in zip(names, line, strict=False)}
        rows.append(Row(f"row {number}", {name: cell for name, cell in cells.items() if cell}))
    return rows


def _toml(path: Path, text: str, known: Sequence[str]) -> list[Row]:
    try:
        import tomllib
    except ModuleNotFoundError:
        raise ValueError(f"{path} is TOML, which takes Python 3.11 or newer; write the table as CSV") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    tables = content.pop("runs", [{}])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{path}: runs is no list of tables; write [[runs]] above each")
    rows: list[Row] = []
    for i, table in enumerate(tables, 1):
        place = f"{path}, table {i} of [[runs]]" if tables != [{}] else str(path)
        values: dict[str, list[str]] = {}
        for part, where in ((content, str(path)), (table, place)):
            for key, value in part.items():
                at = f"{where}, {key!r}"
                values[_option(key, at, known)] = [_word(each, at) for each in _listed(value, at)]
        if math.prod(map(len, values.values())) + len(rows) > MOST:
            raise ValueError(f"{place}: more than {MOST:,} runs")
        for chosen in product(*values.values()):
            rows.append(Row(f"run {len(rows) + 1}", dict(zip(values, chosen, strict=True))))
    return rows if any(row.options for row in rows) else []


def _listed(value: Any, at: str) -> list[Any]:
    if value == []:
        raise ValueError(f"{at}: an empty list; leave it out or name a value")
    return value if isinstance(value, list) else [value]


def _word(value: Any, at: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{at}: {value!r}; expected text, numbers, or a list of them")
    return str(value)


def share_of(rows: list[Row], part: str) -> list[Row]:
    """Every n-th of the rows from the i-th on, for "i/n" with i from 0 to n - 1: one task of an array of n."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part)
    if not found or not int(found[1]) < int(found[2]):
        raise ValueError(f"--array is {part!r}; expected i/n with 0 <= i < n, for instance $SLURM_ARRAY_TASK_ID/4")
    return rows[int(found[1]) :: int(found[2])]


def state_of(folder: Path) -> tuple[int, int] | None:
    """Steps done and steps in all of the run in a folder; None if there is none. CheckpointError if it is broken."""
    if not (folder / "config.json").exists():
        return None
    steps = int(checkpoint.read_config(folder)["training"]["steps"])
    if not (folder / "state.safetensors").exists():
        return 0, steps
    return int(checkpoint.state_header(folder)[2]["step"]), steps


def result_of(folder: Path) -> float | None:
    """The held-out bits of a run that is trained to its end, per character, token or dimension; None of others."""
    try:
        state = state_of(folder)
    except CheckpointError:
        return None
    rows = [row for row in checkpoint.read_log(folder) if row.get("held_out")] if state else []
    if state is None or state[0] < state[1] or not rows:
        return None
    return float(rows[-1]["held_out"][0])


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes
    ----------
    options : those in which the groups of a table differ
    results : held-out bits of those that are finished

    """

    options: dict[str, str]
    results: list[float]
    runs: int

    @property
    def mean(self) -> float:
        """Over seeds; nan without any."""
        return sum(self.results) / len(self.results) if self.results else math.nan

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean; nan for fewer than two seeds."""
        n = len(self.results)
        if n < 2:
            return math.nan
        variance = sum((x - self.mean) ** 2 for x in self.results) / (n - 1)
        return student(n - 1) * math.sqrt(variance / n)

    @property
    def label(self) -> str:
        """What tells it from the others."""
        return ", ".join(f"{key} {value}" for key, value in self.options.items()) or "all"


def student(freedom: int) -> float:
    """Student's t for an interval of 95 %; beyond 10 degrees of freedom the Cornish-Fisher expansion, right to 1e-3."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = 1.959964
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + math.fsum(term / freedom**i for i, term in enumerate(terms, 1))


def groups(rows: Sequence[Row], out: Path) -> list[Group]:
    """What has come out so far, in the order of the table."""
    names = dict.fromkeys(key for row in rows for key in row.options if key != "seed")
    varied = [name for name in names if len({row.options.get(name) for row in rows}) > 1]
    found: dict[tuple[tuple[str, str], ...], list[float | None]] = {}
    for row in rows:
        key = tuple((name, row.options[name]) for name in varied if name in row.options)
        found.setdefault(key, []).append(result_of(out / row.name))
    return [Group(dict(key), [x for x in all_ if x is not None], len(all_)) for key, all_ in found.items()]
