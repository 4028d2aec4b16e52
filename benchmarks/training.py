"""Where a training step's time goes, and what it is worth to encode each image once. Encoders have random weights.

python benchmarks/training.py                        # writes benchmarks/results/training_cpu.json and a plot
python benchmarks/training.py --device cuda --dtype bfloat16 --images 64
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

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, ViTConfig, ViTImageProcessor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor  # noqa: E402
from training_ume.build.tokenizer import words_tokenizer  # noqa: E402
from training_ume.data.answers import AnswerVocabulary  # noqa: E402
from training_ume.data.collator import VQACollator  # noqa: E402
from training_ume.data.images import open_image  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402

QUESTIONS_PER_IMAGE = 5.4  # VQA v2's training part: 443,757 questions about 82,783 images
WORDS = ["what", "is", "the", "man", "dog", "color", "of", "on", "left", "how", "many", "are", "there", "in", "this"]
SHAPES = {
    "MiniLM × ViT-tiny/16-224": (
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "BERT-base × ViT-B/16-224": ({}, {}),  # the configs' defaults
}
PARTS = ("decode", "processor", "encoders", "fusion", "optimizer")


def make_rows(folder: Path, num_images: int) -> list[dict]:
    """Photographs of VQA v2's size (noise that JPEG compresses about as well) and their questions, 5.4 an image."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    rows = []
    for i in range(num_images):
        path = folder / f"{i}.jpg"
        coarse = Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        count = round((i + 1) * QUESTIONS_PER_IMAGE) - round(i * QUESTIONS_PER_IMAGE)
        for _ in range(count):
            question = " ".join(rng.choices(WORDS, k=rng.randint(4, 9))) + "?"  # VQA v2's mean is 6.2 words
            answers = [rng.choice(["yes", "no", "two"])] * 10
            rows.append({"question_id": len(rows), "question": question, "image": str(path), "answers": answers})
    return rows


def build(shape: tuple[dict, dict], rows: list[dict], fusion: str, device: str):
    text, vision = shape
    vocabulary = AnswerVocabulary.from_answers([row["answers"] for row in rows])
    config = UMEConfig.from_encoder_configs(
        BertConfig(**text), ViTConfig(**vision), fusion=fusion, num_labels=3129, vision_pooling="cls"
    )
    torch.manual_seed(0)
    model = UMEForVisualQuestionAnswering(config).to(device).train()
    tokenizer = words_tokenizer([row["question"] for row in rows])
    processor = UMEProcessor(ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)
    return model, VQACollator(processor, vocabulary)


def seconds(calls: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """Best of `repeats` of each call, made in turn, after one that warms up: other work on the machine only adds."""
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: min(measured[1:]) for name, measured in times.items()}


def measure(name: str, rows: list[dict], fusion: str, device: str, dtype: torch.dtype, repeats: int) -> dict:
    model, collator = build(SHAPES[name], rows, fusion, device)
    paths = list(dict.fromkeys(row["image"] for row in rows))
    images = [open_image(path) for path in paths]
    batch = {key: value.to(device) for key, value in collator(rows).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)  # as HF's Trainer has it
    autocast = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)

    def forward_backward(batch: dict) -> None:
        model.zero_grad()
        with autocast:
            loss = model(**batch).loss
        loss.backward()

    def encoders() -> None:
        """The encoders alone, forward and backward, on the same questions and distinct images."""
        model.zero_grad()
        with autocast:
            text = model.ume.encode_text(batch["input_ids"], batch["attention_mask"])
            image = model.ume.encode_image(batch["pixel_values"])
        (text.states.float().mean() + image.states.float().mean()).backward()

    # The usual way: the image of every question on its own, in the same batch.
    usual = {key: value for key, value in batch.items() if key not in ("image_index", "pixel_values")}
    usual["pixel_values"] = batch["pixel_values"][batch["image_index"]]
    parts = seconds(
        {
            "decode": lambda: [open_image(path) for path in paths],
            "processor": lambda: collator.processor.image_processor(images, return_tensors="pt"),
            "encoders": encoders,
            "model": lambda: forward_backward(batch),
            "optimizer": optimizer.step,
            "usual": lambda: forward_backward(usual),
        },
        device,
        repeats,
    )
    model_seconds, usual_seconds = parts.pop("model"), parts.pop("usual")
    parts["fusion"] = max(model_seconds - parts["encoders"], 0.0)
    step = model_seconds + parts["optimizer"]
    return {
        "shape": name,
        "fusion": fusion,
        "questions": len(rows),
        "images": len(paths),
        "seconds": parts,
        "encoder_share_of_step": parts["encoders"] / step,
        "encoder_share_with_data_unhidden": parts["encoders"] / (step + parts["decode"] + parts["processor"]),
        "questions_per_second": len(rows) / step,
        "questions_per_second_one_encode_a_question": len(rows) / (usual_seconds + parts["optimizer"]),
        "faster_than_one_encode_a_question": (usual_seconds + parts["optimizer"]) / step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=int, default=5, help="distinct images a batch; 5.4 times as many questions")
    parser.add_argument("--fusions", nargs="+", default=["ume"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file; a .png of the same name is drawn beside it")
    args = parser.parse_args()
    output = args.output or ROOT / f"benchmarks/results/training_{args.device}.json"

    load = os.getloadavg()[0]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder), args.images)
        for name in SHAPES:
            for fusion in args.fusions:
                result = measure(name, rows, fusion, args.device, getattr(torch, args.dtype), args.repeats)
                results.append(result)
                print(
                    f"{name}, {fusion}: encoders {result['encoder_share_of_step']:.1%} of the step, "
                    f"{result['faster_than_one_encode_a_question']:.2f}x one encode a question",
                    flush=True,
                )
    report = {
        "benchmark": "training",
        "device": args.device,
        "dtype": args.dtype,
        "load_average_before": load,
        "to_reach": {
            "encoder_share_of_step": 0.9,
            "faster_than_one_encode_a_question": {"MiniLM × ViT-tiny/16-224": 2, "BERT-base × ViT-B/16-224": 3},
        },
        "steps": results,
        "environment": environment(),
    }
    write_json(output, report)
    plot(report, output.with_suffix(".png"))
    print(f"Written: {output} and the plot beside it.")


def plot(report: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(PARTS, ("#c9c9c9", "#9fb4a7", "#5b8dbd", "#d1603d", "#b39bc8"), strict=True))
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.7 * len(report["steps"])), layout="constrained")
    for y, step in enumerate(report["steps"]):
        total, left = sum(step["seconds"].values()), 0.0
        for part in PARTS:
            share = 100 * step["seconds"][part] / total
            axis.barh(y, share, left=left, color=colours[part], label=part if y == 0 else None)
            if share >= 4:
                axis.text(left + share / 2, y, f"{share:.0f} %", ha="center", va="center", fontsize=9)
            left += share
    axis.set_yticks(range(len(report["steps"])), [f"{s['shape']}, {s['fusion']}" for s in report["steps"]])
    axis.set(xlabel="% of a step's time, data loading not overlapped", xlim=(0, 100))
    axis.legend(ncols=len(PARTS), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
