"""Inputs as the world sends them, kind by kind: a hypothesis strategy, and a check of what becomes of each case.

A check passes in two ways: the right result, compared with one that was computed in another way, or one exception
that this project's own code raised as a sentence. `tests/test_inputs.py` and `scripts/try_inputs.py` share them.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import re
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from conftest import VOCAB_SIZE, tiny_batch, tiny_model
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast, ViTImageProcessor

from configuration_ume import UMEConfig
from configuration_ume.parsing import parse_recipe
from metrics.vqa_accuracy import vqa_accuracy
from modeling_ume import FUSIONS, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.images_ume import read_image
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.data.images import open_image
from training_ume.data.load import load_vqa
from training_ume.evaluation.load import load_checkpoint
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(str(ROOT / package) for package in ("modeling_ume", "configuration_ume", "training_ume", "metrics"))

RIGHT, REFUSED = "right result", "clear exception"


@dataclass(frozen=True)
class Kind:
    """Cases of one kind, the check that raises `Refusal` for a clear exception and anything else for a mistake of the
    code under test, and how many cases are tried when it has to be many."""

    cases: st.SearchStrategy
    check: Callable[[Any], None]
    count: int


class Refusal(Exception):
    """The code under test refused the case as it should."""


@contextlib.contextmanager
def only_sentences(*named: str, good: bool = False) -> Iterator[None]:
    """
    What is raised within must be a ValueError of our own code that is a sentence; it becomes a `Refusal`.

    Args:
        named: of these the message must hold one.
        good: nothing is wrong with the case, so that no exception is right.
    """
    try:
        yield
    except Exception as error:
        mistake = complaint(error, named, good)
        if mistake:
            raise AssertionError(f"{mistake}: {type(error).__name__}: {error}") from error
        raise Refusal from error


def complaint(error: Exception, named: tuple[str, ...], good: bool) -> str | None:
    """What is wrong with an exception as an answer to a bad input."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    message = str(error)
    if good:
        return "a good input was refused"
    if not isinstance(error, ValueError) or not trace.tb_frame.f_code.co_filename.startswith(OURS):
        return "an exception that is not of our own code"
    if len(message.split()) < 5 or message.rstrip()[-1] not in ".!?>)":
        return "no whole sentence"
    if named and not any(name in message for name in named):
        return f"a message that names none of {named}"
    return None


def outcome(kind: Kind, case: Any) -> str:
    """`RIGHT` or `REFUSED`; anything else is raised."""
    try:
        kind.check(case)
    except Refusal:
        return REFUSED
    return RIGHT


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ume-odd-") as path:
        yield Path(path)


# ------------------------------------------------------------------------------------------------------------- texts

ODD_TEXTS = [
    "", " ", "\t\n", "yes", "Yes.", "  two  dogs ", "t-shirt, blue-ish", "1,000", "3.", ".5", "a", "The", "dont",
    "somebody'd", "\u05db\u05dc\u05d1 \u05dc\u05d1\u05df", "\u0643\u0644\u0628 \u0661\u0662", "\u202eabc\u202c",
    "\U0001f415\u200d\U0001f9ba", "\U0001f1e9\U0001f1ea", "e\u0301", "\u00e9", "\u0130stanbul", "stra\u00dfe",
    "\u2028line", "\u00a0", "\u3000\u4e8c", "x\x00y", "\ufeff", "\uffff", "a/b", "red/ white", "night_stand",
    "[PAD]", "[SEP] [CLS]", "<mask>", "None", "nan", "null", "true", "-1", "{image_id}", "../..", "' OR 1=1 --",
    "\u0661,\u0662", "x." * 40, "." * 40 + "x", "a b " * 2500, "\u7530" * 3400, "\U0001f600" * 2500,
]  # fmt: skip
HALF_PAIR = "half a pair \ud83d"
whole_texts = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(alphabet="ab1.,'-/_ \n\ttheTHE", max_size=20),
)
texts = st.one_of(whole_texts, whole_texts, whole_texts, st.just(HALF_PAIR))
junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.just([]), st.just({}), st.just([None]),
    st.just({"answer": 5}), st.just("9" * 5000), texts,
)  # fmt: skip


def is_whole(value: Any) -> bool:
    """A string that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


# ------------------------------------------------------------------------------------------------------------ images


class ImageCase(NamedTuple):
    """A file, and the picture [H, W, 3] that a viewer shows of it; None: it must be refused.

    `whole`: no part of the file is missing, so that it must not be refused.
    """

    content: bytes
    suffix: str
    expected: np.ndarray | None
    tolerance: float
    whole: bool


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    alpha = alpha[..., None] / 255
    return colours * alpha + 255 * (1 - alpha)


def png(width: int, height: int, depth: int, colour_type: int, rows: list[bytes]) -> bytes:
    """A PNG written by hand, for what PIL does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


TURNED = {  # what a viewer does for each EXIF orientation
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (7, 5), (16, 16), (1, 3000)]
SUFFIXES = [".jpg", ".png", ".gif", ".txt", "", ".JPEG", ".heic", ".pdf"]


