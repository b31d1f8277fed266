"""Data-parallel training: equal bits for any number of ranks, and nobody who waits for ever."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tinydiff import Options, Run, Transformer, data, train
from tinydiff.learning import CheckpointError, ranks, shards, training
from tinydiff.learning.ranks import Alone, RankLost, in_process, together
from tinydiff.processes import PROCESSES, Divided, MaskedDiffusion
from tinydiff.processes.divided import is_divided, rows
from tinydiff.processes.named import VARIANTS, new_process

if TYPE_CHECKING:
    from conftest import Runs

SHARDS = {"shards": 8, "batch": 11, "steps": 6, "evaluate_every": 3, "log_every": 2, "evaluate_windows": 64}


def at_once(size: int, work: Callable[[ranks.Ranks], Any], patience: float = 20.0) -> list[Any]:
    """What each of that many ranks returns or raises, each in a thread of its own."""
    found: list[Any] = [None] * size

    def one(mine: ranks.Ranks) -> None:
        try:
            found[mine.rank] = work(mine)
        except BaseException as error:
            found[mine.rank] = error

    threads = [threading.Thread(target=one, args=[mine]) for mine in in_process(size, patience)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def trained(size: int, make: Callable[[bool], Run], until: int | None = None) -> list[Any]:
    """The runs of that many ranks after training; `make` is told whether to make the one that has the folder."""

    def work(mine: ranks.Ranks) -> Run:
        run = make(mine.rank == 0)
        for frame in train(run, mine):
            if frame.step == until:
                break
        return run

    return at_once(size, work)


def bits(run: Run) -> list[bytes]:
    """Everything that the next step depends on."""
    assert isinstance(run, Run), run
    return [array.tobytes() for array in run.arrays().values()] + [repr(run.rng.bit_generator.state).encode()]


# --- equal bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_any_number_of_ranks_gives_the_same_bits(runs: Runs, tmp_path: Path, optimiser: str) -> None:
    """A sum in the order of arrival, a norm of slices, a matrix cut in two, a shard that knows its neighbours."""
    options = SHARDS | {"optimiser": optimiser}
    for size in (1, 2, 3, 5, 8):
        folder = tmp_path / str(size)
        done = trained(size, lambda first, folder=folder: runs.new(folder if first else None, **options))
        assert all(bits(run) == bits(done[0]) for run in done)
        runs.assert_same(folder, tmp_path / "1")


def test_a_run_is_resumed_with_another_number_of_ranks(runs: Runs, tmp_path: Path) -> None:
    """State of slices that only their owners had, a generator that was behind."""
    whole = runs.train(runs.new(tmp_path / "whole", optimiser="muon", **SHARDS))
    folder = tmp_path / "parts"
    trained(3, lambda first: runs.new(folder if first else None, optimiser="muon", **SHARDS), until=2)
    for size, until in ((5, 3), (1, 4), (2, None)):

        def resumed(first: bool) -> Run:
            run = Run.resume(folder)
            run.folder = folder if first else None
            return run

        done = trained(size, resumed, until)
        assert all(bits(run) == bits(done[0]) for run in done)
    runs.assert_same(folder, tmp_path / "whole")
    assert bits(done[0]) == bits(whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_shards_change_nothing_but_the_rounding(runs: Runs, name: str) -> None:
    """g = sum over shards of their share times their own gradient, in float64; times and pairs drawn across all."""
    corpus = data.load("spiral") if name in ("ddpm", "flow") else data.load(str(runs.text))
    process = new_process(name, corpus)
    length = getattr(corpus, "length", 16)
    found = []
    for count in (1, 3):
        model = Transformer(
            getattr(corpus, "vocab_size", None), length, features=getattr(corpus, "features", None),
            classes=getattr(corpus, "classes", 0), d_model=8, layers=1, heads=2, time=process.needs_time,
            dtype=np.float64, rng=np.random.default_rng(0),
        )  # fmt: skip
        run = Run(corpus, process, model, Options(steps=2, batch=7, shards=count, warmup=1, optimiser="adamw"))
        batch = corpus.examples(length, 7, run.rng)
        loss = shards.Shares(run, Alone()).gradient(batch)
        found.append((loss, run.optimiser.flat.grads.copy(), run.rng.random()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=1e-12 * np.abs(found[0][1]).max())
    assert np.abs(found[0][1]).max() > 0
    assert found[0][2] == found[1][2]


def test_every_process_is_divided() -> None:
    """A subclass with a loss of its own, whose shards would be trained with the loss of its base."""
    assert all(issubclass(kind, Divided) for kind in PROCESSES.values())
    for kind in PROCESSES.values():
        assert is_divided(object.__new__(kind)), kind

    class Own(MaskedDiffusion):
        def loss(self, model: Any, batch: Any, rng: np.random.Generator) -> Any:
            return super().loss(model, batch, rng) * 2

    assert not is_divided(Own(3))


def test_draws_are_cut_by_rows() -> None:
    """Rows of every array; nothing of what is not there."""
    ids = np.arange(6).reshape(3, 2)
    label, part = rows((None, ids), slice(1, 3))
    assert label is None
    np.testing.assert_array_equal(part, ids[1:])


def test_slices_end_where_parameters_do() -> None:
    """A matrix in two slices; a place in none or in two; a rank without any is fine."""
    ends = [10, 14, 50, 51, 60]
    for count in (1, 2, 3, 8):
        found = shards.cuts(ends, count)
        assert len(found) == count
        assert [i for part in found for i in range(part.start, part.stop)] == list(range(60))
        assert {part.stop for part in found} <= {0, *ends}


# --- stopping together ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [0, 2])
def test_a_signal_to_one_stops_all_after_the_same_step(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: int
) -> None:
    """One that stops while the others wait for it, or two that save different steps."""
    folder, here = tmp_path / "run", threading.local()
    runs.train(runs.new(tmp_path / "whole", save_every=1000.0, **SHARDS))

    @contextmanager
    def stops_wait() -> Iterator[list[int]]:
        here.times = getattr(here, "times", 0) + 1
        yield [signal.SIGTERM] if here.rank == to and here.times == 4 else []  # in the third step

    monkeypatch.setattr(training, "stops_wait", stops_wait)

    def work(mine: ranks.Ranks) -> int:
        here.rank = mine.rank
        *_, last = train(runs.new(None if mine.rank else folder, save_every=1000.0, **SHARDS), mine)
        return last.step

    assert at_once(3, work) == [3, 3, 3]
    monkeypatch.undo()
    runs.train(Run.resume(folder), 5)
    runs.train(Run.resume(folder))
    runs.assert_same(folder, tmp_path / "whole")


def test_a_rank_that_fails_ends_the_others(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for ever, or write a checkpoint of half a step."""
    folder, draw = tmp_path / "run", MaskedDiffusion.draw

    def fails(self: Any, batch: Any, rng: np.random.Generator) -> Any:
        if threading.current_thread().name == "unlucky" and fails.calls == 3:
            raise MemoryError("no room")
        fails.calls += threading.current_thread().name == "unlucky"
        return draw(self, batch, rng)

    fails.calls = 0
    monkeypatch.setattr(MaskedDiffusion, "draw", fails)

    def work(mine: ranks.Ranks) -> None:
        if mine.rank == 1:
            threading.current_thread().name = "unlucky"
        list(train(runs.new(None if mine.rank else folder, save_every=0.0, **SHARDS), mine))

    start = time.monotonic()
    errors = at_once(3, work, patience=60)
    assert time.monotonic() - start < 20  # they are told, and do not lose patience
    assert [type(error) for error in errors] == [RankLost, MemoryError, RankLost]
    assert "another rank has failed" in str(errors[0])
    monkeypatch.undo()
    assert Run.resume(folder).step == 3
    assert not (folder / "training.lock").exists()


