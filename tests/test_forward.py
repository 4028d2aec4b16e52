"""What callers of any transformers model pass to `forward` and read from what it returns."""

import copy
import dataclasses
import pickle

import pytest
import torch
from conftest import TRANSFORMER, tiny_batch, tiny_config, tiny_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import CLIPTextConfig, Trainer, TrainingArguments, ViTConfig

from modeling_ume import UMEConfig, UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEModel
from modeling_ume.outputs_ume import UMEFeaturesOutput, UMERetrievalOutput
from modeling_ume.retrieval_ume import contrastive_loss
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMEVGGConfig

FLAGS = {"output_attentions": True, "output_hidden_states": True}
LAYERS, HEADS = TRANSFORMER["num_hidden_layers"], TRANSFORMER["num_attention_heads"]
CLASSES = [UMEModel, UMEForVisualQuestionAnswering, UMEForImageTextRetrieval]


def lstm_vgg() -> UMEForVisualQuestionAnswering:
    text = UMELSTMConfig(vocab_size=60, embedding_size=8, hidden_size=8)
    image = UMEVGGConfig(hidden_sizes=[4] * 5, fc_size=8, image_size=32)
    config = UMEConfig.from_encoder_configs(text, image, fusion_hidden_size=16, num_labels=7)
    return UMEForVisualQuestionAnswering(config).eval()


def shapes(states) -> list[tuple] | None:
    return None if states is None else [tuple(state.shape) for state in states]


@torch.no_grad()
def test_inner_states_come_back_by_modality_where_they_are_asked_for():
    model, batch = tiny_model(), tiny_batch()  # 3 questions of 6 tokens about 2 images of 16 patches
    expected = model(**batch)
    assert {"text_hidden_states", "vision_attentions"}.isdisjoint(expected.keys())
    output = model(**batch, **FLAGS)
    assert shapes(output.text_hidden_states) == [(3, 6, 16)] * (LAYERS + 1)
    assert shapes(output.vision_hidden_states) == [(2, 17, 16)] * (LAYERS + 1)
    assert shapes(output.text_attentions) == [(3, HEADS, 6, 6)] * LAYERS
    assert shapes(output.vision_attentions) == [(2, HEADS, 17, 17)] * LAYERS
    torch.testing.assert_close(output.text_attentions[0].sum(-1), torch.ones(3, HEADS, 6))
    assert output.hidden_states is output.text_hidden_states
    assert output.attentions is output.text_attentions
    stream = model.ume.encode_text(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(output.text_hidden_states[-1], stream.states, atol=1e-5, rtol=0)
    # They are watched, not changed, and the implementation of attention is what it was.
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)
    assert model.config.text_config._attn_implementation == "sdpa"


def test_gradients_pass_through_the_inner_states_that_come_back():
    output = tiny_model()(**tiny_batch(), **FLAGS)
    inner = [states[0] for states in (output.text_hidden_states, output.vision_hidden_states, output.text_attentions)]
    for states in inner:
        states.retain_grad()
    output.logits.sum().backward()
    assert all(states.grad is not None for states in inner)


@pytest.mark.parametrize("cls", CLASSES)
@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds(cls):
    model, batch = cls(tiny_config()).eval(), tiny_batch()

    def same(left, right):
        if isinstance(left, torch.Tensor):
            return torch.equal(left, right)
        if isinstance(left, dict):
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        return len(left) == len(right) and all(map(same, left, right))

    for flags in ({}, FLAGS):
        assert same(model(**batch, **flags, return_dict=False), model(**batch, **flags).to_tuple())
    model.config.return_dict = False
    assert isinstance(model(**batch), tuple)
    assert not isinstance(model(**batch, return_dict=True), tuple)


