"""What has to hold on every release of transformers, tried on the installed one; and the matrix of releases."""

import pytest
import torch
from conftest import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file

from modeling_ume import UMEForVisualQuestionAnswering

ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    """(A folder with a LoRA adapter beside its base, what the adapted model answers to `tiny_batch()`)."""
    peft = pytest.importorskip("peft")
    base = tiny_model()
    base.save_pretrained(tmp_path)
    base.name_or_path = str(tmp_path)
    config = peft.LoraConfig(
        target_modules=["text_model.encoder.layer.0.intermediate.dense"], modules_to_save=["fusion", "classifier"]
    )
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path)
    return tmp_path, adapted.eval()(**tiny_batch()).logits


def test_an_adapter_and_the_head_trained_beside_it_are_loaded_whole(adapter):
    folder, expected = adapter
    model = UMEForVisualQuestionAnswering.from_pretrained(folder)
    torch.testing.assert_close(model(**tiny_batch()).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lost", [".lora_A.", "classifier.weight"])
def test_an_adapter_whose_weights_have_other_names_is_refused(adapter, lost):
    folder, _ = adapter
    weights = load_file(folder / ADAPTER)
    assert any(lost in name for name in weights)
    save_file({name.replace(lost, f"{lost}other."): value for name, value in weights.items()}, folder / ADAPTER)
    with pytest.raises(ValueError, match=r"does not fit this model: .* load the merged model"):
        UMEForVisualQuestionAnswering.from_pretrained(folder)
