"""The second corpus: this Python's own standard library as characters, the same on every machine.

The modules of the library's first level in the order of their names' hashes, so that the held-out
end is no letter of the alphabet; of each file what is printable ASCII or a line break.
"""

import hashlib
import string
import sysconfig
from pathlib import Path

NAME = "python-library"
"""What `--text` calls it."""
CHARACTERS = 4_000_000
KEPT = frozenset(string.printable) - frozenset("\t\r\x0b\x0c")


def library_text(*, characters: int = CHARACTERS) -> str:
    """At most `characters` of the library of the running Python."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        folder.glob("*.py"), key=lambda path: hashlib.sha256(path.name.encode()).digest()
    )
    parts, length = [], 0
    for path in paths:
        if length >= characters:
            break
        kept = "".join(c for c in path.read_text(encoding="utf-8", errors="ignore") if c in KEPT)
        parts.append(kept)
        length += len(kept)
    return "".join(parts)[:characters]
