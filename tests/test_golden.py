"""A change in any number that a fusion head computes is seen: logits as they were, for every head.

Where they are meant to change, `python tests/golden/make_logits.py` writes them anew.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from modeling_ume import FUSIONS

sys.path.append(str(Path(__file__).parent / "golden"))
from make_logits import FILE, differs, inputs, logits_of, model_with

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_head_has_its_golden_logits():
    assert sorted(GOLDEN) == sorted(FUSIONS), "run python tests/golden/make_logits.py"


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_logits_are_as_they_were(fusion):
    found, golden = logits_of(fusion), torch.tensor(GOLDEN[fusion])
    assert not differs(found, golden), f"by up to {(found - golden).abs().max():.2g}; if meant, run make_logits.py"


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@torch.no_grad()
def test_golden_logits_depend_on_question_image_and_weights(fusion):
    golden, model, batch = torch.tensor(GOLDEN[fusion]), model_with(fusion), inputs()
    assert differs(model(**{**batch, "input_ids": batch["input_ids"].flip(0)}).logits, golden)
    assert differs(model(**{**batch, "pixel_values": batch["pixel_values"].flip(0)}).logits, golden)
    for parameter in model.ume.fusion.parameters():
        parameter.mul_(1.01)
    assert differs(model(**batch).logits, golden)
