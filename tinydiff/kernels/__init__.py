"""The inner loops, each twice under one signature: `reference` (NumPy, the specification) and `_native` (C++, csrc/).

Call them through the module, `kernels.softmax(x)`, so that `kernels.use("numpy" | "native")` takes effect everywhere.
The environment chooses at import: TINYDIFF_KERNELS=numpy|native (default: native where it was built) and
TINYDIFF_ISA=baseline|avx2|avx512|avx512_bf16|amx (default: the best this CPU has). threads.py says how many threads
native kernels use.
"""

import os
import sys
import warnings
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Literal

from . import reference, threads
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
from .sources import digest

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
    "give_back_memory",
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
    with threads.patience():
        native = import_module("._native", __name__)
except ImportError as error:
    _why = str(error)
_sources = Path(__file__).resolve().parents[2] / "csrc"
_clone = (_sources.parent / "CMakeLists.txt").is_file() and _sources.is_dir()  # a wheel's extension is its own
if native is not None and _clone and getattr(native, "sources", None) != digest(_sources):
    # As after an update of the clone: its calls may take other arguments, or compute something else.
    native, _why = None, f"it is of another version than {_sources}"

_active: Literal["numpy", "native"] = "numpy"


def use(name: Literal["numpy", "native"]) -> None:
    """Choose the kernels that every call from now on goes to, in the whole process."""
    global _active
    if name not in ("numpy", "native"):
        raise ValueError(f"kernels is {name!r}; expected 'numpy' or 'native'")
    if name == "native" and native is None:
        raise RuntimeError(f"kernels is 'native', but the extension is not here ({_why}); {remedy()}, or use 'numpy'")
    implementation = reference if name == "numpy" else native
    globals().update({kernel: getattr(implementation, kernel) for kernel in KERNELS})
    _active = name


def active() -> Literal["numpy", "native"]:
    """Which kernels run now."""
    return _active


def has_bfloat16() -> bool:
    """Whether products can be rounded to bfloat16: in NumPy on any CPU, natively on one with AVX512_BF16 or AMX."""
    return native is None or _active == "numpy" or bool(native.has_bfloat16())


def give_back_memory() -> None:
    """Return to the system what native kernels keep from one step of training for the next."""
    if native is not None:
        native.give_back_memory()


def remedy() -> str:
    """What to do to get native kernels where there are none.

    Python looks into the current folder first: in a clone it finds the source there, without the extension that an
    installed copy may have.
    """
    if f"{__name__}._native" in sys.modules:  # found, and of another version
        return "install tinydiff again (in a clone: pip install --editable .)"
    here = Path(__file__).resolve().parent
    for folder in map(Path, sys.path):
        kernels = folder / "tinydiff" / "kernels"
        if kernels.resolve() != here and any((kernels / f"_native{end}").exists() for end in EXTENSION_SUFFIXES):
            return (
                f"{here.parent} hides the installed {kernels.parent}: run from another folder, or install with "
                "pip install --editable ."
            )
    return "install tinydiff again with a C++17 compiler"


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
    if native is not None:
        threads.set_up(native)
    if native is None and wanted != "numpy":
        warnings.warn(
            f"tinydiff runs on NumPy kernels, several times slower than native ones: {_why}. For speed, {remedy()}; "
            "or set TINYDIFF_KERNELS=numpy to silence this.",
            RuntimeWarning,
            stacklevel=3,
        )
    use("native" if wanted == "native" or (wanted == "" and native is not None) else "numpy")


_choose()
