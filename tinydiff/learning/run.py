"""A run: a model in training with all that a checkpoint has to hold, in memory and in its folder.

    run = Run(corpus, process, model, Options(steps=3000), folder=Path("runs/docs"))

`Run.resume` continues with the same bits as if training had never stopped; `load` reads what sampling and evaluation
need.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..arrays import Floats
from ..processes import Process, from_config
from ..transformer import Transformer
from . import checkpoint
from .checkpoint import CheckpointError
from .muon import MATRIX_LR, Muon
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
        self.optimiser = _optimiser(model, self.options)
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
        groups = {"model": flat.values, "ema": self.ema.values}
        weights = {f"{group}/{name}": view for group, all_ in groups.items() for name, view in flat.named(all_).items()}
        return weights | self.optimiser.state()

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


def _optimiser(model: Transformer, options: Options) -> AdamW:
    if options.optimiser == "adamw":
        return AdamW(model.params, weight_decay=options.weight_decay, clip=options.clip)
    matrix_lr = MATRIX_LR if options.muon_lr is None else options.muon_lr
    return Muon(
        model.params, relative_rate=matrix_lr / options.lr, weight_decay=options.weight_decay, clip=options.clip
    )


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
