"""Models carried over: the same network in PyTorch, the same bits on the way back, and nothing half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import Runs
from tinydiff import Run, Transformer, box, data, learning
from tinydiff.data import Characters
from tinydiff.data.codec import Codec, Pieces, Words
from tinydiff.exchange import hugging_face, nanogpt
from tinydiff.learning import CheckpointError, Options
from tinydiff.processes import Autoregressive, BlockDiffusion, MaskedDiffusion
from tinydiff.tensor import no_grad

pytest.importorskip("tokenizers")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported masked run; to be read only."""
    out = tmp_path_factory.mktemp("exported") / "cats"
    hugging_face.export(trained, out)
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def logits_there(folder: Path, ids: np.ndarray) -> np.ndarray:
    """What the exported network says of (B, L) ids, written out from its files alone in NumPy float64."""
    config = json.loads((folder / "config.json").read_text())
    w = {name: a.astype(np.float64) for name, a in load_file(folder / "model.safetensors").items()}
    heads, length = config["num_attention_heads"], ids.shape[1]
    depth = config["hidden_size"] // heads

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        d = x - x.mean(-1, keepdims=True)
        scaled = d / np.sqrt((d * d).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def turned(x: np.ndarray) -> np.ndarray:  # (B, L, H, D)
        angles = np.outer(np.arange(length), config["rope_theta"] ** (-np.arange(0, depth, 2) / depth))[:, None]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
        )

    places, block = np.arange(length), config["attention_block"]
    seen = np.ones((length, length), bool) if not block else places[:, None] // block >= places // block
    h = w["model.embed.weight"][ids]
    if config["positions"] != "rotary":
        h = h + w["model.position.weight"][:length]
    for i in range(config["num_hidden_layers"]):
        name = f"model.blocks.{i}"
        qkv = linear(f"{name}.qkv", norm(f"{name}.norm1", h)).reshape(*ids.shape, 3, heads, depth)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if config["positions"] != "learned":
            q, k = turned(q), turned(k)
        scores = np.where(seen, np.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(depth), -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        h = h + linear(f"{name}.out", np.einsum("bhlm,bmhd->blhd", p, v).reshape(h.shape))
        up = linear(f"{name}.up", norm(f"{name}.norm2", h))
        h = h + linear(f"{name}.down", up / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))))
    return linear("lm_head", norm("model.norm", h))


def some_run(folder: Path, kind: str, positions: str, rng: np.random.Generator) -> Run:
    """A run in float64 that has not been trained, with weights that differ in every place."""
    corpus = data.Corpus(
        "letters", "some letters, more letters.\n" * 40, Characters.of("some letters, more letters.\n")
    )
    v = corpus.vocab_size
    process = {"masked": MaskedDiffusion(v), "block": BlockDiffusion(v, block_length=3), "ar": Autoregressive(v)}[kind]
    model = Transformer(v, 8, d_model=8, layers=2, heads=2, positions=positions, rng=rng, dtype=np.float64)
    for parameter in model.params.values():
        parameter.data += 0.1 * rng.standard_normal(parameter.shape)
    return Run(corpus, process, model, Options(steps=1), folder)


