"""What a user sets reaches the place where it acts, and what is measured is what is said.

Recorders stand in for the last link of a chain; where there is none to listen to, two settings must differ.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from tests.conftest import Runs
from tests.identities.conftest import random_model
from tests.test_cli import tinydiff
from tinydiff import (
    D3PM,
    Autoregressive,
    BlockDiffusion,
    MaskedDiffusion,
    Options,
    Run,
    ScoreEntropy,
    Tensor,
    Transformer,
    cli,
    data,
    decoders,
    evaluate,
    exact,
    load,
    train,
)
from tinydiff.arrays import Ints
from tinydiff.cli.train import GENERAL, SIZES, recipe_for
from tinydiff.data import Batch
from tinydiff.learning.checkpoint import read_config
from tinydiff.measures import dial
from tinydiff.measures.texts import ByLaw
from tinydiff.tensor import no_grad

V, L = 3, 4
PROCESSES: list[Any] = [
    MaskedDiffusion(V), BlockDiffusion(V, 2), D3PM(V, "absorbing", steps=9), D3PM(V, "uniform", steps=9),
    ScoreEntropy(V, "absorbing"),
    ScoreEntropy(V, "uniform"), Autoregressive(V),
]  # fmt: skip
TIMED = [process for process in PROCESSES if process.needs_time]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: str(process.config))
@pytest.mark.parametrize("call", ["loss", "bound"])
def test_labels_reach_the_network(process: Any, call: str) -> None:
    """In loss and bound of every process, sequence by sequence, and no label is none."""
    told: list[Any] = []
    model = Transformer(
        V, L, d_model=8, layers=1, heads=2, time=process.needs_time, classes=3, rng=np.random.default_rng(0)
    )
    answer = model.__call__

    class Listening(Transformer):
        def __call__(self, *args: Any, **options: Any) -> Tensor:
            told.append(options.get("label"))
            return answer(*args, **options)

    model.__class__ = Listening
    x0, label = np.random.default_rng(0).integers(0, V, (5, L)), np.array([2, 0, 1, 1, 0])
    getattr(process, call)(model, Batch(x0, label=label), np.random.default_rng(1))
    assert told
    assert all((one == label).all() for one in told)
    told.clear()
    getattr(process, call)(model, x0, np.random.default_rng(1))
    assert told
    assert all(one is None for one in told)


def test_options_reach_optimiser_and_average(runs: Runs) -> None:
    """weight_decay, clip and ema; each default is the one that Options names."""
    run = runs.new(weight_decay=0.07, clip=0.3, ema=0.5)
    assert (run.optimiser.weight_decay, run.optimiser.clip, run.ema.decay) == (0.07, 0.3, 0.5)
    corpus = data.load(str(runs.text))
    model = Transformer(corpus.vocab_size, 8, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
    plain, default = Run(corpus, MaskedDiffusion(corpus.vocab_size), model), Options()
    assert (plain.optimiser.weight_decay, plain.optimiser.clip) == (default.weight_decay, default.clip)
    assert plain.ema.decay == default.ema


def test_seed_and_batch_reach_the_training(runs: Runs) -> None:
    """Another seed, other windows; another batch, other gradients."""
    losses = {(seed, batch): next(train(runs.new(seed=seed, batch=batch))).loss for seed in (0, 1) for batch in (4, 8)}
    assert len(set(losses.values())) == 4
    assert next(train(runs.new(seed=1, batch=8))).loss == losses[1, 8]


def test_a_sweep_samples_as_its_cells_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order, temperature, steps and choice temperature of every cell arrive at `sample`, in that order."""
    process, made = MaskedDiffusion(data.load("sums").vocab_size), []
    model = random_model(process.vocab_size, 9)
    sample = process.sample

    def listening(*args: Any, decoder: Any, **options: Any) -> Any:
        made.append(decoder)
        return sample(*args, decoder=decoder, **options)

    monkeypatch.setattr(process, "sample", listening)
    cells = [("random", 0.5, 3), ("entropy", 1.0, 2), ("remask_cap", 2.0, 12)]
    for _ in dial.sweep(model, process, 9, ByLaw(data.LAWS["sums"]()), cells, texts=5, choice_temperature=1.5):
        pass
    assert made == [
        decoders.Random(3, decoders.Draw(0.5)),
        decoders.Entropy(2, decoders.Draw(1.0), choice_temperature=1.5),
        decoders.RemaskCap(12, draw=decoders.Draw(2.0)),
    ]


