#!/usr/bin/env python
"""Write tests/golden/logits.json, what a tiny model says with each fusion head; for when that is meant to change.

python tests/golden/make_logits.py           writes the file and tells which heads changed
python tests/golden/make_logits.py ume evc   these heads alone

Weights and inputs come from integer arithmetic and the encoders are this project's own, so that neither torch's random
numbers nor a release of transformers decides what the numbers are. Look at the difference before you commit it.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent.parent))

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS, UMEForVisualQuestionAnswering

FILE = Path(__file__).parent / "logits.json"
TOLERANCE = 1e-4  # relative to the largest logit; another CPU's kernels stay within a hundredth of it
TOKENS, ANSWERS = 30, 5


def numbers(name: str, count: int) -> np.ndarray:
    """`count` numbers in [−1, 1) that depend on the name alone, exactly: SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):  # it counts modulo 2⁶⁴
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def model_with(fusion: str) -> UMEForVisualQuestionAnswering:
    """An LSTM × VGG model of a few thousand parameters, in eval mode."""
    config = UMEConfig(
        text_config={"model_type": "ume_lstm", "vocab_size": TOKENS, "embedding_size": 8, "hidden_size": 8},
        vision_config={"model_type": "ume_vgg", "image_size": 64, "hidden_sizes": [4, 6, 8, 8, 12], "fc_size": 16},
        fusion=fusion,
        fusion_hidden_size=16,
        num_labels=ANSWERS,
    )
    model = UMEForVisualQuestionAnswering(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.from_numpy(numbers(name, parameter.numel())).view(parameter.shape)
            if parameter.ndim > 1:
                values *= (6 / parameter[0].numel()) ** 0.5  # what keeps the scale of the activations
            elif "norm" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            parameter.copy_(values)
    return model


def inputs() -> dict[str, torch.Tensor]:
    """Four questions of several lengths about two images, one of them without its image."""
    ids = (numbers("input_ids", 4 * 6) + 1) / 2 * (TOKENS - 1) + 1
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64)).view(4, 6),
        "attention_mask": (torch.arange(6) < torch.tensor([6, 3, 5, 1])[:, None]).long(),
        "pixel_values": torch.from_numpy(numbers("pixel_values", 2 * 3 * 64 * 64)).float().view(2, 3, 64, 64),
        "image_index": torch.tensor([0, 1, 1, 0]),
        "image_present": torch.tensor([True, True, True, False]),
    }


@torch.no_grad()
def logits_of(fusion: str) -> torch.Tensor:
    """[4, 5] in float32."""
    return model_with(fusion)(**inputs()).logits


def differs(found: torch.Tensor, golden: torch.Tensor) -> bool:
    return found.shape != golden.shape or not (found - golden).abs().max() <= TOLERANCE * golden.abs().max()


def main(argv: list[str]) -> int:
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    goldens = {name: rows for name, rows in before.items() if name in FUSIONS}
    for name in sorted(argv or FUSIONS):
        found = logits_of(name)
        if name not in before or differs(found, torch.tensor(before[name])):
            print(f"{name}: {'changed' if name in before else 'new'}")
            goldens[name] = [[float(f"{value:.7g}") for value in row] for row in found.tolist()]
    lines = [f" {json.dumps(name)}: {json.dumps(goldens[name])}" for name in sorted(goldens)]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
