"""A run: a model in training with all that a checkpoint has to hold, in memory and in its folder.

    run = Run(corpus, process, model, Options(steps=3000), folder=Path("runs/docs"))

`Run.resume` continues with the same bits as if training had never stopped; `load` reads what sampling and evaluation
need.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..arrays import Floats
from ..processes import Process, from_config
from ..transformer import Transformer
from . import checkpoint
from .files import CheckpointError, quoted, remove_leftovers
from .lock import locked
from .optim import EMA, AdamW
from .options import Options


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
        self._digest: str | None = None  # of the state on disk that this run has read or written
        if folder is not None:
            checkpoint.refuse_foreign(folder)
            checkpoint.make_folder(folder)
            with locked(folder):
                checkpoint.refuse_foreign(folder)  # another may have been quicker
                checkpoint.write_config(folder, self._config())
                self.save()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or a run that was pickled: it trains on to the same bits, in memory and not in the folder."""
        self.__dict__.update(state | {"folder": None})
        self.optimiser.flat.bind(self.model.params)  # copied one by one they would be views no longer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out of the folder; CheckpointError if one is there, or has changed the state."""
        if self.folder is None:
            yield
            return
        self.check_folder()
        with locked(self.folder):
            self.check_folder()
            remove_leftovers(*(self.folder / name for name in checkpoint.FILES))
            yield

    def check_folder(self) -> None:
        """Raise CheckpointError unless the folder holds what this run has put or found there."""
        if self.folder is None:
            return
        if not (self.folder / "config.json").exists():
            raise CheckpointError(
                f"{self.folder} was removed or renamed; step {self.step} of its training could not be saved"
            )
        if not (self.folder / "state.safetensors").exists():
            return
        try:
            there, *_ = checkpoint.state_header(self.folder)
        except CheckpointError:
            return  # broken since: what is in memory replaces it
        if there != self._digest:
            raise CheckpointError(
                f"the state in {self.folder} was changed by another process, and is left as it is; go on from it with: "
                f"tinydiff train --resume {quoted(self.folder)}"
            )

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

    def averaged(self) -> Transformer:
        """A copy of the model with the averaged weights: what held-out figures are of, and what to sample from.

        `self.model` has the weights of the last step. The copy keeps its own, however long the run trains on.
        """
        model = copy.deepcopy(self.model)
        for name, values in self.optimiser.flat.named(self.ema.values).items():
            model.params[name].data, model.params[name].grad = values.copy(), None
        return model

    def save(self) -> None:
        """Write a checkpoint, replacing the last one; CheckpointError if that is not the one this run knows."""
        if self.folder is not None:
            self.check_folder()
            progress = {"step": self.step, "rng": self.rng.bit_generator.state, "config": self._config()}
            self._digest = checkpoint.write_state(self.folder, self._arrays(), progress)

    def extend(self, steps: int | None = None, lr: float | None = None) -> None:
        """Train to another number of steps, or with another peak rate: a warm restart (Loshchilov and Hutter 2017).

        From the step where the run stands the learning rate begins again: `warmup` steps up to the peak, then a cosine
        down to a tenth at the last step. The optimiser's moments and the average go on.

        Parameters
        ----------
        steps : in all, more than are done; default as many as before
        lr : the new peak; default the old one

        """
        steps, lr = self.options.steps if steps is None else steps, self.options.lr if lr is None else lr
        if (steps, lr) == (self.options.steps, self.options.lr):
            return
        if steps <= self.step:
            raise ValueError(f"steps is {steps}, but {self.step} are done already; it must be more")
        options = replace(self.options, steps=steps, lr=lr, restart=self.step)
        with self.held():
            self.options = options
            if self.folder is not None:
                checkpoint.write_config(self.folder, self._config())

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
        shapes = {name: a.shape for name, a in arrays.items()}
        tensors, progress, run._digest = checkpoint.read_state(folder, shapes)
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
    tensors, _, _ = checkpoint.read_state(folder, shapes)
    for name, p in model.params.items():
        p.data = tensors[f"ema/{name}"].astype(model.dtype, copy=False)
    return model, process, codec, config