def image_file(mode: str, height: int, width: int, seed: int) -> tuple[bytes, np.ndarray | None, float]:
    """(content, what it shows or None for what must be refused, how far a value may be off)."""
    rng = np.random.default_rng(seed)

    def values(*more: int, top: int = 256, dtype=np.uint8) -> np.ndarray:
        return rng.integers(0, top, (height, width, *more), dtype=dtype)

    def saved(image: Image.Image, form: str, **options) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    def grey(a: np.ndarray) -> np.ndarray:
        return np.stack([a] * 3, -1).astype(np.float64)

    name, _, form = mode.partition("/")
    if name == "RGB":
        a = values(3)
        return saved(Image.fromarray(a), form, **({"lossless": True} if form == "WEBP" else {})), a, 0
    if name == "L":
        a = values()
        return saved(Image.fromarray(a), form), grey(a), 0
    if name == "1":
        a = values() > 127
        return saved(Image.fromarray(a), form), grey(a * 255), 0
    if name == "P":
        a, palette = values(), rng.integers(0, 256, (256, 3), dtype=np.uint8)
        image = Image.fromarray(a, "L")
        image.putpalette(palette.tobytes())
        return saved(image, form), palette[a], 0
    if name == "P-clear":  # one colour of the palette is transparent
        a, palette = values(top=8), rng.integers(0, 256, (256, 3), dtype=np.uint8)
        image = Image.fromarray(a, "L")
        image.putpalette(palette.tobytes())
        shown = np.where((a == 3)[..., None], 255, palette[a])
        return saved(image, form, transparency=3), shown, 0
    if name == "P-alpha":  # every colour of the palette has its own alpha
        a, palette = values(), rng.integers(0, 256, (256, 3), dtype=np.uint8)
        alpha = rng.integers(0, 256, 256, dtype=np.uint8)
        image = Image.fromarray(a, "L")
        image.putpalette(palette.tobytes())
        return saved(image, form, transparency=alpha.tobytes()), over_white(palette[a], alpha[a]), 1
    if name == "LA":
        a = values(2)
        return saved(Image.fromarray(a, "LA"), form), over_white(grey(a[..., 0]), a[..., 1]), 1
    if name == "RGBA":
        a = values(4)
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        return saved(Image.fromarray(a), form, **options), over_white(a[..., :3], a[..., 3]), 1
    if name == "RGB-key":  # one colour is transparent
        a = values(3, top=2)
        shown = np.where((a == (1, 0, 1)).all(-1)[..., None], 255, a)
        return saved(Image.fromarray(a), form, transparency=(1, 0, 1)), shown, 0
    if name == "L-key":
        a = values(top=4)
        return saved(Image.fromarray(a), form, transparency=2), grey(np.where(a == 2, 255, a)), 0
    if name == "I;16":
        a = values(top=65536, dtype=np.uint16)
        return saved(Image.fromarray(a), form), grey(np.round(a / 257)), 1
    if name == "I;16-key":  # one shade of 65,536 is transparent
        a = values(top=4, dtype=np.uint16) * 9000
        return saved(Image.fromarray(a), form, transparency=9000), grey(np.where(a == 9000, 255, a / 257)), 1
    if name == "RGB;16":
        a = values(3, top=65536, dtype=np.uint16)
        return png(width, height, 16, 2, [row.astype(">u2").tobytes() for row in a]), a / 257, 1
    if name == "LA;16":
        a = values(2, top=65536, dtype=np.uint16)
        content = png(width, height, 16, 4, [row.astype(">u2").tobytes() for row in a])
        return content, over_white(grey(a[..., 0] / 257), a[..., 1] / 257), 2
    if name == "I":  # 32 bits, of which no more than 16 are used
        a = values(top=65536, dtype=np.int32)
        return saved(Image.fromarray(a), form), grey(np.round(a / 257)), 1
    if name == "I-large":  # 32 bits: which value is white, nobody knows
        a = values(top=2**31, dtype=np.int64).astype(np.int32)
        a.flat[0] = 2**30
        return saved(Image.fromarray(a), form), None, 0
    if name == "F":
        return saved(Image.fromarray(values().astype(np.float32)), form), None, 0
    if name == "CMYK":
        a = (
            values(4)
            if form == "TIFF"
            else np.broadcast_to(rng.integers(0, 256, 4, dtype=np.uint8), (height, width, 4))
        )
        ink = a.astype(np.float64)
        shown = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
        options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
        return (
            saved(Image.fromarray(np.ascontiguousarray(a), "CMYK"), form, **options),
            shown,
            1 if form == "TIFF" else 5,
        )
    if name == "one-colour":  # what JPEG and lossy WebP keep
        a = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3))
        return saved(Image.fromarray(np.ascontiguousarray(a)), form, quality=100), a, 6
    if name == "frames":
        frames = [Image.fromarray(np.full((height, width), level, np.uint8)) for level in (seed % 256, 128, 200)]
        options = {"lossless": True} if form == "WEBP" else {}
        content = saved(frames[0].convert("RGB") if form == "WEBP" else frames[0], form, save_all=True,
                        append_images=frames[1:], **options)  # fmt: skip
        return content, np.full((height, width, 3), seed % 256), 0
    raise AssertionError(mode)


MODES = [
    "RGB/PNG", "RGB/BMP", "RGB/TIFF", "RGB/WEBP", "RGB/PPM", "L/PNG", "L/BMP", "L/TIFF", "L/PPM", "1/PNG", "1/BMP",
    "1/TIFF", "1/PPM", "P/PNG", "P/GIF", "P/BMP", "P/TIFF", "P-clear/PNG", "P-clear/GIF", "P-alpha/PNG", "LA/PNG",
    "LA/TIFF", "RGBA/PNG", "RGBA/WEBP", "RGBA/TIFF", "RGB-key/PNG", "L-key/PNG", "I;16/PNG", "I;16/TIFF",
    "I;16-key/PNG",
    "RGB;16/PNG", "LA;16/PNG", "I/TIFF", "I-large/TIFF", "F/TIFF", "CMYK/TIFF", "CMYK/JPEG", "one-colour/JPEG",
    "one-colour/WEBP", "frames/GIF", "frames/WEBP", "frames/PNG", "frames/TIFF",
]  # fmt: skip
TAKES_EXIF = ("RGB/PNG", "RGB/TIFF", "RGB/WEBP", "L/PNG", "P/PNG", "RGBA/PNG", "RGBA/WEBP", "one-colour/JPEG")
NO_IMAGES = [b"", b"hello", b"<!doctype html><title>404</title>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a",
             b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0\x08\0\0\0", b"\0" * 3000, b"%PDF-1.4",
             b"PK\x03\x04" + b"\0" * 40]  # fmt: skip
BOMBS = [
    png(60_000, 60_000, 8, 2, [b"\0"]),
    png(2**31 - 1, 2**31 - 1, 8, 0, [b"\0"]),
    b"P6 90000 90000 255\n",
    b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + b"\0" * 6
    + b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02\x44\x01\0;",
    b"BM" + struct.pack("<IHHI", 60, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0),
]  # fmt: skip


