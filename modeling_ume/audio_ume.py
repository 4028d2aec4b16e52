"""Sound: what an audio encoder is given, and how its output becomes tokens of which padding is none."""

import copy
import inspect
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    ClapFeatureExtractor,
    PretrainedConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .hearing_ume import (
    MASK,
    STATES_A_SECOND,
    Hearing,
    band_edges,
    check_lengths,
    check_seconds,
    hearing,
    layout,
    least_length,
    positions_of,
    seconds_of,
    tokens_of,
    with_seconds,
    within,
)
from .log_mel_ume import LogMelPatches, makes_patches
from .modality_base_ume import Modality, Setting, Size
from .padding_ume import padded_rows, read_in_groups
from .parts_ume import Axis, Parts, between, cells_of, stretches
from .sounds_ume import is_sound, open_sound, read_sound
from .streams_ume import Stream, described
from .trust_ume import ForeignCodeError, load_trusted

# Of a pretrained encoder of pictures of sound: batch norms keep the statistics that its weights were made for, which
# may have been folded into them.
HELD = "holds_statistics"
STRETCHES, BANDS = 16, 8  # of time and of frequency, which an explanation tells apart
PICTURE_WINDOW = 0.025  # seconds of a frame, where a spectrogram is made to be looked at


class Audio(Modality):
    """Sounds: any audio `AutoModel`, the encoder of Whisper, or an encoder of one-channel pictures of sound."""

    name = "audio"
    noun = "sound"
    called = "audio"
    aliases = ("sound", "speech")
    inputs = ("input_features", MASK)
    instead = later_inputs = ("input_values",)
    part = "feature_extractor"
    part_classes = (LogMelPatches,)
    part_settings = ("audio_seconds",)
    settings = (
        Setting(
            "audio_seconds", float | None, "What is read of a sound, from its beginning, in seconds; the window of an "
            "encoder that has one (Whisper's) is cut to it, which is that much faster."
        ),
        Setting(
            "audio_layer", int | None, "Read the audio encoder after so many of its layers; the others are left out."
        ),
    )  # fmt: skip
    in_files = feature_maps = True
    file_noun = "sound file"
    column_names = (
        ("wav", "sound", "audio_file", "audio_path", "audio_filename"), ("speech", "recording", "voice"),
    )  # fmt: skip
    suffixes = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au")
    begins = rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xe2-\xff]|FORM....AIF"
    beside = ("audio", "wav", "wavs", "sounds", "clips", "recordings", "audio_files")
    marks = ("conv_kernel", "num_mel_bins", "feature_projection_input_dim")
    shard_rows, batch_rows = 128, 16
    reads = "a model that reads sounds"
    hub_classes, shown_as = "audio-classification", "Audio"
    packages = ("soundfile", "soxr")
    code = '"sound.wav"'

    # ----------------------------------------------------------------------------------------------------- the config

    def shows(self, config):
        return super().shows(config) or hearing(config) is not None

    def own_input(self, config, arguments):
        way = hearing(config)
        own = None if way is None else way.own or way.name
        return own if own in arguments else None

    def example(self, config, rows=1):
        way = hearing(config)
        # Of what has any length, enough for a second.
        shape = [size or {1: 16000, 2: 100, 3: 1001, 4: 1}[len(way.shape)] for size in way.shape]
        return {way.name: torch.empty(rows, *shape, device="meta")}

    def fit_config(self, config, settings):
        """The config of an encoder that reads less: `audio_seconds` cuts Whisper's positions, `audio_layer` layers.

        Raises:
            ValueError: for a length or a layer that the encoder does not have.
        """
        seconds, layer = settings.get("audio_seconds"), settings.get("audio_layer")
        check_seconds(seconds)
        way = hearing(config)
        holds = settings.get("audio_model") is not None and way is not None and way.own is not None
        if seconds is None and layer is None and not holds:
            return config
        config = copy.deepcopy(config)
        if holds:
            setattr(config, HELD, True)
        if seconds is not None and hasattr(config, "max_source_positions"):
            config.max_source_positions = positions_of(seconds, config.max_source_positions)
        if layer is not None:
            fields = [name for name in ("num_hidden_layers", "encoder_layers") if hasattr(config, name)]
            most = min((getattr(config, name) for name in fields), default=0)
            if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= most:
                has = f"has {most} layers: give 1 … {most}" if most else "does not say how many layers it has"
                raise ValueError(f"audio_layer={layer!r} is impossible: the encoder {config.model_type!r} {has}.")
            for name in fields:
                setattr(config, name, layer)
        return config

    # ------------------------------------------------------------------------------------------------------- reading

    def check(self, adapter, encoder, inputs):
        way, given = hearing(encoder.config), self.given(inputs)
        for name in given:
            if name not in (way.name, self.states):
                raise ValueError(
                    f"{name} was given, but the audio encoder {encoder.config.model_type!r} reads {way.name}: prepare "
                    "sounds with the feature extractor that belongs to it."
                )
        values, mask = inputs.get(way.name), inputs.get(MASK)
        if values is not None:
            wanted = ", ".join("length" if size is None else str(size) for size in way.shape)
            fits = isinstance(values, Tensor) and values.is_floating_point() and values.ndim == len(way.shape) + 1
            if not (
                fits
                and len(values)
                and all(n > 0 and size in (None, n) for n, size in zip(values.shape[1:], way.shape, strict=True))
            ):
                raise ValueError(
                    f"{way.name} is {described(values)}: give floating-point numbers [sounds, {wanted}] of one sound "
                    "or more, as the feature extractor makes them."
                )
            if mask is not None:
                check_lengths(mask, len(values), self.length(way, values))
        self.check_index(inputs)
        self.check_mask(inputs)

    def length(self, way: Hearing, values: Tensor) -> int:
        """What a mask of these inputs counts: samples, frames or patches."""
        return values.shape[1 + way.shape.index(None) if None in way.shape else -1 if self.is_window(way) else 1]

    @staticmethod
    def is_window(way: Hearing) -> bool:
        """Whether frames stand last, as Whisper has them."""
        return way.name == "input_features" and len(way.shape) == 2 and None not in way.shape

    def prepare(self, encoder, inputs):
        name = hearing(encoder.config).name
        value = inputs.get(name)
        return inputs if value is None else {**inputs, name: value.to(encoder.dtype)}

    def graph_sizes(self, config):
        way = hearing(config)
        if self.is_window(way):
            return {way.name: {}, MASK: {}}
        any_length = None in way.shape and len(way.shape) != 3
        # A graph takes it that there are two tokens or more; a sound is longer, see LEAST_SECONDS.
        least = max(2, least_length(config) + math.prod(getattr(config, "conv_stride", ())))
        return {way.name: {1 + way.shape.index(None): Size("length", least)} if any_length else {}}

    def encoder_inputs(self, encoder, arguments, inputs):
        way = hearing(encoder.config)
        values = inputs[way.name]
        if way.own is not None:
            return {way.own: values.flatten(0, 1)}
        given = {way.name: values}
        if way.masked and inputs.get(MASK) is not None:
            given["attention_mask"] = inputs[MASK]
        if "is_longer" in arguments and getattr(encoder.config, "enable_fusion", False):
            # A sound is cut to the window before, so that none is.
            given["is_longer"] = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
        return given

    def tokens(self, config, outputs: ModelOutput, inputs: dict):
        states = outputs.last_hidden_state
        if states.ndim == 4:  # a feature map [U, D, H, W]
            return states.flatten(2).transpose(1, 2), 0, None
        special = 0
        if hasattr(config, "time_stride"):  # patches of a spectrogram behind a class token and one of distillation
            patch = config.patch_size
            rows = (config.num_mel_bins - patch) // config.frequency_stride + 1
            special = states.shape[1] - rows * ((config.max_length - patch) // config.time_stride + 1)
        return states, special, None

    def read(self, adapter, encoder, inputs, record=None):
        """As the base class, sounds of different lengths apart where padding would change what the encoder says."""
        way = hearing(encoder.config)
        values, mask = inputs[way.name], inputs.get(MASK)
        if way.own is not None:
            return self.read_patches(adapter, encoder, values, mask, record)
        if None not in way.shape or len(way.shape) == 3:
            outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, inputs), record)
            return self.heard(adapter, encoder, outputs, mask if self.is_window(way) else None), outputs
        least = least_length(encoder.config)
        if values.shape[1] < least:
            room = least - values.shape[1]
            values = F.pad(values, (0, 0, 0, room) if values.ndim == 3 else (0, room))
            mask = mask if mask is None else F.pad(mask, (0, room))
            if mask is None:  # silence is added, and is none of the sound
                mask = (torch.arange(least, device=values.device) < least - room).long().expand(len(values), -1)
        if mask is not None:
            lengths = mask.long().sum(1)
            if way.alone and int(lengths.clamp(min=least).min()) < values.shape[1]:
                if any((record or {}).values()):
                    raise ValueError(
                        f"The audio encoder {encoder.config.model_type!r} reads sounds of different lengths one "
                        "length at a time, and their inner states do not fit into one tensor: ask for "
                        "output_hidden_states and output_attentions with sounds of one length."
                    )
                kept = lengths.clamp(min=least).tolist()

                def read(rows: list[int], length: int) -> Stream:
                    given = {way.name: values[rows][:, :length], MASK: mask[rows][:, :length]}
                    outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, given))
                    return self.heard(adapter, encoder, outputs, given[MASK], length)

                stream = read_in_groups(read, kept)
                return stream, BaseModelOutput(last_hidden_state=stream.states)
            # Attention over nothing at all would be NaN, in a row that has no sound.
            attended = torch.arange(values.shape[1], device=values.device) < lengths.clamp(min=least)[:, None]
            inputs = {way.name: values, MASK: attended.long()}
        else:
            inputs = {way.name: values}
        outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, inputs), record)
        return self.heard(adapter, encoder, outputs, mask, values.shape[1]), outputs

    def heard(self, adapter, encoder, outputs, mask: Tensor | None, length: int | None = None) -> Stream:
        """The stream of what an encoder returned, by the mask of its inputs, which has `length` places."""
        states, special, _ = self.tokens(encoder.config, outputs, {})
        count = states.shape[1]
        real = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if mask is not None and length is None:
            real = mask[:, :: max(1, mask.shape[1] // count)][:, :count].bool()
        elif mask is not None:
            lengths = mask.long().sum(1)
            steps = tokens_of(encoder, lengths, length, count)
            real = torch.arange(count, device=states.device) < torch.where(lengths > 0, steps.clamp(min=1), 0)[:, None]
        content = real.clone()
        content[:, :special] = False
        pooled = adapter.pool(outputs, states, real, content)
        return Stream(states, real, pooled, real.any(1), modality=self.name)

    def read_patches(
        self, adapter, encoder, values: Tensor, mask: Tensor | None, record
    ) -> tuple[Stream, ModelOutput]:
        """Sounds [U, P, 1, frames, mels] by an encoder of pictures, which sees one patch at a time."""
        if getattr(encoder.config, HELD, False):
            for module in encoder.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()
        sounds, patches = values.shape[:2]
        real = values.new_ones(sounds, patches, dtype=torch.bool) if mask is None else mask.bool()
        # Padding would count in the statistics of a batch. Of a sound without any patch one is read, to be left out.
        read = real | (torch.arange(patches, device=values.device) == 0)
        given = self.encoder_inputs(encoder, adapter.arguments, {self.main_input: values[read][:, None]})
        outputs = adapter.run(encoder, given, record)
        said, _, _ = self.tokens(encoder.config, outputs, {})  # [P', N, D]
        states = said.new_zeros(sounds, patches, *said.shape[1:])
        states[read] = said
        tokens = real[:, :, None].expand(states.shape[:3]).flatten(1)
        pooled = outputs.get("pooler_output")
        if pooled is not None:
            pooled = pooled.flatten(1)
            own = pooled.new_zeros(sounds, patches, pooled.shape[1])
            own[read] = pooled
            pooled = (own * real[..., None]).sum(1) / real.sum(1).clamp(min=1)[:, None]
        together = BaseModelOutputWithPooling(last_hidden_state=states.flatten(1, 2), pooler_output=pooled)
        summary = adapter.pool(together, together.last_hidden_state, tokens, tokens)
        for name in ("hidden_states", "attentions"):
            if outputs.get(name):
                together[name] = outputs[name]
        return Stream(together.last_hidden_state, tokens, summary, real.any(1), modality=self.name), together

    # ---------------------------------------------------------------------------------------------------- processing

    def load_part(self, name, settings, **hub):
        """A pretrained audio encoder's own feature extractor; of one that reads one-channel pictures, log-mel patches.

        Raises:
            ValueError: where there is none, or it cannot hear so long.
        """
        try:
            fields = PretrainedConfig.get_config_dict(name, **hub)[0]
            if fields.get("num_channels") == 1 and not any(mark in fields for mark in self.marks):
                part = LogMelPatches()
            else:
                part = load_trusted(AutoFeatureExtractor.from_pretrained, name, **hub)
        except ForeignCodeError:
            raise
        except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
            raise ValueError(
                f"No feature extractor can be loaded from {name!r}: a folder needs its preprocessor_config.json, a "
                f"Hub repository must be one of an audio model ({str(error).strip().partition(chr(10))[0]})."
            ) from error
        return with_seconds(part, settings.get("audio_seconds"))

    def new_part(self, config, settings):
        way = hearing(config)
        if way is None:
            raise ValueError(f"audio_config of {config.model_type!r} is of no encoder of sounds: choose {self.reads}.")
        seconds = settings.get("audio_seconds")
        if way.own is not None:
            part = LogMelPatches()
        elif way.shape == (None,):
            part = Wav2Vec2FeatureExtractor(return_attention_mask=way.masked)
        elif self.is_window(way):
            window = way.shape[1] / 2 / STATES_A_SECOND
            if window != int(window):
                raise ValueError(
                    f"max_source_positions={config.max_source_positions} is no whole number of seconds: give a "
                    f"multiple of {STATES_A_SECOND}."
                )
            part = WhisperFeatureExtractor(feature_size=way.shape[0], chunk_length=int(window))
        elif hasattr(config, "feature_projection_input_dim"):
            mels = config.feature_projection_input_dim // 2
            part = SeamlessM4TFeatureExtractor(feature_size=mels, num_mel_bins=mels)
        elif len(way.shape) == 3:
            kind = "fusion" if config.enable_fusion else "rand_trunc"
            part = ClapFeatureExtractor(feature_size=config.num_mel_bins, truncation=kind)
        else:
            part = ASTFeatureExtractor(max_length=config.max_length, num_mel_bins=config.num_mel_bins)
        return with_seconds(part, seconds)

    def check_part(self, part):
        if not makes_patches(part) and getattr(part, "sampling_rate", None) is None:
            raise ValueError(f"{type(part).__name__} is no feature extractor of sounds: it has no sampling_rate.")

    def option_names(self, part):
        if makes_patches(part):
            return {"sampling_rate", "return_tensors"}
        own = inspect.signature(type(part).__call__).parameters.values()
        own = {p.name for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        return (own | {"sampling_rate", "return_tensors"}) - {"self", "raw_speech", "return_attention_mask", "device"}

    def process(self, part, values, **options):
        values = [values] if is_sound(values) else values
        if not isinstance(values, (list, tuple)) or not len(values):
            raise ValueError(
                f"audio must be a sound or a list of sounds that is not empty, not {str(values)[:80]}: a path, the "
                "bytes of a file, samples, or (samples, rate)."
            )
        return_tensors = options.pop("return_tensors", "pt")
        sounds = [open_sound(sound, rate=options.get("sampling_rate")) for sound in values]
        batch = self.collate(part, sounds, **options)
        if return_tensors == "pt":
            return batch
        arrays = {name: value.numpy() for name, value in batch.items()}
        return arrays if return_tensors == "np" else {name: value.tolist() for name, value in arrays.items()}

    def made_up(self, config, part, number=0):
        """A tone with noise, as long as nothing else, at the rate that is wanted."""
        times = torch.arange(int(part.sampling_rate * (0.7, 1.0, 0.45)[number % 3])) / part.sampling_rate
        noise = torch.randn(len(times), generator=torch.Generator().manual_seed(number))
        return 0.3 * torch.sin(2 * torch.pi * (220 + 110 * number) * times) + 0.05 * noise

    def open(self, cell, content=None):
        return open_sound(cell, content)

    def collate(self, part, values, sampling_rate=None, **options):
        """Sounds → `input_values` or `input_features` as the encoder reads them, and which of them is padding."""
        seconds = seconds_of(part)
        sounds = [read_sound(sound, part.sampling_rate, seconds, sampling_rate) for sound in values]
        if makes_patches(part):
            return part(sounds)
        taken = inspect.signature(type(part).__call__).parameters
        if "padding" in taken and taken["padding"].default is False:
            options = {"padding": True, **options}
        if "return_attention_mask" in taken:
            options["return_attention_mask"] = True
        found = part(sounds, sampling_rate=part.sampling_rate, return_tensors="pt", **options)
        batch = {name: found[name].float() for name in ("input_values", "input_features") if name in found}
        if "attention_mask" in found:
            batch[MASK] = found["attention_mask"].long()
        return batch

    def apart(self, batch):
        name = next(name for name in (*self.instead, self.main_input) if name in batch)
        values, mask = batch[name], batch.get(MASK)
        if mask is None:
            return [{name: row} for row in values]
        if mask.shape[1] != values.shape[1]:  # a window, whose frames stand last
            return [{name: row, MASK: real} for row, real in zip(values, mask, strict=True)]
        return [{name: row[: max(1, n)]} for row, n in zip(values, mask.sum(1).tolist(), strict=True)]

    def together(self, rows):
        name = next(name for name in rows[0] if name != MASK)
        if MASK in rows[0]:
            return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        values, mask = padded_rows([row[name] for row in rows])
        return {name: values} if mask is None else {name: values, MASK: mask}

    # -------------------------------------------------------------------------------------------------- explanations

    def parts(self, part, config, cell, inputs):
        """Time × frequency of what the encoder reads, of one that reads samples time alone. A part that is taken away
        is as loud as the whole sound is on average; of samples that is silence."""
        way = hearing(config)
        values, mask = inputs[way.name][0].detach().float().cpu(), inputs.get(MASK)
        heard = read_sound(cell, part.sampling_rate, seconds_of(part))
        found = layout(way, part, values, None if mask is None else mask[0].cpu())
        time, band, seconds = within(found, part, len(heard) / part.sampling_rate)
        stretch = cells_of(int(time.max()) + 1, STRETCHES)
        times = stretches("time", stretch, seconds, "s")
        real = (time >= 0).expand(values.shape)
        blank = torch.full_like(values, values[real].mean())
        of = torch.where(time < 0, -1, stretch[time.clamp(min=0)])
        if band is None:
            picture = _spectrogram(values[real], part.sampling_rate)
            return Parts((times,), {way.name: of}, {way.name: blank}, "map", picture)
        bands = int(band.max()) + 1
        row = cells_of(bands, BANDS)
        edges = band_edges(part, bands)
        starts = [int((row == number).nonzero()[0]) for number in range(int(row[-1]) + 1)]
        unit = "band" if edges is None else "Hz"
        edges = [float(start if edges is None else edges[start]) for start in (*starts, bands)]
        of = torch.where(of < 0, -1, row[band] * len(times.labels) + of)
        picture = torch.full((bands, len(stretch)), float(values[real].min()))
        band, time = band.expand(values.shape), time.expand(values.shape)
        picture[band[real], time[real]] = values[real]
        axes = (Axis("frequency", between(edges, unit), edges, unit), times)
        return Parts(axes, {way.name: of}, {way.name: blank}, "map", picture.numpy())


def _spectrogram(samples: Tensor, rate: int):
    """Samples [S] → their logarithmic spectrogram [frequencies, frames], the lowest first, to be looked at."""
    window = max(16, int(rate * PICTURE_WINDOW))
    samples = F.pad(samples, (0, max(0, window - len(samples))))
    spectrum = torch.stft(samples, window, window // 2, window=torch.hann_window(window), return_complex=True)
    loudness = torch.log(spectrum.abs() + 1e-5)
    return loudness.clamp(min=float(loudness.max()) - 9).numpy()
