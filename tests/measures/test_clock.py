"""The race: its work is counted as it is done, and what it reports follows from what was measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tinydiff import Transformer, kernels
from tinydiff.measures import clock
from tinydiff.views import figures

LENGTH, STEPS = 6, 4
KINDS: list[clock.Kind] = ["cached", "uncached", "diffusion", "blocks"]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 in 2 looks: two of them, of which one is shorter."""
    monkeypatch.setattr(clock, "BLOCK", 4)
    monkeypatch.setattr(clock, "AT_ONCE", 2)


def network(time: bool = False) -> Transformer:
    return Transformer(5, LENGTH, d_model=8, layers=2, heads=2, time=time, rng=np.random.default_rng(0))


class Counter:
    """Counts the operations of the products that the kernels are asked for, from the shapes they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flops, self.calls = 0, 0
        matmul, attention = kernels.matmul, kernels.attention

        def counted_matmul(a: Any, b: Any, *rest: Any) -> Any:
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
            return matmul(a, b, *rest)

        def counted_attention(
            q: Any, k: Any, v: Any, mask: Any = None, causal: int = 0, *rest: Any, **named: Any
        ) -> Any:
            (batch, queries, heads, depth), keys = q.shape, k.shape[1]
            sees = np.ones((queries, keys), bool)
            if causal:
                at = np.arange(keys) // causal
                sees = at[keys - queries :, None] >= at
            self.flops += 2 * 2 * batch * heads * depth * int(sees.sum())
            self.calls += 1
            return attention(q, k, v, mask, causal, *rest, **named)

        monkeypatch.setattr(kernels, "matmul", counted_matmul)
        monkeypatch.setattr(kernels, "attention", counted_attention)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_of_the_kernels(kind: clock.Kind, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of two, the head on every position, the cache's keys not counted, a step or a block too many."""
    model, counter = network(), Counter(monkeypatch)
    frames = list(clock.sampler(kind, model, LENGTH, STEPS, batch, np.random.default_rng(0)))
    made = clock.calls(kind, LENGTH, STEPS, batch)
    assert counter.flops == sum(clock.flops(model, call) for call in made)
    assert counter.calls == model.layers * len(made)
    assert len(frames) == len(made) + 1


def test_flops_of_a_network_that_is_told_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two layers that read the time left out."""
    model, counter = network(time=True), Counter(monkeypatch)
    model(np.zeros((2, 4), np.int64), np.zeros(2))
    assert counter.flops == clock.flops(model, clock.Call(2, 4, 0, 8, False))


def test_draws_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusion draws for every mask at every step, left to right one token per step and sequence."""
    drawn: list[int] = []
    draw = clock.Draw.tokens

    def counted(self: clock.Draw, logits: Any, *rest: Any) -> Any:
        drawn.append(len(logits))
        return draw(self, logits, *rest)

    monkeypatch.setattr(clock.Draw, "tokens", counted)
    for kind in KINDS:
        drawn.clear()
        list(clock.sampler(kind, network(), LENGTH, STEPS, 2, np.random.default_rng(0)))
        assert sum(drawn) == clock.drawn(kind, LENGTH, STEPS, 2)


def test_without_a_cache_the_same_text_comes() -> None:
    """A racer that is slower because it does something else."""
    with_cache, without = (
        [frame.state for frame in clock.sampler(kind, network(), LENGTH, 0, 2, np.random.default_rng(1))]
        for kind in ("cached", "uncached")
    )
    np.testing.assert_array_equal(with_cache, without)


def test_costs_are_recovered() -> None:
    """Times made of known costs give these back, and predict a sampler from its calls, FLOPs and draws."""
    model, call, rate, draw = network(), 3e-3, 2e9, 5e-6
    one = clock.flops(model, clock.Call(1, 1, 0, 1, True))
    seconds: dict[Any, float] = {("one token",): clock.SHORT * (call + one / rate)}
    for n in (2, 3, 5):
        seconds["forward", n] = call + clock.flops(model, clock.Call(1, n, 0, n, False)) / rate
    for rows in (1, 5):
        seconds["draw", rows] = clock.SHORT * (2e-3 + rows * draw)  # with what is around any draw
    around: dict[clock.Kind, float] = {"cached": 1e-3, "uncached": 2e-3, "diffusion": 4e-3, "blocks": 5e-3}
    looks = {"cached": 5, "uncached": 5, "diffusion": 5, "blocks": 3}  # 5 tokens, and blocks of 4 and 1
    tokens = {"cached": 5, "uncached": 5, "diffusion": 5 + 4 + 3 + 2 + 1, "blocks": 4 + 2 + 1}
    for kind in KINDS:
        seconds["around", kind, 5] = looks[kind] * around[kind] + tokens[kind] * draw
    costs = clock.fit(model, seconds)
    assert (costs.call, costs.rate, costs.draw) == pytest.approx((call, rate, draw), rel=1e-9)
    assert costs.around == pytest.approx(around, rel=1e-9)
    work = sum(clock.flops(model, made) for made in clock.calls("diffusion", LENGTH, STEPS, 2))
    expected = STEPS * (call + 4e-3) + work / rate + 2 * (6 + 5 + 3 + 2) * draw
    assert costs.seconds(model, "diffusion", LENGTH, STEPS, 2) == pytest.approx(expected, rel=1e-9)


class Heard:
    """A network, and the shapes of what it was asked and answered."""

    def __init__(self, model: Any) -> None:
        self.model, self.answers = model, list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
        answer = self.model(x, *args, **options)
        self.answers.append((x.shape, answer.shape, answer.data.dtype))
        return answer


