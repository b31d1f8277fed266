"""Vectors to learn from: what `Corpus` is for text, for points and pictures."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import Floats, Ints
from .batch import Batch

UNLABELLED = 0.1
"""Share of the training labels that are hidden, so that the network learns to do without (Ho and Salimans 2022)."""


@dataclass(frozen=True)
class Vectors:
    """Sequences of vectors with a held-out part, and optionally a class for each.

    Attributes
    ----------
    name : under which `tinydiff.data.load` finds it
    train, held_out : (N, L, F) and (M, L, F)
    train_labels, held_out_labels : (N,) and (M,) classes, or None
    class_names : what the classes are called; empty without labels
    patch : side of the square patches that each vector holds, if these are pictures; 0 if not
    grain : the numbers are known up to steps of this size; batches are spread evenly over the step (Theis et al. 2016)
    recipe : options of `tinydiff train` that suit it

    """

    name: str
    train: Floats
    held_out: Floats
    train_labels: Ints | None = None
    held_out_labels: Ints | None = None
    class_names: str = ""
    patch: int = 0
    grain: float = 0.0
    recipe: dict[str, Any] = field(default_factory=dict)

    unit = "bits per dimension"
    short_unit = "bits/dim"

    def __post_init__(self) -> None:
        for part, x, labels in (
            ("train", self.train, self.train_labels),
            ("held_out", self.held_out, self.held_out_labels),
        ):
            if x.ndim != 3 or x.dtype.kind != "f" or not x.size:
                raise ValueError(f"{part} has shape {x.shape} and dtype {x.dtype}; expected (N, L, F) numbers")
            if not np.isfinite(x).all():
                raise ValueError(f"{part} contains {x[~np.isfinite(x)][0]}; every number of it must be finite")
            if labels is not None and (
                labels.shape != (len(x),) or not ((labels >= 0) & (labels < self.classes)).all()
            ):
                raise ValueError(
                    f"{part}_labels has shape {labels.shape} and values {labels.min()}..{labels.max()}; expected "
                    f"({len(x)},) and 0..{self.classes - 1}"
                )

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def length(self) -> int:
        return int(self.train.shape[1])

    @property
    def features(self) -> int:
        return int(self.train.shape[2])

    @property
    def reach(self) -> float:
        """The largest number of the training part, whatever its sign: what is drawn from it lies in [-reach, reach]."""
        return float(np.abs(self.train).max()) + self.grain / 2

    @property
    def description(self) -> str:
        labelled = f" in {self.classes} classes" if self.classes else ""
        return f"{len(self.train):,} examples{labelled}, {self.length} vectors of {self.features} each"

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: its name, and what it must be to be the same."""
        digest = hashlib.sha256()
        for x in (self.train, self.held_out):
            digest.update(np.round(x * 1e6).astype(np.int64).tobytes())  # the last bits differ between machines
        return {"name": self.name, "sha256": digest.hexdigest(), "patch": self.patch, "classes": self.class_names}

    def check_length(self, length: int) -> None:
        """Raise ValueError unless sequences have this length."""
        if length != self.length:
            raise ValueError(f"length is {length}, but {self.name} has sequences of {self.length}; use that")

    def batch(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Floats:
        """Random examples, (size, L, F)."""
        return np.asarray(self.examples(length, size, rng, held_out=held_out).x0)

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random examples and their classes: x0 (size, L, F) and label (size,).

        For training some classes are replaced by "no class", the number after the last.
        """
        self.check_length(length)
        x, labels = (self.held_out, self.held_out_labels) if held_out else (self.train, self.train_labels)
        at = rng.integers(0, len(x), size)
        drawn = x[at]
        if self.grain:
            drawn = drawn + self.grain * (rng.random(drawn.shape) - 0.5)
        if labels is None:
            return Batch(drawn, cluster=at)
        hidden = rng.random(size) < (0.0 if held_out else UNLABELLED)
        return Batch(drawn, label=np.where(hidden, self.classes, labels[at]), cluster=at)


def patches(pictures: Floats, patch: int) -> Floats:
    """Square pictures (N, S, S) as sequences of their square patches, row by row: (N, (S / patch)^2, patch^2)."""
    n, side = pictures.shape[:2]
    if pictures.shape != (n, side, side) or side % patch:
        raise ValueError(
            f"pictures has shape {pictures.shape} and patch is {patch}; expected (N, S, S), patch dividing S"
        )
    blocks = pictures.reshape(n, side // patch, patch, side // patch, patch)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(n, -1, patch * patch)


def pictures(vectors: Floats, patch: int) -> Floats:
    """The inverse of `patches`: (N, L, patch^2) to (N, S, S)."""
    n, length, size = vectors.shape
    across = math.isqrt(length)
    if across * across != length or size != patch * patch:
        raise ValueError(f"vectors has shape {vectors.shape} and patch is {patch}; expected (N, S^2, patch^2)")
    blocks = vectors.reshape(n, across, across, patch, patch).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(n, across * patch, across * patch)
