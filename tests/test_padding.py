"""No answer depends on the rest of its batch: on padding of questions, on either side, and of images."""

import numpy as np
import pytest
import torch
from conftest import TRANSFORMER, tiny_batch, tiny_model
from PIL import Image
from transformers import BertConfig, BertTokenizer, SiglipTextConfig, ViTConfig, ViTImageProcessor

from configuration_ume import UMEConfig
from modeling_ume import UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEProcessor, UMEVQAPipeline
from modeling_ume.encoders_ume import EncoderAdapter, build_encoder
from modeling_ume.padding_ume import padded, real_tokens
from training_ume.data.collator import VQACollator
from training_ume.report.encoder_facts import TEXT_ENCODERS, VOCAB_SIZE, available

QUESTION = torch.tensor([7, 19, 4, 33, 11])
# Where its tokens stand in a row of nine: behind, before, between and around padding.
PLACES = ([0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [2, 3, 4, 5, 6], [0, 2, 3, 6, 8])


def rows(values, fill):
    """[4 + 1, 9]: values at each of PLACES, and a row without any."""
    out = torch.full((len(PLACES) + 1, 9, *values.shape[1:]), fill, dtype=values.dtype)
    for row, places in enumerate(PLACES):
        out[row, places] = values
    return out


WITH_POOLER = {"BERT", "RoBERTa", "XLM-R", "ALBERT", "MPNet", "CLIP text", "LSTM (deeper LSTM Q)", "GRU"}
MASK = rows(torch.ones(5, dtype=torch.long), 0)


def shaken(encoder):
    """Weights that differ from what they start at: biases, norms and special tokens too."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


@pytest.mark.parametrize("pooling", ["auto", "cls", "pooler", "mean", "last"])
@pytest.mark.parametrize("name", available(TEXT_ENCODERS))
def test_what_an_encoder_says_of_a_question_does_not_depend_on_where_its_padding_stands(name, pooling):
    encoder = shaken(build_encoder(TEXT_ENCODERS[name](), pooling))
    if pooling == "pooler" and name not in WITH_POOLER:
        with pytest.raises(ValueError, match=r"text_pooling='pooler': the encoder .* pool"):
            EncoderAdapter(encoder, "text", pooling)
        return
    adapter = EncoderAdapter(encoder, "text", pooling)
    types = {"token_type_ids": torch.tensor([[0, 0, 1, 1, 1]])}
    alone = adapter.text(encoder, QUESTION[None], torch.ones(1, 5, dtype=torch.long), types["token_type_ids"])
    stream = adapter.text(encoder, rows(QUESTION, 58), MASK, rows(types["token_type_ids"][0], 1))
    scale = 1 + alone.states.abs().max().item()
    for row, places in enumerate(PLACES):
        torch.testing.assert_close(stream.pooled[row], alone.pooled[0], rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(stream.states[row, places], alone.states[0], rtol=0, atol=1e-5 * scale)
    assert stream.present.tolist() == [True] * 4 + [False]
    (stream.states[:4].sum() + stream.pooled[:4].sum()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("text", "pooling"), [("bert", "cls"), ("bert", "pooler"), ("deberta-v2", "auto")])
@pytest.mark.parametrize("fusion", ["ume", "early_input", "early_summation", "concat"])
def test_answers_and_gradients_do_not_depend_on_where_the_padding_stands(fusion, text, pooling):
    model, images = tiny_model(text, fusion=fusion, text_pooling=pooling), torch.randn(1, 3, 32, 32)
    shaken(model)
    index = torch.zeros(5, dtype=torch.long)
    alone = model(input_ids=QUESTION[None], pixel_values=images).logits[0]
    output = model(input_ids=rows(QUESTION, 9), attention_mask=MASK, pixel_values=images, image_index=index)
    for logits in output.logits[:4]:
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)
    without = model(pixel_values=images).logits[0]
    torch.testing.assert_close(output.logits[4], without, rtol=0, atol=1e-4)
    if "pair_weights" in (output.fusion_weights or {}):  # they stay where the tokens stand
        assert (output.fusion_weights["pair_weights"].sum(2) > 0).long().equal(MASK)


def test_inner_states_and_embeddings_stay_in_the_order_they_were_given_in():
    model, ids = shaken(tiny_model()), rows(QUESTION, 9)
    alone = model(input_ids=QUESTION[None], output_hidden_states=True, output_attentions=True)
    given = {"attention_mask": MASK, "output_hidden_states": True, "output_attentions": True}
    output = model(input_ids=ids, **given)
    for row, places in enumerate(PLACES):
        for states, expected in zip(output.text_hidden_states, alone.text_hidden_states, strict=True):
            torch.testing.assert_close(states[row, places], expected[0], rtol=0, atol=1e-5)
        for weights, expected in zip(output.text_attentions, alone.text_attentions, strict=True):
            torch.testing.assert_close(weights[row][:, places][:, :, places], expected[0], rtol=0, atol=1e-5)
    embeddings = model.get_input_embeddings()(ids).masked_fill(~MASK.bool()[..., None], torch.nan)
    torch.testing.assert_close(model(inputs_embeds=embeddings, attention_mask=MASK).logits[:4], output.logits[:4])


def test_without_a_mask_padding_at_either_end_is_not_real_and_one_that_ends_a_text_is():
    plain = BertConfig(vocab_size=VOCAB_SIZE, pad_token_id=0)
    ids = torch.tensor([[0, 0, 5, 0, 6, 0], [5, 6, 7, 8, 9, 4], [0] * 6])
    assert real_tokens(plain, ids).long().tolist() == [[0, 0, 1, 1, 1, 0], [1] * 6, [0] * 6]
    ending = BertConfig(vocab_size=VOCAB_SIZE, pad_token_id=1, eos_token_id=1)
    assert real_tokens(ending, torch.tensor([[5, 1, 1, 1], [5, 6, 7, 1]])).long().tolist() == [[1, 1, 0, 0], [1] * 4]
    beginning = BertConfig(vocab_size=VOCAB_SIZE, pad_token_id=1, bos_token_id=1)
    assert real_tokens(beginning, torch.tensor([[1, 1, 5], [1, 6, 5]])).long().tolist() == [[0, 1, 1], [1] * 3]
    plain.pad_token_id = None
    assert real_tokens(plain, ids).all()
    model, images = tiny_model(), tiny_batch()["pixel_values"][:1]
    alone = model(input_ids=QUESTION[None], pixel_values=images).logits
    beside = torch.nn.functional.pad(QUESTION, (0, 3))[None]
    torch.testing.assert_close(model(input_ids=beside, pixel_values=images).logits, alone, rtol=0, atol=1e-5)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "red", "?", "what", "color"]
SHORT, LONG = "is it red ?", "what color is it ? what color is it ?"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", ["[PAD]", "[SEP]"])
def test_a_tokenizer_that_makes_no_mask_gets_one_of_the_lengths_it_padded(side, pad, tmp_path):
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=16, padding_side=side)
    tokenizer.model_input_names = ["input_ids"]  # as those of SigLIP on the Hub
    tokenizer.pad_token = pad  # [SEP] ends each question, too
    image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    text = SiglipTextConfig(vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=0, **TRANSFORMER)
    vision = ViTConfig(image_size=16, patch_size=8, **TRANSFORMER)
    answers = {0: "no", 1: "yes"}
    model = UMEForVisualQuestionAnswering(UMEConfig.from_encoder_configs(text, vision, id2label=answers))
    processor = UMEProcessor(image_processor, tokenizer, id2label=answers)
    shaken(model)
    assert processor(text=[SHORT, LONG])["attention_mask"].sum(1).tolist() == [6, 12]
    path = tmp_path / "red.png"
    picture = Image.new("RGB", (16, 16), "red")
    picture.save(path)
    inputs = processor(images=picture, text=SHORT)
    alone = model(**inputs).logits[0]
    together = model(**processor(images=[picture] * 2, text=[LONG, SHORT])).logits[1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    rows = [{"question_id": i, "question": q, "image": str(path)} for i, q in enumerate((SHORT, LONG))]
    collated = model(**VQACollator(processor)(rows)).logits[0]
    torch.testing.assert_close(collated, alone, rtol=0, atol=1e-5)
    ask = UMEVQAPipeline(model=model, processor=processor)
    expected = processor.decode_answers(alone[None], top_k=2)[0]
    for found in (ask(picture, SHORT), ask(picture, [LONG, SHORT])[1]):
        assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]
        assert found[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)


# -------------------------------------------------------------------------------------------------------------- images


class PaddingProcessor:
    """As DETR's: images keep their sizes and are padded to the largest of the batch, with a mask."""

    def __init__(self, mask="pixel_mask"):
        self.mask = mask

    def __call__(self, images, **options):
        return self.preprocess(images, **options)

    def preprocess(self, images, return_tensors=None, do_normalize=True, **options):
        arrays = [torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 for image in images]
        batch = padded([2 * array - 1 if do_normalize else array for array in arrays])
        mask = batch.pop("pixel_mask", torch.ones(len(images), *batch["pixel_values"].shape[2:]))
        return {**batch, self.mask: mask}

    def to_dict(self):
        return {"mask": self.mask}


SIZES = [(32, 32), (48, 32), (32, 64), (48, 32)]  # width and height


def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SIZES]


