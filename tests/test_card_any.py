"""Cards and publishing of models without questions or without images: told by what each modality's class says."""

import json
import subprocess

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from PIL import Image
from test_audio import WAVES
from vqa_files import TINY, UME

import training_ume.hub.card
import ume
from training_ume.hub.card import render_card
from training_ume.hub.read import About

SETTINGS = {
    "text_model": None, "freeze_text": False, "tokenizer": None, "fusion_hidden_size": 16, "num_train_epochs": 1,
    "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip
VISION = {"model_type": "vit", "image_size": 16, "patch_size": 8, **TINY}
AUDIO = {"model_type": "wav2vec2", **{name: list(v) if isinstance(v, tuple) else v for name, v in WAVES.items()}}
TABLE = {"model_type": "ume_table_mlp", "hidden_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of pictures, sounds, numbers, a class and a price."""
    folder, random = tmp_path_factory.mktemp("things"), np.random.default_rng(0)
    lines = ["picture,sound,rooms,side,pitch,price"]
    for i in range(12):
        times = np.arange(4000 + 100 * i) / 16000
        soundfile.write(folder / f"{i}.wav", 0.3 * np.sin(2 * np.pi * (220 + 660 * (i % 2)) * times), 16000)
        Image.fromarray(random.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{i}.wav,{3 + i % 4},{'ns'[i % 2]},{('low', 'high')[i % 2]},{1000 * (50 + 10 * i)}")
    (folder / "things.csv").write_text("\n".join(lines))
    return folder


RUNS = {
    "heard": ({"vision": VISION, "audio_config": AUDIO, "freeze_audio": False},
              {"answer": "pitch", "image": "picture", "audio": "sound"}, {}),
    "priced": ({"vision": VISION, "table_config": TABLE, "freeze_table": False},
               {"answer": "price", "image": "picture", "table": ["rooms", "side"]}, {"problem_type": "regression"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    return {
        name: ume.train(str(folder / "things.csv"), **encoders, columns=columns, output_dir=top / name,
                        **{**SETTINGS, **more})
        for name, (encoders, columns, more) in RUNS.items()
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(training_ume.hub.card, "plot_learning_curve", lambda *arguments: arguments[-1].write(b"c"))


SAID = {
    "heard": (
        "audio-classification",
        {"accuracy", "balanced_accuracy", "macro_f1"},
        ["one encoder reads the picture, another the sound", 'audio="sound.wav"', "soundfile and soxr to read sounds"],
    ),
    "priced": (
        "tabular-regression",
        {"r2", "mae", "rmse"},
        ["another the table row", 'table={"rooms": ', '"side": "n"}', "a linear layer gives `price`"],
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_card_says_what_the_model_reads_and_how_it_is_scored(runs, name):
    pytest.importorskip("matplotlib")
    tag, metrics, sentences = SAID[name]
    card = render_card(runs[name].folder, About(license="mit"), repo="me/things")["README.md"].decode()
    fields = ModelCard(card).data.to_dict()
    assert fields["pipeline_tag"] == tag
    (result,) = fields["model-index"][0]["results"]
    assert result["task"]["type"] == tag
    assert metrics <= {metric["type"] for metric in result["metrics"]}
    for sentence in sentences:
        assert sentence in card
    for word in ("question", "VQA", "vqa"):
        assert word not in card.replace("max_question_length", "")


@pytest.mark.parametrize("name", RUNS)
def test_a_models_own_folder_answers_in_a_process_that_has_nothing_else(runs, name, capsys):
    pytest.importorskip("matplotlib")
    run = runs[name]
    assert run.publish("me/things", dry_run=True) is None
    printed = capsys.readouterr().out
    assert "they load with torch, transformers and pillow alone" in printed
    assert ("predicted.png" if name == "priced" else "confusion.png") in printed.split("Left out:")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_published_model_of_other_modalities_answers_alike_from_the_hub(runs, name, tmp_path):
    about = tmp_path / "about.yaml"
    about.write_text("license: mit\n")
    command = [*UME, "publish", str(runs[name].folder), "me/things", "--about", str(about), "--yes"]
    with LoopbackHub() as hub:
        done = subprocess.run(
            command, env=hub.environment(tmp_path / "home"), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "Loaded back from the Hub, it answers as before" in done.stdout
    said = json.loads(hub.repos["me/things"]["processor_config.json"])
    assert said["tokenizer"] is None
