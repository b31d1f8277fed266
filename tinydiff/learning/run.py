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
from typing import Any, Protocol

import numpy as np

from .. import data
from ..arrays import Floats
from ..processes import Autoregressive, BlockDiffusion, Process, from_config
from ..tensor import Tensor, no_grad
from ..transformer import Model, Transformer
from . import checkpoint
from .files import CheckpointError, quoted, remove_leftovers
from .lock import locked
from .muon import Muon
from .optim import EMA, AdamW
from .options import Options


class Trainable(Model, Protocol):
    """A `Model` that a run can train: the Transformer, or one of your own.

    It also has a `vocab_size` or a number of `features`, like the data, and may have `classes`.
    """

    params: dict[str, Tensor]

    @property
    def length(self) -> int:
        """How long the sequences are that it is trained on."""
        ...


class Run:
    """A model in training with everything the next step depends on.

    Parameters
    ----------
    corpus : any `data.Dataset`
    model : a Transformer, or anything `Trainable`; only a Transformer can be written to a folder
    folder : where checkpoints and the log go; None keeps everything in memory

    Raises
    ------
    ValueError : if corpus, process and model do not suit one another, or one lacks what training needs of it

    """

    def __init__(
        self,
        corpus: data.Dataset,
        process: Process,
        model: Trainable,
        options: Options | None = None,
        folder: Path | str | None = None,
    ) -> None:
        folder = None if folder is None else Path(folder)
        _check_parts(corpus, process, model)
        corpus.check_length(model.length)
        for name in ("vocab_size", "features"):  # tokens have the one, vectors the other
            ours, its, theirs = (getattr(part, name, None) for part in (corpus, process, model))
            if not ours == its == theirs:
                raise ValueError(
                    f"{name} is {ours} for the corpus, {its} for the process and {theirs} for the model; "
                    "all three must agree"
                )
        classes = getattr(model, "classes", 0)
        if getattr(corpus, "classes", 0) != classes:
            raise ValueError(
                f"classes is {getattr(corpus, 'classes', 0)} for the corpus and {classes} for the model; "
                "both must agree"
            )
        if not isinstance(model, Transformer):
            if folder is not None:
                raise ValueError(
                    f"folder is {folder}, but only a Transformer can be written to one and read again; leave it out "
                    f"and keep the parameters of {type(model).__name__} yourself"
                )
            _check_answer(model, corpus)
        self.corpus, self.process, self.model, self.folder = corpus, process, model, folder
        self.options = options or Options()
        cut = isinstance(corpus, data.Corpus | data.Pairs) and not isinstance(corpus, data.Examples)
        if self.options.random_lengths and not cut:
            raise ValueError(
                f"random_lengths is {self.options.random_lengths}, but {corpus.name} has texts of one length only: "
                "leave it out"
            )
        chosen = getattr(model, "experts", 0) and getattr(model, "routing", "token")
        if isinstance(process, Autoregressive | BlockDiffusion) and chosen == "expert":
            kind = "autoregressive" if isinstance(process, Autoregressive) else "of blocks, left to right"
            raise ValueError(
                f"routing is 'expert', but the process is {kind}: experts that choose among all tokens let "
                "later ones say who works on earlier ones, and what comes out is no likelihood; use routing='token'"
            )
        self.optimiser = new_optimiser(model, self.options)
        self.ema = EMA(self.optimiser.flat, self.options.ema)
        self.rng = np.random.default_rng(self.options.seed)
        self.step = 0
        self._digest: str | None = None  # of the state on disk that this run has read or written
        if folder is not None:
            checkpoint.refuse_foreign(folder)
            checkpoint.make_folder(folder)
            with locked(folder):
                checkpoint.refuse_foreign(folder)  # another may have been quicker
                checkpoint.write_config(folder, self.config)
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

    @property
    def config(self) -> dict[str, Any]:
        """What its folder says of it: process, model, data, and how it is trained."""
        return {
            "process": self.process.config,
            "model": getattr(self.model, "config", {}),
            "data": self.corpus.config,
            "training": asdict(self.options),
        }

    def _arrays(self) -> dict[str, Floats]:
        """Every array of the state, as views by name."""
        flat = self.optimiser.flat
        groups = {"model": flat.values, "ema": self.ema.values}
        weights = {f"{group}/{name}": view for group, all_ in groups.items() for name, view in flat.named(all_).items()}
        return weights | self.optimiser.state()

    def averaged(self) -> Trainable:
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
            progress = {"step": self.step, "rng": self.rng.bit_generator.state, "config": self.config}
            self._digest = checkpoint.write_state(self.folder, self._arrays(), progress)

    def extend(self, steps: int | None = None, lr: float | None = None) -> None:
        """Train to another number of steps, or with another peak rate: a warm restart (Loshchilov and Hutter 2017).

        From the step where the run stands the learning rate begins again: `warmup` steps up to the peak, then a cosine
        down to a tenth at the last step. The optimiser's moments and the average go on.

        Parameters
        ----------
        steps : in all, more than are done; default as many as before
        lr : the new peak; default the old one. Muon's own rate moves along with it.

        """
        steps, lr = self.options.steps if steps is None else steps, self.options.lr if lr is None else lr
        if (steps, lr) == (self.options.steps, self.options.lr):
            return
        if steps <= self.step:
            raise ValueError(f"steps is {steps}, but {self.step} are done already; it must be more")
        options = replace(self.options, steps=steps, lr=lr, restart=self.step)
        if options.optimiser == "muon":
            options = replace(options, muon_lr=self.options.relative_rate * lr)
        with self.held():
            self.options = options
            if isinstance(self.optimiser, Muon):
                self.optimiser.relative_rate = options.relative_rate
            if self.folder is not None:
                checkpoint.write_config(self.folder, self.config)

    @staticmethod
    def resume(folder: Path | str, corpus: data.Dataset | None = None) -> Run:
        """Load the run in `folder` to train it further.

        Parameters
        ----------
        corpus : the data of the run, if they are your own or are no longer where they were; checked by their digest

        """
        folder = Path(folder)
        config = checkpoint.read_config(folder)
        try:
            options = Options(**config["training"])
            model = Transformer(**config["model"], rng=np.random.default_rng(options.seed))
            process = from_config(config["process"])
        except (KeyError, TypeError, ValueError) as error:
            raise _incomplete(folder, error) from None
        run = Run(corpus_of(folder, config, corpus), process, model, options)
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


