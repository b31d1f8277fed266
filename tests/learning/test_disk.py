"""Disks as people have them, two trainings, strangers in the folder, signals: nothing is lost or overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinydiff import Run, load, train
from tinydiff.learning import CheckpointError, files, interrupts, lock
from tinydiff.learning.checkpoint import read_config, read_log, write_config, write_state
from tinydiff.learning.optim import learning_rate

if TYPE_CHECKING:
    from conftest import Runs

FILES = ["config.json", "log.jsonl", "state.safetensors"]


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def begun(runs: Runs, tmp_path: Path) -> Path:
    """A run that stopped after 7 of 30 steps."""
    return runs.train(runs.new(tmp_path / "begun"), 7).folder


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["replace", "open"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY, errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT])
def test_what_is_refused_for_a_moment_is_tried_again(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virus scanner that holds the file for a moment ends hours of training."""
    real, refusals = getattr(os, call), [number] * len(files.PAUSES)

    def refuse(*arguments: Any) -> Any:
        if refusals:
            raise OSError(refusals.pop(), "Access is denied")
        return real(*arguments)

    monkeypatch.setattr(files, "PAUSES", (0.0,) * len(files.PAUSES))
    monkeypatch.setattr(os, call, refuse)
    files.write_atomically(tmp_path / "file", b"new")
    assert not refusals
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "space"),
    [(errno.EACCES, False), (errno.EROFS, False), (errno.EIO, False), (errno.ENOSPC, True), (errno.EDQUOT, True)],
)
def test_an_error_says_what_the_system_said(
    number: int, space: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To free some space where access is denied; litter, or a file that was there and is not."""
    (tmp_path / "file").write_bytes(b"old")

    def refuse(*arguments: Any) -> None:
        raise OSError(number, "so it said")

    monkeypatch.setattr(files, "PAUSES", (0.0,))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match=r"so it said; the previous file is intact; ") as error:
        files.write_atomically(tmp_path / "file", b"new")
    assert ("free some space" in str(error.value)) == space
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_temporary_name_is_never_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link laid under the temporary name: the file that it leads to is overwritten."""
    (tmp_path / "precious").write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "ab" * n)
    (tmp_path / f".file.{'ab' * 8}.new").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match=r"cannot write .*file"):
        files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / f".file.{'ab' * 8}.new").is_symlink()  # it is not ours to remove


def test_racing_writers(tmp_path: Path) -> None:
    """One temporary name for all: each takes away the other's file before it is renamed."""
    errors = []

    def write(letter: bytes) -> None:
        for _ in range(40):
            try:
                files.write_atomically(tmp_path / "file", letter * 10_000)
            except CheckpointError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    content = (tmp_path / "file").read_bytes()
    assert content in (bytes([content[0]]) * 10_000,)
    assert names(tmp_path) == ["file"]


def test_leftovers_of_a_kill_are_removed(runs: Runs, begun: Path) -> None:
    """Half a checkpoint for every kill, until the disk is full; or a file of somebody else removed with them."""
    (begun / f".state.safetensors.{'0f' * 8}.new").write_bytes(b"half")
    (begun / ".state.safetensors.mine.new").write_bytes(b"mine")
    runs.train(Run.resume(begun), 8)
    assert names(begun) == [".state.safetensors.mine.new", *FILES]


def test_commands_are_quoted_for_a_shell() -> None:
    """Two blanks that become one, an option in place of a path, a control character that colours the rest."""
    for path in ("a b", "a  b", "-x", "$HOME", "it's", "a\x1b[31mb\n", "café", "\udcff"):
        word = files.quoted(path)
        assert word.isprintable()
        said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
        assert said == os.fsencode(("./" if path == "-x" else "") + path)


# --- one training at a time -------------------------------------------------------------------------------------------


def test_a_second_training_is_refused(runs: Runs, begun: Path) -> None:
    """Two trainings in one folder: half of each log, and the checkpoint of whoever was last."""
    frames = train(Run.resume(begun))
    next(frames)
    with pytest.raises(CheckpointError, match=rf"is being trained by process {os.getpid()} on {socket.gethostname()}"):
        next(train(Run.resume(begun)))
    frames.close()
    assert names(begun) == FILES
    assert runs.train(Run.resume(begun), 9).step == 9


