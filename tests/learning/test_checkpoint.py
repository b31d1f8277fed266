"""Runs on disk: written whole or not at all, and refused with advice when they are damaged."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tinydiff import Run, load
from tinydiff.learning import CheckpointError
from tinydiff.learning.checkpoint import FORMAT, read_config, write_config
from tinydiff.learning.files import write_atomically

if TYPE_CHECKING:
    from conftest import Runs

FILES = {"config.json", "state.safetensors", "log.jsonl"}
WEIGHT = "ema/head.weight"


def refused(folder: Path, advice: str) -> None:
    """Neither sampling nor training accepts the run; both say what to do."""
    for read in (load, Run.resume):
        with pytest.raises(CheckpointError, match=advice):
            read(folder)


def rewrite(folder: Path, change: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Replace arrays of the checkpoint, or leave out those that are None."""
    tensors = load_file(folder / "state.safetensors") | change
    with safe_open(folder / "state.safetensors", framework="numpy") as file:
        metadata = metadata or file.metadata()
    kept = {name: array for name, array in tensors.items() if array is not None}
    save_file(kept, folder / "state.safetensors", metadata)


# --- writing ----------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from pathlib import Path
from tinydiff import Run, train
from tinydiff.learning import CheckpointError
frames = train(Run.resume(Path(sys.argv[1])))
next(frames)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    frames.close()  # saves
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize(("room", "file"), [(5000, "state.safetensors"), (10, "log.jsonl")])
def test_full_disk(runs: Runs, tmp_path: Path, room: int, file: str) -> None:
    """A disk that fills up while saving: half a checkpoint in place of a whole one, or an error without advice."""
    folder = tmp_path / "run"
    runs.train(runs.new(folder), 7)
    before = (folder / "state.safetensors").read_bytes()
    assert len(before) > 5000
    script = [sys.executable, "-c", FULL_DISK, folder, str(room)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert f"cannot write {folder / file}" in done.stdout
    assert "File too large" in done.stdout
    assert "choose another folder or try again" in done.stdout
    assert "free some space" not in done.stdout
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "state.safetensors").read_bytes() == before
    load(folder)
    assert Run.resume(folder).step == 7


