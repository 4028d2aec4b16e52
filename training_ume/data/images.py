"""Finding the picture of a row in a folder, and opening it."""

from __future__ import annotations

import io
import os
import re
import string
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from PIL import Image

from modeling_ume.images_ume import to_rgb
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _BadEntry, _is_number, _short

IMAGE_SUFFIXES = frozenset(MODALITIES["vision"].suffixes)
# The shape of a numbered image's name: what stands before the last digits, the digits, the suffix.
NUMBERED_NAME = re.compile(r"(.*?)(\d+)(\.[A-Za-z]+)", re.ASCII)


# ------------------------------------------------------------------------------------------------------- image paths


def _image_paths(image_ids: Iterable[str], images, pattern: str | None) -> dict[str, str | _BadEntry]:
    """{image id: absolute path, or what is wrong with it}. Each folder is listed once; no file is opened."""
    root = os.path.abspath(images)
    if not os.path.isdir(root):
        hint = " Unpack the archive and give the folder." if os.path.isfile(root) else " Check the path."
        raise VQADataError(f"The image folder {root} does not exist or is not a folder.{hint}")
    distinct = list(dict.fromkeys(image_ids))
    if not distinct:
        return {}
    if pattern is None:
        pattern = infer_image_pattern(root, distinct)
    takes_number = _pattern_takes_number(pattern)
    listed = _Listing()
    paths: dict[str, str | _BadEntry] = {}
    for image_id in distinct:
        try:
            if takes_number and not _is_number(image_id):
                reason = f"image_id {image_id!r} is not a number, which the pattern {pattern!r} needs"
                raise _BadEntry("malformed_entry", reason)
            file_name = pattern.format(image_id=int(image_id) if takes_number else image_id)
            path = _inside(root, file_name)
            if not listed.has_file(path):
                raise _BadEntry("missing_image", f"the image {path} of image_id {image_id!r} does not exist")
            paths[image_id] = path
        except _BadEntry as bad:
            paths[image_id] = bad
    return paths


def _inside(root: str, file_name: str) -> str:
    """The absolute path of a name from a data file, which must stay in its folder whatever the file says."""
    root = os.path.normpath(root)
    path = os.path.normpath(os.path.join(root, file_name))
    if "\0" in file_name or not path.startswith(os.path.join(root, "")):
        raise _BadEntry("unsafe_image_name", f"the image name {_short(file_name)} leaves the image folder {root}")
    return path


class _Listing:
    """Which files exist, by listing each folder once: 82,783 images cost one scan instead of 82,783 look-ups."""

    def __init__(self, folders: bool = False) -> None:
        self._names: dict[str, set[str]] = {}
        self.folders = folders  # whether a folder counts as a file

    def has_file(self, path: str) -> bool:
        folder, file_name = os.path.split(path)
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {
                        entry.name for entry in entries if entry.is_file() or (self.folders and entry.is_dir())
                    }
            except OSError:
                self._names[folder] = set()
        return file_name in self._names[folder]


def _pattern_takes_number(pattern: str) -> bool:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None]
        if set(fields) != {"image_id"}:
            raise ValueError("it must hold the field image_id and no other")
        pattern.format(image_id=1)
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"image_pattern={pattern!r} cannot be used ({error}). "
            "Write it like 'COCO_train2014_{image_id:012d}.jpg'."
        ) from error
    try:
        pattern.format(image_id="a")
    except ValueError:
        return True
    return False


def infer_image_pattern(
    folder: str | os.PathLike, image_ids: Iterable[str], suffixes: Collection[str] = IMAGE_SUFFIXES
) -> str:
    """The file-name pattern that leads from image ids to the files of a folder, where only one does.

    Raises `VQADataError` when no pattern finds any image, or when several do.
    """
    wanted = set(image_ids)
    wanted_numbers = {int(image_id) for image_id in wanted if _is_number(image_id)}
    found: Counter[str] = Counter()
    digits: dict[tuple[str, str], list[str]] = defaultdict(list)
    examples = []
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in suffixes:
                continue
            examples.append(entry.name)
            if stem in wanted:
                found[f"{{image_id}}{suffix}"] += 1
            elif match := NUMBERED_NAME.fullmatch(entry.name):
                digits[match[1], match[3]].append(match[2])
    for (prefix, suffix), numbers in digits.items():
        literal = prefix.replace("{", "{{").replace("}", "}}")
        plain = sum(number in wanted for number in numbers)
        if plain:
            found[f"{literal}{{image_id}}{suffix}"] += plain
        # Zero-padded numbers have one width; a number that fills the width needs no zero.
        widths = {len(number) for number in numbers if number.startswith("0") and len(number) > 1}
        for width in widths:
            hits = sum(
                len(number) == width and _is_number(number) and int(number) in wanted_numbers for number in numbers
            )
            if hits > plain:
                found[f"{literal}{{image_id:0{width}d}}{suffix}"] += hits
                found.pop(f"{literal}{{image_id}}{suffix}", None)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        names = ", ".join(sorted(examples)[:3]) or "no image"
        ids = ", ".join(sorted(wanted)[:3])
        raise VQADataError(
            f"No file of {folder} fits the image ids: the folder holds {names}, the ids are {ids}, … Give the right "
            "folder, or image_pattern, e.g. 'COCO_train2014_{image_id:012d}.jpg'."
        )
    patterns = ", ".join(f"{pattern} ({count} images)" for pattern, count in found.most_common(5))
    raise VQADataError(f"Several file-name patterns fit {folder}: {patterns}. Say which one with image_pattern.")


# ------------------------------------------------------------------------------------------------------------ images


def open_image(path: str | os.PathLike, content: bytes | None = None) -> Image.Image:
    """Opens an image file as RGB, the way a viewer shows it on a white page.

    Where the file's `content` is given, `path` only says in messages which image it is.

    EXIF orientation is applied. Transparent parts become white: dropping the alpha channel would show whatever colour
    happens to lie under it. 16-bit greys are scaled to 8 bits (PIL would clip them to white). CMYK, palette, grey and
    bilevel images are converted. Of an animation it is the first frame.

    Raises:
        VQADataError: naming the path, when the file is missing, no image, cut off, too large to be honest
            (`PIL.Image.MAX_IMAGE_PIXELS`), or holds floating-point values, whose white is not known.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            return to_rgb(file)
    except FileNotFoundError as error:
        raise VQADataError(f"The image {path} does not exist. Restore it, or load the data again.") from error
    except Image.DecompressionBombError as error:
        raise VQADataError(
            f"The image {path} is too large to decode safely ({error}). Scale it down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except MemoryError:
        raise
    # PIL's decoders raise almost anything on bad bytes: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise VQADataError(
            f"The image {path} cannot be read ({error}). Replace it, or leave its questions out with "
            "load_vqa(..., on_error='skip', skipped_log=<a file>)."
        ) from error