@pytest.mark.parametrize("system", ["locks", "no locks"])
def test_a_lock_outlives_nobody(runs: Runs, begun: Path, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a kill left behind, which keeps a run from being resumed for ever."""
    if system == "no locks":
        monkeypatch.setattr(lock, "_lock", lambda descriptor: _raise(OSError(errno.ENOLCK, "no locks")))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for content in (json.dumps({"pid": child, "host": socket.gethostname(), "since": "long ago"}), "", '{"pid'):
        (begun / lock.NAME).write_text(content)
        run = runs.train(Run.resume(begun), Run.resume(begun).step + 1)
        assert run.step > 7
        assert names(begun) == FILES


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("holder", [("ours", None), ("another", 1)])
def test_locks_where_the_system_has_none(
    begun: Path, holder: tuple[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive without locks: a training on another computer, or here, is not seen."""
    monkeypatch.setattr(lock, "_lock", lambda descriptor: _raise(OSError(errno.ENOLCK, "no locks")))
    host = socket.gethostname() if holder[0] == "ours" else "elsewhere"
    content = json.dumps({"pid": holder[1] or os.getppid(), "host": host, "since": "now"})
    (begun / lock.NAME).write_text(content)
    with pytest.raises(CheckpointError, match=rf"is being trained by process \d+ on {host} since now"):
        next(train(Run.resume(begun)))
    assert (begun / lock.NAME).read_text() == content


def test_a_lock_that_is_something_else(begun: Path) -> None:
    """Somebody's file of that name, overwritten and deleted."""
    (begun / lock.NAME).write_text("my notes")
    with pytest.raises(CheckpointError, match=r"training\.lock is not the lock of a training"):
        next(train(Run.resume(begun)))
    assert (begun / lock.NAME).read_text() == "my notes"
    (begun / lock.NAME).unlink()
    (begun / lock.NAME).symlink_to(begun / "log.jsonl")
    with pytest.raises(CheckpointError, match=r"cannot write .*training\.lock"):
        next(train(Run.resume(begun)))


@pytest.mark.parametrize("how", ["close", "start"])
def test_a_newer_state_is_never_overwritten(runs: Runs, begun: Path, how: str) -> None:
    """What was resumed long ago, and is now closed or begun, puts step 8 over step 30."""
    late = Run.resume(begun)
    frames = train(late)
    if how == "close":
        next(frames)
        (begun / lock.NAME).unlink()  # as on a drive without locks, or by hand
    runs.train(Run.resume(begun))
    newer = [(begun / name).read_bytes() for name in FILES]
    with pytest.raises(CheckpointError, match=r"was changed by another process, and is left as it is"):
        frames.close() if how == "close" else next(frames)
    assert [(begun / name).read_bytes() for name in FILES] == newer


# --- strangers and accidents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.safetensors", "log.jsonl"])
@pytest.mark.parametrize("kind", ["file", "link to nowhere", "folder"])
def test_files_of_others_are_left_alone(runs: Runs, tmp_path: Path, name: str, kind: str) -> None:
    """A folder that holds another program's checkpoint or log, which a new run replaces."""
    path = tmp_path / name
    if kind == "file":
        path.write_bytes(b"of another program")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=rf"holds a {name} that belongs to something else; choose another"):
        runs.new(tmp_path)
    assert names(tmp_path) == [name]
    assert kind != "file" or path.read_bytes() == b"of another program"


@pytest.mark.parametrize(
    "strange", [b"\xff\xfe\n", b"[1]\n", b'{"epoch": 3}\n', b'{"step": "3"}\n', b"null\n", b"free text", b"[" * 99999]
)
def test_a_log_with_strange_lines(runs: Runs, begun: Path, strange: bytes) -> None:
    """A run that cannot go on for a byte in its log, or a log that is emptied of what somebody wrote into it."""
    log = begun / "log.jsonl"
    rows, content = read_log(begun), log.read_bytes() + strange
    log.write_bytes(content)
    with pytest.warns(UserWarning, match=r"log\.jsonl has lines that are not of a log; it is kept as log.damaged-1"):
        runs.train(Run.resume(begun), 9)
    assert read_log(begun)[: len(rows)] == rows
    assert [row["step"] for row in read_log(begun)] == list(range(1, 10))
    assert (begun / "log.damaged-1.jsonl").read_bytes() == content


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_folder_that_goes_away(runs: Runs, begun: Path, how: str) -> None:
    """Success is reported, and there is no run, or half of one in the old place."""
    frames = train(Run.resume(begun))
    next(frames)
    if how == "removed":
        shutil.rmtree(begun)
    else:
        begun.rename(begun.with_name("renamed"))
    if how == "replaced":
        runs.train(runs.new(begun, seed=5), 3)
        theirs = [(begun / name).read_bytes() for name in FILES]
    with pytest.raises(CheckpointError, match=r"removed or renamed|changed by another process"):
        list(frames)
    if how == "replaced":
        assert [(begun / name).read_bytes() for name in FILES] == theirs
    else:
        assert not begun.exists()


