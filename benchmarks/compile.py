"""Answering questions: PyTorch as it is against torch.export, torch.compile and ONNX graphs, in the same run.

python benchmarks/compile.py                      # MiniLM × ViT-tiny shapes, random weights; minutes
python benchmarks/compile.py --shapes tiny base   # BERT-base × ViT-B/16 too
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, ViTConfig, ViTImageProcessor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor  # noqa: E402
from training_ume.build.tokenizer import words_tokenizer  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402
from training_ume.report.markdown import align  # noqa: E402
from training_ume.serve.onnx_export import export_onnx  # noqa: E402
from training_ume.serve.onnx_graphs import (  # noqa: E402
    GRAPHS,
    PRECISIONS,
    Traced,
    made_up_images,
    need_onnx,
    question_inputs,
    trace,
)

SHAPES = {
    "tiny": (
        "MiniLM × ViT-tiny/16-224",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "base": ("BERT-base × ViT-B/16-224", {}, {}),  # the configs' defaults
}
WORDS = ["what", "is", "the", "man", "dog", "color", "of", "on", "left", "how", "many", "are", "there", "in", "this"]
IMAGES, QUESTIONS = 6, 32  # VQA v2 has 5.4 questions an image
ANSWERS = 3129
REFERENCE = "PyTorch"


def build(text: dict, vision: dict, fusion: str) -> tuple[UMEForVisualQuestionAnswering, UMEProcessor]:
    config = UMEConfig.from_encoder_configs(
        BertConfig(**text), ViTConfig(**vision), fusion=fusion, num_labels=ANSWERS, vision_pooling="cls"
    )
    torch.manual_seed(0)
    size = config.vision_config.image_size
    tokenizer = words_tokenizer([" ".join(WORDS)], max_length=config.text_config.max_position_embeddings)
    return UMEForVisualQuestionAnswering(config).eval(), UMEProcessor(
        ViTImageProcessor(size={"height": size, "width": size}), tokenizer
    )


def example(model: UMEForVisualQuestionAnswering, processor: UMEProcessor, parts: tuple[Traced, ...]) -> list[dict]:
    """The inputs of both parts, by name."""
    rng = random.Random(0)
    questions = [" ".join(rng.choices(WORDS, k=rng.randint(4, 9))) for _ in range(QUESTIONS)]
    pixel_values = processor(images=made_up_images(IMAGES))["pixel_values"]
    with torch.no_grad():
        encoded = model.encode_images(pixel_values)
    values = {
        **question_inputs(processor, questions, processor.tokenizer.model_max_length, token_types=True),
        **encoded,
        "image_index": torch.arange(QUESTIONS) % IMAGES,
        "pixel_values": pixel_values,
    }
    return [{name: values[name] for name in part.inputs} for part in parts]


def session(path: Path, inputs: dict[str, Tensor]) -> Callable[[], Tensor]:
    """A call of an ONNX graph, on as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    graph = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = {name: value.numpy() for name, value in inputs.items()}
    return lambda: torch.from_numpy(graph.run(None, values)[0])


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def measure(shape: str, fusion: str, repeats: int) -> list[dict]:
    """For both parts and every way to run it: core seconds a batch, what preparing took, how far off the output is."""
    name, text, vision = SHAPES[shape]
    model, processor = build(text, vision, fusion)
    *parts, _ = trace(model, processor)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "onnx"
        export_onnx(model, processor, folder, int8=True)
        for part, graph, inputs in zip(parts, GRAPHS, example(model, processor, tuple(parts)), strict=True):
            values = tuple(inputs.values())
            compiled = torch.compile(part.module)
            ways = {REFERENCE: lambda part=part, values=values: first(part.module(*values))}
            started = time.perf_counter()
            exported = part.program().module()
            prepared = {"torch.export": time.perf_counter() - started}
            ways["torch.export"] = lambda run=exported, values=values: first(run(*values))
            ways["torch.compile"] = lambda run=compiled, values=values: first(run(*values))
            for precision, suffix in PRECISIONS.items():
                ways[f"onnxruntime {precision}"] = session(folder / f"{graph}{suffix}", inputs)
            started = time.perf_counter()
            with torch.no_grad():
                ways["torch.compile"]()
                prepared["torch.compile"] = time.perf_counter() - started
                rows += compare(ways, repeats, {"shape": name, "fusion": fusion, "part": graph}, prepared)
    return rows


def compare(ways: dict[str, Callable[[], Tensor]], repeats: int, what: dict, prepared: dict[str, float]) -> list[dict]:
    """
    Best of `repeats` of each way, made in turn, after one that warms up.

    Counted is the time of the cores, which other work on the machine does not add to.
    """
    times = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, call in ways.items():
            started = time.process_time()
            call()
            times[way].append(time.process_time() - started)
    best = {way: min(measured[1:]) for way, measured in times.items()}
    expected = ways[REFERENCE]()
    return [
        {
            **what,
            "way": way,
            "core_seconds": best[way],
            "faster": best[REFERENCE] / best[way],
            "seconds_to_prepare": prepared.get(way),
            "difference": float((call() - expected).abs().max()),
        }
        for way, call in ways.items()
    ]


def table(rows: list[dict]) -> str:
    lines = [("part", "way", "core ms a batch", "times as fast", "differs by", "s to prepare")]
    for row in rows:
        prepare = "" if row["seconds_to_prepare"] is None else f"{row['seconds_to_prepare']:.1f}"
        numbers = (f"{1e3 * row['core_seconds']:.1f}", f"{row['faster']:.2f}", f"{row['difference']:.1e}", prepare)
        lines.append((row["part"], row["way"], *numbers))
    return align(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--fusions", nargs="+", default=["ume"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/compile_cpu.json")
    args = parser.parse_args()
    need_onnx()

    load = os.getloadavg()[0]
    rows = []
    for shape in args.shapes:
        for fusion in args.fusions:
            measured = measure(shape, fusion, args.repeats)
            rows += measured
            print(f"{SHAPES[shape][0]}, {fusion}: {QUESTIONS} questions about {IMAGES} images a batch")
            print(table(measured), flush=True)
    report = {
        "benchmark": "compile",
        "device": "cpu",
        "images": IMAGES,
        "questions": QUESTIONS,
        "load_average_before": load,
        "ways": rows,
        "environment": environment(),
    }
    write_json(args.output, report)
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
