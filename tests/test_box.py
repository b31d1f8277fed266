"""Models in the box: there, small, good, and taken by every command that takes a run."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydiff import Run, box, data, decoders, learning
from tinydiff.cli import demo
from tinydiff.learning import CheckpointError
from tinydiff.processes import Autoregressive, MaskedDiffusion
from tinydiff.views import notebook, page
from tinydiff.views.trajectory import COLOURS, record

LAW = data.stories.STORIES


def test_what_is_in_the_box() -> None:
    """A model that is missing or outgrew the package, keeps a moment of its training, or is not what its name says."""
    sizes = {name: sum(file.stat().st_size for file in (box.ROOT / name).iterdir()) for name in box.NAMES}
    assert max(sizes.values()) < 3e6
    assert sum(sizes.values()) < 6e6
    for name, kind in zip(box.NAMES, (MaskedDiffusion, Autoregressive, MaskedDiffusion), strict=True):
        folder = box.ROOT / name
        assert {file.name for file in folder.iterdir()} == {"config.json", "state.safetensors", "CARD.md", "log.jsonl"}
        tensors, progress, _ = learning.checkpoint.read_state(folder, {})
        assert all(key.startswith("ema/") and values.dtype == np.float16 for key, values in tensors.items())
        assert progress.keys() == {"step", "config"}
        _, process, codec, _ = learning.load(folder)
        assert type(process) is kind
        assert codec is not None
        assert "Not for: " in (folder / "CARD.md").read_text("utf-8")
        assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"] == progress["step"]
    shapes = [learning.load(box.ROOT / name)[0].config for name in box.NAMES[:2]]
    assert shapes[0] == shapes[1]
    assert learning.load(box.ROOT / "stories")[2] == LAW.codec  # the grammar of today


def test_stories_of_the_box_are_good() -> None:
    """Nearly all of 50 stories keep every rule at nearly the variety of the law; few steps spoil them."""
    model, process, _, _ = learning.load(box.ROOT / "stories")
    assert isinstance(process, MaskedDiffusion)
    found = demo.quality(model, process, LAW, demo.DECODER, 50)
    assert found.valid >= 0.9
    assert found.variety > 0.9
    assert found.different == 1
    few = dataclasses.replace(demo.ORDER, steps=8)
    assert demo.quality(model, process, LAW, few, 50).valid < 0.7


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own that is called like a model, and not read."""
    monkeypatch.chdir(tmp_path)
    assert box.found(Path("stories")) == box.ROOT / "stories"
    assert box.found(Path("runs/stories")) == Path("runs/stories")
    (tmp_path / "stories").mkdir()
    assert box.found(Path("stories")) == Path("stories")


def test_nothing_to_train_on_from() -> None:
    """A training that goes on from weights without the optimiser's moments, as if nothing were missing."""
    with pytest.raises(CheckpointError, match="lacks model/"):
        Run.resume(box.ROOT / "stories")


def test_packing(tmp_path: Path) -> None:
    """Weights that are not the averaged ones, rounded; one that half precision cannot hold."""
    run = demo.new_run(None, 2)
    list(learning.train(run))
    box.pack(run, tmp_path / "model")
    box.pack(run, tmp_path / "model")  # again, in place
    model, *_ = learning.load(tmp_path / "model")
    for name, p in run.averaged().params.items():
        np.testing.assert_array_equal(model.params[name].data, p.data.astype(np.float16).astype(np.float32))
    run.ema.values[0] = 1e6
    with pytest.raises(ValueError, match="too large for half precision"):
        box.pack(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_prose_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that can only be read back with the extra that cuts them."""
    monkeypatch.setattr("tinydiff.data.codec._tokenizers", lambda: pytest.fail("asked for tokenizers"))
    model, process, codec, _ = learning.load(box.ROOT / "prose")
    assert codec is not None
    *_, last = process.sample(model, 16, decoder=decoders.LowConfidence(), rng=np.random.default_rng(0))
    assert codec.decode(last.state[0])


def test_a_film_keeps_its_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two degrees of sureness in one blue, since the picture in a notebook has few colours."""
    model, process, codec, _ = learning.load(box.ROOT / "stories")
    assert codec is not None
    decoder, rng = decoders.Gibbs(demo.ORDER, 1), np.random.default_rng(3)
    shown = record(process.sample(model, model.length, 1, decoder=decoder, rng=rng), codec, "stories")
    bundles: list[dict[str, str]] = []
    monkeypatch.setattr(notebook, "_show", lambda bundle, alt: bundles.append(bundle))
    notebook.film(shown, alt="A story and a second thought.")
    picture = Image.open(io.BytesIO(base64.b64decode(bundles[-1]["image/png"]))).convert("RGB")
    seen = {colour for count, colour in picture.getcolors(1 << 16) if count > 300}
    for colour in COLOURS:
        near = [np.abs(np.subtract(each, [int(colour[i : i + 2], 16) for i in (1, 3, 5)])).max() for each in seen]
        assert min(near) <= 2, colour


def test_variety() -> None:
    """A model that tells one story, or mixes few: variety must fall; as many real ones keep it."""
    rng = np.random.default_rng(0)
    many = LAW.draw(3000, rng)
    assert LAW.variety(many) == pytest.approx(LAW.entropy, rel=0.01)
    assert LAW.variety(np.repeat(many[:1], 50, axis=0)) == pytest.approx(0, abs=1e-9)
    few = many[rng.integers(0, 10, 3000)]
    assert LAW.variety(few) < 0.75 * LAW.entropy  # not log 10: it looks at each choice by itself
    windy = many[(many == LAW.codec.encode(" rose")[0]).any(axis=1)]  # of all that may happen only one
    assert LAW.variety(windy) < LAW.entropy - 1


def test_the_page_in_docs_has_the_models_of_the_box() -> None:
    """A page with yesterday's weights, or too large to be opened on a phone."""
    path = Path(__file__).parents[1] / "docs" / "stories.html"
    assert path.stat().st_size < 4e6
    shown = path.read_text("utf-8")
    for made in page.read_both(box.ROOT / "stories", box.ROOT / "stories_ar"):
        assert made is not None
        weights = b"".join(values.tobytes() for values in page.rounded(made.model, "half").values())
        assert base64.b64encode(weights).decode() in shown
