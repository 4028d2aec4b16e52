"""`ume.train` and the `Run` that it gives: the same as `ume train`, without a list of arguments."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from test_own_data import write_table
from transformers import BertConfig, ViTConfig
from vqa_files import TINY

import ume
from modeling_ume.simple_tables_ume import UMETableMLPConfig
from training_ume.commands import main

TEXT = {"model_type": "bert", "max_position_embeddings": 16, **TINY}
VISION = {"model_type": "vit", "image_size": 16, "patch_size": 8, **TINY}
QUICK = {"fusion_hidden_size": 16, "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
COLUMNS = {"image": "img_name", "answer": "label"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "own")


@pytest.fixture(scope="module")
def rows(table):
    return ume.load_rows(str(table), images=str(table.parent / "pictures"), columns=COLUMNS)


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    return ume.train(rows, text=TEXT, vision=VISION, output_dir=tmp_path_factory.mktemp("run") / "own", **QUICK)


def test_a_run_scores_asks_evaluates_draws_and_is_tried_for_publishing(
    run, rows, table, tmp_path, monkeypatch, capsys
):
    assert run.scores == run.results["scores"]
    assert run.results["data"]["validation_questions"] == 4  # of 12 pictures, 15 %
    assert run.results["arguments"]["model"]["text_config"] == TEXT
    picture = table.parent / "pictures" / "1.png"
    answers = run.ask(picture, "what color is it?", top_k=5)
    assert [set(answer) for answer in answers] == [{"answer", "score"}] * 2
    several = run.ask(Image.open(picture), ["what color is it?", "is it red?"], top_k=1)
    assert several[0][0]["answer"] == answers[0]["answer"]
    assert run.model.config.id2label == {0: "green", 1: "red"}
    assert run.processor.tokenizer is not None
    reading = {"images": table.parent / "pictures", "columns": COLUMNS}
    assert run.evaluate(rows)["scores"] == run.evaluate(table, **reading)["scores"]
    assert run.plot().size[0] > 100
    assert Image.open(run.plot(tmp_path / "curves.png")).size == run.plot().size
    assert repr(run).startswith("Run(")
    assert repr(ume.load_run(run.folder)) == repr(run)
    published = {}
    monkeypatch.setattr("ume.runs.publish", lambda folder, repo, about, **options: published.update(
        folder=folder, repo=repo, about=Path(about).read_text(), **options))  # fmt: skip
    run.publish("me/own", dry_run=True)
    assert "No licence is said" in capsys.readouterr().out
    assert (published["about"], published["dry_run"]) == ("license: unknown\n", True)
    run.publish("me/own", about={"license": "mit"}, private=True)
    assert (published["about"], published["private"]) == ("license: mit\n", True)
    assert published["confirm"]("Upload?")


def test_the_command_and_the_call_do_the_same(table, tmp_path):
    recipe = {"text_config": TEXT, "tokenizer": "words", "vision_config": VISION, "image_size": 16, **QUICK}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    pictures = str(table.parent / "pictures")
    argv = ["--columns", "image=img_name", "answer=label", "--split_by", "patient"]
    given = ["--data", str(table), "--images", pictures, "--output_dir", str(tmp_path / "typed")]
    assert main(["train", str(tmp_path / "recipe.yaml"), *given, *argv]) == 0
    reading = {"images": pictures, "columns": COLUMNS, "split_by": "patient"}
    typed = ume.load_run(tmp_path / "typed").results
    called = ume.train(table, recipe=recipe, output_dir=tmp_path / "called", **reading).results
    measured = ("seconds", "environment", "recipe", "epochs", "comparison")  # the recipe has no name
    assert {name: value for name, value in called.items() if not any(word in name for word in measured)} == {
        name: value for name, value in typed.items() if not any(word in name for word in measured)
    }
    losses = [[epoch["validation_loss"] for epoch in results["epochs"]] for results in (typed, called)]
    assert losses[0] == losses[1]


def test_configs_of_transformers_and_frames_with_relative_paths_are_taken(table, tmp_path, monkeypatch):
    monkeypatch.chdir(table.parent)
    frame = pd.read_csv("own.csv")
    tiny = {"text": BertConfig(**TEXT), "vision": ViTConfig(**{**VISION, "model_type": "vit"})}
    options = {"images": "pictures", "columns": COLUMNS, "where": {"q_lang": "en"}, "output_dir": tmp_path / "frame"}
    run = ume.train(frame, **tiny, **options, **QUICK, validation_fraction=0.5)
    assert run.results["data"]["train_questions"] == 6
    assert run.results["understood"]["train"]["columns"][0]["role"] == "image"
    assert run.model.config.text_config.num_hidden_layers == 1
    os.chdir(tmp_path)
    assert run.ask(table.parent / "pictures/1.png", "what color is it?")


def test_the_parts_of_a_dict_are_what_they_are_called(rows, tmp_path):
    parts = DatasetDict(
        train=rows.select(range(12)), validation=rows.select(range(12, 18)), test=rows.select([18, 19])
    )
    options = {"text": TEXT, "vision": VISION, **QUICK}
    run = ume.train(parts, output_dir=tmp_path / "dict", **options)
    assert (run.results["scored_on"], run.results["data"]["test_questions"]) == ("test", 2)
    assert run.results["data"]["validation_questions"] == 6
    other = ume.train(
        rows.select(range(12)), eval_data=rows.select(range(12, 18)), output_dir=tmp_path / "two", **options
    )
    assert (other.results["scored_on"], other.results["data"]["validation_questions"]) == ("validation", 6)
    for wrong, said in (({"train": rows, "dev": rows}, "has dev"), ({"test": rows}, "has no train")):
        with pytest.raises(ValueError, match=said):
            ume.train(wrong, output_dir=tmp_path / "wrong", **options)


def test_nothing_is_written_over_without_being_asked(run, rows):
    options = {"text": TEXT, "vision": VISION, "output_dir": run.folder, **QUICK}
    with pytest.raises(
        ValueError, match=r"is not empty.*in Python resume_from_checkpoint=True, overwrite_output=True"
    ):
        ume.train(rows, **options)
    again = ume.train(rows, resume_from_checkpoint=True, **options)
    assert again.results["scores"] == run.results["scores"]
    with pytest.raises(ValueError, match=r"data was .*in memory.* and is .*in memory"):
        ume.train(rows.select(range(20)), resume_from_checkpoint=True, **options)


def test_several_values_give_a_run_of_runs(rows, tmp_path):
    options = {"text": TEXT, "vision": VISION, "output_dir": tmp_path / "rates", **QUICK}
    run = ume.train(rows, learning_rate=[1e-3, 2e-3], **options)
    assert [each.results["name"] for each in run.runs] == [row["name"] for row in run.results["comparison"]]
    assert run.best.results["name"] == run.results["best"]["name"]
    assert run.scores == run.best.scores
    assert run.plot().size[0] > 100


def test_an_encoder_of_any_modality_is_given_by_its_name(tmp_path):
    encoders = {
        "series": {"model_type": "ume_gru_series", "hidden_size": 8},
        "table": UMETableMLPConfig(hidden_size=8),
    }
    rows = [{"label": str(i % 2), "ecg": [float(i), 1.0, 2.0 * (i % 2)], "age": i % 7} for i in range(24)]
    columns = {"series": "ecg", "table": ["age"], "answer": "label"}
    run = ume.train(rows, **encoders, text_model=None, vision_model=None, fusion="concat", fusion_hidden_size=8,
                    fusion_num_heads=1, columns=columns, output_dir=tmp_path / "run", num_train_epochs=1)  # fmt: skip
    assert run.model.config.modalities == ["series", "table"]
    assert run.model.config.series_config.model_type == "ume_gru_series"
    assert run.ask(series=[1.0, 2.0, 3.0], table={"age": 3})[0]["answer"] in ("0", "1")
    with pytest.raises(ValueError, match="table_config and table are both given"):
        ume.train(rows, table=encoders["table"], table_config={"model_type": "ume_table_mlp"}, output_dir=tmp_path)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({}, "There is nothing to train on"),
        ({"data": "own.csv", "text": "a/b", "text_model": "c/d"}, "text_model and text are both given"),
        ({"data": "own.csv", "text": 3}, "text is a int: give a Hub name"),
        ({"data": "own.csv", "lerning_rate": 1e-3}, "'lerning_rate' is not a field .* Did you mean learning_rate"),
        ({"data": "own.csv", "xyzzy": 1}, r"'xyzzy' is not a field of a recipe\. See --help"),
        ({"data": "nowhere.csv", "text": TEXT, "vision": VISION}, "nowhere.csv"),
        ({"recipe": "easy_vqaa"}, "There is no recipe 'easy_vqaa'"),
    ],
)
def test_what_cannot_be_meant_is_told(call, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        ume.train(call.pop("data", None), output_dir=tmp_path / "out", **call)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_training_is_told(tmp_path):
    for folder, said in ((tmp_path, "no training was finished there"), (tmp_path / "none", "There is no folder")):
        with pytest.raises(ValueError, match=said):
            ume.load_run(folder)


def test_rows_in_memory_may_hold_pictures_themselves(tmp_path):
    pictures = [Image.new("RGB", (20, 20), (20 * i, 0, 0)) for i in range(8)]
    data = Dataset.from_dict({"image": pictures, "label": ["dark", "light"] * 4})
    with pytest.raises(ValueError, match="eval_data is a Dataset and data a path"):
        ume.train("own.csv", eval_data=data, text=TEXT, vision=VISION)
    columns = {"image": pictures, "label": ["dark", "light"] * 4}  # the same as a dict of columns
    assert ume.load_rows(columns)["answers"][:] == ume.load_rows(data)["answers"][:]
    run = ume.train(columns, text=TEXT, vision=VISION, output_dir=tmp_path / "pictures", **QUICK)
    assert run.results["name"] == "image_only"
