"""The Makefile and its scripts in folders of any name; its Python and compiler only write down their calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = "it's a $folder with blanks"
pytestmark = pytest.mark.skipif(not (shutil.which("make") and shutil.which("bash")), reason="needs make and bash")

PYTHON = """#!/bin/sh
printf '%s\\n' "PIP_USER=$PIP_USER $*" >>"$CALLS"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" "$3/lib/python3/site-packages" && cp "$0" "$3/bin/python" ;;
    --version) echo Python 3.99 ;;
esac
"""
# Says that it is GCC, and makes programs that do nothing.
COMPILER = """#!/bin/sh
case "$*" in *--version*) echo gcc; exit ;; esac
while [ "$1" != -o ]; do shift; done
cp /bin/true "$2"
"""


class Clone:
    """A clone in a folder whose name has everything, next to folders named like parts of it."""

    def __init__(self, folder: Path) -> None:
        self.around = folder
        self.calls = folder / "calls"
        self.place = folder / FOLDER
        self.place.mkdir()
        for name in ("csrc", "tinydiff", "tests"):
            (self.place / name).mkdir()
        for name in ("Makefile", "pyproject.toml", "CMakeLists.txt"):
            shutil.copy(ROOT / name, self.place)
        shutil.copytree(ROOT / ".ci", self.place / ".ci")
        self.python, self.compiler = folder / "my python", folder / "my compiler"
        for path, text in ((self.python, PYTHON), (self.compiler, COMPILER)):
            path.write_text(text)
            path.chmod(0o755)
        self.bystanders = [folder / part / "dear" for part in FOLDER.split()]
        for path in self.bystanders:
            path.mkdir(parents=True)

    def make(self, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make there; returns when it is done, well or not."""
        self.calls.write_text("")
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PIP"))}
        return subprocess.run(
            ["make", *targets, f"PYTHON={self.python}", f"CXX={self.compiler}"],
            cwd=self.place,
            env=inherited | {"CALLS": str(self.calls)} | environment,
            capture_output=True,
            text=True,
        )

    def called(self, part: str) -> bool:
        """Whether Python was called with this, in the last make."""
        return part in self.calls.read_text()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone of what make needs."""
    return Clone(tmp_path)


@pytest.mark.parametrize(
    ("target", "call"),
    [("test", "-m pytest"), ("lint", "-m mypy"), ("format", "-m ruff format"), ("demo", "-m tinydiff demo")],
)
def test_paths_with_blanks(clone: Clone, target: str, call: str) -> None:
    """A path in pieces: commands that are not found, or the wrong ones."""
    done = clone.make(target)
    assert done.returncode == 0, done.stderr
    assert clone.called(call)
    assert (clone.place / ".venv" / "bin" / "python").exists()


def test_nothing_is_deleted_outside(clone: Clone) -> None:
    """Folders beside the clone that are named like a piece of its path: rm -rf on an unquoted one took them."""
    done = clone.make("sanitize")
    assert "The C++ build failed" in done.stderr  # the stub built nothing; what was to be deleted was deleted before
    assert (clone.place / "build" / "sanitize" / "team").exists()
    assert clone.called("--config-settings=build-dir=build/sanitize/cmake")
    assert clone.make("clean").returncode == 0
    assert not (clone.place / ".venv").exists()
    assert all(path.exists() for path in clone.bystanders)


def test_a_clone_that_was_moved_or_copied(clone: Clone) -> None:
    """The environment of the old place, which runs the code of the old place or is not found at all."""
    assert clone.make("test").returncode == 0
    assert clone.called("-m venv")
    assert clone.make("test").returncode == 0
    assert not clone.called("-m venv")
    for change in (shutil.move, shutil.copytree):
        (clone.place / "build" / "stale").write_text("knows the old place")
        there = clone.place.with_name(clone.place.name + " too")
        change(str(clone.place), str(there))
        clone.place = there
        done = clone.make("test")
        assert done.returncode == 0, done.stderr
        assert "another place" in done.stdout
        assert clone.called("-m venv")
        assert clone.called("pip install")
        assert not (there / "build" / "stale").exists()


def test_settings_of_pip_that_break_an_environment(clone: Clone) -> None:
    """PIP_USER=1 installs into the home folder, which an environment does not see: pip refuses."""
    assert clone.make("test", PIP_USER="1", PIP_TARGET="elsewhere").returncode == 0
    assert clone.called("PIP_USER=0 -m pip install")


def test_check_isas_finds_objects(clone: Clone) -> None:
    """A check of nothing passes."""
    done = subprocess.run(["bash", ".ci/check_isas"], cwd=clone.place, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no kernel objects" in done.stderr