@pytest.mark.parametrize("process", [D3PM(V, "uniform", steps=9), ScoreEntropy(V, "uniform")], ids=["d3pm", "sedd"])
def test_the_draw_changes_the_step_back(process: Any) -> None:
    """At temperature 0 each position's law of x_0 is one token, so that x_s is the posterior of that token."""
    model = random_model(V, L, time=True)
    x, t, s = exact.all_sequences(V, L)[:7], 5 / 9, 4 / 9
    plain, greedy = (process.reverse(model, x, t, s, draw) for draw in (None, decoders.Draw(temperature=0)))
    best = exact.token_probabilities(model, x, t).argmax(axis=-1)
    level = [process.level(np.full((7, 1), time)) for time in (s, t)]
    joint = process.noise.rows(level[0], best) * process.noise.columns(level[1] - level[0], x)
    np.testing.assert_allclose(greedy, joint / joint.sum(axis=-1, keepdims=True), rtol=1e-9)
    assert np.abs(plain - greedy).max() > 0.01


class Clock:
    """A model that answers anything, and remembers the times it was told, with the states."""

    vocab_size, time = V, True

    def __init__(self) -> None:
        self.told: list[tuple[Ints, np.ndarray]] = []

    def __call__(self, x: Ints, t: Any = None, *, causal: int = 0, select: Any = None) -> Tensor:
        self.told.append((x, np.array(t)))
        logits = np.zeros((*x.shape, V))
        return Tensor(logits if select is None else logits[select])


@pytest.mark.parametrize("process", TIMED, ids=lambda process: str(process.config))
def test_chains_tell_the_network_the_time_they_come_from(process: Any) -> None:
    """Step i of n is told t = 1, 1 - 1/n, ..., 1/n for every sequence."""
    clock = Clock()
    kind = process.decoded_by[0]
    list(process.sample(clock, L, 2, decoder=kind(steps=3), rng=np.random.default_rng(0)))
    np.testing.assert_allclose([t for _, t in clock.told], [[1, 1], [2 / 3, 2 / 3], [1 / 3, 1 / 3]])


@pytest.mark.parametrize("decoder", [decoders.LowConfidence(), decoders.Random(), decoders.Ancestral(4)], ids=str)
def test_decoders_of_masks_tell_the_time(decoder: Any) -> None:
    """From 1 down, never rising, and never 0 while there are masks."""
    clock = Clock()
    list(MaskedDiffusion(V).sample(clock, L, 2, decoder=decoder, rng=np.random.default_rng(0)))
    times = np.array([t for _, t in clock.told])
    assert (times[0] == 1).all()
    assert (np.diff(times, axis=0) <= 0).all()
    assert (times > 0).all()
    assert times[-1].max() < 1


@pytest.mark.parametrize("process", [MaskedDiffusion(V), *TIMED], ids=lambda process: str(process.config))
def test_loss_and_bound_tell_each_sequence_its_own_time(process: Any) -> None:
    """The times are spread over (0, 1], and a sequence is noised the more the later its time."""
    x0 = np.zeros((400, L), int)
    for call in (process.loss, process.bound):
        clock = Clock()
        call(clock, x0, np.random.default_rng(0))
        ((xt, t),) = clock.told
        assert t.shape == (400,)
        assert 0 < t.min() <= 0.25
        assert 0.75 < t.max() <= 1
        assert np.corrcoef(t, (xt != 0).mean(axis=1))[0, 1] > 0.3


def test_evaluation_looks_at_held_out_text_only(runs: Runs) -> None:
    """Every window comes from the last tenth, the free tokens are counted, and the figure is in bits."""
    run = runs.new()
    corpus, seen = run.corpus, []

    class Counting(MaskedDiffusion):
        def bound(self, model: Any, batch: Any, rng: Any, **options: Any) -> Any:
            seen.append(batch.x0)
            return np.full(len(batch.x0), 3.0)

    mean, *_ = evaluate(run.model, Counting(corpus.vocab_size), corpus, windows=64)
    held = corpus.held_out
    windows = {
        held[i : i + run.model.length].astype(np.int64).tobytes() for i in range(len(held) - run.model.length + 1)
    }
    assert {row.tobytes() for row in np.concatenate(seen)} <= windows
    assert mean == pytest.approx(3.0 / run.model.length / np.log(2))


