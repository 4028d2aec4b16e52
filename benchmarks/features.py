"""Feature cache: heads trained from it against live frozen encoders, its row access, and building against encoding.

python benchmarks/features.py                     # MiniLM × ViT-tiny shapes, random weights; minutes
python benchmarks/features.py --shapes tiny base  # BERT-base × ViT-B/16 too, and VQA v2 on paper
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers.utils import logging

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configuration_ume.arguments import ModelArguments  # noqa: E402
from modeling_ume.modalities_ume import MODALITIES  # noqa: E402
from training_ume.build.model import build_model  # noqa: E402
from training_ume.build.processor import build_processor  # noqa: E402
from training_ume.build.tokenizer import build_tokenizer  # noqa: E402
from training_ume.data.answers import AnswerVocabulary  # noqa: E402
from training_ume.data.collator import VQACollator  # noqa: E402
from training_ume.data.rows import FEATURES  # noqa: E402
from training_ume.data.sampler import GroupedByImageSampler  # noqa: E402
from training_ume.features.build import build_features  # noqa: E402
from training_ume.features.store import FeatureCache, open_features  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import (  # noqa: E402
    environment,
    keep_freed_memory,
)
from training_ume.report.heads_and_encoders import vqa_v2_features  # noqa: E402
from training_ume.training.feature_sets import distinct_rows  # noqa: E402

SHAPES = {
    "tiny": {
        "name": "MiniLM × ViT-tiny/16-224",
        "text": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        "vision": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
        "images": 256,
        "images_to_build": 1024,
        "fusion_hidden_size": 192,
    },
    "base": {
        "name": "BERT-base × ViT-B/16-224",
        "text": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "vision": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "images": 32,
        "images_to_build": 96,
        "fusion_hidden_size": 512,
    },
}
HEADS = {"concat": ("concat", None), "ume, 7×7": ("ume", 7), "ume": ("ume", None)}
QUESTIONS_AN_IMAGE = 8.6  # DAQUAR's
BATCH = 128
ANSWERS = 582


def made_up(folder: Path, images: int, seed: int = 0) -> Dataset:
    """Photograph-sized JPEGs, coarse shapes under a little noise, and questions of five to fourteen words."""
    rng, words = np.random.default_rng(seed), random.Random(seed)
    lexicon = [f"w{n}" for n in range(900)]
    rows = []
    for number in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((337, 256), Image.BICUBIC)
        noisy = np.clip(np.asarray(coarse, np.int16) + rng.normal(0, 8, (256, 337, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(noisy).save(path, quality=90)
        for _ in range(int((number + 1) * QUESTIONS_AN_IMAGE) - int(number * QUESTIONS_AN_IMAGE)):
            question = " ".join(words.choices(lexicon, k=words.randint(5, 14)))
            rows.append(
                {
                    "question_id": len(rows), "image_id": str(number), "question": question, "image": str(path),
                    "answers": [f"a{words.randrange(ANSWERS)}"] * 10, "question_type": "", "answer_type": "",
                }
            )  # fmt: skip
    return Dataset.from_list(rows, features=FEATURES)


def prepare(shape: dict, data: Dataset, head: str):
    """(model with both encoders frozen, training collator), with the words and answers of `data`"""
    fusion, grid = HEADS[head]
    args = ModelArguments(
        text_config={"model_type": "bert", **shape["text"]},
        vision_config={"model_type": "vit", "patch_size": 16, **shape["vision"]},
        image_size=224, tokenizer="words", fusion=fusion, fusion_hidden_size=shape["fusion_hidden_size"],
        feature_grid=grid, freeze_text=True, freeze_vision=True,
    )  # fmt: skip
    torch.manual_seed(0)
    vocabulary = AnswerVocabulary.from_answers(data["answers"][:])
    processor = build_processor(args, build_tokenizer(args, data), vocabulary)
    return build_model(args, processor).train(), VQACollator(processor, vocabulary, max_question_length=32)


def build(folder: Path, modality: str, model, collator: VQACollator, data: Dataset) -> dict:
    own = VQACollator(
        collator.processor, inputs=MODALITIES[modality].column, max_question_length=collator.max_question_length
    )
    rows = distinct_rows([data], MODALITIES[modality].column)
    return build_features(folder / modality, modality, model, own, rows, {"name": None, "revision": None})


def timed(function: Callable) -> tuple[float, float]:
    """Seconds that a call takes by the clock, and of all cores' time."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def rates(count: int, times: list[tuple[float, float]]) -> dict[str, float]:
    """Per second (median) and per second of core time (median), which other programs on the machine disturb less."""
    wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
    return {"per_second": round(count / wall, 2), "per_core_second": round(count / cpu, 2)}


def ratios(new: dict[str, float], old: dict[str, float]) -> dict[str, float]:
    return {
        "ratio": round(new["per_second"] / old["per_second"], 3),
        "ratio_of_core_time": round(new["per_core_second"] / old["per_core_second"], 3),
    }


