"""What gives way where Python runs in a browser (Pyodide): no threads, no signals, no locks, less of a library."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tinydiff import data

LIKE_A_BROWSER = """
import os, signal, sys, threading
def refused(*_):
    raise ValueError("signal only works in main thread of the main interpreter")
def no_thread(_):
    raise RuntimeError("can't start new thread")
signal.signal, threading.Thread.start = refused, no_thread
for name in ("pydoc_data", "fcntl", "msvcrt", "subprocess", "multiprocessing", "resource"):
    sys.modules[name] = None

import numpy as np
import tinydiff as td
from tinydiff import box

corpus = td.data.load("sums")
rng = np.random.default_rng(0)
network = td.Transformer(corpus.vocab_size, corpus.law.length, d_model=8, layers=1, heads=2, rng=rng)
options = td.Options(steps=3, batch=4, evaluate_windows=64, warmup=1)
run = td.Run(corpus, td.MaskedDiffusion(corpus.vocab_size), network, options, "run")
assert [frame.step for frame in td.train(run)] == [1, 2, 3]
assert td.Run.resume("run").step == 3

model, process, codec, _ = td.load(box.ROOT / "stories")
*_, last = process.sample(model, 45, decoder=td.decoders.LowConfidence(8), rng=np.random.default_rng(0))
print(codec.decode(last.state[0]))
try:
    td.data.load("python_docs")
except FileNotFoundError as error:
    print(error)
"""


def test_what_is_missing_gives_way(tmp_path: Path) -> None:
    """Import, training with a folder, a model of the box: on NumPy kernels, as of the wheel without native ones."""
    environment = os.environ | {"TINYDIFF_KERNELS": "numpy", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIKE_A_BROWSER]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    story, missing = done.stdout.splitlines()
    assert len(story.split()) > 20
    assert "without pydoc_data.topics" in missing


def test_a_library_that_is_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python_source` of a zip: its top-level modules in order, without those that are not ASCII."""
    archive = tmp_path / "python314.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in (("b.py", "b = 1\r\n"), ("a.py", "a = 1\n"), ("c.py", "# é\n"), ("more/d.py", "d = 1\n")):
            file.writestr(name, text)
    monkeypatch.setattr(sys, "path", [str(archive), *sys.path])
    assert data.python_source() == "a = 1\n\n\nb = 1\n"
