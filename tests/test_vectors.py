"""Points and pictures as data: their laws, their parts, and runs on them."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import fails, tinydiff

from tinydiff import (
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    Options,
    Run,
    Tensor,
    Transformer,
    data,
    decoders,
    evaluate,
    load,
    train,
)
from tinydiff.data import toys
from tinydiff.data.vectors import Vectors, patches, pictures
from tinydiff.learning import CheckpointError
from tinydiff.measures.vectors import nearest
from tinydiff.processes.named import new_process

RNG = np.random.default_rng(0)
drawn_once = functools.cache(data.glyphs.load)
SMALL = ["--steps=6", "--batch=8", "--d-model=8", "--layers=1", "--heads=2"]


@pytest.fixture(autouse=True, scope="module")
def _glyphs_are_drawn_once() -> Iterator[None]:
    """Thirteen thousand pictures, the same every time, which `test_glyphs_are_what_they_say` sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.VECTORS, "glyphs", drawn_once)
        yield


def labelled_points(classes: str = "ab") -> Vectors:
    """Points left and right of the origin, with their side as class."""
    labels = RNG.integers(0, len(classes), 400)
    x = RNG.normal(size=(400, 2, 1)) + 3 * labels[:, None, None]
    return Vectors("sides", x[:300], x[300:], labels[:300], labels[300:], classes)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys_are_centred_and_of_unit_size(name: str) -> None:
    """Data far from the noise in place or size, for which the schedules are not made; draws that depend on the past."""
    x = toys.points(name, 20_000, np.random.default_rng(1))
    assert x.shape == (20_000, 2, 1)
    assert np.abs(x.mean(axis=0)).max() < 0.04
    assert 0.85 < x.std() < 1.1
    np.testing.assert_array_equal(
        toys.points(name, 50, np.random.default_rng(2)), toys.points(name, 50, np.random.default_rng(2))
    )
    assert np.abs(x).max() < 4


def test_mixture_density_sums_to_one_at_every_noise_level() -> None:
    """The exact law of the mixture: its density on a grid, and its draws' mean log density equal to the integral's."""
    law = toys.ring()
    line = np.linspace(-8, 8, 801)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    for a, s in ((1.0, 0.0), (0.8, 0.6), (0.1, 0.99)):
        logs = law.log_density(grid, a, s)
        p = np.exp(logs) * (line[1] - line[0]) ** 2
        assert p.sum() == pytest.approx(1, rel=1e-9)
        n = 20_000
        x = a * law.sample(n, np.random.default_rng(0)) + s * np.random.default_rng(1).standard_normal((n, 2))
        drawn = law.log_density(x, a, s)
        assert abs(drawn.mean() - (p * logs).sum()) < 4.5 * drawn.std() / math.sqrt(n)


