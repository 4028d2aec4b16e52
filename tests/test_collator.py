"""VQACollator: each distinct image once, questions padded, labels of both kinds, and errors that name the row."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import find_batch_size
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

from modeling_ume.images_ume import read_image
from modeling_ume.vision_ume import Vision
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.data.json_entries import VQADataError

WORDS = ["[PAD]", "[UNK]", "what", "colour", "is", "it", "?"]


def word_tokenizer(**special_tokens):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special_tokens)


@pytest.fixture(scope="module")
def processor():
    tokenizer = word_tokenizer(pad_token="[PAD]")
    return SimpleNamespace(tokenizer=tokenizer, image_processor=ViTImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture
def vocabulary():
    return AnswerVocabulary(["red", "blue", "yes"])


@pytest.fixture
def rows(tmp_path):
    """Four questions about three images: the first and the third share one."""
    for name, size in (("red", (40, 20)), ("blue", (16, 16)), ("green", (9, 30))):
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")
    asked = [("red", "what colour is it ?"), ("blue", "what"), ("red", "is it ?"), ("green", "is it")]
    answers = [["red"] * 10, ["blue"] * 2 + ["Red"] * 3 + ["mauve"] * 5, ["yes"] * 10, ["mauve"] * 10]
    return [
        {"question_id": n, "image": str(tmp_path / f"{image}.png"), "question": text, "answers": answers[n]}
        for n, (image, text) in enumerate(asked)
    ]


def test_each_distinct_image_of_a_batch_is_opened_and_processed_once(processor, rows, monkeypatch):
    opened = []
    monkeypatch.setattr(Vision, "open", lambda kind, path, *args: opened.append(path) or read_image(path))
    batch = VQACollator(processor)(rows)
    assert opened == [rows[0]["image"], rows[1]["image"], rows[3]["image"]]
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["image_index"].tolist() == [0, 1, 0, 2]
    assert batch["image_index"].dtype == torch.long


def test_every_question_looks_at_the_pixels_of_its_own_image(processor, rows):
    batch = VQACollator(processor)(rows)
    seen = batch["pixel_values"][batch["image_index"]]
    for n, row in enumerate(rows):
        alone = processor.image_processor(read_image(row["image"]), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(seen[n], alone)


def test_questions_are_padded_to_the_longest_and_masked(processor, rows):
    batch = VQACollator(processor)(rows)
    assert batch["input_ids"].tolist() == [[2, 3, 4, 5, 6], [2, 0, 0, 0, 0], [4, 5, 6, 0, 0], [4, 5, 0, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 1, 3, 2]


def test_long_questions_are_cut_at_the_length_asked_for(processor, rows):
    assert VQACollator(processor, max_question_length=3)(rows)["input_ids"].shape == (4, 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_questions_are_padded_where_the_tokenizer_pads(side, processor, rows):
    class Stored:
        def batch(self, questions, padding_side="right"):
            return {"asked": questions, "side": padding_side}

    padded = SimpleNamespace(
        tokenizer=word_tokenizer(pad_token="[PAD]", padding_side=side), image_processor=processor.image_processor
    )
    batch = VQACollator(padded, inputs="question", features={"text": Stored()})(rows)
    assert batch == {"asked": [row["question"] for row in rows], "side": side}


def test_single_labels_are_the_id_of_the_most_common_answer_or_minus_100(processor, vocabulary, rows):
    labels = VQACollator(processor, vocabulary)(rows)["labels"]
    assert labels.dtype == torch.long
    assert labels.tolist() == [0, -100, 2, -100]


def test_soft_labels_are_a_third_for_each_of_up_to_three_people(processor, vocabulary, rows):
    labels = VQACollator(processor, vocabulary, "multi_label_classification")(rows)["labels"]
    torch.testing.assert_close(labels, torch.tensor([[1, 0, 0], [1, 2 / 3, 0], [0, 0, 1], [0, 0, 0]]))


def test_there_are_no_labels_without_a_vocabulary_or_without_answers(processor, vocabulary, rows):
    assert "labels" not in VQACollator(processor)(rows)
    assert "labels" not in VQACollator(processor, vocabulary)([row | {"answers": []} for row in rows])


def test_a_batch_with_answers_to_some_questions_only_is_refused(processor, vocabulary, rows):
    rows[2]["answers"] = []
    with pytest.raises(VQADataError, match="question_id 2"):
        VQACollator(processor, vocabulary, "multi_label_classification")(rows)


def test_question_only_batches_never_open_an_image(processor, vocabulary, rows):
    rows = [row | {"image": "/no/such/image.jpg"} for row in rows]
    batch = VQACollator(processor, vocabulary, inputs="question")(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_image_only_batches_hold_no_question(processor, vocabulary, rows):
    batch = VQACollator(processor, vocabulary, inputs="image")(rows)
    assert set(batch) == {"pixel_values", "image_index", "labels"}


@pytest.mark.parametrize("inputs", ["both", "question", "image"])
def test_trainer_takes_the_number_of_questions_for_the_batch_size(inputs, processor, rows):
    assert find_batch_size(VQACollator(processor, inputs=inputs)(rows)) == len(rows)


def test_a_broken_image_is_named_with_its_questions(processor, rows):
    with open(rows[0]["image"], "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(VQADataError, match=r"red\.png cannot be read.*question_id 0, 2\."):
        VQACollator(processor)(rows)


def test_rows_loaded_without_images_say_so(processor, rows):
    with pytest.raises(VQADataError, match="question_id 0: the data was loaded without images"):
        VQACollator(processor)([rows[0] | {"image": ""}])


@pytest.mark.parametrize("do_resize", [False, True])
def test_images_of_different_sizes_raise_an_error_that_names_the_cure(do_resize, processor, rows):
    keeps_ratio = SimpleNamespace(
        tokenizer=processor.tokenizer,
        image_processor=ViTImageProcessor(do_resize=do_resize, size={"shortest_edge": 32}),
    )
    with pytest.raises(ValueError, match=r"ViTImageProcessor.*resize or crop"):
        VQACollator(keeps_ratio)(rows)


def test_an_image_processor_that_returns_crops_is_refused(processor, rows):
    class Crops:
        def __call__(self, images, return_tensors):
            return {"pixel_values": torch.zeros(len(images), 5, 3, 8, 8)}

    with pytest.raises(ValueError, match=r"Crops gives pixel_values of shape \(3, 5, 3, 8, 8\)"):
        VQACollator(SimpleNamespace(tokenizer=processor.tokenizer, image_processor=Crops()))(rows)


def test_the_image_cache_changes_no_pixel_and_stays_within_its_size(processor, rows, monkeypatch):
    plain = VQACollator(processor)
    one_image = 3 * 32 * 32 * 4
    cached = VQACollator(processor, image_cache_bytes=2 * one_image)
    opened = []
    monkeypatch.setattr(Vision, "open", lambda kind, path, *args: opened.append(path) or read_image(path))
    for batch_rows in (rows, rows[::-1], rows[1:3]):
        torch.testing.assert_close(cached(batch_rows), plain(batch_rows), rtol=0, atol=0)
    opened.clear()
    cached(rows)
    assert opened == [rows[3]["image"]], "two images fit the cache, the third does not"
    assert sum(image["pixel_values"].nbytes for image in cached._cache.values()) == 2 * one_image


def test_the_collator_reaches_data_loader_workers_by_pickle(processor, vocabulary, rows):
    collator = VQACollator(processor, vocabulary)
    torch.testing.assert_close(pickle.loads(pickle.dumps(collator))(rows), collator(rows))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"inputs": "text"}, "inputs='text' must be one of both, question, image"),
        ({"problem_type": "ranking"}, "problem_type='ranking' must be one of"),
        ({"answer_scores": "half"}, "answer_scores='half' must be one of thirds, official"),
        ({"max_question_length": 0}, "max_question_length=0"),
        ({"image_cache_bytes": -1}, "image_cache_bytes=-1"),
    ],
)
def test_unknown_options_are_refused(option, message, processor):
    with pytest.raises(ValueError, match=message):
        VQACollator(processor, **option)


def test_a_tokenizer_without_a_padding_token_is_refused_unless_it_is_not_used(processor):
    unpadded = SimpleNamespace(tokenizer=word_tokenizer(), image_processor=processor.image_processor)
    with pytest.raises(ValueError, match="no padding token"):
        VQACollator(unpadded)
    VQACollator(unpadded, inputs="image")
