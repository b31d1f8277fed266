"""The network: what each position may see, its cache, its inputs, its shapes."""

import numpy as np
import pytest

from tinydiff import AdamW, MaskedDiffusion, Tensor, Transformer, check_grads, no_grad

V, L = 7, 9
RNG = np.random.default_rng(0)
X = RNG.integers(0, V + 1, (3, L))


def model(**options) -> Transformer:
    arguments = {"vocab_size": V, "length": L, "d_model": 16, "layers": 2, "heads": 2, "dtype": np.float64} | options
    made = Transformer(**arguments, rng=np.random.default_rng(1))
    if made.features is None:
        made.params["embed"].data *= 50  # so that tokens are told apart from the start
    return made


def moved_outputs(network: Transformer, position: int, **call) -> np.ndarray:
    """Which positions' logits change when the token at `position` does: (L,) of bool."""
    other = X.copy()
    other[:, position] = (X[:, position] + 1) % V
    with no_grad():
        return (network(X, **call).data != network(other, **call).data).any(axis=(0, 2))


POSITIONS = ["both", "rotary", "learned"]


@pytest.mark.parametrize("positions", POSITIONS)
def test_full_attention_sees_everything_and_causal_only_the_past(positions: str) -> None:
    """A mask off by one would leak the answer into an autoregressive model, or hide half of a bidirectional one."""
    network = model(positions=positions)
    for at in (0, 4, L - 1):
        assert moved_outputs(network, at).all()
        np.testing.assert_array_equal(moved_outputs(network, at, causal=True), np.arange(L) >= at)


def test_mask_decides_who_sees_whom() -> None:
    """Blocks of three that see themselves only: a change stays within its block, however many layers there are."""
    blocks = np.arange(L) // 3
    mask = blocks[:, None] == blocks
    np.testing.assert_array_equal(moved_outputs(model(), 4, mask=mask), blocks == 1)


def test_positions_matter() -> None:
    """Without positions, attention is blind to order: equal tokens would get equal answers everywhere."""
    same = np.full((1, L), 2)
    for positions in POSITIONS:
        network = model(positions=positions)
        swapped = X[:1, ::-1]
        assert not np.allclose(network(X[:1]).data, network(swapped).data[:, ::-1])
    assert np.ptp(model(positions="learned")(same).data, axis=1).max() > 1e-6


def test_masks_alone_can_be_told_apart() -> None:
    """What only distances place, rows of nothing but MASK, get one answer everywhere: nothing could be first.

    The default adds a vector per place, which starts at zero, so that an untrained network is the rotary one.
    """
    masks = np.full((1, L), V)
    rotary, default = model(positions="rotary"), model()
    assert np.ptp(rotary(masks).data, axis=1).max() < 1e-14
    np.testing.assert_array_equal(default(X).data, rotary(X).data)
    learnt = Transformer(V, L, d_model=16, layers=2, heads=2, rng=np.random.default_rng(1))
    optimiser, data = AdamW(learnt.params), np.tile(np.arange(L) % V, (8, 1))
    process, rng = MaskedDiffusion(V), np.random.default_rng(0)
    for _ in range(150):
        process.loss(learnt, data, rng).backward()
        optimiser.step(1e-2)
    np.testing.assert_array_equal(learnt(masks).data[0].argmax(axis=-1), data[0])


@pytest.mark.parametrize("block", [2, 3, 4, L])
def test_blocks_see_themselves_and_those_before(block: int) -> None:
    """As the mask that says so, forward and backward."""
    at = np.arange(L) // block
    network, mask = model(), at[:, None] >= at
    for position in (0, 4, L - 1):
        np.testing.assert_array_equal(moved_outputs(network, position, causal=block), at >= at[position])
    gradients = []
    for call in ({"causal": block}, {"mask": mask}):
        network(X, **call).sum().backward()
        gradients.append({name: p.grad.copy() for name, p in network.params.items()})
        for p in network.params.values():
            p.grad[...] = 0
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradient, gradients[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
def test_tokens_stand_where_they_are_said_to(positions: str) -> None:
    """The same places the same answer, whatever the order; for all sequences or each; several tokens in one place."""
    network, rng = model(positions=positions), np.random.default_rng(2)
    if positions == "both":
        network.params["position"].data[...] = rng.normal(size=(L, 16))
    plain = network(X).data
    np.testing.assert_array_equal(network(X, positions=np.arange(L)).data, plain)
    orders = np.stack([rng.permutation(L) for _ in X])
    moved = network(np.take_along_axis(X, orders, axis=1), positions=orders).data
    np.testing.assert_allclose(moved, np.take_along_axis(plain, orders[..., None], axis=1), rtol=1e-9, atol=1e-12)
    twice = np.tile(np.arange(L), 2)
    apart = np.repeat(np.eye(2, dtype=bool), L, axis=1).repeat(L, axis=0)  # two copies that do not see each other
    doubled = network(np.tile(X, 2), mask=apart, positions=twice).data
    np.testing.assert_allclose(doubled, np.tile(plain, (1, 2, 1)), rtol=1e-12, atol=1e-12)
    assert np.abs(network(X, positions=np.arange(L)[::-1]).data - plain).max() > 1e-3


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("chunks", [[1] * L, [4, 1, 4], [L]])
def test_cache_gives_the_same_logits(positions: str, chunks: list[int]) -> None:
    """Keys kept with the wrong rotation, or a mask aligned with the wrong end, would show here."""
    network = model(positions=positions)
    with no_grad():
        whole = network(X, causal=True).data
        cache, start, parts = network.new_cache(len(X)), 0, []
        for size in chunks:
            parts.append(network(X[:, start : start + size], causal=True, cache=cache).data)
            start += size
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12, atol=1e-12)


