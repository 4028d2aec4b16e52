"""Regression: one or several numbers, learned standardised and answered in the labels' own unit."""

import math

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model

from modeling_ume import FUSIONS, UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.choices_ume import decode_choices
from modeling_ume.tasks_ume import LabelScale, answer_loss, decode_logits

PRICE = {
    "problem_type": "regression",
    "num_labels": None,
    "id2label": {0: "price"},
    "label_mean": 12.9,
    "label_std": 0.7,
}
JOIN_NUMBERS = ("late_mean", "late_weighted")


@pytest.mark.parametrize("transform", [None, "log"])
def test_the_loss_is_of_standardised_labels_and_the_logits_are_in_the_unit(transform):
    model = tiny_model(**PRICE, label_transform=transform).eval()
    batch, labels = tiny_batch(), torch.tensor([250_000.0, 1_000_000.0, 80_000.0])
    with torch.no_grad():
        output = model(**batch, labels=labels)
    learned = (lambda y: y.log()) if transform else lambda y: y
    wanted = (learned(labels) - 12.9) / 0.7
    given = (learned(output.logits[:, 0]) - 12.9) / 0.7
    assert output.logits.shape == (3, 1)
    torch.testing.assert_close(output.loss, (given - wanted).square().mean(), rtol=1e-4, atol=1e-4)


def test_numbers_that_are_not_known_have_no_loss_and_no_gradient():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    labels = torch.tensor([[1.0, math.nan], [math.nan, math.nan], [4.0, 4.0]])
    loss = answer_loss(logits, labels, "regression")
    loss.backward()
    # Of the two examples that have a label: (0 + (1 + 4) / 2) / 2.
    assert loss.item() == pytest.approx(1.25)
    assert (logits.grad == torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]])).all()


def test_a_batch_without_any_label_has_the_loss_zero():
    assert answer_loss(torch.ones(2, 1), torch.full((2, 1), math.nan), "regression").item() == 0


def test_huber_is_linear_where_a_label_is_far_off():
    scale = LabelScale(loss="huber")
    far = answer_loss(torch.tensor([[100.0]]), torch.tensor([0.0]), "regression", scale=scale)
    assert far.item() == pytest.approx(99.5)


def test_half_precision_holds_prices():
    model = tiny_model(**PRICE, label_transform="log").to(torch.bfloat16).eval()
    logits = model(**{k: v.bfloat16() if v.is_floating_point() else v for k, v in tiny_batch().items()}).logits
    assert logits.dtype == torch.float32
    assert ((logits > 20_000) & (logits < 10_000_000)).all()


@pytest.mark.parametrize("fusion", ["ume", "concat", *JOIN_NUMBERS])
def test_each_kind_of_head_learns_numbers(fusion):
    model = tiny_model(fusion=fusion, problem_type="regression", num_labels=2, label_mean=[50.0, -3.0],
                       label_std=[10.0, 0.1], classifier_dropout=0.0, fusion_dropout=0.0)  # fmt: skip
    batch, labels = tiny_batch(), torch.tensor([[40.0, -3.1], [55.0, -2.9], [65.0, -3.0]])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    logits = model.eval()(**batch).logits
    torch.testing.assert_close(logits, labels, rtol=0.05, atol=1.0)


def test_members_answer_with_the_mean_of_their_numbers():
    model = tiny_model(
        fusion_num_members=3, problem_type="regression", num_labels=1, label_mean=7.0, label_std=2.0
    ).eval()
    batch = tiny_batch()
    with torch.no_grad():
        views = model.classifier(model.ume(**batch, return_dict=True).fused)  # [B, 3, 1]
        torch.testing.assert_close(model(**batch).logits, views.mean(1) * 2 + 7)


def test_an_absent_modality_has_no_say_in_the_mean():
    model = tiny_model(fusion="late_mean", problem_type="regression", num_labels=1).eval()
    batch = tiny_batch()
    text = {name: value for name, value in batch.items() if "pixel" not in name and "image" not in name}
    with torch.no_grad():
        views = model.classifier(model.ume(**text, return_dict=True).fused)
        torch.testing.assert_close(model(**text).logits, views[:, 0])


