"""Films: what a video encoder is given, and how an encoder of pictures reads a film, frame by frame."""

import copy
import dataclasses
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig
from transformers.image_processing_utils import ImageProcessingMixin
from transformers.modeling_outputs import BaseModelOutput

from .films_ume import is_film, open_film, read_film
from .images_ume import process_images
from .modality_base_ume import Modality, Setting
from .padding_ume import padded_rows
from .parts_ume import Parts, numbered
from .streams_ume import Stream, described
from .trust_ume import load_trusted, read_quietly
from .vision_ume import Vision, image_inputs, image_size, image_tokens

DEFAULT_FRAMES = 8  # of a film that an encoder of pictures reads
FRAMES = ("num_frames", "frames_per_clip")  # what configs call the frames that an encoder of films is made for
FRAME_MASK = "video_frame_mask"
FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
PATCHES = 4  # a side of a frame, which an explanation tells apart
PICTURES = Vision()


def own_frames(config) -> int | None:
    """How many frames an encoder of films is made for; None for one of pictures."""
    return next((getattr(config, name) for name in FRAMES if hasattr(config, name)), None)


def settle_frames(config, frames: int | None) -> int:
    """How many frames an encoder is given of a film; ValueError for a number that it cannot take."""
    most = own_frames(config)
    if frames is None:
        return most or DEFAULT_FRAMES
    step = getattr(config, "tubelet_size", 1)
    step = step if isinstance(step, int) else step[0]
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ValueError(f"video_frames={frames!r} is impossible: it is a number of frames, 1 or more.")
    if most is not None and (frames > most or frames % step):
        multiple = "" if step == 1 else f", a multiple of {step}"
        raise ValueError(
            f"video_frames={frames} is impossible for the encoder {config.model_type!r}, which was made for {most}: "
            f"give {step} … {most}{multiple}."
        )
    return frames