@pytest.mark.parametrize("kind", KINDS)
def test_idle_network_is_asked_and_answers_as_a_network_is(kind: clock.Kind) -> None:
    """A decoder timed alone with other shapes, or more often, than it has with the network that it stands for."""
    answers = []
    for asked in (network(), clock.Idle(network())):
        model: Any = Heard(asked)
        list(clock.sampler(kind, model, LENGTH, STEPS, 1, np.random.default_rng(0)))
        answers.append(model.answers)
    assert answers[0] == answers[1]


def test_calibration_runs_none_of_the_lengths_of_the_race() -> None:
    """A prediction of what was measured."""
    jobs = clock.calibration(network(), [5, LENGTH], np.random.default_rng(0))
    assert {job[1] for job in jobs if job[0] == "forward"} == {2, 4}
    for job in jobs.values():
        job()


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([-3.0, -1.0, 1.0, 5.0], 3.0),
        ([3.0, 1.0, -1.0, 5.0], 3.0),
        ([-2.0, 0.0, 3.0, 4.0], 2.0),
        ([-1.0, 3.0, 4.0, 5.0], 1.25),
        ([1.0, 2.0, 3.0, 4.0], None),
        ([-4.0, -3.0, -2.0, 0.0], 8.0),
        ([4.0, 3.0, 2.0, 0.0], 8.0),
    ],
)
def test_crossing(difference: list[float], expected: float | None) -> None:
    """The wrong pair of places, a step that is not straight, or a crossing invented where there is none."""
    assert clock.crossing([1, 2, 4, 8], difference) == expected


def test_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where every call of the network takes one second and nothing else any time: crossovers are known."""
    model, now = network(), [0.0]
    call = Transformer.__call__

    def slow(self: Transformer, x: Any, *rest: Any, **options: Any) -> Any:
        now[0] += 1.0 + clock.flops(self, clock.Call(1, np.shape(x)[1], 0, 1, False)) * 1e-9
        return call(self, x, *rest, **options)

    monkeypatch.setattr(Transformer, "__call__", slow)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    said: list[str] = []
    report = clock.race(
        model, model, lengths=[3, 6], steps=2, batch=2, repeats=3, rng=np.random.default_rng(0), progress=said.append
    )
    assert said[-1] == "batch of 2: 3/3"
    assert json.loads(json.dumps(report)) == report
    counts = [(e["kind"], e["length"], e["steps"]) for e in report["one"]]
    assert counts == [
        (kind, length, steps)
        for length in (3, 6)
        for kind, steps in [
            ("cached", length), ("uncached", length), ("blocks", {3: 2, 6: 4}[length]),
            *(("diffusion", s) for s in sorted({1, 2, 4, length}) if s <= length),
        ]
    ]  # fmt: skip
    assert {len(e["times"]) for e in report["one"]} == {3}  # warming up does not count
    for e in [*report["one"], *report["batch"]]:
        assert e["seconds"] == pytest.approx(e["calls"], rel=1e-3)
        assert e["tokens_per_second"] == pytest.approx(e["batch"] * e["length"] / e["calls"], rel=1e-3)
        assert e["predicted"] == pytest.approx(e["seconds"], rel=1e-3)
    for c in report["crossover_steps"]:
        assert c["measured"] is None or c["measured"] == pytest.approx(c["length"], rel=1e-3)
    lines = clock.table(report).splitlines()
    assert sum(line.startswith("diffusion, ") for line in lines) == 3 + 4 + 1
    figure = figures.race(report)
    assert [axes.get_title() for axes in figure.axes] == ["3 tokens", "6 tokens", "diffusion in 2 steps"]
    runs = [e for e in report["one"] if e["kind"] == "diffusion" and e["length"] == 6]
    assert figure.axes[1].lines[5].get_xydata().tolist() == [[e["steps"], 1000 * e["seconds"]] for e in runs]
    import matplotlib.pyplot as plt

    plt.close(figure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lengths": [6], "steps": 0}, "steps is 0; it must be at least 1"),
        ({"lengths": [6], "batch": 0}, "batch is 0; it must be at least 1"),
        ({"lengths": [6], "repeats": 0}, "repeats is 0; it must be at least 1"),
        ({"lengths": [0, 6]}, "lengths is 0; it must be at least 1"),
        ({"lengths": []}, "lengths is 0; it must be at least 1"),
        ({"lengths": [7], "steps": 1}, "lengths goes up to 7; these models take at most 6"),
        ({"lengths": [3, 6], "steps": 4}, "steps is 4, but the shortest length is 3"),
    ],
)
def test_bad_input(options: dict[str, Any], words: str) -> None:
    """Each says what was expected, before anything is run."""
    with pytest.raises(ValueError, match=words):
        clock.race(network(), network(), rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize(("new", "causal"), [(10, 4), (8, 4), (5, 1), (7, 0), (3, 8)])
def test_pairs_are_those_of_the_mask(new: int, causal: int) -> None:
    """Each query with every key that it sees, a last block that is shorter among them."""
    model = Transformer(5, 16, d_model=8, layers=1, heads=1, rng=np.random.default_rng(0))
    ends = [min((i // (causal or new) + 1) * (causal or new), new) for i in range(new)]
    work = 2 * 3 * new * 12 * 8 * 8 + 4 * 8 * 3 * (sum(ends) + 2 * new)
    assert clock.flops(model, clock.Call(batch=3, new=new, past=2, selected=0, causal=causal)) == work
