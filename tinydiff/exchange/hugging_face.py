"""A run as a folder for Hugging Face's `transformers`, and such a folder as a run.

The folder holds config.json, with the names that LLaDA and Dream use; model.safetensors; tokenizer.json; the network in
PyTorch, `modeling_tinydiff.py`; and README.md, its card. Logits are ours: the same network, layer by layer, with these
differences of form:

- matrices are (outputs, inputs) there and (inputs, outputs) here;
- the tokenizer has two ids more than ours: the special one, V, which is MASK or START, and PAD, V + 1. The head has
  columns for both, with no weights and a bias of -10,000: no probability, and a number in every precision.

Under "tinydiff" the configuration keeps what the run said of itself. So the way back needs nothing else, and the
weights, if nobody has trained them on, come back bit for bit.

Not here: times, classes, vectors and mixtures of experts, which those tools would not know how to ask for.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from .. import __version__, learning
from ..arrays import Floats
from ..data import Characters, Codec, Pieces, codec_of
from ..data import codec as codecs
from ..learning import CheckpointError, checkpoint
from ..learning.config import check_config
from ..learning.files import cannot_write, quoted, refuse_existing
from ..learning.run import write_weights
from ..processes import Autoregressive, BlockDiffusion, MaskedDiffusion, Process
from ..transformer import ROTARY_BASE, Transformer

NO_LOGIT = -1e4
"""Of what is never predicted: exp of it is 0 in float16 too, and differences of two are no NaN."""
WORD = r" ?[\p{L}\p{N}_]+| ?[^\p{L}\p{N}_\s]|\s"
"""`data.codec.WORD` for the library of tokenizers, whose own word characters are others than Python's."""
SPECIAL = {True: "[START]", False: "[MASK]"}  # of a model from left to right, or not
PAD = "[PAD]"
MODELING = Path(__file__).parent / "modeling_tinydiff.py"
KINDS = (MaskedDiffusion, BlockDiffusion, Autoregressive)


def export(run: Path, out: Path) -> None:
    """Write the averaged weights of a run as a folder that transformers loads.

    Raises
    ------
    ValueError : the network has what such a folder cannot say, its tokens cannot be cut by their tokenizer, or `out` is
        there
    FileNotFoundError : the library of tokenizers is missing

    """
    refuse_existing(out)
    model, process, codec, config = learning.load(run)
    check_known(run, model, process, codec)
    assert codec is not None
    causal = isinstance(process, Autoregressive)
    settings = configuration(model, process, codec) | {"tinydiff": {"version": __version__, **_kept(run, config)}}
    words = tokenizer(codec, causal)
    files = {
        "config.json": _json(settings),
        "model.safetensors": save(renamed(model), {"format": "pt"}),
        "tokenizer.json": words.to_str(pretty=True).encode() + b"\n",
        "tokenizer_config.json": _json(_tokenizer_settings(model, codec, causal)),
        "README.md": card(run.resolve(), out.resolve(), model, process, codec).encode(),
        MODELING.name: MODELING.read_bytes(),
    }
    write_folder(out, files)


def check_known(run: Path, model: Transformer, process: Process, codec: Codec | None) -> None:
    """ValueError, naming it, for what an exported folder cannot say."""
    if codec is None or not isinstance(process, KINDS):
        raise ValueError(
            f"{run} is a run of {process.config['process']}, which transformers has no place for; expected text and "
            "masked, block, bert or autoregressive"
        )
    for name, value in (("time", model.time), ("classes", model.classes), ("experts", model.experts)):
        if value:
            raise ValueError(f"model.{name} of {run} is {value}, which an exported folder cannot say; train without it")


def configuration(model: Transformer, process: Process, codec: Codec) -> dict[str, Any]:
    """What transformers is told of the network."""
    special, causal = codec.vocab_size, isinstance(process, Autoregressive)
    block = process.block_length if isinstance(process, BlockDiffusion) else int(causal)
    head = "ForCausalLM" if causal else "ForMaskedLM"
    classes = {"AutoConfig": "Config", "AutoModel": "Model", f"AutoModel{head}": head}
    return {
        "architectures": [f"Tinydiff{head}"],
        "auto_map": {auto: f"{MODELING.stem}.Tinydiff{name}" for auto, name in classes.items()},
        "model_type": "tinydiff",
        "dtype": model.dtype.name,
        "vocab_size": codec.vocab_size + 2,
        "hidden_size": model.d_model,
        "intermediate_size": 4 * model.d_model,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.length,
        "rope_theta": ROTARY_BASE,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu_pytorch_tanh",
        "positions": model.positions,
        "attention_block": block,
        "mask_token_id": None if causal else special,
        "bos_token_id": special if causal else None,
        "eos_token_id": codec.eos_id,
        "pad_token_id": special + 1,
        "tie_word_embeddings": False,
    }


