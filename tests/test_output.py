"""What leaves the command: text that arrives whatever it is written to, files that are kept, and how it is stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from test_cli import tinydiff

from tinydiff import Run, cli, load
from tinydiff.decoders import LowConfidence
from tinydiff.learning.checkpoint import read_config
from tinydiff.processes import MaskedDiffusion
from tinydiff.views import animation, gif, terminal, trajectory

if TYPE_CHECKING:
    from conftest import Runs

COMMAND = [sys.executable, "-m", "tinydiff"]
SIZES = ["--length=16", "--batch=4", "--d-model=8", "--layers=1", "--heads=2"]


def environment(**more: str) -> dict[str, str]:
    """Of a command whose standard output is not flushed at every line, as it is by default."""
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "FORCE_COLOR", "MPLBACKEND")}
    return plain | {"COLUMNS": "500"} | more


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command with pipes, or with the files that are given."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, timeout=120, **options)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command left, which says what is wrong."""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="session")
def strange(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a text of letters that ASCII lacks and of control characters, in a folder of such a name."""
    folder = tmp_path_factory.mktemp("strange")
    (folder / "text.txt").write_text("é€ïü" * 300 + "\x1b[31m\x07\x9b" * 300, "utf-8")
    done = run("train", "--text", folder / "text.txt", "--out", folder / "two  $x_{ \x1b[31mred", *SIZES, "--steps=3")
    assert done.returncode == 0, done.stderr
    return folder / "two  $x_{ \x1b[31mred"


# --- text that arrives ------------------------------------------------------------------------------------------------


def test_text_that_cannot_be_encoded_is_escaped(strange: Path) -> None:
    """All sampled, and then lost for one letter."""
    options = ["sample", strange, "--batch=3", "--steps=2", "--temperature=1"]
    whole, plain = run(*options), run(*options, env=environment(PYTHONIOENCODING="ascii"))
    assert (whole.returncode, plain.returncode) == (0, 0)
    assert plain.stdout == whole.stdout.decode().encode("ascii", "backslashreplace")
    assert len(plain.stdout) > len(whole.stdout)


@pytest.mark.parametrize(
    "command", [["sample", "RUN", "--steps", "2"], ["evaluate", "RUN", "--windows", "64"], ["info"]]
)
def test_full_disk(command: list[str], trained: Path) -> None:
    """Exit code 0 and no text; or "Exception ignored" and 120."""
    with open("/dev/full", "wb") as full:
        done = run(*(trained if word == "RUN" else word for word in command), stdout=full)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    assert said[-1] == "error: cannot write to standard output: No space left on device"
    assert not [line for line in said if "Exception" in line]


def test_standard_error_on_a_full_disk(trained: Path, tmp_path: Path) -> None:
    """A log that cannot be written takes the result with it, or the training."""
    with open("/dev/full", "wb") as full:
        done = run("sample", trained, "--steps", 2, stderr=full)
        assert (done.returncode, len(done.stdout)) == (1, 17)
        done = run("train", "--data", "sums", "--out", tmp_path / "run", *SIZES[1:], "--steps", 3, stderr=full)
    assert done.returncode == 1
    assert Run.resume(tmp_path / "run").step == 3


@pytest.mark.parametrize("batch", [1, 3000])
def test_closed_pipes_end_quietly(batch: int, trained: Path) -> None:
    """`tinydiff sample | head -1` ends in "Exception ignored" and exit code 120."""
    command = shlex.join([*COMMAND, "sample", str(trained), "--steps=1", f"--batch={batch}"])
    script = f"set -o pipefail; {command} | head -c 1 >/dev/null"
    if batch == 1:
        script = f"{command} >&-"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, check=False, timeout=60)
    assert done.returncode == (1 if batch == 1 else 141)
    assert b"Exception" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_stops_a_training(runs: Runs, tmp_path: Path) -> None:
    """A traceback, or what was trained lost, because nobody reads the log."""
    command = (
        f"{shlex.join(COMMAND)} train --text {runs.text} --out {tmp_path / 'run'} {' '.join(SIZES)} --steps 100000"
    )
    script = f"set -o pipefail; {command} 2>&1 | head -2"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 141
    assert done.stderr == b""
    assert Run.resume(tmp_path / "run").step > 0


def test_control_characters_do_not_reach_the_terminal(strange: Path) -> None:
    """Text that a model wrote, or the name of a folder, colours the terminal, rings its bell or moves its cursor."""
    master, slave = os.openpty()
    done = run("sample", strange, "--batch=20", "--steps=1", "--temperature=1", stdout=slave)
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 0
    assert "\\x1b" in shown
    assert not [c for c in shown if not c.isprintable() and c not in "\r\n"]

    for command in (
        ["sample", f"{strange}\x07"], ["train", "--resume", strange],
        ["train", "--\x1b[31m"], ["\x1b[31m"],
    ):  # fmt: skip
        said = tinydiff(*command).stderr
        assert "\\x1b" in said
        assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_titles_are_tame(capsys: pytest.CaptureFixture[str], runs: Runs, trained: Path) -> None:
    """The title of a panel is the name of a folder."""
    model, process, codec, _ = load(trained)
    frames = process.sample(model, 16, 1, decoder=LowConfidence(2), rng=np.random.default_rng(0))
    console = terminal.Console(force_terminal=True, width=80, color_system=None)
    terminal.show_sampling(console, codec, frames, title="\x1b[35mviolet")
    assert "\x1b[35m" not in capsys.readouterr().out


def test_commands_to_copy_are_quoted(strange: Path, tmp_path: Path, runs: Runs) -> None:
    """Two blanks become one, or the shell takes a part of the name for something else."""
    (tmp_path / "a  b $HOME").mkdir()
    folder = tmp_path / "a  b $HOME" / "run"
    done = tinydiff("train", "--resume", folder)
    assert error_of(done).endswith(f"train one with: tinydiff train --out '{folder}'\n")
    runs.train(runs.new(folder), 3)
    assert f"train --resume '{folder}', or" in error_of(tinydiff("train", "--out", folder))
    runs.train(Run.resume(folder))
    said = tinydiff("train", "--resume", folder).stderr
    assert said.endswith(f"train on with: tinydiff train --resume '{folder}' --steps 60\n")


def test_many_samples_are_not_all_watched_in_a_pipe(trained: Path) -> None:
    """34,000 lines on standard error for 2,000 samples."""
    done = tinydiff("sample", trained, "--batch=200")
    assert len(done.stdout.split("\n")) > 200
    lines = done.stderr.splitlines()
    assert len(lines) == 17 * terminal.PLAIN_ROWS + 1
    assert lines[-1] == f"and {200 - terminal.PLAIN_ROWS} more sequences"
    few = tinydiff("sample", trained, "--batch=1", "--remask=cap", "--eta=0.1", "--steps=400").stderr.splitlines()
    assert len(few) == terminal.PLAIN_FRAMES + 1
    assert few[-1].startswith(" 400/400  ")


def test_colours_in_a_log_are_not_redrawn(trained: Path) -> None:
    """FORCE_COLOR in a batch job: every frame is drawn over the last one, and waited for."""
    start = time.monotonic()
    done = run("sample", trained, "--steps=4", "--delay=20", env=environment(FORCE_COLOR="1"))
    assert time.monotonic() - start < 20
    assert len(done.stderr.decode().splitlines()) == 5
    assert b"\x1b[?25l" not in done.stderr


# --- before the work --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling is a failure."""
    monkeypatch.setattr(MaskedDiffusion, "sample", lambda *a, **k: pytest.fail("sampled"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delay", "inf"], "--delay is inf; expected 0 <= delay <= 3600"),
        (["--delay", "1e300"], "--delay is 1e+300; expected 0 <= delay <= 3600"),
        (["--gif", "FILE/way.gif"], "way.gif: Not a directory; choose another folder"),
        (["--html", "FILE/way.html"], "way.html: Not a directory; choose another folder"),
        (["--strip", "FILE/way.pdf"], "way.pdf: Not a directory; choose another folder"),
        (["--html", "/proc/way.html"], "cannot write /proc/way.html: "),
        (["--html", "LINK"], "exists already"),
        (["--html", "x.gif", "--gif", "x.gif"], "x.gif is given twice"),
        (["--gif", "way.gif", "--batch", "1600"], "batch is 1600; a GIF shows at most 64 texts"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    options: list[str], message: str, trained: Path, tmp_path: Path, no_work: None,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Minutes of sampling, and then nowhere to put it."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    options = [option.replace("FILE", f"{tmp_path}/file").replace("LINK", f"{tmp_path}/link") for option in options]
    monkeypatch.setattr(sys, "argv", ["tinydiff", "sample", str(trained), *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (1, 2)
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_text_and_other_views_are_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One view that fails, and what was sampled is gone."""
    script = (
        "import sys; from tinydiff import cli; import tinydiff.views.figures as f\n"
        "def full(*a): raise OSError(28, 'No space left on device')\n"
        "f.write_atomically = full\ncli.main()"
    )
    views = [f"--{name}={tmp_path / 'way'}.{name}" for name in ("html", "gif")] + [f"--strip={tmp_path / 'way'}.png"]
    command = [sys.executable, "-c", script, "sample", str(trained), "--steps=2", *views]
    done = subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert len(done.stdout) == 17
    assert done.stderr.decode().splitlines()[-1] == "error: No space left on device"
    assert {path.name for path in tmp_path.iterdir()} == {"way.html", "way.gif"}


@pytest.mark.parametrize("backend", ["module://nowhere", "nonsense"])
def test_pictures_need_no_screen(backend: str, trained: Path, tmp_path: Path) -> None:
    """A setting for another program, and a traceback in place of a picture."""
    views = ["--strip", tmp_path / "way.pdf", "--gif", tmp_path / "way.gif"]
    done = run("sample", trained, "--steps=2", *views, env=environment(MPLBACKEND=backend))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"way.gif", "way.pdf"}


def test_names_with_dollars_in_a_figure(tmp_path: Path) -> None:
    """The name of a run is read as a formula that is not one."""
    folder = tmp_path / "a$x_{$ b"
    done = tinydiff("train", "--data=sums", "--out", folder, *SIZES[1:], "--steps=2")
    assert done.returncode == 0, done.stderr
    done = tinydiff("sweep", folder, "--steps=1,2", "--texts=8", "--order=random")
    assert done.returncode == 0, done.stderr
    assert (folder / "sweep.png").stat().st_size > 10_000


def test_pictures_of_many(trained: Path, tmp_path: Path) -> None:
    """Pictures higher than a GIF can be."""
    model, process, codec, _ = load(trained)
    frames = process.sample(model, 16, gif.ROWS + 1, decoder=LowConfidence(1), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"batch is 65; a GIF shows at most 64 texts"):
        gif.save_gif(tmp_path / "way.gif", trajectory.record(frames, codec))
    with pytest.raises(ValueError, match=r"batch is 100000, which makes a GIF of \d+ x \d+ pixels"):
        animation.check_gif(100_000, 4, 16)


# --- options beside a run ---------------------------------------------------------------------------------------------


def test_steps_and_rate_extend_a_run(runs: Runs, tmp_path: Path) -> None:
    """Exit code 0, and the options ignored, because the run is trained to its steps already."""
    folder = runs.train(runs.new(tmp_path / "run")).folder
    done = tinydiff("train", "--resume", folder, "--steps", 40, "--lr", 0.001)
    assert done.returncode == 0, done.stderr
    assert "From step 30 on the learning rate begins again: up to 0.001 in 5 steps, then down" in done.stderr
    assert Run.resume(folder).step == 40
    training = read_config(folder)["training"]
    assert (training["steps"], training["lr"], training["restart"]) == (40, 0.001, 30)
    for options, words in (
        (["--steps", 39], "--steps is 39, but 40 are done already"),
        (["--lr", 0.1], "--lr is 0.1, but all 40 steps are done: add --steps"),
    ):
        done = tinydiff("train", "--resume", folder, *options)
        assert done.returncode == 2
        assert words in error_of(done)
    done = tinydiff("train", "--resume", folder, "--steps", 40)
    assert (done.returncode, done.stderr[-26:]) == (0, f"--resume {folder} --steps 80\n"[-26:])


@pytest.mark.parametrize(
    "option",
    [
        "--process=masked", "--schedule=linear", "--predict=eps", "--pairing=optimal", "--batch=8", "--length=16",
        "--d-model=8", "--layers=1", "--heads=2", "--seed=0", "--out=x", "--data=sums",
    ],
)  # fmt: skip
def test_other_options_are_refused_beside_resume(
    option: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that is ignored, and its effect looked for in vain."""
    monkeypatch.setattr(sys, "argv", ["tinydiff", "train", "--resume", str(trained), option])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert f"{option.split('=')[0]} cannot be changed beside --resume" in capsys.readouterr().err


def test_steps_of_a_demo_that_is_there(trained: Path) -> None:
    """A longer demo asked for, and the old one shown."""
    done = tinydiff("demo", "--out", trained, "--steps", 300)
    assert done.returncode == 2
    assert error_of(done).startswith(f"error: --steps is 300, but {trained} holds a run with its own number of steps")


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 2])
def test_stops_save(number: signal.Signals, times: int, runs: Runs, tmp_path: Path) -> None:
    """What Ctrl-C saves and a batch system loses; a second one that ends the save; a step that was never written."""
    command = [*COMMAND, "train", "--text", runs.text, "--out", tmp_path / "run", *SIZES, "--steps=100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as child:
        said = child.stderr.readline() + child.stderr.readline()
        for _ in range(times):
            child.send_signal(number)
        said += child.stderr.read()
    assert child.returncode == 128 + number
    step = Run.resume(tmp_path / "run").step
    assert said.splitlines()[2:] == [
        f"Stopped and saved at step {step}. Continue with: tinydiff train --resume {tmp_path / 'run'}"
    ]
    assert step >= int(re.search(r"^step (\d+)/", said, re.M)[1]) > 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "state.safetensors", "log.jsonl"}


def test_a_stop_that_cannot_be_saved_says_so(runs: Runs, tmp_path: Path) -> None:
    """Stopped, and "saved", and nothing there."""
    folder = tmp_path / "run"
    command = [*COMMAND, "train", "--text", runs.text, "--out", folder, *SIZES, "--steps=100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as child:
        child.stderr.readline()
        child.stderr.readline()
        folder.rename(tmp_path / "elsewhere")
        child.send_signal(signal.SIGTERM)
        said = child.stderr.read()
    assert child.returncode == 1
    assert "saved at" not in said
    assert f"error: {folder} was removed or renamed" in said


def test_ignored_stops_stay_ignored(runs: Runs, tmp_path: Path) -> None:
    """`nohup tinydiff train &`: Ctrl-C at the shell ends it."""
    script = f"trap '' INT HUP; exec {shlex.join(COMMAND)} train --text {runs.text} --out {tmp_path / 'run'} "
    command = ["bash", "-c", script + " ".join([*SIZES, "--steps=600"])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as child:
        child.stderr.readline()
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGHUP)
        said = child.stderr.read()
    assert child.returncode == 0
    assert "Trained 600 steps" in said


@pytest.mark.parametrize("module", ["numpy", "tinydiff.transformer", "typer", "rich.console"])
def test_ctrl_c_while_importing(module: str) -> None:
    """A traceback in the first half second."""
    script = f"""
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}: signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["/usr/bin/tinydiff", "info"]
from tinydiff.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"Stopped.\n")
    script = script.replace("/usr/bin/tinydiff", "/usr/bin/another")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert b"KeyboardInterrupt" in done.stderr  # a program that imports tinydiff answers for itself


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_while_building_or_sampling(number: signal.Signals, trained: Path) -> None:
    """A traceback, or the cursor of the terminal left hidden."""
    script = f"""
import signal, sys, tinydiff
from tinydiff import cli, learning
def stopped(*arguments):
    signal.raise_signal({int(number)})
    signal.raise_signal({int(number)})
learning.load = stopped
cli.main()
"""
    command = [sys.executable, "-c", script, "sample", str(trained)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"Stopped.\n")


def test_warnings_are_one_line(runs: Runs, tmp_path: Path) -> None:
    """A warning with the line of the source that it comes from."""
    folder = runs.train(runs.new(tmp_path / "run"), 7).folder
    with (folder / "log.jsonl").open("a") as log:
        log.write("my notes\n")
    said = run("train", "--resume", folder).stderr.decode().splitlines()
    assert said[1].startswith(f"warning: {folder / 'log.jsonl'} has lines that are not of a log")
    assert "step 30/30" in said[-2]
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"] == 30


def test_a_text_that_begins_with_a_dash(trained: Path) -> None:
    """Taken for an option; the error says where it goes, and there it is read."""
    for text in ("-the c__", "--the c__ sat", "--the_", "--1_2", "-_"):
        done = tinydiff("infill", trained, text)
        assert done.returncode == 2
        assert "begins with a dash, which options do; a text that does goes last, after --" in done.stderr
    done = tinydiff("infill", trained, "--delay=0", "--", "-the c__")
    assert "'-' (U+002D) at position 0, which this alphabet" in done.stderr  # this one has no dash
