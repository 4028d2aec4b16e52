"""The page's models: loading them, reading what visitors bring, answering and giving reasons."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.images_ume import to_rgb
from modeling_ume.padding_ume import unpadded
from modeling_ume.pipeline_ume import UMEVQAPipeline
from training_ume.evaluation.load import load_checkpoint
from training_ume.explain.attribution import integrated_map
from training_ume.explain.explanation import answer_id
from training_ume.explain.shapley import names_of, shapley_values, subset_probabilities

MAX_UPLOAD = 10 * 2**20  # bytes
MAX_PIXELS = (
    40_000_000  # read from the header, before anything is decoded; a telephone's pictures have 12 to 24 million
)
MAX_QUESTION = 300  # characters
SIDE = 1024  # pixels; larger images are scaled down once, so that each question costs the same
KEPT_ANSWERS = 8  # questions that stay on the page
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # no decoder that few people use reads a stranger's file
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TOP_K = 5
MAP_PIXELS = 320  # of the longer side of a heat map


@dataclass
class Judge:
    """A model that answers on the page, and what the page calls it; one call at a time, as tokenizers need."""

    title: str
    model: UMEForVisualQuestionAnswering
    processor: UMEProcessor
    pipeline: UMEVQAPipeline = field(init=False)
    lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self):
        self.pipeline = UMEVQAPipeline(
            model=self.model, processor=self.processor, device=self.model.device, top_k=TOP_K
        )


@dataclass
class Reasons:
    """Why a model gave its best answer.

    Attributes:
        heat: the image in grey with what speaks for the answer in colour.
        speaks_for: whether any part of the image does.
        start: the answer's probability without anything; with all it is that and the sum of `shapley`.
        shapley: what each modality adds to the probability, by its name.
    """

    heat: Image.Image
    speaks_for: bool
    start: float
    shapley: dict[str, float]


@dataclass
class Card:
    """A question, each model's best answers `{"answer", "score"}`, and each model's reasons once they are known."""

    question: str
    answers: list[list[dict]]
    reasons: list[Reasons] | None = None


@dataclass
class Visit:
    """What the page remembers of one visitor: the image and the last questions about it, the newest first."""

    image: Image.Image | None = None
    cards: list[Card] = field(default_factory=list)


# ------------------------------------------------------------------------------------------ images, questions, answers


def read_upload(path: str | Path | None) -> Image.Image:
    """
    Reads a stranger's file as an upright RGB image with a longer side of at most 1024 pixels.

    Raises:
        ValueError: when there is none, or when it is too large, has too many pixels, or is no image that can be read.
    """
    if path is None:
        raise ValueError("There is no image: upload one, or pick an example.")
    if not isinstance(path, (str, Path)) or "\0" in str(path):
        raise ValueError("What was sent is no image: upload one, or pick an example.")
    path = Path(path)
    name = f"The file “{path.name[-60:]}”"
    if not path.is_file():
        raise ValueError(f"{name} is no longer here: upload it again.")
    if path.stat().st_size > MAX_UPLOAD:
        raise ValueError(f"{name} is larger than {MAX_UPLOAD // 2**20} MB: choose a smaller one.")
    too_many = f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down first."
    try:
        with Image.open(path, formats=FORMATS) as opened:  # the header only
            image = to_rgb(opened) if opened.width * opened.height <= MAX_PIXELS else None
    except Image.DecompressionBombError:
        raise ValueError(too_many) from None
    except Exception as error:  # a decoder raises whatever it likes for a broken file
        raise ValueError(
            f"{name} is not an image that can be read: choose a JPEG, PNG, WebP, GIF or BMP picture."
        ) from error
    if image is None:
        raise ValueError(too_many)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def read_question(question: str | None) -> str:
    """The question without spaces around it; ValueError for an empty or an endless one."""
    if question is not None and not isinstance(question, str):
        raise ValueError("The question is no text: write what you want to know about the image.")
    question = (question or "").strip()
    if not question:
        raise ValueError("The question is empty: write what you want to know about the image.")
    if len(question) > MAX_QUESTION:
        raise ValueError(
            f"The question has {len(question)} characters: ask it in {MAX_QUESTION} or fewer, one question at a time."
        )
    return question


def chosen(examples: list, number) -> object:
    """The example of that number; ValueError for anything that is not the number of one."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(examples):
        raise ValueError("There is no such example: pick one of those on the page.")
    return examples[number]


