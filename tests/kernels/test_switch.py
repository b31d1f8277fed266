"""Which implementation runs: kernels.use, TINYDIFF_KERNELS, TINYDIFF_ISA, and what happens without the extension."""

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kernel_support import python

from tinydiff import kernels
from tinydiff.kernels import KERNELS, native, reference
from tinydiff.kernels.sources import digest

needs_native = pytest.mark.skipif(native is None, reason="the native extension is not built")

# Every module but the extension is found as usual.
WITHOUT_EXTENSION = """
import sys
class Finder:
    finders = sys.meta_path
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "tinydiff.kernels._native":
            return next(filter(None, (f.find_spec(name, path, target) for f in cls.finders)), None)
        {instead}
sys.meta_path = [Finder]
"""
NOT_BUILT = WITHOUT_EXTENSION.format(instead="return None")
SOURCES = Path(__file__).parents[2] / "csrc"
in_clone = pytest.mark.skipif(
    Path(kernels.__file__).resolve().parents[2] != SOURCES.parent,
    reason="tinydiff was installed apart from its sources",
)
BROKEN = WITHOUT_EXTENSION.format(instead="raise ImportError('undefined symbol: __cxa_throw')")
SHOW = "from tinydiff import kernels as k; print(k.active(), k.native and k.native.isa(), k.softmax.__module__)"


@pytest.fixture(autouse=True)
def any_kernels() -> Iterator[None]:
    """Puts the choice back."""
    before = kernels.active()
    yield
    kernels.use(before)


def test_numpy_is_the_reference() -> None:
    """Every name in KERNELS is switched; one left out would keep the implementation chosen at import."""
    kernels.use("numpy")
    assert kernels.active() == "numpy"
    for name in KERNELS:
        assert getattr(kernels, name) is getattr(reference, name)


@needs_native
def test_native_and_back() -> None:
    """In both directions, any number of times."""
    for _ in range(2):
        kernels.use("native")
        assert kernels.active() == "native"
        for name in KERNELS:
            assert getattr(kernels, name) is getattr(native, name)
        kernels.use("numpy")
        assert kernels.softmax is reference.softmax


def test_kernels_lists_every_kernel() -> None:
    """A kernel added to the reference or the extension alone is a kernel that cannot be switched."""
    functions = inspect.getmembers(reference, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == reference.__name__ and not name.startswith("_")}
    assert public == set(KERNELS)
    assert set(KERNELS) <= set(kernels.__all__)
    if native is not None:
        others = {"isa", "isas", "use_isa", "threads", "set_threads", "pool", "pools", "use_pool", "give_back_memory"}
        others |= {"has_bfloat16", "sources"}
        assert {name for name in vars(native) if not name.startswith("_")} == set(KERNELS) | others


def test_unknown_name_changes_nothing() -> None:
    """A typing error must not leave a mixture behind."""
    before = kernels.active()
    with pytest.raises(ValueError, match=r"^kernels is 'fast'; expected 'numpy' or 'native'"):
        kernels.use("fast")
    assert kernels.active() == before


@needs_native
@pytest.mark.parametrize("isa", native.isas() if native else [])
def test_environment(isa: str) -> None:
    """Native kernels by default and by name, on the instruction set asked for or on the best."""
    best = native.isas()[-1]
    assert python(SHOW).stdout.split() == ["native", best, "tinydiff.kernels._native"]
    assert python(SHOW, TINYDIFF_KERNELS="native", TINYDIFF_ISA=isa).stdout.split()[:2] == ["native", isa]


def test_environment_asks_for_numpy() -> None:
    """The reference runs, silently, whether or not the extension is there."""
    for block in ("", NOT_BUILT):
        done = python(block + SHOW, TINYDIFF_KERNELS="numpy")
        assert done.stdout.split()[::2] == ["numpy", "tinydiff.kernels.reference"]
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("variable", "error"),
    [
        ("TINYDIFF_KERNELS", "ValueError: TINYDIFF_KERNELS is 'fast'; expected 'numpy' or 'native'"),
        pytest.param("TINYDIFF_ISA", "ValueError: TINYDIFF_ISA: isa is 'fast'", marks=needs_native),
    ],
)
def test_unknown_name_in_the_environment(variable: str, error: str) -> None:
    """Falling back in silence would make a benchmark measure something else."""
    done = python(SHOW, **{variable: "fast"})
    assert done.returncode != 0
    assert error in done.stderr


@pytest.mark.parametrize(
    ("block", "reason"), [(NOT_BUILT, "tinydiff.kernels._native"), (BROKEN, "undefined symbol: __cxa_throw")]
)
def test_missing_extension(block: str, reason: str) -> None:
    """The import works and warns once, with the true reason and a way out."""
    done = python(block + SHOW)
    assert done.stdout.split() == ["numpy", "None", "tinydiff.kernels.reference"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert reason in done.stderr
    assert "circular import" not in done.stderr
    assert "TINYDIFF_KERNELS=numpy" in done.stderr


def test_missing_extension_asked_for() -> None:
    """An error, at import and in kernels.use: who asks for native kernels does not want slow ones."""
    done = python(NOT_BUILT + SHOW, TINYDIFF_KERNELS="native")
    assert done.returncode != 0
    assert "RuntimeError: kernels is 'native', but the extension is not here" in done.stderr
    done = python(NOT_BUILT + SHOW + "; k.use('native')", TINYDIFF_KERNELS="numpy")
    assert done.stdout.startswith("numpy")
    assert "RuntimeError: kernels is 'native', but the extension is not here" in done.stderr


@in_clone
def test_extension_of_another_version() -> None:
    """A stale build, as after an update of a clone, is left alone, and said so: not a TypeError in mid-training."""
    stale = "import sys, types; sys.modules['tinydiff.kernels._native'] = types.ModuleType('stale')\n"
    done = python(stale + SHOW)
    assert done.stdout.split() == ["numpy", "None", "tinydiff.kernels.reference"]
    assert "it is of another version than" in done.stderr
    assert "install tinydiff again" in done.stderr
    done = python(stale + SHOW, TINYDIFF_KERNELS="native")
    assert done.returncode != 0
    assert "RuntimeError: kernels is 'native', but the extension is not here (it is of another version" in done.stderr


def test_digest_sees_every_character(tmp_path: Path) -> None:
    """One more blank in one header is another version; a file that is no source is not."""
    shutil.copytree(SOURCES, tmp_path / "csrc")
    before = digest(tmp_path / "csrc")
    assert before == digest(SOURCES)
    (tmp_path / "csrc" / "notes.txt").write_text("beside the sources")
    (tmp_path / "csrc" / ".#rows.hpp").symlink_to("somebody@somewhere.1234")  # an editor's lock
    assert digest(tmp_path / "csrc") == before
    header = tmp_path / "csrc" / "rows.hpp"
    header.write_text(header.read_text() + " ")
    assert digest(tmp_path / "csrc") != before


@needs_native
@in_clone
def test_extension_knows_its_sources() -> None:
    """CMake and Python that digest other files, or in another order."""
    assert native is not None
    assert native.sources == digest(SOURCES)


@needs_native
def test_results_do_not_depend_on_the_choice() -> None:
    """One call through the module under each name."""
    x = np.linspace(-3, 3, 50).reshape(5, 10)
    kernels.use("numpy")
    want = kernels.softmax(x)
    kernels.use("native")
    np.testing.assert_allclose(kernels.softmax(x), want, rtol=1e-14)