def with_exif(content: bytes, orientation: int) -> bytes:
    image = Image.open(io.BytesIO(content))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True, "exact": True}}.get(image.format, {})
    if image.format == "PNG" and "transparency" in image.info:
        options = {"transparency": image.info["transparency"]}
    image.save(file, image.format, exif=exif, **options)
    return file.getvalue()


@st.composite
def image_cases(draw) -> ImageCase:
    kind = draw(st.sampled_from(["whole"] * 8 + ["exif"] * 4 + ["cut"] * 4 + ["flipped", "more", "none", "bomb"]))
    suffix = draw(st.sampled_from(SUFFIXES))
    if kind == "none":
        return ImageCase(draw(st.sampled_from(NO_IMAGES)), suffix, None, 0, False)
    if kind == "bomb":
        return ImageCase(draw(st.sampled_from(BOMBS)), suffix, None, 0, False)
    mode = draw(st.sampled_from(TAKES_EXIF if kind == "exif" else MODES))
    height, width = draw(st.sampled_from(SIZES))
    content, expected, tolerance = image_file(mode, height, width, draw(st.integers(0, 2**32 - 1)))
    if kind == "exif":
        orientation = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535]))
        content = with_exif(content, orientation)
        expected = TURNED.get(orientation, TURNED[1])(expected)
    whole = expected is not None
    if kind == "more":
        content += draw(st.binary(min_size=1, max_size=50))
    if kind == "cut":
        content, whole = content[: draw(st.integers(0, len(content) - 1))], False
    if kind == "flipped":  # what is right then, no one can say: only that nothing breaks
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]
        expected, whole = np.zeros(0), False
    return ImageCase(content, suffix, expected, tolerance, whole)


def check_image(case: ImageCase) -> None:
    with folder() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's own, of pictures that are large or odd
        path = place / f"picture{case.suffix}"
        path.write_bytes(case.content)
        shown, refused = [], []
        for read in (open_image, read_image, lambda path: open_image("picture", path.read_bytes())):
            try:
                with only_sentences("picture", good=case.whole):
                    shown.append(read(path))
            except Refusal as refusal:
                refused.append(refusal)
        assert not (shown and refused), "one reader refuses what another one shows"
        if refused:
            raise refused[0]
        assert case.expected is not None, "what must be refused was shown"
        for image in shown:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), np.asarray(shown[0])), "two readers show different pictures"
        if case.expected.size:
            got = np.asarray(shown[0]).astype(np.float64)
            assert got.shape == case.expected.shape
            assert np.abs(got - case.expected).max() <= case.tolerance, "another picture is shown"


# ---------------------------------------------------------------------------------------------- VQA v2's JSON files


class Documents(NamedTuple):
    """Questions and annotations as they are written, and the ids of the questions with which nothing is wrong."""

    questions: Any
    annotations: Any
    images: tuple[str, ...]
    good: frozenset[int]
    package: str
    cut: float | None


WRONG_KEYS = ("question_id", "image_id", "question", "answers", "question_type", "answer_type")


@st.composite
def documents(draw) -> Documents:
    count = draw(st.integers(1, 6))
    image_ids = [draw(st.integers(1, 9)) for _ in range(count)]
    questions, annotations = [], []
    for number, image_id in enumerate(image_ids):
        text = draw(whole_texts.filter(lambda text: text.strip()))
        given = draw(st.lists(whole_texts, min_size=1, max_size=10))
        questions.append({"question_id": number, "image_id": image_id, "question": text})
        answers = [{"answer": answer, "answer_id": i} for i, answer in enumerate(given)]
        annotations.append({"question_id": number, "image_id": image_id, "answers": answers, "answer_type": "other"})
    missing = draw(st.sampled_from([None, None, None, *image_ids]))
    images = tuple(f"image{i}.png" for i in range(1, 10) if i != missing)
    good = {number for number, image_id in enumerate(image_ids) if image_id != missing}
    for _ in range(draw(st.integers(0, 2))):
        entries = draw(st.sampled_from([questions, annotations]))
        if not entries:
            continue
        place = draw(st.integers(0, len(entries) - 1))
        entry = entries[place]
        own = entry.get("question_id") if isinstance(entry, dict) else None
        change = draw(st.sampled_from(["value", "value", "key", "entry", "twice", "gone"]))
        if isinstance(own, int) and change != "twice":
            good.discard(own)
        key = draw(st.sampled_from(WRONG_KEYS))
        if change == "value" and isinstance(entry, dict):
            value = draw(junk)
            entries[place] = {**entry, key: value}
            if key == "question_id" and isinstance(value, int) and not isinstance(value, bool):
                good.discard(value)
        elif change == "key" and isinstance(entry, dict):
            entries[place] = {name: value for name, value in entry.items() if name != key}
        elif change == "entry":
            entries[place] = draw(junk)
        elif change == "twice":
            entries.append(entry)
        elif change == "gone":
            del entries[place]
    package = draw(st.sampled_from(["json", "json", "gz", "zip", "utf-16", "bom", "latin-1", "twice"]))
    cut = draw(st.sampled_from([None] * 6 + [0.0, 0.1, 0.5, 0.9, 0.99]))
    return Documents(
        draw(
            st.sampled_from([{"info": {}, "questions": questions}] * 12 + [questions, {}, None, {"questions": None}])
        ),
        {"annotations": annotations},
        images,
        frozenset(good),
        package,
        cut,
    )


def packed(document: Any, package: str, cut: float | None) -> bytes:
    ascii_only = package in ("json", "gz", "zip")
    text = json.dumps(document, ensure_ascii=ascii_only)
    if package == "twice" and isinstance(document, dict) and document:  # the last key is there once more
        text = f"{text[:-1]}, {json.dumps(list(document)[-1])}: []}}"
    if package == "latin-1":
        content = text.encode("latin-1", errors="replace")
    else:
        encoding = {"utf-16": "utf-16", "bom": "utf-8-sig"}.get(package, "utf-8")
        content = text.encode(encoding, errors="surrogatepass")
    if package == "gz":
        content = gzip.compress(content)
    if package == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("file.json", content)
        content = file.getvalue()
    return content if cut is None else content[: int(len(content) * cut)]