@pytest.mark.parametrize("positions", ["both", "rotary", "learned"])
@pytest.mark.parametrize("kind", ["masked", "block", "ar"])
def test_the_exported_network_is_ours(kind: str, positions: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Logits from the files alone: every array, its form, who sees whom, and positions. What is special never comes."""
    run = some_run(tmp_path / "run", kind, positions, rng)
    hugging_face.export(tmp_path / "run", tmp_path / "out")
    model, v = run.averaged(), run.corpus.codec.vocab_size
    ids = rng.integers(0, v + 1, (3, 8))
    with no_grad():
        ours = model(ids, causal={"masked": 0, "block": 3, "ar": 1}[kind]).data
    theirs = logits_there(tmp_path / "out", ids)
    np.testing.assert_allclose(theirs[..., :v], ours, rtol=1e-12, atol=1e-13)
    assert (theirs[..., v:] == hugging_face.NO_LOGIT).all()
    assert np.exp(np.float16(hugging_face.NO_LOGIT)) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    special = ("bos_token_id", "mask_token_id")
    assert [config[name] for name in special] == ([v, None] if kind == "ar" else [None, v])
    assert config["pad_token_id"] == v + 1
    assert config["vocab_size"] == v + 2


@pytest.mark.parametrize("name", ["stories", "stories_ar", "prose", "trained"])
def test_back_bit_for_bit(name: str, trained: Path, tmp_path: Path) -> None:
    """The weights, the process, the codec and the step; half precision of the box comes back in single."""
    run = trained if name == "trained" else box.ROOT / name
    hugging_face.export(run, tmp_path / "out")
    hugging_face.read(tmp_path / "out", tmp_path / "back")
    (model, process, codec, config), (again, process2, codec2, config2) = map(learning.load, (run, tmp_path / "back"))
    assert codec == codec2
    assert process.config == process2.config
    assert model.config == again.config
    assert config["training"] == config2["training"]
    assert {n: p.data.tobytes() for n, p in model.params.items()} == {
        n: p.data.tobytes() for n, p in again.params.items()
    }
    steps = [learning.checkpoint.state_header(folder)[2]["step"] for folder in (run, tmp_path / "back")]
    assert steps[0] == steps[1]
    hugging_face.export(tmp_path / "back", tmp_path / "out2")
    files = [path.name for path in (tmp_path / "out").iterdir() if path.name != "README.md"]
    assert len(files) == 5
    assert all((tmp_path / "out" / f).read_bytes() == (tmp_path / "out2" / f).read_bytes() for f in files)


def test_no_path_becomes_public(exported: Path, runs: Runs) -> None:
    """A folder that is published does not tell where its author keeps his texts."""
    for file in exported.iterdir():
        assert str(runs.text.parent.parent).encode() not in file.read_bytes()
    assert json.loads((exported / "config.json").read_text())["tinydiff"]["data"]["name"] == runs.text.name


CODECS: dict[str, Callable[[], Codec]] = {
    "characters": lambda: Characters.of("Zwölf Boxkämpfer\n\tjagen 💡, «Viktor» e\u0301\r\n", eos=True),
    "words": lambda: Words.of("one two, two  three\n\nthree; four-four, cafe\u0301s \u00bd x\u00b2", eos=True),
    "closed words": lambda: Words((" one", " two", ".", "¶"), "¶"),
    "pieces": lambda: Pieces.of("the cat sat on the mat, the cat sat.\n" * 9, 24, eos=True),
}


@pytest.mark.parametrize("name", CODECS)
def test_tokenizers_cut_alike(name: str, rng: np.random.Generator) -> None:
    """Texts of random tokens; MASK is one token wherever it stands, and what is not known is one too."""
    codec = CODECS[name]()
    made = hugging_face.tokenizer(codec, causal=False)
    for _ in range(50):
        text = codec.decode(rng.integers(0, codec.vocab_size, 12))
        assert made.encode(text).ids == codec.encode(text).tolist()
        assert made.decode(made.encode(text).ids, skip_special_tokens=False) == text
    token = codec.tokens[0]
    assert made.encode(f"{token}[MASK][MASK]{token}").ids == [0, codec.vocab_size, codec.vocab_size, 0]
    assert made.encode("\u2603").ids == [codec.vocab_size]
    assert hugging_face.tokenizer(codec, causal=True).encode("\u2603").ids == [codec.vocab_size + 1]


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        (Characters("ab\ud800"), "cannot be said"),
        (Words(("[MASK]", " a")), "special"),
        (Words((" \x1c", "\x1c", " ")), "other"),
    ],
)
def test_alphabets_that_cannot_be_carried(codec: Codec, words: str) -> None:
    """Half a character, a token that is called like a special one, one that is cut in two."""
    with pytest.raises(ValueError, match=words):
        hugging_face.tokenizer(codec, causal=False)


@pytest.mark.parametrize(
    ("process", "words"),
    [("d3pm_uniform", "no place for"), ("sedd_absorbing", "no place for"), ("refinement", "no place")],
)
def test_runs_that_cannot_be_exported(process: str, words: str, runs: Runs, tmp_path: Path) -> None:
    """Other noise than masks."""
    runs.new(tmp_path / "run", process)
    with pytest.raises(ValueError, match=words):
        hugging_face.export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "words"), [({"time": True}, "time"), ({"experts": 2}, "experts")])
def test_networks_that_cannot_be_exported(
    option: dict[str, Any], words: str, runs: Runs, tmp_path: Path, rng: np.random.Generator
) -> None:
    """What the network in PyTorch does not have."""
    corpus = data.load(str(runs.text))
    model = Transformer(corpus.vocab_size, 16, d_model=8, layers=1, heads=2, rng=rng, **option)
    Run(corpus, MaskedDiffusion(corpus.vocab_size), model, Options(steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"model\.{words}"):
        hugging_face.export(tmp_path / "run", tmp_path / "out")


def test_vectors_cannot_be_exported(tmp_path: Path, rng: np.random.Generator) -> None:
    """They have no tokens."""
    corpus = data.load("spiral")
    process = learning.run.from_config({"process": "ddpm", "features": corpus.features})
    sizes = {"features": corpus.features, "length": corpus.length, "d_model": 8, "layers": 1, "heads": 2}
    Run(corpus, process, Transformer(**sizes, time=True, rng=rng), Options(steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="expected text"):
        hugging_face.export(tmp_path / "run", tmp_path / "out")


def test_what_exists_is_left_alone(trained: Path, exported: Path, tmp_path: Path) -> None:
    """A folder or a file, of ours or not."""
    (tmp_path / "there").write_text("mine")
    for there in (tmp_path / "there", exported):
        before = there.read_text() if there.is_file() else sorted(there.iterdir())
        with pytest.raises(ValueError, match="exists already"):
            hugging_face.export(trained, there)
        with pytest.raises(ValueError, match="exists already"):
            hugging_face.read(exported, there)
        assert before == (there.read_text() if there.is_file() else sorted(there.iterdir()))


def test_nothing_is_half_written(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the third file."""
    write = Path.write_bytes
    written: list[str] = []

    def full(path: Path, content: bytes) -> int:
        written.append(path.name)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left"):
        hugging_face.export(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_damaged_folders(copied: Path, tmp_path: Path) -> None:
    """Another architecture, arrays that are missing, cut, of another shape or no numbers, and settings edited."""
    out = tmp_path / "run"

    def refused(words: str, error: type[Exception] = CheckpointError) -> None:
        with pytest.raises(error, match=words):
            hugging_face.read(copied, out)
        assert not out.exists()

    config, weights = (copied / name for name in ("config.json", "model.safetensors"))
    settings, arrays = json.loads(config.read_text()), load_file(weights)
    config.write_text(json.dumps({"model_type": "llama"}))
    refused("'llama'", ValueError)
    config.write_text("{")
    refused("cannot be read")
    config.unlink()
    refused("no config.json")
    endless = settings["tinydiff"]["model"] | {"layers": 10**9}
    for change in ({"step": "many"}, {"process": {"process": "masked"}}, {"model": endless}):
        config.write_text(json.dumps(settings | {"tinydiff": settings["tinydiff"] | change}))
        refused("incomplete or altered")
    config.write_text(json.dumps(settings))
    for name, spoilt, words in (
        ("model.embed.weight", arrays["model.embed.weight"][:-1], "shape"),
        ("lm_head.bias", np.full_like(arrays["lm_head.bias"], np.nan), "NaN"),
        ("more", np.zeros(1, np.float32), "no such array"),
    ):
        save_file(arrays | {name: np.ascontiguousarray(spoilt)}, weights)
        refused(words)
    save_file({name: a for name, a in arrays.items() if name != "lm_head.bias"}, weights)
    refused("missing")
    weights.write_bytes(weights.read_bytes()[:-5])
    refused("cannot be read")
    weights.unlink()
    refused("cannot be read")


def test_weights_that_were_trained_elsewhere_arrive(copied: Path, tmp_path: Path) -> None:
    """Other numbers in the same arrays, in another precision too."""
    arrays = load_file(copied / "model.safetensors")
    arrays["model.norm.weight"] = np.full_like(arrays["model.norm.weight"], 0.5)
    save_file({name: a.astype(np.float16) for name, a in arrays.items()}, copied / "model.safetensors")
    hugging_face.read(copied, tmp_path / "run")
    model, *_ = learning.load(tmp_path / "run")
    assert (model.params["norm.weight"].data == 0.5).all()
    assert model.dtype == np.float32


def gpt(rng: np.random.Generator, v: int, length: int, d: int, layers: int, bias: bool) -> dict[str, np.ndarray]:
    """The arrays of a nanoGPT model, by its names, of random numbers."""
    shapes = {"wte": (v, d), "wpe": (length, d), "ln_f": (d,)}
    for i in range(layers):
        for part, shape in (("ln_1", (d,)), ("attn.c_attn", (3 * d, d)), ("attn.c_proj", (d, d)), ("ln_2", (d,)),
                            ("mlp.c_fc", (4 * d, d)), ("mlp.c_proj", (d, 4 * d))):  # fmt: skip
            shapes[f"h.{i}.{part}"] = shape
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"transformer.{name}.weight"] = 0.3 * rng.standard_normal(shape)
        if bias and name not in ("wte", "wpe"):
            arrays[f"transformer.{name}.bias"] = 0.3 * rng.standard_normal(shape[0])
    return arrays


def gpt_logits(w: Mapping[str, np.ndarray], ids: np.ndarray, heads: int, gelu: Callable[[Any], Any]) -> np.ndarray:
    """What nanoGPT's model.py computes, (L,) to (L, V)."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"transformer.{name}.weight"].T + w.get(f"transformer.{name}.bias", 0)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * w[f"transformer.{name}.weight"] + w.get(f"transformer.{name}.bias", 0)

    length = len(ids)
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:length]
    for i in range(sum(name.endswith("c_fc.weight") for name in w)):
        q, k, v = np.split(linear(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)), 3, axis=1)
        out = []
        for head in np.split(np.arange(x.shape[1]), heads):
            scores = np.where(np.tri(length, dtype=bool), q[:, head] @ k[:, head].T / math.sqrt(len(head)), -np.inf)
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out.append(p / p.sum(axis=1, keepdims=True) @ v[:, head])
        x = x + linear(f"h.{i}.attn.c_proj", np.concatenate(out, axis=1))
        x = x + linear(f"h.{i}.mlp.c_proj", gelu(linear(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))))
    return norm("ln_f", x) @ w["transformer.wte.weight"].T


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(bias: bool, runs: Runs, tmp_path: Path, rng: np.random.Generator) -> None:
    r"""Its logits after "\n" are ours after START, but for the GELU; the run evaluates, and is where Dream begins."""
    text = tmp_path / "text.txt"
    text.write_text("\t" + runs.text.read_text())  # "\n" is not the first of its characters
    corpus = data.load(str(text))
    v = corpus.vocab_size
    arrays = gpt(rng, v, 17, 8, 2, bias)
    buffers = {"transformer.h.0.attn.bias": np.ones((1, 1, 17, 17))}
    save_file(
        arrays | buffers | {"lm_head.weight": arrays["transformer.wte.weight"].copy()}, tmp_path / "gpt.safetensors"
    )
    nanogpt.read(tmp_path / "gpt.safetensors", str(text), 2, tmp_path / "run")
    model, process, codec, _ = learning.load(tmp_path / "run")
    assert codec == corpus.codec
    assert isinstance(process, Autoregressive)
    ids = corpus.ids[:16].astype(int)
    with no_grad():
        ours = model(np.r_[v, ids][None], causal=True).data[0]
    after_line = np.r_[codec.encode("\n"), ids]
    np.testing.assert_allclose(ours, gpt_logits(arrays, after_line, 2, tanh_gelu), rtol=1e-10, atol=1e-11)
    assert 0 < np.abs(ours - gpt_logits(arrays, after_line, 2, exact_gelu)).max() < 0.05
    assert 0 < process.bound(model, ids[None], rng)[0] < 1e3
    again = learning.run.corpus_of(tmp_path / "run", learning.load(tmp_path / "run")[3])
    assert again.config == corpus.config


def test_nanogpt_that_is_something_else(runs: Runs, tmp_path: Path, rng: np.random.Generator) -> None:
    """Another text, arrays that are missing or unknown, a pickle, heads that do not divide."""
    corpus = data.load(str(runs.text))
    file, out = tmp_path / "gpt.safetensors", tmp_path / "run"
    good = gpt(rng, corpus.vocab_size, 17, 8, 1, True)

    def refused(arrays: Mapping[str, np.ndarray] | bytes, words: str, heads: int = 2) -> None:
        if isinstance(arrays, bytes):
            file.write_bytes(arrays)
        else:
            save_file(dict(arrays), file)
        with pytest.raises((ValueError, CheckpointError), match=words):
            nanogpt.read(file, str(runs.text), heads, out)
        assert not out.exists()

    refused(gpt(rng, corpus.vocab_size + 1, 17, 8, 1, True), "name the text that it was trained on")
    refused({name: a for name, a in good.items() if "c_fc.weight" not in name}, r"c_fc\.weight is missing")
    refused(good | {"transformer.h.0.rotary": np.ones(2)}, "does not have")
    refused(good | {"transformer.ln_f.weight": np.ones(9)}, "shape")
    refused(good | {"transformer.wpe.weight": np.full((17, 8), np.inf)}, "NaN or inf")
    refused(good, "heads", heads=3)
    refused(b"\x80\x02}q\x00.", "expected safetensors")
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        nanogpt.read(file, str(runs.text), 2, out)


def test_commands(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three of them, in a terminal."""
    from typer.testing import CliRunner

    from tinydiff.cli import app

    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["export", "hf", str(trained), "out"])
    assert done.exit_code == 0, done.output
    assert "evaluate" in Path("out/README.md").read_text()
    assert "bits per character" in Path("out/README.md").read_text()
    assert runner.invoke(app, ["import", "hf", "out", "--out", "back"]).exit_code == 0
    assert learning.load(Path("back"))[2] == learning.load(trained)[2]


