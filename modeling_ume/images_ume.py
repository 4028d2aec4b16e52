"""Reading a picture from whatever a user has: a path, an address, bytes, an array, a PIL image."""

import io
import os
import urllib.request

import torch
from PIL import Image, ImageChops, ImageOps
from transformers.image_utils import is_valid_image

DOWNLOAD_SECONDS, DOWNLOAD_BYTES = 60, 200 * 2**20


def read_image(image, content: bytes | None = None) -> Image.Image:
    """
    Reads one image as the models see all of them: upright 8-bit RGB, as a viewer shows it on a white page.

    EXIF orientation is applied, what is transparent becomes white, 16-bit greys are scaled to 8 bits.

    Args:
        image: a PIL image, a local path, an http(s) or a `data:image/` URL, the bytes of a file, a file that is open
            for reading bytes, the dict `{"bytes": …, "path": …}` of a data set, or an array or tensor of bytes
            (uint8) [H, W, 3], [H, W] or [3, H, W].
        content (`bytes`, *optional*): what the file at a local path holds, where it has been read already.

    Returns:
        `PIL.Image.Image` of mode RGB.

    Raises:
        ValueError: if there is no such file or address, if it is not an image that can be read to its end, or if its
            pixels are floating-point or 32-bit values, whose white is not known.
    """
    name = "The image"
    if is_undecoded(image):
        image = image["bytes"] if image.get("bytes") else image["path"]
    try:
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            name = f"The image {path[:200]!r}"
            if path.startswith(("http://", "https://", "data:image/")):
                # Not by `load_image`, which drops the alpha channel: the same file by its path would look different.
                image = Image.open(io.BytesIO(download(path)))
            elif os.path.isfile(path):
                with Image.open(path if content is None else io.BytesIO(content)) as opened:
                    return to_rgb(opened)
            else:
                raise FileNotFoundError("there is no such file; check the path")
        elif isinstance(image, (bytes, bytearray, memoryview)):
            image = Image.open(io.BytesIO(image))
        elif isinstance(image, io.IOBase) and image.readable():
            image = Image.open(image)
        elif is_array(image):
            pictures = from_array(image)
            if len(pictures) != 1 or not isinstance(pictures[0], Image.Image):
                raise TypeError(f"it is {len(pictures)} arrays of {image.dtype}; give one of bytes (uint8)")
            return pictures[0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"it is a {type(image).__name__}; give a PIL image, a path or a URL")
        return to_rgb(image)
    except Exception as error:  # a decoder raises whatever it likes for a broken file: SyntaxError, struct.error, …
        raise ValueError(f"{name} cannot be read: {str(error).rstrip('.')}.") from error


def download(address: str) -> bytes:
    """
    What lies at an address, which begins with http://, https:// or data:; that of a local file never gets here, nor
    does one by a redirect.

    Raises:
        ValueError: for more than `DOWNLOAD_BYTES`.
        OSError: where there is nothing to be had.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (ume)"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as response:  # noqa: S310
        content = response.read(DOWNLOAD_BYTES + 1)
    if len(content) > DOWNLOAD_BYTES:
        raise ValueError(f"it has more than {DOWNLOAD_BYTES // 2**20} MB; download it yourself")
    return content


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of a PIL image; see `read_image`. Raises TypeError for pixels whose white is not known."""
    if image.mode == "F":
        raise TypeError("its pixels are floating-point values; save it with 8 bits a channel")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits a pixel in 8 bits, with an alpha channel where one of the shades means transparent."""
    shades, clear = image.convert("I"), image.info.get("transparency")
    darkest, lightest = shades.getextrema()
    if darkest < 0 or lightest > 65535:
        raise TypeError(f"its pixels are 32-bit values, {darkest} to {lightest}; save it with 8 bits a channel")
    # PIL would clip them to white: 65535 / 257 = 255.
    grey = shades.point(lambda shade: shade * (1 / 257) + 0.5).convert("L")
    if clear is None:
        return grey
    # PIL compares no such pixels, but multiplies and adds: how far each is from that shade, up and down.
    up = shades.point(lambda shade: shade * 1 - clear).convert("L")
    down = shades.point(lambda shade: shade * -1 + clear).convert("L")
    return Image.merge("LA", (grey, ImageChops.add(up, down).point(lambda distance: 255 if distance else 0)))


def is_undecoded(image) -> bool:
    """Whether it is a picture as data sets hold one that they do not decode: `{"bytes": …, "path": …}`."""
    return isinstance(image, dict) and {"bytes", "path"} >= image.keys() and any(image.values())


def is_image(value) -> bool:
    """Whether `read_image` takes it for one image, be it readable or not; a string is a path."""
    kinds = (str, os.PathLike, Image.Image, bytes, bytearray, memoryview, io.IOBase)
    return isinstance(value, kinds) or is_undecoded(value) or is_array(value)


def is_picture(value) -> bool:
    """Whether a value can only be a picture, or begins with one."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, Image.Image) or is_array(first)


