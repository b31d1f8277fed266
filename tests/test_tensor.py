"""The tape: every operation's gradient against central differences, and what `backward` does with them."""

import numpy as np
import pytest

from tinydiff import Tensor, check_grads, no_grad
from tinydiff.tensor import concat, where

RNG = np.random.default_rng(0)
A, B, ROW, SCALAR = (RNG.uniform(0.5, 2, shape) for shape in ((3, 4), (3, 4), (4,), ()))
CONDITION = RNG.random((3, 4)) < 0.5

OPERATIONS = {
    "add": (lambda a, b: a + b, A, B),
    "add broadcast": (lambda a, b: a + b, A, ROW),
    "add scalar tensor": (lambda a, b: b + a, A, SCALAR),
    "add number": (lambda a: 2 + a, A),
    "sub": (lambda a, b: a - b, A, ROW),
    "rsub": (lambda a: 3 - a, A),
    "mul": (lambda a, b: a * b, ROW, A),
    "mul by itself": (lambda a: a * a, A),
    "rmul": (lambda a: 3 * a, A),
    "div": (lambda a, b: a / b, A, ROW),
    "rdiv": (lambda a: 3 / a, A),
    "neg": (lambda a: -a, A),
    "pow": (lambda a: a**3, A),
    "matmul": (lambda a, b: a @ b, A, B.T),
    "matmul batched": (lambda a, b: a @ b, RNG.normal(size=(2, 3, 4)), B.T),
    "exp": (lambda a: a.exp(), A),
    "log": (lambda a: a.log(), A),
    "sqrt": (lambda a: a.sqrt(), A),
    "tanh": (lambda a: a.tanh(), A),
    "sigmoid": (lambda a: a.sigmoid(), A),
    "relu": (lambda a: (a - 1).relu(), A),
    "sum": (lambda a: a.sum(), A),
    "sum axis": (lambda a: a.sum(axis=1), A),
    "sum negative axis kept": (lambda a: a.sum(axis=-2, keepdims=True), A),
    "mean": (lambda a: a.mean(axis=0), A),
    "max": (lambda a: a.max(axis=1), A),
    "max kept": (lambda a: a.max(axis=0, keepdims=True), A),
    "reshape": (lambda a: a.reshape(2, -1) * ROW[:1], A),
    "transpose": (lambda a: a.transpose() * B.T, A),
    "transpose axes": (lambda a: a.transpose(1, 2, 0), RNG.normal(size=(2, 3, 4))),
    "slice": (lambda a: a[1:, ::2], A),
    "pick twice": (lambda a: a[[0, 2, 0]], A),
    "concat": (lambda a, b: concat([a, b, a], axis=1), A, B),
    "where": (lambda a, b: where(CONDITION, a, b), A, ROW),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient(name: str) -> None:
    """Each vjp is the transpose of the derivative of its forward pass."""
    f, *inputs = OPERATIONS[name]
    check_grads(f, *inputs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_float32(name: str) -> None:
    """A forgotten float64 constant would double memory and time without anybody noticing."""
    f, *inputs = OPERATIONS[name]
    leaves = [Tensor(x.astype(np.float32), requires_grad=True) for x in inputs]
    if name in ("reshape", "transpose"):  # their partner above is a float64 array, converted to the tensor's dtype
        assert f(*leaves).dtype == np.float32
    out = f(*leaves)
    out.backward(np.ones(out.shape, np.float32))
    assert out.dtype == np.float32
    assert all(leaf.grad is not None and leaf.grad.dtype == np.float32 for leaf in leaves)


def test_check_grads_notices_a_wrong_vjp() -> None:
    """The judge itself: off by a factor, one wrong element, and NaN must all be found and located."""

    def wrong(a: Tensor, factor: np.ndarray) -> Tensor:
        return Tensor.from_op(a.data**2, (a,), lambda g: (2 * a.data * g * factor,))

    check_grads(lambda a: wrong(a, np.ones((3, 4))), A)
    for bad in (0.5, np.nan):
        factor = np.ones((3, 4))
        factor[1, 2] = bad
        with pytest.raises(AssertionError, match=r"inputs\[0\] at \(1, 2\)"):
            check_grads(lambda a, factor=factor: wrong(a, factor), A)


def test_check_grads_wants_float64() -> None:
    """In float32 a difference quotient has no digits left, so a pass would mean nothing."""
    with pytest.raises(TypeError, match=r"inputs\[0\] has dtype float32"):
        check_grads(lambda a: a, A.astype(np.float32))


def test_vjp_of_the_wrong_shape_is_refused() -> None:
    """Forgetting to undo a broadcast is the commonest mistake in a new operation."""
    row = Tensor(ROW, requires_grad=True)
    out = Tensor.from_op(A + row.data, (row,), lambda g: (g,))
    with pytest.raises(ValueError, match=r"shape \(3, 4\) for an input of shape \(4,\)"):
        out.sum().backward()


def test_shared_node_receives_the_sum() -> None:
    """A value used along several paths must collect all of them before passing its gradient on."""
    x = Tensor(np.array(2.0), requires_grad=True)
    y = x * x
    (y * y + y).backward()
    assert x.grad == pytest.approx(4 * 2.0**3 + 2 * 2.0)


def test_backward_uses_the_tape_up() -> None:
    """A second pass is refused, also one that joins the first half-way; it would find the arrays gone."""
    x = Tensor(np.ones(3), requires_grad=True)
    middle = x * x
    total = middle.sum()
    total.backward()
    for again in (total, (middle * middle).sum()):
        with pytest.raises(RuntimeError, match="used the tape up; compute the result again"):
            again.backward()


def test_backward_accumulates_until_cleared() -> None:
    """Two backward passes add up, in a buffer that the tensor does not share with anybody."""
    x = Tensor(np.ones(3), requires_grad=True)
    g = np.array([1.0, 2.0, 3.0])
    x.__add__(0).backward(g)
    x.__add__(0).backward(g)
    np.testing.assert_array_equal(x.grad, 2 * g)
    np.testing.assert_array_equal(g, [1.0, 2.0, 3.0])


def test_long_chain_does_not_recurse() -> None:
    """A recursive walk would die at Python's limit."""
    x = Tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1
    y.backward()
    assert x.grad == 1.0


def test_no_grad_records_nothing() -> None:
    """Evaluation must not hold the activations of the whole network in memory."""
    x = Tensor(np.ones(3), requires_grad=True)
    with no_grad():
        y = x * 2
    assert not y.requires_grad
    assert (x * 2).requires_grad
    assert not (x.detach() * 2).requires_grad


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Tensor(np.ones(3, complex)), TypeError, "complex"),
        (lambda: Tensor(np.arange(3), requires_grad=True), TypeError, "int64"),
        (lambda: Tensor(np.ones(3)) + Tensor(np.ones(3, np.float32)), TypeError, "float64 and float32"),
        (lambda: Tensor(np.ones((2, 3))) @ Tensor(np.ones((2, 3))), ValueError, r"\(2, 3\) and \(2, 3\)"),
        (lambda: Tensor(np.ones(3)) @ Tensor(np.ones(3)), ValueError, "cannot multiply"),
        (lambda: Tensor(np.ones(3), requires_grad=True).backward(), ValueError, "pass `grad`"),
        (lambda: Tensor(np.ones(3), requires_grad=True).backward(np.ones(2)), ValueError, r"grad has shape \(2,\)"),
        (lambda: Tensor(np.ones(1)).backward(), ValueError, "requires_grad=True"),
    ],
)
def test_bad_input(call, error: type[Exception], words: str) -> None:
    """Each names what is wrong instead of failing deep inside NumPy."""
    with pytest.raises(error, match=words):
        call()