def test_a_rank_that_is_silent_is_not_waited_for(runs: Runs) -> None:
    """It hangs, or was killed: the others end by themselves."""
    heard, errors = threading.Event(), []

    def work(mine: ranks.Ranks) -> None:
        frames = train(runs.new(**SHARDS), mine)
        next(frames)
        if mine.rank:
            heard.wait(20)
        try:
            next(frames)
        except RankLost as error:
            errors.append((mine.rank, str(error)))
        heard.set()

    start = time.monotonic()
    at_once(2, work, patience=0.3)
    assert [rank for rank, _ in errors] == [0, 1]
    assert "rank 0 of 2 gives up" in errors[0][1]
    assert time.monotonic() - start < 10


def test_a_save_that_fails_is_everybodys_error(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone writes: the others would go on without a checkpoint."""
    save = Run.save

    def full(self: Run) -> None:
        if self.folder is not None and self.step:
            raise CheckpointError("the disk is full")
        save(self)

    monkeypatch.setattr(Run, "save", full)
    errors = at_once(
        3, lambda mine: list(train(runs.new(None if mine.rank else tmp_path / "run", save_every=0.0, **SHARDS), mine))
    )
    assert [type(error) for error in errors] == [CheckpointError, RankLost, RankLost]
    assert str(errors[2]) == "rank 0: the disk is full"
    assert all(error.agreed for error in errors)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_more_ranks_than_shards(runs: Runs, tmp_path: Path) -> None:
    """A rank without work, which would have to be left out of every sum."""
    errors = at_once(3, lambda mine: list(train(runs.new(shards=2), mine)))
    for error in errors:
        assert isinstance(error, ValueError)
        assert "3 ranks were started, but shards is 2" in str(error)


def test_shards_are_checked(runs: Runs) -> None:
    """A shard without a sequence, whose mean is of nothing; a loss that cannot be divided."""
    with pytest.raises(ValueError, match=r"shards is 5, but batch is 4"):
        Options(batch=4, shards=5)
    with pytest.raises(ValueError, match="shards is 0; it must be at least 1"):
        Options(shards=0)

    class Own(MaskedDiffusion):
        def loss(self, model: Any, batch: Any, rng: np.random.Generator) -> Any:
            return super().loss(model, batch, rng) * 2

    run = runs.new(shards=2)
    run.process = Own(run.process.vocab_size)
    with pytest.raises(ValueError, match="the loss of Own is in one piece"):
        next(train(run))


@pytest.mark.parametrize("what", ["version", "isa", "seed", "step", "arithmetic"])
def test_ranks_that_differ(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Other bits on one of them, which nobody would notice until the weights are two."""
    folder = tmp_path / "run"
    words = {
        "version": "the version of tinydiff is",
        "isa": "the instruction set is amx on rank 0 .*avx2 on rank 1 .*; set TINYDIFF_ISA=avx2 on all",
        "seed": "the run is",
        "step": "the run is",
        "arithmetic": "what arithmetic gives is",
    }

    class Told:
        """Rank 1's, who says something else."""

        def __init__(self, mine: Any) -> None:
            self.rank, self.size, self._mine = mine.rank, mine.size, mine

        def allgather(self, message: Any) -> Any:
            if isinstance(message, list) and isinstance(message[1], dict):
                key = {"version": "the version of tinydiff", "arithmetic": "what arithmetic gives"}.get(what)
                if what == "isa":
                    message[1]["the instruction set"] = "avx2" if self.rank else "amx"
                elif key and self.rank:
                    message[1][key] = "another"
            return self._mine.allgather(message)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._mine, name)

    def work(mine: ranks.Ranks) -> None:
        run = runs.new(None if mine.rank else folder, **SHARDS | {"seed": int(what == "seed" and mine.rank == 1)})
        if what == "step" and mine.rank == 1:
            run.step = 1
        list(train(run, Told(mine)))

    for error in at_once(2, work):
        assert isinstance(error, ValueError), error
        assert "the ranks differ, so that their bits would" in str(error)
        assert __import__("re").search(words[what], str(error)), str(error)
    assert Run.resume(folder).step == 0


