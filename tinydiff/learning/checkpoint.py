"""Runs on disk: a folder with

- `config.json`: everything needed to build model, process and corpus, and the training options;
- `state.safetensors`, replaced at every save: weights, their average, optimiser moments, and in its header the step and
  the random generator's state. One file, so that all of it is of the same moment;
- `log.jsonl`, a line per logged step;
- while it is being trained, `training.lock`.

Files are replaced atomically: a reader, or a run resumed after a crash, sees the old one or the new one, never a part.
Config and state hold the SHA-256 of what they say, so that damage is noticed wherever it is. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..arrays import Floats
from .config import check_config, check_same, check_sizes
from .files import CheckpointError, cannot_write, patiently, quoted, write_atomically

FORMAT = 2
"""Version of the layout above; a run written by another version is refused, not misread."""
FILES = ("config.json", "state.safetensors", "log.jsonl")


def refuse_foreign(run: Path) -> None:
    """Raise CheckpointError if a new run in this folder would write over anything."""
    if os.path.lexists(run / "config.json"):
        raise CheckpointError(
            f"{run} already holds a run; continue it with: tinydiff train --resume {quoted(run)}, or choose another "
            "folder"
        )
    for name in FILES[1:]:
        if os.path.lexists(run / name):
            raise CheckpointError(f"{run} holds a {name} that belongs to something else; choose another folder")


def make_folder(run: Path) -> None:
    """Make the folder of a new run; CheckpointError if it cannot be made or written."""
    try:
        patiently(lambda: run.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise cannot_write(run / "config.json", error) from None


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json`."""
    content = {"format": FORMAT, **config}
    content["sha256"] = _digest_of(content)
    write_atomically(run / "config.json", (json.dumps(content, indent=2) + "\n").encode(), parents=False)


def read_config(run: Path) -> dict[str, Any]:
    """Read `config.json`, without its format and digest."""
    path = run / "config.json"
    if not run.is_dir():
        raise CheckpointError(f"there is no run in {run}; train one with: tinydiff train --out {quoted(run)}")
    try:
        config: dict[str, Any] = json.loads(
            patiently(path.read_bytes).decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number
        )
    except FileNotFoundError:
        raise CheckpointError(f"{run} is not a run: it has no config.json; check the path") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it or train again") from None
    number = config.get("format") if isinstance(config, dict) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise CheckpointError(f"{path} does not describe a run: it has no format number; restore it or train again")
    if number != FORMAT:
        advice = f"newer than the {FORMAT} this version knows; upgrade tinydiff" if number > FORMAT else "an old one"
        raise CheckpointError(f"{path} has format {number}, {advice}{'' if number > FORMAT else '; train again'}")
    digest = config.pop("sha256", None)
    expected = _digest_of(config)
    del config["format"]
    blamed = path
    try:
        check_config(config)
        blamed = path if digest != expected else run / "state.safetensors"  # of the two the one that may have changed
        if (run / "state.safetensors").exists():
            _, shapes, progress = state_header(run)
            check_sizes(config["model"], shapes)
            written = progress["config"]
            for section in ("process", "model", "data", *(["training"] if digest != expected else [])):
                check_same(section, config[section], written[section])
        if digest != expected:
            raise ValueError("it is not what was written")
    except ValueError as error:
        raise CheckpointError(f"{blamed} is incomplete or altered ({error}); restore it or train again") from None
    return config


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, none of whose keys is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_state(run: Path, tensors: dict[str, Floats], progress: Mapping[str, Any]) -> str:
    """Replace `state.safetensors` by these arrays and JSON-able values; its digest."""
    arrays = {name: np.ascontiguousarray(a) for name, a in tensors.items()}
    digest = _digest(arrays, progress)
    # One entry, as several would be written in an order of chance: the same state is the same file.
    content = save(arrays, {"progress": json.dumps({**progress, "sha256": digest})})
    write_atomically(run / "state.safetensors", content, parents=False)  # a folder that is gone is not made again
    return digest


