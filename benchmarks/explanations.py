"""Whether the maps of where a model looked are right: on easy-VQA's shape when it is asked about, and by masking.

python benchmarks/explanations.py              # trains two models first; half an hour on two cores
python benchmarks/explanations.py --images 50  # with those that are in runs/explanations already
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configuration_ume.parsing import parse_recipe  # noqa: E402
from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor  # noqa: E402
from modeling_ume.images_ume import read_image  # noqa: E402
from training_ume.data.load import load_vqa  # noqa: E402
from training_ume.evaluation.load import load_checkpoint  # noqa: E402
from training_ume.explain.attribution import cam_layer, grad_cam, integrated_map  # noqa: E402
from training_ume.explain.faithfulness import PATCHES, masking_curves, mass_in_box, patch_order, shape_box  # noqa: E402
from training_ume.records.files import read_json, write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402
from training_ume.report.faithfulness import explanations_table  # noqa: E402
from training_ume.training.run import train_and_evaluate  # noqa: E402

ABOUT_THE_SHAPE = re.compile(r"what shape|circle|rectangle|triangle")
# The recipe easy_vqa with a convolutional encoder, as it is, and with one of tokens.
VIT = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
VIT |= {"intermediate_size": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {
    "resnet": [],
    "vit": [
        *("--vision_config", json.dumps(VIT), "--num_train_epochs", "11"),
        *("--per_device_train_batch_size", "384", "--learning_rate", "2e-3"),
    ],
}
MAPS = ("grad_cam", "integrated", "pair_weights")
RANDOM_ORDERS = 5
CONTROL = 50  # images of which an untrained model is asked, too


def questions_about_shapes(images: int) -> list[dict]:
    """One question about the shape, drawn by chance, about each of so many test images; none about its colour."""
    rows: dict[str, dict] = {}
    for row in load_vqa("easy_vqa", split="test").shuffle(seed=0):
        if ABOUT_THE_SHAPE.search(row["question"]) and "color" not in row["question"]:
            rows.setdefault(row["image"], row)
        if len(rows) == images:
            break
    return list(rows.values())


def maps_of(model: UMEForVisualQuestionAnswering, inputs: dict, target: int, output) -> dict[str, np.ndarray]:
    maps = {
        "grad_cam": grad_cam(model, inputs, target)[0].numpy(),
        "integrated": integrated_map(model, inputs, target)[0].numpy(),
    }
    if "pair_weights" in output.fusion_weights:
        grid = tuple(model.encode_images(inputs["pixel_values"])["vision_grid"].tolist())
        places = output.fusion_weights["pair_weights"][0, :, -grid[0] * grid[1] :]
        maps["pair_weights"] = places.sum(0).view(grid).numpy()
    return maps


def measure(model: UMEForVisualQuestionAnswering, processor: UMEProcessor, rows: list[dict], masked: int) -> dict:
    """The share of each map's positive mass in the shape's box; of the first `masked` rows, the curves' areas, too."""
    generator = torch.Generator().manual_seed(0)
    shares: dict[str, list] = {name: [] for name in ("uniform", "best_cell", *MAPS)}
    areas: dict[str, dict[str, list]] = {"deletion": {}, "insertion": {}}
    for row in tqdm(rows, leave=False):
        image = read_image(row["image"])
        box = shape_box(image)
        inputs = dict(processor(images=image, text=row["question"]))
        with torch.no_grad():
            output = model(**inputs)
        target = output.logits[0].argmax().item()
        maps = maps_of(model, inputs, target, output)
        grid = maps["grad_cam"].shape
        cells = np.eye(grid[0] * grid[1]).reshape(-1, *grid)
        shares["uniform"].append(mass_in_box(np.ones(grid), box, image.size))
        shares["best_cell"].append(max(mass_in_box(cell, box, image.size) for cell in cells))
        for name, cells in maps.items():
            shares[name].append(mass_in_box(cells, box, image.size))
        if len(shares["uniform"]) > masked:
            continue
        orders = [patch_order(cells, generator) for cells in maps.values()]
        orders += [torch.randperm(PATCHES**2, generator=generator) for _ in range(RANDOM_ORDERS)]
        for kind, values in zip(areas, masking_curves(model, inputs, target, orders), strict=True):
            named = {name: values[i].item() for i, name in enumerate(maps)}
            named["random"] = values[len(maps) :].mean().item()
            for name, value in named.items():
                areas[kind].setdefault(name, []).append(value)
    found = {"mass_in_box": {name: summary(values) for name, values in shares.items() if values}}
    if masked:
        found["masking"] = {
            kind: {
                name: {**summary(values), "better_than_random": better(values, by_name["random"], kind)}
                for name, values in by_name.items()
            }
            for kind, by_name in areas.items()
        }
    return found


def summary(values: list[float | None]) -> dict:
    """Mean and its standard error over images; maps without positive mass are counted, and left out of both."""
    there = [value for value in values if value is not None]
    error = statistics.stdev(there) / len(there) ** 0.5 if len(there) > 1 else None
    return {"mean": statistics.mean(there) if there else None, "se": error, "without_mass": len(values) - len(there)}


def better(values: list[float], random: list[float], kind: str) -> float:
    """The share of images on which the area is on the right side of that of random orders."""
    sign = 1 if kind == "insertion" else -1
    return statistics.mean(float(sign * (a - b) > 0) for a, b in zip(values, random, strict=True))


def examine(name: str, folder: Path, rows: list[dict], masked: int) -> dict:
    """What is found out about one model, which is trained first where it is not there."""
    if not (folder / "results.json").exists():
        arguments = ["easy_vqa", "--output_dir", str(folder), "--overwrite_output", *MODELS[name]]
        train_and_evaluate(parse_recipe(arguments))
    model, processor = load_checkpoint(str(folder))
    model.to("cpu")
    layer, _, of_tokens = cam_layer(model, processor(images=rows[0]["image"])["pixel_values"])
    trained = measure(model, processor, rows, masked)
    # What a map owes to the picture and to the architecture alone, an untrained model has, too.
    torch.manual_seed(0)
    untrained = measure(UMEForVisualQuestionAnswering(model.config).eval(), processor, rows[:CONTROL], 0)
    return {
        "exact_match": read_json(folder / "results.json")["comparison"][0]["exact_match"]["mean"],
        "layer": layer,
        "layer_is_block_input": of_tokens,
        "trained": trained,
        "untrained": untrained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="test images with one question each (default: 200)")
    parser.add_argument("--masked", type=int, default=100, help="of these, images for the masking (default: 100)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/explanations", help="folder of the trained models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/explanations.json")
    args = parser.parse_args()
    rows = questions_about_shapes(args.images)
    report = {
        "benchmark": "explanations",
        "data": "easy-VQA, test questions about the shape, one an image",
        "images": len(rows),
        "masked_images": min(args.masked, len(rows)),
        "control_images": min(CONTROL, len(rows)),
        "models": {name: examine(name, args.runs / name, rows, args.masked) for name in MODELS},
        "environment": environment(),
    }
    write_json(args.output, report)
    print(explanations_table(report))
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
