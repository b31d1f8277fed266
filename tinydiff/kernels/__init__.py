"""The inner loops, each twice under one signature: `reference` (NumPy, the specification) and `_native` (C++, csrc/).

Call them through the module, `kernels.softmax(x)`, so that `kernels.use("numpy" | "native")` takes effect everywhere.
The environment chooses at import: TINYDIFF_KERNELS=numpy|native (default: native where it was built) and
TINYDIFF_ISA=baseline|avx2|avx512|avx512_bf16|amx (default: the best this CPU has). Native kernels use OMP_NUM_THREADS
threads (default: as many as there are cores).
"""

import os
import warnings
from importlib import import_module
from types import ModuleType
from typing import Literal

from . import reference
from .reference import (
    adamw,
    attention,
    attention_backward,
    column_sum,
    cross_entropy,
    cross_entropy_backward,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    log_softmax,
    matmul,
    orthogonalise,
    rotary,
    softmax,
    topk,
)

__all__ = [
    "active",
    "adamw",
    "attention",
    "attention_backward",
    "column_sum",
    "cross_entropy",
    "cross_entropy_backward",
    "gelu",
    "gelu_backward",
    "has_bfloat16",
    "layer_norm",
    "layer_norm_backward",
    "log_softmax",
    "matmul",
    "native",
    "orthogonalise",
    "rotary",
    "softmax",
    "topk",
    "use",
]

KERNELS = [name for name in __all__ if hasattr(reference, name)]

native: ModuleType | None = None
_why = ""
try:
    native = import_module("._native", __name__)
except ImportError as error:
    _why = str(error)

_active: Literal["numpy", "native"] = "numpy"


def use(name: Literal["numpy", "native"]) -> None:
    """Choose the kernels that every call from now on goes to, in the whole process."""
    global _active
    if name not in ("numpy", "native"):
        raise ValueError(f"kernels is {name!r}; expected 'numpy' or 'native'")
    if name == "native" and native is None:
        raise RuntimeError(
            f"kernels is 'native', but the extension is not here ({_why}); install tinydiff again with a C++17 "
            "compiler, or use 'numpy'"
        )
    implementation = reference if name == "numpy" else native
    missing = [kernel for kernel in KERNELS if not hasattr(implementation, kernel)]
    if missing:
        raise RuntimeError(
            f"the extension lacks {', '.join(missing)}: it is of another version; install tinydiff again"
        )
    globals().update({kernel: getattr(implementation, kernel) for kernel in KERNELS})
    _active = name


def active() -> Literal["numpy", "native"]:
    """Which kernels run now."""
    return _active


def has_bfloat16() -> bool:
    """Whether `matmul` can round to bfloat16: in NumPy on any CPU, natively on one with AVX512_BF16 or AMX."""
    return native is None or _active == "numpy" or bool(native.has_bfloat16())


def _choose() -> None:
    wanted = os.environ.get("TINYDIFF_KERNELS", "")
    if wanted not in ("", "numpy", "native"):
        raise ValueError(f"TINYDIFF_KERNELS is {wanted!r}; expected 'numpy' or 'native'")
    isa = os.environ.get("TINYDIFF_ISA", "")
    if native is not None and isa:
        try:
            native.use_isa(isa)
        except ValueError as error:
            raise ValueError(f"TINYDIFF_ISA: {error}") from None
    if native is None and wanted != "numpy":
        warnings.warn(
            f"tinydiff runs on NumPy kernels, several times slower than native ones: {_why}. Install tinydiff again "
            "with a C++17 compiler for speed, or set TINYDIFF_KERNELS=numpy to silence this.",
            RuntimeWarning,
            stacklevel=3,
        )
    use("native" if wanted == "native" or (wanted == "" and native is not None) else "numpy")


_choose()