def _digest(tensors: Mapping[str, Floats], progress: Mapping[str, Any]) -> str:
    """SHA-256 of all that a state says: names, types, shapes and bytes of the arrays, and the progress."""
    digest = hashlib.sha256(json.dumps(progress, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def state_header(run: Path) -> tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]:
    """What `state.safetensors` says without its arrays: its digest, their shapes, and the values beside them."""
    path = run / "state.safetensors"
    try:
        with patiently(lambda: safe_open(path, framework="numpy")) as file:
            digest, progress = _progress(file)
            return digest, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, progress  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None


def _progress(file: Any) -> tuple[str, dict[str, Any]]:
    """The digest and the values in the header of an open state."""
    progress = json.loads((file.metadata() or {})["progress"])
    if not (isinstance(progress, dict) and isinstance(progress.get("config"), dict)):
        raise ValueError("its header lacks the config")
    return progress.pop("sha256"), progress


def read_state(run: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Floats], dict[str, Any], str]:
    """Read `state.safetensors`: its arrays, its values and its digest.

    Parameters
    ----------
    shapes : the arrays that must be there

    """
    path = run / "state.safetensors"
    if not path.exists():
        raise CheckpointError(
            f"{run} has no {path.name} yet; resume the training with: tinydiff train --resume {quoted(run)}"
        )
    try:
        with patiently(lambda: safe_open(path, framework="numpy")) as file:
            digest, progress = _progress(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(
                f"{path} lacks {name}; it belongs to another model or optimiser than config.json describes"
            )
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{name} in {path} has shape {tensors[name].shape}, but config.json describes {shape}; "
                "the two files are of different runs"
            )
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{name} in {path} contains NaN or inf; restore an earlier copy or train again")
    if _digest(tensors, progress) != digest:
        raise _damaged(path, "its content is not what was written")
    return tensors, progress, digest


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({why}); restore it or train again")


class Log:
    """`log.jsonl`: one JSON object per line, each with a "step"."""

    def __init__(self, run: Path, keep_until: int) -> None:
        """Open for appending after dropping what lies beyond step `keep_until`, or is half a line.

        What cannot be a line of a log is not thrown away: the whole file is kept beside the new one.
        """
        self.path = run / "log.jsonl"
        self._waiting: list[str] = []
        rows, strange = _lines(run)
        if strange:
            aside = _free_name(run)
            write_atomically(aside, patiently(self.path.read_bytes), parents=False)
            warnings.warn(
                f"{self.path} has lines that are not of a log; it is kept as {aside.name} and goes on without them",
                stacklevel=2,
            )
        kept = [json.dumps(row) for row in rows if row["step"] <= keep_until]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode(), parents=False)

    def append(self, row: dict[str, Any]) -> None:
        """Add a line; it reaches the disk with `flush`."""
        self._waiting.append(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Push everything appended so far to the disk: all of it, or nothing and an error."""
        content = "".join(self._waiting).encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = patiently(lambda: os.open(self.path, flags, 0o666))
            try:
                before = os.fstat(descriptor).st_size
                try:
                    with open(descriptor, "ab", closefd=False) as file:
                        file.write(content)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._waiting.clear()


def _free_name(run: Path) -> Path:
    number = 1
    while os.path.lexists(run / f"log.damaged-{number}.jsonl"):
        number += 1
    return run / f"log.damaged-{number}.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's log that are rows of one."""
    return _lines(run)[0]


def _lines(run: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows of the log, and whether there are other lines than a last one that a kill cut short."""
    path = run / "log.jsonl"
    try:
        content = patiently(path.read_bytes)
    except FileNotFoundError:
        return [], False
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); move it away or restore it") from None
    rows, strange = [], False
    *lines, rest = content.split(b"\n")
    for line in lines:
        row = _row(line)
        if row is None:
            strange = True
        else:
            rows.append(row)
    last = _row(rest)  # without its line feed: whole, or cut short
    if last is not None:
        rows.append(last)
    return rows, strange or not (last is not None or rest == b"" or rest.startswith(b'{"step": '[: len(rest)]))


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int) or isinstance(row["step"], bool):
        return None
    return row