@pytest.mark.parametrize("flag", FLAGS)
@torch.no_grad()
def test_a_config_asks_for_inner_states_too(flag, tmp_path):
    batch, field = tiny_batch(), flag.removeprefix("output_")
    model = tiny_model(**{flag: True})
    model.save_pretrained(tmp_path)
    for asking in (model, UMEForVisualQuestionAnswering.from_pretrained(tmp_path)):
        output = asking(**batch)
        assert output[f"text_{field}"]
        assert output[f"vision_{field}"]
    assert model(**batch, **{flag: False}).get(f"text_{field}") is None
    # An encoder's own config asks for that encoder alone.
    config = tiny_config()
    config.text_config = type(config.text_config)(**{**config.text_config.to_dict(), flag: True})
    output = UMEForVisualQuestionAnswering(config).eval()(**batch)
    assert output[f"text_{field}"]
    assert output.get(f"vision_{field}") is None


@torch.no_grad()
def test_what_ran_no_encoder_or_has_no_attention_gives_none():
    model, batch = tiny_model(), tiny_batch()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    stored = model.encode_images(batch["pixel_values"])
    for output in (
        model(**texts, **FLAGS),
        model(**texts, **stored, image_index=batch["image_index"], **FLAGS),
    ):
        assert output.vision_hidden_states is None
        assert len(output.text_attentions) == LAYERS
    output = tiny_model(image="resnet")(**batch, **FLAGS)
    assert output.vision_attentions is None
    assert shapes(output.vision_hidden_states)[0] == (2, 8, 8, 8)
    output = lstm_vgg()(**batch, **FLAGS)
    assert output.hidden_states is None
    assert output.vision_hidden_states is None


@torch.no_grad()
def test_the_joint_reading_of_early_input_is_the_text_encoders():
    output = tiny_model(fusion="early_input")(**tiny_batch(), **FLAGS)
    assert shapes(output.text_attentions) == [(3, HEADS, 6 + 17, 6 + 17)] * LAYERS


def test_attentions_are_refused_where_backward_would_compute_them_in_another_way():
    model, batch = tiny_model(), tiny_batch()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="'bert' gives no attentions with attn_implementation='sdpa'"):
        model.train()(**batch, output_attentions=True)
    model.set_attn_implementation("eager")
    output = model(**batch, labels=torch.tensor([0, 1, 2]), output_attentions=True)
    output.loss.backward()
    assert len(output.attentions) == LAYERS


@pytest.mark.parametrize("fields", [{}, {"output_hidden_states": True}])
def test_evaluation_gathers_the_logits_alone(fields, tmp_path):
    rows = [{"input_ids": torch.full((6,), i), "pixel_values": torch.randn(3, 32, 32), "labels": 1} for i in range(3)]
    arguments = TrainingArguments(tmp_path, report_to=[], use_cpu=True, per_device_eval_batch_size=2)
    assert Trainer(tiny_model(**fields), arguments).predict(rows).predictions.shape == (3, 7)


@torch.no_grad()
def test_embeddings_stand_for_their_ids():
    batch = tiny_batch()
    ids = batch.pop("input_ids")
    for model in (tiny_model(), tiny_model(fusion="early_input"), lstm_vgg(), UMEForImageTextRetrieval(tiny_config())):
        name = "logits_per_text" if isinstance(model, UMEForImageTextRetrieval) else "logits"
        embeddings = model.eval().get_input_embeddings()(ids)
        expected = model(**batch, input_ids=ids)[name]
        torch.testing.assert_close(model(**batch, inputs_embeds=embeddings)[name], expected)


