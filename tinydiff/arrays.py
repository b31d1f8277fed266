"""Names for the kinds of array that pass through the code, used in signatures everywhere."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
"""float32 or float64: `Any`, because every function works in both and keeps what it is given."""

Ints: TypeAlias = NDArray[np.int64]
"""Token ids and positions."""

Bools: TypeAlias = NDArray[np.bool_]
