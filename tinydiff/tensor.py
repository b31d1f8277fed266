"""Autograd-lite: an array that remembers how it was made, so that gradients can flow back.

Each operation computes its result and, beside it, its vector-Jacobian product `vjp`: given the gradient of some scalar
with respect to the result, it returns the gradients with respect to the inputs. `Tensor.backward` walks the operations
in reverse and adds those up (reverse-mode differentiation). This module holds the tape and the arithmetic;
`tinydiff.ops` adds the operations of neural networks in the same form.

Not here: higher derivatives, in-place operations, devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .arrays import Bools, Floats

Vjp: TypeAlias = Callable[[Floats], tuple[Floats | None, ...]]
"""Gradient of the result -> one gradient per parent, of the parent's shape (None: nothing flows there)."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this context operations are not recorded: for evaluation and sampling."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Tensor:
    """A float32 or float64 array with, if `requires_grad`, a gradient.

    Attributes
    ----------
    data : the array
    grad : d(scalar)/d(data) once `backward` has run, summed over all calls since it was last cleared; only on leaves
    requires_grad : whether anything upstream wants a gradient

    """

    __slots__ = ("_parents", "_vjp", "data", "grad", "requires_grad")
    __array_priority__ = 1000  # let `array * tensor` come to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, dtype: DTypeLike | None = None) -> None:
        array = np.asarray(data, dtype)
        if array.dtype not in (np.float32, np.float64):
            if array.dtype.kind not in "iub" or requires_grad:
                raise TypeError(f"data has dtype {array.dtype}; expected float32 or float64")
            array = array.astype(np.float32)
        self.data: Floats = array
        self.grad: Floats | None = None
        self.requires_grad = requires_grad
        self._parents: tuple[Tensor, ...] = ()
        self._vjp: Vjp | None = None

    @staticmethod
    def from_op(data: Floats, parents: Sequence[Tensor], vjp: Vjp) -> Tensor:
        """Wrap the result of an operation, recording how to go back if any parent wants a gradient."""
        out = Tensor(data)
        if _recording.get() and any(p.requires_grad for p in parents):
            out.requires_grad, out._parents, out._vjp = True, tuple(parents), vjp
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    def item(self) -> float:
        """The value of a tensor of one element."""
        return float(self.data.item())

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    # --- the tape ---------------------------------------------------------------------------------------------------

    def backward(self, grad: Floats | None = None) -> None:
        """Add d(self)/d(leaf) to `grad` of every leaf that requires it.

        The tape is used up on the way, so that the memory of each operation is free for the next: to go back a second
        time, compute the scalar again.

        Parameters
        ----------
        grad : gradient of the final scalar with respect to this tensor; may be left out if this is the scalar

        """
        for leaf, g in self._leaf_gradients(grad, keep_tape=False):
            if leaf.grad is None:
                leaf.grad = g.copy()
            else:
                leaf.grad += g

    def gradient(self, leaf: Tensor, grad: Floats | None = None) -> Floats:
        """d(self)/d(leaf) for one leaf, touching nobody's `grad` nor the tape: to look at derivatives without training.

        Parameters
        ----------
        grad : as for `backward`

        """
        return next(
            (g for node, g in self._leaf_gradients(grad, keep_tape=True) if node is leaf), np.zeros_like(leaf.data)
        )

    def _leaf_gradients(self, grad: Floats | None, keep_tape: bool) -> Iterator[tuple[Tensor, Floats]]:
        """Every leaf that requires a gradient, with its gradient."""
        if not self.requires_grad:
            raise ValueError("nothing here requires a gradient; create the parameters with requires_grad=True")
        if grad is None:
            if self.size != 1:
                raise ValueError(f"this tensor has shape {self.shape}; pass `grad` unless it has one element")
            grad = np.ones_like(self.data)
        elif grad.shape != self.shape:
            raise ValueError(f"grad has shape {grad.shape}; expected {self.shape}")

        grads = {id(self): grad}
        order = self._ancestors()
        while order:
            node = order.pop()
            g = grads.pop(id(node))
            if node._vjp is None:
                yield node, g
                continue
            parents, vjp = node._parents, node._vjp
            if not keep_tape:
                node._parents, node._vjp = (), _used_up
            for parent, pg in zip(parents, vjp(g), strict=True):
                if parent.requires_grad and pg is not None:
                    if pg.shape != parent.shape:
                        raise ValueError(
                            f"a vjp returned a gradient of shape {pg.shape} for an input of shape {parent.shape}; "
                            "did it forget to sum over a broadcast axis?"
                        )
                    seen = grads.get(id(parent))
                    grads[id(parent)] = pg if seen is None else seen + pg

    def _ancestors(self) -> list[Tensor]:
        """The node and all above it that require a gradient, parents before children."""
        order: list[Tensor] = []
        seen: set[int] = set()
        stack: list[tuple[Tensor, bool]] = [(self, False)]
        while stack:
            node, parents_done = stack.pop()
            if parents_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((p, False) for p in node._parents if p.requires_grad)
        return order

    def detach(self) -> Tensor:
        """The same values, cut off from the tape."""
        return Tensor(self.data)

    # --- arithmetic: shapes broadcast as in NumPy ---------------------------------------------------------------------

    def _operand(self, other: Any) -> Tensor:
        if not isinstance(other, Tensor):
            return Tensor(np.asarray(other, self.dtype))
        if other.dtype != self.dtype:
            raise TypeError(f"operands have dtypes {self.dtype} and {other.dtype}; convert one of them")
        return other

    def __add__(self, other: Any) -> Tensor:
        a, b = self, self._operand(other)

        def vjp(g: Floats) -> tuple[Floats, Floats]:
            return _sum_to(g, a.shape), _sum_to(g, b.shape)

        return Tensor.from_op(a.data + b.data, (a, b), vjp)

    def __mul__(self, other: Any) -> Tensor:
        a, b = self, self._operand(other)

        def vjp(g: Floats) -> tuple[Floats | None, Floats | None]:
            return (
                _sum_to(g * b.data, a.shape) if a.requires_grad else None,
                _sum_to(g * a.data, b.shape) if b.requires_grad else None,
            )

        return Tensor.from_op(a.data * b.data, (a, b), vjp)

    def __truediv__(self, other: Any) -> Tensor:
        a, b = self, self._operand(other)
        out = a.data / b.data

        def vjp(g: Floats) -> tuple[Floats, Floats | None]:
            return (
                _sum_to(g / b.data, a.shape),
                _sum_to(-g * out / b.data, b.shape) if b.requires_grad else None,
            )

        return Tensor.from_op(out, (a, b), vjp)

    def __pow__(self, exponent: float) -> Tensor:
        def vjp(g: Floats) -> tuple[Floats]:
            return (g * exponent * self.data ** (exponent - 1),)

        return Tensor.from_op(self.data**exponent, (self,), vjp)

    def __neg__(self) -> Tensor:
        return Tensor.from_op(-self.data, (self,), lambda g: (-g,))

    def __sub__(self, other: Any) -> Tensor:
        return self + (-self._operand(other))

    def __radd__(self, other: Any) -> Tensor:
        return self.__add__(other)

    def __rmul__(self, other: Any) -> Tensor:
        return self.__mul__(other)

    def __rsub__(self, other: Any) -> Tensor:
        return (-self).__add__(other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._operand(other).__truediv__(self)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Matrix product of the last two axes, which both must have; leading axes broadcast."""
        a, b = self, self._operand(other)
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"cannot multiply shapes {a.shape} and {b.shape}; expected (..., n, k) and (..., k, m)")

        def vjp(g: Floats) -> tuple[Floats | None, Floats | None]:
            return (
                _sum_to(g @ b.data.swapaxes(-1, -2), a.shape) if a.requires_grad else None,
                _sum_to(a.data.swapaxes(-1, -2) @ g, b.shape) if b.requires_grad else None,
            )

        return Tensor.from_op(a.data @ b.data, (a, b), vjp)

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The same values as float32 or float64; the gradient returns in the old type."""
        return Tensor.from_op(self.data.astype(dtype), (self,), lambda g: (g.astype(self.dtype),))

    # --- element by element -----------------------------------------------------------------------------------------

    def exp(self) -> Tensor:
        out = np.exp(self.data)
        return Tensor.from_op(out, (self,), lambda g: (g * out,))

    def log(self) -> Tensor:
        return Tensor.from_op(np.log(self.data), (self,), lambda g: (g / self.data,))

    def sqrt(self) -> Tensor:
        out = np.sqrt(self.data)
        return Tensor.from_op(out, (self,), lambda g: (g / (2 * out),))

    def tanh(self) -> Tensor:
        out = np.tanh(self.data)
        return Tensor.from_op(out, (self,), lambda g: (g * (1 - out * out),))

    def sigmoid(self) -> Tensor:
        out = 0.5 * (1 + np.tanh(0.5 * self.data))  # never overflows
        return Tensor.from_op(out, (self,), lambda g: (g * out * (1 - out),))

    def relu(self) -> Tensor:
        return Tensor.from_op(np.maximum(self.data, 0), (self,), lambda g: (g * (self.data > 0),))

    # --- reductions -------------------------------------------------------------------------------------------------

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        def vjp(g: Floats) -> tuple[Floats]:
            if axis is not None and not keepdims:
                g = np.expand_dims(g, axis)
            return (np.broadcast_to(g, self.shape),)

        return Tensor.from_op(np.asarray(self.data.sum(axis=axis, keepdims=keepdims)), (self,), vjp)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size)

    def max(self, axis: int, keepdims: bool = False) -> Tensor:
        """Largest value along an axis; the gradient goes to the first of equal ones."""
        at = np.expand_dims(self.data.argmax(axis=axis), axis)
        out = np.take_along_axis(self.data, at, axis)

        def vjp(g: Floats) -> tuple[Floats]:
            full = np.zeros_like(self.data)
            np.put_along_axis(full, at, g if keepdims else np.expand_dims(g, axis), axis)
            return (full,)

        return Tensor.from_op(out if keepdims else out.squeeze(axis), (self,), vjp)

    # --- shape ------------------------------------------------------------------------------------------------------

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        """As in NumPy: `reshape(2, 3)` or `reshape((2, 3))`."""
        sizes: Any = shape[0] if len(shape) == 1 else shape
        return Tensor.from_op(self.data.reshape(sizes), (self,), lambda g: (g.reshape(self.shape),))

    def transpose(self, *axes: int) -> Tensor:
        """Reorder the axes; reverse them if none are given."""
        order = axes or tuple(reversed(range(self.ndim)))
        back = tuple(int(i) for i in np.argsort(order))
        return Tensor.from_op(self.data.transpose(order), (self,), lambda g: (g.transpose(back),))

    def __getitem__(self, key: Any) -> Tensor:
        def vjp(g: Floats) -> tuple[Floats]:
            full = np.zeros_like(self.data)
            np.add.at(full, key, g)  # an element picked twice receives both gradients
            return (full,)

        return Tensor.from_op(np.asarray(self.data[key]), (self,), vjp)


