"""Reading a film from whatever a user has (a file, a folder of frames, an array), a few frames evenly spread over it.

Of a long file only what stands around those frames is decoded. PyAV (`av`), which is optional, is imported where it is
used.
"""

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from .images_ume import download, from_array, is_array, is_undecoded, read_image

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Seconds up to which a film is decoded from its beginning: seeking costs a second of decoding or more each time.
SHORT_SECONDS = 20
MOST_COUNTED = 200_000  # frames that are gone through of a file that does not say how long it is


class Film(NamedTuple):
    """A film of which nothing is decoded yet: its frames in order, or the file that it is."""

    frames: list | None = None
    path: str | None = None
    content: bytes | None = None


def is_film(value) -> bool:
    """Whether `open_film` takes it for one film, be it readable or not; a string is a path."""
    if (
        isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase))
        or is_undecoded(value)
        or _is_opened(value)
    ):
        return True
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim <= 4
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_frame, value))


def _is_opened(value) -> bool:
    """Whether it is a `Film`, told by its name: a checkpoint's code may be loaded twice, as `makes_patches` says."""
    return type(value).__name__ == Film.__name__


def _is_frame(value) -> bool:
    return isinstance(value, Image.Image) or (is_array(value) and value.ndim <= 3)


def open_film(film, content: bytes | None = None) -> Film:
    """
    Finds out what a caller means by a film, and whether it can be read.

    Args:
        film: the path or http(s) address of a film file, a folder of pictures (frames in the order of their names,
            numbers counting as numbers), the bytes of a file, the dict `{"bytes": …, "path": …}` of a data set, an
            array or tensor of bytes (uint8) [T, H, W, 3] or [T, 3, H, W], or a list of frames, PIL images or arrays.
        content (`bytes`, *optional*): what the file at a local path holds, where it has been read already.

    Raises:
        ValueError: if there is no such file, folder or address, or it holds no frame.
    """
    name = "The film"
    try:
        if _is_opened(film):
            return film
        if is_undecoded(film):
            film = film["bytes"] if film.get("bytes") else film["path"]
        if isinstance(film, (str, os.PathLike)):
            path = os.fspath(film)
            name = f"The film {path[:200]!r}"
            if path.startswith(("http://", "https://")):
                return _checked(Film(content=download(path)))
            if os.path.isdir(path):
                frames = sorted((file for file in Path(path).iterdir() if _is_picture(file)), key=_by_number)
                if not frames:
                    raise ValueError(f"the folder holds no pictures ({', '.join(PICTURES)})")
                return Film(frames=frames)
            if not os.path.isfile(path):
                raise FileNotFoundError("there is no such file or folder; check the path")
            if path.lower().endswith(PICTURES) and not path.lower().endswith(".gif"):
                return Film(frames=[path])
            return _checked(Film(path=path, content=content))
        if isinstance(film, (bytes, bytearray, memoryview)):
            return _checked(Film(content=bytes(film)))
        if isinstance(film, io.IOBase):
            return _checked(Film(content=film.read()))
        if isinstance(film, (np.ndarray, torch.Tensor)):
            if film.ndim == 3:
                film = film[None]
            if film.ndim != 4 or not len(film):
                raise ValueError(f"it has shape {list(film.shape)}; give [frames, height, width, 3] of bytes")
            return Film(frames=list(film))
        if isinstance(film, (list, tuple)) and film:
            return Film(frames=list(film))
        raise TypeError(
            f"it is a {type(film).__name__}; give a path, a folder of frames, an array or a list of frames"
        )
    except Exception as error:  # decoders have errors of their own
        raise ValueError(f"{name} cannot be read: {_reason(error)}.") from error


def read_film(film, count: int) -> list[Image.Image]:
    """
    Frames of a film, evenly spread: of `count` equal stretches the middle of each.

    Args:
        film: see `open_film`.
        count: how many are wanted; of a shorter film there are fewer.

    Returns:
        Upright RGB pictures, at least one.

    Raises:
        ValueError: see `open_film`; and for a file that breaks off before the first of them.
    """
    opened = open_film(film)
    name = "The film" if opened.path is None else f"The film {opened.path[:200]!r}"
    try:
        if opened.frames is None:
            return _of_file(opened, count)
        there = len(opened.frames)
        chosen = (opened.frames[place] for place in places(there, count))
        return [_picture(frame) for frame in chosen]
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {_reason(error)}.") from error


def places(there: int, count: int) -> list[int]:
    """Which of the frames that are there stand in the middle of `count` equal stretches; all where there are fewer."""
    if there <= count:
        return list(range(there))
    return [int((number + 0.5) * there / count) for number in range(count)]


def _picture(frame) -> Image.Image:
    if is_array(frame):
        found = from_array(frame)
        if len(found) != 1 or not isinstance(found[0], Image.Image):
            raise TypeError(f"a frame is an array of {frame.dtype}; give bytes (uint8)")
        return found[0]
    return read_image(frame)


def _of_file(film: Film, count: int) -> list[Image.Image]:
    with _opened(film) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        base = float(stream.time_base or 0)
        first = (stream.start_time or 0) * base
        seconds = float(stream.duration * base) if stream.duration else (container.duration or 0) / 1_000_000
        if seconds > SHORT_SECONDS and base:
            return _by_seeking(container, stream, [first + (n + 0.5) * seconds / count for n in range(count)], base)
        total = stream.frames or 0
    if not 0 < total <= MOST_COUNTED:
        with _opened(film) as container:  # only its head says how many: the packets are counted, not decoded
            packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
            total = sum(1 for _, packet in zip(range(MOST_COUNTED), packets, strict=False))
    wanted, found = set(places(total, count)), {}
    with _opened(film) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found[number] = _upright(frame)
            last = frame
            if len(found) == len(wanted):
                break
        if not found and total:
            found[0] = _upright(last)  # fewer frames than were promised
    return [found[number] for number in sorted(found)]


def _by_seeking(container, stream, times: list[float], base: float) -> list[Image.Image]:
    found = []
    for time in times:
        container.seek(int(time / base), stream=stream)
        nearest = None
        for frame in container.decode(stream):
            nearest = frame
            if frame.time is None or frame.time >= time:
                break
        if nearest is not None:
            found.append(_upright(nearest))
    if not found:
        raise ValueError("no frame of it can be decoded")
    return found


def _upright(frame) -> Image.Image:
    picture = frame.to_image()
    turned = getattr(frame, "rotation", 0) or 0
    return picture.rotate(turned, expand=True) if turned else picture.convert("RGB")


def _opened(film: Film):
    try:
        import av
    except ImportError as error:
        raise ValueError('film files are read by the package av (PyAV): `pip install "ume[video]"`') from error
    return av.open(film.path if film.content is None else io.BytesIO(film.content), mode="r")


def _checked(film: Film) -> Film:
    with _opened(film) as container:
        if not container.streams.video:
            raise ValueError("there are no pictures in it, only sound")
        if next(container.decode(video=0), None) is None:
            raise ValueError("there is no frame in it")
    return film


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and not file.name.startswith(".")


def _by_number(file: Path) -> list:
    """frame_10 comes after frame_9."""
    parts, digits = [], ""
    for sign in f"{file.name}\0":
        if sign.isdecimal():
            digits += sign
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, sign))
    return parts


def _reason(error: Exception) -> str:
    text = str(error.__cause__ if "cannot be read:" in str(error) and error.__cause__ else error)
    text = " ".join(text.split()).rstrip(".")
    if "Invalid data found" in text or type(error).__name__ == "InvalidDataError":
        return "it is no film that FFmpeg knows, or is broken"
    return text or type(error).__name__
