"""The tables of docs/heads_and_encoders.md: every fusion head and every tested encoder, as the code has them today."""

from __future__ import annotations

import inspect

import torch
import transformers
from transformers import BertConfig, ViTConfig

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS
from training_ume.encoder_facts import encoder_facts

HIDDEN_SIZE = 512  # D of the parameter counts
ENCODER_WIDTH = 768  # of both streams: the base size of BERT and ViT


def markdown(header: list[str], rows: list[list[str]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; the columns numbered in `right` are aligned to the right."""
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


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