def steps(model, collator: VQACollator, data: Dataset) -> Callable[[], None]:
    """A function that makes one training step, from rows to the optimizer's end."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3, fused=True)  # as HF's Trainer has it

    def batches():
        while True:
            sampler = GroupedByImageSampler(data["image"][:], BATCH)
            yield from DataLoader(data, BATCH, sampler=sampler, collate_fn=collator, drop_last=True)

    batches = batches()

    def step() -> None:
        model(**next(batches)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_training(shape: dict, everything: Dataset, folder: Path, rounds: int) -> dict:
    """Questions a second in training the head, live and cached steps in turn."""
    data = everything.select(range(int(shape["images"] * QUESTIONS_AN_IMAGE)))
    results = {}
    for head, (_, grid) in HEADS.items():
        model, collator = prepare(shape, everything, head)
        cache = folder / ("build0" if grid is None else f"grid{grid}")
        if not cache.exists():
            build(cache, "vision", model, collator, data)
            (cache / "text").symlink_to(folder / "build0" / "text")  # a grid of image tokens leaves questions alone
        from_cache = VQACollator(collator.processor, collator.vocabulary, max_question_length=32)
        from_cache.features = open_features(cache, model, from_cache, ["text", "vision"], [data])
        live, cached = steps(model, collator, data), steps(model, from_cache, data)
        live(), cached(), cached()
        times = {"live": [], "cached": []}
        for _ in range(rounds):
            times["live"].append(timed(live))
            times["cached"] += [timed(cached) for _ in range(5)]
        found = {way: rates(BATCH, times[way]) for way in times}
        tokens = from_cache([data[i] for i in range(BATCH)])["vision_states"].shape[1]
        results[head] = {"image_tokens": tokens, **found, **ratios(found["cached"], found["live"])}
        print(f"  {head}: {results[head]}", flush=True)
    return results


def measure_rows(cache: FeatureCache, reads: int = 2000) -> dict:
    """Milliseconds to find, read and copy one row, in random order, with the file in the page cache."""
    rows = np.random.default_rng(0).integers(0, len(cache), reads).tolist()
    for row in range(len(cache)):
        cache[row][0].sum()
    times = []
    for row in rows:
        started = time.perf_counter()
        states, pooled = cache[row]
        states.copy(), pooled.copy()
        times.append(time.perf_counter() - started)
    return {
        "row": list(states.shape),
        "kilobytes": states.nbytes / 1e3,
        "ms": round(1e3 * statistics.median(times), 4),
    }


def measure_build(shape: dict, data: Dataset, folder: Path, rounds: int) -> dict:
    """Rows a second of a whole build (hashing, decoding, encoding, writing) against the bare encoder's forward."""
    model, collator = prepare(shape, data, "ume")
    results = {}
    for modality in MODALITIES:
        size = MODALITIES[modality].batch_rows
        rows = sorted(distinct_rows([data], MODALITIES[modality].column), key=lambda row: len(row["question"]))
        own = VQACollator(collator.processor, inputs=MODALITIES[modality].column, max_question_length=32)
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        ready = [own(part) for part in parts]
        encode = model.ume.encode_text if modality == "text" else model.ume.encode_image

        @torch.inference_mode()
        def bare(ready=ready, encode=encode) -> None:
            for batch in ready:
                encode(batch["pixel_values"]) if "image_index" in batch else encode(**batch)

        bare()
        times = {"bare": [], "build": []}
        for number in range(rounds):
            place = folder / f"build{number}"
            times["bare"].append(timed(bare))
            times["build"].append(timed(lambda: build(place, modality, model, collator, data)))  # noqa: B023
        found = {way: rates(len(rows), times[way]) for way in times}
        results[modality] = {"rows": len(rows), **found, **ratios(found["build"], found["bare"])}
        print(f"  build {modality}: {results[modality]}", flush=True)
    results["bits"] = compare_bits(model, collator, data, folder / "build0" / "vision")
    return results


def compare_bits(model, collator: VQACollator, data: Dataset, folder: Path) -> dict:
    """What is read back against the live encoder: in the batches of the build, and in others."""
    cache = FeatureCache(folder)
    paths = list(dict.fromkeys(data["image"][:]))[: 2 * MODALITIES["vision"].batch_rows]
    own = VQACollator(collator.processor, inputs="image")
    stored = cache.batch(paths)["vision_states"]
    found = {}
    for name, size in (("batches_of_the_build", MODALITIES["vision"].batch_rows), ("batches_of_five", 5)):
        parts = [paths[i : i + size] for i in range(0, len(paths), size)]
        with torch.inference_mode():
            live = [
                model.ume.encode_image(
                    own([{"question_id": 0, "image": path} for path in part])["pixel_values"]
                ).states
                for part in parts
            ]
        live = torch.cat(live).half()
        found[f"equal_in_{name}"] = bool(torch.equal(stored, live))
        found[f"share_of_values_that_differ_in_{name}"] = float((stored != live).float().mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured, in turn")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "features.json")
    args = parser.parse_args()
    logging.set_verbosity_error()
    keep_freed_memory()
    report = {"environment": environment(), "load_before": os.getloadavg(), "batch": BATCH, "shapes": {}}
    for name in args.shapes:
        shape = SHAPES[name]
        print(shape["name"], flush=True)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            # More of them than training needs: opening the encoder's weights to compare them is once a build.
            to_build = made_up(folder, shape["images_to_build"])
            building = measure_build(shape, to_build, folder, args.rounds)
            rows = {"full": measure_rows(FeatureCache(folder / "build0" / "vision"))}
            training = measure_training(shape, to_build, folder, args.rounds)
            rows["7×7"] = measure_rows(FeatureCache(folder / "grid7" / "vision"))
            print(f"  rows: {rows}", flush=True)
        report["shapes"][name] = {"name": shape["name"], "training": training, "build": building, "rows": rows}
        base = report["shapes"].get("base")
        rate = None if base is None else base["build"]["vision"]["build"]["per_second"]
        report["vqa_v2_on_paper"] = {"images_per_second_at_224": rate, "table": vqa_v2_features(rate)}
        report["load_after"] = os.getloadavg()
        write_json(args.out, report)
    print(json.dumps({key: value for key, value in report.items() if key != "environment"}, indent=2))


if __name__ == "__main__":
    main()
