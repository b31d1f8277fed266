"""The command `tinydiff translate`: failure and cure in a terminal, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import fails
from tinydiff import Autoregressive, MaskedDiffusion, OnePass, Refinement, cli, data, decoders, load
from tinydiff.cli.translate import decoder_for
from tinydiff.decoders import Draw

GREEDY = Draw(temperature=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind, trained for a second on the phrasebook; and one on dates, hardly trained."""
    folder, found = tmp_path_factory.mktemp("translate"), {}
    for process in ("nat", "masked", "autoregressive", "refinement"):
        found[process] = folder / process
        options = ["--data", "phrasebook", "--process", process, "--d-model", "16", "--steps", "300", "--layers", "1"]
        cli.app(["train", *options, "--out", str(found[process])], standalone_mode=False)
    found["dates"] = folder / "dates"
    cli.app(["train", "--data", "dates", "--steps", "20", "--out", str(found["dates"])], standalone_mode=False)
    return found


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[list[str], list[str]]:
    """Translations and passes."""
    capsys.readouterr()
    cli.app(["translate", *map(str, arguments)], standalone_mode=False)
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_failure_and_cure(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """One pass mixes translations; two passes of Mask-Predict, and left to right, do not."""
    out, err = said(capsys, folders["nat"], "merci bonjour")
    assert out == ["thank thanks hello day"]
    assert err == ["pass 1: [thank] [thanks] [hello] [day]", "  no translation"]
    out, err = said(capsys, folders["masked"], "merci bonjour", "--passes", 2)
    assert re.fullmatch(r"(many|best) thanks (good|nice) day", out[0])
    assert err[0] == "pass 1: [thank] [thanks] [hello] [day]"
    assert re.fullmatch(r"pass 2: \[(many|best)\] thanks \[(good|nice)\] day", err[1])
    assert err[2] == "  probability 0.09"
    out, err = said(capsys, folders["autoregressive"], "merci bonjour")
    assert out == ["thank you hello there"]
    assert err[-2:] == ["pass 4: thank you hello [there]", "  probability 0.16"]
    out, err = said(capsys, folders["refinement"], "merci bonjour")
    assert out == ["thank thanks hello day"]  # refined, and left as it is


def test_draws_and_their_seed(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Of 200 drawn in one pass .27 are valid, within 4 standard errors; another seed is another draw."""
    options = (folders["nat"], "merci bonjour", "--temperature", 1, "--batch", 200)
    out, err = said(capsys, *options)
    valid = sum("probability" in line for line in err) / 200
    assert abs(valid - 0.27) < 4 * np.sqrt(0.27 * 0.73 / 200)
    law = data.TRANSLATIONS["phrasebook"]()
    assert [law.valid(f"merci bonjour > {text}") for text in out] == ["probability" in line for line in err[1:]]
    assert said(capsys, *options)[0] == out
    assert said(capsys, *options, "--seed", 1)[0] != out


def test_lengths(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """One that is asked for is kept; of a beam of all, one of them comes out."""
    for length in (3, 4, 5):
        out, err = said(capsys, folders["dates"], "2023 03 05", "--length", length, "--passes", 1)
        assert err[0].startswith(f"pass 1: N{length} [")
        assert err[0].count("¶") == 5 - length
    for beams in (1, 3):
        out, err = said(capsys, folders["dates"], "2023 03 05", "--lengths", beams)
        assert len(out[0].split()) in (3, 4, 5)


@pytest.mark.parametrize(
    ("process", "way", "options", "expected"),
    [
        (OnePass(3), None, {}, decoders.AtOnce()),
        (OnePass(3), "at_once", {"temperature": 0.5}, decoders.AtOnce(Draw(0.5))),
        (MaskedDiffusion(3), None, {"passes": 3, "confidence": "fresh"}, decoders.MaskPredict(3, "fresh")),
        (MaskedDiffusion(3), "mask_predict", {"temperature": 1.0}, decoders.MaskPredict(draw=Draw(1.0))),
        (MaskedDiffusion(3), "low_confidence", {"passes": 2}, decoders.LowConfidence(2, GREEDY)),
        (MaskedDiffusion(3), "random", {"passes": 2, "temperature": 1.0}, decoders.Random(2, Draw(1.0))),
        (Autoregressive(3), None, {}, decoders.NextToken(GREEDY)),
        (Autoregressive(3), "beam", {"width": 7}, decoders.Beam(7)),
        (Refinement(3), None, {"passes": 7, "temperature": 1.0}, decoders.Refine(7, Draw(1.0))),
    ],
)
def test_options_make_a_decoder(process: object, way: str | None, options: dict[str, object], expected: object) -> None:
    """Every option arrives; what is not given is the decoder's own, and the likeliest word."""
    assert decoder_for(process, Path("run"), way, options) == expected


@pytest.mark.parametrize(
    ("run", "arguments", "words"),
    [
        ("nat", ["merci"], "source has 1 words: 'merci'; expected 2, like 'bonjour bonjour'"),
        ("nat", ["merci gracias"], "'gracias' is none of the 25 words"),
        ("nat", ["merci thanks"], "source is 'merci thanks', which is none"),
        ("nat", ["merci merci", "--way", "beam"], "--way is beam, but .* is a nat model"),
        ("autoregressive", ["merci merci", "--passes", 2], "--passes is 2, but .*NextToken has no such option"),
        ("autoregressive", ["merci merci", "--way", "beam", "--temperature", 1], "and Beam has no such option"),
        ("autoregressive", ["merci merci", "--way", "beam", "--width", 0], "width is 0; it must be at least 1"),
        ("masked", ["merci merci", "--batch", 0], "--batch is 0; it must be at least 1"),
        ("masked", ["merci merci", "--passes", 0], "steps is 0; it must be at least 1"),
        ("masked", ["merci merci", "--lengths", 2], "all targets of .* are of one length"),
        ("masked", ["merci merci", "--length", 3], "length is 3, but targets have 4 words"),
        ("dates", ["2023 03 05", "--lengths", 4], "beams is 4; there are 3 lengths"),
        ("dates", ["2023 03 05", "--length", 6], "length is 6, but targets have 3, 4, 5 words"),
        ("dates", ["2023 03 05", "--length", 3, "--lengths", 2], "leave one of them out"),
    ],
)
def test_bad_input(
    run: str,
    arguments: list[object],
    words: str,
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, exit code 2."""
    code, err = fails(capsys, monkeypatch, "translate", folders[run], *arguments)
    assert code == 2
    assert re.search(words, err), err


def test_other_commands_and_other_runs(
    folders: dict[str, Path], trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What writes without a source says how to give one, and a run that translates nothing says so."""
    for arguments in (["sample", folders["masked"]], ["infill", folders["masked"], "a_"], ["sweep", folders["masked"]]):
        code, err = fails(capsys, monkeypatch, *arguments)
        assert code == 2
        assert re.search(r'translates; give it a source: tinydiff translate .*masked "bonjour bonjour"', err), err
    code, err = fails(capsys, monkeypatch, "translate", trained, "merci")
    assert code == 2
    assert "which is no translation; train one with: tinydiff train --data phrasebook" in err


def test_runs_come_back_with_their_words(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The codec of a loaded run; evaluation and resuming find the same data again."""
    _, _, codec, _ = load(folders["masked"])
    assert codec == data.load("phrasebook").codec
    capsys.readouterr()
    cli.app(["evaluate", str(folders["masked"])], standalone_mode=False)
    assert "per word" in capsys.readouterr().out
    cli.app(["train", "--resume", str(folders["masked"]), "--steps", "305"], standalone_mode=False)
    assert "Trained 305 steps" in capsys.readouterr().err
