"""A checkpoint as two ONNX graphs, image encoder and question + fusion, so that one image serves many questions.

`export_onnx` writes and checks them, `OnnxVQA` answers with them, without the model. The graphs are those that
`torch.export` makes: the older exporter, which traces, drops what a mask does.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES, usual
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.evaluation.scoring import AnswerScoring, scoring_of_model
from training_ume.records.files import write_json
from training_ume.records.machine import environment
from training_ume.report.console import working
from training_ume.serve.onnx_answers import OnnxVQA
from training_ume.serve.onnx_any import FUSION, OnnxModel, encoder_graph, measure_any, trace_any
from training_ume.serve.onnx_graphs import (
    ABOUT,
    ASKED,
    GRAPHS,
    IMAGE_ENCODER,
    PACKAGES,
    PRECISIONS,
    QUESTION_FUSION,
    _plain_attention,
    _quiet,
    made_up_images,
    need_onnx,
    question_inputs,
    trace,
)

PARITY = 1e-4


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

    Of a model of questions and images `out` then holds `image_encoder.onnx`, `question_fusion.onnx`, with `int8` also
    `image_encoder.int8.onnx` and `question_fusion.int8.onnx`; of other modalities a graph of each encoder,
    `audio_encoder.onnx` …, and `fusion.onnx` (see onnx_any.py); and the processor's files, and `onnx.json`, which is
    returned.

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
        about_images = list(model.config.modalities) == [kind.name for kind in usual()]
        if about_images:
            encoder, fusion, limit = trace(model, processor)
            parts, more = {IMAGE_ENCODER: encoder, QUESTION_FUSION: fusion}, {"max_question_length": limit}
            answering, measure = OnnxVQA, measure_parity
        else:
            parts = trace_any(model, processor)
            more = {"graphs": list(parts), "modalities": list(model.config.modalities)}
            more["multiples"] = {graph: part.multiple for graph, part in parts.items()}
            answering, measure = OnnxModel, measure_any
        with _plain_attention(model), working("Writing the graphs"):
            opset = max([part.save(stage / f"{graph}.onnx") for graph, part in parts.items()])
        about = {
            "model": name,
            **{graph: _signature(stage, graph) for graph in parts},
            "opset": opset,
            **more,
            "problem_type": model.config.problem_type,
            **({} if model.config.label_transform is None else {"label_transform": model.config.label_transform}),
            "answers": [model.config.id2label[i] for i in range(model.config.num_labels)],
        }
        write_json(stage / ABOUT, about)
        measured = {"fp32": measure(model, processor, answering(stage))}
        worst = measured["fp32"]["logits"]
        if not worst <= parity:  # NaN is not
            raise ValueError(
                f"The graphs differ from the model by {worst:.1e} in a logit, more than the {parity:.1e} allowed: "
                "nothing was written. If the logits are large, allow more by --parity."
            )
        if int8:
            for graph in parts:
                quantise(stage / f"{graph}.onnx", stage / f"{graph}.int8.onnx")
            measured["int8"] = measure(model, processor, answering(stage, "int8"))
        about["parity"] = {"allowed": parity, **measured}
        about["bytes"] = {p: {graph: _bytes(stage, graph, p) for graph in parts} for p in measured}
        if dataset is not None:
            about["questions"] = len(dataset)
            about["scores"] = {
                p: _score(answering(stage, p), scoring_of_model(model), dataset, batch_size, num_workers)
                for p in measured
            }
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
        # Numbers are in their unit: what differs is a part of them.
        size = 1.0 if PROBLEM_TYPES[model.config.problem_type].chooses else max(1.0, np.abs(logits).max())
        differences["logits"].append(np.abs(found - logits).max() / size)
        differences["image_states"].append(np.abs(encoded["vision_states"] - states).max())
        largest = max(largest, np.abs(logits).max())
    # np.max, unlike max, lets no NaN get lost.
    return {**{what: float(np.max(values)) for what, values in differences.items()}, "largest_logit": float(largest)}


def quantise(source: Path, target: Path) -> None:
    """Writes `source` with 8-bit weights: of matrix products a scale a column, of embeddings one a table.

    Convolutions stay float32: onnxruntime has no quicker ones for quantised inputs on CPUs. Weights are unsigned,
    because signed ones overflow where a CPU multiplies 8-bit numbers in 16-bit pairs (before AVX-512 VNNI).
    """
    QuantType, quantize_dynamic, quant_pre_process = _quantisers()
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


def _quantisers() -> tuple:
    """onnxruntime's tools, which on being imported put a folder of their own before ours where modules are looked for:
    a process that is begun afterwards would find its `metrics`."""
    before = list(sys.path)
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    sys.path[:] = before
    return QuantType, quantize_dynamic, quant_pre_process


def _signature(folder: Path, graph: str) -> dict:
    """Names and shapes of a graph's inputs and outputs, as onnxruntime reads them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {side: {value.name: value.shape for value in values} for side, values in sides.items()}


def _own_files(folder: Path) -> list[Path]:
    """The graphs of an earlier export, and the weights beside large ones."""
    graphs = (*GRAPHS, FUSION, *map(encoder_graph, MODALITIES.values()))
    names = [f"{graph}{suffix}{data}" for graph in graphs for suffix in PRECISIONS.values() for data in ("", ".data")]
    return [folder / name for name in names if (folder / name).exists()]


def _bytes(folder: Path, graph: str, precision: str) -> int:
    """The size of a graph, with the weights that a large one keeps in a file beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{graph}{PRECISIONS[precision]}*"))


def _score(
    graphs: OnnxVQA | OnnxModel, scoring: AnswerScoring, dataset: Dataset, batch_size: int, num_workers: int
) -> dict:
    started = time.perf_counter()
    if isinstance(graphs, OnnxModel):
        logits = torch.from_numpy(graphs.predict_logits(dataset, batch_size))
        answers = scoring.answers(scoring.kept(logits).tolist())
    else:
        answers = graphs.predict(dataset, batch_size, num_workers)
    return {"seconds": time.perf_counter() - started, **scoring.score(answers, dataset)}
