"""Tracing a model into its ONNX graphs: an image encoder, and the rest."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.text_ume import UNLIMITED, position_limit
from training_ume.records.files import first_line

IMAGE_ENCODER, QUESTION_FUSION = "image_encoder", "question_fusion"
GRAPHS = (IMAGE_ENCODER, QUESTION_FUSION)
PRECISIONS = {"fp32": ".onnx", "int8": ".int8.onnx"}
ABOUT = "onnx.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A graph's longest question where neither tokenizer nor encoder knows a limit: torch.export wants one.
LONGEST = 512

# Of clearly different lengths, so that their batch is padded; what they say does not matter.
ASKED = (
    "what colour is the small shape in the upper left corner of the picture?",
    "is it red?",
    "how many people are there in the image?",
    "is there a dog?",
)


def need_onnx() -> None:
    """Raises ImportError, saying what to install, where a package of the `export` extra is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: `pip install 'ume[export]'` and try again.")


class ImageEncoder(nn.Module):
    """pixel_values [U, 3, H, W] → vision_states [U, N, D_m] and vision_pooled [U, D_p]."""

    def __init__(self, model: UMEForVisualQuestionAnswering):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        image = self.model.ume.encode_image(pixel_values)
        return image.states, image.pooled


class QuestionFusion(nn.Module):
    """Questions [B, L] and the states of U images → logits [B, C].

    Args:
        grid: height and width of the grid that the last of the image's tokens form; None: they form none.
        names: of the inputs, in the order in which `forward` gets them.
    """

    def __init__(self, model: UMEForVisualQuestionAnswering, grid: tuple[int, int] | None, names: list[str]):
        super().__init__()
        self.model = model
        self.grid = grid
        self.names = names

    def forward(self, *values: Tensor) -> Tensor:
        grid = {} if self.grid is None else {"vision_grid": torch.tensor(self.grid)}
        return self.model(**dict(zip(self.names, values, strict=True)), **grid).logits


@dataclass
class Traced:
    """A module ready for `torch.export`.

    Attributes:
        module: `ImageEncoder`, or what gets its inputs as `forward(*values)`.
        inputs: by name, an example whose sizes stand for all others.
        outputs: names of what comes out.
        dynamic: for each input, which of its dimensions may have another size.
        what: what a sentence calls it that says why it cannot be exported; of the two parts of a model of questions
            and images, this says it itself.
        multiple: of what the second size of its inputs has to be one, where it is open.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    dynamic: dict[str, dict]
    what: str | None = None
    multiple: int = 1

    def program(self) -> torch.export.ExportedProgram:
        """What `torch.export` makes of it.

        Raises:
            ValueError: when it cannot; the model does something that depends on values, or fixes a size.
        """
        try:
            with torch.no_grad(), _quiet():
                # Of a forward(*values), all values are one argument.
                shapes = [self.dynamic[name] for name in self.inputs]
                shapes = (tuple(shapes),) if not isinstance(self.module, ImageEncoder) else tuple(shapes)
                return torch.export.export(self.module, tuple(self.inputs.values()), dynamic_shapes=shapes)
        except Exception as error:  # tracing runs all of a model's code, which raises what it likes
            raise ValueError(self._refusal(error)) from error

    def save(self, path: Path) -> int:
        """Writes the ONNX graph and returns its opset.

        Raises:
            ValueError: when the model does something that ONNX has no operator for.
        """
        program = self.program()
        try:
            with _quiet():
                onnx = torch.onnx.export(
                    program,
                    input_names=list(self.inputs),
                    output_names=self.outputs,
                    dynamo=True,
                    verbose=False,
                )
                self._name_sizes(onnx.model.graph)
                onnx.save(path)
        except Exception as error:
            raise ValueError(self._refusal(error)) from error
        return onnx.model.opset_imports[""]

    def _name_sizes(self, graph) -> None:
        """Says "questions" where torch has numbered the size."""
        names = {
            str(value.shape[axis].value): size.__name__
            for value in graph.inputs
            for axis, size in self.dynamic[value.name].items()
            if value.shape is not None
        }
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            for axis, size in enumerate(value.shape or ()):
                if str(size) in names:
                    value.shape[axis] = names[str(size)]

    def _refusal(self, error: Exception) -> str:
        model = self.module.model
        part = self.what or f"The image encoder {model.config.vision_config.model_type!r}"
        if self.what is None and isinstance(self.module, QuestionFusion):
            part = f"The text encoder {model.config.text_config.model_type!r} with fusion={model.config.fusion!r}"
        # What torch.onnx says first is how to report it; the cause stands below.
        cause = error if error.__cause__ is None else error.__cause__
        return f"{part} cannot be exported ({type(cause).__name__}: {first_line(cause)})."


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of torch's exporter on packages that it does not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _plain_attention(model: UMEForVisualQuestionAnswering) -> Iterator[None]:
    """The encoders with attention written out: of the fused one, torch's exporter breaks some (Swin's, T5's)."""
    encoders = model._encoders()
    fused = [(encoder, encoder.config._attn_implementation) for encoder in encoders]
    fused = [(encoder, kind) for encoder, kind in fused if kind != "eager"]
    try:
        for encoder, _ in fused:
            encoder.set_attn_implementation("eager")
        yield
    finally:
        for encoder, kind in fused:
            encoder.set_attn_implementation(kind)


