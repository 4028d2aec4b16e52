"""How an audio encoder is given sounds, how many tokens it makes of them, and how long they may be.

`Hearing` says it, found by the fields that an encoder's config has, never by its name.
"""

import dataclasses
import math
from typing import NamedTuple

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from .log_mel_ume import LogMelPatches
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
    if isinstance(part, LogMelPatches):
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
