"""What the models share: what counts as a hole in a checkpoint, and which inner states are asked for."""

from contextlib import nullcontext

import pytest
import torch
from conftest import TEXT_CONFIGS, tiny_batch, tiny_config
from transformers import Dinov2Config

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEModel


@pytest.fixture(scope="module")
def model():
    return UMEForVisualQuestionAnswering(tiny_config(fusion="concat"))


@pytest.mark.parametrize(
    ("missing", "saved_as", "lost"),
    [
        (["ume.text_model.embeddings.LayerNorm.bias"], "UMEModel", True),
        (["ume.vision_model.embeddings.cls_token"], "UMEModel", True),
        (["ume.fusion.project.streams.0.linear.bias"], "UMEModel", True),
        (["classifier.weight", "classifier.bias"], "UMEModel", False),
        (["classifier.weight", "classifier.bias"], "UMEForVisualQuestionAnswering", True),
    ],
)
def test_a_hole_is_what_an_encoder_lacks_or_a_part_that_was_saved(model, missing, saved_as, lost):
    model.config.architectures = [saved_as]
    assert {*missing} <= model.state_dict().keys()
    info = {"missing_keys": {*missing}, "mismatched_keys": set()}
    expected = pytest.raises(ValueError, match=f"lacks weights of the model that it is of.*{missing[0]}")
    with expected if lost else nullcontext():
        model._check_loaded("here", info, altered=False, reshaped=False)


def test_what_no_answer_depends_on_may_be_missing():
    image = Dinov2Config(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = UMEConfig.from_encoder_configs(TEXT_CONFIGS["bert"](), image, fusion="concat", num_labels=3)
    model = UMEForVisualQuestionAnswering(config)
    missing = {"ume.vision_model.embeddings.mask_token"}
    assert missing <= model.state_dict().keys()
    model._check_loaded("here", {"missing_keys": missing, "mismatched_keys": set()}, altered=False, reshaped=False)


@pytest.mark.parametrize("name", ["hidden_states", "attentions"])
@torch.no_grad()
def test_inner_states_that_the_config_asks_for_come_unless_the_call_says_no(name):
    model = UMEModel(tiny_config(attn_implementation="eager", **{f"output_{name}": True})).eval()
    assert len(getattr(model(**tiny_batch()), f"vision_{name}")) > 1
    assert getattr(model(**tiny_batch(), **{f"output_{name}": False}), f"vision_{name}") is None