def check_documents(case: Documents) -> None:
    with folder() as place:
        (place / "images").mkdir()
        for name in case.images:
            Image.new("RGB", (2, 2)).save(place / "images" / name)
        (place / "questions.json").write_bytes(packed(case.questions, case.package, case.cut))
        (place / "annotations.json").write_bytes(packed(case.annotations, case.package, None))
        log = place / "skipped.tsv"
        files = {
            "questions": place / "questions.json",
            "annotations": place / "annotations.json",
            "images": place / "images",
            "image_pattern": "image{image_id}.png",
        }
        whole = None
        try:
            with only_sentences("questions.json", "annotations.json"):
                whole = load_vqa(**files).to_list()
        except Refusal as refusal:
            told = str(refusal.__cause__)
        with only_sentences("questions.json", "annotations.json"):
            rows = load_vqa(**files, on_error="skip", skipped_log=log).to_list()
        skipped = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()[2:]]
        assert all(len(line) == 4 for line in skipped), "a line of the log is broken"
        # Nothing is dropped in silence: what is not among the rows is in the log, and stopped the strict reading.
        assert (whole is None) == bool(skipped), "skipping and raising disagree"
        if whole is not None:
            assert whole == rows
        else:
            assert f"{len(skipped)} problem(s)" in told
        entries = case.questions["questions"]
        kept = {row["question_id"] for row in rows}
        assert kept >= case.good, "a question with which nothing is wrong was left out"
        of_questions = [line for line in skipped if "/questions.json" in line[1]]
        # A question whose annotation is malformed is listed once, under the annotations' file.
        by_annotation = {line[2] for line in skipped if line[0] == "malformed_entry" and line not in of_questions}
        counted = sum(
            1 for entry in entries
            if isinstance(entry, dict) and f"question_id {entry.get('question_id')!r}"[:72] in by_annotation
        )  # fmt: skip
        assert len(rows) + len(of_questions) <= len(entries) <= len(rows) + len(of_questions) + counted
        assert len(kept) == len(rows), "an id is there twice"
        for row in rows:  # and what is kept is what was written
            wanted = next(
                e for e in entries if isinstance(e, dict) and str(e.get("question_id")) == str(row["question_id"])
            )
            given = next(
                e for e in case.annotations["annotations"]
                if isinstance(e, dict) and str(e.get("question_id")) == str(row["question_id"])
            )  # fmt: skip
            assert row["question"] == as_read(wanted["question"], case.package)
            answers = given["answers"]
            answers = answers["answer"] if isinstance(answers, dict) else answers
            answers = [answer["answer"] if isinstance(answer, dict) else answer for answer in answers]
            assert row["answers"] == [as_read(answer, case.package) for answer in answers]
            assert row["image"] == str(place / "images" / f"image{int(wanted['image_id'])}.png")
        assert case.package != "twice", "of two lists one was dropped"


def as_read(text: str, package: str) -> str:
    return text.encode("latin-1", errors="replace").decode("utf-8", errors="replace") if package == "latin-1" else text


# ------------------------------------------------------------------------------------------------- answers and metric


class Answered(NamedTuple):
    predictions: list
    references: list


@st.composite
def answered(draw) -> Answered:
    some = draw(st.lists(texts, min_size=1, max_size=4))
    one = st.one_of(st.sampled_from(some), st.sampled_from(some), texts)
    count = draw(st.integers(0, 4))
    predictions = [draw(one) for _ in range(count)]
    references = [draw(st.lists(one, min_size=1, max_size=10)) for _ in range(count)]
    if count and draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, count - 1))
        change = draw(st.sampled_from(["prediction", "reference", "answer", "fewer", "empty"]))
        if change == "prediction":
            predictions[place] = draw(junk)
        elif change == "reference":
            references[place] = draw(junk)
        elif change == "answer":
            references[place][0] = draw(junk)
        elif change == "fewer":
            references.pop()
        else:
            references[place] = []
    return Answered(predictions, references)


OFFICIAL_MARKS = [
    ";",
    "/",
    "[",
    "]",
    '"',
    "{",
    "}",
    "(",
    ")",
    "=",
    "+",
    "\\",
    "_",
    "-",
    ">",
    "<",
    "@",
    "`",
    ",",
    "?",
    "!",
]
OFFICIAL_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
                    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip


def official_form(answer: str) -> str:
    """The challenge's processing, step by step, as its description has it; nothing of our own module but the table."""
    form = answer
    for mark in OFFICIAL_MARKS:
        if f"{mark} " in answer or f" {mark}" in answer or re.search(r"(\d)(\,)(\d)", answer) is not None:
            form = form.replace(mark, "")
        else:
            form = form.replace(mark, " ")
    form = re.sub(r"(?!<=\d)(\.)(?!\d)", "", form, count=int(re.UNICODE))
    words = [OFFICIAL_NUMBERS.get(word, word) for word in form.lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(vqa_accuracy._CONTRACTIONS.get(word, word) for word in words)


def official_score(prediction: str, answers: list[str]) -> float:
    prediction, *answers = (text.replace("\n", " ").replace("\t", " ").strip() for text in (prediction, *answers))
    if len(set(answers)) > 1:
        prediction, *answers = map(official_form, (prediction, *answers))
    scores = []
    for left_out in range(len(answers)):
        alike = [a for i, a in enumerate(answers) if i != left_out and a == prediction]
        scores.append(min(1, len(alike) / 3))
    return sum(scores) / len(scores)


@functools.cache
def the_metric():
    return vqa_accuracy.VQAAccuracy()


def check_metric(case: Answered) -> None:
    predictions, references = case
    good = (
        len(predictions) == len(references) > 0
        and all(isinstance(p, str) for p in predictions)
        and all(isinstance(r, list) and r and all(isinstance(a, str) for a in r) for r in references)
    )
    with warnings.catch_warnings(), only_sentences("predictions", "references", good=good):
        warnings.simplefilter("ignore")  # of questions with fewer than four answers
        result = the_metric().compute(predictions=predictions, references=references, per_question=True)
    assert good, "what cannot be scored was scored"
    wanted = [100 * official_score(p, r) for p, r in zip(predictions, references, strict=True)]
    assert result["per_question"] == wanted
    assert result["vqa_accuracy"] == 100 * float(sum(official_score(p, r) for p, r in zip(*case, strict=True))) / len(
        wanted
    )


def check_vocabulary(case: Answered) -> None:
    """Answers of one form are one class, none of them empty; a question's class is that of its most common answer."""
    answers = case.references
    good = bool(answers) and all(
        isinstance(row, list) and row and all(isinstance(a, str) for a in row) for row in answers
    )
    forms = [list(map(vqa_accuracy.answer_form, row)) for row in answers] if good else []
    common = [max(dict.fromkeys(row), key=row.count) for row in forms]
    good = good and any(common)  # where nothing can be read there is nothing to learn
    with only_sentences("question", "answers", "Answers", good=good):
        vocabulary = AnswerVocabulary.from_answers(answers)
    assert good, "answers that are none made a vocabulary"
    ids = {vqa_accuracy.answer_form(label): i for i, label in vocabulary.id2label.items()}
    assert len(ids) == len(vocabulary.id2label), "two classes are one answer"
    assert ids.keys() == set(common) - {""}
    hard, soft = vocabulary.hard_targets(answers), vocabulary.soft_targets(answers)
    assert hard.tolist() == [ids.get(form, -100) for form in common]
    for row, scores in zip(forms, soft.tolist(), strict=True):
        for form, i in ids.items():
            assert abs(scores[i] - min(row.count(form) / min(3, len(row)), 1)) < 1e-6
    again = AnswerVocabulary.from_id2label(json.loads(json.dumps(vocabulary.id2label)))
    assert again.id2label == vocabulary.id2label
    known = sum(form in ids for row in forms for form in row)
    assert vocabulary.coverage(answers).answers == known / sum(map(len, forms))


# --------------------------------------------------------------------------------------------------------- questions

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "what",
    "is",
    "it",
    "?",
    "red",
    "a",
    "dog",
    "two",
    "1",
    ".",
    ",",
]


@functools.cache
def processors() -> dict[str, UMEProcessor]:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], pad_token="[PAD]"
    )
    bert = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=12)
    images = ViTImageProcessor(size={"height": 32, "width": 32})
    return {"bert": UMEProcessor(images, bert), "words": UMEProcessor(images, plain)}


class Asked(NamedTuple):
    tokenizer: str
    questions: Any


asked = st.builds(
    Asked,
    st.sampled_from(["bert", "words"]),
    st.one_of(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4), texts, junk,
              st.lists(junk, max_size=3)),
)  # fmt: skip


@functools.cache
def question_model() -> UMEForVisualQuestionAnswering:
    return tiny_model(fusion="concat")


@torch.no_grad()
def check_questions(case: Asked) -> None:
    processor = processors()[case.tokenizer]
    questions = [case.questions] if isinstance(case.questions, str) else case.questions
    good = isinstance(questions, list) and bool(questions) and all(map(is_whole, questions))
    with only_sentences("question", "text", good=good):
        batch = processor(text=case.questions)
    assert good, "what is no question was taken for one"
    backend = processor.tokenizer.backend_tokenizer
    limit = min(processor.tokenizer.model_max_length, 10**9)
    collated = VQACollator(processor, inputs="question")(
        [{"question": q, "question_id": i, "image": ""} for i, q in enumerate(questions)]
    )
    for question, ids, mask, collated_ids in zip(
        questions, batch["input_ids"], batch["attention_mask"], collated["input_ids"], strict=True
    ):
        backend.no_padding()
        backend.no_truncation()
        alone = backend.encode(question).ids
        if len(alone) > limit:
            alone = [*alone[: limit - 1], alone[-1]]  # the last one closes the question
        assert ids[mask.bool()].tolist() == alone
        assert torch.equal(ids, collated_ids), "training reads the question in another way"
    images = torch.zeros(len(questions), 3, 32, 32)
    if batch["input_ids"].shape[1] <= 512:
        logits = question_model()(**batch, pixel_values=images).logits
        assert torch.isfinite(logits).all()


# ---------------------------------------------------------------------------------------------------- config fields

COUNTS = st.one_of(st.integers(-2, 40), st.sampled_from([None, True, "8", 8.0, 2**40, [8], float("nan")]))
RATES = st.one_of(st.floats(-0.5, 1.5), st.sampled_from([0, 1, True, None, "0.1", float("nan"), float("inf"), [0.1]]))
POOLINGS = st.sampled_from(["auto", "cls", "mean", "pooler", "last", "Mean", "", None, 0, ["cls"]])
FIELDS = {
    "fusion": st.one_of(st.sampled_from(sorted(FUSIONS)), st.sampled_from(["UME", "", None, 3, ["ume"], {"ume": 1}])),
    "fusion_hidden_size": COUNTS.filter(lambda n: n is not None),
    "fusion_num_heads": COUNTS,
    "fusion_num_layers": COUNTS.filter(lambda n: n is not None),
    "fusion_rank": COUNTS,
    "feature_grid": COUNTS,
    "fusion_dropout": RATES,
    "classifier_dropout": RATES,
    "modality_dropout": st.one_of(
        RATES, st.dictionaries(st.sampled_from(["text", "vision", "image", 3]), RATES, max_size=3)
    ),
    "text_pooling": POOLINGS,
    "vision_pooling": POOLINGS,
    "problem_type": st.sampled_from(
        ["single_label_classification", "multi_label_classification", "regression", "", 1, ["x"]]
    ),
    "label_mean": st.sampled_from([None, 0, 1.5, [1.0, 2.0], [], "1", float("nan"), [None], True]),
    "label_std": st.sampled_from([None, 0, 1.5, [1.0, 2.0], -1, [[1.0]], float("inf")]),
    "label_transform": st.sampled_from([None, "log", "sqrt", 1, ["log"]]),
    "regression_loss": st.sampled_from([None, "mse", "huber", "", 1]),
    "num_labels": st.sampled_from([2, 3, 1, 0, -1, True, "7", 2.0]),
    "id2label": st.one_of(
        st.dictionaries(st.one_of(st.integers(-1, 4), st.sampled_from(["0", "1", "x", None, 1.5])), junk, max_size=4),
        st.lists(whole_texts, min_size=2, max_size=4, unique=True).map(lambda names: dict(enumerate(names))),
        st.sampled_from([["no", "yes"], "no", 5]),
    ),
    "label2id": st.sampled_from([{"no": 0, "yes": 1}, {"no": 0}, {"yes": "x", "no": 0}, [], 7]),
    "text_config": st.sampled_from(
        [{}, {"model_type": "bert", "hidden_size": 16}, {"model_type": "no_such"}, {"model_type": 5},
         {"model_type": "vit"},
         {"model_type": "bert", "hidden_size": "wide"}, {"model_type": ["bert"]}, "bert", 5, [], {"hidden_size": 4}]
    ),
    "vision_config": st.sampled_from(
        [{}, {"model_type": "vit", "hidden_size": 16}, {"model_type": "no_such"}, {"model_type": "bert"}, "vit", 5, [],
         {"model_type": "vit", "image_size": "large"}]
    ),
}  # fmt: skip


