"""Reading a sound from whatever a user has (a path, an address, bytes, samples) at the rate that a model wants.

Of a long file only what a model hears is read. Packages that are optional, soundfile and soxr, are imported where they
are used.
"""

import io
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from transformers.utils import logging

from .images_ume import download

logger = logging.get_logger(__name__)

LEAST_SECONDS = 0.1  # what a sound is padded to with silence: every extractor and every encoder finds a frame in it
MOST_CHANNELS = 64
FINENESS = 64
LOBES = 32  # zero crossings of the resampling filter on each side of its middle
CHUNK = 2**12  # samples that are resampled at a time


class Samples(NamedTuple):
    """A sound in memory: samples [S] or [S, channels], and how many there are a second (None: as the model wants)."""

    values: np.ndarray
    rate: float | None


class SoundFile(NamedTuple):
    """A sound that lies in a file, of which nothing but the head has been read."""

    path: str | None
    content: bytes | None


def is_sound(value) -> bool:
    """Whether `open_sound` takes it for one sound, be it readable or not; a string is a path."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase, Mapping, Samples, SoundFile)
    return isinstance(value, kinds) or _is_numbers(value) or _is_pair(value) or hasattr(value, "get_all_samples")


def _is_numbers(value) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(number, (int, float)) for number in value)


def _is_pair(value) -> bool:
    """Samples and their rate, in the order of soundfile or of scipy."""
    if not isinstance(value, tuple) or len(value) != 2 or isinstance(value, (Samples, SoundFile)):
        return False
    return sum(map(_is_rate, value)) == 1 and any(_is_numbers(part) for part in value)


def _is_rate(value) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def open_sound(sound, content: bytes | None = None, rate: float | None = None) -> Samples | SoundFile:
    """
    Finds out what a caller means by a sound, and whether it can be read.

    Args:
        sound: the path or http(s) address of a wav, flac, mp3 or ogg file, the bytes of one, a file that is open for
            reading bytes; samples, floating-point in [−1, 1] or whole numbers of 8 to 32 bits, as an array, tensor or
            list [S], [S, channels] or [channels, S]; these with their rate, `(samples, rate)` or
            `{"array": …, "sampling_rate": …}`; the dict `{"bytes": …, "path": …}` of a data set; what `datasets.Audio`
            decodes to.
        content (`bytes`, *optional*): what the file at a local path holds, where it has been read already.
        rate (*optional*): samples a second of samples that come without.

    Raises:
        ValueError: if there is no such file or address, it is no sound, or there is nothing in it.
    """
    name = "The sound"
    try:
        if isinstance(sound, (Samples, SoundFile)):
            return sound
        if isinstance(sound, Mapping):
            sound, rate = _of_dict(sound, rate)
        elif _is_pair(sound):
            sound, rate = sound if _is_rate(sound[1]) else sound[::-1]
        if hasattr(sound, "get_all_samples"):  # a decoder of torchcodec
            decoded = sound.get_all_samples()
            sound, rate = decoded.data, decoded.sample_rate
        if isinstance(sound, (str, os.PathLike)):
            path = os.fspath(sound)
            name = f"The sound {path[:200]!r}"
            if path.startswith(("http://", "https://")):
                content = download(path)
            elif not os.path.isfile(path):
                is_folder = os.path.isdir(path)
                raise FileNotFoundError("it is a folder" if is_folder else "there is no such file; check the path")
            found = SoundFile(path, content)
        elif isinstance(sound, (bytes, bytearray, memoryview)):
            found = SoundFile(None, bytes(sound))
        elif isinstance(sound, io.IOBase):
            found = SoundFile(None, sound.read())
        elif _is_numbers(sound):
            return Samples(_checked(sound), rate if rate is None else _checked_rate(rate))
        else:
            raise TypeError(
                f"it is a {type(sound).__name__}; give a path, the bytes of a file, samples or (samples, rate)"
            )
        with _opened(found) as file:
            if not file.frames:
                raise ValueError("there are no samples in it")
            _checked_rate(file.samplerate)
        return found
    except Exception as error:  # libsndfile has errors of its own
        raise ValueError(f"{name} cannot be read: {_reason(error)}.") from error


def read_sound(sound, rate: int, seconds: float | None = None, own_rate: float | None = None) -> np.ndarray:
    """
    A sound as models hear it: one channel, the mean of all that it has, at one rate.

    Args:
        sound: see `open_sound`.
        rate: samples a second that are wanted.
        seconds (*optional*): what is read of it, from its beginning; with silence it is padded to `LEAST_SECONDS`.
        own_rate (*optional*): samples a second of samples that come without; default: those that are wanted.

    Returns:
        `numpy.ndarray` [S] of float32.

    Raises:
        ValueError: see `open_sound`; and for a file that breaks off, or numbers that are no samples.
    """
    opened = open_sound(sound, rate=own_rate)
    name = "The sound"
    try:
        if isinstance(opened, Samples):
            values, given = opened.values, opened.rate or rate
            whole = len(values) / given
            values = values[: None if seconds is None else math.ceil(seconds * given) + 1]
        else:
            name = name if opened.path is None else f"The sound {opened.path[:200]!r}"
            with _opened(opened) as file:
                given, whole = file.samplerate, file.frames / file.samplerate
                wanted = file.frames if seconds is None else min(file.frames, math.ceil(seconds * given) + 1)
                values = file.read(wanted, dtype="float32", always_2d=True)
            if not len(values):
                raise ValueError("there are no samples in it")
        if values.ndim == 2:
            values = values.mean(axis=1)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are no finite numbers")
        if seconds is not None and whole > seconds + 0.5 / given:
            logger.warning_once(
                f"A sound is longer than the {seconds:g} seconds that are read, from its beginning: give "
                "`audio_seconds` (no more than the window of an encoder that has one), or cut sounds into pieces."
            )
        heard = resample(values, given, rate)
        heard = heard[: None if seconds is None else max(1, round(seconds * rate))]
        return np.pad(heard, (0, max(0, round(LEAST_SECONDS * rate) - len(heard))))
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {_reason(error)}.") from error


def resample(samples: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """
    Samples [S] of one rate at another, float32: by soxr where that is installed, or else by a sinc under a Kaiser
    window (β = 9), whose cut-off is the lower of the two rates' halves.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    if rate == wanted:
        return samples
    try:
        import soxr
    except ImportError:
        return _sinc_resample(samples, rate, wanted)
    heard = soxr.resample(samples, rate, wanted)
    return heard if len(heard) else np.zeros(1, np.float32)