def test_embeddings_that_cannot_be_read_are_refused():
    model, batch = tiny_model(), tiny_batch()
    with pytest.raises(ValueError, match="input_ids and inputs_embeds were both given"):
        model(**batch, inputs_embeds=torch.zeros(3, 6, 16))
    del batch["input_ids"]
    with pytest.raises(ValueError, match=r"inputs_embeds is torch.float32 of shape \[3, 6, 15\]: give .* 16\]"):
        model(**batch, inputs_embeds=torch.zeros(3, 6, 15))
    clip = CLIPTextConfig(vocab_size=60, **TRANSFORMER, bos_token_id=1, eos_token_id=2)
    config = UMEConfig.from_encoder_configs(
        clip, ViTConfig(image_size=32, patch_size=8, **TRANSFORMER), num_labels=7, fusion_hidden_size=16
    )
    with pytest.raises(ValueError, match="'clip_text_model' reads only token ids: give input_ids"):
        UMEForVisualQuestionAnswering(config)(**batch, inputs_embeds=torch.zeros(3, 6, 16))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_argument_is_refused_with_the_nearest_that_is_known(cls):
    model, batch = cls(tiny_config()), tiny_batch()
    with pytest.raises(TypeError, match=r"no argument 'pixel_value'\. Did you mean pixel_values"):
        model(**batch, pixel_value=torch.zeros(1))
    with pytest.raises(TypeError, match=r"no argument 'zzz'\. It takes input_ids, "):
        model(**batch, zzz=1)
    model(**batch, position_ids=None)  # asks for nothing


def test_a_misspelt_label_is_no_evaluation_without_loss():
    with pytest.raises(TypeError, match="Did you mean labels"):
        tiny_model()(**tiny_batch(), lables=torch.zeros(3))


@pytest.mark.parametrize("task", [None, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_every_task_type_of_peft_that_does_not_generate_runs(task):
    model, labels = tiny_model(), torch.tensor([0, 1, 2])
    expected = model(**tiny_batch(), labels=labels)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], task_type=task))
    output = adapted.eval()(**tiny_batch(), labels=labels)
    torch.testing.assert_close(output.loss, expected.loss)
    output.loss.backward()


def test_prompt_tuning_reads_its_own_embeddings_in_front():
    adapted = get_peft_model(tiny_model(), PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3))
    assert adapted(**tiny_batch(), **FLAGS).hidden_states[0].shape == (3, 3 + 6, 16)


@torch.no_grad()
def test_features_come_in_an_output_object_that_still_stands_for_them():
    model, batch = UMEForImageTextRetrieval(tiny_config()).eval(), tiny_batch()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    text, image = model.get_text_features(**texts), model.get_image_features(batch["pixel_values"])
    assert isinstance(text, UMEFeaturesOutput)
    assert text.last_hidden_state.shape == (3, 6, 16)
    torch.testing.assert_close(text.pooler_output.norm(dim=-1), torch.ones(3))
    expected = text.pooler_output @ image.pooler_output.T
    for similarity in (text @ image.T, text.pooler_output @ image.T, torch.matmul(text, image.T)):
        assert torch.equal(similarity, expected)
    assert torch.equal(torch.cat([text, image]), torch.cat([text.pooler_output, image.pooler_output]))
    assert text.shape == (3, 16)
    assert (text * 2 - text).equal(text.pooler_output)
    assert len(model.get_text_features(**texts, output_hidden_states=True).hidden_states) == LAYERS + 1
    assert len(model.get_image_features(batch["pixel_values"], output_attentions=True).attentions) == LAYERS
    assert isinstance(model.get_image_features(batch["pixel_values"], return_dict=False), tuple)
    for copied in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert torch.equal(copied.pooler_output, text.pooler_output)
    output = model(**batch, **FLAGS)
    assert torch.equal(output.text_embeds, text.pooler_output)
    assert len(output.text_model_output.attentions) == len(output.vision_model_output.attentions) == LAYERS
    assert output.attentions is output.text_model_output.attentions
    assert output.vision_hidden_states is output.vision_model_output.hidden_states


def test_features_stand_for_themselves_in_arithmetic_of_every_kind():
    values, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 8.0]])
    features = UMEFeaturesOutput(pooler_output=values)
    assert [(features + other).tolist(), (other + features).tolist()] == [[[5, 10]]] * 2
    assert [(features - other).tolist(), (features * other).tolist()] == [[[-3, -6]], [[4, 16]]]
    assert [(features / other).tolist(), (2 * features).tolist()] == [[[0.25, 0.25]], [[2, 4]]]
    with pytest.raises(AttributeError, match="UMEFeaturesOutput has no attribute 'shape'"):
        UMEFeaturesOutput().shape  # noqa: B018


