"""A config that asks for more than any memory holds is refused before anything is built, with the field's name."""

import json
import shutil

import pytest
from conftest import tiny_config, tiny_model
from odd_inputs import saved_checkpoint
from transformers import CONFIG_MAPPING

from configuration_ume import UMEConfig
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.limits_ume import check_against_weights, check_encoder_size, loading
from training_ume.evaluation.load import load_checkpoint

HUGE = 10_000_000
OWN = (
    "fusion_hidden_size",
    "fusion_num_heads",
    "fusion_num_layers",
    "fusion_num_members",
    "fusion_rank",
    "feature_grid",
)


@pytest.mark.parametrize("field", [*OWN, "num_labels"])
@pytest.mark.parametrize("value", [HUGE, 10**30])
def test_a_field_of_the_head_that_asks_for_too_much_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field}=.* is impossible: it must be [\d,]+ or less"):
        tiny_config(**{field: value})


def test_fields_that_ask_for_too_much_together_are_refused(monkeypatch):
    fields = {"fusion_hidden_size": 2**15, "fusion_num_layers": 2**9, "fusion_num_heads": 1}
    with pytest.raises(ValueError, match=r"fusion_num_layers=512 .* together .*UME_MAX_PARAMETERS"):
        tiny_config(fusion="co_attention", **fields)
    monkeypatch.setenv("UME_MAX_PARAMETERS", str(10**13))
    tiny_config(fusion="co_attention", **fields)


@pytest.mark.parametrize(
    ("which", "fields"),
    [
        ("text_config", {"num_hidden_layers": HUGE}),
        ("text_config", {"num_attention_heads": HUGE}),
        ("text_config", {"hidden_size": HUGE}),
        ("text_config", {"intermediate_size": 10**30}),
        ("text_config", {"vocab_size": 10**12}),
        ("text_config", {"max_position_embeddings": 10**12}),
        ("text_config", {"num_labels": HUGE}),
        ("text_config", {"model_type": "gpt2", "n_layer": HUGE}),
        ("text_config", {"model_type": "gpt2", "n_embd": HUGE}),
        ("text_config", {"model_type": "ume_lstm", "num_layers": HUGE}),
        ("vision_config", {"image_size": HUGE}),
        ("vision_config", {"num_channels": 10**12}),
        ("vision_config", {"model_type": "resnet", "depths": [1, HUGE]}),
        ("vision_config", {"model_type": "resnet", "hidden_sizes": [8, HUGE]}),
        ("vision_config", {"model_type": "ume_vgg", "fc_size": 10**9}),
        ("vision_config", {"model_type": "clip", "vision_config": {"num_hidden_layers": HUGE}}),
    ],
)
def test_an_encoder_that_asks_for_too_much_is_refused(which, fields):
    kind = {"text_config": "bert", "vision_config": "vit"}[which]
    with pytest.raises(ValueError, match=rf"{which}.* (is impossible|asks for some)"):
        UMEConfig(**{which: {"model_type": kind, **fields}})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"hidden_size": 100, "num_hidden_layers": 3}, 100 * 300),
        ({"hidden_size": 100, "vocab_size": 50, "max_position_embeddings": 20}, 100 * (100 + 70)),
        ({"hidden_size": 100, "vocab_size": 50, "image_size": 64, "patch_size": 8}, 100 * (100 + 50 + 64)),
        ({"hidden_size": 100, "image_size": [64, 32], "patch_size": None}, 100 * (100 + 16)),
        ({"hidden_sizes": [8, 100, 20], "depths": [2, 3]}, 100 * 500),
        ({"hidden_size": 100, "intermediate_size": 200, "global_attention_layers": [7, 8, 9]}, 200 * 600),
    ],
)
def test_what_an_encoder_asks_for_is_its_layers_of_the_widest_and_its_tables(fields, wanted, monkeypatch):
    monkeypatch.setenv("UME_MAX_PARAMETERS", str(wanted))
    check_encoder_size("text_config", {"half": fields})
    monkeypatch.setenv("UME_MAX_PARAMETERS", str(wanted - 1))
    with pytest.raises(
        ValueError, match=rf"text_config\.half asks for some {wanted:.1e} parameters".replace("+", r"\+")
    ):
        check_encoder_size("text_config", {"half": fields})


@pytest.mark.parametrize("parameters", [5 * 10**8 + 1000, 5 * 10**8 + 1001])
def test_a_model_may_have_as_many_parameters_as_its_weights_have_bytes_and_what_is_new(parameters, tmp_path):
    check_against_weights(parameters)  # none are loaded
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(500))
    with loading(tmp_path):
        check_against_weights(parameters)  # the base of an adapter may lie elsewhere
    (tmp_path / "model.safetensors").write_bytes(bytes(500))
    with loading(tmp_path):
        if parameters == 5 * 10**8 + 1000:
            check_against_weights(parameters)
        else:
            with pytest.raises(
                ValueError, match=r"500,001,001 parameters, and the weights beside it have 1,000 bytes"
            ):
                check_against_weights(parameters)
    check_against_weights(parameters)


@pytest.mark.slow
def test_every_encoder_that_transformers_knows_may_have_its_own_sizes():
    refused = {}
    for kind in CONFIG_MAPPING:
        try:
            fields = CONFIG_MAPPING[kind]().to_dict()
        except Exception:
            continue
        try:
            check_encoder_size("text_config", fields)
        except ValueError as error:
            refused[kind] = str(error)
    assert refused.keys() <= {"mistral_large4", "mistral_large4_text"}  # hundreds of billions of parameters


def test_a_checkpoint_whose_config_wants_far_more_than_its_weights_is_refused(tmp_path):
    shutil.copytree(saved_checkpoint()[0], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["vocab_size"] = 2**26
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"asks for a model of [\d,]+ parameters, and the weights beside it have"):
        load_checkpoint(str(tmp_path / "model"))


def test_a_model_that_starts_from_a_smaller_file_loads(tmp_path):
    tiny_model().ume.save_pretrained(tmp_path)
    model = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    assert model.classifier.out_features == 7
