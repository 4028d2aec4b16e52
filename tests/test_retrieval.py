"""Contrastive learning: the loss and its temperature, the model, its checkpoints, and recall@k."""

import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, Trainer, TrainingArguments, ViTImageProcessor

from modeling_ume import UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.retrieval_ume import contrastive_loss
from training_ume.build.tokenizer import words_tokenizer
from training_ume.data.json_entries import VQADataError
from training_ume.evaluation.retrieval import PairCollator, evaluate_retrieval, recall_at_k


def tiny_retrieval(*args, seed=0, **kwargs) -> UMEForImageTextRetrieval:
    torch.manual_seed(seed)
    return UMEForImageTextRetrieval(tiny_config(*args, **kwargs)).eval()


@torch.no_grad()
def features(model, batch):
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return text, model.get_image_features(batch["pixel_values"])


# The loss.


def test_with_one_text_an_image_the_loss_is_infonce_as_written():
    logits = 5 * torch.randn(4, 4)
    total = 0.0
    for i in range(4):
        over_images = sum(math.exp(logits[i, u]) for u in range(4))
        over_texts = sum(math.exp(logits[t, i]) for t in range(4))
        total -= math.log(math.exp(logits[i, i]) / over_images) + math.log(math.exp(logits[i, i]) / over_texts)
    assert contrastive_loss(logits, torch.arange(4)).item() == pytest.approx(total / 8, abs=1e-5)


def test_the_several_texts_of_an_image_are_summed_inside_the_logarithm():
    logits, image_index = 5 * torch.randn(5, 3), torch.tensor([2, 0, 0, 2, 2])  # image 1 has no text
    to_image = to_text = 0.0
    for t, u in enumerate(image_index.tolist()):
        to_image -= math.log(math.exp(logits[t, u]) / sum(math.exp(x) for x in logits[t]))
    for u in (0, 2):
        own = sum(math.exp(logits[t, u]) for t in range(5) if image_index[t] == u)
        to_text -= math.log(own / sum(math.exp(x) for x in logits[:, u]))
    expected = (to_image / 5 + to_text / 2) / 2
    assert contrastive_loss(logits, image_index).item() == pytest.approx(expected, abs=1e-5)


def test_an_image_without_a_text_leaves_finite_gradients():
    logits = torch.randn(2, 3, requires_grad=True)
    contrastive_loss(logits, torch.tensor([0, 0])).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 1:] > 0).all(), "the images that nobody describes are no negatives"


def test_a_second_text_that_fits_is_no_negative():
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    assert contrastive_loss(logits, torch.tensor([0, 0, 1])) < 0.01
    assert contrastive_loss(logits[:, [0, 0, 1]], torch.arange(3)) > 0.4  # the same as three images


# The model.


def test_the_loss_of_the_model_is_that_of_its_features():
    model, batch = tiny_retrieval(), tiny_batch()
    output = model(**batch, return_loss=True)
    text, image = features(model, batch)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    logits = text @ image.T / 0.07
    torch.testing.assert_close(output.logits_per_text, logits)
    torch.testing.assert_close(output.logits_per_image, logits.T)
    torch.testing.assert_close(output.loss, contrastive_loss(logits, batch["image_index"]))
    assert model(**batch).loss is None
    batch = tiny_batch(3, 3)
    expected = model(**batch, return_loss=True).loss
    del batch["image_index"]
    torch.testing.assert_close(model(**batch, return_loss=True).loss, expected)


def test_texts_that_cannot_be_matched_with_images_are_refused():
    model, batch = tiny_retrieval(), tiny_batch()
    with pytest.raises(ValueError, match=r"image_index has shape \(2,\) for 3 texts"):
        model(**{**batch, "image_index": torch.tensor([0, 1])}, return_loss=True)
    del batch["image_index"]
    with pytest.raises(ValueError, match="3 texts came with 2 images: pass image_index"):
        model(**batch, return_loss=True)
    del batch["pixel_values"]
    with pytest.raises(ValueError, match="pixel_values was not given"):
        model(**batch)


@pytest.mark.parametrize("image", ["vit", "resnet"])
def test_every_parameter_gets_a_gradient_and_no_fusion_head_is_built(image):
    model = tiny_retrieval("distilbert", image).train()
    model(**tiny_batch(), return_loss=True).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert not any("fusion" in name or "classifier" in name for name in model.state_dict())


