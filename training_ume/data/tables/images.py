"""The file of a row, a picture or what else is read of files: a name beside the table or in a folder, an address, or
the content itself."""

from __future__ import annotations

import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, unquote, urljoin

import fsspec
import numpy as np
from PIL import Image

from modeling_ume.images_ume import to_rgb
from modeling_ume.modality_base_ume import Modality
from training_ume.data.images import (
    _inside,
    _Listing,
    _pattern_takes_number,
    infer_image_pattern,
)
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _BadEntry, _short
from training_ume.data.sources.hub import _ImageStore
from training_ume.data.tables.cells import is_picture

WINDOWS_PATH = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\)")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
MAX_IMAGE_BYTES = 2**28
FETCHERS = 8
REMOTE = ("http", "https", "hf", "s3", "gs")  # what a table from elsewhere may name
RECENT = 50_000  # names whose files are remembered: of few pictures, each is sought once


class RowFiles:
    """
    Finds the files of a table that one modality reads.

    Args:
        kind: the modality.
        folder: where names begin, beside the table: a folder, an address, or None.
        images: the folder that the user gives, or None.
        own: whether absolute names may lead anywhere; a table from elsewhere must not.
        cache_dir: where what is no file yet is kept.
        near: folders beside the table that are tried, too.
        patterns: file names of pictures by their ids, e.g. `{image_id:012d}.jpg`; tried first.

    Raises:
        VQADataError: when `images` is no folder.
    """

    def __init__(
        self,
        kind: Modality,
        folder: str | None,
        images,
        own: bool,
        cache_dir,
        near: Sequence[str] = (),
        patterns: Sequence[str] = (),
    ):
        self.kind, self.noun, self.nouns = kind, kind.file_noun, kind.file_nouns
        self.missing, self.broken = f"missing_{kind.noun}", f"broken_{kind.noun}"
        self.ambiguous = f"ambiguous_{kind.noun}"
        self.address = folder if folder and ADDRESS.match(folder) else None
        self.own, self.images = own, images and os.path.abspath(os.path.expanduser(images))
        self.patterns, self.pattern = patterns, None
        if self.images and not os.path.isdir(self.images):
            hint = " Unpack the archive and give the folder." if os.path.isfile(self.images) else " Check the path."
            raise VQADataError(f"The {kind.noun} folder {self.images} does not exist or is not a folder.{hint}")
        beside = [os.path.abspath(folder)] if folder and not self.address else []
        inner = [
            os.path.normpath(os.path.join(root, name))
            for root in beside
            for name in dict.fromkeys((*near, *kind.beside))
        ]
        self.roots = [*beside, *([self.images] if self.images else []), *filter(os.path.isdir, inner)]
        if self.images:
            self.roots += [path for name in near if os.path.isdir(path := os.path.join(self.images, name))]
        self.listing, self.store = _Listing(kind.as_folder), _ImageStore("", None, cache_dir, kind.suffixes)
        self.fetched: dict[str, str | _BadEntry] = {}
        self.elsewhere: dict[str, str] = {}  # file here: the name on another machine that led to it
        self.done: dict[str, str] = {}  # by rule: the sentence that says that names were not taken as they are
        self.recent: dict[str, tuple[str, str]] = {}
        self.source = ""  # where the pictures of a data set by name are from, for messages
        self.ids: list[str] = []  # some of the names, by which a pattern is told

    def find(self, value: Any) -> tuple[str, str]:
        """(absolute path, what the picture is known by); raises `_BadEntry` with what was sought and where."""
        if type(value) is str:
            if value not in self.recent:
                if len(self.recent) >= RECENT:
                    self.recent.clear()
                self.recent[value] = self._find(value)
            return self.recent[value]
        return self._find(value)

    def _find(self, value: Any) -> tuple[str, str]:
        if is_picture(value):
            return self._embedded(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(int(value)) if value == int(value) else str(value)
        if not isinstance(value, str):
            raise _BadEntry(self.missing, f"{_short(value)} is neither {_a(self.noun)} nor the name of one")
        if value.startswith("file://"):
            value = value.removeprefix("file://")
        if ADDRESS.match(value):
            path = self._fetch(value)
        elif self.address and not (self.images and self._known(value)):
            path = self._fetch(urljoin(f"{self.address}/", quote(value)))
        else:
            path = self._known(value)
        if path is None:
            raise _BadEntry(self.missing, self._where(value) + self.source)
        return path, path

    def is_there(self, name: str) -> bool:
        """Whether a name leads to a file."""
        try:
            return not ADDRESS.match(name) and self._known(name) is not None
        except _BadEntry:
            return False

    # ------------------------------------------------------------------------------------------------------- files

    def _known(self, name: str) -> str | None:
        spellings = [name, name.strip(), unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
        foreign = WINDOWS_PATH.match(name) and os.sep == "/"
        if "%" in name:
            spellings.append(unquote(name))
        if "\\" in name and os.sep == "/":
            spellings += [spelling.replace("\\", "/") for spelling in spellings]
        for spelling in dict.fromkeys(spellings):
            if os.path.isabs(spelling):
                if path := self._absolute(spelling):
                    return path
            elif not foreign and (path := self._relative(spelling)):
                return path
        if (foreign or os.path.isabs(name)) and self.images:
            return self._from_another_machine(name)
        return None if foreign else self._completed(name)

    def _absolute(self, name: str) -> str | None:
        if self.own and not self.images:
            path = os.path.normpath(name)
            return path if "\0" not in path and self.listing.has_file(path) else None
        for root in self.roots:
            path = os.path.normpath(name)
            if path.startswith(os.path.join(root, "")) and "\0" not in path and self.listing.has_file(path):
                return path
        return None

    def _relative(self, name: str) -> str | None:
        unsafe = None
        for root in self.roots:
            try:
                path = _inside(root, name)
            except _BadEntry as bad:
                unsafe = bad
                continue
            if self.listing.has_file(path):
                return path
        if unsafe is not None:
            advice = f"give the folder that holds all {self.nouns} as images, and names that begin there"
            raise _BadEntry(unsafe.kind, f"{unsafe.reason}; {advice}")
        return None

    def _from_another_machine(self, name: str) -> str | None:
        """By the longest end of a path that leads to a file in `images`; two paths must not lead to one file."""
        parts = [part for part in re.split(r"[\\/]", name) if part and not part.endswith(":")]
        for start in range(len(parts)):
            path = os.path.normpath(os.path.join(self.images, *parts[start:]))
            if path.startswith(os.path.join(self.images, "")) and self.listing.has_file(path):
                if self.elsewhere.setdefault(path, name) != name:
                    reason = f"{name!r} and {self.elsewhere[path]!r} are of another machine, and both lead to {path}"
                    raise _BadEntry(self.ambiguous, f"{reason}; write names as they are in the folder")
                self.done["elsewhere"] = (
                    f"Names of {self.nouns} are paths of another machine ({name}): the file of the same end in "
                    f"{self.images} counts."
                )
                return path
        return None

    def _completed(self, name: str) -> str | None:
        """A name without its suffix, or the number of a picture in a folder of numbered ones."""
        name = name.strip().replace("\\", "/") if os.sep == "/" else name.strip()
        if os.path.splitext(name)[1].lower() in self.kind.suffixes or not name or os.path.isabs(name):
            return None
        for root in self.roots:
            found = [
                path for end in sorted(self.kind.suffixes) if self.listing.has_file(path := _inside(root, name + end))
            ]
            if len(found) > 1:
                raise _BadEntry(self.ambiguous, f"{name!r} may be {' or '.join(map(os.path.basename, found))}")
            if found:
                self.done["suffix"] = f"Names of {self.nouns} have no suffix ({name}): it is read off the folder."
                return found[0]
        if not name.isascii() or not name.isdecimal():
            return None
        for root in self.roots:
            for pattern in self.patterns:
                path = os.path.join(root, pattern.format(image_id=int(name)))
                if self.listing.has_file(path):
                    return path
        if not self.images:
            return None
        if self.pattern is None:
            try:
                self.pattern = infer_image_pattern(self.images, self.ids or [name], self.kind.suffixes)
            except VQADataError as error:
                raise _BadEntry(self.missing, str(error)) from error
            self.done["pattern"] = (
                f"{self.nouns.capitalize()} are found by their ids, as {self.pattern} in {self.images}."
            )
        numbered = self.pattern.format(image_id=int(name) if _pattern_takes_number(self.pattern) else name)
        return path if self.listing.has_file(path := _inside(self.images, numbered)) else None

    def _where(self, name: str) -> str:
        if WINDOWS_PATH.match(name) and os.sep == "/" and not self.images:
            return f"{name!r} is a path of a Windows machine; give the folder of the {self.nouns} here as images"
        if not self.roots:
            return f"the {self.kind.noun} is only the name {_short(name)}; give the folder that holds it as images"
        if os.path.isabs(name):
            inside = f" inside {self.images}" if self.images else ""
            return f"there is no file {name}{inside}; mend the path, or give the folder that holds it as images"
        for root in self.roots:
            folder, base = os.path.split(os.path.join(root, name.replace("\\", "/")))
            self.listing.has_file(os.path.join(folder, base))
            alike = [other for other in self.listing._names[folder] if other.lower() == base.lower()]
            if alike:
                return f"there is no file {_short(name)} in {folder}, but {alike[0]!r}: mend its capitals"
        sought = " nor in ".join(self.roots[:2])
        advice = "mend the name" if self.images else "mend the name, or give the folder that holds it as images"
        return f"there is no file {_short(name)} in {sought}; {advice}"

    # ------------------------------------------------------------------------------------------ what is no file yet

    def _embedded(self, value: Any) -> tuple[str, str]:
        suffix = ""
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            if content is None and isinstance(path, str) and path:
                return self.find(path)
            value, suffix = content, os.path.splitext(path or "")[1].lower()
        if isinstance(value, np.ndarray):
            if value.dtype != np.uint8:
                raise _BadEntry(self.broken, f"an array of {value.dtype} is no picture: give bytes (uint8)")
            value = Image.fromarray(value)
        if isinstance(value, Image.Image):
            value = _as_png(value)
        if not value:
            raise _BadEntry(self.missing, f"the row's {self.noun} is empty")
        content = bytes(value)
        digest = hashlib.sha256(content).hexdigest()
        return self.store._write(content, digest, suffix), digest

    def prefetch(self, values: Iterable[Any]) -> None:
        """Fetches what is at addresses, several at a time."""
        addresses = {value for value in values if isinstance(value, str) and ADDRESS.match(value)}
        addresses = [a for a in addresses if a not in self.fetched and not a.startswith("file://")]
        if addresses:
            with ThreadPoolExecutor(FETCHERS) as pool:
                self.fetched.update(zip(addresses, pool.map(self._download, addresses), strict=True))

    def _fetch(self, address: str) -> str:
        if address not in self.fetched:
            self.fetched[address] = self._download(address)
        if isinstance(self.fetched[address], _BadEntry):
            raise self.fetched[address]
        return self.fetched[address]

    def _download(self, address: str) -> str | _BadEntry:
        digest = hashlib.sha256(address.encode()).hexdigest()
        if path := self.store.kept(digest):
            return path
        if not self.own and (address.partition("://")[0].lower() not in REMOTE or "::" in address):
            return _BadEntry("unsafe_image_name", f"{address!r} in a table from elsewhere may lead into this machine")
        try:
            with fsspec.open(address, "rb") as remote:
                content = remote.read(MAX_IMAGE_BYTES + 1)
        # Whatever lies behind an address raises what it likes.
        except Exception as error:
            reason = f"the {self.noun} {address} cannot be fetched ({type(error).__name__}: {error})"
            return _BadEntry(self.missing, f"{reason}; check the address, or fetch it and give its path")
        if not content or len(content) > MAX_IMAGE_BYTES:
            return _BadEntry(self.missing, f"at {address} are {len(content)} bytes, which is no {self.noun}")
        return self.store._write(content, digest, os.path.splitext(address.partition("?")[0])[1].lower())


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _as_png(image: Image.Image) -> bytes:
    """A picture in memory as a file; in colours that PNG does not know, as it would be shown."""
    for convert in (lambda: image, lambda: to_rgb(image)):
        file = io.BytesIO()
        try:
            convert().save(file, "PNG")
            return file.getvalue()
        # PIL raises almost anything for a mode that it cannot write or convert, and for a file that is cut off.
        except Exception as error:
            trouble = error
    raise _BadEntry("broken_image", f"the picture in the row cannot be kept ({trouble}); replace it") from trouble
