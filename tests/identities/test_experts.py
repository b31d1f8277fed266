"""Mixture of experts: equal ones are one, denoisers may let experts choose, autoregressive models may not."""

from typing import Any

import numpy as np
import pytest

from tinydiff import Autoregressive, MaskedDiffusion, Tensor, Transformer, check_grads, exact, experts, ops
from tinydiff.experts import Routing

V, L, E, D, F = 3, 4, 4, 6, 8


def mixed(routing: Routing, active: int = 2, seed: int = 0) -> Transformer:
    """A random network with experts whose router tells tokens apart."""
    rng = np.random.default_rng(seed)
    model = Transformer(
        V, L, d_model=8, layers=2, heads=2, experts=E, active=active, routing=routing, rng=rng, dtype=np.float64
    )
    model.params["embed"].data *= 50
    model.params["head.weight"].data *= 3
    model.params["position"].data += 0.5 * rng.standard_normal((L, 8))
    return model


def parts(seed: int = 0) -> tuple[Tensor, ...]:
    """Rows, matrices of E experts and router logits."""
    rng = np.random.default_rng(seed)
    shapes = ((10, D), (E, D, F), (E, F, D), (10, E))
    return tuple(Tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("routing", ["token", "expert"])
def test_X1_equal_experts_are_the_dense_layer(routing: Routing) -> None:
    """sum_e g_e FFN(x) = FFN(x) if sum_e g_e = 1: all experts chosen, or gates over those that took the token."""
    x, up, down, logits = parts()
    up.data[:], down.data[:] = up.data[0], down.data[0]
    dense = np.array(ops.gelu(Tensor(x.data @ up.data[0])).data @ down.data[0])
    chosen = np.ones((10, E), bool)
    if routing == "expert":  # any choice will do that leaves no token out
        chosen = np.random.default_rng(1).random((10, E)) < 0.5
        chosen[:, 0] |= ~chosen.any(axis=1)
    gate = experts.gates(logits, chosen, routing)
    np.testing.assert_allclose(gate.data.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(experts.mixture(x, up, down, gate, chosen).data, dense, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("routing", ["token", "expert"])
def test_X1_the_mixture_is_its_sum_and_has_its_gradients(routing: Routing) -> None:
    """y_t = sum_e g_te gelu(x_t U_e) D_e written out, and every gradient by finite differences; one expert is idle."""
    x, up, down, logits = parts()
    logits.data[:, 2] = -30  # never chosen by a token
    chosen = experts.chosen_by_token(logits.data, 2)
    if routing == "expert":
        chosen = np.random.default_rng(1).random((10, E)) < 0.4  # some by nobody
        chosen[3] = False
    gate = experts.gates(logits, chosen, routing).data
    by_hand = sum(gate[:, e, None] * (ops.gelu(Tensor(x.data @ up.data[e])).data @ down.data[e]) for e in range(E))
    y = experts.mixture(x, up, down, Tensor(gate), chosen)
    np.testing.assert_allclose(y.data, by_hand, rtol=1e-11, atol=1e-13)

    def answer(x: Tensor, up: Tensor, down: Tensor, logits: Tensor) -> Tensor:
        return experts.mixture(x, up, down, experts.gates(logits, chosen, routing), chosen)

    check_grads(answer, x.data, up.data, down.data, logits.data)


def test_X1_balance_and_z_are_in_the_gradient_and_not_in_the_loss() -> None:
    """`steadied` is the identity; its gradient is that of L_bal and z-loss, each by check_grads, beside the loss's."""
    *_, logits = parts()
    chosen = experts.chosen_by_token(logits.data, 2)
    check_grads(lambda h: experts.load_balance(h, chosen), logits.data)
    check_grads(experts.z_loss, logits.data)
    weights = np.random.default_rng(3).standard_normal(logits.shape)
    through = (experts.steadied(logits, chosen, 0.3, 0.2) * weights).sum()
    written = (logits * weights).sum() + experts.load_balance(logits, chosen) * 0.3 + experts.z_loss(logits) * 0.2
    assert through.item() == (logits * weights).sum().item()
    np.testing.assert_allclose(through.gradient(logits), written.gradient(logits), rtol=1e-10)
    even = np.tile(np.eye(E, dtype=bool), (3, 1)) | np.tile(np.roll(np.eye(E, dtype=bool), 1, 0), (3, 1))
    np.testing.assert_allclose(experts.load_balance(Tensor(np.zeros(even.shape)), even).item(), 2)  # k
    two = np.log(np.array([[0.51, 0.49], [0.51, 0.49], [1e-300, 1]]))  # under k = 1: no bound from below
    np.testing.assert_allclose(
        experts.load_balance(Tensor(two), experts.chosen_by_token(two, 1)).item(), 0.8933, atol=1e-4
    )


@pytest.mark.parametrize("routing", ["token", "expert"])
def test_X2_a_denoiser_may_choose_either_way(routing: Routing) -> None:
    """NELBO >= -log p and sum p = 1 over all x_0, exactly: p(x_0^i | x_t) may be any function of x_t."""
    check = exact.check_elbo(MaskedDiffusion(V), mixed(routing), L)
    np.testing.assert_allclose(np.exp(-check.nll).sum(), 1, rtol=1e-10)
    assert check.gap.max() > 1e-3


@pytest.mark.parametrize("active", [1, 2])
def test_X3_expert_choice_leaks_left_to_right(active: int) -> None:
    """Whether token i is taken depends on later ones: the "likelihoods" of all x do not sum to 1; by token they do.

    And the logits at the first position move when the last token changes.
    """
    x, rng = exact.all_sequences(V, L), np.random.default_rng(0)
    totals = {r: np.exp(-Autoregressive(V).bound(mixed(r, active), x, rng)).sum() for r in ("token", "expert")}
    np.testing.assert_allclose(totals["token"], 1, rtol=1e-12)
    assert abs(totals["expert"] - 1) > 1e-3
    moved = {}
    for routing in ("token", "expert"):
        logits = mixed(routing, active)(exact.all_sequences(V, L), causal=True).data[:, 0].reshape(V, -1, V)
        moved[routing] = np.ptp(logits, axis=1).max()  # the first token the same, later ones not
    assert moved["token"] < 1e-12
    assert moved["expert"] > 1e-3


@pytest.mark.parametrize(("length", "active", "room"), [(8, 2, 4), (7, 2, 3), (4, 1, 1), (2, 1, 1)])
def test_X4_every_expert_has_the_same_load(length: int, active: int, room: int) -> None:
    """Each takes exactly c = max(1, L k // E) tokens of every sequence, whatever the logits, ties too."""
    rng = np.random.default_rng(0)
    for logits in (rng.standard_normal((5, length, E)), np.zeros((5, length, E))):
        chosen = experts.chosen_by_expert(logits, active)
        assert (chosen.sum(axis=1) == room).all()
    best = np.argsort(-logits, axis=1, kind="stable")[:, :room]
    assert all(chosen[b, best[b, :, e], e].all() for b in range(5) for e in range(E))


@pytest.mark.parametrize("routing", ["token", "expert"])
def test_X4_no_sequence_depends_on_its_neighbours(routing: Routing) -> None:
    """The answer to a batch is that to each of its sequences alone."""
    model, x = mixed(routing), exact.all_sequences(V + 1, L)[::5]
    alone = np.concatenate([model(row[None]).data for row in x])
    np.testing.assert_allclose(model(x).data, alone, rtol=1e-9, atol=1e-12)


def test_an_expert_that_nobody_wants_breaks_nothing() -> None:
    """No NaN in loss or gradients, and a gradient of zero for it."""
    model = mixed("token", active=1)
    for i in range(2):
        model.params[f"block{i}.router.bias"].data[1] = -1e3
    loss = MaskedDiffusion(V).loss(model, exact.all_sequences(V, L), np.random.default_rng(0))
    loss.backward()
    for name, p in model.params.items():
        assert p.grad is not None
        assert np.isfinite(p.grad).all(), name
    up: Any = model.params["block0.experts.up"].grad
    assert not up[1].any()
    assert up[0].any()


def test_the_loads_can_be_seen() -> None:
    """`routes` takes who works for whom in every block."""
    for routing, rows in (("token", 2), ("expert", None)):
        model, routes = mixed(routing), []
        model(exact.all_sequences(V, L), routes=routes)
        assert [r.shape for r in routes] == [(V**L, L, E)] * 2
        assert rows is None or all((r.sum(axis=-1) == rows).all() for r in routes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": -1}, "experts is -1; it must be 0"),
        ({"experts": 4, "active": 5}, "active is 5, of 4 experts; expected 1 <= active <= 4"),
        ({"active": 2}, "active is 2, of 0 experts"),
        ({"experts": 4, "active": 3}, "does not divide the width"),
        ({"experts": 4, "routing": "both"}, "routing is 'both'; expected 'token' or 'expert'"),
    ],
)
def test_experts_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(V, L, d_model=8, heads=2, rng=np.random.default_rng(0), **options)


def test_a_cache_would_choose_others() -> None:
    model = mixed("expert")
    with pytest.raises(ValueError, match="experts that choose tokens would choose others"):
        model(np.zeros((1, 1), np.int64), causal=True, cache=model.new_cache(1))
    by_token = mixed("token")
    x = exact.all_sequences(V, L)[:7]
    cache, piece = by_token.new_cache(7), []
    for i in range(L):
        piece.append(by_token(x[:, i : i + 1], causal=True, cache=cache).data)
    np.testing.assert_allclose(np.concatenate(piece, axis=1), by_token(x, causal=True).data, rtol=1e-9, atol=1e-12)
