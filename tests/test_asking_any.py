"""`ume ask` of a model of any modalities: files are told by their endings, numbers are JSON, options say the rest."""

import json
import os

import pytest
import soundfile
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS
from PIL import Image
from test_audio import ANSWERS, KINDS, sound
from transformers import ViTImageProcessor

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.evaluation.asking import sorted_things


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sound, a picture, and two models: one reads both of these, one a question and a sound."""
    folder = tmp_path_factory.mktemp("any")
    soundfile.write(folder / "three.wav", sound(), 16000)
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    part = MODALITIES["audio"].new_part(KINDS["wav2vec2"](), {})
    for name, other, parts in (
        ("seen", {"vision_config": IMAGE_CONFIGS["vit"]()}, [ViTImageProcessor(size={"height": 32, "width": 32})]),
        ("asked", {"text_config": TEXT_CONFIGS["bert"]()}, [None, words_tokenizer(["is it high ?"])]),
    ):
        torch.manual_seed(0)
        config = UMEConfig.from_encoder_configs(
            **other, audio_config=KINDS["wav2vec2"](), fusion_hidden_size=16, id2label=ANSWERS
        )
        UMEForVisualQuestionAnswering(config).save_pretrained(folder / name)
        UMEProcessor(*parts, feature_extractor=part, id2label=ANSWERS).save_pretrained(folder / name)
    return folder


def asked(folder, model, *things, capsys):
    assert main(["ask", str(folder / model), *map(str, things), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_sound_alone_is_answered_and_the_order_of_files_does_not_matter(folder, capsys):
    wav, png = folder / "three.wav", folder / "red.png"
    alone = asked(folder, "seen", wav, capsys=capsys)
    assert alone[0]["question"] == ""
    assert {answer["answer"] for answer in alone[0]["answers"]} == {"low", "high"}
    both = asked(folder, "seen", wav, png, capsys=capsys)
    assert both != alone
    for things in ((png, wav), (wav, "--image", png), ("--audio", wav, "--image", png), (png, "--audio", wav)):
        assert asked(folder, "seen", *things, capsys=capsys) == both


def test_questions_about_a_sound_are_answered_one_by_one(folder, capsys):
    found = asked(folder, "asked", folder / "three.wav", "is it high ?", "is it ?", capsys=capsys)
    assert [row["question"] for row in found] == ["is it high ?", "is it ?"]
    assert main(["ask", str(folder / "asked"), "is it high ?", str(folder / "three.wav")]) == 0
    assert capsys.readouterr().out.startswith("is it high ?\n")


@pytest.mark.parametrize(
    ("model", "things", "said"),
    [
        ("seen", ["nowhere.wav"], r"The sound 'nowhere.wav' cannot be read: there is no such file; check the path."),
        ("seen", ["what is it?"], "'what is it?' is no file that this model reads: it reads image and audio."),
        ("seen", ["three.wav", "three.wav"], "'three.wav' is a second sound: it reads image and audio."),
        ("seen", ["--table", "{}"], "--table was given, and this model reads image and audio: leave it out."),
        ("asked", ["three.wav", "red.png"], "'red.png' is no file that this model reads: it reads question and audio"),
    ],
)
def test_what_the_model_does_not_read_is_one_sentence(model, things, said, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["ask", os.fspath(folder / model), *things]) == 2
    assert said in capsys.readouterr().err


def test_numbers_are_json_and_a_folder_is_a_film(tmp_path):
    kinds = list(MODALITIES.values())
    (tmp_path / "frames").mkdir()
    things = ['{"area": 3}', "[[1, 2], [3, 4]]", str(tmp_path / "frames"), "how many ?", "a.jpg"]
    given, questions = sorted_things(things, kinds, {"audio": "a.bin"})
    assert given == {
        "audio": "a.bin", "table": {"area": 3}, "series": [[1, 2], [3, 4]], "video": str(tmp_path / "frames"),
        "image": "a.jpg",
    }  # fmt: skip
    assert questions == ["how many ?"]
    with pytest.raises(ValueError, match=r"--table 'area=3' is no JSON .*: write it as '\{\"area\": 3\}'"):
        sorted_things([], kinds, {"table": "area=3"})