def _kept(run: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the way back needs. Of paths, which the folder would make public, their last part."""
    data = config["data"] | {"name": Path(config["data"]["name"]).name}
    step = checkpoint.state_header(run)[2]["step"]
    return {"step": step, **{part: config[part] for part in ("process", "model", "training")}, "data": data}


def renamed(model: Transformer) -> dict[str, Floats]:
    """Our arrays under their names and in their form."""
    arrays = {}
    for name, parameter in model.params.items():
        values = parameter.data
        if name == "embed":
            values = np.concatenate([values, np.zeros((1, model.d_model), values.dtype)])  # PAD
        elif name == "head.weight":
            values = np.concatenate([values, np.zeros((model.d_model, 2), values.dtype)], axis=1)
        elif name == "head.bias":
            values = np.concatenate([values, np.full(2, NO_LOGIT, values.dtype)])
        arrays[_their_name(name)] = np.ascontiguousarray(values.T if _is_matrix(name) else values)
    return arrays


def restored(arrays: Mapping[str, Floats], model: Transformer) -> dict[str, Floats]:
    """Their arrays under our names and in our form; ValueError for one that is missing, too many, or of another shape.

    Parameters
    ----------
    model : a network of the shape that is expected

    """
    expected = renamed(model)
    for name in sorted(expected.keys() ^ arrays.keys()):
        raise ValueError(f"{name} is {'missing' if name in expected else 'there, and no such array is expected'}")
    found = {}
    for name, parameter in model.params.items():
        theirs = arrays[_their_name(name)]
        if theirs.shape != expected[_their_name(name)].shape:
            raise ValueError(
                f"{_their_name(name)} has shape {theirs.shape}; expected {expected[_their_name(name)].shape}"
            )
        if not np.isfinite(theirs).all():
            raise ValueError(f"{_their_name(name)} contains NaN or inf")
        values = theirs.T if _is_matrix(name) else theirs
        if name == "embed":
            values = values[:-1]
        elif name in ("head.weight", "head.bias"):
            values = values[..., :-2]
        found[name] = np.ascontiguousarray(values, parameter.data.dtype)
    return found


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and "norm" not in name


def _their_name(name: str) -> str:
    """`block0.qkv.weight` to `model.blocks.0.qkv.weight`."""
    if name.startswith("head."):
        return f"lm_{name}"
    if name in ("embed", "position"):
        return f"model.{name}.weight"
    if name.startswith("block"):
        number, rest = name.removeprefix("block").split(".", 1)
        return f"model.blocks.{number}.{rest}"
    return f"model.{name}"


def tokenizer(codec: Codec, causal: bool) -> Any:
    """The codec as a tokenizer of their library, checked; what it does not know is read as MASK, or as PAD.

    ValueError if their tokenizer cannot cut as the codec does.
    """
    try:
        import tokenizers
    except ImportError:
        raise FileNotFoundError(
            "tokenizers is missing, which exported models cut text with; install it: pip install 'tinydiff[pieces]'"
        ) from None
    ids = {token: i for i, token in enumerate(codec.tokens)}
    specials = [SPECIAL[causal], PAD]
    for token in specials:
        if token in ids:
            raise ValueError(f"the tokens contain {token!r}, which is a special one in an exported model")
    ids |= {token: len(ids) + i for i, token in enumerate(specials)}
    unknown = specials[causal]
    split = {Characters: r"[\s\S]", Pieces: codecs.WORD}.get(type(codec), WORD)
    try:
        model: Any
        if isinstance(codec, Characters):
            model = tokenizers.models.WordLevel(ids, unk_token=unknown)
        elif isinstance(codec, Pieces):
            model = tokenizers.models.BPE(ids, [*codec.merges], unk_token=unknown)
        else:  # words as they stand in the list, others letter by letter
            model = tokenizers.models.BPE(ids, [], unk_token=unknown, ignore_merges=True)
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        made.decoder = tokenizers.decoders.Fuse()
        made.add_special_tokens(specials)
        for text in (*codec.tokens, "".join(codec.tokens)):
            if made.encode(text).ids != codec.encode(text).tolist() or made.decode(made.encode(text).ids) != text:
                shown = text if len(text) < 40 else text[:40] + "..."
                raise ValueError(f"{shown!r} is cut into other tokens by the library of tokenizers")
    except (UnicodeError, TypeError) as error:
        raise ValueError(f"the tokens cannot be said in a file of tokenizers ({error})") from None
    return made


def _tokenizer_settings(model: Transformer, codec: Codec, causal: bool) -> dict[str, Any]:
    eos = None if codec.eos_id is None else codec.tokens[codec.eos_id]
    special = "bos_token" if causal else "mask_token"
    names = {special: SPECIAL[causal], "pad_token": PAD} | ({"eos_token": eos} if eos else {})
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **names,
    }


def card(run: Path, out: Path, model: Transformer, process: Process, codec: Codec) -> str:
    """README.md: what it is, how good, how to use it and how it was made."""
    causal = isinstance(process, Autoregressive)
    measured = [row["held_out"] for row in checkpoint.read_log(run) if row.get("held_out")]
    bound = "" if causal else "at most "
    bits = (
        f"{bound}{measured[-1][0]:.4f} +- {measured[-1][1]:.4f} bits per character on held-out text, as its training "
        "measured it"
        if measured
        else "not measured in training"
    )
    auto = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
    size = sum(p.data.size for p in model.params.values())
    lines = [
        "---", "library_name: transformers", f"pipeline_tag: {'text-generation' if causal else 'fill-mask'}",
        "tags: [tinydiff, diffusion]", "---", "",
        f"# {run.name}", "",
        f"A small language model, {process.config['process']}, made with tinydiff {__version__}: {size:,} parameters, "
        f"{model.layers} layers of {model.d_model}, {codec.vocab_size:,} {codec.unit}s, texts of up to {model.length} "
        "of them.", "",
        f"- Quality: {bits}. To measure it again: `tinydiff evaluate {quoted(run.name)}`.",
        f"- Made by: `tinydiff export hf {quoted(run.name)} {quoted(out.name)}`.",
        "- What the alphabet does not have is read as " + ("`[PAD]`." if causal else "`[MASK]`."),
        "", "```python", f"from transformers import AutoTokenizer, {auto}", "",
        f'tokenizer = AutoTokenizer.from_pretrained("{out.name}", trust_remote_code=True)',
        f'model = {auto}.from_pretrained("{out.name}", trust_remote_code=True)', "```", "",
    ]  # fmt: skip
    if causal:
        lines += ["A text begins with `[START]`, the token of `bos_token_id`; the logits at a place are of the next."]
    else:
        block = f"`[MASK]` has the id {codec.vocab_size}; the logits at a mask are of what it hides, not shifted."
        if isinstance(process, BlockDiffusion):
            block += f" No position sees beyond its block of {process.block_length}."
        lines += [block]
    return "\n".join(lines) + "\n"


def read(folder: Path, out: Path) -> None:
    """Write the model of an exported folder as a run for sampling, evaluation and export.

    Raises
    ------
    ValueError : the folder is of another architecture, or `out` is there
    CheckpointError : something in it is damaged

    """
    settings = settings_of(folder)
    kept = settings.get("tinydiff")
    if settings.get("model_type") != "tinydiff" or not isinstance(kept, dict):
        raise ValueError(
            f"{folder / 'config.json'} is of the architecture {settings.get('model_type')!r}; expected 'tinydiff', a "
            "folder that tinydiff export hf has written"
        )
    refuse_existing(out)
    config: dict[str, Any] = {part: kept.get(part) for part in ("process", "model", "data", "training")}
    try:
        check_config(config)
        codec_of(config["data"])
        model = Transformer(**config["model"] | {"precision": "full"}, rng=np.random.default_rng(0))
        step = kept["step"]
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"step is {step!r}; expected a whole number")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is incomplete or altered ({error})") from None
    path = folder / "model.safetensors"
    try:
        weights = restored(load_file(path), model)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    write_weights(out, weights, config, step)


def settings_of(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; CheckpointError if there is none."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json; name the folder of a Hugging Face model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    return found if isinstance(found, dict) else {}


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that is there with all its files, or not at all."""
    beside = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".new", dir=out.parent))
        for name, content in files.items():
            (beside / name).write_bytes(content)
        beside.chmod(0o755)
        beside.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
