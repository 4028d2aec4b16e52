"""The models: encoder pairs, inputs, saving and loading, and the traps of the stack they stand on."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, tiny_batch, tiny_config, tiny_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, Trainer, TrainingArguments
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports
from transformers.modeling_outputs import BaseModelOutput

import modeling_ume
from configuration_ume import UMEConfig
from modeling_ume import UMEForRetrieval, UMEForSequenceClassification, UMEForVisualQuestionAnswering, UMEModel
from modeling_ume.tasks_ume import answer_loss

PAIRS = [(text, image) for text in TEXT_CONFIGS for image in IMAGE_CONFIGS]


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits


@pytest.mark.parametrize(("text", "image"), PAIRS)
def test_every_pair_runs_forward_and_backward_and_reloads_with_equal_logits(text, image, tmp_path):
    model, batch = tiny_model(text, image), tiny_batch()
    model.train()(**batch, labels=torch.tensor([0, 3, 6])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval().save_pretrained(tmp_path)
    reloaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(reloaded, batch), logits(model, batch), rtol=0, atol=1e-6)
    grid = model.ume.encode_image(batch["pixel_values"]).grid
    assert grid is not None
    assert grid[0] == grid[1]


def test_padding_never_changes_the_logits():
    model, batch = tiny_model(), tiny_batch()
    expected = logits(model, batch)
    batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 59)
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-6)


def test_image_index_equals_repeating_the_images():
    model, batch = tiny_model(), tiny_batch()
    expected = logits(model, batch)
    batch["pixel_values"] = batch["pixel_values"][batch.pop("image_index")]
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-6)


def test_questions_without_their_images_index_are_refused():
    batch = tiny_batch()
    del batch["image_index"]
    with pytest.raises(ValueError, match="3 questions came with 2 images: pass image_index"):
        tiny_model()(**batch)
    with pytest.raises(ValueError, match="Neither input_ids nor pixel_values"):
        tiny_model()()


@pytest.mark.parametrize("fusion", ["concat", "ume"])
def test_an_absent_input_equals_a_present_flag_of_false(fusion):
    model, batch = tiny_model(fusion=fusion), tiny_batch()
    question_only = logits(model, {key: batch[key] for key in ("input_ids", "attention_mask")})
    flagged = logits(model, {**batch, "image_present": torch.zeros(3, dtype=torch.bool)})
    torch.testing.assert_close(flagged, question_only, rtol=0, atol=1e-6)
    assert (logits(model, batch) - question_only).abs().max() > 1e-4


def test_a_frozen_encoder_stays_in_eval_mode_and_gets_no_gradient():
    model = tiny_model(image="resnet")
    model.freeze("vision")
    model.train()
    before = {name: value.clone() for name, value in model.ume.vision_model.state_dict().items()}
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(torch.equal(before[name], value) for name, value in model.ume.vision_model.state_dict().items())
    assert all(p.grad is None for p in model.ume.vision_model.parameters())
    assert all(p.grad is not None for p in model.ume.text_model.parameters())


def test_losses_are_those_of_their_formulas():
    batch, labels = tiny_batch(), torch.tensor([2, -100, 5])
    output = tiny_model()(**batch, labels=labels)
    expected = nn.functional.cross_entropy(output.logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(output.loss, expected)
    assert tiny_model()(**batch, labels=torch.full((3,), -100)).loss == 0
    soft = torch.rand(3, 7)
    output = tiny_model(problem_type="multi_label_classification")(**batch, labels=soft)
    bce = nn.functional.binary_cross_entropy_with_logits(output.logits, soft, reduction="none").sum(1).mean()
    torch.testing.assert_close(output.loss, bce)
    soft[1] = 0.0  # of no known answer
    output = tiny_model()(**batch, labels=soft)
    shares = soft[[0, 2]] / soft[[0, 2]].sum(1, keepdim=True)
    torch.testing.assert_close(output.loss, -(shares * output.logits[[0, 2]].log_softmax(1)).sum(1).mean())
    assert tiny_model()(**batch, labels=torch.zeros(3, 7)).loss == 0
    with pytest.raises(ValueError, match=r"labels have shape \(3, 6\).*or one answer id an example"):
        tiny_model()(**batch, labels=soft[:, :6])


def test_from_encoders_pretrained_takes_over_both_encoders(tmp_path):
    source = tiny_model(seed=3)
    source.ume.text_model.save_pretrained(tmp_path / "text")
    source.ume.vision_model.save_pretrained(tmp_path / "vision")
    joined = UMEForVisualQuestionAnswering.from_encoders_pretrained(
        str(tmp_path / "text"),
        str(tmp_path / "vision"),
        fusion="concat",
        fusion_hidden_size=16,
        id2label={0: "no", 1: "yes"},
        text_attn_implementation="eager",
    )
    for part in ("text_model", "vision_model"):
        expected = getattr(source.ume, part).state_dict()
        found = getattr(joined.ume, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert joined.config.fusion == "concat"
    assert joined.ume.text_model.config is joined.config.text_config
    assert joined.config.text_config._attn_implementation == "eager"


def test_gradient_checkpointing_changes_no_gradient():
    batch, labels = tiny_batch(), torch.tensor([0, 1, 2])
    grads = []
    for checkpointing in (False, True):
        model = tiny_model(fusion_dropout=0.0, classifier_dropout=0.0)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()(**batch, labels=labels).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-6)


def test_resizing_the_vocabulary_and_bfloat16_work():
    model, batch = tiny_model(), tiny_batch()
    expected = logits(model, batch)
    model.resize_token_embeddings(64)
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-6)
    assert model.config.text_config.vocab_size == 64
    assert logits(model.bfloat16(), batch).dtype == torch.bfloat16


def test_an_encoder_without_what_the_pooling_asks_for_is_refused():
    with pytest.raises(ValueError, match="vision_pooling='cls': the encoder 'resnet' has no class token"):
        tiny_model(image="resnet", vision_pooling="cls")
    with pytest.raises(ValueError, match="text_pooling='pooler': the encoder 'distilbert' has no pooled output"):
        tiny_model(text="distilbert", text_pooling="pooler")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fusion", "umme", "fusion='umme' is not known: choose one of .*ume"),
        ("text_pooling", "max", "text_pooling='max' is not known"),
        ("problem_type", "ranking", "problem_type='ranking' is not known"),
        ("fusion_hidden_size", 0, "fusion_hidden_size=0 is impossible"),
        ("fusion_num_layers", 1.5, r"fusion_num_layers=1\.5 is impossible"),
        ("fusion_num_members", 0, "fusion_num_members=0 is impossible"),
        ("fusion_dropout", 1.0, r"fusion_dropout=1\.0 is impossible"),
        ("num_labels", 1, "num_labels=1: a model that chooses an answer needs two or more"),
    ],
)
def test_an_impossible_config_names_the_field_and_the_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**{field: value})


def test_contradictions_in_a_config_are_refused():
    with pytest.raises(ValueError, match="num_labels=3 contradicts id2label"):
        tiny_config(id2label={0: "no", 1: "yes"}, num_labels=3)
    with pytest.raises(ValueError, match=r"ids are not 0 … 1"):
        UMEConfig(id2label={0: "no", 2: "yes"})
    with pytest.raises(ValueError, match="not divisible into fusion_num_heads=3"):
        tiny_config(fusion="cross_attention", fusion_num_heads=3)
    with pytest.raises(ValueError, match="were the two configs swapped"):
        UMEConfig.from_encoder_configs(IMAGE_CONFIGS["vit"](), TEXT_CONFIGS["bert"]())


# The five traps of the stack.


def test_a_state_dict_as_saved_restores_every_weight_as_the_trainer_loads_it(tmp_path):
    model = tiny_model(seed=1)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    if not saved.keys() - model.state_dict().keys():
        pytest.skip("This release of transformers saves ViT under its live names.")
    other = tiny_model(seed=2)
    other.load_state_dict(saved, strict=False)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


class _Rows(torch.utils.data.Dataset):
    def __init__(self, batch, labels):
        self.batch, self.labels = batch, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        row = {name: self.batch[name][i] for name in ("input_ids", "attention_mask", "pixel_values")}
        return {**row, "labels": self.labels[i]}


def _train(tmp_path, batch_size, accumulation):
    model = tiny_model(fusion_dropout=0.0, classifier_dropout=0.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    arguments = TrainingArguments(
        output_dir=str(tmp_path / str(accumulation)),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=_Rows(tiny_batch(8, 8), torch.arange(8) % 7))
    trainer.train()
    return trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]


def test_accumulating_gradients_gives_the_loss_of_the_big_batch(tmp_path):
    assert _train(tmp_path, 4, 2) == pytest.approx(_train(tmp_path, 8, 1), abs=1e-4)


def test_nothing_is_left_uninitialised_by_the_meta_device(tmp_path):
    model = tiny_model()
    model.ume.vision_model.save_pretrained(tmp_path)  # a file in which the whole head is missing
    with torch.device("meta"):
        shadow = UMEForVisualQuestionAnswering(model.config)
    assert all(p.is_meta for p in shadow.parameters())
    loaded = UMEForVisualQuestionAnswering.from_pretrained(None, config=model.config, state_dict={})
    for name, value in loaded.named_parameters():
        assert value.isfinite().all(), name
        assert value.abs().max() < 100, name
    assert loaded.ume.fusion.combination.product_weight.std() > 0.1


def test_no_pooler_is_built_where_none_is_read():
    assert tiny_model().ume.text_model.pooler is None
    assert tiny_model(text_pooling="pooler").ume.text_model.pooler is not None


CLEAN_PROCESS = """
import sys, torch
sys.modules["modeling_ume"] = sys.modules["configuration_ume"] = sys.modules["training_ume"] = None
from transformers import AutoConfig, AutoModel, AutoModelForVisualQuestionAnswering
folder = sys.argv[1]
batch = torch.load(folder + "/batch.pt", weights_only=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert config.model_type == model.config.model_type == "ume"
expected = batch.pop("expected")
with torch.no_grad():
    assert (model(**batch).logits - expected).abs().max() < 1e-6
    assert (base(**batch).fused - model(**batch).fused).abs().max() < 1e-6
"""


@pytest.mark.parametrize("entry", ["configuration_ume", "modeling_ume", "processing_ume", "pipeline_ume"])
def test_an_entry_file_itself_imports_whatever_it_needs(entry):
    # transformers 5.0 copies no further than one step.
    folder = Path(modeling_ume.__file__).parent
    direct = get_relative_imports(folder / f"{entry}.py")
    needed = {Path(file).stem for file in get_relative_import_files(folder / f"{entry}.py")}
    assert needed <= set(direct)


def test_a_checkpoint_loads_where_this_package_is_not_installed(tmp_path):
    model, batch = tiny_model(), tiny_batch()
    model.save_pretrained(tmp_path / "ckpt")
    torch.save({**batch, "expected": logits(model, batch)}, tmp_path / "ckpt" / "batch.pt")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-I", "-c", CLEAN_PROCESS, str(tmp_path / "ckpt")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_base_model_loads_from_a_full_checkpoint(tmp_path):
    model, batch = tiny_model(), tiny_batch()
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert isinstance(base, UMEModel)
    with torch.no_grad():
        torch.testing.assert_close(base(**batch).fused, model(**batch).fused, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"input_ids": torch.full((3, 6), 60)},
            "input_ids holds 60, but the text encoder's tokens are numbered 0 to 59",
        ),
        ({"input_ids": torch.zeros(6, dtype=torch.long)}, r"input_ids is torch.int64 of shape \[6\]: give"),
        ({"attention_mask": torch.ones(3, 5)}, r"attention_mask is torch.float32 of shape \[3, 5\]: give one value"),
        ({"pixel_values": torch.rand(2, 32, 32, 3)}, r"pixel_values .* \[images, 3, height, width\]"),
        ({"pixel_values": torch.ones(2, 3, 32, 32).long()}, "pixel_values is torch.int64 .* floating-point"),
        ({"image_index": torch.tensor([0, 1, 2])}, "image_index holds 2, but the images are numbered 0 to 1"),
        ({"image_index": torch.tensor([0, -1, 1])}, "image_index holds -1"),
        ({"image_present": torch.ones(2)}, "image_present .* give one truth value an example"),
        ({"labels": torch.tensor([0, 7, 1])}, "labels holds 7, but the answers are numbered 0 to 6"),
        ({"labels": torch.tensor([0, 1])}, r"labels have shape \(2,\) for logits of shape \(3, 7\)"),
    ],
)
def test_inputs_of_a_wrong_shape_type_or_value_are_named(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_model()(**{**tiny_batch(), **change})


def test_a_question_longer_than_the_encoders_positions_is_refused_with_their_number():
    with pytest.raises(ValueError, match=r"A question has 600 tokens, but the text encoder 'bert' reads 512: cut it"):
        tiny_model()(input_ids=torch.ones(1, 600, dtype=torch.long))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"id2label": ["no", "yes"]}, "id2label is a list: give a dict"),
        ({"id2label": {0: "no", 1: None}}, "id2label={1: None}: an answer must be a string"),
        ({"id2label": {"x": "no", 1: "yes"}}, "number the answers from 0"),
        ({"id2label": {0: "no", 1: "yes"}, "label2id": {"no": "x", "yes": 1}}, "label2id contradicts id2label"),
        ({"text_config": {"model_type": ["bert"]}}, r"transformers .* has no model_type=\['bert'\]"),
        ({"text_config": {"model_type": "vit", "image_size": "large", "hidden_size": []}}, "text_config is "),
    ],
)
def test_labels_and_encoder_configs_of_wrong_types_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        UMEConfig(**fields)


@pytest.mark.parametrize("fusion", ["ume", "early_input"])
def test_a_model_is_built_and_loaded_in_inference_mode(tmp_path, fusion):
    # A width of its own, so that no shape is known from another test.
    config, batch = tiny_config(fusion=fusion), tiny_batch()
    config.text_config.intermediate_size = config.vision_config.intermediate_size = {"ume": 26, "early_input": 28}[
        fusion
    ]
    with torch.inference_mode():
        model = UMEForVisualQuestionAnswering(config).eval()
        model.save_pretrained(tmp_path)
        model.ume.text_model.save_pretrained(tmp_path / "text")
        model.ume.vision_model.save_pretrained(tmp_path / "image")
        loaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        encoders = str(tmp_path / "text"), str(tmp_path / "image")
        joined = UMEForVisualQuestionAnswering.from_encoders_pretrained(*encoders, fusion=fusion, num_labels=7)
        assert joined(**batch).logits.shape == (3, 7)
    with torch.no_grad():
        assert torch.isfinite(loaded(**batch).logits).all()


@torch.no_grad()
def test_layers_of_head_and_classifier_start_from_the_scale_of_their_inputs():
    model = tiny_model(fusion="co_attention", fusion_hidden_size=128)
    for part in (model.ume.fusion, model.classifier):
        for module in part.modules():
            for parameter in module.parameters(recurse=False):
                parameter.fill_(torch.nan)
            model._init_weights(module)
            if isinstance(module, nn.Linear):
                assert float(module.weight.std()) == pytest.approx((3 * module.in_features) ** -0.5, rel=0.15)
                assert (module.bias == 0).all()
            elif isinstance(module, nn.LayerNorm):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()


def test_every_place_of_code_that_a_config_names_holds_that_class():
    config, found = tiny_config(), {}
    named = {**config.auto_map, "pipeline": config.custom_pipelines["visual-question-answering"]["impl"]}
    for kind, place in named.items():
        module, _, name = place.partition(".")
        found[kind] = getattr(importlib.import_module(f"modeling_ume.{module}"), name)
    assert found == {
        "AutoConfig": UMEConfig,
        "AutoModel": UMEModel,
        "AutoModelForVisualQuestionAnswering": UMEForVisualQuestionAnswering,
        "AutoModelForSequenceClassification": UMEForSequenceClassification,
        "AutoModelForPreTraining": UMEForRetrieval,
        "AutoModelForZeroShotImageClassification": modeling_ume.UMEForImageTextRetrieval,
        "pipeline": modeling_ume.UMEVQAPipeline,
    }


def test_a_config_holds_the_encoders_config_itself():
    text, image = TEXT_CONFIGS["bert"](), IMAGE_CONFIGS["vit"]()
    config = UMEConfig(text_config=text, vision_config=image)
    assert config.text_config is text
    assert config.vision_config is image


@pytest.mark.parametrize("given", ["pixel_values", "vision_states", "image_index"])
def test_a_mask_of_images_alone_has_a_value_an_example(given):
    model, batch = tiny_model(), tiny_batch()
    image = {"pixel_values": batch["pixel_values"]}
    if given == "vision_states":
        stream = model.ume.encode_image(batch["pixel_values"])
        image = {"vision_states": stream.states, "vision_pooled": stream.pooled}
    elif given == "image_index":
        image["image_index"] = batch["image_index"]
    rows = 3 if given == "image_index" else 2
    present = torch.tensor([True, False, True])
    assert model(**image, image_present=present[:rows]).logits.shape[0] == rows
    with pytest.raises(ValueError, match="image_present"):
        model(**image, image_present=present[: 5 - rows])


@torch.no_grad()
def test_the_grid_of_stored_images_is_two_whole_numbers():
    model, batch, seen = tiny_model(), tiny_batch(), []
    stream = model.ume.encode_image(batch.pop("pixel_values"))
    model.ume.fusion.register_forward_pre_hook(lambda _, streams: seen.append(streams[0][1].grid))
    model(**batch, vision_states=stream.states, vision_pooled=stream.pooled, vision_grid=torch.tensor(stream.grid))
    assert seen == [stream.grid]
    assert all(type(side) is int for side in seen[0])


def test_the_tuple_of_an_output_has_tuples_of_the_encoders_outputs():
    inner = BaseModelOutput(last_hidden_state=torch.ones(1))
    output = modeling_ume.outputs_ume.UMERetrievalOutput(logits_per_image=torch.zeros(1), text_model_output=inner)
    assert output.to_tuple() == (output.logits_per_image, (inner.last_hidden_state,))


def test_soft_scores_over_a_softmax_cost_their_mean_over_the_examples_that_have_any():
    scores = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    log = scores.log_softmax(-1)
    expected = -(log[0, 0] + log[1, 1:3].mean()) / 2
    torch.testing.assert_close(answer_loss(scores, labels, "single_label_classification"), expected)


def test_an_answer_that_there_is_not_is_told_with_how_many_there_are():
    with pytest.raises(ValueError, match="labels holds 4, but the answers are numbered 0 to 3"):
        answer_loss(torch.zeros(2, 4), torch.tensor([0, 4]), "single_label_classification")


@torch.no_grad()
def test_the_model_alone_gives_a_tuple_to_who_asks_for_one():
    model = UMEModel(tiny_config()).eval()
    parts = model(**tiny_batch(), return_dict=False)
    assert isinstance(parts, tuple)
    assert torch.equal(parts[0], model(**tiny_batch()).fused)
