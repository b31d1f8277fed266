"""The documentation site: README, lessons with their committed outputs, and every public name, from its docstring.

Built by `make docs`, without a network: formulas are drawn by a MathJax that is copied into the site.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import tinydiff

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "lessons/README.md", "docs/own_data.md", "docs/zoo.md")
MADE = HERE / "made"  # what is copied from elsewhere in the repository
sys.path.insert(0, str(HERE))  # for plain.py

project = "tinydiff"
author = copyright = "The tinydiff authors"
version = release = tinydiff.__version__
extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "myst_nb", "sphinx-mathjax-offline",
]  # fmt: skip
html_theme = "furo"
html_title = "tinydiff"
html_show_copyright = False
nb_execution_mode = "off"  # lessons come with their outputs, which the tests compare with a new run
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them, and docstrings say what they mean
autodoc_default_options = {"members": True}
exclude_patterns = ["build"]
suppress_warnings = ["myst.header"]  # notebooks begin where they like
pygments_dark_style = "github-dark"


def copy() -> None:
    """README, changes, lessons and pages of docs/ as they lie in the repository; links to code become words."""
    shutil.rmtree(MADE, ignore_errors=True)
    sources = [ROOT / name for name in PAGES]
    files = [*sources, *(ROOT / "lessons").glob("*.ipynb"), *(ROOT / "docs").glob("*.*")]
    for file in files:
        copied = MADE / file.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)

    for source in sources:
        text = re.sub(
            r"\[([^]]*)\]\(([^):#]+)\)",
            lambda link, folder=source.parent: link[0] if (folder / link[2]).resolve() in files else link[1],
            source.read_text("utf-8"),
        )
        (MADE / source.relative_to(ROOT)).write_text(text, "utf-8")


def setup(app: Any) -> None:
    """Docstrings are plain text; what is marked up in reStructuredText by chance is not meant."""
    from plain import as_rst

    def rewrite(*event: Any) -> None:
        lines = event[-1]
        lines[:] = as_rst(lines)

    app.connect("autodoc-process-docstring", rewrite)


copy()