def test_the_temperature_stops_at_a_hundredth_and_can_come_back():
    model, batch = tiny_retrieval(), tiny_batch()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    text, image = features(model, batch)
    torch.testing.assert_close(model(**batch).logits_per_text, 100 * text @ image.T)
    assert model.logit_scale.item() == 9.0, "inference changes no parameter"
    model.train()(**batch, return_loss=True).loss.backward()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    assert model.logit_scale.grad != 0


def test_padding_never_changes_a_text_s_features():
    model, batch = tiny_retrieval(), tiny_batch()
    expected, _ = features(model, batch)
    batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 59)
    torch.testing.assert_close(features(model, batch)[0], expected, rtol=0, atol=1e-6)


def test_logits_stay_in_float32_under_autocast_and_in_bfloat16():
    model, batch = tiny_retrieval(), tiny_batch()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = model(**batch)
    assert output.logits_per_text.dtype == torch.float32
    expected = output.text_embeds.float() @ output.image_embeds.float().T / 0.07
    torch.testing.assert_close(output.logits_per_text, expected)
    model.bfloat16()
    assert features(model, batch)[0].dtype == torch.bfloat16
    assert model(**batch, return_loss=True).loss.isfinite()


def test_from_encoders_pretrained_takes_over_both_encoders(tmp_path):
    source = tiny_retrieval(seed=3)
    source.text_model.save_pretrained(tmp_path / "text")
    source.vision_model.save_pretrained(tmp_path / "vision")
    joined = UMEForImageTextRetrieval.from_encoders_pretrained(
        str(tmp_path / "text"), str(tmp_path / "vision"), fusion_hidden_size=8
    )
    for part in ("text_model", "vision_model"):
        expected, found = getattr(source, part).state_dict(), getattr(joined, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert features(joined, tiny_batch())[0].shape == (3, 8)
    assert joined.text_model.config is joined.config.text_config


# Checkpoints.


def test_a_reloaded_model_gives_equal_features_by_its_class_and_by_the_auto_class(tmp_path):
    model, batch = tiny_retrieval(), tiny_batch()
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    model.save_pretrained(tmp_path)
    for loader in (UMEForImageTextRetrieval, AutoModelForZeroShotImageClassification):
        reloaded = loader.from_pretrained(tmp_path)
        for found, expected in zip(features(reloaded, batch), features(model, batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert reloaded.logit_scale.item() == 3.0


def test_nothing_is_left_uninitialised_by_the_meta_device():
    model = UMEForImageTextRetrieval.from_pretrained(None, config=tiny_config(), state_dict={})
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert all(p.isfinite().all() and p.abs().max() < 100 for p in model.parameters())


def test_encoders_travel_between_retrieval_and_question_answering(tmp_path):
    retrieval, answering = tiny_retrieval(seed=1), tiny_model(seed=2)
    retrieval.save_pretrained(tmp_path / "retrieval")
    answering.save_pretrained(tmp_path / "answering")
    batch = tiny_batch()
    taken = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "retrieval").ume
    given = UMEForImageTextRetrieval.from_pretrained(tmp_path / "answering")
    for found, expected in ((taken, retrieval), (given, answering.ume)):
        image = expected.encode_image(batch["pixel_values"])
        torch.testing.assert_close(found.encode_image(batch["pixel_values"]).states, image.states, rtol=0, atol=1e-6)
        text = expected.encode_text(batch["input_ids"]).states
        torch.testing.assert_close(found.encode_text(batch["input_ids"]).states, text, rtol=0, atol=1e-6)


CLEAN_PROCESS = """
import sys, torch
sys.modules["modeling_ume"] = sys.modules["configuration_ume"] = sys.modules["training_ume"] = None
from transformers import AutoModelForZeroShotImageClassification
folder = sys.argv[1]
batch = torch.load(folder + "/batch.pt", weights_only=True)
model = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
expected = batch.pop("expected")
with torch.no_grad():
    assert (model(**batch).logits_per_text - expected).abs().max() < 1e-5
assert type(model).__name__ == "UMEForImageTextRetrieval"
"""


def test_a_checkpoint_loads_where_this_package_is_not_installed(tmp_path):
    model, batch = tiny_retrieval(), tiny_batch()
    model.save_pretrained(tmp_path / "ckpt")
    with torch.no_grad():
        torch.save({**batch, "expected": model(**batch).logits_per_text}, tmp_path / "ckpt" / "batch.pt")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-I", "-c", CLEAN_PROCESS, str(tmp_path / "ckpt")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Recall.


def test_recall_counts_the_right_ones_among_the_k_most_similar():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.8, 0.5, 0.6]])
    recall = recall_at_k(similarity, torch.tensor([0, 0, 1, 2]), ks=(1, 2, 3))
    # Ranks of the right images 1, 1, 2, 2; of each image's best text 1, 2 (ties are lost), 1.
    assert recall["text_to_image_recall@1"] == 50.0
    assert recall["text_to_image_recall@2"] == 100.0
    assert recall["image_to_text_recall@1"] == pytest.approx(200 / 3)
    assert recall["image_to_text_recall@2"] == pytest.approx(200 / 3)
    assert recall["image_to_text_recall@3"] == 100.0


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_model_that_finds_everything_equal_finds_nothing(value):
    recall = recall_at_k(torch.full((6, 6), value), torch.arange(6), ks=(1, 5))
    assert set(recall.values()) == {0.0}
    assert recall_at_k(torch.full((6, 6), value), torch.arange(6), ks=(6,))["text_to_image_recall@6"] == 100.0