def load_judges(names: list[str], trust_remote_code: bool = False) -> list[Judge]:
    """Loads one or two models by folder or Hub name; ValueError as `load_checkpoint`, and for another number."""
    if len(names) not in (1, 2):
        raise ValueError(f"{len(names)} models were named: the page shows one, or two side by side.")
    judges = []
    for name in names:
        model, processor = load_checkpoint(name, trust_remote_code)
        folder = folder_name(name) if Path(name).is_dir() else name.rsplit("/", 1)[-1]
        title = folder if folder == model.config.fusion else f"{folder} · fusion {model.config.fusion}"
        judges.append(Judge(title, model, processor))
    return judges


def folder_name(folder: str | Path) -> str:
    """Its last part, also of `.`; a link keeps its own name."""
    return os.path.basename(os.path.abspath(folder))


def answer(judges: list[Judge], visit: Visit, question: str | None) -> Visit:
    """The visit with one more question and its answers; ValueError without an image, or as `read_question`."""
    if visit.image is None:
        read_upload(None)
    card = Card(read_question(question), [])
    for judge in judges:
        with judge.lock:
            card.answers.append(judge.pipeline(visit.image, card.question))
    return Visit(visit.image, [card, *visit.cards][:KEPT_ANSWERS])


def give_reasons(judges: list[Judge], visit: Visit) -> Visit:
    """The visit with reasons for the newest answers that have none yet."""
    cards = list(visit.cards)
    for number, card in enumerate(cards):
        if card.reasons is None:
            reasons = []
            for judge, answers in zip(judges, card.answers, strict=True):
                with judge.lock:
                    reasons.append(reasons_for(judge, visit.image, card.question, answers[0]["answer"]))
            cards[number] = Card(card.question, card.answers, reasons)
            break
    return Visit(visit.image, cards)


def reasons_for(judge: Judge, image: Image.Image, question: str, said: str) -> Reasons:
    """Integrated gradients over the image and Shapley values of both modalities, as docs/explain.md says them."""
    model, processor = judge.model, judge.processor
    target = answer_id(model, said)
    inputs = processor(images=image, text=question)
    seen = processor(images=image, images_kwargs={"do_normalize": False})["pixel_values"][0]  # [3, H, W]
    [own] = unpadded(inputs["pixel_values"], inputs.pop("pixel_mask", None))
    inputs["pixel_values"], seen = own[None], seen[:, : own.shape[1], : own.shape[2]]
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    cells, _ = integrated_map(model, inputs, target)
    with torch.no_grad():
        encoded = model.encode_images(inputs.pop("pixel_values"))
    values = subset_probabilities(model, {**inputs, **encoded}, torch.tensor([target]))[0]
    shapley = dict(zip(names_of(model), shapley_values(values).tolist(), strict=True))
    cells = cells.clamp(min=0).cpu().numpy()
    heat = heat_map(seen.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), cells)
    return Reasons(heat, bool(cells.any()), values[0].item(), shapley)


def heat_map(seen: np.ndarray, cells: np.ndarray) -> Image.Image:
    """
    The image [H, W, 3] in 0 … 1, pale and grey, under the map [h, w] ≥ 0 from clear over orange to dark red.

    Each cell keeps its edges: a smooth picture would promise more places than the map has.
    """
    scale = MAP_PIXELS / max(seen.shape[:2])
    size = tuple(round(scale * side) for side in seen.shape[1::-1])
    strength = cells / (cells.max() or 1)
    strength = np.asarray(Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    grey = Image.fromarray((255 * seen.mean(-1)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pale = 0.45 + 0.55 * np.asarray(grey, np.float32)[..., None] / 255
    steps = np.array([0.0, 0.5, 1.0])
    colours = np.array([[1.0, 0.85, 0.35], [0.96, 0.45, 0.10], [0.65, 0.0, 0.15]])
    colour = np.stack([np.interp(strength, steps, channel) for channel in colours.T], -1)
    opacity = 0.85 * np.sqrt(strength)[..., None]
    return Image.fromarray((255 * (pale * (1 - opacity) + colour * opacity)).round().astype(np.uint8))