@pytest.mark.parametrize("name", ["state.safetensors", "log.jsonl"])
def test_a_file_that_goes_away_is_written_again(runs: Runs, begun: Path, name: str) -> None:
    """A file deleted by mistake while the training runs, and with it all that is in memory."""
    frames = train(Run.resume(begun))
    next(frames)
    (begun / name).unlink()
    assert list(frames)[-1].step == 30
    assert Run.resume(begun).step == 30
    assert read_log(begun)[-1]["step"] == 30


# --- damage and edits -------------------------------------------------------------------------------------------------


def test_every_weight_is_covered_by_the_digest(copied: Path) -> None:
    """A bit of a weight, a moment, the step or the random state that is not as it was written."""
    path = copied / "state.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    arrays = range(start + 1, len(content), (len(content) - start) // 60)
    for at in [*arrays, content.index(b'step\\": 2') + 8, content.index(b'inc\\": ') + 9]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        for read in (load, Run.resume):
            with pytest.raises(CheckpointError, match=r"state\.safetensors (is damaged|contains NaN)"):
                read(copied)


HOSTILE = [
    ("model", "heads", "true"), ("model", "length", "1.5"), ("model", "layers", "1000000000"), ("model", "layers", "5"),
    ("model", "d_model", "80"), ("model", "length", "-16"), ("model", "positions", '"no"'), ("model", "time", "0"),
    ("model", "vocab_size", "null"), ("model", "dtype", '"object"'), ("model", "length", "1" + "0" * 30),
    ("model", "rng", "1"), ("model", "wings", "2"), ("model", "heads", "4"),
    ("training", "lr", "1" + "0" * 400), ("training", "lr", "1e400"), ("training", "lr", '"fast"'),
    ("training", "steps", "NaN"), ("training", "steps", "60"), ("training", "steps", "[3]"), ("training", "seed", "1"),
    ("training", "batch", "0"), ("training", "ema", "null"), ("training", "momentum", "0.9"),
    ("process", "process", "3"), ("process", "schedule", '"cosine"'), ("process", "vocab_size", "7"),
    ("data", "name", "3"), ("data", "alphabet", '"abc"'), ("data", "sha256", "null"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value"), HOSTILE)
@pytest.mark.parametrize("read", [load, Run.resume])
def test_hostile_configs(section: str, key: str, value: str, read: Any, copied: Path) -> None:
    """A value of the wrong type, a size beyond all reason, another option: a traceback, hours of building, silence."""
    path = copied / "config.json"
    config = json.loads(path.read_text())
    config[section][key] = "PLACE"
    path.write_text(json.dumps(config).replace('"PLACE"', value))
    start = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        read(copied)
    assert time.monotonic() - start < 2
    assert str(path) in str(error.value)
    assert key in str(error.value) or "not a number of JSON" in str(error.value)
    assert "restore it or train again" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("section", "key", "value"), [case for case in HOSTILE if case[2] not in ("NaN", "1e400")])
def test_hostile_configs_with_a_digest_of_their_own(section: str, key: str, value: str, copied: Path) -> None:
    """Whoever edits the config may reckon its digest too."""
    config = read_config(copied)
    config[section][key] = json.loads(value)
    if (section, key, value) in (("training", "steps", "60"), ("training", "seed", "1")):
        return  # a run like any other
    write_config(copied, config)
    with pytest.raises(CheckpointError, match=key):
        Run.resume(copied)


@pytest.mark.parametrize(
    ("section", "key"), [("model", "vocab_size"), ("training", "steps"), ("process", "vocab_size")]
)
def test_keys_that_are_missing(section: str, key: str, copied: Path) -> None:
    """A default in place of what the run was trained with."""
    path = copied / "config.json"
    config = json.loads(path.read_text())
    del config[section][key]
    path.write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=rf"config\.json is incomplete or altered \(.*{section}\.{key} is missing"
    ):
        Run.resume(copied)


def test_keys_that_are_there_twice(copied: Path) -> None:
    """Which of the two is meant?"""
    path = copied / "config.json"
    path.write_text(path.read_text().replace('"heads": 2', '"heads": 2, "heads": 2'))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read \('heads' is there twice\)"):
        Run.resume(copied)
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Run.resume(copied)


def test_a_state_of_another_run(runs: Runs, trained: Path, tmp_path: Path) -> None:
    """Weights of the same shapes, of another text or another process: samples of nothing in particular."""
    other = runs.train(runs.new(tmp_path / "other", "bert"), 2).folder
    shutil.copy(trained / "state.safetensors", other)
    with pytest.raises(CheckpointError, match=r"process\.process is 'bert', but was 'masked' when the state was writ"):
        load(other)


