"""The README's Python runs as it stands there, and its links and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import tinydiff

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing a reader copies must work; only the number of steps is cut, to save time."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    assert "steps=1500" in code
    exec(compile(code.replace("steps=1500", "steps=3, warmup=3, evaluate_every=3"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "bits per character" in printed
    assert "total probability 1.0000" in printed


def test_links_lead_somewhere() -> None:
    """Every file the README points at is there."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^tinydiff (\w+)", README, flags=re.MULTILINE))))
def test_commands_exist(command: str) -> None:
    """A command that the README shows answers to --help."""
    done = tinydiff(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


def test_links_of_the_published_readme(tmp_path: Path) -> None:
    """On an index of packages there is nothing beside it: every link and picture says where it is."""
    script = ROOT / ".github" / "absolute_links.py"
    copy = tmp_path / "README.md"
    copy.write_text(README, "utf-8")
    home = "https://example.org/a/b"
    subprocess.run([sys.executable, str(script), home, "v1", str(copy)], check=True)
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", copy.read_text("utf-8"))
    before = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", README)
    assert len(links) == len(before)
    for (picture, link), (_, old) in zip(links, before, strict=True):
        expected = old if old.startswith("http") else f"{home}/{'raw' if picture else 'blob'}/v1/{old}"
        assert link == expected
    assert f"git clone {home} && cd" in copy.read_text("utf-8")