def test_folder_that_cannot_be_written(runs: Runs, tmp_path: Path) -> None:
    """A bare OSError, or a promise that a file is intact which was never there."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*config\.json: .* choose another folder") as error:
        runs.new(tmp_path / "file" / "run")
    assert "intact" not in str(error.value)


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that did not reach the disk before the file was replaced, or that stays as litter."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(runs: Runs, tmp_path: Path, umask: int, mode: int) -> None:
    """Temporary files made private by default: a run in a shared folder that nobody else can read."""
    before = os.umask(umask)
    try:
        runs.train(runs.new(tmp_path / "run"), 2)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()} == dict.fromkeys(
        FILES, mode
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def test_truncated_state(copied: Path) -> None:
    """A file that lost its end, by a crash or an unfinished copy: zeros in place of the rest, or a traceback."""
    path = copied / "state.safetensors"
    whole = path.read_bytes()
    some = random.Random(0).sample(range(9, len(whole)), 30)
    for size in [0, 1, 7, 8, 9, *some, len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(copied, r"state\.safetensors is damaged .* restore it or train again")


@pytest.mark.parametrize(
    "garbage", [b"garbage" * 100, b"\xff" * 100, b"\0" * 100, b"{}", b"\2" + b"\0" * 7 + b"{}"], ids=repr
)
def test_state_that_is_something_else(copied: Path, garbage: bytes) -> None:
    """Another file under the name, with lengths that mean nothing or no progress in the header."""
    (copied / "state.safetensors").write_bytes(garbage)
    refused(copied, r"state\.safetensors is damaged .* restore it or train again")


@pytest.mark.parametrize("progress", ["{}", "[]", '{"step": "7", "rng": {}}'])
def test_progress_that_lacks_something(copied: Path, progress: str) -> None:
    """A header without step or random state: a bare KeyError when training goes on."""
    rewrite(copied, {}, {"progress": progress})
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged .* restore it or train again"):
        Run.resume(copied)


def test_arrays_of_another_model(copied: Path) -> None:
    """Arrays that broadcast silently into a model of another shape, or that stay random because they are missing."""
    shape = load_file(copied / "state.safetensors")[WEIGHT].shape
    rewrite(copied, {WEIGHT: np.zeros((1, shape[1]), np.float32)})
    refused(copied, rf"{WEIGHT} in .* has shape \(1, {shape[1]}\), but config\.json describes \({shape[0]}, {shape[1]}")
    rewrite(copied, {WEIGHT: None})
    refused(copied, rf"lacks {WEIGHT}; it belongs to another model or optimiser than config\.json describes")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers(copied: Path, value: float) -> None:
    """Weights of a diverged run: samples of noise, without a word."""
    weight = load_file(copied / "state.safetensors")[WEIGHT]
    weight[1, 2] = value
    rewrite(copied, {WEIGHT: weight})
    refused(copied, rf"{WEIGHT} in .* contains NaN or inf; restore an earlier copy or train again")


def test_moments_that_are_not_numbers(copied: Path) -> None:
    """Only the averaged weights are checked, and training goes on with a broken optimiser."""
    rewrite(copied, {"adam.v/head.bias": np.full_like(load_file(copied / "state.safetensors")[WEIGHT][0], np.nan)})
    with pytest.raises(CheckpointError, match=r"state.safetensors is damaged \(its content"):
        load(copied)
    with pytest.raises(CheckpointError, match=r"adam.v/head.bias in .* contains NaN or inf"):
        Run.resume(copied)


def test_newer_format(copied: Path) -> None:
    """A run of a later version, misread instead of refused."""
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"format": FORMAT + 1}))
    refused(copied, rf"has format {FORMAT + 1}, newer than the {FORMAT} this version knows; upgrade tinydiff")


def test_missing_files(copied: Path, tmp_path: Path) -> None:
    """A mistyped path, answered with a traceback."""
    refused(tmp_path / "nowhere", r"there is no run in .*nowhere; train one with: tinydiff train --out .*nowhere")
    (copied / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no state.safetensors yet; resume the training with"):
        load(copied)
    assert Run.resume(copied).step == 0  # killed before the first save: starts again from the seed
    (copied / "config.json").unlink()
    refused(copied, r"is not a run: it has no config\.json; check the path")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"format": "1"}'], ids=repr)
def test_config_that_is_not_one(copied: Path, content: bytes) -> None:
    """Half a file, a file of another encoding or JSON of another kind: a traceback of the parser."""
    (copied / "config.json").write_bytes(content)
    refused(copied, r"config\.json (cannot be read|does not describe a run).* restore it or train again")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        *((name, None) for name in ("model", "process", "data")),
        *((name, "text") for name in ("model", "process", "data")),
        ("model", {"vocab_size": None}),
        ("model", {"heads": 3}),
        ("model", {"wings": 2}),
        ("process", {"process": "gan"}),
        ("process", {"vocab_size": "many"}),
        ("data", {"alphabet": None}),
        ("data", {"alphabet": "aa"}),
    ],
)
def test_config_that_lacks_something(copied: Path, section: str, change: Any) -> None:
    """A section or value that is missing, wrong or unknown: an error that does not name the file."""
    config = json.loads((copied / "config.json").read_text())
    if change is None:
        del config[section]
    elif isinstance(change, str):
        config[section] = change
    else:
        config[section] |= change
        config[section] = {name: value for name, value in config[section].items() if value is not None}
    (copied / "config.json").write_text(json.dumps(config))
    refused(copied, r"config\.json is incomplete.* restore it or train again")


@pytest.mark.parametrize("change", [{"lr": -1}, {"lr": "fast"}, {"ema": None}, {"momentum": 0.9}])
def test_training_options_that_mean_nothing(copied: Path, change: dict[str, Any]) -> None:
    """Options edited by hand into nonsense: an error that does not name the file."""
    config = read_config(copied)
    config["training"] |= change
    write_config(copied, config)
    with pytest.raises(CheckpointError, match=r"config\.json is incomplete.* restore it or train again"):
        Run.resume(copied)
