"""Images: what an image encoder is given, and how its output becomes tokens on a grid."""

import math

import torch
import transformers  # its image processors are looked up where they are used: each says a line when it is
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import ModelOutput

from .arguments_ume import image_names
from .images_ume import from_array, is_array, process_images, read_image, with_image_size
from .modality_base_ume import Modality
from .padding_ume import is_padded, padded, read_each_size, unpadded
from .parts_ume import Parts, numbered
from .simple_encoders_ume import vgg_of
from .streams_ume import Stream, described
from .trust_ume import ForeignCodeError, load_trusted

PATCHES = 8  # a side, which are taken away to see what hangs on them


class Vision(Modality):
    """Pictures: any image `AutoModel`, or this project's VGG."""

    name = "vision"
    short = noun = called = "image"
    file_noun = subject = "picture"
    aliases = ("image",)
    inputs = ("pixel_values",)
    later_inputs = ("pixel_mask",)
    argument = "images"
    part = "image_processor"
    of_new = ("image_size", "image_mean", "image_std")
    of_recipe = ("feature_grid",)
    part_settings = ("image_size",)
    column = "image"
    default_config = "vit"
    halves = ("vision_config", "image_config")
    marks = ("image_size", "num_channels", "patch_size")
    feature_maps = has_grid = in_files = True
    shard_rows, batch_rows = 256, 32
    reads = "a model that reads single pictures"
    hub_classes, shown_as = "image-classification", "Image"
    code, code_import = 'Image.open("picture.png")', "from PIL import Image"
    column_names = (
        (
            "img", "image_path", "img_path", "image_file", "img_file", "image_filename", "image_file_name",
            "img_filename", "image_name", "img_name", "file_name", "filename", "picture", "picture_path",
            "picture_name", "photo", "image_url", "img_url", "pic", "images",
        ),
    )  # fmt: skip
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    beside = ("images", "imgs", "img", "pictures")
    explained = "image"

    def new_fields(self, config):
        side = config.get("image_size")
        return {"image_size": side} if isinstance(side, int) else {}

    def check(self, adapter, encoder, inputs):
        if inputs.get(self.main_input) is not None:
            check_pixels(inputs[self.main_input], getattr(encoder.config, "num_channels", 3))
        self.check_index(inputs)
        self.check_mask(inputs)

    def example(self, config, rows=1):
        size = image_size(config) or (224, 224)
        return {self.main_input: torch.empty(rows, getattr(config, "num_channels", 3), *size, device="meta")}

    def follow_part(self, config, part, settings):
        if "image_size" in config.to_dict():
            config.image_size = settings["image_size"]

    def encoder_inputs(self, encoder, arguments, inputs):
        return image_inputs(encoder, arguments, inputs[self.main_input])

    def tokens(self, config, outputs: ModelOutput, inputs: dict):
        return image_tokens(config, outputs, inputs[self.main_input].shape[-2:])

    def read(self, adapter, encoder, inputs, record=None):
        """As the base class; of padded images each at its own size, and their states on one grid."""
        pixel_values, pixel_mask = inputs[self.main_input], inputs.get("pixel_mask")
        if is_padded(pixel_values, pixel_mask):
            if any((record or {}).values()):
                raise ValueError(
                    "Inner states of images of different sizes do not fit into one tensor: ask for "
                    "output_hidden_states and output_attentions with images of one size."
                )

            def read(pixels: Tensor) -> Stream:
                return self.read(adapter, encoder, {self.main_input: pixels})[0]

            stream = read_each_size(read, pixel_values, pixel_mask)
            return stream, BaseModelOutput(last_hidden_state=stream.states)
        outputs = self.look(adapter, encoder, pixel_values, record)
        stream = self.stream(adapter, encoder, outputs, inputs)
        if adapter.feature_grid is not None:
            stream.states, stream.grid = average_grid(stream.states, stream.grid, adapter.feature_grid)
            stream.mask = torch.ones(stream.states.shape[:2], dtype=torch.bool, device=stream.states.device)
        return stream, outputs

    def load_part(self, name, settings, **hub):
        """A pretrained image encoder's own image processor; of timm's VGG, whose own only timm reads, ImageNet's."""
        try:
            if vgg_of(PretrainedConfig.get_config_dict(name, **hub)[0]) is not None:
                part = transformers.ViTImageProcessor(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
            else:
                part = load_trusted(AutoImageProcessor.from_pretrained, name, **hub)
        except ForeignCodeError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"No image processor can be loaded from {name!r}: a folder needs its preprocessor_config.json, a Hub "
                f"repository must be one of an image model ({str(error).strip().partition(chr(10))[0]})."
            ) from error
        size = settings.get("image_size")
        return part if size is None else with_image_size(part, size)

    def new_part(self, config, settings):
        return transformers.ViTImageProcessor(
            size=dict.fromkeys(("height", "width"), settings["image_size"]),
            image_mean=settings.get("image_mean") or [0.5] * 3,
            image_std=settings.get("image_std") or [0.5] * 3,
        )

    def option_names(self, part):
        return image_names(part)

    def process(self, part, values, **options):
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        values = [picture for held in values for picture in (held if isinstance(held, (list, tuple)) else [held])]
        if not values:
            raise ValueError("images is an empty list: give at least one image, or None for text alone.")
        # Who says where the channels are, has arrays as they shall be.
        pictures_of = (lambda array: [array]) if "input_data_format" in options else from_array
        pictures = [
            picture for image in values for picture in (pictures_of(image) if is_array(image) else [read_image(image)])
        ]
        return process_images(part, pictures, **{"return_tensors": "pt", **options})

    def open(self, cell, content=None):
        return read_image(cell if content is None else content)

    def made_up(self, config, part, number=0):
        """Of bytes, upright or lying."""
        size = [(240, 320, 3), (320, 240, 3)][number % 2]
        return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(number))

    def collate(self, part, values):
        processed = process_images(part, values, return_tensors="pt")
        pixel_values = processed["pixel_values"]
        if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4:
            shape = tuple(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
            raise ValueError(
                f"{type(part).__name__} gives pixel_values of shape {shape}, but the model takes "
                "[images, 3, height, width]: let the image processor resize or crop to one height and width."
            )
        return {name: processed[name] for name in ("pixel_values", "pixel_mask") if name in processed}

    def apart(self, batch):
        return [{"pixel_values": image} for image in unpadded(batch["pixel_values"], batch.get("pixel_mask"))]

    def together(self, rows):
        return padded([row["pixel_values"] for row in rows])

    def parts(self, part, config, cell, inputs):
        """8 × 8 patches, in whose stead the image's mean colour may stand."""
        pixels = inputs["pixel_values"]
        of = torch.arange(PATCHES**2, dtype=torch.float32).view(1, 1, PATCHES, PATCHES)
        of = F.interpolate(of, size=pixels.shape[-2:], mode="nearest")[0].long()  # [1, H, W]
        blank = pixels.mean((2, 3), keepdim=True).expand_as(pixels)[0]
        axes = (numbered("row", PATCHES), numbered("column", PATCHES))
        return Parts(axes, {"pixel_values": of}, {"pixel_values": blank}, "frames")

    def look(self, adapter, encoder, pixel_values: Tensor, record: dict[str, bool] | None = None) -> ModelOutput:
        """Runs the image encoder; one that cannot take images of this size says so."""
        inputs = image_inputs(encoder, adapter.arguments, pixel_values)
        made_for, size = image_size(encoder.config), tuple(pixel_values.shape[-2:])
        if made_for in (None, size):
            return adapter.run(encoder, inputs, record)
        try:
            return adapter.run(encoder, inputs, record)
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise ValueError(
                f"The image encoder {encoder.config.model_type!r} was made for images of {made_for[0]}×{made_for[1]} "
                f"pixels and cannot read {size[0]}×{size[1]} ({error}): let the image processor resize and crop to "
                f"{made_for[0]}×{made_for[1]}."
            ) from error


def image_inputs(encoder: PreTrainedModel, arguments: set[str], pixel_values: Tensor) -> dict:
    inputs = {"pixel_values": pixel_values}
    size = image_size(encoder.config)
    if size is not None and size != tuple(pixel_values.shape[-2:]) and "interpolate_pos_encoding" in arguments:
        inputs["interpolate_pos_encoding"] = True
    if "noise" in arguments:
        # Patches are sorted by their noise: ascending numbers leave them in place.
        (height, width), (rows, columns) = pixel_values.shape[-2:], _pair(encoder.config.patch_size)
        patches = (height // rows) * (width // columns)
        inputs["noise"] = torch.arange(patches, device=pixel_values.device).expand(pixel_values.shape[0], -1)
    return inputs


def image_tokens(config, outputs, image_size: tuple[int, int]) -> tuple[Tensor, int, tuple[int, int] | None]:
    """Returns tokens [U, N, D] with those that are not content first, their number, and the grid (H, W)."""
    states = outputs.last_hidden_state
    if states.ndim == 4:  # a feature map [U, C, H, W]
        pooled = outputs.get("pooler_output")
        if pooled is not None and states.shape[1] != pooled.flatten(1).shape[1] == states.shape[3]:
            states = states.permute(0, 3, 1, 2)  # it was [U, H, W, C], as timm's Swin gives it
        return states.flatten(2).transpose(1, 2), 0, tuple(states.shape[-2:])
    num_tokens = states.shape[1]
    # Detection tokens stand behind the patches (YOLOS); everything else that is not a patch stands before them.
    behind = getattr(config, "num_detection_tokens", 0)
    patch_size = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    grid = _find_grid(num_tokens - behind, image_size, _pair(patch_size))
    if grid is None:
        return states, 0, None
    num_special = num_tokens - math.prod(grid)
    if behind:
        before, patches, behind = states.split([num_special - behind, math.prod(grid), behind], dim=1)
        states = torch.cat([before, behind, patches], dim=1)
    return states, num_special, grid


def _find_grid(num_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int] | None):
    """The grid (H, W) that leaves the fewest of `num_tokens` over, or None where nothing comes close.

    It is that of the patches, which hierarchical encoders halve from stage to stage; where the config has none, or
    their grid does not fit, one of the image's aspect ratio.
    """
    of_patches = []
    if patch_size is not None:
        for up in (0, 1):  # some encoders cut what is left of a patch at the border, some pad it
            rows, columns = ((s + up * (p - 1)) // p for s, p in zip(image_size, patch_size, strict=True))
            while rows * columns > num_tokens and (rows > 1 or columns > 1):
                rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
            of_patches.append((rows, columns))
    height, width = image_size
    most_rows = math.isqrt(num_tokens * height // width) + 1
    of_its_shape = [(rows, round(rows * width / height)) for rows in range(1, most_rows + 1)]
    for grids in (of_patches, of_its_shape):
        fitting = [grid for grid in grids if max(num_tokens - MAX_SPECIAL_TOKENS, 1) <= math.prod(grid) <= num_tokens]
        if fitting:
            return max(fitting, key=math.prod)
    return None


def average_grid(states: Tensor, grid: tuple[int, int] | None, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Averages the last H·W of the tokens [U, N, D] over side × side cells; the tokens before them stay.

    Returns:
        The tokens [U, N − H·W + side², D] and their grid (side, side).

    Raises:
        ValueError: when the image has no grid, or a coarser one.
    """
    if grid is None or side > min(grid):
        has = "no grid of tokens" if grid is None else f"a grid of {grid[0]}×{grid[1]} tokens"
        raise ValueError(f"feature_grid={side} is impossible: the image encoder gives {has}.")
    num_special = states.shape[1] - math.prod(grid)
    cells = states[:, num_special:].transpose(1, 2).unflatten(2, grid)  # [U, D, H, W]
    cells = F.adaptive_avg_pool2d(cells, side).flatten(2).transpose(1, 2)  # [U, side², D]
    return torch.cat([states[:, :num_special], cells], dim=1), (side, side)


MAX_SPECIAL_TOKENS = 16  # class, distillation and register tokens of one image; no encoder has more


def image_size(config) -> tuple[int, int] | None:
    """The image size (height, width) that the encoder was made for, where its config says one."""
    size = getattr(config, "image_size", None)
    if size is None:
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")  # timm's: channels, height, width
    return _pair(size)


def _pair(size) -> tuple[int, int] | None:
    """A size as configs write it (a number, a pair, None) as (height, width)."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def check_pixels(pixel_values: Tensor, channels: int) -> None:
    """Raises ValueError for what are no images [images, channels, height, width]."""
    if (
        not isinstance(pixel_values, Tensor)
        or not pixel_values.is_floating_point()
        or pixel_values.ndim != 4
        or pixel_values.shape[0] == 0
        or pixel_values.shape[1] != channels
    ):
        raise ValueError(
            f"pixel_values is {described(pixel_values)}: give floating-point numbers [images, {channels}, height, "
            "width] of one image or more, as the image processor makes them."
        )
