"""The processor: what it makes of images and questions, how it answers in words, and that it survives saving."""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BertTokenizer,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from modeling_ume import UMEProcessor
from modeling_ume.images_ume import read_image
from training_ume.data.images import open_image

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "it", "?", "red", "blue", "a", "shape"]
ANSWERS = {0: "red", 1: "blue", 2: "a shape"}
SIZE = 16


def bert_tokenizer(**kwargs):
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=8, **kwargs)


def plain_tokenizer(**special_tokens):
    """A tokenizer that knows no length limit, no token types and only the given special tokens."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **special_tokens
    )


def image_processor(size=SIZE):
    return ViTImageProcessor(size={"height": size, "width": size})


@pytest.fixture
def processor():
    return UMEProcessor(image_processor(), bert_tokenizer(), id2label=ANSWERS)


def picture(mode="RGB", size=(20, 12), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_image_and_question_become_the_models_inputs(processor):
    batch = processor(images=picture(), text="what is it ?")
    assert batch["pixel_values"].shape == (1, 3, SIZE, SIZE)
    words = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert words == ["[CLS]", "what", "is", "it", "?", "[SEP]"]
    assert batch["attention_mask"].tolist() == [[1] * 6]


def test_questions_are_padded_to_the_longest_and_images_may_be_fewer(processor):
    batch = processor(images=picture(), text=["red ?", "is it red ?"])
    assert batch["pixel_values"].shape[0] == 1
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]


def test_text_alone_gives_no_pixels_and_images_alone_give_no_tokens(processor):
    assert "pixel_values" not in processor(text="red ?")
    assert set(processor(images=[picture(), picture()])) == {"pixel_values"}


def test_long_questions_are_cut_to_the_tokenizers_limit(processor):
    assert processor(text="red " * 50)["input_ids"].shape == (1, 8)
    assert processor(text="red " * 50, max_length=5)["input_ids"].shape == (1, 5)
    assert processor(text="red " * 50, truncation=False)["input_ids"].shape == (1, 52)


def test_without_a_length_limit_nothing_is_cut_and_nothing_warned(recwarn):
    processor = UMEProcessor(image_processor(), plain_tokenizer(pad_token="[PAD]"))
    assert processor(text="red " * 50)["input_ids"].shape == (1, 50)
    assert not recwarn.list


def test_token_types_come_only_from_tokenizers_that_make_them(processor):
    assert "token_type_ids" in processor(text="red ?")
    assert "token_type_ids" not in UMEProcessor(image_processor(), plain_tokenizer(pad_token="[PAD]"))(text="red ?")


def test_arguments_reach_tokenizer_and_image_processor(processor):
    batch = processor(
        images=picture(),
        text="red ?",
        padding="max_length",
        text_kwargs={"add_special_tokens": False},
        images_kwargs={"do_rescale": False, "do_normalize": False},
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["pixel_values"].max() > 100


def test_a_tokenizer_made_to_pad_to_a_length_does_so_unless_told_otherwise():
    tokenizer = bert_tokenizer(padding="max_length", max_length=6)
    processor = UMEProcessor(image_processor(), tokenizer)
    for options, length in (
        ({}, 6),
        ({"padding": True}, 3),
        ({"text_kwargs": {"padding": True}}, 3),
        ({"max_length": 7}, 7),
        ({"padding": "max_length", "max_length": 8}, 8),
    ):
        assert processor(text="red", **options)["input_ids"].shape == (1, length), options


def test_a_tokenizer_without_padding_pads_with_its_end_token():
    processor = UMEProcessor(image_processor(), plain_tokenizer(eos_token="[SEP]"))
    batch = processor(text=["red", "is it red ?"])
    assert batch["input_ids"][0].tolist() == [WORDS.index("red")] + [WORDS.index("[SEP]")] * 3
    assert batch["attention_mask"][0].tolist() == [1, 0, 0, 0]


def test_a_tokenizer_that_cannot_pad_is_refused():
    with pytest.raises(ValueError, match=r"set `tokenizer\.pad_token` first"):
        UMEProcessor(image_processor(), plain_tokenizer())


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr"])
def test_images_of_every_colour_mode_are_read_as_rgb(processor, mode):
    image = picture(mode)
    expected = processor(images=image.convert("RGB"))["pixel_values"]
    assert torch.equal(processor(images=image)["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_becomes_white(mode):
    image = picture("RGBA")
    image.putalpha(0)
    assert read_image(image.convert(mode)).getcolors() == [(20 * 12, (255, 255, 255))]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_greys_are_scaled_rather_than_clipped_to_white(dtype):
    greys = np.arange(65536, dtype=dtype).reshape(256, 256)
    read = np.asarray(read_image(Image.fromarray(greys)))
    assert np.array_equal(read[..., 0], np.round(greys / 257))
    assert (read == read[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "transparent palette"])
def test_a_question_asked_sees_the_same_pixels_as_in_training(mode, tmp_path):
    path = str(tmp_path / "picture.png")
    if mode == "transparent palette":
        picture("P").save(path, transparency=3)
    elif mode == "I;16":
        Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)).save(path)
    else:
        image = picture(mode)
        if "A" in mode:
            image.putalpha(100)
        image.save(path)
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(open_image(path)))


def test_images_are_turned_upright_like_their_camera_says(processor, tmp_path):
    image, exif = picture(), Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    upright = processor(images=image.transpose(Image.Transpose.ROTATE_270))["pixel_values"]
    assert torch.equal(processor(images=tmp_path / "turned.png")["pixel_values"], upright)
    assert torch.equal(processor(images=Image.open(tmp_path / "turned.png"))["pixel_values"], upright)
    # A caller who has converted the picture before is not served another one.
    assert torch.equal(processor(images=read_image(tmp_path / "turned.png"))["pixel_values"], upright)


def test_paths_urls_arrays_and_tensors_give_the_same_pixels_as_the_picture(processor, tmp_path):
    image = picture()
    image.save(tmp_path / "picture.png")
    array = np.asarray(image)
    url = "data:image/png;base64," + base64.b64encode((tmp_path / "picture.png").read_bytes()).decode()
    expected = processor(images=[image])["pixel_values"]
    for same in (str(tmp_path / "picture.png"), tmp_path / "picture.png", url, array, torch.from_numpy(array.copy())):
        assert torch.equal(processor(images=same)["pixel_values"], expected)


def test_unreadable_images_are_named(processor, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.png.*no such file"):
        processor(images=str(tmp_path / "nowhere.png"))
    (tmp_path / "text.png").write_text("this is not a picture")
    with pytest.raises(ValueError, match=r"text\.png.*cannot identify"):
        processor(images=tmp_path / "text.png")
    picture(size=(200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"half\.png.*truncated"):
        processor(images=tmp_path / "half.png")
    with pytest.raises(ValueError, match="floating-point"):
        processor(images=Image.new("F", (8, 8)))
    with pytest.raises(ValueError, match="it is a NoneType"):
        processor(images=[picture(), None])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give images, text or both"),
        ({"text": []}, "not empty"),
        ({"images": []}, "empty list"),
        ({"text": ["red ?", None]}, "must be a string, not None"),
        ({"text": 3}, "a question or a list of questions"),
    ],
)
def test_inputs_that_are_none_are_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_answers_come_best_first_with_softmax_scores(processor):
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    answers = processor.decode_answers(logits, top_k=3)
    assert [a["answer"] for a in answers[0]] == ["blue", "a shape", "red"]
    assert sum(a["score"] for a in answers[0]) == pytest.approx(1)
    assert answers[1][0]["score"] == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    assert processor.decode_answers(logits) == [row[:1] for row in answers]


def test_answers_of_a_multi_label_model_have_sigmoid_scores():
    processor = UMEProcessor(image_processor(), bert_tokenizer(), ANSWERS, "multi_label_classification")
    answers = processor.decode_answers(torch.tensor([[0.0, 2.0, 1.0]]), top_k=3)
    assert [a["score"] for a in answers[0]] == pytest.approx([0.880797, 0.731059, 0.5], abs=1e-5)


def test_bfloat16_logits_that_want_gradients_are_decoded(processor):
    logits = torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    assert processor.decode_answers(logits)[0][0]["answer"] == "blue"


@pytest.mark.parametrize("top_k", [0, -1, 4, True, 1.0])
def test_an_impossible_top_k_is_refused(processor, top_k):
    with pytest.raises(ValueError, match="from 1 to 3"):
        processor.decode_answers(torch.zeros(1, 3), top_k=top_k)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (1, 1, 3)])
def test_logits_that_do_not_fit_the_answers_are_refused(processor, shape):
    with pytest.raises(ValueError, match="do not fit 3 answers"):
        processor.decode_answers(torch.zeros(shape))


def test_a_processor_without_answers_says_how_to_get_them():
    with pytest.raises(ValueError, match="give it `id2label`"):
        UMEProcessor(image_processor(), bert_tokenizer()).decode_answers(torch.zeros(1, 3))


def test_answers_with_gaps_and_unknown_problem_types_are_refused():
    with pytest.raises(ValueError, match="without gaps"):
        UMEProcessor(image_processor(), bert_tokenizer(), id2label={0: "a", 2: "b"})
    with pytest.raises(ValueError, match="problem_type='ranking' is not known"):
        UMEProcessor(image_processor(), bert_tokenizer(), problem_type="ranking")


@pytest.mark.parametrize(
    "tokenizer", [bert_tokenizer, lambda: plain_tokenizer(eos_token="[SEP]")], ids=["bert", "no_padding"]
)
def test_a_saved_processor_loads_with_its_answers(tokenizer, tmp_path):
    id2label = {i: f"answer {i}" for i in range(12)}  # as strings "10" sorts before "2"
    saved = UMEProcessor(image_processor(), tokenizer(), id2label, "multi_label_classification")
    saved.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded).__name__ == "UMEProcessor"
    assert loaded.id2label == id2label
    assert loaded.problem_type == "multi_label_classification"
    questions = ["what is it ?", "red"]
    expected, got = (p(images=picture(), text=questions) for p in (saved, loaded))
    assert set(got) == set(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_saved_folder_names_the_processors_code_and_holds_it(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert config["auto_map"] == {"AutoProcessor": "processing_ume.UMEProcessor"}
    assert (tmp_path / "processing_ume.py").is_file()
    # Its tokenizer can also be taken alone.
    assert AutoTokenizer.from_pretrained(tmp_path)("red ?")["input_ids"] == processor.tokenizer("red ?")["input_ids"]


def test_a_processor_says_the_same_of_itself_before_and_after_saving(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UMEProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    loaded.save_pretrained(tmp_path)
    assert loaded.to_dict() == UMEProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_saving_over_the_folder_it_was_loaded_from_changes_nothing(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    names = [file.name for file in tmp_path.iterdir() if file.name != "tokenizer_config.json"]  # notes where it was
    before = {name: (tmp_path / name).read_bytes() for name in names}
    AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True).save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_processor_is_made_from_two_encoder_folders(tmp_path):
    bert_tokenizer().save_pretrained(tmp_path / "text")
    image_processor().save_pretrained(tmp_path / "image")
    processor = UMEProcessor.from_encoders_pretrained(tmp_path / "text", tmp_path / "image", ANSWERS, image_size=24)
    assert processor(images=picture(), text="red ?")["pixel_values"].shape == (1, 3, 24, 24)
    assert processor.id2label == ANSWERS


@pytest.mark.parametrize(
    ("image_processor", "resize"),
    [
        (CLIPImageProcessor(), {"shortest_edge": 32}),
        (
            BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}),
            {"shortest_edge": 37},
        ),
        (ConvNextImageProcessor(size={"shortest_edge": 224}), {"shortest_edge": 32}),
        (ViTImageProcessor(), {"height": 32, "width": 32}),
    ],
    ids=["clip", "dinov2", "convnext", "vit"],
)
def test_another_image_size_keeps_each_processors_way_of_cropping(image_processor, resize, tmp_path):
    bert_tokenizer().save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    processor = UMEProcessor.from_encoders_pretrained(tmp_path, tmp_path, image_size=32)
    assert {k: v for k, v in dict(processor.image_processor.size).items() if v} == resize
    assert processor(images=picture(size=(300, 100)))["pixel_values"].shape == (1, 3, 32, 32)
    # The size is saved too.
    processor.save_pretrained(tmp_path / "saved")
    loaded = UMEProcessor.from_pretrained(tmp_path / "saved")
    assert loaded(images=picture(size=(300, 100)))["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("image_size", [0, -3, 2.5, True])
def test_an_impossible_image_size_is_refused(image_size, tmp_path):
    bert_tokenizer().save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"image_size={image_size}"):
        UMEProcessor.from_encoders_pretrained(tmp_path, tmp_path, image_size=image_size)


def test_a_missing_tokenizer_or_image_processor_is_named(tmp_path):
    text, image, empty = tmp_path / "text", tmp_path / "image", tmp_path / "empty"
    bert_tokenizer().save_pretrained(text)
    image_processor().save_pretrained(image)
    empty.mkdir()
    with pytest.raises(
        ValueError,
        match=r"has no tokenizer: .*, vocab\.json, merges\.txt, spm\.model",
    ):
        UMEProcessor.from_encoders_pretrained(empty, image)
    with pytest.raises(ValueError, match="No image processor can be loaded from"):
        UMEProcessor.from_encoders_pretrained(text, empty)


def test_a_saved_processor_without_its_vocabulary_is_refused(tmp_path):
    UMEProcessor(image_processor(), bert_tokenizer()).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()  # transformers makes a tokenizer of special tokens alone
    with pytest.raises(ValueError, match=r"its vocabulary \(tokenizer\.json, vocab\.txt or the like\) is missing"):
        UMEProcessor.from_pretrained(tmp_path)


def test_a_sentencepiece_tokenizer_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_ume.text_ume.is_sentencepiece_available", lambda: False)
    (tmp_path / "spm.model").write_bytes(b"")
    with pytest.raises(ValueError, match="pip install sentencepiece protobuf"):
        UMEProcessor.from_encoders_pretrained(tmp_path, tmp_path)


def test_sixteen_bit_grey_with_a_transparent_shade_shows_it_as_white(tmp_path):
    shades = np.array([[0, 9000, 65535]], np.uint16)
    Image.fromarray(shades).save(tmp_path / "key.png", transparency=9000)
    assert np.asarray(read_image(tmp_path / "key.png"))[0, :, 0].tolist() == [0, 255, 255]


def test_thirty_two_bit_grey_is_refused_unless_sixteen_bits_hold_it(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100]], np.int32)).save(tmp_path / "small.tiff")
    assert np.asarray(read_image(tmp_path / "small.tiff"))[0, :, 0].tolist() == [0, 100]
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "large.tiff")
    with pytest.raises(ValueError, match="32-bit values, 0 to 70000; save it with 8 bits a channel"):
        read_image(tmp_path / "large.tiff")


def test_arrays_of_bytes_are_pictures_whatever_their_size_and_channels(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)  # 4 rows are no 4 channels
    expected = processor(images=Image.fromarray(pixels))["pixel_values"]
    for array in (pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels), pixels[None]):
        torch.testing.assert_close(processor(images=array)["pixel_values"], expected)
    grey = processor(images=Image.fromarray(pixels[..., 0]))["pixel_values"]
    torch.testing.assert_close(processor(images=pixels[..., 0])["pixel_values"], grey)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 4, 3)), np.zeros(5), np.zeros((4, 4, 2)), np.full((4, 4, 3), np.nan), np.full((4, 4, 3), "x")],
    ids=["empty", "flat", "two channels", "nan", "text"],
)
def test_an_array_that_is_no_picture_is_refused(array, processor):
    with pytest.raises(ValueError, match="An image was given as an array of shape"):
        processor(images=array)


def test_half_a_surrogate_pair_is_refused_and_a_question_without_tokens_is_padding(processor):
    with pytest.raises(ValueError, match="holds half of a character"):
        processor(text=["what", "half \ud83d"])
    plain = UMEProcessor(image_processor(), plain_tokenizer(pad_token="[PAD]"))
    for padding in (True, False):
        batch = plain(text=["", ""], padding=padding)
        assert batch["input_ids"].tolist() == [[0], [0]]
        assert batch["attention_mask"].tolist() == [[0], [0]]


def test_a_download_that_is_too_large_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("modeling_ume.images_ume.DOWNLOAD_BYTES", 2**20)
    address = f"data:image/png;base64,{base64.b64encode(bytes(2**20 + 1)).decode()}"
    with pytest.raises(ValueError, match="it has more than 1 MB; download it yourself"):
        read_image(address)


def test_arguments_go_to_the_part_that_knows_them(processor):
    image, text = picture(), "what is it ?"
    plain = processor(images=image, text=text)
    assert plain["input_ids"].shape[1] == processor(text=text, add_special_tokens=False)["input_ids"].shape[1] + 2
    assert processor(images=image, text=text, do_resize=False)["pixel_values"].shape[-2:] == image.size[::-1]
    assert "offset_mapping" in processor(images=image, text=text, return_offsets_mapping=True)
    as_arrays = processor(images=image, text=text, common_kwargs={"return_tensors": "np"})
    assert {type(values) for values in as_arrays.values()} == {np.ndarray}
    assert processor(text=text, text_kwargs={"padding": "max_length", "max_length": 9})["input_ids"].shape == (1, 9)
    assert isinstance(processor(text=text, return_tensors=None)["input_ids"], list)
    assert torch.equal(processor(text=text.split(), is_split_into_words=True)["input_ids"], plain["input_ids"])
    assert torch.equal(processor(images=[[image]])["pixel_values"], plain["pixel_values"])
    assert processor(text=text, videos=None, audio=None).keys() == processor(text=text).keys()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": "it", "paddding": True}, TypeError, r"has an argument 'paddding'\. Did you mean padding\?"),
        ({"text": "it", "videos": [1]}, ValueError, "videos was given, but this processor reads images and texts"),
        ({"text": "it", "audio": [1]}, ValueError, "audio was given, but this processor reads images and texts"),
        ({"text": "it", "stride": 1, "text_kwargs": {"stride": 2}}, ValueError, "stride was given twice"),
        ({"text": "it", "common_kwargs": {"images": [1]}}, TypeError, "has an argument 'images'"),
        ({"text": "it", "common_kwargs": {"text": "is"}}, TypeError, "has an argument 'text'"),
        ({"text": "it", "kwargs": {}}, TypeError, "has an argument 'kwargs'"),
        ({"images": "what", "text": picture()}, ValueError, "text is a picture: the images come first"),
    ],
)
def test_arguments_that_no_part_can_use_are_refused(processor, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(**arguments)


def test_a_processor_is_built_by_name_in_either_order_and_reads_back(processor):
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    for names in (list(parts), list(parts)[::-1]):
        built = UMEProcessor(**{name: parts[name] for name in names}, chat_template=None)
        ids = built(text=["what is it ?"])["input_ids"]
        assert built.batch_decode(ids, skip_special_tokens=True) == [built.decode(ids[0], skip_special_tokens=True)]
        assert {"input_ids", "attention_mask", "pixel_values"} <= set(built.model_input_names)
    with pytest.raises(TypeError, match="foo"):
        UMEProcessor(**parts, foo=1)


def test_who_says_where_the_channels_are_is_believed(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 3), np.uint8)  # channels first or last?
    first, last = (
        processor(images=[pixels], input_data_format=f"channels_{end}", do_resize=False)["pixel_values"]
        for end in ("first", "last")
    )
    assert first.shape == (1, 3, 20, 3)
    assert last.shape == (1, 3, 3, 20)
    torch.testing.assert_close(first[0, 0] * 0.5 + 0.5, torch.from_numpy(pixels[0] / 255).float())
    torch.testing.assert_close(last[0, 0] * 0.5 + 0.5, torch.from_numpy(pixels[..., 0] / 255).float())


def test_there_is_a_mask_of_the_padding_also_from_a_tokenizer_that_makes_none(processor):
    processor.tokenizer.model_input_names = ["input_ids"]
    assert processor(text=["what is it ?", "what"])["attention_mask"].sum(1).tolist() == [6, 3]
    assert "attention_mask" not in processor(text="what", return_attention_mask=False)


def test_a_reason_that_is_a_sentence_has_one_full_stop(tmp_path, monkeypatch):
    picture(size=(50, 50)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large\.png' cannot be read: .*[^.]\.$"):
        read_image(tmp_path / "large.png")


def test_what_an_image_processor_says_of_one_image_or_of_something_else_is_not_reworded(processor, monkeypatch):
    def refuse(self, images, **options):
        raise ValueError("the size is odd" if len(images) == 1 else "there is no licence")

    monkeypatch.setattr(type(processor.image_processor), "preprocess", refuse)
    for images, message in ((picture(), "^the size is odd$"), ([picture()] * 2, "^there is no licence$")):
        with pytest.raises(ValueError, match=message):
            processor(images=images)
