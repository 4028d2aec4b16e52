"""Other answers for a trained model, by every way in which transformers' own models get them."""

import json

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForVisualQuestionAnswering, AutoProcessor, CLIPImageProcessor
from transformers import PreTrainedTokenizerFast as Tokenizer

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor

OLD = {0: "yes", 1: "no", 2: "red"}
NEW = {0: "dog", 1: "cat", 2: "cow", 3: "hen"}
UNNAMED = {i: f"LABEL_{i}" for i in range(4)}
WAYS = {
    "id2label": ({"id2label": NEW}, NEW),
    "label2id": ({"label2id": {answer: key for key, answer in NEW.items()}}, NEW),
    "both": ({"label2id": {answer: key for key, answer in NEW.items()}, "id2label": NEW}, NEW),
    "all three": ({"label2id": {a: k for k, a in NEW.items()}, "num_labels": 4, "id2label": NEW}, NEW),
    "num_labels": ({"num_labels": 4}, UNNAMED),
    "as many, other names": ({"id2label": {0: "a", 1: "b", 2: "c"}}, {0: "a", 1: "b", 2: "c"}),
    "as many": ({"num_labels": 3}, OLD),
    "keys as JSON has them": ({"id2label": {str(key): answer for key, answer in NEW.items()}}, NEW),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    tiny_model(fusion="late_mean", num_labels=None, id2label=OLD).save_pretrained(
        folder := tmp_path_factory.mktemp("trained")
    )
    return folder


def check(model, answers: dict, folder) -> None:
    """The model has those answers, also saved and loaded again, and can be trained on them."""
    assert model.config.id2label == answers
    assert model.config.label2id == {answer: key for key, answer in answers.items()}
    assert model.config.num_labels == len(answers)
    model.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    if answers != UNNAMED:
        assert stored["label2id"] == {answer: key for key, answer in answers.items()}
    again = AutoModelForVisualQuestionAnswering.from_pretrained(folder)
    assert again.config.id2label == answers
    labels = torch.tensor([len(answers) - 1] * 3)
    output = again(**tiny_batch(), labels=labels)
    assert output.logits.shape[1] == len(answers)
    assert torch.isfinite(output.loss)
    assert torch.equal(output.logits, model(**tiny_batch()).logits)


@pytest.mark.parametrize("way", WAYS)
def test_answers_given_to_from_pretrained(tmp_path, trained, way):
    given, answers = WAYS[way]
    load = UMEForVisualQuestionAnswering.from_pretrained
    check(load(trained, ignore_mismatched_sizes=True, **given), answers, tmp_path)


@pytest.mark.parametrize("head", [{"fusion": "concat"}, {"fusion": "ume", "fusion_num_members": 2}])
def test_other_classifiers_than_one_a_view_get_new_answers(tmp_path, head):
    tiny_model(num_labels=None, id2label=OLD, **head).save_pretrained(tmp_path / "trained")
    load = UMEForVisualQuestionAnswering.from_pretrained
    check(load(tmp_path / "trained", ignore_mismatched_sizes=True, id2label=NEW), NEW, tmp_path / "again")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, UMEConfig.from_pretrained])
def test_answers_given_to_the_config(trained, load, way):
    given, answers = WAYS[way]
    for arguments in ({}, {"trust_remote_code": True}):
        config = load(trained, **given, **arguments)
        assert config.id2label == answers
        assert list(config.label2id.items()) == [(answer, key) for key, answer in answers.items()]


def test_a_config_with_other_answers_makes_the_model(tmp_path, trained):
    config = AutoConfig.from_pretrained(trained, num_labels=4)
    check(
        UMEForVisualQuestionAnswering.from_pretrained(trained, config=config, ignore_mismatched_sizes=True),
        UNNAMED,
        tmp_path,
    )


def test_answers_set_afterwards(tmp_path):
    for number, (field, value, answers) in enumerate(
        [
            ("id2label", NEW, NEW),
            ("label2id", {answer: key for key, answer in NEW.items()}, NEW),
            ("num_labels", 4, UNNAMED),
        ]
    ):
        config = tiny_config(fusion="concat", num_labels=None, id2label=OLD)
        setattr(config, field, value)
        check(UMEForVisualQuestionAnswering(config).eval(), answers, tmp_path / str(number))
    config.id2label[3] = "LABEL_x"
    assert config.label2id["LABEL_x"] == 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id2label", {0: "no", 2: "yes"}, "without gaps"), ("id2label", ["no", "yes"], "id2label is a list"),
        ("id2label", {0: "no", 1: "no"}, "every answer must appear once"), ("num_labels", 1, "two or more"),
        ("label2id", {"no": 0, "yes": 0}, "every id must appear once"), ("label2id", {"no": "x", "yes": 1}, "gaps"),
    ],
)  # fmt: skip
def test_impossible_answers_are_refused_whenever_they_are_given(tmp_path, trained, field, value, message):
    config = tiny_config()
    with pytest.raises((ValueError, TypeError), match=message if not isinstance(value, list) else "id2label"):
        setattr(config, field, value)
    with pytest.raises(ValueError, match=message):
        tiny_config(**{"num_labels": None, field: value})
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(trained, **{field: value})


def test_answers_that_contradict_each_other_are_refused(trained):
    for given in ({"id2label": OLD, "num_labels": 2}, {"id2label": NEW, "label2id": {"a": 0, "b": 1}}):
        with pytest.raises(ValueError, match="contradicts id2label"):
            AutoConfig.from_pretrained(trained, **given)


def test_a_file_whose_label2id_was_left_behind_loads(trained, tmp_path):
    config = UMEConfig.from_pretrained(trained)
    fields = {**config.to_dict(), "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert UMEConfig.from_pretrained(tmp_path).label2id == {"yes": 0, "no": 1, "red": 2}


def test_a_model_whose_config_names_other_answers_is_not_saved(tmp_path, trained):
    model = UMEForVisualQuestionAnswering.from_pretrained(trained)
    model.config.id2label = NEW
    with pytest.raises(ValueError, match="names 4 answers, but the classifier has 3"):
        model.save_pretrained(tmp_path)
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(tmp_path)
    model.config.fusion = "concatt"
    with pytest.raises(ValueError, match="concatt"):
        model.save_pretrained(tmp_path)


def test_the_processor_follows_the_model_beside_it(tmp_path, trained, words_tokenizer):
    model = UMEForVisualQuestionAnswering.from_pretrained(trained)
    UMEProcessor(CLIPImageProcessor(), words_tokenizer, id2label=OLD).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).id2label == OLD
    UMEForVisualQuestionAnswering.from_pretrained(trained, id2label=NEW, ignore_mismatched_sizes=True).save_pretrained(
        tmp_path
    )
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.id2label == NEW
    assert processor.decode_answers(torch.eye(4)[None, 3])[0][0]["answer"] == "hen"
    assert AutoProcessor.from_pretrained(tmp_path, id2label=OLD).id2label == OLD


@pytest.fixture(scope="module")
def words_tokenizer():
    from tokenizers import Tokenizer as Words
    from tokenizers.models import WordLevel

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "is", "it", "red"])}
    return Tokenizer(tokenizer_object=Words(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]")