def test_select_is_a_shortcut_not_a_change() -> None:
    """Sending only some positions through the head gives the rows that the full answer would have."""
    network, select = model(), RNG.random(X.shape) < 0.5
    np.testing.assert_allclose(network(X, select=select).data, network(X).data[select], rtol=1e-12)
    assert network(X, select=np.zeros(X.shape, bool)).shape == (0, V)


def test_sequences_of_a_batch_do_not_touch() -> None:
    """Each row of a batch is answered as if it were alone."""
    network = model()
    alone = np.concatenate([network(x[None]).data for x in X])
    np.testing.assert_allclose(network(X).data, alone, rtol=1e-12, atol=1e-12)


def test_time_changes_the_answer_only_if_asked_for() -> None:
    """Each sequence has its own time; a model without time conditioning ignores it."""
    t = np.array([0.1, 0.5, 0.9])
    timed, timeless = model(time=True), model()
    assert not np.allclose(timed(X, t).data, timed(X, t[::-1]).data)
    np.testing.assert_array_equal(timed(X, t).data[1], timed(X, t[::-1]).data[1])
    np.testing.assert_array_equal(timeless(X, t).data, timeless(X).data)


def test_vectors_in_vectors_out() -> None:
    """The same class serves continuous data."""
    network = model(vocab_size=None, features=2, time=True)
    x = RNG.normal(size=(3, L, 2))
    out = network(x, np.full(3, 0.5))
    assert out.shape == (3, L, 2)
    assert out.dtype == np.float64


@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, {"positions": "learned"}, {"time": True}])
def test_gradients_of_all_parameters(options: dict) -> None:
    """The whole network against central differences: an op used wrongly shows even if each is right by itself."""
    network = model(d_model=4, layers=1, length=3, vocab_size=2, **options)
    x, t, names = np.array([[0, 2, 1]]), np.array([0.3]), list(network.params)

    def run(*values: Tensor) -> Tensor:
        network.params = dict(zip(names, values, strict=True))
        return network(x, t, causal=True)

    check_grads(run, *(p.data for p in network.params.values()), tolerance=1e-6)


def test_config_rebuilds_the_same_shape() -> None:
    """What a checkpoint stores is enough to build the network again."""
    network = model(time=True, positions="learned")
    again = Transformer(**network.config, rng=np.random.default_rng(1))
    assert {n: p.shape for n, p in again.params.items()} == {n: p.shape for n, p in network.params.items()}
    assert again.dtype == network.dtype


def test_same_seed_same_weights() -> None:
    """Nothing global decides the initial weights."""
    one, two = model(), model()
    assert all((one.params[n].data == two.params[n].data).all() for n in one.params)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": 2}, "exactly one"),
        ({"vocab_size": None}, "exactly one"),
        ({"heads": 3}, "multiple of heads"),
        ({"d_model": 6, "heads": 2}, "multiple of heads"),
        ({"layers": 0}, "layers is 0"),
        ({"length": 0}, "length is 0"),
        ({"positions": "absolute"}, "'absolute'"),
    ],
)
def test_bad_shapes(options: dict, words: str) -> None:
    """Each names the argument and its value."""
    with pytest.raises(ValueError, match=words):
        model(**options)


@pytest.mark.parametrize(
    ("x", "call", "words"),
    [
        (X[0], {}, r"x has shape \(9,\)"),
        (np.zeros((1, L + 1), int), {}, "10 positions"),
        (np.full((1, 2), V + 1), {}, "ids contains 8"),
        (X, {"mask": np.ones((2, 2), bool)}, "mask has shape"),
        (X, {"select": np.ones((2, 2), bool)}, "at has shape"),
        (X, {"causal": -2}, "causal is -2"),
        (X, {"positions": np.arange(L - 1)}, r"positions has shape \(8,\) .*expected \(9,\) or \(3, 9\) integers"),
        (X, {"positions": np.zeros(L)}, "dtype float64"),
        (X, {"positions": np.arange(L) + 1}, "positions contains 1..9; expected 0 <= position < 9"),
    ],
)
def test_bad_calls(x: np.ndarray, call: dict, words: str) -> None:
    """Each names the argument and what it should be."""
    with pytest.raises(ValueError, match=words):
        model()(x, **call)


def test_missing_time() -> None:
    """A network built to be told the time must be told it, one per sequence."""
    for t in (None, np.zeros(2)):
        with pytest.raises(ValueError, match=r"expected \(3,\)"):
            model(time=True)(X, t)
