"""Log-mel patches, for encoders of images that were trained on sound, one channel a picture, as YAMNet was."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass
class LogMelPatches:
    r"""
    Cuts a sound into patches of its spectrogram, log(|STFT| · M + offset), M [bins, mels] triangular filters, equally
    wide in mel = 1127 · ln(1 + hertz / 700). The defaults are YAMNet's: patches of 0.96 s, one every 0.48 s.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000): samples a second.
        window, hop (`int`, *optional*, default to 400 and 160): samples of a frame, and from one frame to the next.
        mels (`int`, *optional*, defaults to 64): filters, which is the width of a patch.
        lowest, highest (`float`, *optional*, default to 125 and 7500): where the filters begin and end, in hertz.
        offset (`float`, *optional*, defaults to 0.001): what silence is, before the logarithm.
        frames, step (`int`, *optional*, default to 96 and 48): frames of a patch, and from one patch to the next.
        audio_seconds (`float`, *optional*, defaults to 30): what is read of a sound, from its beginning.
    """

    sampling_rate: int = 16000
    window: int = 400
    hop: int = 160
    mels: int = 64
    lowest: float = 125.0
    highest: float = 7500.0
    offset: float = 0.001
    frames: int = 96
    step: int = 48
    audio_seconds: float = 30

    def __call__(self, sounds: list[np.ndarray]) -> dict[str, Tensor]:
        """
        Args:
            sounds: U sounds [S_i], each padded with silence to a whole patch.

        Returns:
            `dict`: `input_features` [U, P, 1, frames, mels] and `audio_attention_mask` [U, P], 0 for what pads a sound
            to the number of patches of the longest.
        """
        patches = [self.patches(sound) for sound in sounds]
        longest = max(map(len, patches))
        features = torch.stack([torch.cat([p, p.new_zeros(longest - len(p), *p.shape[1:])]) for p in patches])
        mask = torch.arange(longest) < torch.tensor([len(p) for p in patches])[:, None]
        return {"input_features": features, "audio_attention_mask": mask.long()}

    def patches(self, sound: np.ndarray) -> Tensor:
        """A sound [S] → its patches [P, 1, frames, mels]; what is left over after the last whole one is not heard."""
        least = self.window + (self.frames - 1) * self.hop
        samples = torch.from_numpy(np.pad(np.asarray(sound, np.float32), (0, max(0, least - len(sound)))))
        points = 2 ** math.ceil(math.log2(self.window))
        frames = samples.unfold(0, self.window, self.hop) * torch.hann_window(self.window)
        spectrum = torch.fft.rfft(frames, points).abs() @ self.filters(points)
        return torch.log(spectrum + self.offset).unfold(0, self.frames, self.step).transpose(1, 2)[:, None]

    def filters(self, points: int) -> Tensor:
        """The triangles [points / 2 + 1, mels] over the bins of a transform of so many points."""

        def mel(hertz):
            return 1127 * np.log1p(np.asarray(hertz) / 700)

        bins = mel(np.linspace(0, self.sampling_rate / 2, points // 2 + 1))[:, None]
        edges = np.linspace(mel(self.lowest), mel(self.highest), self.mels + 2)
        below, middle, above = edges[:-2], edges[1:-1], edges[2:]
        weights = np.minimum((bins - below) / (middle - below), (above - bins) / (above - middle)).clip(0)
        weights[0] = 0  # the constant part of a sound is not heard
        return torch.from_numpy(weights.astype(np.float32))

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "LogMelPatches":
        """
        Raises:
            ValueError: for a field that this release does not know.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        strange = [name for name in fields if name not in known]
        if strange:
            raise ValueError(f"LogMelPatches has no field {strange[0]!r}: it has {', '.join(known)}.")
        return cls(**fields)


def makes_patches(part) -> bool:
    """Whether a part of a processor is `LogMelPatches`, told by its name: the code that travels with a checkpoint may
    be loaded twice, with the model and with its pipeline, and then there are two classes of that name."""
    return type(part).__name__ == LogMelPatches.__name__