def test_the_error_of_an_evaluation_is_that_of_its_mean(runs: Runs) -> None:
    """Not a standard deviation of the windows: sixteen times the windows, about a quarter of it at most."""
    run = runs.new()
    few, many = (evaluate(run.model, run.process, run.corpus, windows=n)[1] for n in (64, 1024))
    assert 0 < many < few


class Priced(MaskedDiffusion):
    """Every token costs its id in nats, whatever stands around it."""

    def bound(self, model: Any, batch: Any, rng: Any, **options: Any) -> Any:
        return batch.x0.sum(axis=1).astype(float)


@pytest.mark.parametrize("windows", [64, 3200])
def test_the_error_of_an_evaluation_is_what_another_text_would_change(windows: int) -> None:
    """The spread of the figure over 150 texts, each of 100 held-out windows: more windows than that are no more text.

    The spread is known within 6 %, the mean square of the errors within 10 %; two-sided at 3 of both together. Windows
    taken as independent would give a fifth of it for 3,200.
    """
    rng, codec, model = np.random.default_rng(0), data.Characters("".join(map(chr, range(97, 105)))), Clock()
    found = []
    for _ in range(150):
        corpus = data.Corpus("drawn", codec.decode(rng.integers(0, 8, 8000)), codec)
        found.append(evaluate(model, Priced(8), corpus, windows=windows, length=8))
    means, errors = (np.array([f[i] for f in found]) for i in (0, 1))
    assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(ddof=1), rel=0.3)


def test_contexts_are_left_when_an_error_leaves_them() -> None:
    """Gradients are recorded again."""
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    x = Tensor(np.ones(2), requires_grad=True)
    (x * x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("command", "more"), [("sample", ["--batch=2"]), ("infill", ["the ____ sat"])])