def processor_of(model, image_processor):
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=16)
    processor = UMEProcessor(ViTImageProcessor(), tokenizer, id2label=model.config.id2label)
    processor.image_processor = image_processor
    return processor


@pytest.mark.parametrize(
    ("image", "fields"), [("vit", {}), ("vit", {"feature_grid": 2}), ("resnet", {}), ("convnext", {})]
)
@pytest.mark.parametrize("fusion", ["ume", "early_summation", "product", "gated_cross_attention", "early_input"])
def test_an_image_says_the_same_alone_and_padded_to_the_size_of_others(fusion, image, fields):
    model = shaken(tiny_model(image=image, fusion=fusion, **fields))
    processor, images = processor_of(model, PaddingProcessor()), pictures()
    together = processor(images=images, text=[SHORT] * 4)
    assert together["pixel_values"].shape == (4, 3, 64, 48)
    logits = model(**together).logits
    encoded = model.encode_images(together["pixel_values"], together["pixel_mask"])
    questions = {
        name: together[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in together
    }
    torch.testing.assert_close(model(**questions, **encoded).logits, logits, rtol=0, atol=1e-5)
    for row, picture in enumerate(images):
        alone = processor(images=picture, text=SHORT)
        assert "pixel_mask" not in alone
        torch.testing.assert_close(model(**alone).logits[0], logits[row], rtol=0, atol=2e-5)
    noise = together["pixel_values"].masked_fill(together["pixel_mask"][:, None] == 0, torch.nan)
    assert torch.equal(model(**{**together, "pixel_values": noise}).logits, logits)


def test_padded_images_take_every_way_into_a_model(tmp_path):
    model = shaken(tiny_model())
    processor, images = processor_of(model, PaddingProcessor()), pictures()
    alone = torch.cat([model(**processor(images=picture, text=SHORT)).logits for picture in images])
    ask = UMEVQAPipeline(model=model, processor=processor, batch_size=4)
    scores = [
        [answer["score"] for answer in found] for found in ask([{"image": i, "question": SHORT} for i in images])
    ]
    expected = alone.softmax(-1).topk(5).values
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=0, atol=1e-5)
    assert ask(images[1], SHORT)[0]["score"] == pytest.approx(expected[1, 0].item(), abs=1e-5)  # from what is kept
    rows = []
    for i, picture in enumerate(images):
        picture.save(tmp_path / f"{i}.png")
        rows.append({"question_id": i, "question": SHORT, "image": str(tmp_path / f"{i}.png")})
    for cached in (0, 10**6):
        collate = VQACollator(processor, image_cache_bytes=cached)
        for part in (rows[:1], rows, rows[1:3]):  # of the cache, an image comes beside others than it was read with
            logits = model(**collate(part)).logits
            expected = alone[[row["question_id"] for row in part]]
            torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    retrieval = shaken(UMEForImageTextRetrieval(model.config))
    together = processor(images=images)
    features = retrieval.get_image_features(**together)
    for row, picture in enumerate(images):
        own = retrieval.get_image_features(**processor(images=picture))
        torch.testing.assert_close(own.pooler_output[0], features.pooler_output[row])


