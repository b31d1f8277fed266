"""Muon: its step written out, and its way through options, runs and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinydiff import AdamW, Muon, Options, Run, Tensor, cli, evaluate
from tinydiff.kernels.reference import NEWTON_SCHULZ
from tinydiff.learning.checkpoint import write_config
from tinydiff.learning.config import SECTIONS
from tinydiff.learning.files import CheckpointError

if TYPE_CHECKING:
    from conftest import Runs

RNG = np.random.default_rng(0)
SHAPES = {
    "embed": (5, 4), "block0.qkv.weight": (4, 12), "block0.qkv.bias": (12,), "block0.up.weight": (4, 16),
    "block0.down.weight": (16, 4), "block0.experts.weight": (2, 4, 8), "head.weight": (4, 5),
}  # fmt: skip


def parameters(shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    return {name: Tensor(RNG.normal(size=shape), requires_grad=True) for name, shape in shapes.items()}


def orthogonal(u: np.ndarray) -> np.ndarray:
    """What five iterations do, by a decomposition."""
    left, s, right = np.linalg.svd(u, full_matrices=False)
    a, b, c = NEWTON_SCHULZ
    s = s / np.sqrt((s * s).sum())
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return (left * s) @ right


def test_step_written_out() -> None:
    """Jordan et al. 2024: Nesterov's momentum, orthogonalised, of each matrix by itself: queries, keys and values of
    qkv, and every one of a stack. All else moves as AdamW moves it, at the rate that `step` is told.
    """
    params = parameters()
    expected = {name: p.data.copy() for name, p in params.items()}
    means = {name: np.zeros_like(p) for name, p in expected.items()}
    others = {name: Tensor(p.data.copy(), requires_grad=True) for name, p in params.items() if "block" not in name}
    others["bias"] = Tensor(params["block0.qkv.bias"].data.copy(), requires_grad=True)
    adam = AdamW(others, weight_decay=0.1, clip=1e9)
    muon = Muon(params, relative_rate=3.0, weight_decay=0.1, clip=1e9)
    for _ in range(4):
        for name, p in params.items():
            g = RNG.normal(size=p.shape)
            p.grad += g
            if not (name.startswith("block") and p.ndim >= 2):
                others["bias" if "bias" in name else name].grad += g
                continue
            means[name] = m = 0.9 * means[name] + g
            u = g + 0.9 * m
            parts = [(slice(None), slice(4 * i, 4 * i + 4)) for i in range(3)] if "qkv" in name else [...]
            parts = [(i,) for i in range(2)] if p.ndim == 3 else parts
            for part in parts:
                inputs, outputs = u[part].shape
                step = max(1, outputs / inputs) ** 0.5 * orthogonal(u[part]) + 0.1 * expected[name][part]
                expected[name][part] -= 0.06 * step
        adam.step(0.02)
        muon.step(0.02)
    for name, p in params.items():
        other = others.get("bias" if "bias" in name else name)
        np.testing.assert_allclose(p.data, expected[name] if other is None else other.data, rtol=0, atol=1e-10)
        assert (p.grad == 0).all()


def test_no_matrix_to_work_on() -> None:
    """A model without blocks, trained by AdamW alone under the name of Muon."""
    with pytest.raises(ValueError, match="no matrix in a block"):
        Muon(parameters({"weight": (2, 3), "block0.bias": (3,)}))


def test_options_arrive(runs: Runs) -> None:
    """Each of them at the optimiser; the default is AdamW."""
    assert type(runs.new().optimiser) is AdamW
    muon = runs.new(optimiser="muon", lr=5e-3, muon_lr=0.04, weight_decay=0.3, clip=0.5).optimiser
    assert isinstance(muon, Muon)
    assert (muon.relative_rate, muon.weight_decay, muon.clip) == (8.0, 0.3, 0.5)
    assert muon.matrices == [f"block0.{name}.weight" for name in ("qkv", "out", "up", "down")]
    default = runs.new(optimiser="muon", lr=5e-3).optimiser
    assert isinstance(default, Muon)
    assert default.relative_rate == 4.0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optimiser", "adamw"], ("adamw", 0.002, None)),
        ([], ("muon", 0.02, None)),
        (["--optimiser", "muon", "--lr", "0.001", "--muon-lr", "0.05"], ("muon", 0.001, 0.05)),
    ],
)
def test_flags_arrive(flags: list[str], expected: tuple[str, float, float | None], runs: Runs, tmp_path: Path) -> None:
    """From the command line to the run in its folder, with the rates that suit the optimiser."""
    sizes = ["--length", "16", "--d-model", "8", "--layers", "1", "--heads", "2", "--steps", "1", "--batch", "2"]
    cli.app(["train", "--text", str(runs.text), "--out", str(tmp_path / "run"), *sizes, *flags], standalone_mode=False)
    options = Run.resume(tmp_path / "run").options
    assert (options.optimiser, options.lr, options.muon_lr) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimiser": "sgd"}, "optimiser is 'sgd'; expected 'adamw' or 'muon'"),
        ({"muon_lr": 0.02}, r"muon_lr is 0\.02, but the optimiser is 'adamw', which has no such option"),
        ({"optimiser": "muon", "muon_lr": 0.0}, r"muon_lr is 0\.0; it must be positive"),
        ({"optimiser": "muon", "muon_lr": np.nan}, "muon_lr is nan; it must be positive"),
    ],
)
def test_bad_options(options: dict[str, object], words: str) -> None:
    """An option that has no effect, taken in silence."""
    with pytest.raises(ValueError, match=words):
        Options(**options)


def test_resuming_changes_nothing(runs: Runs, tmp_path: Path) -> None:
    """Stopped and continued, or in one go: the same log and state, to the bit, with momentum instead of moments."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    runs.train(runs.new(whole, optimiser="muon"))
    runs.train(runs.new(halves, optimiser="muon"), 13)
    resumed = Run.resume(halves)
    assert isinstance(resumed.optimiser, Muon)
    runs.train(resumed)
    assert (whole / "log.jsonl").read_text() == (halves / "log.jsonl").read_text()
    assert (whole / "state.safetensors").read_bytes() == (halves / "state.safetensors").read_bytes()
    names = set(load_file(whole / "state.safetensors"))
    assert {name for name in names if name.startswith("muon.m/")} == {
        f"muon.m/block0.{name}.weight" for name in ("qkv", "out", "up", "down")
    }
    assert not {f"adam.{moment}/block0.up.weight" for moment in "mv"} & names
    assert {"adam.m/embed", "adam.v/block0.up.bias"} <= names


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimiser_is_refused(runs: Runs, tmp_path: Path, before: str, after: str) -> None:
    """A config edited by hand, and one whose digest was made anew: moments of nothing, or momentum lost."""
    folder = tmp_path / "run"
    runs.train(runs.new(folder, optimiser=before), 2)
    config = json.loads((folder / "config.json").read_text())
    config["training"]["optimiser"] = after
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"training\.optimiser is '{after}', but was '{before}'"):
        Run.resume(folder)
    write_config(folder, {name: config[name] for name in SECTIONS})
    with pytest.raises(CheckpointError, match=r"lacks .*; it belongs to another model or optimiser than config"):
        Run.resume(folder)