def made_up_images(number: int) -> list[Image.Image]:
    """Random pictures, upright and lying, always the same ones."""
    random = np.random.default_rng(0)
    sizes = [(240, 320), (320, 240)]
    return [Image.fromarray(random.integers(0, 256, (*sizes[i % 2], 3), np.uint8)) for i in range(number)]


def question_limit(model: UMEForVisualQuestionAnswering, processor: UMEProcessor, image_tokens: int) -> int:
    """The longest question, in tokens, that tokenizer and text encoder can take; 512 where neither has a limit."""
    limits = []
    if processor.tokenizer.model_max_length < UNLIMITED:
        limits.append(processor.tokenizer.model_max_length)
    positions = position_limit(model.ume.text_model)
    if positions is not None:
        # In such a head, question and image share the encoder's positions.
        limits.append(positions - image_tokens if model.ume.fusion.reads_in_encoder else positions)
    return min(limits, default=LONGEST)


def trace(model: UMEForVisualQuestionAnswering, processor: UMEProcessor) -> tuple[Traced, Traced, int]:
    """
    Both parts of a model on an example, ready for `torch.export` or ONNX.

    Args:
        model: on the CPU, in float32 and eval mode.
        processor: its processor, which says how large an image is.

    Returns:
        The image encoder, the rest, and the longest question that the rest can take, in tokens.

    Raises:
        ValueError: when the image processor gives images of different sizes, or leaves no room for a question.
    """
    sizes = {tuple(processor(images=image)["pixel_values"].shape[1:]) for image in made_up_images(2)}
    if len(sizes) > 1:
        raise ValueError(
            f"The image processor gives images of different sizes ({' and '.join(map(str, sorted(sizes)))}), and a "
            "graph reads one: let it resize or crop to one height and width."
        )
    pixel_values = processor(images=made_up_images(2))["pixel_values"]
    with torch.no_grad():
        encoded = model.encode_images(pixel_values)
    grid = tuple(encoded.pop("vision_grid").tolist()) if "vision_grid" in encoded else None
    limit = question_limit(model, processor, encoded["vision_states"].shape[1])
    if limit < 3:
        raise ValueError(f"The text encoder has room for {limit} tokens of a question: a graph needs 3 or more.")
    inputs = question_inputs(processor, ASKED[:3], limit, token_types=_reads_token_types(model))
    inputs |= {**encoded, "image_index": torch.tensor([0, 1, 0])}
    questions, images = torch.export.Dim("questions"), torch.export.Dim("images")
    length = torch.export.Dim("length", min=2, max=limit)
    dynamic = {name: {0: questions, 1: length} for name in MODALITIES["text"].inputs}
    dynamic |= {"vision_states": {0: images}, "vision_pooled": {0: images}, "image_index": {0: questions}}
    encoder = Traced(ImageEncoder(model), {"pixel_values": pixel_values}, list(encoded), {"pixel_values": {0: images}})
    return encoder, Traced(QuestionFusion(model, grid, list(inputs)), inputs, ["logits"], dynamic), limit


def question_inputs(processor: UMEProcessor, questions, limit: int, token_types: bool) -> dict[str, Tensor]:
    """Questions as the graph reads them: input_ids and attention_mask [B, L], token_type_ids where `token_types`."""
    tokens = processor(text=list(questions), max_length=limit)
    names = MODALITIES["text"].inputs
    return {name: tokens[name] for name in names if name in tokens and (token_types or name != "token_type_ids")}


def _reads_token_types(model: UMEForVisualQuestionAnswering) -> bool:
    return "token_type_ids" in model.ume._adapters["text"].arguments