@pytest.mark.parametrize("kind", [UMEFeaturesOutput, UMERetrievalOutput])
def test_what_an_output_was_not_given_is_none(kind):
    assert {getattr(kind(), field.name) for field in dataclasses.fields(kind)} == {None}


@pytest.mark.parametrize("cls", CLASSES)
@torch.no_grad()
def test_inner_states_have_the_same_names_in_the_outputs_of_all_models(cls):
    model, batch = cls(tiny_config()).eval(), tiny_batch()
    output = model(**batch, **FLAGS)
    assert output.hidden_states is output.text_hidden_states
    assert output.attentions is output.text_attentions
    assert len(output.text_hidden_states) == len(output.vision_hidden_states) == LAYERS + 1
    assert len(output.text_attentions) == len(output.vision_attentions) == LAYERS
    output = model(**batch)
    assert output.hidden_states is output.attentions is output.vision_hidden_states is output.vision_attentions is None


def test_of_the_texts_of_an_image_one_has_to_fit_and_an_image_without_any_is_only_a_negative():
    scores, index = torch.randn(3, 3), torch.tensor([0, 1, 0])  # the last image has no text
    of_text, of_image = scores.log_softmax(1), scores.log_softmax(0)
    to_image = -(of_text[0, 0] + of_text[1, 1] + of_text[2, 0]) / 3
    to_text = -(of_image[[0, 2], 0].logsumexp(0) + of_image[1, 1]) / 2
    torch.testing.assert_close(contrastive_loss(scores, index), (to_image + to_text) / 2)


@pytest.mark.parametrize("cls", CLASSES)
def test_get_encoder_returns_the_encoder_of_a_modality(cls):
    model = cls(tiny_config())
    text, vision = model.base_model.text_model, model.base_model.vision_model
    assert model.get_encoder() is model.get_encoder("text") is text
    assert model.get_encoder(modality="image") is model.get_encoder("vision") is vision
    with pytest.raises(ValueError, match="modality='audio' is not known: choose 'text' or 'vision'"):
        model.get_encoder("audio")
    other = cls(tiny_config())
    model.set_encoder(other.get_encoder("image"), "image")
    assert model.get_encoder("image") is other.get_encoder("image")
    with pytest.raises(ValueError, match=r"BertModel cannot take the place of the vision encoder \(ViTModel\)"):
        model.set_encoder(text, "image")
    larger = tiny_config()
    larger.text_config.intermediate_size = 48
    with pytest.raises(ValueError, match="other sizes than the text encoder"):
        model.set_encoder(cls(larger).get_encoder())


def test_gradient_checkpointing_is_claimed_where_an_encoder_can(tmp_path):
    model = lstm_vgg()
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="impossible with the encoders 'ume_lstm' and 'ume_vgg'"):
        model.gradient_checkpointing_enable()
    rows = [{"input_ids": torch.full((6,), i), "pixel_values": torch.randn(3, 32, 32), "labels": i} for i in range(4)]
    weights = []
    for checkpointing in (False, True):
        model = tiny_model(image="resnet", fusion_dropout=0.0, classifier_dropout=0.0)
        assert model.supports_gradient_checkpointing  # its text encoder can
        arguments = TrainingArguments(
            tmp_path, report_to=[], use_cpu=True, max_steps=2, save_strategy="no", gradient_checkpointing=checkpointing
        )
        Trainer(model, arguments, train_dataset=rows).train()
        checkpointed = [name for name, m in model.named_modules() if getattr(m, "gradient_checkpointing", False)]
        assert bool(checkpointed) == checkpointing
        assert all("text_model" in name for name in checkpointed)
        weights.append([p.detach().clone() for p in model.parameters()])
    for without, recomputed in zip(*weights, strict=True):
        torch.testing.assert_close(recomputed, without, atol=1e-6, rtol=1e-5)