# --- with PyTorch and transformers, where they are -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "block", "ar"])
@pytest.mark.filterwarnings("default")
def test_in_transformers(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Load, logits, padding, one sampling loop of LLaDA's kind, `generate`, and training on."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    run = some_run(tmp_path / "run", kind, "both", rng)
    hugging_face.export(tmp_path / "run", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    auto = transformers.AutoModelForCausalLM if kind == "ar" else transformers.AutoModelForMaskedLM
    network = auto.from_pretrained(tmp_path / "out", trust_remote_code=True, dtype=torch.float64).eval()
    codec = run.corpus.codec
    assert tokenizer("some let").input_ids == codec.encode("some let").tolist()
    assert tokenizer.decode(codec.encode("more .\n")) == "more .\n"
    ids = rng.integers(0, codec.vocab_size + 1, (3, 8))
    with no_grad(), torch.no_grad():
        ours = run.averaged()(ids, causal={"masked": 0, "block": 3, "ar": 1}[kind]).data
        theirs = network(torch.tensor(ids)).logits[..., : codec.vocab_size].numpy()
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9)
        padded = torch.tensor(np.concatenate([ids[:, :5], np.full((3, 3), tokenizer.pad_token_id)], axis=1))
        alone = network(torch.tensor(ids[:, :5])).logits
        beside = network(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits[:, :5]
        np.testing.assert_allclose(beside, alone, rtol=1e-9, atol=1e-9)
        if kind == "ar":
            text = network.generate(torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=7, do_sample=False)
            for i in range(1, 8):
                assert text[0, i] == network(text[:, :i]).logits[0, -1].argmax()
        else:
            x = torch.full((1, 8), tokenizer.mask_token_id)
            for _ in range(4):  # two of the surest a step
                logits = network(x).logits
                sure = torch.where(x == tokenizer.mask_token_id, logits.softmax(-1).max(-1).values, -1)
                at = sure.topk(2).indices
                x[0, at[0]] = logits.argmax(-1)[0, at[0]]
            assert (x < codec.vocab_size).all()
    loss = network(torch.tensor(ids), labels=torch.tensor(np.where(ids == codec.vocab_size, 0, ids))).loss
    loss.backward()
    assert torch.isfinite(loss)
    network.save_pretrained(tmp_path / "again")
    hugging_face.read(tmp_path / "again", tmp_path / "back")
    found = learning.load(tmp_path / "back")[0].params
    assert all(found[name].data.tobytes() == p.data.tobytes() for name, p in run.averaged().params.items())