def _sinc_resample(samples: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    count = max(1, math.ceil(len(samples) * wanted / rate))
    share = min(1.0, wanted / rate)  # of the band that is kept
    reach = math.ceil(LOBES / share)
    padded = np.pad(samples, reach)
    heard = np.empty(count, np.float32)
    offsets = np.arange(-reach + 1, reach + 1)
    # The filter between two samples of what there is, finely enough that a straight line joins its values.
    distances = np.linspace(-reach, reach, 2 * reach * FINENESS + 1)
    shape = np.kaiser(len(distances), 9.0)
    weights = share * np.sinc(share * distances) * shape
    for start in range(0, count, CHUNK):
        times = np.arange(start, min(start + CHUNK, count)) * (rate / wanted)  # in samples of what there is
        first = np.floor(times).astype(np.int64)
        places = first[:, None] + offsets
        own = np.interp((times[:, None] - places).ravel(), distances, weights).reshape(places.shape)
        heard[start : start + len(times)] = (own * padded[np.clip(places + reach, 0, len(padded) - 1)]).sum(1)
    return heard


def _opened(sound: SoundFile):
    try:
        import soundfile
    except ImportError as error:
        raise ValueError('sound files are read by the package soundfile: `pip install "ume[audio]"`') from error
    return soundfile.SoundFile(sound.path if sound.content is None else io.BytesIO(sound.content))


def _of_dict(sound: Mapping, rate):
    """Samples and rate, a path or bytes out of a dict of a data set or of transformers' pipelines."""
    for key in ("array", "raw"):
        if sound.get(key) is not None:
            return sound[key], sound.get("sampling_rate", rate)
    held = next((sound[key] for key in ("bytes", "path") if sound.get(key)), None)
    if held is None:
        raise TypeError(
            "it is a dict without samples or a file; give {'array': …, 'sampling_rate': …} or {'bytes': …, 'path': …}"
        )
    return held, rate


def _checked(samples) -> np.ndarray:
    """Samples as floating-point numbers [S] or [S, channels]."""
    values = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
    if values.ndim not in (1, 2) or not values.size:
        shape = list(values.shape)
        raise ValueError(f"it has shape {shape}; give [samples], [samples, channels] or [channels, samples]")
    if values.ndim == 2 and values.shape[0] < values.shape[1]:
        values = values.T
    if values.ndim == 2 and values.shape[1] > MOST_CHANNELS:
        raise ValueError(f"it has {values.shape[1]} channels; give {MOST_CHANNELS} at most")
    if isinstance(samples, list):
        return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype in (np.int8, np.int16, np.int32):
        return values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"its samples are {values.dtype}; give floating-point numbers, or whole ones of 8 to 32 bits")
    return values.astype(np.float32)


def _checked_rate(rate) -> float:
    if not _is_rate(rate) or not math.isfinite(rate) or not 100 <= rate <= 10**7:
        raise ValueError(f"its sampling rate is {rate!r}; give samples a second, such as 16000")
    return rate


def _reason(error: Exception) -> str:
    text = str(error.__cause__ if "cannot be read:" in str(error) and error.__cause__ else error)
    text = " ".join(text.split()).rstrip(".")
    if "Format not recognised" in text:
        return "it is no wav, flac, mp3 or ogg file, or is broken"
    return text or type(error).__name__
