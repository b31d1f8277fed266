"""The version is said in one place, and everything else repeats it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import tinydiff

ROOT = Path(__file__).parents[1]


def test_one_version() -> None:
    """A package, a command or a list of changes that were left behind."""
    here = tinydiff.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", here)
    assert version("tinydiff") == here
    done = subprocess.run([sys.executable, "-m", "tinydiff", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"tinydiff {here}\n", "")
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[1] == here
    for name in ("pyproject.toml", "CITATION.cff"):
        assert here not in (ROOT / name).read_text("utf-8")
