"""Answering from what there is of any modalities, whatever they are called, one row or many, in whole or in part."""

import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS
from PIL import Image
from test_audio import KINDS, model_of, processor_of, sound
from test_pipeline import make_model, make_processor, picture

from modeling_ume import UMEConfig, UMEForSequenceClassification, UMEVQAPipeline
from modeling_ume.given_ume import by_modality, inputs_of
from training_ume.build.tokenizer import words_tokenizer
from ume.runs import Run


@pytest.fixture(scope="module")
def hearing():
    """A model of images and sounds with its pipeline."""
    model = model_of("wav2vec2")
    return UMEVQAPipeline(model=model, processor=processor_of(model.config), device="cpu", top_k=2)


@pytest.fixture(scope="module")
def seeing():
    model = make_model()
    return UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu", top_k=3)


def run_of(pipeline, tmp_path):
    (tmp_path / "results.json").write_text('{"scores": {}, "name": "ume"}')
    run = Run(tmp_path)
    run.__dict__["_loaded"] = pipeline.model, pipeline.processor
    return run


def test_what_is_given_by_any_name_is_what_the_model_says(hearing):
    heard, seen = sound(4000), picture()
    inputs = hearing.processor(images=seen, audio=heard)
    with torch.no_grad():
        wanted = hearing.model(**inputs).logits[0].softmax(-1)
    answers = hearing(image=seen, audio=heard)
    assert {a["answer"]: a["score"] for a in answers} == pytest.approx(
        {hearing.model.config.id2label[i]: float(score) for i, score in enumerate(wanted)}, abs=1e-6
    )
    assert hearing({"vision": seen, "speech": heard, "driver": 3}) == answers
    assert hearing([{"image": seen, "sound": heard}]) == [answers]


def test_rows_that_lack_different_things_are_answered_together_as_alone(hearing):
    heard, seen = [sound(4000, seed=n) for n in range(2)], picture()
    rows = [{"image": seen, "audio": heard[0]}, {"image": seen}, {"audio": heard[1]}, {"audio": heard[1], "image": ""}]
    together = hearing(rows, batch_size=4)
    for row, answers in zip(rows, together, strict=True):
        alone = {a["answer"]: a["score"] for a in hearing.answer([row])[0]}
        assert {a["answer"]: a["score"] for a in answers} == pytest.approx(alone, abs=1e-5)
    assert together[2] == together[3] != together[1]


def test_what_rows_share_is_encoded_once(hearing):
    seen = picture()
    rows = [{"vision": seen, "audio": "a"} for _ in range(3)]
    rows = [{**row, "audio": sound(4000, seed=n)} for n, row in enumerate(rows)]
    batch = inputs_of(hearing.processor, rows, ["vision", "audio"])
    assert batch["pixel_values"].shape[0] == 1
    assert batch["image_index"].tolist() == [0, 0, 0]
    assert "audio_index" not in batch


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"question": "red ?"},
            "question was given, and there is no encoder for it. This model reads image",
        ),
        ({"imag": "x.png"}, r"imag is nothing that a model reads. Did you mean image\?"),
        ({"audio": None, "image": ""}, "There is nothing to answer from. This model reads image and audio"),
        ({"audio": sound(), "sound": sound()}, "sound is given twice, the second time as sound"),
    ],
)
def test_what_cannot_be_answered_from_is_one_sentence(given, said):
    with pytest.raises(ValueError, match=said):
        by_modality(given, ["vision", "audio"])


def test_a_run_is_asked_by_the_names_of_what_it_reads(hearing, seeing, tmp_path):
    run = run_of(hearing, tmp_path)
    assert run.ask(image=picture(), audio=sound()) == hearing(image=picture(), audio=sound())
    assert len(run.ask(audio=(sound(), 16000), top_k=1)) == 1
    with pytest.raises(ValueError, match=r"table (was given, and there|is nothing)"):
        run.ask(audio=sound(), table={"a": 1})
    run = run_of(seeing, tmp_path)
    assert run.ask(picture(), "is it red ?") == seeing(picture(), "is it red ?")
    assert run.ask(picture(), ["is it red ?"], candidate_labels=["answer 1", "answer 2"])[0]
    alone = run.ask(question=["is it red ?", "circle ?"], top_k=1)
    assert [len(answers) for answers in alone] == [1, 1]
    assert run.ask(picture()) == seeing.answer([{"image": picture()}])[0]
    with pytest.raises(ValueError, match="question is empty"):
        run.ask(picture(), "")


def test_a_model_of_a_text_and_a_sound_needs_no_image_and_gives_numbers():
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        text_config=TEXT_CONFIGS["bert"](), audio_config=KINDS["wav2vec2"](), fusion_hidden_size=16,
        problem_type="regression", id2label={0: "price"},
    )  # fmt: skip
    model = UMEForSequenceClassification(config).eval()
    processor = processor_of(config)
    processor.image_processor, processor.tokenizer = None, words_tokenizer(["how much is it"])
    ask = UMEVQAPipeline(model=model, processor=processor, device="cpu")
    several = ask(question=["how much ?", "it"], audio=sound())
    assert [answers[0]["name"] for answers in several] == ["price", "price"]
    assert isinstance(ask(question="how much ?")[0]["answer"], float)
    with pytest.raises(ValueError, match="A row must be a dict of what there is of question, audio"):
        ask([np.zeros(3)])
    with pytest.raises(ValueError, match="image was given"):
        ask(Image.new("RGB", (9, 9)))
