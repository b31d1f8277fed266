"""Runs on disk: a folder with

- `config.json`, written once: everything needed to build model, process and corpus, and the training options;
- `state.safetensors`, replaced at every save: weights, their average, optimiser moments, and in its header the step and
  the random generator's state. One file, so that all of it is of the same moment;
- `log.jsonl`, a line per logged step.

Files are replaced atomically: a reader, or a run resumed after a crash, sees the old one or the new one, never a part.
Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..arrays import Floats

FORMAT = 1
"""Version of the layout above; a run written by a newer version is refused, not misread."""


class CheckpointError(Exception):
    """A run that cannot be read or written, with what to do about it."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that at every moment it is the old or the new one, even if the machine stops."""
    temporary = path.with_name(f".{path.name}.new")  # a fixed name: one left over by a crash is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = f"; the previous {path.name} is intact" if path.is_file() else ""
        raise _cannot_write(path, error, kept) from error


def refuse_existing(*paths: Path | None) -> None:
    """Raise ValueError if there is something already where one of these is to be written; None is not to be."""
    for path in paths:
        if path is not None and path.exists():
            raise ValueError(f"{path} exists already; choose another name or delete it")


def _cannot_write(path: Path, error: OSError, kept: str = "") -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror}{kept}; free some space or choose another folder")


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write `config.json`."""
    write_atomically(run / "config.json", (json.dumps({"format": FORMAT, **config}, indent=2) + "\n").encode())


def read_config(run: Path) -> dict[str, Any]:
    """Read `config.json`."""
    path = run / "config.json"
    if not run.is_dir():
        raise CheckpointError(f"there is no run in {run}; train one with: tinydiff train --out {run}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{run} is not a run: it has no config.json; check the path") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it or train again") from None
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CheckpointError(f"{path} does not describe a run: it has no format number; restore it or train again")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {config['format']}, newer than the {FORMAT} this version knows; upgrade tinydiff"
        )
    return config


def write_state(run: Path, tensors: dict[str, Floats], progress: dict[str, Any]) -> None:
    """Replace `state.safetensors` with these arrays and JSON-able values."""
    content = save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, {"progress": json.dumps(progress)})
    write_atomically(run / "state.safetensors", content)


def read_state(run: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Read `state.safetensors`.

    Parameters
    ----------
    shapes : the arrays that must be there

    """
    path = run / "state.safetensors"
    if not path.exists():
        raise CheckpointError(f"{run} has no {path.name} yet; resume the training with: tinydiff train --resume {run}")
    try:
        with safe_open(path, framework="numpy") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or train again") from None
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks {name}; it belongs to another model or optimiser than config.json describes")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{name} in {path} has shape {tensors[name].shape}, but config.json describes {shape}; "
                "the two files are of different runs"
            )
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{name} in {path} contains NaN or inf; restore an earlier copy or train again")
    return tensors, progress


class Log:
    """`log.jsonl`: one JSON object per line, each with a "step"."""

    def __init__(self, run: Path, keep_until: int) -> None:
        """Open for appending after dropping what lies beyond step `keep_until`, or is half a line."""
        path = run / "log.jsonl"
        kept = [json.dumps(row) for row in read_log(run) if row["step"] <= keep_until]
        write_atomically(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add a line; it reaches the disk with `flush`."""
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Push everything appended so far to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(Path(self._file.name), error) from error

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's log."""
    rows = []
    try:
        lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # the process was killed while writing this line
    return rows
