"""The floor: a training step's matrix products alone, on NumPy's BLAS. Attention's are not counted."""

import numpy as np

from benchmarks import cases

RNG = np.random.default_rng(0)


def describe() -> str:
    """The BLAS in use."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"linear layers only: NumPy {np.__version__}, {blas['name']} {blas['version']}"


def products(size: cases.Size):
    layers = []
    for rows, i, o in cases.linear_shapes(size):
        layers.append([RNG.standard_normal(shape).astype(np.float32) for shape in ((rows, i), (i, o), (rows, o))])

    def run() -> None:
        for x, w, g in layers:
            x @ w
            g @ w.T
            x.T @ g

    return run


CASES = {f"train step {name}": (lambda size=size: products(size)) for name, size in cases.SIZES.items()}
