"""The list of entries in a JSON file or archive, read one by one: memory grows with what is kept of them, not with
what a small archive can be made to unpack to.

What a file may ask for is bounded in bytes, in entries and in the size of one entry.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

# Bytes that all files of an archive together may unpack to. VQA v2's largest has 0.4 GB; a bomb of a few MB has any.
MAX_UNPACKED = 4 * 2**30
# Questions and annotations pack to a twentieth or so; the same few bytes over and over, to a thousandth.
MAX_RATIO, RATIO_FROM = 200, 64 * 2**20
# Entries of one file: VQA v2's largest has 0.4 million, GQA in one file 22 million.
MAX_ENTRIES, MAX_ENTRIES_VARIABLE = 30_000_000, "UME_MAX_ENTRIES"
# Characters of one entry: VQA v2's longest have a thousand.
MAX_ENTRY = 2**20
CHUNK = 2**20
WHITESPACE = re.compile(r"[ \t\n\r]*")
NUMBER_TAIL = re.compile(r"[-+.eE0-9]*\Z")


class VQADataError(ValueError):
    """Data that cannot be used as it is; the message names the file, the id, and what to do."""


class AmbiguousEntry(Exception):
    """An object with one key twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object; of a key that is there twice, Python would keep the last and drop the others in silence."""
    value = dict(pairs)
    if len(value) != len(pairs):
        [(key, _), *_] = Counter(key for key, _ in pairs).most_common(1)
        raise AmbiguousEntry(f"an object has the key {key[:60]!r} more than once")
    return value


def max_entries() -> int:
    """The limit on entries of one file, which the environment can change; ValueError where it is no number."""
    given = os.environ.get(MAX_ENTRIES_VARIABLE, "")
    if given and not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise ValueError(f"{MAX_ENTRIES_VARIABLE}={given!r} is no number: set it to how many entries a file may have.")
    return int(given) if given else MAX_ENTRIES


def check_count(count: int, name: str) -> None:
    """Raises VQADataError for more entries than a file may have."""
    if count > max_entries():
        raise VQADataError(
            f"{name} holds more than {max_entries():,} entries, which may be meant to fill the memory: set the "
            f"environment variable {MAX_ENTRIES_VARIABLE} to a larger number if you trust it."
        )


class JSONEntries:
    """
    The list under `key` of a `.json`, `.json.gz` or `.zip` file; iterating reads the file and yields its entries.

    Args:
        path: the file; `archive.zip::member.json` picks one member.
        key (`str`): where the list stands in the file's object.
        hook: makes a value of the pairs of each object.

    Attributes:
        name (`str`): what messages call the file.

    Raises:
        VQADataError: for a file that is missing, cannot be read, has no such list, is no JSON or exceeds a limit; for
            several members that fit. Some of it is found by iterating only.
    """

    def __init__(self, path: str | os.PathLike, key: str, hook: Callable[[list], Any] = unique_keys):
        self.path, _, self.member = os.fspath(path).partition("::")
        self.key, self.hook = key, hook
        with self._readable(), open(self.path, "rb") as file:
            magic = file.read(4)
        self.packed = "gz" if magic[:2] == b"\x1f\x8b" else "zip" if magic == b"PK\x03\x04" else None
        self.name = self.path
        if self.packed == "zip":
            with self._readable():
                self.member = self._choose_member()
            self.name = f"{self.path}::{self.member}"

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise VQADataError(f"The {self.key} file {self.path} does not exist. Check the path.") from error
        # RuntimeError and NotImplementedError: an archive with a password, or a compression that is not known.
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise self._unreadable(error) from error
        except RuntimeError as error:
            if isinstance(error, RecursionError):
                raise
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> VQADataError:
        return VQADataError(f"The {self.key} file {self.path} cannot be read ({error}). Download it again.")

    def _choose_member(self) -> str:
        with zipfile.ZipFile(self.path) as archive:
            # macOS adds a shadow of every file under __MACOSX.
            names = [n for n in archive.namelist() if n.lower().endswith(".json") and not n.startswith("__MACOSX")]
            if self.member and self.member not in names:
                raise VQADataError(
                    f"{self.path} has no member {self.member!r}. Its JSON files are: {', '.join(names[:10])}."
                )
            if not names:
                members = ", ".join(archive.namelist()[:10])
                raise VQADataError(f"{self.path} holds no JSON file. Its members are: {members}.")
            if self.member or len(names) == 1:
                return self.member or names[0]
            left = self._budget()
            fitting = []
            for name in names:
                with archive.open(name) as file:
                    if _Document(_Counted(file, left, name), name, self.key, unique_keys).has_list():
                        fitting.append(name)
        if not fitting:
            raise self._no_list(", ".join(f"{self.path}::{name}" for name in names[:10]))
        if len(fitting) > 1:
            listed = ", ".join(f"{self.path}::{name}" for name in fitting[:10])
            raise VQADataError(f"{self.path} holds several {self.key} files. Name one of them: {listed}.")
        return fitting[0]

    def _budget(self) -> list[int]:
        """How many bytes may still be unpacked, in a list that all members share."""
        return [min(MAX_UNPACKED, max(RATIO_FROM, MAX_RATIO * os.path.getsize(self.path)))]

    def _no_list(self, names: str) -> VQADataError:
        return VQADataError(
            f"{names} has no list under the key {self.key!r}, so it is no {self.key} file in VQA v2's layout. "
            f"Give the file that starts with {{..., {self.key!r}: [...]}}."
        )

    def __iter__(self) -> Iterator[Any]:
        with self._readable(), open(self.path, "rb") as file:
            if self.packed is None:
                yield from self._entries(file)
            elif self.packed == "gz":
                with gzip.open(file) as unpacked:
                    yield from self._entries(_Counted(unpacked, self._budget(), self.name))
            else:
                with zipfile.ZipFile(file) as archive, archive.open(self.member) as unpacked:
                    yield from self._entries(_Counted(unpacked, self._budget(), self.name))

    def _entries(self, file) -> Iterator[Any]:
        document = _Document(file, self.name, self.key, self.hook)
        yield from document
        if not document.found:
            raise self._no_list(self.name)


class _Counted:
    """A file of an archive that refuses to unpack to more than `left[0]` bytes."""

    def __init__(self, file: BinaryIO, left: list[int], name: str):
        self.file, self.left, self.name = file, left, name

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left[0] -= len(content)
        if self.left[0] < 0:
            raise VQADataError(
                f"{self.name} holds more than {MAX_UNPACKED / 2**30:.0f} GB, or {MAX_RATIO} times as much as it has "
                "packed, which may be meant to fill the memory. Unpack it yourself if you trust it, and give the JSON "
                "file."
            )
        return content


class _Document:
    """One JSON text, of whose top object the list under `key` is yielded and the rest checked and let go."""

    def __init__(self, file, name: str, key: str, hook: Callable[[list], Any]):
        self.file, self.name, self.key = file, name, key
        self.scan_wanted = json.JSONDecoder(object_pairs_hook=hook).scan_once
        self.scan_other = json.JSONDecoder(object_pairs_hook=unique_keys).scan_once
        self.text, self.at, self.ended = "", 0, False
        self.lines = 0  # before `text`
        self.decoder, self.count = None, 0
        self.found = False

    def has_list(self) -> bool:
        """Whether there is such a list; reads no further than to its beginning."""
        for _ in self:
            break
        return self.found

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._top()
        except AmbiguousEntry as error:
            raise VQADataError(f"{self.name} is ambiguous JSON: {error}. Leave one of them.") from error
        except VQADataError:
            raise
        except (ValueError, RecursionError) as error:
            raise VQADataError(
                f"{self.name} is not valid JSON ({error}) in what begins in line {self._line()}: it may be cut off. "
                "Mend it, or download it again."
            ) from error

    def _top(self) -> Iterator[Any]:
        if self._next() == "{":
            keys: set[str] = set()
            for key in self._object():
                if key in keys:
                    raise AmbiguousEntry(f"an object has the key {key[:60]!r} more than once")
                keys.add(key)
                if key == self.key and self._next() == "[":
                    self.found, self.count = True, 0
                    for _ in self._list():
                        yield self._value(self.scan_wanted)
                else:
                    self._skip()
        else:
            self._skip()
        if self._next():
            raise ValueError(f"extra data follows: {self.text[self.at : self.at + 20]!r}")

    # Each of the following starts where the last one ended.

    def _skip(self) -> None:
        """Over one value, of which a long list or object is taken one part at a time."""
        opening = self._next()
        if opening not in ("[", "{"):
            self._value(self.scan_other)
            return
        for _ in self._list() if opening == "[" else self._object():
            self._value(self.scan_other)

    def _list(self) -> Iterator[None]:
        """Stops before each value of a list, which whoever iterates has to read."""
        self.at += 1
        if self._next() == "]":
            self.at += 1
            return
        while True:
            self._counts()
            yield
            if self._separator("]"):
                return

    def _object(self) -> Iterator[str]:
        """The keys of an object, each before its value, which whoever iterates has to read."""
        self.at += 1
        if self._next() == "}":
            self.at += 1
            return
        while True:
            self._counts()
            if self._next() != '"':
                raise ValueError("a key in quotes is missing")
            key = self._value(self.scan_other)
            if self._next() != ":":
                raise ValueError(f"a colon is missing after the key {key[:60]!r}")
            self.at += 1
            yield key
            if self._separator("}"):
                return

    def _counts(self) -> None:
        self.count += 1
        if self.count % 10_000 == 0:
            check_count(self.count, self.name)

    def _separator(self, closing: str) -> bool:
        """Past a comma, or past the end: then True."""
        found = self._next()
        if found not in (",", closing) or not found:
            raise ValueError(f"expected ',' or {closing!r}, found {found!r}" if found else "it ends too early")
        self.at += 1
        return found == closing

    def _next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self.at = WHITESPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _value(self, scan) -> Any:
        self._next()
        while True:
            try:
                value, end = scan(self.text, self.at)
            except StopIteration:
                failure, cut_off = ValueError("a value is missing"), True
            except json.JSONDecodeError as error:
                failure = ValueError(error.msg)
                cut_off = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
            else:
                if end - self.at > MAX_ENTRY:
                    raise self._too_long()
                # A number at the very end may go on, and so may "1." and "1e-", of which only the 1 has been taken.
                if not NUMBER_TAIL.match(self.text, end) or not self._more():
                    self.at = end
                    return value
                if len(self.text) - self.at > MAX_ENTRY:
                    raise self._too_long()
                continue
            too_long = len(self.text) - self.at > MAX_ENTRY
            if too_long or not self._more():
                raise self._too_long() if too_long and cut_off else failure

    def _too_long(self) -> VQADataError:
        return VQADataError(
            f"{self.name} has an entry of more than {MAX_ENTRY:,} characters, which may be meant to fill the memory: "
            "leave it out."
        )

    def _line(self) -> int:
        """The line that `at` is in, counted from 1."""
        return self.lines + self.text.count("\n", 0, self.at) + 1

    def _more(self) -> bool:
        """Reads on; what lies before `at` is let go."""
        if self.ended:
            return False
        content = self.file.read(CHUNK)
        if self.decoder is None:
            self.decoder = codecs.getincrementaldecoder(json.detect_encoding(content[:4]))("surrogatepass")
        self.ended = not content
        self.lines += self.text.count("\n", 0, self.at)
        self.text = self.text[self.at :] + self.decoder.decode(content, self.ended)
        self.at = 0
        return True