def test_an_image_without_a_text_distracts_but_is_not_asked_for():
    recall = recall_at_k(torch.tensor([[0.5, 0.9], [0.7, 0.1]]), torch.tensor([0, 0]), ks=(1,))
    assert recall == {"text_to_image_recall@1": 50.0, "image_to_text_recall@1": 100.0}


@pytest.mark.parametrize(
    ("shape", "image_index", "ks", "message"),
    [
        ((2, 3), [0], (1,), r"similarity has shape \(2, 3\) and image_index \(1,\)"),
        ((2, 3), [0, 3], (1,), r"image_index must lie in 0 … 2"),
        ((2, 3), [0, 1], (0,), r"ks=\(0,\) is impossible"),
        ((0, 3), [], (1,), "at least one of each"),
    ],
)
def test_what_recall_cannot_be_counted_on_is_refused(shape, image_index, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(torch.zeros(shape), torch.tensor(image_index, dtype=torch.long), ks)


# Training and evaluation on pictures.

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (255, 255, 255)}


@pytest.fixture
def pairs(tmp_path):
    """Two texts for each of four coloured squares."""
    rows = []
    for name, colour in COLOURS.items():
        path = str(tmp_path / f"{name}.png")
        Image.new("RGB", (36, 40), colour).save(path)
        rows += [{"text": f"a {name} square", "image": path}, {"text": f"it is {name}", "image": path}]
    return rows


@pytest.fixture
def processor(pairs):
    image_processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return UMEProcessor(image_processor, words_tokenizer([pair["text"] for pair in pairs], 16))


def test_a_batch_of_pairs_holds_each_image_once_and_asks_for_the_loss(pairs, processor):
    batch = PairCollator(processor)(pairs[1:4])
    assert batch["return_loss"] is True
    assert batch["image_index"].tolist() == [0, 1, 1]
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["input_ids"].shape[0] == 3
    assert tiny_retrieval()(**batch).loss.isfinite()


def test_the_trainer_overfits_a_handful_of_pairs(tmp_path, pairs, processor):
    model = tiny_retrieval(image="resnet")
    before = evaluate_retrieval(model, processor, pairs, ks=(1,))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=8,
        max_steps=60,
        learning_rate=1e-2,
        warmup_steps=5,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=PairCollator(processor), train_dataset=pairs, eval_dataset=pairs)
    untrained = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < untrained / 4
    after = evaluate_retrieval(model, processor, pairs, ks=(1,))
    assert (after["texts"], after["images"]) == (8, 4)
    assert before["text_to_image_recall@1"] < 60
    assert after["text_to_image_recall@1"] == after["image_to_text_recall@1"] == 100.0


def test_evaluation_depends_neither_on_the_batches_nor_on_the_mode(pairs, processor):
    model = tiny_retrieval(image="resnet").train()
    whole = evaluate_retrieval(model, processor, pairs, ks=(1, 2))
    assert model.training
    assert evaluate_retrieval(model.eval(), processor, pairs, batch_size=3, ks=(1, 2)) == whole
    batch = PairCollator(processor)(pairs)
    index = batch.pop("image_index")
    del batch["return_loss"]
    with torch.no_grad():
        expected = recall_at_k(model(**batch).logits_per_text, index, ks=(1, 2))
    assert {name: whole[name] for name in expected} == expected


def test_pairs_that_cannot_be_evaluated_are_refused(tmp_path, pairs, processor):
    with pytest.raises(ValueError, match="There are no pairs to evaluate"):
        evaluate_retrieval(tiny_retrieval(), processor, [])
    with pytest.raises(VQADataError, match=r"absent\.png"):
        evaluate_retrieval(tiny_retrieval(), processor, [{"text": "it", "image": str(tmp_path / "absent.png")}])
