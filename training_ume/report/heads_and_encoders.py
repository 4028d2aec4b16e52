"""The tables of docs/ that come from the code: fusion heads, tested encoders, and what a feature cache takes."""

from __future__ import annotations

import inspect

import torch
import transformers
from transformers import BertConfig, ViTConfig

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS
from training_ume.report.encoder_facts import encoder_facts
from training_ume.report.markdown import markdown

HIDDEN_SIZE = 512  # D of the parameter counts
ENCODER_WIDTH = 768  # of both streams: the base size of BERT and ViT
VQA_V2_IMAGES = {"train": 82_783, "validation": 40_504, "test": 81_434}
IMAGES_PER_SECOND = 100  # at 224×224, stated for the sake of the table


def scheme(head: type) -> str:
    """What a head computes: its docstring up to the first blank line, without the name in front."""
    first = " ".join(inspect.getdoc(head).split("\n\n")[0].split())
    return first.partition(": ")[2] if first.startswith("`") and ": " in first else first.partition(", ")[2]


def head_parameters(name: str) -> int:
    """Parameters of the head alone for two streams of width 768 at D = 512; of the late heads without classifiers."""
    config = UMEConfig.from_encoder_configs(BertConfig(), ViTConfig(), fusion=name, fusion_hidden_size=HIDDEN_SIZE)
    with torch.device("meta"):
        inputs = {}
        if FUSIONS[name].reads_in_encoder:
            inputs = {"embedding_width": ENCODER_WIDTH, "input_widths": [ENCODER_WIDTH]}
        head = FUSIONS[name](config, [ENCODER_WIDTH, ENCODER_WIDTH], **inputs)
    return sum(parameter.numel() for parameter in head.parameters())


def heads_table() -> str:
    rows = [
        [f"`{name}`", scheme(head), head.source, f"{head_parameters(name):,}", head.cost]
        for name, head in sorted(FUSIONS.items())
    ]
    header = ["name", "what it computes", "known from", f"parameters, D = {HIDDEN_SIZE}", "cost an example"]
    return markdown(header, rows, right=(3,))


def encoders_table() -> str:
    """One table a modality, from `encoder_facts`."""
    facts = encoder_facts()
    tables = []
    for modality, title in (("text", "Text encoders"), ("vision", "Image encoders")):
        rows = [
            [
                fact["name"],
                fact["tokens"],
                fact["pooled"],
                "yes" if fact["sdpa"] else "no",
                "yes" if fact["gradient_checkpointing"] else "no",
            ]
            for fact in facts
            if fact["modality"] == modality
        ]
        header = ["encoder", "tokens", "summary (`auto`)", "SDPA", "gradient checkpointing"]
        tables.append(f"### {title}\n\n{markdown(header, rows)}")
    tables.append(f"Tested with transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}.")
    return "\n\n".join(tables)


def feature_bytes(images: int, tokens: int, width: int) -> int:
    """What a feature cache takes: of each image the tokens and the summary, in float16."""
    return images * (tokens + 1) * width * 2


def vqa_v2_features(images_per_second: float | None) -> list[dict]:
    """
    On paper: the size of VQA v2's images through a ViT-B/16, and the time it takes to encode them.

    Args:
        images_per_second: the rate at 224×224 pixels, if one is known; at 384×384 it falls as a layer's operations
            rise.

    Returns:
        `list[dict]`, one a size and a choice of what is kept: `pixels`, `kept`, `vectors_an_image` (the summary is one
        of them), `train_gigabytes` and so on, `all_gigabytes`, `relative_time`, `hours_for_all`.
    """
    layers, width, patch = 12, ENCODER_WIDTH, 16

    def operations(tokens: int) -> int:
        # A layer multiplies by 12 D² weights a token, and takes N² products of D twice.
        return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)

    parts = {**VQA_V2_IMAGES, "all": sum(VQA_V2_IMAGES.values())}
    table = []
    for size in (224, 384):
        grid = size // patch
        scale = operations(grid**2 + 1) / operations((224 // patch) ** 2 + 1)
        for kept, tokens in ((f"{grid}×{grid} + CLS", grid**2 + 1), ("7×7 + CLS", 50), ("1×1 + CLS", 2), ("CLS", 0)):
            row = {"pixels": size, "kept": kept, "vectors_an_image": tokens + 1}
            for part, images in parts.items():
                row[f"{part}_gigabytes"] = round(feature_bytes(images, tokens, width) / 1e9, 2)
            row["relative_time"] = round(scale, 2)
            if images_per_second is not None:
                row["hours_for_all"] = round(parts["all"] * scale / images_per_second / 3600, 2)
            table.append(row)
    return table


def features_table() -> str:
    rows = [
        [
            f"{row['pixels']}",
            row["kept"],
            f"{row['vectors_an_image']}",
            *(f"{row[f'{part}_gigabytes']:.2f}" for part in (*VQA_V2_IMAGES, "all")),
            f"{row['hours_for_all']:.1f}",
        ]
        for row in vqa_v2_features(IMAGES_PER_SECOND)
    ]
    parts = [f"{part}, GB" for part in (*VQA_V2_IMAGES, "all")]
    header = ["pixels", "kept", "vectors an image", *parts, "encoding all, hours"]
    images = ", ".join(f"{part} {count:,}" for part, count in VQA_V2_IMAGES.items())
    return (
        f"{markdown(header, rows, right=(0, *range(2, len(header))))}\n\nImages: {images}. Hours at "
        f"{IMAGES_PER_SECOND} images a second at 224 pixels; at 384, the rate that the number of operations leaves."
    )