def test_runs_without_the_option_are_adamw(runs: Runs, tmp_path: Path) -> None:
    """What was trained before there was a choice goes on, and can be saved and read again."""
    runs.train(runs.new(tmp_path / "run"), 2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["training"]["optimiser"], config["training"]["muon_lr"]
    write_config(tmp_path / "run", {name: config[name] for name in SECTIONS})
    run = Run.resume(tmp_path / "run")
    assert type(run.optimiser) is AdamW
    runs.train(run)
    assert Run.resume(tmp_path / "run").step == 30


def test_extending_moves_both_rates(runs: Runs, tmp_path: Path) -> None:
    """A new peak for all but the matrices would change their proportion, and once more on resuming."""
    run = runs.new(tmp_path / "run", optimiser="muon", lr=6e-3)
    runs.train(run, 2)
    run.extend(steps=40)
    assert run.options.relative_rate == 0.02 / 6e-3
    run.extend(lr=5e-3)  # at which the proportion is another by a rounding
    assert run.options.muon_lr == pytest.approx(0.02 * 5 / 6)
    resumed = Run.resume(tmp_path / "run").optimiser
    assert isinstance(run.optimiser, Muon)
    assert isinstance(resumed, Muon)
    assert run.optimiser.relative_rate == resumed.relative_rate == pytest.approx(0.02 / 6e-3)


def test_it_learns_more_in_as_many_steps(runs: Runs) -> None:
    """The reason for it, on a tiny model: a sign or a scale that is wrong would not."""
    losses = []
    for options in ({"lr": 6e-3}, {"lr": 6e-3, "optimiser": "muon"}):
        run = runs.train(runs.new(steps=60, evaluate_every=60, process="autoregressive", **options))
        losses.append(run)
    adam, muon = (evaluate(run.model, run.process, run.corpus, windows=256)[0] for run in losses)
    assert muon < adam - 0.1
