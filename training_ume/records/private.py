"""What tells of this machine or its user, and must not be in a file that goes elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}  # their tokens may look like anything
TEXTS = {".json", ".md", ".py", ".txt", ".yaml"}
# Two parts or more, and not the middle of an address or of `yes/no`; a Windows drive; a file address.
ABSOLUTE_PATH = re.compile(r"(?<![\w./:<\])~*-])/[\w.@+-]+(?:/[\w.@+-]+)+|\b[A-Za-z]:\\{1,2}\w[\w\\.-]*|file://\S+")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


def check_files(files: dict[str, Path | bytes]) -> None:
    """Raises ValueError for a text file with a path of this machine, or with a Hub token, in it."""
    for name, content in files.items():
        if Path(name).suffix not in TEXTS:
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if TOKEN.search(line):
                raise ValueError(
                    f"Line {number} of {name} holds what looks like a Hub token: take it out, and revoke it."
                )
            found = None if name in VOCABULARIES else ABSOLUTE_PATH.search(line)
            if found:
                raise ValueError(
                    f"Line {number} of {name} names {found[0]}, a path of this machine: take it out; it means nothing "
                    "elsewhere and tells more than it should."
                )
