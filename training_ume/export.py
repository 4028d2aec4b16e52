"""A checkpoint as two ONNX graphs, image encoder and question + fusion, so that one image serves many questions.

`export_onnx` writes and checks them, `OnnxVQA` answers with them, without the model. The graphs are those that
`torch.export` makes: the older exporter, which traces, drops what a mask does.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modeling_ume import position_limit
from modeling_ume.processing_ume import decode_logits, read_image
from training_ume.collator import NO_LENGTH_LIMIT, TEXT_KEYS, VQACollator
from training_ume.console import working
from training_ume.evaluation import first_line
from training_ume.results import environment, read_json, write_json
from training_ume.trainer import in_image_order, score_answers

IMAGE_ENCODER, QUESTION_FUSION = "image_encoder", "question_fusion"
GRAPHS = (IMAGE_ENCODER, QUESTION_FUSION)
PRECISIONS = {"fp32": ".onnx", "int8": ".int8.onnx"}
ABOUT = "onnx.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PARITY = 1e-4
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
        module: `ImageEncoder` or `QuestionFusion`.
        inputs: by name, an example whose sizes stand for all others.
        outputs: names of what comes out.
        dynamic: for each input, which of its dimensions may have another size.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    dynamic: dict[str, dict]

    def program(self) -> torch.export.ExportedProgram:
        """What `torch.export` makes of it.

        Raises:
            ValueError: when it cannot; the model does something that depends on values, or fixes a size.
        """
        try:
            with torch.no_grad(), _quiet():
                # Of a forward(*values), all values are one argument.
                shapes = [self.dynamic[name] for name in self.inputs]
                shapes = (tuple(shapes),) if isinstance(self.module, QuestionFusion) else tuple(shapes)
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
        }
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            for axis, size in enumerate(value.shape or ()):
                if str(size) in names:
                    value.shape[axis] = names[str(size)]

    def _refusal(self, error: Exception) -> str:
        model = self.module.model
        part = f"The image encoder {model.config.vision_config.model_type!r}"
        if isinstance(self.module, QuestionFusion):
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
    encoders = [model.ume.text_model, model.ume.vision_model]
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
    if processor.tokenizer.model_max_length < NO_LENGTH_LIMIT:
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
    dynamic = {name: {0: questions, 1: length} for name in TEXT_KEYS}
    dynamic |= {"vision_states": {0: images}, "vision_pooled": {0: images}, "image_index": {0: questions}}
    encoder = Traced(ImageEncoder(model), {"pixel_values": pixel_values}, list(encoded), {"pixel_values": {0: images}})
    return encoder, Traced(QuestionFusion(model, grid, list(inputs)), inputs, ["logits"], dynamic), limit


def question_inputs(processor: UMEProcessor, questions, limit: int, token_types: bool) -> dict[str, Tensor]:
    """Questions as the graph reads them: input_ids and attention_mask [B, L], token_type_ids where `token_types`."""
    tokens = processor(text=list(questions), max_length=limit)
    return {name: tokens[name] for name in TEXT_KEYS if name in tokens and (name != TEXT_KEYS[2] or token_types)}


def _reads_token_types(model: UMEForVisualQuestionAnswering) -> bool:
    return "token_type_ids" in model.ume._adapters["text"].arguments


class OnnxVQA:
    r"""
    Answers questions about images from an exported folder with onnxruntime; the model's own code is not run.

    Args:
        folder: what `export_onnx` wrote.
        precision (`str`): `"fp32"` or, where it was exported, `"int8"`.

    Raises:
        ImportError: without onnxruntime.
        ValueError: when the folder holds no such export.

    Example:

    ```python
    >>> ask = OnnxVQA("exported")
    >>> street = ask.encode("street.jpg")
    >>> ask(street, "What colour is the bus?", top_k=2)
    [{'answer': 'red', 'score': 0.91}, {'answer': 'blue', 'score': 0.04}]
    >>> ask(street, ["Is it raining?", "How many people are there?"])
    ```"""

    def __init__(self, folder: str | os.PathLike, precision: str = "fp32"):
        if find_spec("onnxruntime") is None:
            raise ImportError("Answering from ONNX graphs needs onnxruntime: `pip install 'ume[export]'`.")
        import onnxruntime

        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known: choose from {', '.join(PRECISIONS)}.")
        folder = Path(folder)
        self.about = read_json(folder / ABOUT)
        files = {graph: folder / (graph + PRECISIONS[precision]) for graph in GRAPHS}
        missing = [path.name for path in files.values() if not path.is_file()]
        if self.about is None or missing:
            raise ValueError(
                f"The folder {str(folder)!r} holds no {precision} export (it has no {', '.join(missing) or ABOUT}): "
                f"make one with `ume export{' --int8' if precision == 'int8' else ''}`."
            )
        self.processor = UMEProcessor.from_pretrained(folder)
        providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
        self._sessions = {
            graph: onnxruntime.InferenceSession(str(path), providers=providers) for graph, path in files.items()
        }
        self._id2label = dict(enumerate(self.about["answers"]))
        self._token_types = TEXT_KEYS[2] in self.about[QUESTION_FUSION]["inputs"]

    def encode(self, images) -> dict[str, np.ndarray]:
        """
        What the image encoder says of one image or a list of them, for any number of questions.

        Args:
            images: a PIL image, its path or URL, or a list of these.

        Returns:
            `vision_states` [U, N, D_m] and `vision_pooled` [U, D_p], float32.

        Raises:
            ValueError: when an image cannot be read.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        processed = self.processor(images=[read_image(image) for image in images])
        if "pixel_mask" in processed:
            raise ValueError(
                "The image processor pads images of different sizes, which the exported graphs do not read: encode "
                "them one by one, or let it resize or crop to one height and width."
            )
        pixel_values = processed["pixel_values"]
        return self.encode_pixels(pixel_values.numpy())

    def encode_pixels(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """As `encode`, of pixel_values [U, 3, H, W], as the processor makes them."""
        outputs = self.about[IMAGE_ENCODER]["outputs"]
        return dict(zip(outputs, self._run(IMAGE_ENCODER, {"pixel_values": pixel_values}), strict=True))

    def logits(self, questions: dict[str, np.ndarray]) -> np.ndarray:
        """By name the inputs of the second graph, for B questions → logits [B, C]. Other names are passed over."""
        return self._run(QUESTION_FUSION, questions)[0]

    def __call__(self, image, question: str | list[str], top_k: int = 5):
        """
        Args:
            image: what `encode` takes or has given, one image.
            question: one question, or several about this image.
            top_k: answers a question; all of them if the model knows fewer.

        Returns:
            A list of `{"answer": str, "score": probability}`, the best first; for several questions, a list of these.

        Raises:
            ValueError: when the image cannot be read, a question is no string, or top_k is below 1.
        """
        encoded = image if isinstance(image, dict) else self.encode(image)
        if len(encoded["vision_states"]) != 1:
            raise ValueError(f"{len(encoded['vision_states'])} images were given: ask about one at a time.")
        asked = [question] if isinstance(question, str) else question
        tokens = question_inputs(self.processor, asked, self.about["max_question_length"], self._token_types)
        inputs = {name: values.numpy() for name, values in tokens.items()}
        logits = self.logits({**inputs, **encoded, "image_index": np.zeros(len(asked), np.int64)})
        top_k = min(top_k, len(self._id2label))
        answers = decode_logits(torch.from_numpy(logits), self._id2label, self.about["problem_type"], top_k)
        return answers[0] if isinstance(question, str) else answers

    def predict(self, dataset: Dataset, batch_size: int = 64, num_workers: int = 0) -> list[str]:
        """The best answer to every question of rows of `load_vqa`, in their order."""
        collator = VQACollator(self.processor, max_question_length=self.about["max_question_length"])
        ordered, order = in_image_order(dataset)
        loader = DataLoader(ordered, batch_size, collate_fn=collator, num_workers=num_workers)
        answers, positions = [""] * len(order), iter(order)
        for batch in tqdm(loader, desc="answering", leave=False):
            inputs = {name: values.numpy() for name, values in batch.items()}
            for answer in self.logits({**inputs, **self.encode_pixels(inputs["pixel_values"])}).argmax(-1):
                answers[next(positions)] = self._id2label[int(answer)]
        return answers

    def _run(self, graph: str, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self._sessions[graph].run(None, {name: values[name] for name in self.about[graph]["inputs"]})


def export_onnx(
    model: UMEForVisualQuestionAnswering,
    processor: UMEProcessor,
    out: str | os.PathLike,
    *,
    int8: bool = False,
    parity: float = PARITY,
    dataset: Dataset | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    overwrite: bool = False,
    name: str = "",
) -> dict:
    """
    Writes a model as ONNX graphs, which are compared with it before anything is kept.

    `out` then holds `image_encoder.onnx`, `question_fusion.onnx`, with `int8` also `image_encoder.int8.onnx` and
    `question_fusion.int8.onnx`, the processor's files, and `onnx.json`, which is returned.

    Args:
        model, processor: what `load_checkpoint` gives; the model is moved to the CPU and made float32 in place.
        int8: also write graphs whose matrices and embeddings are 8-bit; activations are quantised as they come.
        parity: greatest difference of a logit between model and graphs, over batches with padding.
        dataset: rows of `load_vqa` to score every precision on.
        batch_size, num_workers: of that scoring.
        overwrite: replace an earlier export in `out`.
        name: what the model is called in `onnx.json`.

    Returns:
        `dict`: names and shapes of inputs and outputs, `opset`, `max_question_length`, `problem_type`, `answers`,
        `parity`, by precision the `bytes` of each graph and, with a dataset, `scores`, and `environment`.

    Raises:
        ImportError: where a package of the `export` extra is missing.
        ValueError: when `out` is not empty, the model cannot be exported, or the graphs say something else than it.
    """
    need_onnx()
    if not parity > 0:
        raise ValueError(f"parity={parity} is impossible: give the greatest difference to allow, above 0.")
    if dataset is not None and not any(dataset["answers"][:]):
        raise ValueError("The questions have no answers, so the graphs have no score: name --annotations too.")
    out = Path(out)
    check_folder(out, overwrite)
    model = model.to("cpu").float().eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, and moved there once it is right: a refused or interrupted export leaves nothing.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as stage:
        stage = Path(stage)
        processor.save_pretrained(stage)
        encoder, fusion, limit = trace(model, processor)
        with _plain_attention(model), working("Writing the graphs"):
            opset = encoder.save(stage / f"{IMAGE_ENCODER}.onnx")
            fusion.save(stage / f"{QUESTION_FUSION}.onnx")
        about = {
            "model": name,
            IMAGE_ENCODER: _signature(stage, IMAGE_ENCODER),
            QUESTION_FUSION: _signature(stage, QUESTION_FUSION),
            "opset": opset,
            "max_question_length": limit,
            "problem_type": model.config.problem_type,
            "answers": [model.config.id2label[i] for i in range(model.config.num_labels)],
        }
        write_json(stage / ABOUT, about)
        measured = {"fp32": measure_parity(model, processor, OnnxVQA(stage))}
        worst = measured["fp32"]["logits"]
        if not worst <= parity:  # NaN is not
            raise ValueError(
                f"The graphs differ from the model by {worst:.1e} in a logit, more than the {parity:.1e} allowed: "
                "nothing was written. If the logits are large, allow more by --parity."
            )
        if int8:
            for graph in GRAPHS:
                quantise(stage / f"{graph}.onnx", stage / f"{graph}.int8.onnx")
            measured["int8"] = measure_parity(model, processor, OnnxVQA(stage, "int8"))
        about["parity"] = {"allowed": parity, **measured}
        about["bytes"] = {p: {graph: _bytes(stage, graph, p) for graph in GRAPHS} for p in measured}
        if dataset is not None:
            about["questions"] = len(dataset)
            about["scores"] = {p: _score(OnnxVQA(stage, p), dataset, batch_size, num_workers) for p in measured}
        about["environment"] = environment()
        about["environment"]["versions"] |= {package: metadata.version(package) for package in PACKAGES}
        write_json(stage / ABOUT, about)
        out.mkdir(exist_ok=True)
        for path in _own_files(out):  # an int8 graph of another model must not stay
            path.unlink()
        for path in stage.iterdir():
            shutil.move(path, out / path.name)
    return about


def check_folder(out: Path, overwrite: bool) -> None:
    """Raises ValueError unless an export may go there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder for the graphs.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise ValueError(f"The folder {out} is not empty: add --overwrite, or choose another name.")


def measure_parity(model: UMEForVisualQuestionAnswering, processor: UMEProcessor, graphs: OnnxVQA) -> dict:
    """
    The greatest difference between a model and its graphs, from pixels and tokens to logits.

    Compared are a padded batch about two images, one short question alone, and a padded batch about one image.

    Returns:
        `dict`: `logits`, `image_states` (greatest absolute differences) and `largest_logit`, to judge them by.
    """
    differences = {"logits": [], "image_states": []}
    largest = 0.0
    for questions, number in ((ASKED, 2), (ASKED[1:2], 1), (ASKED[1:3], 1)):
        pixel_values = processor(images=made_up_images(number))["pixel_values"]
        inputs = question_inputs(processor, questions, graphs.about["max_question_length"], graphs._token_types)
        inputs["image_index"] = torch.arange(len(questions)) % number
        with torch.no_grad():
            states = model.encode_images(pixel_values)["vision_states"].numpy()
            logits = model(**inputs, pixel_values=pixel_values).logits.numpy()
        encoded = graphs.encode_pixels(pixel_values.numpy())
        found = graphs.logits({**{name: values.numpy() for name, values in inputs.items()}, **encoded})
        differences["logits"].append(np.abs(found - logits).max())
        differences["image_states"].append(np.abs(encoded["vision_states"] - states).max())
        largest = max(largest, np.abs(logits).max())
    # np.max, unlike max, lets no NaN get lost.
    return {**{what: float(np.max(values)) for what, values in differences.items()}, "largest_logit": float(largest)}


def quantise(source: Path, target: Path) -> None:
    """Writes `source` with 8-bit weights: of matrix products a scale a column, of embeddings one a table.

    Convolutions stay float32: onnxruntime has no quicker ones for quantised inputs on CPUs. Weights are unsigned,
    because signed ones overflow where a CPU multiplies 8-bit numbers in 16-bit pairs (before AVX-512 VNNI).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    external = Path(f"{source}.data").exists()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        # Computes once what depends on weights alone, so that it is quantised too.
        folded = Path(folder) / source.name
        quant_pre_process(source, folded, skip_symbolic_shape=True, save_as_external_data=external)
        quantize_dynamic(
            folded,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=QuantType.QUInt8,
            per_channel=True,
            use_external_data_format=external,
        )


def _signature(folder: Path, graph: str) -> dict:
    """Names and shapes of a graph's inputs and outputs, as onnxruntime reads them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {side: {value.name: value.shape for value in values} for side, values in sides.items()}


def _own_files(folder: Path) -> list[Path]:
    """The graphs of an earlier export, and the weights beside large ones."""
    names = [f"{graph}{suffix}{data}" for graph in GRAPHS for suffix in PRECISIONS.values() for data in ("", ".data")]
    return [folder / name for name in names if (folder / name).exists()]


def _bytes(folder: Path, graph: str, precision: str) -> int:
    """The size of a graph, with the weights that a large one keeps in a file beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{graph}{PRECISIONS[precision]}*"))


def _score(graphs: OnnxVQA, dataset: Dataset, batch_size: int, num_workers: int) -> dict:
    started = time.perf_counter()
    predictions = graphs.predict(dataset, batch_size, num_workers)
    return {"seconds": time.perf_counter() - started, **score_answers(predictions, dataset)}
