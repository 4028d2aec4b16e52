"""How an audio encoder is given sounds, how many tokens it makes of them, and how long they may be.

`Hearing` says it, found by the fields that an encoder's config has, never by its name.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from .log_mel_ume import LogMelPatches, makes_patches
from .streams_ume import described

DEFAULT_SECONDS = 30  # what is read of a sound where neither encoder nor caller says it
STATES_A_SECOND = 50  # of Whisper's positions
MASK = "audio_attention_mask"


class Hearing(NamedTuple):
    """
    How an encoder is given sounds.

    Attributes:
        name: what `forward` takes of it.
        shape: of one sound; None: any length.
        masked: whether the encoder itself leaves out what a mask over that length says is padding.
        alone: whether padding changes what it says even so: sounds of one length are read together.
        own: the name of the input in the encoder's own forward.
    """

    name: str
    shape: tuple[int | None, ...]
    masked: bool = False
    alone: bool = False
    own: str | None = None


def hearing(config: PretrainedConfig) -> Hearing | None:
    """How an encoder with this config is given sounds; None for one of something else."""
    if hasattr(config, "conv_stride") and hasattr(config, "conv_kernel"):
        # Where normalisation runs over time (group norm), or convolutions stand upon each other or in coarser steps
        # without a mask between them, what stands behind a sound reaches into it.
        stacked = hasattr(config, "conv_pos_kernel_size") or getattr(config, "squeeze_factor", 1) > 1
        clean = getattr(config, "feat_extract_norm", "group") == "layer" and not stacked
        return Hearing("input_values", (None,), masked=clean, alone=not clean)
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return Hearing("input_features", (config.num_mel_bins, 2 * config.max_source_positions))
    if hasattr(config, "feature_projection_input_dim"):
        return Hearing("input_features", (None, config.feature_projection_input_dim), masked=True)
    if hasattr(config, "num_mel_bins") and hasattr(config, "spec_size"):
        return Hearing("input_features", (4 if config.enable_fusion else 1, None, config.num_mel_bins))
    if hasattr(config, "num_mel_bins") and hasattr(config, "time_stride"):
        return Hearing("input_values", (config.max_length, config.num_mel_bins))
    if getattr(config, "num_channels", None) == 1:
        return Hearing("input_features", (None, 1, LogMelPatches().frames, LogMelPatches().mels), own="pixel_values")
    return None


# ------------------------------------------------------------------------------------------------------------- lengths


def check_lengths(mask, sounds: int, length: int) -> None:
    """Raises ValueError for what is no mask [sounds, length] with the padding behind each sound."""
    if not isinstance(mask, Tensor) or mask.shape != (sounds, length):
        raise ValueError(f"{MASK} is {described(mask)}: give [{sounds}, {length}], 0 for what is padding.")
    if bool((mask[:, 1:].bool() & ~mask[:, :-1].bool()).any()):
        raise ValueError(f"{MASK} has padding before a sound or in it: sounds are to be padded at their end.")


def tokens_of(encoder: PreTrainedModel, lengths: Tensor, length: int, count: int) -> Tensor:
    """How many of `count` tokens are of sounds with these lengths [U] out of `length`."""
    of_convolutions = getattr(encoder, "_get_feat_extract_output_lengths", None)
    if length == count or of_convolutions is None or not hasattr(encoder.config, "conv_stride"):
        return -(-lengths * count // length)
    return of_convolutions(lengths).to(lengths.device)


def least_length(config: PretrainedConfig) -> int:
    """The fewest samples or frames of which an encoder makes a token."""
    if not hasattr(config, "conv_stride"):
        return 1
    least = getattr(config, "squeeze_factor", 1)
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    return least


# ------------------------------------------------------------------------------------------------------------- seconds


def check_seconds(seconds) -> None:
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.1 <= seconds < math.inf
    ):
        raise ValueError(f"audio_seconds={seconds!r} is impossible: it is a number of seconds, 0.1 or more.")


def positions_of(seconds: float, most: int) -> int:
    """Whisper's positions for a window of so many seconds."""
    if seconds != int(seconds) or not 1 <= seconds * STATES_A_SECOND <= most:
        raise ValueError(
            f"audio_seconds={seconds:g} is impossible for an encoder with a window of {most / STATES_A_SECOND:g} "
            f"seconds: give a whole number, 1 … {most // STATES_A_SECOND}."
        )
    return int(seconds) * STATES_A_SECOND