def test_glyphs_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty or cut off pictures, classes mixed up, or pictures shared by both parts."""
    glyphs = data.load("glyphs")
    assert (glyphs.length, glyphs.features, glyphs.classes) == (16, 16, 34)
    assert glyphs.train.min() == -1
    assert glyphs.train.max() == 1
    assert ((glyphs.train > -0.5).sum(axis=(1, 2)) > 8).all()
    counts = np.bincount(np.concatenate([glyphs.train_labels, glyphs.held_out_labels]))
    assert len(set(counts)) == 1
    x = pictures(glyphs.train, 4)
    for name, other in (("L", "T"), ("T", "L")):  # where their ink is
        top = x[glyphs.train_labels == glyphs.class_names.index(name), :8].mean()
        assert (top > x[glyphs.train_labels == glyphs.class_names.index(other), :8].mean()) == (name == "T")
    monkeypatch.setattr(data.glyphs, "VARIANTS", 2)
    assert data.glyphs.load().config == data.glyphs.load().config  # the same every time
    distance, _ = nearest(glyphs.held_out, glyphs.train)
    assert distance.min() > 0.05  # r.m.s.: none has a twin, as variants of one font do


def test_patches_and_pictures_are_inverse() -> None:
    """A picture put together in another order."""
    x = np.arange(2 * 64.0).reshape(2, 8, 8)
    cut = patches(x, 4)
    assert cut.shape == (2, 4, 16)
    np.testing.assert_array_equal(cut[0, 1], x[0, :4, 4:].ravel())
    np.testing.assert_array_equal(pictures(cut, 4), x)


def test_training_hides_some_labels_and_evaluation_none() -> None:
    """Guidance needs a network that has also learnt without labels; a tenth, two-sided at 4.5 standard errors."""
    points = labelled_points()
    labels = points.examples(2, 10_000, RNG).label
    assert labels is not None
    assert set(labels.tolist()) == {0, 1, 2}
    assert abs((labels == 2).mean() - 0.1) < 4.5 * math.sqrt(0.09 / 10_000)
    drawn = points.examples(2, 1000, RNG, held_out=True)
    x, labels = drawn.x0, drawn.label
    assert labels is not None
    assert set(labels.tolist()) == {0, 1}
    assert x[labels == 1].mean() > 2.5


def test_batches_spread_over_the_grain() -> None:
    """Numbers known to steps of 1/2 only: a density on them would be infinite."""
    x = np.full((5, 2, 1), 0.5)
    drawn = Vectors("one", x, x, grain=0.2).batch(2, 5000, np.random.default_rng(0))
    assert abs(drawn.mean() - 0.5) < 4.5 * 0.2 * math.sqrt(1 / 12 / drawn.size)
    assert 0.4 <= drawn.min() < 0.401
    assert 0.599 < drawn.max() <= 0.6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: toys.points("star", 3, RNG), "name is 'star'; expected one of mixture"),
        (lambda: toys.points("spiral", 0, RNG), "n is 0"),
        (lambda: Vectors("x", np.zeros((3, 2)), np.zeros((3, 2, 1))), r"train has shape \(3, 2\)"),
        (lambda: Vectors("x", np.zeros((3, 2, 1)), np.full((3, 2, 1), np.inf)), "held_out contains inf"),
        (lambda: Vectors("x", *np.zeros((2, 3, 2, 1)), np.array([0, 1, 2]), np.zeros(3, int), "ab"), "expected"),
        (lambda: labelled_points().batch(3, 5, RNG), "length is 3, but sides has sequences of 2"),
        (lambda: patches(np.zeros((2, 6, 6)), 4), "patch is 4"),
        (lambda: pictures(np.zeros((2, 3, 16)), 4), r"expected \(N, S\^2, patch\^2\)"),
    ],
)
def test_bad_data(call, words: str) -> None:
    """Each names the argument, the value and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ["spiral", "glyphs"])
def test_the_range_of_the_data_reaches_the_process(name: str) -> None:
    """As far as training batches go, grain and all, and no further; flow matching has no such option."""
    vectors = data.load(name)
    process = new_process("ddpm", vectors)
    assert process.clip == vectors.reach == np.abs(vectors.train).max() + vectors.grain / 2
    drawn = vectors.batch(vectors.length, 2000, np.random.default_rng(0))
    assert 0.8 * vectors.reach < np.abs(drawn).max() <= vectors.reach
    assert new_process("ddpm", vectors, predict="v").predict == "v"
    assert "clip" not in new_process("flow", vectors).config


# --- runs -------------------------------------------------------------------------------------------------------------