@dataclasses.dataclass
class FilmFrames:
    """
    What prepares films: a few frames, evenly spread, by an image processor.

    Args:
        image_processor: one of transformers', or the dict that one is made of.
        frames (`int`): how many are taken.
        fixed (`bool`): whether an encoder needs as many: those of a shorter film are repeated.
    """

    image_processor: Any
    frames: int = DEFAULT_FRAMES
    fixed: bool = False

    def __post_init__(self):
        if isinstance(self.image_processor, dict):
            named = self.image_processor.get("image_processor_type")
            found = getattr(transformers, str(named), None)
            if not (isinstance(found, type) and issubclass(found, ImageProcessingMixin)):
                raise ValueError(
                    f"The image processor of films is a {named!r}, which this release of transformers does not have: "
                    "save the processor again."
                )
            self.image_processor = found.from_dict(self.image_processor)

    def to_dict(self) -> dict:
        return {"image_processor": self.image_processor.to_dict(), "frames": self.frames, "fixed": self.fixed}

    @classmethod
    def from_dict(cls, fields: dict) -> "FilmFrames":
        return cls(**fields)

    def __call__(self, films: list, **options) -> dict[str, Tensor]:
        """
        V films → `pixel_values_videos` [V, T, 3, H, W] and, where some have fewer frames, `video_frame_mask` [V, T].

        Raises:
            ValueError: see `read_film`.
        """
        taken = [read_film(film, self.frames) for film in films]
        if self.fixed:
            taken = [[film[n * len(film) // self.frames] for n in range(self.frames)] for film in taken]
        pixels = process_images(
            self.image_processor, [frame for film in taken for frame in film], return_tensors="pt", **options
        )
        rows = pixels["pixel_values"].split([len(film) for film in taken])
        values, mask = padded_rows(list(rows))
        return {"pixel_values_videos": values} if mask is None else {"pixel_values_videos": values, FRAME_MASK: mask}


class Video(Modality):
    """Films: VideoMAE, TimeSformer, ViViT, V-JEPA 2 and their like, or any image `AutoModel`, frame by frame."""

    name = "video"
    noun = "film"
    called = "video"
    aliases = ("film", "clip")
    inputs = ("pixel_values_videos", FRAME_MASK)
    argument = "videos"
    part = "video_processor"
    part_classes = (FilmFrames,)
    part_settings = ("video_frames",)
    settings = (
        Setting(
            "video_frames", int | None, f"Frames that are taken of a film, evenly spread (left out: as many as the "
            f"encoder was made for, of one that reads pictures {DEFAULT_FRAMES})."
        ),
    )  # fmt: skip
    marks = FRAMES
    in_files = feature_maps = as_folder = True
    shard_rows, batch_rows = 32, 4
    reads = "a model that reads films or single pictures"
    hub_classes = "video-classification"
    packages = ("av",)
    code = '"film.mp4"'
    file_noun = "film file"
    column_names = (("film", "movie", "video_path", "video_file", "video_filename", "mp4"), ("clip", "frames"))
    suffixes = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
    begins = rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3|\x00\x00\x01[\xb3\xba]"
    beside = ("video", "videos", "films", "clips", "movies")

    def shows(self, config):
        return super().shows(config) or PICTURES.shows(config)

    def own_input(self, config, arguments):
        return next((name for name in (self.main_input, PICTURES.main_input) if name in arguments), None)

    def example(self, config, rows=1):
        frames = own_frames(config) or 2
        return {self.main_input: torch.empty(rows, frames, channels(config), *frame_size(config), device="meta")}

    def fit_config(self, config, settings):
        frames = settings.get("video_frames")
        if frames is None or settle_frames(config, frames) == own_frames(config) or own_frames(config) is None:
            return config
        config = copy.deepcopy(config)
        for name in FRAMES:
            if hasattr(config, name):
                setattr(config, name, frames)
        return config

    # ------------------------------------------------------------------------------------------------------- reading

    def check(self, adapter, encoder, inputs):
        values, mask = inputs.get(self.main_input), inputs.get(FRAME_MASK)
        if values is not None:
            frames, colours = own_frames(encoder.config), channels(encoder.config)
            if (
                not isinstance(values, Tensor)
                or not values.is_floating_point()
                or values.ndim != 5
                or not len(values)
                or values.shape[1] != (frames or max(1, values.shape[1]))
                or values.shape[2] != colours
            ):
                raise ValueError(
                    f"{self.main_input} is {described(values)}: give floating-point numbers [films, "
                    f"{frames or 'frames'}, {colours}, height, width] of one film or more."
                )
            if mask is not None and (not isinstance(mask, Tensor) or mask.shape != values.shape[:2]):
                raise ValueError(f"{FRAME_MASK} is {described(mask)}: give {list(values.shape[:2])}, 0 for no frame.")
        self.check_index(inputs)
        self.check_mask(inputs)

    def encoder_inputs(self, encoder, arguments, inputs):
        values = inputs[self.main_input]
        if own_frames(encoder.config) is None:
            return image_inputs(encoder, arguments, values.flatten(0, 1))
        given = {self.own_input(encoder.config, arguments): values}
        if "skip_predictor" in arguments:  # what is hidden in pretraining is not to be told
            given["skip_predictor"] = True
        return given

    def tokens(self, config, outputs, inputs):
        values = inputs[self.main_input]
        if own_frames(config) is None:
            return image_tokens(config, outputs, values.shape[-2:])
        states = outputs.last_hidden_state
        patch = getattr(config, "tubelet_size", 1)
        patch = [patch, *[config.patch_size] * 2] if isinstance(patch, int) else patch
        sizes = (values.shape[1], *values.shape[-2:])
        content = 1
        for size, side in zip(sizes, patch, strict=True):
            content *= size // side
        return states, max(0, states.shape[1] - content), None

    def read(self, adapter, encoder, inputs, record=None):
        """As the base class; an encoder of pictures reads each frame, and a film's tokens are those of its frames."""
        if own_frames(encoder.config) is not None:
            return super().read(adapter, encoder, inputs, record)
        values, mask = inputs[self.main_input], inputs.get(FRAME_MASK)
        films, frames = values.shape[:2]
        real = torch.ones(films, frames, dtype=torch.bool, device=values.device) if mask is None else mask.bool()
        # A film without any frame keeps one, for there to be something to be computed.
        read = real | (torch.arange(frames, device=values.device) == 0)
        given = {self.main_input: values[read][:, None]}
        outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, given), record)
        states, special, _ = self.tokens(encoder.config, outputs, given)  # [F, N, D]
        own = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        content = own.clone()
        content[:, :special] = False
        pooled = adapter.pool(outputs, states, own, content)  # [F, D_p]
        tokens = states.new_zeros(films, frames, *states.shape[1:])
        tokens[read] = states
        summaries = pooled.new_zeros(films, frames, pooled.shape[-1])
        summaries[read] = pooled
        summary = (summaries * real[..., None]).sum(1) / real.sum(1).clamp(min=1)[:, None]
        there = real[:, :, None].expand(tokens.shape[:3]).flatten(1)
        stream = Stream(tokens.flatten(1, 2), there, summary, real.any(1), modality=self.name)
        return stream, BaseModelOutput(
            last_hidden_state=stream.states,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    # ---------------------------------------------------------------------------------------------------- processing

    def load_part(self, name, settings, **hub):
        """What prepares films for a pretrained encoder: its own sizes and colours, and as many frames as it reads."""
        config = load_trusted(AutoConfig.from_pretrained, name, **hub)
        frames = settle_frames(config, settings.get("video_frames"))
        if own_frames(config) is None:
            return FilmFrames(PICTURES.load_part(name, {}, **hub), frames)
        fields = next((found for file in FILES if (found := read_quietly(name, file, hub))), None)
        fields = fields or read_quietly(name, "processor_config.json", hub).get("video_processor")
        if not fields:
            raise ValueError(
                f"No video processor can be loaded from {name!r}: a folder needs its preprocessor_config.json, a Hub "
                "repository must be one of a video model."
            )
        return FilmFrames(as_image_processor(fields), frames, fixed=True)

    def new_part(self, config, settings):
        height, width = frame_size(config)
        pictures = PICTURES.new_part(config, {"image_size": height})
        pictures.size = type(pictures.size)(height=height, width=width)
        frames = settle_frames(config, settings.get("video_frames"))
        return FilmFrames(pictures, frames, fixed=own_frames(config) is not None)

    def option_names(self, part):
        return PICTURES.option_names(part.image_processor)

    def process(self, part, values, **options):
        values = [values] if is_film(values) else values
        if not isinstance(values, (list, tuple)) or not len(values):
            raise ValueError(
                f"videos must be a film or a list of films that is not empty, not {str(values)[:80]}: a path, a "
                "folder of frames, an array [frames, height, width, 3] or a list of frames."
            )
        return_tensors = options.pop("return_tensors", "pt")
        batch = part([open_film(film) for film in values], **options)
        if return_tensors == "pt":
            return batch
        arrays = {name: value.numpy() for name, value in batch.items()}
        return arrays if return_tensors == "np" else {name: value.tolist() for name, value in arrays.items()}

    def made_up(self, config, part, number=0):
        """Frames of bytes, [frames, height, width, 3]."""
        size = (part.frames + (0, 3, -1)[number % 3] or 1, 48, 64, 3)
        return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(number))

    def open(self, cell, content=None):
        return open_film(cell, content)

    def collate(self, part, values):
        return part(values)

    def apart(self, batch):
        values, mask = batch[self.main_input], batch.get(FRAME_MASK)
        counts = [values.shape[1]] * len(values) if mask is None else mask.sum(1).tolist()
        return [{self.main_input: film[: max(1, count)]} for film, count in zip(values, counts, strict=True)]

    def together(self, rows):
        values, mask = padded_rows([row[self.main_input] for row in rows])
        return {self.main_input: values} if mask is None else {self.main_input: values, FRAME_MASK: mask}

    # -------------------------------------------------------------------------------------------------- explanations

    def parts(self, part, config, cell, inputs):
        """Frames × 4 × 4 patches, in whose stead the film's mean colour may stand."""
        values, mask = inputs[self.main_input][0].float(), inputs.get(FRAME_MASK)
        frames = len(values) if mask is None else max(1, int(mask[0].sum()))
        place = torch.arange(PATCHES**2, dtype=torch.float32).view(1, 1, PATCHES, PATCHES)
        place = F.interpolate(place, size=values.shape[-2:], mode="nearest")[0].long()  # [1, H, W]
        of = torch.arange(len(values)).view(-1, 1, 1, 1)
        of = torch.where(of < frames, of * PATCHES**2 + place, -1)  # [T, 1, H, W]
        colour = values[:frames].mean((0, 2, 3))
        blank = colour[:, None, None].expand_as(values)
        seen = self.process(part, [cell], do_normalize=False)[self.main_input][0, :frames]
        axes = (numbered("frame", frames), numbered("row", PATCHES), numbered("column", PATCHES))
        shown = seen.clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return Parts(axes, {self.main_input: of}, {self.main_input: blank}, "frames", shown)


def channels(config) -> int:
    return getattr(config, "num_channels", None) or getattr(config, "in_chans", 3)


def frame_size(config) -> tuple[int, int]:
    """Height and width of the frames that an encoder was made for, 224 where it does not say."""
    side = getattr(config, "crop_size", None)
    return image_size(config) or ((side, side) if isinstance(side, int) else (224, 224))


def as_image_processor(fields: dict):
    """The image processor that does to each frame what a video processor with these fields does to all."""
    known = ("size", "crop_size", "do_resize", "do_rescale", "rescale_factor", "do_normalize", "do_center_crop")
    known = (*known, "image_mean", "image_std", "resample")
    own = {name: fields[name] for name in known if fields.get(name) is not None}
    own.setdefault("do_center_crop", "crop_size" in own)
    if fields.get("offset"):  # bytes become −1 … 1 before the mean is taken off
        own["image_mean"] = [mean + 1 for mean in own.get("image_mean", [0.5] * 3)]
    return transformers.CLIPImageProcessor(**own)
