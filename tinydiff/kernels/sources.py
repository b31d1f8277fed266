"""A digest of the C++ sources: an extension knows the one it was built from.

CMakeLists.txt runs this file when it configures, and `tinydiff.kernels` compares when it is imported from a clone.
"""

import hashlib
import sys
from pathlib import Path


def digest(folder: Path) -> str:
    """Of the sources in a folder, without the files that editors leave beside them."""
    files = sorted(folder.glob("[a-z]*.[ch]pp"), key=lambda file: file.name)
    digests = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


if __name__ == "__main__":
    print(digest(Path(sys.argv[1])))