def new_run(folder: Path | None, points: Vectors, process: str, **options: object) -> Run:
    made = FlowMatching(1) if process == "flow" else GaussianDiffusion(1)
    model = Transformer(
        None, 2, features=1, time=True, positions="learned", classes=points.classes, d_model=8, layers=1, heads=2,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    given = {"steps": 12, "batch": 8, "evaluate_every": 5, "evaluate_windows": 64, "log_every": 1} | options
    return Run(points, made, model, Options(**given), folder)


@pytest.mark.parametrize("process", ["ddpm", "flow"])
def test_resuming_gives_the_same_bits(process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same promise as for text, with labels: evaluation in between, the random state and all."""
    points = labelled_points()
    monkeypatch.setitem(data.VECTORS, "sides", lambda: points)
    list(train(new_run(tmp_path / "whole", points, process)))
    for frame in train(new_run(tmp_path / "parts", points, process)):
        if frame.step == 7:
            break
    list(train(Run.resume(tmp_path / "parts")))
    for name in ("state.safetensors", "log.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    model, _, codec, config = load(tmp_path / "whole")
    assert codec is None
    assert (model.classes, config["data"]["classes"]) == (2, "ab")


class OfNormals:
    """The best answer there is for data from N(0.3, 0.25): E[eps | x_t], or the slope E[eps - x_0 | x_t]."""

    def __init__(self, process: GaussianDiffusion | FlowMatching) -> None:
        self.process = process

    def __call__(self, x: Any, t: Any = None, *, causal: int = 0, select: Any = None) -> Tensor:
        x = x if isinstance(x, Tensor) else Tensor(np.asarray(x, np.float64))
        if isinstance(self.process, FlowMatching):
            a, s = 1 - t, t
        else:
            a, s = self.process.scales(np.rint(t * self.process.T).astype(int))
        a, s = (np.broadcast_to(np.ravel(scale), (x.shape[0],))[:, None, None] for scale in (a, s))
        off = (x + -0.3 * a) * (1 / (0.25 * a**2 + s**2))
        eps, x0 = off * s, off * (0.25 * a) + 0.3
        return eps + x0 * -1.0 if isinstance(self.process, FlowMatching) else eps


@pytest.mark.parametrize(
    ("process", "windows"), [(GaussianDiffusion(1), 200_000), (FlowMatching(1), 20_000)], ids=["ddpm", "flow"]
)
def test_held_out_figure_of_the_best_model_is_the_entropy_in_bits_per_dimension(process: Any, windows: int) -> None:
    """Not per sequence, nor in nats, nor of the training part, which is of another law; at 4.5 standard errors.

    A thousand steps of diffusion cost less than 0.01 bits that no guess saves.
    """
    rng = np.random.default_rng(0)
    x = 0.5 * rng.normal(size=(20_000, 2, 1)) + 0.3
    normal = Vectors("normal", 9 + x[:100], x)
    mean, error, *_ = evaluate(OfNormals(process), process, normal, windows=windows, length=2)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
    assert error < 0.02
    assert abs(mean - entropy) < 4.5 * error + 0.01


def test_changed_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another matplotlib's fonts: training would go on with other pictures and say nothing."""
    points = labelled_points()
    monkeypatch.setitem(data.VECTORS, "sides", lambda: points)
    new_run(tmp_path / "run", points, "flow")
    moved = Vectors("sides", points.train + 1e-3, points.held_out, points.train_labels, points.held_out_labels, "ab")
    monkeypatch.setitem(data.VECTORS, "sides", lambda: moved)
    with pytest.raises(CheckpointError, match=r"data of sides is not the one .*another NumPy or matplotlib version"):
        Run.resume(tmp_path / "run")


def test_data_process_and_model_must_agree() -> None:
    """Vectors of another size or classes the model has not, found out only as an error deep inside."""
    points = labelled_points()
    model = new_run(None, points, "ddpm").model
    with pytest.raises(ValueError, match="features is 1 for the corpus, 2 for the process and 1 for the model"):
        Run(points, GaussianDiffusion(2), model)
    with pytest.raises(ValueError, match="vocab_size is None for the corpus, 3 for the process"):
        Run(points, MaskedDiffusion(3), model)
    with pytest.raises(ValueError, match="classes is 3 for the corpus and 2 for the model"):
        Run(labelled_points("abc"), GaussianDiffusion(1), model)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spiral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a flow on the spiral, hardly trained; to be read only."""
    folder = tmp_path_factory.mktemp("vectors") / "spiral"
    done = tinydiff("train", "--data", "spiral", "--process", "flow", "--out", folder, *SMALL)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "spiral: 50,000 examples, 2 vectors of 1 each; model of" in done.stderr
    assert re.search(r"Held-out: -?\d+\.\d+ \+- \d+\.\d+ bits per dimension\.", done.stderr)
    return folder


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a diffusion of glyphs, hardly trained; to be read only."""
    folder = tmp_path_factory.mktemp("vectors") / "glyphs"
    done = tinydiff("train", "--data", "glyphs", "--out", folder, "--predict", "v", "--schedule", "cosine", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def test_sample_prints_points_and_writes_a_gif(spiral: Path, tmp_path: Path) -> None:
    """Points that are not the run's, or a picture that does not move."""
    from PIL import Image

    done = tinydiff("sample", spiral, "--batch", 5, "--steps", 3, "--seed", 3, "--gif", tmp_path / "out.gif")
    assert done.returncode == 0, done.stderr
    model, process, _, _ = load(spiral)
    *_, last = process.sample(model, 2, 5, decoder=decoders.ODE(3), rng=np.random.default_rng(3))
    assert done.stdout == "".join(f"{x:.4f} {y:.4f}\n" for x, y in last.state[:, :, 0])
    with Image.open(tmp_path / "out.gif") as picture:
        assert picture.n_frames == 4
    again = tinydiff("sample", spiral, "--batch", 0, "--gif", tmp_path / "out.gif")  # refused before any work
    assert again.returncode == 2
    assert "exists already; choose another name or delete it" in again.stderr


def test_sample_prints_pictures_of_a_class(glyphs: Path) -> None:
    """A class that is not told to the model, or pictures of another size."""
    shown = [
        tinydiff("sample", glyphs, "--batch", 1, "--steps", 2, *options).stdout
        for options in ([], ["--label", "Z"], ["--label", "Z", "--cfg-scale", 3])
    ]
    assert all(len(text.splitlines()) == 17 for text in shown)
    assert all(len(line) == 32 for line in shown[0].splitlines()[:16])
    assert len(set(shown)) == 3


def test_evaluate_says_what_the_figure_is(spiral: Path, glyphs: Path) -> None:
    """The likelihood of a flow called a bound, or a bound called exact."""
    assert (
        "bits per dimension (exact up to the error of the ODE's solver; spiral, 64 windows of 2)"
        in tinydiff("evaluate", spiral, "--windows", 64).stdout
    )
    assert (
        "bits per dimension (NELBO, an upper bound; glyphs, 64 windows of 16)"
        in tinydiff("evaluate", glyphs, "--windows", 64).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--data", "spiral", "--process", "masked"],
            "process is 'masked', which does not suit spiral; choose one of ddpm, flow",
        ),
        (["train", "--data", "python_docs", "--process", "flow"], "process is 'flow', which does not suit python_docs"),
        (["train", "--data", "spiral", "--length", 3], "length is 3, but spiral has sequences of 2"),
        (["train", "--data", "spiral", "--schedule", "loglinear"], "schedule is 'loglinear'; expected linear, cosine"),
        (
            ["train", "--data", "spiral", "--process", "flow", "--predict", "v"],
            "predict is 'v', but process 'flow' has no",
        ),
        (
            ["train", "--data", "spiral", "--process", "ddpm", "--pairing", "optimal"],
            "pairing is 'optimal', but process 'ddpm'",
        ),
        (["train", "--data", "star"], "no file and no corpus is called 'star'"),
        (["sample", "SPIRAL", "--temperature", 1], "--temperature is 1.0, but"),
        (["sample", "SPIRAL", "--eta", 1], "--eta is 1.0, but"),
        (["sample", "SPIRAL", "--label", "A"], "--label is 'A'; expected none"),
        (["sample", "SPIRAL", "--cfg-scale", 1], "has no classes"),
        (["sample", "SPIRAL", "--batch", 0], "--batch is 0"),
        (["sample", "SPIRAL", "--steps", 0], "steps is 0"),
        (["sample", "GLYPHS", "--steps", 1001], "steps is 1001; expected 1 <= steps <= 1000"),
        (["sample", "GLYPHS", "--eta", 2], "eta is 2.0; expected 0"),
        (["sample", "GLYPHS", "--solver", "heun"], "--solver is heun, but"),
        (["sample", "GLYPHS", "--label", "O"], "--label is 'O'; expected one of 0123"),
        (["infill", "SPIRAL", "a_b"], "is a run of flow, which cannot fill in"),
        (["evaluate", "SPIRAL", "--text", "x.txt"], "is not a run on text: leave it out"),
        (["demo", "--out", "SPIRAL"], "a run of flow, which has no masks to show"),
    ],
)
def test_commands_refuse(
    arguments: list[object],
    message: str,
    spiral: Path,
    glyphs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options of another kind of data, passed over in silence."""
    monkeypatch.setenv("COLUMNS", "1000")
    folders = {"SPIRAL": spiral, "GLYPHS": glyphs}
    out = ["--out", tmp_path / "run"] if arguments[0] == "train" else []
    code, error = fails(capsys, monkeypatch, *(folders.get(a, a) for a in arguments), *out)
    assert message in error
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_vectors_need_no_matplotlib_until_glyphs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain install that cannot draw the glyphs and says so with a traceback."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(data.VECTORS, "glyphs", data.glyphs.load)
    data.load("moons")
    with pytest.raises(FileNotFoundError, match=r"matplotlib is missing, .* pip install"):
        data.load("glyphs")