def _used_up(g: Floats) -> tuple[Floats | None, ...]:
    raise RuntimeError("backward has already gone through here and used the tape up; compute the result again")


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along an existing axis."""
    ends = np.cumsum([t.shape[axis] for t in tensors])[:-1]

    def vjp(g: Floats) -> tuple[Floats, ...]:
        return tuple(np.split(g, ends, axis))

    return Tensor.from_op(np.concatenate([t.data for t in tensors], axis), tensors, vjp)


def where(condition: Bools, a: Tensor, b: Tensor) -> Tensor:
    """`a` where the condition holds, else `b`; shapes broadcast."""

    def vjp(g: Floats) -> tuple[Floats, Floats]:
        return _sum_to(np.where(condition, g, 0), a.shape), _sum_to(np.where(condition, 0, g), b.shape)

    return Tensor.from_op(np.where(condition, a.data, b.data), (a, b), vjp)


def _sum_to(g: Floats, shape: tuple[int, ...]) -> Floats:
    """Undo broadcasting: sum the gradient over the axes along which the operand was repeated."""
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return np.asarray(g.sum(axis=stretched, keepdims=True)) if stretched else np.asarray(g)


def check_grads(
    f: Callable[..., Tensor], *inputs: NDArray[np.float64], step: float = 1e-6, tolerance: float = 1e-7, seed: int = 0
) -> None:
    """Raise AssertionError unless the gradients of `f` agree with central differences.

    `f` takes one Tensor per input and returns a Tensor of any shape; a random weighting turns it into a scalar, and
    every element of every input is moved by `step` both ways.

    Parameters
    ----------
    inputs : float64 arrays (float32 has too few digits for differences)
    tolerance : largest error allowed, relative to the largest gradient of that input or 1

    """
    for i, x in enumerate(inputs):
        if np.asarray(x).dtype != np.float64:
            raise TypeError(f"inputs[{i}] has dtype {np.asarray(x).dtype}; finite differences need float64")
    leaves = [Tensor(np.array(x), requires_grad=True) for x in inputs]
    out = f(*leaves)
    weights = np.random.default_rng(seed).standard_normal(out.shape)
    out.backward(weights)

    def scalar() -> float:
        with no_grad():
            return float((f(*leaves).data * weights).sum())

    for i, leaf in enumerate(leaves):
        grad = np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
        expected = np.empty_like(leaf.data)
        for at in np.ndindex(leaf.shape):
            kept = leaf.data[at]
            leaf.data[at] = kept + step
            above = scalar()
            leaf.data[at] = kept - step
            expected[at] = (above - scalar()) / (2 * step)
            leaf.data[at] = kept
        error = np.abs(grad - expected)
        if error.size and not error.max() <= tolerance * max(1.0, float(np.abs(expected).max())):
            worst = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
            raise AssertionError(
                f"gradient of inputs[{i}] at {tuple(int(j) for j in worst)} is {grad[worst]:.10g}; "
                f"central differences give {expected[worst]:.10g}"
            )