def test_arrays_that_broadcast(copied: Path) -> None:
    """A state with a digest of its own, and a scalar where a vector belongs."""
    tensors = load_file(copied / "state.safetensors")
    config = read_config(copied)
    progress = {"step": 1, "rng": np.random.default_rng(0).bit_generator.state, "config": config}
    write_state(copied, tensors | {"ema/norm.bias": np.zeros(1, np.float32)}, progress)
    with pytest.raises(CheckpointError, match=r"ema/norm.bias in .* has shape \(1,\)"):
        load(copied)


# --- more steps -------------------------------------------------------------------------------------------------------


def test_a_run_is_extended(runs: Runs, tmp_path: Path) -> None:
    """A rate that jumps, a schedule that is not the one promised, or an extension that a stop forgets."""
    rates = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        runs.train(runs.new(folder))
        run = Run.resume(folder)
        run.extend(steps=50, lr=4e-3)
        if folder.name == "b":
            for _ in range(3):
                runs.train(run, run.step + 5)
                run = Run.resume(folder)
        rates = [frame.lr for frame in train(run)]
    runs.assert_same(tmp_path / "a", tmp_path / "b")
    assert rates == [learning_rate(step, 20, 4e-3, 5) for step in range(15, 20)]
    assert [row["lr"] for row in read_log(tmp_path / "b")][30:] == [learning_rate(s, 20, 4e-3, 5) for s in range(20)]


def test_an_extension_that_means_nothing(begun: Path) -> None:
    """Fewer steps than are done; the config is left as it was."""
    before = (begun / "config.json").read_bytes()
    run = Run.resume(begun)
    with pytest.raises(ValueError, match=r"steps is 7, but 7 are done already; it must be more"):
        run.extend(steps=7)
    with pytest.raises(ValueError, match=r"lr is -1"):
        run.extend(lr=-1.0)
    run.extend(steps=30)
    assert (begun / "config.json").read_bytes() == before
    assert run.options.restart == 0


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", interrupts.STOPS)
def test_a_handler_of_the_application_is_called_once_all_is_saved(
    runs: Runs, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application's own answer to a signal is overruled, or comes in the middle of a step."""
    run, seen = runs.new(tmp_path / "run"), []
    loss = run.process.loss

    def interrupted(*arguments: Any) -> Any:
        if run.step == 4:
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert seen == []
        return loss(*arguments)

    monkeypatch.setattr(run.process, "loss", interrupted)
    before = signal.signal(number, lambda *_: seen.append(Run.resume(tmp_path / "run").step))
    try:
        frames = train(run)
        for _ in range(6):
            next(frames)
        frames.close()
    finally:
        assert callable(signal.signal(number, before))
    assert seen == [5]


@pytest.mark.parametrize("number", interrupts.STOPS)
def test_ignored_signals_stay_ignored(runs: Runs, number: int) -> None:
    """A training under nohup that the end of a session stops after all."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        frames = train(runs.new())
        with interrupts.stops_wait() as stops:
            signal.raise_signal(number)
            next(frames)
        frames.close()
        assert stops == []
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_stops_wait_for_the_block() -> None:
    """A stop that is forgotten, comes too early, or leaves its handler behind."""
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.stops_wait() as stops:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(list(stops))
    assert done == [[signal.SIGINT]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts.stops_wait() as stops:
        signal.raise_signal(signal.SIGINT)
        stops.clear()
    with warnings.catch_warnings():
        thread = threading.Thread(target=lambda: interrupts.stops_wait().__enter__())
        thread.start()
        thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_stop_during_the_save(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second Ctrl-C of an impatient person ends the save that the first one began."""
    run = runs.new(tmp_path / "run")
    frames = train(run)
    for _ in range(5):
        next(frames)
    real = os.fsync

    def interrupted(descriptor: int) -> None:
        signal.raise_signal(signal.SIGINT)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frames.close()
    monkeypatch.undo()
    assert Run.resume(tmp_path / "run").step == 5


def test_the_header_of_a_state_is_blamed_for_what_changed_in_it(begun: Path) -> None:
    """config.json, which is as it was written, is called altered when it is the state that is."""
    state = begun / "state.safetensors"
    content = state.read_bytes()
    assert content.count(b'\\"heads\\": 2') == 1
    state.write_bytes(content.replace(b'\\"heads\\": 2', b'\\"heads\\": 4'))
    with pytest.raises(
        CheckpointError, match=r"state\.safetensors is incomplete or altered \(model\.heads is 2, but was 4"
    ):
        load(begun)
