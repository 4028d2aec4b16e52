"""The characters of a text file: unpacked, and in a known encoding, or refused with what to do."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from training_ume.data.json_entries import MAX_RATIO, MAX_UNPACKED, RATIO_FROM, VQADataError, _Counted

# Byte order marks, the longest first: that of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """A file's bytes; those of a `.gz`, or of the only member of a `.zip` (`archive.zip::member` picks one), unpacked.

    Raises:
        VQADataError: for a file that is missing or cannot be read, and for one that unpacks to too much.
    """
    file, _, member = path.partition("::")
    try:
        with open(file, "rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            budget = [min(MAX_UNPACKED, max(RATIO_FROM, MAX_RATIO * os.path.getsize(file)))]
            if magic[:2] == b"\x1f\x8b":
                with gzip.open(raw) as unpacked:
                    yield io.BufferedReader(_Unpacked(unpacked, budget, path))
            elif magic == b"PK\x03\x04":
                with zipfile.ZipFile(raw) as archive:
                    names = [
                        name for name in archive.namelist() if not name.startswith("__MACOSX") and name[-1] != "/"
                    ]
                    if member not in names and (member or len(names) != 1):
                        raise VQADataError(
                            f"{file} holds {len(names)} files: name one of them, {file}::{', '.join(names[:10])}."
                        )
                    with archive.open(member or names[0]) as unpacked:
                        yield io.BufferedReader(_Unpacked(unpacked, budget, path))
            else:
                yield raw
    except FileNotFoundError as error:
        raise VQADataError(f"The file {file} does not exist. Check the path.") from error
    except IsADirectoryError as error:
        raise VQADataError(f"{file} is a folder where a file is needed.") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise VQADataError(f"The file {file} cannot be read ({error}). Check it, or fetch it again.") from error


class _Unpacked(io.RawIOBase):
    """What an archive unpacks to, as a plain file that refuses to become too much."""

    def __init__(self, file, budget: list[int], name: str):
        self.counted = _Counted(file, budget, name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        content = self.counted.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def encoding_of(path: str) -> str:
    """
    How a text file is written: by its byte order mark, else UTF-8, of which every byte is checked.

    Raises:
        VQADataError: for a file that is neither; it says where, what the line would read as, and what to do.
    """
    with open_bytes(path) as file:
        beginning = file.read(4096)
        encoding = next((name for mark, name in MARKS if beginning.startswith(mark)), None)
        if encoding is None and b"\0" in beginning:
            raise VQADataError(
                f"{path} holds bytes of value 0 and no byte order mark, so it is no UTF-8 text: perhaps UTF-16 "
                "without its mark, or no text at all. Save it as UTF-8 (for UTF-16: iconv -f UTF-16LE -t UTF-8)."
            )
        encoding = encoding or "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        content = beginning
        try:
            while content:
                decoder.decode(content)
                content = file.read(2**20)
            decoder.decode(b"", True)
            return encoding
        except UnicodeDecodeError as error:
            if encoding != "utf-8":
                raise VQADataError(
                    f"{path} begins as {encoding.upper()} but does not go on so ({error.reason}): it may be cut off. "
                    "Save it as UTF-8."
                ) from error
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise VQADataError(_not_utf8(path, number, line, error)) from error
    raise VQADataError(f"{path} is not UTF-8: it ends within a character. Save it as UTF-8.")


def _not_utf8(path: str, number: int, line: bytes, error: UnicodeDecodeError) -> str:
    base = os.path.basename(path)
    near = line[max(0, error.start - 20) : error.start + 20]
    western = near.decode("cp1252", errors="replace").strip()
    return (
        f"{path}, line {number}: the byte 0x{line[error.start]:02X} is no UTF-8, so the file is in another encoding. "
        f"As Windows-1252, which Excel writes in Western Europe, it would read {western!r}: if that is right, save it "
        f"as UTF-8 (Excel: 'CSV UTF-8'), or convert it with: iconv -f WINDOWS-1252 -t UTF-8 {base} > utf8_{base}"
    )


def suffix_of(path: str) -> str:
    """The suffix that says what a file is, without that of its packing."""
    path = path.partition("::")[2] or path
    stem, suffix = os.path.splitext(path.lower())
    return os.path.splitext(stem)[1] if suffix in (".gz", ".zip") else suffix