def new_optimiser(model: Trainable, options: Options) -> AdamW:
    """The optimiser that the options name, of a model's parameters."""
    if options.optimiser == "adamw":
        return AdamW(model.params, weight_decay=options.weight_decay, clip=options.clip)
    return Muon(model.params, relative_rate=options.relative_rate, weight_decay=options.weight_decay, clip=options.clip)


def corpus_of(folder: Path, config: dict[str, Any], corpus: data.Dataset | None = None) -> data.Dataset:
    """The data that the run in `folder` was trained on, or `corpus` if they are those; refused if they have changed."""
    try:
        codec = _codec(config)
        name, digest = config["data"]["name"], config["data"]["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(folder, error) from None
    if corpus is None:
        corpus = _load(folder, config, codec, name)
    if "middles" in config["data"] and isinstance(corpus, data.Corpus):
        corpus = data.Middles(corpus, config["data"]["middles"], config["data"]["longest"])
    if corpus.config["sha256"] != digest:
        text, change = (
            ("text", "Python version, or an edited file") if codec else ("data", "NumPy or matplotlib version")
        )
        raise CheckpointError(
            f"the {text} of {corpus.name} is not the one {folder} was trained on (another {change}); restore it or "
            "train a new run"
        )
    ours, theirs = ({k: v for k, v in c.items() if k != "name"} for c in (corpus.config, config["data"]))
    if ours != theirs:
        raise CheckpointError(
            f"{corpus.name} is what {folder} was trained on, but is cut into other tokens; make it with the codec of "
            f"the run: tinydiff.load({str(folder)!r})[2]"
        )
    return corpus


def _load(folder: Path, config: dict[str, Any], codec: data.Codec | None, name: str) -> data.Dataset:
    try:
        if name == "-":
            raise FileNotFoundError("standard input is over")
        if "pairs" in config["data"]:
            return data.load_pairs(name, codec, rainbow=config["data"].get("rainbow", 0))
        return data.load(name, codec)
    except FileNotFoundError as error:
        if "tokenizers" in str(error):
            raise
        raise FileNotFoundError(
            f"{name}, which {folder} was trained on, is not there; say where it is with --text or --pairs, in Python "
            "with Run.resume(folder, corpus=...)"
        ) from error


def _codec(config: dict[str, Any]) -> data.Codec | None:
    """The codec of a run on text; vectors and other people's tokens have none."""
    return data.codec_of(config["data"]) if {"alphabet", "words"} & config["data"].keys() else None


def _check_parts(corpus: Any, process: Any, model: Any) -> None:
    """ValueError naming what one of them lacks of the protocol that training needs."""
    for what, part, names in (
        ("corpus", corpus, ("name", "unit", "config", "check_length", "examples")),
        ("process", process, ("needs_time", "config", "loss", "bound")),
        ("model", model, ("params", "length", "__call__")),
    ):
        missing = [name for name in names if not hasattr(part, name)]
        if missing:
            raise ValueError(
                f"{what} is of type {type(part).__name__}, which has no {', '.join(missing)}; training needs that, see "
                "docs/own_data.md"
            )
    for what, part in (("corpus", corpus), ("model", model)):
        if getattr(part, "vocab_size", None) is None and getattr(part, "features", None) is None:
            raise ValueError(
                f"{what} is of type {type(part).__name__}, with neither vocab_size nor features; expected a number for "
                "one of them"
            )


def _check_answer(model: Any, corpus: data.Dataset) -> None:
    """ValueError unless a model that is not ours answers in the shape that `Model` says."""
    x = corpus.examples(model.length, 2, np.random.default_rng(0)).x0
    outputs = model.vocab_size if getattr(model, "features", None) is None else model.features
    select = np.zeros(x.shape[:2], bool)
    select[0, 0] = True
    with no_grad():
        for chosen, wanted in ((None, (*x.shape[:2], outputs)), (select, (1, outputs))):
            answer = model(x, np.full(2, 0.5), select=chosen)
            if getattr(answer, "shape", None) != wanted:
                how = "select of one position" if chosen is not None else "no select"
                raise ValueError(
                    f"model returns shape {getattr(answer, 'shape', type(answer).__name__)} for x {x.shape} and {how}; "
                    f"expected {wanted}"
                )


def _incomplete(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder / 'config.json'} is incomplete or altered ({error}); restore it or train again")


def load(folder: Path | str) -> tuple[Transformer, Process, data.Codec | None, dict[str, Any]]:
    """Load a run for sampling and evaluation: averaged weights, process, codec (None without text) and config.

    Products are of full precision, whatever the run is trained in: so it can be read on any CPU.
    """
    folder = Path(folder)
    config = checkpoint.read_config(folder)
    try:
        model = Transformer(**config["model"] | {"precision": "full"}, rng=np.random.default_rng(0))
        process = from_config(config["process"])
        codec = _codec(config)
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(folder, error) from None
    shapes = {f"ema/{name}": p.shape for name, p in model.params.items()}
    tensors, _, _ = checkpoint.read_state(folder, shapes)
    for name, p in model.params.items():
        p.data = tensors[f"ema/{name}"].astype(model.dtype, copy=False)
    return model, process, codec, config


def branch(source: Path | str, folder: Path | str, model: Transformer) -> None:
    """Write a run like the one in `source` with the weights of `model`: its data, its process, its step.

    The optimiser starts afresh, as its moments belong to other weights.
    """
    source, folder = Path(source), Path(folder)
    config = checkpoint.read_config(source)
    _, shapes, progress = checkpoint.state_header(source)
    arrays, _, _ = checkpoint.read_state(source, shapes)
    for name, array in arrays.items():
        group, _, parameter = name.partition("/")
        if group in ("model", "ema"):
            arrays[name] = model.params[parameter].data.astype(array.dtype)
        else:
            arrays[name] = np.zeros_like(array)
    checkpoint.refuse_foreign(folder)
    checkpoint.make_folder(folder)
    with locked(folder):
        checkpoint.refuse_foreign(folder)
        checkpoint.write_config(folder, config)
        checkpoint.write_state(folder, arrays, progress)
