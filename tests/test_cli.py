"""The command line: results on standard output, progress and one-line errors on standard error, and exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.main import get_command

from tinydiff import (
    D3PM,
    Autoregressive,
    Bert,
    BlockDiffusion,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    ScoreEntropy,
    box,
    cli,
    data,
    decoders,
    evaluate,
    kernels,
    load,
)
from tinydiff.cli.decoding import decoder_of

if TYPE_CHECKING:
    from conftest import Runs

SIZES = ["--length=16", "--batch=4", "--d-model=8", "--layers=1", "--heads=2", "--steps=20"]
COMMANDS = [
    "demo", "train", "sweep-runs", "sample", "infill", "finetune", "ask", "translate", "page", "serve", "evaluate",
    "sweep", "race", "prefer", "ablate", "export", "import", "practice", "info",
]  # fmt: skip


def piped(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, piped: a second or more until it is there."""
    command = [sys.executable, "-m", "tinydiff", *map(str, arguments)]
    variables = os.environ | {"COLUMNS": "200"} | environment
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=variables, stdin=subprocess.DEVNULL, timeout=300
    )


def tinydiff(*arguments: object, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run the command here, as a process runs it, with streams that are no screens: where the process is no subject."""
    command, here = ["tinydiff", *map(str, arguments)], Path.cwd()
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")  # they are printed; pytest's filter would raise them
        patch.chdir(cwd or here)
        patch.setattr(sys, "argv", command)
        for name, stream in (("stdin", io.TextIOWrapper(io.BytesIO(stdin))), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as end:
            cli.main()
    said = (stream.buffer.getvalue().decode().replace(os.linesep, "\n") for stream in (out, err))
    return subprocess.CompletedProcess(command, int(end.value.code or 0), *said)


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str]:
    """Run the command here; its exit code and error, which must be one line, and the only one."""
    monkeypatch.setattr(sys, "argv", ["tinydiff", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return stop.value.code, err


# --- what works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command, or an option of it, without a word of help."""
    monkeypatch.setattr(sys, "argv", ["tinydiff", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"tinydiff {command}" in shown.split("Examples")[1]


def test_help_lists_commands_in_the_order_of_their_use() -> None:
    """Modules of commands added in another order, or left out."""
    assert list(get_command(cli.app).commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_choice(command: str) -> None:
    """A choice that can be made and that nobody is told of, because its list is written out in words."""
    named = get_command(cli.app).commands[command]
    callbacks = [each.callback for each in (named, *getattr(named, "commands", {}).values()) if each.callback]
    for annotation in (a for each in callbacks for a in get_type_hints(each, include_extras=True).values()):
        for kind, option in [get_args(annotation)] if get_origin(annotation) is Annotated else []:
            choices = [x for part in (kind, *get_args(kind)) if get_origin(part) is Literal for x in get_args(part)]
            assert option.metavar is None or set(choices) <= set(re.findall(r"\w+", option.help)), option.help


def test_train_sample_and_evaluate_in_a_pipe(runs: Runs, tmp_path: Path) -> None:
    """Colours or bars in a pipe, progress mixed with results, or a result that is not the one in the run."""
    folder = tmp_path / "run"
    trained = piped("train", "--text", runs.text, "--out", folder, *SIZES)
    assert (trained.returncode, trained.stdout) == (0, "")
    assert re.search(
        r"^step 20/20  loss \d\.\d+ nats/token  held-out \d\.\d+ bits/char  \d+k tokens/s$", trained.stderr, re.M
    )
    assert f"Saved in {folder}." in trained.stderr

    options = ["--batch=2", "--steps=4", "--seed=3", "--temperature=1", "--choice-temperature=0"]
    sampled = piped("sample", folder, *options)
    assert sampled.returncode == 0
    model, process, codec, _ = load(folder)
    decoder = decoders.LowConfidence(4)
    *_, last = process.sample(model, 16, 2, decoder=decoder, rng=np.random.default_rng(3))
    assert sampled.stdout == "".join(codec.decode(ids) + "\n" for ids in last.state)
    assert len(sampled.stderr.splitlines()) == 2 * 5  # frames 0 to 4 of two sequences
    assert "░" in sampled.stderr

    evaluated = piped("evaluate", folder, "--windows", 128)
    mean, error, *_ = evaluate(model, process, data.load(str(runs.text)), windows=128)
    assert evaluated.stdout.startswith(f"{mean:.4f} +- {error:.4f} bits per character (NELBO, an upper bound; ")
    assert evaluated.stderr == ""
    assert "\x1b" not in trained.stderr + sampled.stderr


def test_held_out_characters_that_are_never_trained_on_are_named(tmp_path: Path) -> None:
    """When training and when evaluating; a text that has none says nothing of it."""
    words = "2 of the 200 held-out characters are never trained on ('é'); the held-out figure counts them all the same"
    for end, told in (("é" + "b" * 99 + "é" + "a" * 99, True), ("ab" * 100, False)):
        file, folder = tmp_path / f"{told}.txt", tmp_path / f"run-{told}"
        file.write_text("ab" * 900 + end, encoding="utf-8")
        trained = tinydiff("train", "--text", file, "--out", folder, *SIZES)
        evaluated = tinydiff("evaluate", folder, "--windows", 64)
        assert trained.returncode == evaluated.returncode == 0
        assert (words in trained.stderr.splitlines()) == (words in evaluated.stderr.splitlines()) == told
        assert ("never trained" in trained.stderr + evaluated.stderr) == told


def test_losses_have_units(tmp_path: Path) -> None:
    """Nats beside bits without a word; the loss of vectors is neither."""
    sizes = ["--steps=5", "--batch=8", "--d-model=8", "--layers=1", "--heads=2"]
    done = tinydiff("train", "--data", "spiral", "--out", tmp_path / "points", *sizes)
    assert re.search(r"^step 5/5  loss \d+\.\d+ mean square  held-out -?\d+\.\d+ bits/dim  ", done.stderr, re.M)


def test_infill_keeps_what_is_given(trained: Path) -> None:
    """Given characters that move, change, or are dropped with the blanks."""
    done = tinydiff("infill", trained, "the ~at sat ~~", "--blank", "~", "--delay", 5)  # there is nothing to wait for
    assert done.returncode == 0
    assert re.fullmatch(r"the [^~░]at sat [^~░]{2}\n", done.stdout)
    assert done.stderr.splitlines()[0] == "   0/3  the ░at sat ░░"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("sample", ["--prompt", "the cat", "--remasking", "entropy", "--commits", "cosine", "--steps", "4"]),
        ("sample", ["--prompt", "the cat", "--remask", "rescale", "--eta", "0.5", "--steps", "20"]),
        ("sample", ["--prompt", "the cat", "--threshold", "0.6", "--cfg-scale", "0.5", "--block-length", "4"]),
        ("infill", ["--remasking", "margin", "--commits", "cosine", "--steps", "3"]),
        ("infill", ["--remask", "confidence", "--steps", "9", "--cfg-scale", "1"]),
        ("infill", ["--threshold", "0.5", "--block-length", "5"]),
        ("infill", ["--remasking", "most_likely", "--choice-temperature", "1", "--block-length", "5"]),
        ("sample", ["--prompt", "the cat", "--remasking", "left_to_right", "--steps", "4", "--temperature", "0"]),
    ],
)
def test_every_way_of_decoding(
    command: str, options: list[str], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that does not reach the sampler, or constraints that it forgets."""
    text = [str(trained)] + (["the cat_________"] if command == "infill" else [])
    cli.app([command, *text, *options, "--allow", "st ", "--seed", "5"], standalone_mode=False)
    assert re.fullmatch(r"the cat[st ]{9}\n", capsys.readouterr().out)


DRAW = {"temperature": 0.3, "top_k": 2, "top_p": 0.9}
DRAWN = decoders.Draw(0.3, 2, 0.9)


@pytest.mark.parametrize(
    ("process", "options", "expected"),
    [
        *(
            (MaskedDiffusion(3), {"remasking": name, "steps": 4, "commits": "cosine", "block_length": 2,
                                  "choice_temperature": 0.5, **DRAW}, kind(4, DRAWN, "cosine", 2, 0.5))
            for name, kind in (("low_confidence", decoders.LowConfidence), ("most_likely", decoders.MostLikely),
                               ("entropy", decoders.Entropy), ("margin", decoders.Margin))
        ),
        (MaskedDiffusion(3), {"remasking": "random", "steps": 4, **DRAW}, decoders.Random(4, DRAWN)),
        (MaskedDiffusion(3), {"remasking": "left_to_right", "steps": 4}, decoders.LeftToRight(4, decoders.Draw(0.7))),
        (MaskedDiffusion(3), {"remasking": "ancestral", "steps": 4, **DRAW}, decoders.Ancestral(4, DRAWN)),
        (MaskedDiffusion(3), {"remasking": "first_hitting", **DRAW}, decoders.FirstHitting(DRAWN)),
        (MaskedDiffusion(3), {"threshold": 0.4, "block_length": 2, **DRAW}, decoders.Threshold(0.4, DRAWN, 2)),
        (MaskedDiffusion(3), {"gamma": 0.4, **DRAW}, decoders.EntropyBounded(DRAWN, gamma=0.4)),
        (MaskedDiffusion(3), {"factor": 0.4, "block_length": 2, **DRAW}, decoders.Frechet(DRAWN, 2, factor=0.4)),
        (MaskedDiffusion(3), {"drafts": 3, **DRAW}, decoders.Speculate(3, draw=DRAWN)),
        (BlockDiffusion(3), {"cache": False, "factor": 0.4, **DRAW},
         decoders.Blocks(decoders.Frechet(DRAWN, factor=0.4), cache=False)),
        (MaskedDiffusion(3), {"remask": "cap", "eta": 0.5, "steps": 4, **DRAW}, decoders.RemaskCap(4, 0.5, DRAWN)),
        (MaskedDiffusion(3), {"remask": "rescale", **DRAW}, decoders.RemaskRescale(None, 0.1, DRAWN)),
        (MaskedDiffusion(3), {"remask": "confidence", **DRAW}, decoders.RemaskConfidence(None, 1.0, DRAWN)),
        (MaskedDiffusion(3), {"rounds": 2, "remasking": "random", "steps": 4, **DRAW},
         decoders.Gibbs(decoders.Random(4, DRAWN), 2)),
        (MaskedDiffusion(3), {}, decoders.LowConfidence(None, decoders.Draw(0.7), choice_temperature=8.0)),
        (ScoreEntropy(3), {"sampler": "euler", "steps": 4}, decoders.Euler(4)),
        (ScoreEntropy(3), {"sampler": "analytic", "steps": 4, **DRAW}, decoders.Tweedie(4, DRAWN)),
        (D3PM(3), {"steps": 4, **DRAW}, decoders.Chain(4, DRAWN)),
        (Bert(3), {"steps": 4, **DRAW}, decoders.Refill(4, DRAWN)),
        (Autoregressive(3), {"cache": False, **DRAW}, decoders.NextToken(DRAWN, cache=False)),
        (GaussianDiffusion(1), {"steps": 4, "eta": 0.5}, decoders.DDIM(4, 0.5)),
        (FlowMatching(1), {"steps": 4, "solver": "rk4"}, decoders.ODE(4, "rk4")),
    ],
)  # fmt: skip
def test_flat_options_make_a_decoder(process: Any, options: dict[str, object], expected: object) -> None:
    """An option that is dropped on the way, or arrives in the place of another."""
    assert decoder_of(process, Path("run"), {"choice_temperature": 8.0}, **options) == expected


@pytest.mark.parametrize("command", ["sample", "infill"])
def test_every_option_is_passed_on(command: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that the command reads and forgets: each is there, in `decoder_of`, under its own name."""
    seen: dict[str, object] = {}

    def spy(*_: object, **options: object) -> object:
        seen.update(options)
        raise ValueError("seen enough")

    monkeypatch.setattr(cli.generate, "decoder_of", spy)
    values = {
        "steps": 3, "remasking": "margin", "remask": "cap", "eta": 0.25, "commits": "cosine", "threshold": 0.5,
        "gamma": 0.25, "factor": 0.125, "drafts": 3, "temperature": 0.75, "top_k": 4, "top_p": 0.875, "block_length": 5,
        "choice_temperature": 1.5, "rounds": 2,
    }  # fmt: skip
    values |= {"sampler": "euler", "solver": "rk4"} if command == "sample" else {}
    flags = [part for name, value in values.items() for part in ("--" + name.replace("_", "-"), str(value))]
    text = ["the c_t"] if command == "infill" else ["--no-cache"]
    with pytest.raises(ValueError, match="seen enough"):
        cli.app([command, str(trained), *text, *flags], standalone_mode=False)
    assert seen == values | ({"cache": False} if command == "sample" else {})


def test_guidance_reaches_the_sampler(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--cfg-scale` changes the texts that the same seed gives."""
    texts = []
    for scale in ("0", "5"):
        options = ["--prompt", "the c", "--cfg-scale", scale, "--steps", "2", "--batch", "4", "--temperature", "1"]
        cli.app(["sample", str(trained), *options], standalone_mode=False)
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]


def test_a_prompt_for_the_rival(autoregressive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With and without the cache: the same continuation of the same prompt."""
    texts = []
    for cache in ("--cache", "--no-cache"):
        options = ["--prompt", "the c", "--allow", "at ", "--length", "12", cache]
        cli.app(["sample", str(autoregressive), *options], standalone_mode=False)
        texts.append(capsys.readouterr().out)
    assert re.fullmatch(r"the c[at ]{7}\n", texts[0])
    assert texts[0] == texts[1]


def test_autoregressive_runs_can_be_sampled_and_evaluated(autoregressive: Path) -> None:
    """A path that only diffusion takes."""
    sampled = tinydiff("sample", autoregressive, "--length", 5)
    assert sampled.returncode == 0
    assert len(sampled.stdout) == 6
    assert "bits per character (exact; " in tinydiff("evaluate", autoregressive, "--windows", 64).stdout


def test_views_are_written(trained: Path, tmp_path: Path) -> None:
    """A view that was asked for and not written, or one that shows another sample than the one printed."""
    views = [f"--{name}={tmp_path / 'way'}.{name}" for name in ("html", "gif")] + [f"--strip={tmp_path / 'way'}.svg"]
    done = tinydiff("sample", trained, "--steps", 4, *views)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "way.html").read_text("utf-8")
    last = done.stdout.removesuffix("\n").replace("\n", "\u21b5")
    assert json.dumps(last, ensure_ascii=False) in page
    assert (tmp_path / "way.gif").read_bytes()[:6] == b"GIF89a"
    assert b"</svg>" in (tmp_path / "way.svg").read_bytes()
    for view in views:
        again = tinydiff("infill", trained, "the c__ sat", view)
        assert (again.returncode, again.stdout) == (2, "")
        assert again.stderr == f"error: {view.split('=')[1]} exists already; choose another name or delete it\n"


def test_race(trained: Path, autoregressive: Path, tmp_path: Path) -> None:
    """A race that is not written down, or that the wrong runs may enter."""
    options = ["--length=8", "--length=16", "--steps=4", "--batch=2", "--repeats=1"]
    outputs = [
        f"--json={tmp_path / 'race.json'}",
        f"--figure={tmp_path / 'race.png'}",
        f"--html={tmp_path / 'race.html'}",
    ]
    done = tinydiff("race", autoregressive, trained, *options, *outputs)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^left to right, KV-cache +(8|16)", done.stdout, re.M)) == 2 + 1
    assert "Diffusion takes as long as" in done.stdout
    assert re.search(r"^diffusion, 4 steps: step 4/4 · done in \d+ ms$", done.stderr, re.M)
    report = json.loads((tmp_path / "race.json").read_text())
    assert report["network"]["diffusion"]["d_model"] == 8
    assert (tmp_path / "race.png").stat().st_size > 10_000
    assert "left to right, no cache" in (tmp_path / "race.html").read_text("utf-8")


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command anybody tries, broken."""

    def fewer(*arguments: Any, windows: int) -> object:
        return evaluate(*arguments, windows=windows // 16)

    monkeypatch.setattr(cli.demo.learning, "evaluate", fewer)
    monkeypatch.setattr(cli.demo, "COUNTED", 12)
    done = tinydiff("demo", "--out", tmp_path / "run", "--steps", 3)
    assert done.returncode == 0, done.stderr
    assert re.search(r"bits per story; \d+\.\d{3} of the best possible, the law's entropy of 32\.2\n", done.stdout)
    assert re.search(r"^8 steps: 0\.0 % of 12 stories keep every rule; broken most: form 12$", done.stdout, re.M)
    assert "Her " in done.stdout.split("Next:")[0]  # the gaps
    assert f"tinydiff sample {tmp_path / 'run'}" in done.stdout
    load(tmp_path / "run")


def test_info() -> None:
    """A bug report without what is needed to understand it, or naming other kernels than those that run."""
    rows = dict(line.split(maxsplit=1) for line in piped("info", TINYDIFF_KERNELS="numpy").stdout.splitlines())
    assert {"tinydiff", "threads", "numpy", "python", "package"} < rows.keys()
    assert rows["package"] == str(Path(cli.__file__).parents[1])
    assert rows["kernels"].startswith("numpy")


def test_import_is_light() -> None:
    """Plotting and terminal libraries loaded by everyone who wants an array, or a warning at import."""
    heavy = "matplotlib IPython rich typer click"
    script = f"import sys, tinydiff; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 0], "--steps is 0; it must be at least 1"),
        (["--batch", 0], "--batch is 0; it must be at least 1"),
        (["--lr", 0], "--lr is 0.0; it must be positive"),
        (["--lr", -0.1], "--lr is -0.1; it must be positive"),
        (["--lr", "nan"], "--lr is nan; it must be positive"),
        (
            ["--optimiser", "adamw", "--muon-lr", 0.02],
            "--muon-lr is 0.02, but the optimiser is 'adamw', which has no such option",
        ),
        (["--muon-lr", 0], "--muon-lr is 0.0; it must be positive"),
        (["--length", 400], "--length is 400, but the held-out tenth of"),
        (["--d-model", 9], "--d-model is 9 and --heads is 2; d_model must be a multiple of heads"),
        (["--layers", 0], "--layers is 0; it must be at least 1"),
        (["--seed", -1], "--seed is -1"),
        (["--data", "python_docs"], "--text and --data are both given; a run has one corpus"),
        (["--resume", "x"], "--out, --batch, --length, --d-model, --layers, --heads cannot be changed beside"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_train_refuses(
    options: list[object],
    message: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options that train nothing, refused late, with a traceback, or without naming the argument."""
    monkeypatch.setenv("COLUMNS", "1000")
    arguments = ["train", "--text", runs.text, "--out", tmp_path / "run", *SIZES, *options]
    code, error = fails(capsys, monkeypatch, *arguments)
    assert message in error
    assert code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty; a corpus needs some text"),
        (b"short", "use a length of 1 to 1 or a text of at least 160 characters"),
        (b"caf\xe9" * 100, "is not UTF-8: byte 3 is 0xe9; convert it, for instance with iconv -f latin1 -t utf-8"),
    ],
)
def test_train_refuses_texts(
    raw: bytes,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files that are no corpus, without naming the file."""
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "file.txt").write_bytes(raw)
    arguments = ["train", "--text", tmp_path / "file.txt", "--out", tmp_path / "run", *SIZES]
    code, error = fails(capsys, monkeypatch, *arguments)
    assert str(tmp_path / "file.txt") in error
    assert message in error
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_train_refuses_folders(
    runs: Runs,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run overwritten, or minutes of training that cannot be saved."""
    monkeypatch.setenv("COLUMNS", "1000")
    start = ["train", "--text", runs.text, *SIZES]
    code, error = fails(capsys, monkeypatch, *start, "--out", trained)
    assert code == 1
    assert f"already holds a run; continue it with: tinydiff train --resume {trained}, or choose another" in error
    (tmp_path / "file").touch()
    code, error = fails(capsys, monkeypatch, *start, "--out", tmp_path / "file" / "run")
    assert code == 1
    assert f"cannot write {tmp_path / 'file' / 'run'}" in error
    code, error = fails(capsys, monkeypatch, *start)
    assert code == 2
    assert "--out is missing: the folder to write the run to" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "RUN", "--steps", 0], "--steps is 0; it must be at least 1"),
        (["sample", "RUN", "--steps", 17], "--steps is 17, but only 16 positions are masked; use at most 16"),
        (["sample", "RUN", "--temperature", -1], "--temperature is -1.0; it must be 0 (greedy) or more"),
        (["sample", "RUN", "--temperature", "nan"], "--temperature is nan; it must be 0 (greedy) or more"),
        (["sample", "RUN", "--choice-temperature", -1], "--choice-temperature is -1.0; it must be 0 or more"),
        (["sample", "RUN", "--top-k", 0], "--top-k is 0; it must be at least 1"),
        (["sample", "RUN", "--top-p", 0], "--top-p is 0.0; expected 0 < top_p <= 1"),
        (["sample", "RUN", "--top-p", 1.5], "--top-p is 1.5; expected 0 < top_p <= 1"),
        (["sample", "RUN", "--block-length", 0], "--block-length is 0; it must be at least 1"),
        (["sample", "RUN", "--length", 17], "--length is 17; this model generates 1 to 16 characters"),
        (["sample", "RUN", "--batch", 0], "--batch is 0; it must be at least 1"),
        (["sample", "RUN", "--seed", -1], "--seed is -1"),
        (["sample", "RUN", "--threshold", 1], "--threshold is 1.0; expected 0 < threshold < 1"),
        (["sample", "RUN", "--gamma", -1], "--gamma is -1.0; it must be 0 (one position at a time) or more"),
        (["sample", "RUN", "--factor=-1"], "--factor is -1.0; it must be 0"),
        (["sample", "RUN", "--drafts", 0], "--drafts is 0; it must be at least 1"),
        (["sample", "RUN", "--rounds", 2, "--drafts", 3], "--rounds is 2 and --drafts is 3, but second thoughts"),
        (["sample", "RUN", "--threshold", 0.5, "--steps", 4], "--steps is 4, but"),
        (["sample", "RUN", "--threshold", 0.5, "--commits", "cosine"], "--commits is cosine, but"),
        (["sample", "RUN", "--threshold", 0.5, "--choice-temperature", 1], "Threshold has no such option"),
        (
            ["sample", "RUN", "--threshold", 0.5, "--remasking", "entropy"],
            "--remasking is entropy and --threshold is 0.5, but each of them chooses the decoder",
        ),
        (["infill", "RUN", "_", "--remask", "cap", "--remasking", "random"], "--remasking is random and --remask is"),
        (["sample", "RUN", "--eta", 0.5], "LowConfidence has no such option: leave --eta out"),
        (["sample", "RUN", "--remasking", "ancestral", "--block-length", 4], "Ancestral has no such option"),
        (["sample", "RUN", "--remasking", "left_to_right", "--block-length", 4], "LeftToRight has no such option"),
        (["sample", "RUN", "--remasking", "random", "--choice-temperature", 4], "Random has no such option"),
        (["sample", "RUN", "--remasking", "first_hitting", "--steps", 4], "FirstHitting has no such option"),
        (["sample", "RUN", "--solver", "heun"], "--solver is heun, but"),
        (["sample", "RUN", "--prompt", "t" * 16], "--prompt has 16 characters; the text has 16, so that none are left"),
        (["sample", "RUN", "--remask", "cap", "--eta", 2], "--eta is 2.0; expected 0 <= eta <= 1"),
        (["sample", "RUN", "--cfg-scale", 1], "--cfg-scale is 1.0, but nothing is given to follow"),
        (["sample", "RUN", "--prompt", "the cat sat on a mat"], "--prompt has 20 characters; the text has 16"),
        (["sample", "RUN", "--prompt", "\u2591"], "'\u2591' (U+2591) at position 0"),
        (["sample", "RUN", "--allow", ""], "--allow is empty"),
        (["sample", "RUN", "--no-cache"], "--no-cache is there, but"),
        (["sample", "AUTOREGRESSIVE", "--remask", "cap"], "--remask is cap, but"),
        (["infill", "RUN", "th_ ___ Qat"], "'Q' (U+0051) at position 8, which this alphabet"),
        (["infill", "RUN", "_" * 17], "text has 17 characters; this model takes at most 16"),
        (
            ["infill", "RUN", "the cat"],
            "text has no '_' to fill in; mark blanks with it or choose another with --blank",
        ),
        (["infill", "RUN", "the cat", "--blank", "__"], "--blank is '__'; expected one character"),
        (["infill", "AUTOREGRESSIVE", "th_"], "is an autoregressive model, which cannot see what follows a blank"),
        (["evaluate", "RUN", "--windows", 0], "--windows is 0; it must be at least 1"),
        (["evaluate", "RUN", "--text", "nowhere.txt"], "nowhere.txt"),
        (["evaluate", "RUN", "--decoder", "low_confidence"], "--decoder is low_confidence, which has no exact likelih"),
        (["evaluate", "RUN", "--decoder", "random"], "by chance, so there are many ways to a text: use most_likely, "),
        (["evaluate", "RUN", "--decoder", "margin", "--gamma", 1], "--decoder is margin and --gamma is 1.0, but each"),
        (
            ["evaluate", "RUN", "--decoder", "margin", "--steps", 17],
            "--steps is 17, but only 16 positions are to be filled",
        ),
        (["evaluate", "RUN", "--decoder", "margin", "--steps", 0], "--steps is 0; it must be at least 1"),
        (["evaluate", "AUTOREGRESSIVE", "--decoder", "margin"], "--decoder is margin, but"),
        (["sample", "RUN", "--strip", "strip.txt"], "strip.txt ends in '.txt'; figures end in .pdf, .png, .svg"),
        (["sample", "RUN", "--html", "RUN"], "exists already; choose another name or delete it"),
        (["sample", "RUN", "--gif", "way.mp4"], "way.mp4 ends in '.mp4'; animated pictures end in .gif"),
        (["race", "--gif", "way.webp"], "way.webp ends in '.webp'; animated pictures end in .gif"),
        (["race", "AUTOREGRESSIVE"], "only one run is given"),
        (["race", "RUN", "AUTOREGRESSIVE"], "is a run of masked; expected one of autoregressive"),
        (["race", "AUTOREGRESSIVE", "RUN", "--length", 17], "lengths goes up to 17; these models take at most 16"),
        (["race", "AUTOREGRESSIVE", "RUN", "--steps", 17], "--steps is 17, but the shortest length is 16"),
        (["race", "--html", "RUN"], "exists already; choose another name or delete it"),
        (["race", "--json", "RUN"], "exists already; choose another name or delete it"),
    ],
)
def test_trained_runs_refuse(
    arguments: list[object],
    message: str,
    trained: Path,
    autoregressive: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options that mean nothing, obeyed in some way or answered with a traceback."""
    monkeypatch.setenv("COLUMNS", "1000")
    folders = {"RUN": trained, "AUTOREGRESSIVE": autoregressive}
    code, error = fails(capsys, monkeypatch, *(folders.get(argument, argument) for argument in arguments))
    assert message in error
    assert code == 2


def test_sentences_name_what_was_typed() -> None:
    """An option in the library's spelling, which cannot be typed; or a word of the sentence taken for one."""
    typed = ["train", "--d-model", "9", "--heads=2", "--text", "x"]
    assert cli.as_typed("d_model is 9 and heads is 2; or", typed) == "--d-model is 9 and --heads is 2; or"
    assert cli.as_typed("steps is 0, but lr is 2", ["--lr", "2"]) == "steps is 0, but --lr is 2"
    assert cli.as_typed("out is a run of flow", ["page", "out", "--out", "x.html"]) == "out is a run of flow"
    assert cli.as_typed(f"{box.ROOT / 'stories_ar'} is a run of", ["infill", "stories_ar"]) == "stories_ar is a run of"
    assert str(box.ROOT) in cli.as_typed(
        f"{box.ROOT / 'stories_ar' / 'config.json'} is damaged", ["infill", "stories_ar"]
    )
    assert cli.as_typed("line 2 is '3 and lr is 2'", ["--lr", "2"]) == "line 2 is '3 and lr is 2'"
    cli.check_arguments(["infill", "RUN", "th_", "--top_k", "5"])  # no text: the command line says what is meant
    with pytest.raises(ValueError, match="'--the_' begins with a dash"):
        cli.check_arguments(["infill", "RUN", "--the_"])
    assert cli.as_typed("the text is short: text is all", typed) == "the text is short: text is all"


@pytest.mark.parametrize(
    ("process", "refused"),
    [
        ("d3pm_nearest", ["--remasking", "random"]),
        ("sedd_uniform", ["--choice-temperature", 1.0]),
        ("sedd_absorbing", ["--block-length", 4]),
        ("bert", ["--sampler", "euler"]),
        ("bert", ["--cfg-scale", 1.0]),
    ],
)
def test_every_process_samples_and_infills_with_its_own_options(
    process: str, refused: list[object], runs: Runs, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Options of masked diffusion that would be ignored elsewhere; a run that its own command cannot load."""
    monkeypatch.setenv("COLUMNS", "1000")
    folder = runs.train(runs.new(tmp_path / "run", process, steps=3, warmup=1, evaluate_every=3)).folder
    for command in (["sample", folder, "--steps", 3, "--delay", 0], ["infill", folder, "the c__ sat", "--delay", 0]):
        monkeypatch.setattr("sys.argv", ["tinydiff", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert command[0] == "sample" or (text.startswith("the c") and text.rstrip("\n").endswith(" sat"))
    code, error = fails(capsys, monkeypatch, "sample", folder, *refused)
    assert f"{refused[0]} is {refused[1]}" in error
    assert "no such" in error
    assert code == 2


@pytest.mark.parametrize("option", [["--steps", 4], ["--remasking", "random"], ["--block-length", 4]])
def test_options_of_diffusion_are_not_ignored(
    option: list[object], autoregressive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that has no effect on an autoregressive run: the samples are taken for something they are not."""
    monkeypatch.setenv("COLUMNS", "1000")
    code, error = fails(capsys, monkeypatch, "sample", autoregressive, *option)
    assert option[0] in error
    assert code == 2


def test_demo_refuses_what_it_cannot_show(
    autoregressive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of another kind in the folder of the demo: an AssertionError."""
    monkeypatch.setenv("COLUMNS", "1000")
    code, error = fails(capsys, monkeypatch, "demo", "--out", autoregressive)
    assert str(autoregressive) in error
    assert code == 2


def test_damaged_runs_are_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged run answered with a traceback, or as if the command had been misspelt."""
    monkeypatch.setenv("COLUMNS", "1000")
    state = copied / "state.safetensors"

    code, error = fails(capsys, monkeypatch, "sample", tmp_path / "nowhere")
    assert f"there is no run in {tmp_path / 'nowhere'}; train one with: tinydiff train --out" in error
    assert code == 1

    weights = load_file(state)
    weights["ema/head.weight"][0, 0] = np.nan
    with safe_open(state, framework="numpy") as file:
        save_file(weights, state, file.metadata())
    code, error = fails(capsys, monkeypatch, "evaluate", copied)
    assert "ema/head.weight" in error
    assert "contains NaN or inf; restore an earlier copy or train again" in error
    assert code == 1

    state.write_bytes(state.read_bytes()[:1000])
    for command in (["sample", copied], ["infill", copied, "_"], ["evaluate", copied], ["train", "--resume", copied]):
        code, error = fails(capsys, monkeypatch, *command)
        assert f"{state} is damaged" in error
        assert "restore it or train again" in error
        assert code == 1


@pytest.mark.parametrize("variable", ["TINYDIFF_KERNELS", *(["TINYDIFF_ISA"] if kernels.native else [])])
def test_environment_that_means_nothing(variable: str) -> None:
    """An error about an argument that nobody gave, instead of the variable that somebody set long ago."""
    done = piped("info", **{variable: "bogus"})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {variable}.*'bogus'.*\n", done.stderr)


# --- how it is said ---------------------------------------------------------------------------------------------------


def test_errors_are_one_line_in_a_narrow_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path or command broken in two, which can be neither copied nor searched for."""
    monkeypatch.setenv("COLUMNS", "40")
    _, error = fails(capsys, monkeypatch, "sample", tmp_path / "nowhere")
    assert f"train one with: tinydiff train --out {tmp_path / 'nowhere'}\n" in error


def test_names_are_shown_as_they_are(runs: Runs, tmp_path: Path) -> None:
    """A folder called run[old] shown as "run", so that the command to go on names another; ":x:" shown as an emoji."""
    folder = tmp_path / "run[old]:x:"
    shown = piped("train", "--text", runs.text, "--out", folder, *SIZES, COLUMNS="40").stderr
    assert f"Saved in {folder}." in shown
    assert f"resume '{folder}'," in tinydiff("train", "--text", runs.text, "--out", folder, *SIZES).stderr


def test_what_cannot_be_drawn_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib, which is an extra: one line that says what to install, and only if there is a picture."""
    monkeypatch.setattr(cli.common, "find_spec", lambda name: None)
    cli.common.need_matplotlib(None, None)
    with pytest.raises(FileNotFoundError, match=r"matplotlib is missing, which draws .*way\.gif; install it: pip"):
        cli.common.need_matplotlib(None, tmp_path / "way.gif")


def test_racers_of_different_alphabets(
    autoregressive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their texts are shown with one codec: the characters of the other would be wrong."""
    text = tmp_path / "digits.txt"
    text.write_text("0123456789 " * 200)
    done = tinydiff("train", "--text", text, "--out", tmp_path / "digits", *SIZES)
    assert done.returncode == 0, done.stderr
    code, error = fails(capsys, monkeypatch, "race", autoregressive, tmp_path / "digits")
    assert code == 2
    assert "have different alphabets; train both on the same data" in error