@st.composite
def config_cases(draw) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True))
    return {name: draw(FIELDS[name]) for name in names}


def whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_config(case: dict[str, Any]) -> None:
    with only_sentences(*case):
        config = UMEConfig(**case)
    # What was taken lies where the documentation says that it lies, and comes back from JSON as it was.
    assert config.fusion in FUSIONS
    assert whole_number(config.fusion_hidden_size)
    assert whole_number(config.fusion_num_layers)
    for name in ("fusion_num_heads", "fusion_rank", "feature_grid"):
        assert getattr(config, name) is None or whole_number(getattr(config, name))
    lost = config.modality_dropout
    lost = list(lost.values()) if isinstance(lost, dict) else [lost]
    for rate in (config.fusion_dropout, config.classifier_dropout, *lost):
        assert 0 <= rate < 1
    for name in ("text_pooling", "vision_pooling"):
        assert getattr(config, name) in ("auto", "cls", "mean", "pooler", "last")
    assert sorted(config.id2label) == list(range(config.num_labels))
    assert all(map(is_whole, config.id2label.values()))
    assert {name: i for i, name in config.id2label.items()} == config.label2id
    with folder() as place:
        config.save_pretrained(place)
        again = UMEConfig.from_pretrained(place)
    assert again.to_dict() == config.to_dict()
    for name, value in case.items():
        if name not in ("id2label", "label2id", "text_config", "vision_config"):
            assert getattr(config, name) == value


# ------------------------------------------------------------------------------------ shapes, masks, dtypes of a batch


class Batch(NamedTuple):
    fusion: str
    problem_type: str
    inputs: dict[str, torch.Tensor]
    good: bool
    changed: str


INT_TYPES = [torch.int64, torch.int32]
MASK_TYPES = [torch.int64, torch.bool, torch.int32, torch.float32]
PIXEL_TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def batches(draw) -> Batch:
    size, images, length = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def draw_ids(*shape: int, top: int = VOCAB_SIZE) -> torch.Tensor:
        return torch.randint(top, shape, generator=generator)

    # Padding on either side, gaps and rows without any token are all masks.
    mask = draw_ids(size, length, top=2) if draw(st.booleans()) else torch.ones(size, length, dtype=torch.long)
    inputs = {
        "input_ids": draw_ids(size, length).to(draw(st.sampled_from(INT_TYPES))),
        "attention_mask": mask.to(draw(st.sampled_from(MASK_TYPES))),
        "pixel_values": torch.randn(images, 3, 32, 32, generator=generator).to(draw(st.sampled_from(PIXEL_TYPES))),
        "image_index": draw_ids(size, top=images),
    }
    if draw(st.booleans()):
        inputs["text_present"] = draw_ids(size, top=2).to(draw(st.sampled_from(MASK_TYPES)))
    if draw(st.booleans()):
        inputs["image_present"] = draw_ids(size, top=2).to(draw(st.sampled_from(MASK_TYPES)))
    if draw(st.booleans()):
        inputs["labels"] = draw_ids(size, top=7)
    problem_type = draw(st.sampled_from(["single_label_classification", "multi_label_classification"]))
    if "labels" in inputs and problem_type == "multi_label_classification":
        inputs["labels"] = torch.rand(size, 7, generator=generator)
    bad = draw(st.sampled_from([None] * 3 + sorted(SPOILED)))
    if bad is not None:
        inputs = SPOILED[bad](dict(inputs))
    fusion = draw(st.sampled_from(sorted(FUSIONS)))
    return Batch(fusion, problem_type, inputs, bad is None, bad or "")


def spoil(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[dict], dict]:
    return lambda inputs: {**inputs, name: change(inputs[name])}


def one_more_row(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[:1]])


SPOILED: dict[str, Callable[[dict], dict]] = {
    "input_ids beyond the vocabulary": spoil("input_ids", lambda x: x + VOCAB_SIZE),
    "input_ids below zero": spoil("input_ids", lambda x: x - VOCAB_SIZE),
    "input_ids as floats": spoil("input_ids", lambda x: x.float()),
    "input_ids of one question": spoil("input_ids", lambda x: x[0]),
    "input_ids as a list": spoil("input_ids", lambda x: x.tolist()),
    "input_ids without a column": spoil("input_ids", lambda x: x[:, :0]),
    "attention_mask too long": spoil("attention_mask", lambda x: torch.cat([x, x], 1)),
    "attention_mask of another batch": spoil("attention_mask", one_more_row),
    "attention_mask of one question": spoil("attention_mask", lambda x: x[0]),
    "pixel_values of one image": spoil("pixel_values", lambda x: x[0]),
    "pixel_values with one channel": spoil("pixel_values", lambda x: x[:, :1]),
    "pixel_values with the channels last": spoil("pixel_values", lambda x: x.permute(0, 2, 3, 1)),
    "pixel_values as integers": spoil("pixel_values", lambda x: x.long()),
    "pixel_values of no image": spoil("pixel_values", lambda x: x[:0]),
    "image_index beyond the images": spoil("image_index", lambda x: x + 3),
    "image_index below zero": spoil("image_index", lambda x: x - 3),
    "image_index as floats": spoil("image_index", lambda x: x.float()),
    "image_index too long": spoil("image_index", one_more_row),
    "image_index as a column": spoil("image_index", lambda x: x[:, None]),
    "text_present too long": lambda inputs: {**inputs, "text_present": torch.ones(len(inputs["input_ids"]) + 1)},
    "image_present as a table": lambda inputs: {**inputs, "image_present": torch.ones(len(inputs["input_ids"]), 2)},
    "labels beyond the answers": lambda inputs: {**inputs, "labels": torch.full((len(inputs["input_ids"]),), 7)},
    "labels below zero": lambda inputs: {**inputs, "labels": torch.full((len(inputs["input_ids"]),), -1)},
    "labels of another batch": lambda inputs: {**inputs, "labels": torch.zeros(len(inputs["input_ids"]) + 1).long()},
    "labels of other answers": lambda inputs: {**inputs, "labels": torch.rand(len(inputs["input_ids"]), 8)},
}