def with_seconds(part, seconds: float | None):
    """The feature extractor, which reads so many seconds of a sound; ValueError for more than its window."""
    check_seconds(seconds)
    if seconds is None:
        return part
    if makes_patches(part):
        return dataclasses.replace(part, audio_seconds=seconds)
    if hasattr(part, "chunk_length"):
        positions_of(seconds, int(part.chunk_length * STATES_A_SECOND))
        return type(part).from_dict({**part.to_dict(), "chunk_length": int(seconds)})
    most = window_of(part)
    if most is not None and seconds > most:
        raise ValueError(
            f"audio_seconds={seconds:g} is impossible: {type(part).__name__} has a window of {most:g} seconds."
        )
    part.audio_seconds = seconds
    return part


def window_of(part) -> float | None:
    """The seconds that a feature extractor hears at most, where it has a window."""
    if hasattr(part, "chunk_length"):
        return part.chunk_length
    if hasattr(part, "max_length_s"):
        return part.max_length_s
    if hasattr(part, "max_length") and hasattr(part, "num_mel_bins"):
        return part.max_length * 0.01 + 0.015  # frames of 25 ms every 10 ms
    return None


def seconds_of(part) -> float:
    """The seconds that are read of a sound."""
    own = window_of(part)
    given = getattr(part, "audio_seconds", None)
    return given if given is not None else DEFAULT_SECONDS if own is None else own


# ------------------------------------------------------------------------------------------------- time and frequency


class Layout(NamedTuple):
    """
    Where in a sound the values of a row are from.

    Attributes:
        time: which frame, or sample, each is of, −1 where it is padding; shaped like the row, as far as they differ.
        band: which band of frequencies, alike; None: samples, which are of all.
        seconds: from one frame, or sample, to the next.
    """

    time: Tensor
    band: Tensor | None
    seconds: float


def layout(way: Hearing, part, values: Tensor, mask: Tensor | None) -> Layout:
    """The layout of a row of inputs, `values`, whose mask is [length] or None, as `part` has made them."""
    rate = part.sampling_rate
    hop = getattr(part, "hop_length", None) or getattr(part, "hop", None)
    seconds = 0.01 if hop is None else hop / rate  # what has no hop of its own goes on by the 10 ms of Kaldi
    if way.shape == (None,):
        return Layout(_until(len(values), _real(mask, len(values))), None, 1 / rate)
    if way.own is not None:
        patches, _, frames, mels = values.shape
        time = torch.arange(patches)[:, None] * part.step + torch.arange(frames)
        time[_real(mask, patches) :] = -1
        return Layout(time[:, None, :, None], torch.arange(mels), seconds)
    if len(way.shape) == 3:
        return Layout(torch.arange(values.shape[1])[:, None], torch.arange(values.shape[2]), seconds)
    if None in way.shape:  # several frames stand side by side
        width = values.shape[1]
        bands = getattr(part, "feature_size", width)
        bands = bands if width % bands == 0 else width
        time = torch.arange(len(values))[:, None] * (width // bands) + torch.arange(width) // bands
        time[_real(mask, len(values)) :] = -1
        return Layout(time, torch.arange(width) % bands, seconds)
    if way.name == "input_features":  # frames stand last
        frames = values.shape[1]
        return Layout(_until(frames, _real(mask, frames)), torch.arange(len(values))[:, None], seconds)
    return Layout(torch.arange(len(values))[:, None], torch.arange(values.shape[1]), seconds)


def within(found: Layout, part, duration: float) -> Layout:
    """The layout of a sound of so many seconds: what stands behind it is padding, whatever the mask says, or, where an
    extractor fills its window by repeating a sound, the sound once more."""
    frames = max(1, math.ceil(round(duration / found.seconds, 6)))
    if getattr(part, "padding", None) == "repeatpad":
        return found._replace(time=found.time % frames)
    return found._replace(time=torch.where(found.time < frames, found.time, -1))


def _real(mask: Tensor | None, length: int) -> int:
    return length if mask is None else max(1, int(mask.sum()))


def _until(length: int, real: int) -> Tensor:
    """0, 1, … and −1 from `real` on."""
    places = torch.arange(length)
    return torch.where(places < real, places, -1)


def band_edges(part, bands: int) -> list[float] | None:
    """The hertz at which each of the bands begins, and the last one ends; None where the extractor does not say."""
    filters = getattr(part, "mel_filters", None)
    if makes_patches(part):
        filters = part.filters(2 ** math.ceil(math.log2(part.window))).numpy()
    if filters is None or np.ndim(filters) != 2 or np.shape(filters)[1] != bands:
        return None
    peaks = np.asarray(filters).argmax(0) * part.sampling_rate / 2 / (len(filters) - 1)
    return [*peaks.tolist(), float(peaks[-1])]