def test_a_mask_that_nobody_would_read_and_images_that_are_no_batch_are_refused_with_a_sentence():
    model = tiny_model()
    processor = processor_of(model, PaddingProcessor("pixel_attention_mask"))
    with pytest.raises(ValueError, match=r"PaddingProcessor returns pixel_attention_mask, which no image encoder"):
        processor(images=pictures())
    unequal = processor_of(model, ViTImageProcessor(do_resize=False))
    with pytest.raises(ValueError, match=r"could not make one batch of 4 images: .* let the image processor resize"):
        unequal(images=pictures())
    pixels = torch.zeros(2, 3, 32, 32)
    for mask, message in (
        (torch.ones(2, 32), r"pixel_mask has shape \[2, 32\] for pixel_values of shape"),
        (torch.ones(2, 32, 32).tril(), "does not show the upper left part of each image"),
        (torch.zeros(2, 32, 32), "none can be padding alone"),
    ):
        with pytest.raises(ValueError, match=message):
            model(pixel_values=pixels, pixel_mask=mask)
    mask = torch.ones(2, 32, 32)
    mask[0, 24:] = 0
    with pytest.raises(ValueError, match="Inner states of images of different sizes do not fit into one tensor"):
        model(pixel_values=pixels, pixel_mask=mask, output_hidden_states=True)