def test_sample_and_infill_take_their_seed(command: str, more: list[str], trained: Path) -> None:
    """Two seeds, two texts; one seed, one text."""
    options = [command, trained, *more, "--temperature=2"]
    texts = [tinydiff(*options, f"--seed={seed}").stdout for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


def test_check_elbo_sees_a_law_that_does_not_sum_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of the oracle: a bound below the likelihood, and probabilities that are too many or too few."""
    process, model = MaskedDiffusion(V), random_model(V, L)
    nll = exact.any_order_nll
    monkeypatch.setattr(exact.masked, "any_order_nll", lambda *args: nll(*args) + 1e-6)
    with pytest.raises(AssertionError, match="the bound is broken"):
        exact.check_elbo(process, model, L)
    monkeypatch.setattr(exact.masked, "any_order_nll", nll)
    bound = exact.nelbo
    monkeypatch.setattr(exact.masked, "nelbo", lambda *args, **options: bound(*args, **options) - 0.5)
    with pytest.raises(AssertionError, match="the bound is broken"):
        exact.check_elbo(process, model, L)


def test_total_variation_between_disjoint_laws_is_one() -> None:
    """And half the mass that has to move otherwise."""
    assert exact.total_variation(np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])) == 1
    assert exact.total_variation(np.array([0.5, 0.5, 0]), np.array([0.25, 0.25, 0.5])) == 0.5


def test_levels_of_an_odd_number_of_steps() -> None:
    """Every time i / T finds its own level, also where i / T * T is not i: T = 49."""
    process = D3PM(V, "uniform", steps=49)
    times = np.arange(50) / 49
    np.testing.assert_allclose(process.level(times), process.noise.level(1 - times), rtol=1e-12)


def test_loaded_runs_are_told_apart_from_their_training(trained: Path) -> None:
    """What is loaded for sampling are the averaged weights."""
    model, *_ = load(trained)
    run = Run.resume(trained)
    averaged = run.optimiser.flat.named(run.ema.values)
    for name, parameter in model.params.items():
        np.testing.assert_array_equal(parameter.data, averaged[name])
        np.testing.assert_array_equal(run.averaged().params[name].data, averaged[name])


def helped(command: str, option: str) -> str:
    """What `--help` says of an option."""
    (parameter,) = [p for p in typer.main.get_command(cli.app).commands[command].params if option in p.opts]
    return parameter.help


def test_defaults_of_training_are_those_in_the_help(runs: Runs, tmp_path: Path) -> None:
    """A number in the help that the code has left behind, or the other way round."""
    out = tmp_path / "run"
    done = tinydiff("train", "--text", runs.text, "--out", out, "--steps=1", "--length=8")
    assert done.returncode == 0, done.stderr
    config = read_config(out)
    for option, section, key in (
        ("--batch", "training", "batch"), ("--lr", "training", "lr"), ("--d-model", "model", "d_model"),
        ("--layers", "model", "layers"), ("--heads", "model", "heads"),
    ):  # fmt: skip
        assert f"default {config[section][key]:g}" in helped("train", option)
    for option, key in (("--steps", "steps"), ("--length", "length")):
        assert f"default {cli.train.SIZES['S'][key]}" in helped("train", option)
    assert config["training"]["optimiser"] == "muon"
    assert "muon for the matrices of the blocks (default)" in helped("train", "--optimiser")
    assert config["process"]["estimator"] == "count"
    assert "count (default)" in helped("train", "--estimator")
    assert config["process"]["process"] == "masked"
    assert "masked (default)" in helped("train", "--process")
    assert config["process"]["schedule"] == "linear"
    assert "linear (default)" in helped("train", "--schedule")
    assert "characters (default)" in helped("train", "--tokens")
    assert "alphabet" in config["data"]


def test_one_knob_for_all_sizes(runs: Runs, tmp_path: Path) -> None:
    """--size turns everything at once, what is set beside it stands, and --optimiser brings its own rate."""
    done = tinydiff(
        "train", "--text", runs.text, "--out", tmp_path, "--size=XS", "--steps=1", "--heads=4", "--optimiser=adamw",
        "--estimator=time",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config, wanted = read_config(tmp_path), cli.train.SIZES["XS"]
    for name in ("d_model", "layers", "length"):
        assert config["model"][name] == wanted[name]
    assert (config["model"]["heads"], config["training"]["batch"]) == (4, wanted["batch"])
    assert (config["training"]["steps"], config["training"]["lr"]) == (1, cli.train.RATES["adamw"])
    assert config["training"].get("optimiser", "adamw") == "adamw"
    assert "estimator" not in config["process"]
    assert set(wanted) == set(cli.train.SIZES["S"]) == set(cli.train.SIZES["M"]) == set(cli.train.SIZES["L"])


@pytest.mark.parametrize("command", ["sample", "infill"])
def test_defaults_of_sampling_are_those_in_the_help(
    command: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder that is made when nothing is said."""
    made: list[Any] = []
    sample = MaskedDiffusion.sample

    def listening(*args: Any, decoder: Any, **options: Any) -> Any:
        made.append(decoder)
        return sample(*args, decoder=decoder, **options)

    monkeypatch.setattr(MaskedDiffusion, "sample", listening)
    monkeypatch.setattr(sys, "argv", ["tinydiff", command, str(trained), *(["the _at"] if command == "infill" else [])])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    (decoder,) = made
    assert type(decoder) is decoders.LowConfidence
    assert "low_confidence (default)" in helped(command, "--remasking")
    assert f"default {decoder.draw.temperature}" in helped(command, "--temperature")
    assert decoder.steps is None
    assert "default one per masked position" in helped(command, "--steps")
    said = re.search(r"default (\d+) of sample and (\d+) of infill", helped(command, "--choice-temperature"))
    assert decoder.choice_temperature == float(said[1 if command == "sample" else 2])
    assert (decoder.draw.top_k, decoder.draw.top_p, decoder.block_length) == (None, None, None)


def test_what_was_typed_comes_before_the_size_and_that_before_the_recipe_of_the_data() -> None:
    """A rate is of its optimiser: another one does not inherit it. Whole vectors are as long as they are."""
    spiral = replace(data.load("spiral"), recipe={"length": 2, "optimiser": "adamw", "lr": 0.005})
    assert recipe_for(spiral, None, {}) == GENERAL | SIZES["S"] | spiral.recipe
    assert recipe_for(spiral, None, {"optimiser": "adamw"})["lr"] == spiral.recipe["lr"]
    assert "lr" not in recipe_for(spiral, None, {"optimiser": "muon"})
    chosen = recipe_for(spiral, "M", {"layers": 7})
    assert (chosen["layers"], chosen["d_model"]) == (7, SIZES["M"]["d_model"])
    assert chosen["length"] == spiral.recipe.get("length", SIZES["S"]["length"]) != SIZES["M"]["length"]
