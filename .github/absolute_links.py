"""Make the relative links of README.md absolute, so that they work on an index of packages too.

Usage: python .github/absolute_links.py https://github.com/OWNER/NAME REF [README.md]
"""

import re
import sys
from pathlib import Path

home, ref, *paths = sys.argv[1:]
readme = Path(paths[0] if paths else "README.md")
text = readme.read_text("utf-8")
text = text.replace("git clone <this repository> ", f"git clone {home} ")
text = re.sub(r"(!\[[^]]*\]\()(?!https?://|#)", rf"\g<1>{home}/raw/{ref}/", text)  # pictures
text = re.sub(r"(?<!\!)(\[[^]]*\]\()(?!https?://|#)", rf"\g<1>{home}/blob/{ref}/", text)
readme.write_text(text, "utf-8")
