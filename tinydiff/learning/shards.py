"""Data-parallel training whose result does not depend on how many ranks do it.

A batch is cut into S shards, a number of the run (`Options.shards`), not of the launch. Every rank draws the whole
batch from the one generator, and computes the gradients of its own shards. Then, with w_s the share of the sequences,

    g = ((w_1 g_1 + w_2 g_2) + w_3 g_3) + ... + w_S g_S        in this order, whoever has computed them.

Each shard has its own forward and backward pass, so its bits depend on nothing else; the sum has one order; copies are
exact. So one rank and S ranks, and all between, train to the same bits, and a run can be resumed with another number.

    1. each rank      g_s of its shards                        (P + 1 numbers each: the loss is one more)
    2. alltoallv      rank r receives its slice of all S       P numbers per shard of each rank
    3. each rank      adds its slice up, in order of shards
    4. allgatherv     the gradient, whole, to all              P numbers: clipping needs its length
    5. each rank      updates its slice of the weights, with its slice of the optimiser's state
    6. allgatherv     the weights, whole, to all               P numbers

Slices end where parameters do, since Muon works on whole matrices. Optimiser state by slices is stage 1 of ZeRO
(Rajbhandari et al. 2020). Never a library's sum over ranks: its order depends on their number.

With S = 1 a batch is one piece, as it is without any of this; S = 8 differs from it in rounding, and, with experts, in
their balance, which is kept even within a shard. Not here: a network that is itself spread over ranks.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
from itertools import pairwise
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Floats
from ..processes.divided import Divided, is_divided, rows
from .ranks import Ranks, agreed
from .run import Run


class Shares:
    """What falls to this rank of a run: some shards of each batch, and a slice of the parameters.

    Raises
    ------
    ValueError : if there are more ranks than shards, if the process cannot be divided, or if the ranks differ

    """

    def __init__(self, run: Run, ranks: Ranks) -> None:
        shards, process = run.options.shards, run.process
        if ranks.size > 1:
            check_alike(run, ranks)  # first: whatever else is refused, all refuse
        if ranks.size > shards:
            raise ValueError(
                f"{ranks.size} ranks were started, but shards is {shards}, and each rank needs one of its own: start "
                f"at most {shards}, or train a new run with --shards {ranks.size} or more"
            )
        if shards > 1 and not (isinstance(process, Divided) and is_divided(process)):
            raise ValueError(
                f"shards is {shards}, but the loss of {type(process).__name__} is in one piece: train with shards=1, "
                "or give it draw and loss_of, see tinydiff.processes.Divided"
            )
        self.run, self.ranks = run, ranks
        self.owners = [range(r * shards // ranks.size, (r + 1) * shards // ranks.size) for r in range(ranks.size)]
        self.parts = cuts([part.stop for part, _ in run.optimiser.flat.slices.values()], ranks.size)
        self.own = self.parts[ranks.rank]

    def gradient(self, batch: Any) -> float:
        """Put the gradient of the batch where the optimiser finds it; the batch's loss."""
        run, flat = self.run, self.run.optimiser.flat
        if run.options.shards == 1:
            loss = run.process.loss(run.model, batch, run.rng)
            loss.backward()
            return loss.item()
        assert isinstance(run.process, Divided)
        draws = run.process.draw(batch, run.rng)
        size, shards = len(batch.x0), run.options.shards
        mine = np.empty((len(self.owners[self.ranks.rank]), flat.grads.size + 1), flat.grads.dtype)
        for row, shard in zip(mine, self.owners[self.ranks.rank], strict=True):
            part = slice(shard * size // shards, (shard + 1) * size // shards)
            loss = run.process.loss_of(run.model, rows(draws, part))
            loss.backward()
            share = (part.stop - part.start) / size
            np.multiply(flat.grads, share, out=row[:-1])
            row[-1] = loss.item() * share
            flat.grads[...] = 0
        whole = self._sum(mine)
        flat.grads[...] = whole[:-1]
        return float(whole[-1])

    def _sum(self, mine: Floats) -> Floats:
        """The sum over all shards, whole on every rank: (own shards, P + 1) to (P + 1,)."""
        last = mine.shape[1]
        parts = [*self.parts[:-1], slice(self.parts[-1].start, last)]  # the loss goes with the last slice
        own = parts[self.ranks.rank]
        received = [np.empty((len(owner), own.stop - own.start), mine.dtype) for owner in self.owners]
        self.ranks.alltoallv([np.ascontiguousarray(mine[:, part]) for part in parts], received)
        whole = np.empty(last, mine.dtype)
        whole[own] = 0
        for row in (row for shards in received for row in shards):  # in order of shards, one after the other
            whole[own] += row
        self.ranks.allgatherv(whole, parts)
        return whole

    def update(self, lr: float) -> float:
        """Clip, update this rank's slice of the weights, fetch the others'; the gradient's norm before clipping."""
        optimiser = self.run.optimiser
        try:
            norm = optimiser.step(lr, self.own)
        except FloatingPointError as error:
            raise agreed(error) from None  # all have the same gradient
        self.ranks.allgatherv(optimiser.flat.values, self.parts)
        return norm

    def average(self) -> None:
        """Move this rank's slice of the average of the weights."""
        self.run.ema.update(self.run.step, self.own)

    def fetch_average(self) -> None:
        """The average, whole, on every rank."""
        self.ranks.allgatherv(self.run.ema.values, self.parts)

    def fetch_state(self) -> None:
        """All that a checkpoint holds, whole, on every rank."""
        self.fetch_average()
        for values in (self.run.optimiser.m, self.run.optimiser.v):
            self.ranks.allgatherv(values, self.parts)

    def agree(self, stop: int, save: bool) -> tuple[int, bool]:
        """Whether to stop after this step: the number of a signal that any rank has received; and to save: rank 0's."""
        if self.ranks.size == 1:
            return stop, save
        told = self.ranks.allgather([stop, save])
        return max(each[0] for each in told), told[0][1]


def cuts(ends: list[int], count: int) -> list[slice]:
    """About equal slices of 0 .. ends[-1], each of which ends where a parameter does; some may be empty.

    Parameters
    ----------
    ends : of the parameters, ascending

    """
    places = np.array([0, *ends])
    wanted = places[-1] * np.arange(1, count) / count
    at = [0, *(int(places[np.abs(places - each).argmin()]) for each in wanted), int(places[-1])]
    return [slice(start, stop) for start, stop in pairwise(at)]


def check_alike(run: Run, ranks: Ranks) -> None:
    """ValueError, naming what differs, unless all ranks compute alike and stand at the same step of the same run."""
    from .. import __version__  # of the package, which is not read to its end when this module is

    native = kernels.native if kernels.active() == "native" else None
    ours = {
        "the version of tinydiff": __version__,
        "kernels": kernels.active(),
        "the instruction set": native.isa() if native else "NumPy's",
        "the kind of machine": platform.machine(),
        "the version of NumPy": np.__version__,
        "what arithmetic gives": _probe(),
        "the run": _digest(json.dumps([run.config, run.step, run.rng.bit_generator.state]).encode()),
        "its state": _digest(*(np.ascontiguousarray(each).tobytes() for each in run.arrays().values())),
    }
    there = ranks.allgather([socket.gethostname(), ours])
    for rank, (host, theirs) in enumerate(there):
        for what, value in there[0][1].items():
            if theirs[what] != value:
                advice = (
                    f"set TINYDIFF_ISA={min(theirs[what], value, key=ORDER.index)} on all"
                    if what == "the instruction set" and {theirs[what], value} <= {*ORDER}
                    else "start them from the same folder with the same installation, on machines of one kind"
                )
                raise ValueError(
                    f"the ranks differ, so that their bits would: {what} is {value} on rank 0 ({there[0][0]}) and "
                    f"{theirs[what]} on rank {rank} ({host}); {advice}"
                )


ORDER = ["baseline", "avx2", "avx512", "avx512_bf16", "amx"]
"""Instruction sets, the least first."""


def _probe() -> str:
    """A digest of what this machine makes of a few numbers: NumPy and BLAS choose their code by the CPU, as we do."""
    x = np.random.default_rng(0).standard_normal((33, 70)).astype(np.float32)
    found = [
        kernels.softmax(x), kernels.gelu(x), kernels.matmul(x, x.T), x @ x.T, np.dot(x.ravel(), x.ravel()),
        *(f(np.abs(x) + 1) for f in (np.exp, np.log, np.sqrt, np.sin)), np.exp(x.astype(np.float64)), x.sum(),
    ]  # fmt: skip
    return _digest(*(np.asarray(each).tobytes() for each in found))


def _digest(*content: bytes) -> str:
    digest = hashlib.sha256()
    for each in content:
        digest.update(each)
    return digest.hexdigest()[:16]
