"""Names for the kinds of array that pass through the code, used in signatures everywhere, and one-hot rows."""

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