def test_together() -> None:
    """An error of one is one of all; without ranks it is what it is."""

    def work(mine: ranks.Ranks) -> None:
        with together(mine):
            if mine.rank == 1:
                raise FileNotFoundError("no such text")

    errors = at_once(3, work)
    assert [type(error) for error in errors] == [ValueError, FileNotFoundError, ValueError]
    assert str(errors[0]) == "rank 1: no such text"
    with pytest.raises(OSError, match="mine"), together(Alone()):
        raise OSError("mine")


def test_ranks_at_different_places() -> None:
    """One that sums up what the other says."""

    def work(mine: ranks.Ranks) -> None:
        if mine.rank:
            mine.allgather(1)
        else:
            mine.allgatherv(np.zeros(2), [slice(0, 1), slice(1, 2)])

    assert [type(error) for error in at_once(2, work)] == [RankLost, RankLost]


def test_old_runs_have_one_shard(runs: Runs, tmp_path: Path) -> None:
    """A run that was made before there were shards says nothing of them."""
    from tinydiff.learning.checkpoint import read_config, write_config

    runs.train(runs.new(tmp_path / "whole", steps=4))
    runs.train(runs.new(tmp_path / "old", steps=4), 2)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    config = read_config(tmp_path / "old")
    assert config["training"].pop("shards") == 1
    write_config(tmp_path / "old", config)
    run = runs.train(Run.resume(tmp_path / "old"))
    assert run.options.shards == 1
    assert bits(run) == bits(runs.train(Run.resume(tmp_path / "new")))
