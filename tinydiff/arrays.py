"""Names for the kinds of array that pass through the code, used in signatures everywhere; one-hot rows; counts."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
"""float32 or float64: `Any`, because every function works in both and keeps what it is given."""

Ints: TypeAlias = NDArray[np.int64]
"""Token ids and positions."""

Bools: TypeAlias = NDArray[np.bool_]


def one_hot(ids: Ints, size: int) -> Floats:
    """Rows of zeros with a one where each id says: (...) to (..., size) in float64, without a table of size x size."""
    rows = np.zeros((*ids.shape, size))
    np.put_along_axis(rows, ids[..., None], 1.0, axis=-1)
    return rows


def check_counts(**counts: int) -> None:
    """ValueError unless each is a whole number, and at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name} is {value!r}; expected a whole number")
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