def is_array(image):
    return is_valid_image(image) and not isinstance(image, Image.Image)


def from_array(image) -> list:
    """One image [3, H, W] or [H, W, 3] or several [U, …]: bytes as PIL images, other numbers as [3, H, W].

    An image processor would guess where the channels are, from the first image alone.
    """
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if array.ndim == 4:
        return [part for row in array for part in from_array(row)]
    shape = list(array.shape)
    channels_first = array.ndim == 3 and shape[0] == 3
    if not array.size or not (channels_first or array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise ValueError(
            f"An image was given as an array of shape {shape}: give [height, width, 3] or [3, height, width], or a "
            "PIL image."
        )
    if array.dtype == "uint8":
        return [read_image(Image.fromarray(array.transpose(1, 2, 0).copy() if channels_first else array))]
    if array.dtype.kind not in "iuf" or 3 not in (shape[0], shape[-1]) or not (abs(array) < float("inf")).all():
        raise ValueError(
            f"An image was given as an array of shape {shape} and type {array.dtype}, or with values that are not "
            "finite: give three channels of numbers, bytes (uint8), or a PIL image."
        )
    return [array if channels_first else array.transpose(2, 0, 1)]


def with_image_size(image_processor, image_size):
    """The same image processor, whose output is image_size × image_size; resize and crop keep their proportion."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size={image_size!r} is impossible: it is a number of pixels, 1 or more.")
    settings = image_processor.to_dict()
    size = {edge: pixels for edge, pixels in dict(settings.get("size") or {}).items() if pixels}
    if not size:
        raise ValueError(
            f"image_size={image_size} cannot be set: the image processor ({type(image_processor).__name__}) has no "
            "`size` to change."
        )
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    if crop:
        # A crop of 224 out of a resize to 256 becomes, for 112, a crop of 112 out of 128.
        scale = image_size / crop["height"]
        settings["size"] = {edge: round(pixels * scale) for edge, pixels in size.items()}
        settings["crop_size"] = {"height": image_size, "width": image_size}
    else:
        settings["size"] = dict.fromkeys(size, image_size)
    return type(image_processor).from_dict(settings)


def process_images(image_processor, images: list, **options) -> dict:
    """
    What the image processor makes of them. A `pixel_mask` [U, H, W] stays only where it says that images were padded.

    Raises:
        ValueError: when the images come out with different sizes, or with a mask of another kind, which nobody reads.
    """
    name = type(image_processor).__name__
    try:
        processed = dict(image_processor(images, **options))
    except (ValueError, RuntimeError) as error:
        if len(images) == 1 or ("size" not in str(error) and "tensor" not in str(error) and "shape" not in str(error)):
            raise
        raise ValueError(
            f"{name} could not make one batch of {len(images)} images: {str(error).splitlines()[0]} The encoder needs "
            "images of one size, or padded ones with a pixel_mask: let the image processor resize or crop to one "
            "height and width, or give the images one by one."
        ) from error
    unread = [key for key in processed if "mask" in key and key != "pixel_mask"]
    if unread:
        raise ValueError(
            f"{name} returns {', '.join(unread)}, which no image encoder of UME reads, so an image's padding would "
            "change its answers: choose an image processor that gives pixel_values alone, or with pixel_mask."
        )
    mask = processed.get("pixel_mask")
    if mask is not None and all((part != 0).all() for part in mask if hasattr(part, "all")):
        del processed["pixel_mask"]
    return processed