@pytest.mark.parametrize("fusion", sorted(set(FUSIONS) - set(JOIN_NUMBERS)))
def test_rules_for_probabilities_are_refused_for_numbers_and_other_heads_are_not(fusion):
    if fusion.startswith("late_"):
        with pytest.raises(ValueError, match=f"fusion='{fusion}' combines the probabilities .* choose late_mean"):
            tiny_config(fusion=fusion, problem_type="regression")
    else:
        assert tiny_config(fusion=fusion, problem_type="regression", num_labels=1).num_labels == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"problem_type": "single_label_classification", "num_labels": 1}, "needs two or more .*'regression'"),
        ({"label_mean": 3.0}, "label_mean=.3.0. is about numbers"),
        ({**PRICE, "label_mean": [1.0, 2.0]}, "has 2 entries, and the model gives 1 numbers"),
        ({**PRICE, "label_std": 0.0}, "label_std=.0.0. is impossible: give finite numbers above 0"),
        ({**PRICE, "label_mean": math.nan}, "label_mean=.nan. is impossible"),
        ({**PRICE, "label_mean": "12"}, "label_mean='12' is impossible"),
        ({**PRICE, "label_transform": "sqrt"}, "label_transform='sqrt' is not known: choose log"),
        ({**PRICE, "regression_loss": "mae"}, "regression_loss='mae' is not known: choose mse or huber"),
        ({"problem_type": "regression", "num_labels": 0}, "num_labels=0: a model needs one number"),
        ({"problem_type": "regression", "id2label": {}}, "needs one number or more"),
    ],
)
def test_what_cannot_be_is_said(fields, said):
    with pytest.raises(ValueError, match=said):
        tiny_config(**{"num_labels": None, **fields})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(3, 2), r"labels are torch.float32 of shape \(3, 2\) for 1 number an example"),
        (torch.zeros(2), "for 1 number an example and 3 examples"),
        (torch.tensor([True, False, True]), "labels are torch.bool"),
        (torch.tensor([1.0, math.inf, 1.0]), "A label is infinite"),
        (torch.tensor([1.0, -5.0, 1.0]), "A label is -5, which has no logarithm"),
    ],
)
def test_labels_that_are_none_are_said(labels, said):
    with pytest.raises(ValueError, match=said):
        tiny_model(**PRICE, label_transform="log")(**tiny_batch(), labels=labels)


def test_regression_without_labels_is_one_number_and_classification_keeps_its_default():
    assert tiny_config(problem_type="regression", num_labels=None).num_labels == 1
    assert tiny_config(num_labels=None).num_labels == 2


def test_a_model_of_numbers_comes_back_from_its_folder_and_a_config_of_answers_says_nothing_of_numbers(tmp_path):
    model = tiny_model(**PRICE, label_transform="log", regression_loss="huber").eval()
    model.save_pretrained(tmp_path)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path).eval()
    for name in ("label_mean", "label_std", "label_transform", "regression_loss", "id2label"):
        assert getattr(again.config, name) == getattr(model.config, name)
    assert torch.equal(again(**tiny_batch()).logits, model(**tiny_batch()).logits)
    assert not {"label_mean", "label_std", "label_transform", "regression_loss"} & tiny_config().to_dict().keys()
    other = UMEConfig.from_pretrained(tmp_path, num_labels=3)
    assert (other.num_labels, other.label_mean, other.label_transform) == (3, None, "log")


def test_numbers_are_decoded_with_their_names_whatever_top_k_is():
    logits = torch.tensor([[250_000.0, 1_200.0]])
    wanted = [[{"answer": 250_000.0, "name": "price"}, {"answer": 1_200.0, "name": "rent"}]]
    names = {0: "price", 1: "rent"}
    assert decode_logits(logits, names, "regression", 1) == wanted
    assert decode_choices(logits, names, "regression", 5) == wanted


def test_a_processor_decodes_numbers():
    processor = object.__new__(UMEProcessor)
    processor.id2label, processor.problem_type = {0: "price"}, "regression"
    assert processor.decode_answers(torch.tensor([[3.5]])) == [[{"answer": 3.5, "name": "price"}]]