@functools.cache
def model_of(fusion: str, problem_type: str) -> UMEForVisualQuestionAnswering:
    return tiny_model(fusion=fusion, problem_type=problem_type)


@torch.no_grad()
def check_batch(case: Batch) -> None:
    model, inputs = model_of(case.fusion, case.problem_type), case.inputs
    named = case.changed.partition(" ")[0]
    with only_sentences(named, good=case.good):
        output = model(**inputs)
    assert case.good, f"{case.changed}: taken without a word"
    logits = output.logits
    assert logits.shape == (len(inputs["input_ids"]), 7)
    assert torch.isfinite(logits).all()
    if "labels" in inputs:
        assert torch.isfinite(output.loss)
    for row in range(len(logits)):  # every row is what it is alone, without its padding and whatever is absent
        real = inputs["attention_mask"][row].bool()
        if "text_present" in inputs:
            real = real & inputs["text_present"][row].bool()
        alone = {}
        if real.any():
            alone["input_ids"] = inputs["input_ids"][row : row + 1].long()
            alone["attention_mask"] = real[None].long()
        if "image_present" not in inputs or inputs["image_present"][row]:
            alone["pixel_values"] = inputs["pixel_values"][inputs["image_index"][row : row + 1]].float()
        if not alone:
            continue
        expected = model(**alone).logits[0]
        torch.testing.assert_close(logits[row], expected, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------ arrays for the processor


class Pixels(NamedTuple):
    array: Any
    good: bool


@st.composite
def pixel_arrays(draw) -> Pixels:
    height, width = draw(st.sampled_from([(4, 5), (9, 7), (32, 32), (5, 40)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    change = draw(
        st.sampled_from(
            ["none", "first", "tensor", "grey", "alpha", "empty", "flat", "objects", "nan", "text", "batch"]
        )
    )
    changed = {
        "none": lambda: array,
        "first": lambda: array.transpose(2, 0, 1),
        "tensor": lambda: torch.from_numpy(array.transpose(2, 0, 1).copy()),
        "grey": lambda: array[..., 0],
        "alpha": lambda: rng.integers(0, 256, (height, width, 4), dtype=np.uint8),
        "empty": lambda: array[:0],
        "flat": lambda: array.ravel(),
        "objects": lambda: array.astype(object),
        "nan": lambda: np.full((height, width, 3), np.nan),
        "batch": lambda: array[None],
        "text": lambda: np.full((height, width, 3), "x"),
    }[change]()
    return Pixels(changed, change in ("none", "first", "tensor", "grey", "alpha", "batch"))


def check_pixels(case: Pixels) -> None:
    processor = processors()["bert"]
    with only_sentences("image", good=case.good):
        pixels = processor(images=case.array)["pixel_values"]
    assert case.good, "what is no picture was taken for one"
    array = np.asarray(case.array)
    array = array[0] if array.ndim == 4 else array
    array = array.transpose(1, 2, 0) if array.shape[0] == 3 else array
    expected = processor(images=Image.fromarray(np.ascontiguousarray(array)))["pixel_values"]
    torch.testing.assert_close(pixels, expected)


# ------------------------------------------------------------------------------------------- files that a run wrote


@dataclass(frozen=True)
class Damage:
    """One file of a folder, and what is done to it. In JSON, `path` leads to the value that is changed."""

    file: int
    change: str
    place: float
    value: Any


damages = st.builds(
    Damage,
    st.integers(0, 20),
    st.sampled_from(["cut", "cut", "value", "value", "value", "key", "gone", "empty", "nothing", "garbage"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(
        junk.filter(lambda value: value != HALF_PAIR), st.sampled_from(["../../outside.bin", "/etc/passwd", -1])
    ),
)


def places_in(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places_in(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            found += places_in(inner, (*path, i))
    return found


def apply(damage: Damage, root: Path, only: re.Pattern) -> str:
    """Damages one file below `root`; returns its name."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and only.search(path.name))
    path = files[damage.file % len(files)]
    content = path.read_bytes()
    if damage.change == "gone":
        path.unlink()
    elif damage.change == "empty":
        path.write_bytes(b"")
    elif damage.change == "garbage":
        path.write_bytes(b"\xff\x00garbage" * 20)
    elif damage.change == "cut":
        path.write_bytes(content[: int(len(content) * damage.place)])
    elif damage.change in ("value", "key") and path.suffix == ".json":
        document = json.loads(content)
        places = places_in(document)
        *way, last = places[int(damage.place * len(places))]
        inner = document
        for key in way:
            inner = inner[key]
        if damage.change == "value":
            inner[last] = damage.value
        else:
            del inner[last]
        path.write_text(json.dumps(document))
    return path.name


@functools.cache
def cached_features() -> tuple[Path, list[str], dict[str, torch.Tensor]]:
    place = Path(tempfile.mkdtemp(prefix="ume-odd-features-"))
    questions = ["what is it", "red ?", "a dog . a dog", "two"]
    model = tiny_model()
    processor = processors()["bert"]
    rows = [{"question_id": i, "question": question, "image": ""} for i, question in enumerate(questions)]
    origin = {"name": None, "revision": None}
    collator = VQACollator(processor, inputs="question")
    build_features(place / "text", "text", model, collator, rows, origin)
    return place / "text", questions, FeatureCache(place / "text").batch(questions)


def check_features(case: Damage) -> None:
    source, questions, expected = cached_features()
    with folder() as place:
        shutil.copytree(source, place / "text")
        (place / "outside.bin").write_bytes(b"\0" * 10_000)
        name = apply(case, place / "text", re.compile(""))
        with only_sentences(name, Path(name).stem, str(place)):
            cache = FeatureCache(place / "text")
            cache.verify()
            batch = cache.batch(questions)
    for key, value in expected.items():
        assert torch.equal(batch[key], value), "other features were read"


@functools.cache
def saved_model() -> UMEForVisualQuestionAnswering:
    return tiny_model(id2label={i: f"answer {i}" for i in range(7)})


@functools.cache
def saved_checkpoint() -> tuple[Path, torch.Tensor]:
    place = Path(tempfile.mkdtemp(prefix="ume-odd-model-"))
    model = saved_model()
    processor = UMEProcessor(*_parts(processors()["bert"]), id2label=model.config.id2label)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    with torch.no_grad():
        return place, model(**tiny_batch()).logits


def _parts(processor: UMEProcessor) -> tuple:
    return processor.image_processor, processor.tokenizer


@torch.no_grad()
def check_checkpoint(case: Damage) -> None:
    source, expected = saved_checkpoint()
    with folder() as place:
        shutil.copytree(source, place / "model")
        apply(case, place / "model", re.compile(r"\.(json|safetensors)$"))
        with only_sentences(str(place)):
            model, processor = load_checkpoint(str(place / "model"))
    if case.change in ("value", "key"):  # other settings make another model, but of the same weights
        assert model.state_dict().keys() == saved_model().state_dict().keys()
        for name, value in saved_model().state_dict().items():
            assert torch.equal(model.state_dict()[name], value), f"{name} is not what was saved"
        return
    torch.testing.assert_close(model(**tiny_batch()).logits, expected)
    assert processor(text="what is it ?")["input_ids"].tolist() == [[2, 5, 6, 7, 8, 3]]


# ----------------------------------------------------------------------------------------------------------- recipes


@st.composite
def recipe_texts(draw) -> tuple[str, str | None, Any]:
    """(YAML, the field that was changed or None, its value)."""
    recipe = {
        "text_config": {"model_type": "bert", "hidden_size": 16}, "tokenizer": "words", "image_size": 16,
        "vision_config": {"model_type": "vit", "hidden_size": 16}, "fusion": "ume", "fusion_hidden_size": 16,
        "source": "easy_vqa", "validation_fraction": 0.25, "num_train_epochs": 3, "learning_rate": 0.001,
        "use_cpu": True,
    }  # fmt: skip
    change = draw(st.sampled_from(["none", "value", "value", "value", "name", "cut", "text", "bytes"]))
    if change == "value":
        name = draw(st.sampled_from([*sorted(recipe), "seeds", "top_k_answers", "fusion_rank", "image_mean",
                                     "freeze_text", "image_cache_mb", "max_question_length", "lora_r"]))  # fmt: skip
        value = draw(st.one_of(junk, st.sampled_from([[1, 1], ["a", "b"], -1, 0, "null", "ume", 1e400, {"x": 1}])))
        return json.dumps({**recipe, name: value}), name, value
    if change == "name":
        name = draw(st.text(max_size=10))
        return json.dumps({**recipe, name: 1}), name, 1
    text = json.dumps(recipe)
    if change == "cut":
        text = text[: draw(st.integers(0, len(text) - 1))]
    if change == "text":
        text = draw(st.sampled_from(["", "just words", "- a\n- b", "[" * 500, "a: &a [*a]", "a: b: c",
                                     "!!python/object:os.system x", "\ud83d", "\0", "? [a]\n: b",
                                     "fusion: !!binary aGVsbG8=", "seed: 2026-01-01"]))  # fmt: skip
    if change == "bytes":
        text = draw(st.sampled_from(["\ud800\udfff", "fusion: caf\udce9"]))
    return text, None if change == "none" else "", None


def check_recipe(case: tuple[str, str | None, Any]) -> None:
    text, name, value = case
    with folder() as place:
        path = place / "recipe.yaml"
        path.write_bytes(text.encode("utf-8", errors="surrogateescape" if "\udce9" in text else "surrogatepass"))
        named = [name] if name else ["recipe.yaml", "text_config", "text_model"]
        with only_sentences("recipe.yaml", *named, good=name is None), contextlib.redirect_stderr(io.StringIO()):
            recipe = parse_recipe([str(path)])
    assert recipe.training.output_dir == "runs/recipe"
    if name is None:
        assert (recipe.model.fusion_hidden_size, recipe.training.learning_rate) == (16, 0.001)
    elif name:
        part = next(part for part in recipe[1:] if hasattr(part, name))
        got = getattr(part, name)
        if isinstance(got, bool):
            assert str(value).lower() in (["yes", "true", "t", "y", "1"] if got else ["no", "false", "f", "n", "0"])
            return
        alike = {str(value), json.dumps(value), json.dumps([value]), str([value])}
        empty = got is None and value in (None, "null", [None])
        assert got in (value, [value]) or empty or {str(got), json.dumps(got)} & alike, f"{name}={got!r}"


# --------------------------------------------------------------------------------------------------------- all of it

KINDS = {
    "image files": Kind(image_cases(), check_image, 400),
    "VQA JSON files": Kind(documents(), check_documents, 250),
    "answers, scored": Kind(answered(), check_metric, 200),
    "answers, as a vocabulary": Kind(answered(), check_vocabulary, 200),
    "questions": Kind(asked, check_questions, 200),
    "config fields": Kind(config_cases(), check_config, 200),
    "batches: shapes, masks, types": Kind(batches(), check_batch, 250),
    "images as arrays": Kind(pixel_arrays(), check_pixels, 60),
    "recipes": Kind(recipe_texts(), check_recipe, 100),
    "feature caches, damaged": Kind(damages, check_features, 80),
    "checkpoints, damaged": Kind(damages, check_checkpoint, 60),
}
