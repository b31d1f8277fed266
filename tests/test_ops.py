"""The network's operations: gradients on both sets of kernels, and their errors."""

from collections.abc import Iterator

import numpy as np
import pytest

from tinydiff import Tensor, check_grads, kernels, ops

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4))
QKV = RNG.normal(size=(2, 5, 3, 2, 4))
ANGLES = RNG.normal(size=(5, 2))
MASK = RNG.random((2, 5, 5)) < 0.6

OPERATIONS = {
    "linear": (ops.linear, X, RNG.normal(size=(4, 5)), RNG.normal(size=5)),
    "linear with residual": (ops.linear, X, RNG.normal(size=(4, 5)), RNG.normal(size=5), RNG.normal(size=(2, 3, 5))),
    "embedding": (lambda table: ops.embedding(table, np.array([[3, 0, 3], [1, 1, 1]])), RNG.normal(size=(5, 4))),
    "embedding of nothing": (lambda table: ops.embedding(table, np.zeros((0, 3), int)), RNG.normal(size=(5, 4))),
    "layer_norm": (ops.layer_norm, X, RNG.normal(size=4), RNG.normal(size=4)),
    "gelu": (ops.gelu, 3 * X),
    "softmax": (ops.softmax, X),
    "log_softmax": (ops.log_softmax, X),
    "cross_entropy": (lambda x: ops.cross_entropy(x, np.array([0, 3, 1])), X[0]),
    "cross_entropy of nothing": (lambda x: ops.cross_entropy(x, np.zeros(0, int)), X[0, :0]),
    "rotary": (lambda qkv: ops.rotary(qkv, np.cos(ANGLES), np.sin(ANGLES)), QKV),
    "self_attention": (ops.self_attention, QKV),
    "self_attention causal": (lambda qkv: ops.self_attention(qkv, causal=True), QKV),
    "self_attention masked": (lambda qkv: ops.self_attention(qkv, MASK), QKV),
    "take_rows": (lambda x: ops.take_rows(x, np.array([[True, False, True], [False, False, True]])), X),
}


@pytest.fixture(params=["numpy", "native"])
def kernel_set(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native" and kernels.native is None:
        pytest.skip("the extension was not built")
    before = kernels.active()
    kernels.use(request.param)
    yield request.param
    kernels.use(before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient(name: str, kernel_set: str) -> None:
    """Forward and vjp agree, on NumPy and native kernels alike."""
    f, *inputs = OPERATIONS[name]
    check_grads(f, *inputs)


def test_rotary_products_depend_on_distance_only() -> None:
    """q_i . k_j after rotation is a function of i - j (Su et al. 2021, eq. 16)."""
    length, depth = 6, 4
    q, k = RNG.normal(size=(2, depth))
    angles = np.outer(np.arange(length), [1.0, 0.1])
    qkv = np.zeros((1, length, 3, 1, depth))
    qkv[0, :, 0, 0], qkv[0, :, 1, 0] = q, k
    turned = ops.rotary(Tensor(qkv), np.cos(angles), np.sin(angles)).data[0, :, :, 0]
    scores = turned[:, 0] @ turned[:, 1].T
    for distance in range(-length + 1, length):
        diagonal = np.diag(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-12, atol=1e-12)
    assert np.ptp(scores) > 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ops.embedding(Tensor(np.ones((5, 4))), np.array([[0, 5]])), "ids contains 5"),
        (lambda: ops.embedding(Tensor(np.ones((5, 4))), np.array([[-1, 2]])), "ids contains -1"),
        (lambda: ops.linear(Tensor(X), Tensor(np.ones((3, 5))), Tensor(np.ones(5))), r"weight \(3, 5\)"),
        (
            lambda: ops.linear(Tensor(X), Tensor(np.ones((4, 5))), Tensor(np.ones(5)), Tensor(X)),
            r"residual has shape \(2, 3, 4\)",
        ),
        (lambda: ops.take_rows(Tensor(X), np.ones((3, 2), bool)), r"at has shape \(3, 2\)"),
        (lambda: ops.cross_entropy(Tensor(X[0]), np.array([0, 4, 0])), r"targets\[1\] is 4"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Ids out of range would otherwise wrap around or read foreign memory."""
    with pytest.raises(ValueError, match=words):
        call()
