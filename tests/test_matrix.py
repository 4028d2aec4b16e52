"""Every text encoder with every image encoder, and every head with three pairs: all slow, a few minutes together."""

import pytest
import torch

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS, UMEForVisualQuestionAnswering
from training_ume.report.encoder_facts import IMAGE_ENCODERS, IMAGE_SIZE, TEXT_ENCODERS, VOCAB_SIZE, available

pytestmark = pytest.mark.slow

TEXTS, IMAGES = available(TEXT_ENCODERS), available(IMAGE_ENCODERS)
HEAD_PAIRS = [("BERT", "ViT"), ("LSTM (deeper LSTM Q)", "VGG-16"), ("DeBERTa", "BEiT")]


def check_that_it_trains_and_reloads(text, image, fusion, tmp_path):
    config = UMEConfig.from_encoder_configs(
        TEXT_ENCODERS[text](), IMAGE_ENCODERS[image](), fusion=fusion, fusion_hidden_size=16, num_labels=5
    )
    model = UMEForVisualQuestionAnswering(config).train()
    for name, parameter in model.ume.fusion.named_parameters():
        if "gates" in name:  # which start shut, so that nothing would come through to the image
            torch.nn.init.constant_(parameter, 0.5)
    batch = {
        "input_ids": torch.randint(3, VOCAB_SIZE, (3, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]]),
        "pixel_values": torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE),
        "image_index": torch.tensor([0, 1, 1]),
    }
    output = model(**batch, labels=torch.tensor([0, 1, 4]))
    output.loss.backward()
    assert output.loss.isfinite()
    for name, part in (("text", model.ume.text_model), ("image", model.ume.vision_model)):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients), name
        assert any(gradient.abs().max() > 0 for gradient in gradients), name
    model.eval().save_pretrained(tmp_path)
    reloaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)
    return model


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("text", TEXTS)
def test_every_pair_of_encoders_trains_and_reloads(text, image, tmp_path):
    model = check_that_it_trains_and_reloads(text, image, "ume", tmp_path)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("text", "image"), HEAD_PAIRS)
@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_head_trains_and_reloads_with_three_pairs(fusion, text, image, tmp_path):
    check_that_it_trains_and_reloads(text, image, fusion, tmp_path)
