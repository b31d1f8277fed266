"""The one training loop, as a generator of frames, and the `Run` it advances: all that a checkpoint has to hold.

    run = Run(corpus, process, model, Options(steps=3000), folder=Path("runs/docs"))
    for frame in train(run):
        print(frame.step, frame.loss, frame.held_out)

The loop knows nothing of processes beyond `loss` and `bound`. A run resumed from its folder continues with the same
bits as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from . import checkpoint, data
from .arrays import Floats
from .checkpoint import CheckpointError
from .guidance import conditioned
from .optim import EMA, AdamW, learning_rate
from .processes import (
    D3PM,
    AnyProcess,
    Autoregressive,
    Bert,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    Process,
    ScoreEntropy,
    from_config,
)
from .transformer import Model, Transformer

EVALUATION_BATCH = 64
EVALUATION_SEED = 1  # the same windows and masks at every evaluation, so that figures can be compared


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes
    ----------
    steps : optimiser steps in all
    batch : sequences per step
    lr : peak learning rate, reached after `warmup` steps, then a cosine down to a tenth
    weight_decay, clip, ema : see `tinydiff.optim`
    seed : of windows and masks
    evaluate_every : steps between estimates of the held-out bits per character
    evaluate_windows : held-out windows for each of them
    log_every : steps between lines of the log
    save_every : seconds between checkpoints

    """

    steps: int = 3000
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    evaluate_every: int = 250
    evaluate_windows: int = 256
    log_every: int = 10
    save_every: float = 20.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup", "evaluate_every", "evaluate_windows", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if not self.save_every >= 0:
            raise ValueError(f"save_every is {self.save_every}; it must be 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        for name in ("lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")


@dataclass(frozen=True)
class TrainFrame:
    """One training step: what a progress bar or a plot needs.

    Attributes
    ----------
    step, steps : steps done and steps in all
    loss : of this step's batch, nats per token or a mean square
    grad_norm : before clipping
    lr : learning rate of this step
    tokens_per_second : of this step; for vectors, positions per second
    held_out : (mean, standard error) of the held-out bits per character or dimension, in the steps that estimate it

    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    held_out: tuple[float, float] | None


class Run:
    """A model in training with everything the next step depends on.

    Parameters
    ----------
    folder : where checkpoints and the log go; None keeps everything in memory

    """

    def __init__(
        self,
        corpus: data.Dataset,
        process: Process,
        model: Transformer,
        options: Options | None = None,
        folder: Path | None = None,
    ) -> None:
        corpus.check_length(model.length)
        for name in ("vocab_size", "features"):  # tokens have the one, vectors the other
            ours, its, theirs = (getattr(part, name, None) for part in (corpus, process, model))
            if not ours == its == theirs:
                raise ValueError(
                    f"{name} is {ours} for the corpus, {its} for the process and {theirs} for the model; "
                    "all three must agree"
                )
        if getattr(corpus, "classes", 0) != model.classes:
            raise ValueError(
                f"classes is {getattr(corpus, 'classes', 0)} for the corpus and {model.classes} for the model; "
                "both must agree"
            )
        self.corpus, self.process, self.model, self.folder = corpus, process, model, folder
        self.options = options or Options()
        self.optimiser = AdamW(model.params, weight_decay=self.options.weight_decay, clip=self.options.clip)
        self.ema = EMA(self.optimiser.flat, self.options.ema)
        self.rng = np.random.default_rng(self.options.seed)
        self.step = 0
        if folder is not None:
            if (folder / "config.json").exists():
                raise CheckpointError(
                    f"{folder} already holds a run; continue it with: tinydiff train --resume {folder}, or choose "
                    "another folder"
                )
            checkpoint.write_config(folder, self._config())
            self.save()

    def _config(self) -> dict[str, Any]:
        return {
            "process": self.process.config,
            "model": self.model.config,
            "data": self.corpus.config,
            "training": asdict(self.options),
        }

    def _arrays(self) -> dict[str, Floats]:
        """Every array of the state, as views by name."""
        flat = self.optimiser.flat
        groups = {"model": flat.values, "ema": self.ema.values, "adam.m": self.optimiser.m, "adam.v": self.optimiser.v}
        return {f"{group}/{name}": view for group, all_ in groups.items() for name, view in flat.named(all_).items()}

    def save(self) -> None:
        """Write a checkpoint, replacing the last one."""
        if self.folder is not None:
            progress = {"step": self.step, "rng": self.rng.bit_generator.state}
            checkpoint.write_state(self.folder, self._arrays(), progress)

    @staticmethod
    def resume(folder: Path) -> Run:
        """Load the run in `folder` to train it further."""
        config = checkpoint.read_config(folder)
        try:
            options = Options(**config["training"])
            model = Transformer(**config["model"], rng=np.random.default_rng(options.seed))
            process = from_config(config["process"])
        except (KeyError, TypeError, ValueError) as error:
            raise _incomplete(folder, error) from None
        run = Run(corpus_of(folder, config), process, model, options)
        run.folder = folder
        if not (folder / "state.safetensors").exists():
            return run  # stopped before the first save: the seed gives the same start
        arrays = run._arrays()
        tensors, progress = checkpoint.read_state(folder, {name: a.shape for name, a in arrays.items()})
        for name, array in arrays.items():
            array[...] = tensors[name]
        try:
            run.step = run.optimiser.steps = int(progress["step"])
            run.rng.bit_generator.state = progress["rng"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / 'state.safetensors'} is damaged ({error}); restore it or train again"
            ) from None
        return run


VARIANTS: dict[str, tuple[type[AnyProcess], dict[str, Any]]] = {
    "autoregressive": (Autoregressive, {}),
    "masked": (MaskedDiffusion, {}),
    "bert": (Bert, {}),
    "d3pm_absorbing": (D3PM, {"matrix": "absorbing"}),
    "d3pm_uniform": (D3PM, {"matrix": "uniform"}),
    "d3pm_nearest": (D3PM, {"matrix": "nearest"}),
    "sedd_absorbing": (ScoreEntropy, {"graph": "absorbing"}),
    "sedd_uniform": (ScoreEntropy, {"graph": "uniform"}),
    "ddpm": (GaussianDiffusion, {}),
    "flow": (FlowMatching, {}),
}
"""Processes by the names of the command line."""


def new_process(name: str, corpus: data.Dataset, **options: Any) -> Process:
    """The process of that name for a corpus or vectors.

    Parameters
    ----------
    options : `schedule`, `predict`, `pairing`, for processes that have them; None for the default

    """
    if name not in VARIANTS:
        raise ValueError(f"process is {name!r}; expected one of {', '.join(VARIANTS)}")
    kind, fixed = VARIANTS[name]
    chosen = dict(fixed)
    for option, value in options.items():
        if value is not None:
            argument = "noise" if (kind, option) == (ScoreEntropy, "schedule") else option
            if argument not in signature(kind).parameters:
                raise ValueError(f"{option} is {value!r}, but process {name!r} has no such option; leave it out")
            chosen[argument] = value
    of_vectors = [variant for variant, (other, _) in VARIANTS.items() if other in (GaussianDiffusion, FlowMatching)]
    suited = [variant for variant in VARIANTS if (variant in of_vectors) == isinstance(corpus, data.Vectors)]
    if name not in suited:
        raise ValueError(f"process is {name!r}, which does not suit {corpus.name}; choose one of {', '.join(suited)}")
    if isinstance(corpus, data.Vectors):
        return kind(corpus.features, **chosen)
    if name == "d3pm_nearest":
        chosen["embeddings"] = data.embeddings(corpus.train, corpus.vocab_size)
    return kind(corpus.vocab_size, **chosen)


def train(run: Run) -> Generator[TrainFrame, None, None]:
    """Train to the end of `run.options.steps`, yielding a frame per step.

    Ctrl-C takes effect between steps; it, and leaving the loop early, saves a checkpoint first.
    """
    options, corpus, model = run.options, run.corpus, run.model
    log = checkpoint.Log(run.folder, run.step) if run.folder is not None else None
    saved_at, saved_step = time.monotonic(), run.step

    def save() -> None:
        nonlocal saved_at, saved_step
        if log is not None:
            log.flush()  # before the state: the log may run ahead of it, never behind
        run.save()
        saved_at, saved_step = time.monotonic(), run.step

    try:
        while run.step < options.steps:
            with _interrupts_wait():
                start = time.perf_counter()
                x0, label = corpus.examples(model.length, options.batch, run.rng)
                loss = run.process.loss(conditioned(model, label), x0, run.rng)
                loss.backward()
                lr = learning_rate(run.step, options.steps, options.lr, options.warmup)
                norm = run.optimiser.step(lr)
                run.step += 1
                run.ema.update(run.step)
                speed = len(x0) * model.length / (time.perf_counter() - start)
                last = run.step == options.steps
                held_out = None
                if run.step % options.evaluate_every == 0 or last:
                    with run.ema.applied():
                        held_out = evaluate(model, run.process, corpus, windows=options.evaluate_windows)
                frame = TrainFrame(run.step, options.steps, loss.item(), norm, lr, speed, held_out)
                if log is not None and (run.step % options.log_every == 0 or held_out or last):
                    log.append({"step": frame.step, "loss": frame.loss, "lr": lr, "held_out": held_out})
                if last or time.monotonic() - saved_at >= options.save_every:
                    save()
            yield frame
    except (KeyboardInterrupt, GeneratorExit):
        if run.step > saved_step:
            save()
        raise
    finally:
        if log is not None:
            log.close()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, so that it never leaves a step half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives it
        return
    arrived = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if arrived:
        raise KeyboardInterrupt


def evaluate(
    model: Model, process: Process, corpus: data.Dataset, *, windows: int = 3840, length: int | None = None
) -> tuple[float, float]:
    """Held-out bits per character or dimension, an upper bound where the process has one: mean and standard error.

    Random windows of the held-out part; every call sees the same ones. The error is the spread over windows, which
    overstates it a little where a process stratifies its noise levels over a batch.

    Parameters
    ----------
    windows : how many, rounded up to whole batches of 64
    length : of each window; default the model's

    """
    if windows < 1:
        raise ValueError(f"windows is {windows}; it must be at least 1")
    if length is None:
        length = model.length if isinstance(model, Transformer) else len(corpus.held_out)
    corpus.check_length(length)
    rng = np.random.default_rng(EVALUATION_SEED)
    bits = []
    for _ in range(-(-windows // EVALUATION_BATCH)):
        x0, label = corpus.examples(length, EVALUATION_BATCH, rng, held_out=True)
        bits.append(process.bound(conditioned(model, label), x0, rng) / x0[0].size / math.log(2))
    per_window = np.concatenate(bits)
    return float(per_window.mean()), float(per_window.std(ddof=1) / math.sqrt(len(per_window)))


def corpus_of(folder: Path, config: dict[str, Any]) -> data.Dataset:
    """The data that the run in `folder` was trained on, refusing one that has changed since."""
    try:
        codec = _codec(config)
        name, digest = config["data"]["name"], config["data"]["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(folder, error) from None
    corpus: data.Dataset = data.load(name, codec)
    if corpus.config["sha256"] != digest:
        text, change = (
            ("text", "Python version, or an edited file") if codec else ("data", "NumPy or matplotlib version")
        )
        raise CheckpointError(
            f"the {text} of {corpus.name} is not the one {folder} was trained on (another {change}); restore it or "
            "train a new run"
        )
    return corpus


def _codec(config: dict[str, Any]) -> data.Codec | None:
    """The alphabet of a run on text; vectors have none."""
    return None if config["model"].get("features") else data.Codec(config["data"]["alphabet"])


def _incomplete(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder / 'config.json'} is incomplete or altered ({error}); restore it or train again")


def load(folder: Path) -> tuple[Transformer, Process, data.Codec | None, dict[str, Any]]:
    """Load a run for sampling and evaluation: its averaged weights, process, codec (None for vectors) and config."""
    config = checkpoint.read_config(folder)
    try:
        model = Transformer(**config["model"], rng=np.random.default_rng(0))
        process = from_config(config["process"])
        codec = _codec(config)
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(folder, error) from None
    shapes = {f"ema/{name}": p.shape for name, p in model.params.items()}
    tensors, _ = checkpoint.read_state(folder, shapes)
    for name, p in model.params.items():
        p.data = tensors[f"ema/{name}"].astype(model.dtype, copy=False)
    return model, process, codec, config
