"""What is copied or pickled is the same thing again: runs train on to the same bits, or say why they cannot."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Runs
from tinydiff import FlowMatching, GaussianDiffusion, Run, Transformer, data, decoders, schedules, train
from tinydiff.processes.named import VARIANTS, new_process

COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


def weights(run: Run) -> bytes:
    """All parameters, as bytes."""
    return b"".join(p.data.tobytes() for p in run.model.params.values())


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_a_copied_run_trains_to_the_same_bits(copied: Callable[[Run], Run], runs: Runs, tmp_path: Path) -> None:
    """From the middle of a training, beside the original and without touching it or its folder."""
    run = runs.new(tmp_path / "run")
    frames = train(run)
    for _ in range(3):
        next(frames)
    before = weights(run)
    other = copied(run)
    assert other.folder is None
    losses = [frame.loss for frame in train(other)]
    assert weights(run) == before != weights(other)
    assert losses == [frame.loss for frame in frames]
    assert weights(run) == weights(other)
    np.testing.assert_array_equal(run.ema.values, other.ema.values)


def test_two_runs_do_not_share_a_model(runs: Runs) -> None:
    """The second takes the parameters over; the first says so in place of training an array that nobody reads."""
    first = runs.new()
    next(train(first))
    second = Run(first.corpus, first.process, first.model, first.options)
    with pytest.raises(ValueError, match=r"is not this run's any more.*copy\.deepcopy\(model\)"):
        next(train(first))
    assert next(train(second)).grad_norm > 0


def test_a_step_that_failed_leaves_nothing_behind(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a gradient of NaN, or a step broken off halfway, the next has the gradient of its own loss alone."""
    run = runs.new()
    next(train(run))
    run.optimiser.flat.grads[...] = np.nan
    with pytest.raises(FloatingPointError, match="the gradient became nan"):
        run.optimiser.step(1e-3)
    other = copy.deepcopy(run)

    def breaking(*args: Any) -> Any:
        loss = type(run.process).loss(run.process, *args)
        loss.backward()
        raise MemoryError

    monkeypatch.setattr(run.process, "loss", breaking)
    with pytest.raises(MemoryError):
        next(train(run))
    monkeypatch.undo()
    run.rng = copy.deepcopy(other.rng)
    frames = [next(train(each)) for each in (run, other)]
    assert frames[0].grad_norm == frames[1].grad_norm > 0


@pytest.mark.parametrize("name", [*VARIANTS])
@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_processes(name: str, copied: Callable[[Any], Any], runs: Runs) -> None:
    """A copy of a process and of a model has the same loss, and its own arrays."""
    of_vectors = VARIANTS[name][0] in (GaussianDiffusion, FlowMatching)
    corpus: Any = data.load("moons") if of_vectors else data.load(str(runs.text))
    process = new_process(name, corpus)
    size: dict[str, Any] = {"features": corpus.features} if of_vectors else {}
    model = Transformer(
        None if of_vectors else corpus.vocab_size, corpus.length if of_vectors else 8, d_model=8, layers=1, heads=2,
        time=of_vectors or process.needs_time, rng=np.random.default_rng(0), **size,
    )  # fmt: skip
    batch = corpus.examples(model.length, 4, np.random.default_rng(1))
    other, its_model = copied((process, model))
    losses = [p.loss(m, batch, np.random.default_rng(2)).item() for p, m in ((process, model), (other, its_model))]
    assert losses[0] == losses[1]
    assert other.config == process.config


@pytest.mark.parametrize("make", [*schedules.SCHEDULES.values(), lambda: schedules.loglinear(0.1)])
@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_schedules(make: Callable[[], schedules.Schedule], copied: Callable[[Any], Any]) -> None:
    """Options that are not the defaults included."""
    schedule, t = make(), np.linspace(0, 1, 7)
    np.testing.assert_array_equal(copied(schedule).alpha(t), schedule.alpha(t))
    np.testing.assert_array_equal(copied(schedule).inverse(t), schedule.inverse(t))


def test_decoders() -> None:
    """They are values: a copy equals its original."""
    for decoder in (
        decoders.LowConfidence(3, draw=decoders.Draw(temperature=0.5)),
        decoders.Chain(4),
        decoders.DDIM(5),
    ):
        for copied in COPIES:
            assert copied(decoder) == decoder
