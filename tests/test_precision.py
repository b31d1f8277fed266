"""`precision="bfloat16"`: it reaches every product of a network, forward and backward, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tinydiff import Run, Transformer, cli, kernels, load, no_grad, ops
from tinydiff.kernels.reference import _rounded as rounded
from tinydiff.tensor import Tensor, check_grads

if TYPE_CHECKING:
    from conftest import Runs

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def anywhere() -> Iterator[None]:
    """On a CPU without the products, those in NumPy."""
    before = kernels.active()
    if not kernels.has_bfloat16():
        kernels.use("numpy")
    yield
    kernels.use(before)


def leaf(*shape: int) -> Tensor:
    return Tensor(RNG.standard_normal(shape).astype(np.float32), requires_grad=True)


def network(**options: Any) -> Transformer:
    return Transformer(9, 8, d_model=16, layers=2, heads=2, time=True, rng=np.random.default_rng(0), **options)


def test_all_three_products_are_rounded() -> None:
    """y = x W + b + r, dx = g W^T, dW = x^T g: of rounded factors. Bias, residual and their gradients: as they are."""
    x, weight, bias, residual = leaf(2, 5, 7), leaf(7, 3), leaf(3), leaf(2, 5, 3)
    out = ops.linear(x, weight, bias, residual, "bfloat16")
    g = RNG.standard_normal(out.shape).astype(np.float32)
    out.backward(g)
    a, w, h = (rounded(v).astype(np.float64) for v in (x.data, weight.data, g))
    for got, want in (
        (out.data, a @ w + bias.data + residual.data), (x.grad, h @ w.T), (weight.grad, np.einsum("bli,blo->io", a, h)),
        (bias.grad, g.sum(axis=(0, 1))), (residual.grad, g),
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)  # roundings to bfloat16 are 1e-2 here
    assert np.abs(out.data - ops.linear(x, weight, bias, residual).data).max() > 1e-3


def test_attention_is_rounded_both_ways() -> None:
    """The output and its gradient: those of the kernels with rounded factors, far from those without."""
    qkv, mask = leaf(2, 6, 3, 2, 4), np.tri(6, dtype=bool)
    out = ops.self_attention(qkv, mask, precision="bfloat16")
    g = RNG.standard_normal(out.shape).astype(np.float32)
    out.backward(g)
    assert qkv.grad is not None
    q, k, v = (qkv.data[:, :, i] for i in range(3))
    want, lse = kernels.attention(q, k, v, mask, bfloat16=True)
    np.testing.assert_array_equal(out.data, want.reshape(out.shape))
    d = np.empty_like(qkv.data)
    parts = [d[:, :, i] for i in range(3)]
    kernels.attention_backward(g.reshape(want.shape), q, k, v, want, lse, *parts, mask, bfloat16=True)
    np.testing.assert_array_equal(qkv.grad, d)
    plain = Tensor(qkv.data, requires_grad=True)
    ops.self_attention(plain, mask).backward(g)
    assert plain.grad is not None
    assert np.abs(qkv.grad - plain.grad).max() > 1e-3


class Spy:
    """Whether each call of some kernels was to round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, list[bool]] = {"matmul": [], "attention": [], "attention_backward": []}
        for name in self.seen:
            monkeypatch.setattr(kernels, name, self.watched(name, getattr(kernels, name)))

    def watched(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(getattr(kernels.reference, name))

        def call(*arguments: Any, **named: Any) -> Any:
            self.seen[name].append(bool(signature.bind(*arguments, **named).arguments.get("bfloat16", False)))
            return kernel(*arguments, **named)

        return call


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_it_reaches_every_product(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is forgotten, or a gradient: 11 layers, two of time and one head among them; and attention."""
    spy, half = Spy(monkeypatch), precision == "bfloat16"
    model = network(precision=precision)
    model(np.zeros((2, 8), np.int64), np.full(2, 0.5)).backward(np.ones((2, 8, 9), np.float32))
    layers = sum(name.endswith("weight") and p.ndim == 2 for name, p in model.params.items())
    assert spy.seen["matmul"] == [half] * (3 * layers - 1)  # the gradient of the time's waves is not wanted
    assert spy.seen["attention"] == spy.seen["attention_backward"] == [half] * model.layers


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_cache_rounds_as_the_whole_does(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token after token with the keys and values that are kept: the logits of the whole sequence."""
    model = Transformer(9, 8, d_model=16, layers=2, heads=2, precision=precision, rng=np.random.default_rng(0))
    x = np.arange(16).reshape(2, 8) % 9
    want = model(x, causal=True).data
    spy, cache = Spy(monkeypatch), model.new_cache(2)
    with no_grad():
        got = np.concatenate([model(x[:, i : i + 1], causal=True, cache=cache).data for i in range(8)], axis=1)
    assert spy.seen["attention"] == [precision == "bfloat16"] * 8 * model.layers
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_config() -> None:
    """A network that is built again rounds again; the configs of others do not change."""
    assert "precision" not in network().config
    config = network(precision="bfloat16").config
    assert Transformer(**config, rng=RNG).precision == "bfloat16"
    assert network(precision="bfloat16").params["head.weight"].dtype == np.float32


def test_refused() -> None:
    """An unknown name, and numbers that are not float32: in a network, an operation and `check_grads`."""
    with pytest.raises(ValueError, match="precision is 'half'; expected 'full' or 'bfloat16'"):
        network(precision="half")
    with pytest.raises(ValueError, match="precision is 'bfloat16' and dtype float64; only float32 is rounded to it"):
        network(precision="bfloat16", dtype=np.float64)
    with pytest.raises(ValueError, match="precision is 'half'; expected"):
        ops.linear(leaf(2, 3), leaf(3, 4), leaf(4), precision="half")
    with pytest.raises(ValueError, match="precision is 'half'; expected"):
        ops.self_attention(leaf(1, 2, 3, 1, 2), precision="half")
    with pytest.raises(TypeError, match="x has dtype float64, but products in bfloat16 are of float32; use precision="):
        check_grads(lambda x: ops.self_attention(x, precision="bfloat16"), np.ones((1, 2, 3, 1, 2)))
    with pytest.raises(TypeError, match="x has dtype float64, but products in bfloat16 are of float32; use precision="):
        check_grads(lambda *xs: ops.linear(*xs, precision="bfloat16"), np.ones((2, 3)), np.ones((3, 4)), np.ones(4))


TINY = ["--length", "16", "--d-model", "8", "--layers", "1", "--heads", "2", "--batch", "2", "--precision", "bfloat16"]


def test_cpus_without_it(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clear error before anything is written, not a slow or a wrong product."""
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: False)
    with pytest.raises(NotImplementedError, match="neither AVX512_BF16 nor AMX; use precision='full'"):
        network(precision="bfloat16")
    monkeypatch.setattr("sys.argv", ["tinydiff", "train", f"--text={runs.text}", f"--out={tmp_path / 'run'}", *TINY])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: --precision is 'bfloat16', but this CPU")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_it(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed, it trains on to the same bits; loaded to sample, it needs no such CPU."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        cli.app(["train", f"--text={runs.text}", f"--out={folder}", "--steps=6", *TINY], standalone_mode=False)
    halves_run = Run.resume(halves)
    assert isinstance(halves_run.model, Transformer)
    assert halves_run.model.precision == "bfloat16"
    whole_run = Run.resume(whole)
    whole_run.extend(12)
    runs.train(whole_run)
    halves_run.extend(12)
    runs.train(halves_run, 9)
    runs.train(Run.resume(halves))
    runs.assert_same(whole, halves)
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: False)
    model, *_ = load(whole)
    assert model.precision == "full"
    with pytest.raises(NotImplementedError, match="use precision='full'"):
        Run.resume(whole)
