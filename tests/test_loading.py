"""Loading pretrained encoders: which names count as absent, and where else they are looked for."""

import pytest
from conftest import TRANSFORMER
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from modeling_ume import loading_ume
from modeling_ume.loading_ume import absent_names, load_encoder


def test_what_a_file_lacks_and_what_it_has_in_another_shape_is_absent():
    info = {"missing_keys": {"a"}, "mismatched_keys": {("b", (1,), (2,))}, "unexpected_keys": {"c"}}
    assert absent_names(info) == {"a", "b"}


def test_a_half_whose_weights_are_found_by_its_own_names_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    text = {"vocab_size": 60, "max_position_embeddings": 8, **TRANSFORMER}
    image = {"image_size": 16, "patch_size": 8, **TRANSFORMER}
    CLIPModel(CLIPConfig(text_config=text, vision_config=image)).save_pretrained(tmp_path)
    monkeypatch.setattr(loading_ume, "_out_of_whole", lambda *args: pytest.fail("it was loaded once more"))
    assert load_encoder(str(tmp_path), "text", "auto")[1] == "auto"


def test_what_to_do_about_weights_that_no_pooler_is_for_is_said(tmp_path):
    encoder = BertModel(BertConfig(vocab_size=60, **TRANSFORMER))
    state = {name: value for name, value in encoder.state_dict().items() if "layer.1.attention" not in name}
    encoder.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"They would be random: take a checkpoint that has them\."):
        load_encoder(str(tmp_path), "text", "auto")
