"""The model card: every number from the run's files, a whole card against tests/golden/card.md, and what is refused.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/test_card.py
"""

import dataclasses
import json
import os
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

import training_ume.hub.card
from training_ume.commands import main
from training_ume.data.rows import FEATURES
from training_ume.evaluation.scores import score_answers
from training_ume.hub.card import render_card
from training_ume.hub.data_sets import DATA_SETS
from training_ume.hub.learning_curve import plot_learning_curve
from training_ume.hub.read import About, read_about, read_run
from training_ume.records.files import write_json
from training_ume.records.predictions import (
    PREDICTIONS,
    mean_score,
    prediction_rows,
    read_predictions,
    score_interval,
    write_predictions,
)

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "card.md"
COLOURS = ["red", "green", "blue"]
ABOUT = About(license="mit", data="easy_vqa", limits=["Its maker had no time."])


def rows_of(folder: Path) -> list[dict]:
    """24 answered questions about 8 images: colours are always right, every third yes/no question is not."""
    rows = []
    for image in range(8):
        path = folder / f"image{image}.png"
        if not path.exists():
            Image.new("RGB", (4, 4), COLOURS[image % 3]).save(path)
        colour = COLOURS[image % 3]
        asked = [
            ("what color is it?", "what color", "other", colour, colour),
            (f"is it {colour} | grey?", "is it", "yes/no", "yes", "no" if image % 3 == 1 else "yes"),
            ("is there\na circle?", "is there", "yes/no", "no", "yes" if image == 0 else "no"),
        ]
        for question, question_type, answer_type, expected, answer in asked:
            rows.append(
                {
                    "question_id": len(rows),
                    "image_id": str(image),
                    "image": str(path),
                    "question": question,
                    "question_type": question_type,
                    "answer_type": answer_type,
                    "expected": expected,
                    "answer": answer,
                    "vqa_accuracy": 100.0 * (answer == expected),
                    "exact_match": 100.0 * (answer == expected),
                }
            )
    return rows


def comparison_row(name: str, *scores: float) -> dict:
    summary = {"each": list(scores), "mean": float(np.mean(scores)), "sd": None}
    if len(scores) > 1:
        summary["sd"] = float(np.std(scores, ddof=1))
    return {"name": name, "seeds": list(range(len(scores))), "vqa_accuracy": summary, "exact_match": summary}


def write_run(folder: Path, **changes) -> Path:
    """What `ume train` leaves of a run, but for the model itself."""
    folder.mkdir(parents=True)
    rows = rows_of(folder)
    write_predictions(folder / PREDICTIONS, rows)
    score = mean_score(rows, "vqa_accuracy")
    results = {
        "name": "ume",
        "recipe": "colours",
        "seed": 0,
        "scored_on": "test",
        "scores": {"vqa_accuracy": score, "exact_match": score},
        "baselines": {
            "most_common_answer": {"vqa_accuracy": 29.5, "exact_match": 29.5},
            "question_lookup": {"vqa_accuracy": 45.25, "exact_match": 45.25},
        },
        "train_seconds": 61.4,
        "train_cpu_seconds": 80.2,
        "epochs": [
            {"epoch": 1.0, "train_loss": 1.5, "validation_loss": 1.25, "vqa_accuracy": 40.0, "exact_match": 40.0},
            {"epoch": 2.0, "train_loss": 1.0, "validation_loss": 0.75, "vqa_accuracy": 85.0, "exact_match": 85.0},
        ],
        "parameters": {
            "total": 1_234_567,
            "encoders": 1_200_000,
            "fusion": 30_000,
            "classifier": 4567,
            "trainable": 34_567,
        },
        "encoders": {
            "text": {"name": "owner/reader", "revision": "0123456789abcdef0123456789abcdef01234567"},
            "vision": {"name": "weights/looker", "sha256": "feedface" * 8},
        },
        "data": {
            "train_questions": 90,
            "train_questions_left_out": 3,
            "train_images": 30,
            "validation_questions": 10,
            "validation_images": 4,
            "test_questions": 24,
            "test_images": 8,
            "answers": 5,
            "coverage": {part: {"ceiling": 0.9875} for part in ("train", "validation", "test")},
        },
        "arguments": {
            "model": {
                "text_model": "owner/reader",
                "text_revision": None,
                "text_config": None,
                "vision_model": "weights/looker",
                "vision_revision": None,
                "vision_config": None,
                "fusion": "ume",
                "fusion_hidden_size": 16,
                "feature_cache": "features/colours",
                "freeze_text": True,
                "freeze_vision": True,
                "lora_r": 0,
            },
            "data": {
                "source": "vqa_v2",
                "train_questions": "data/questions.json",
                "train_images": "data/images",
                "dataset_name": None,
                "validation_fraction": 0.1,
                "split_seed": 0,
                "top_k_answers": 5,
                "min_answer_count": None,
                "max_eval_questions": None,
            },
            "training": {"learning_rate": 1e-3, "num_train_epochs": 2.0, "seed": 0},
        },
        "environment": {
            "versions": {"python": "3.12.1", "torch": "2.13.0"},
            "git_revision": "abcdef",
            "hardware": {"cpu": "a processor", "cores": 2, "torch_threads": 2, "gpus": []},
        },
        "comparison": [
            comparison_row("ume", score),
            comparison_row("concat", 61.5),
            comparison_row("question_only", 50.0),
        ],
    }
    write_json(folder / "results.json", {**results, **changes})
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Drawing takes half a second, and one test is about it."""
    monkeypatch.setattr(
        training_ume.hub.card, "plot_learning_curve", lambda *arguments: arguments[-1].write(b"a curve")
    )


def text_of(files: dict[str, bytes]) -> str:
    return files["README.md"].decode()


def test_the_whole_card_is_as_it_should_be(run):
    text = text_of(render_card(run, ABOUT, repo="me/ume-colours"))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_metadata_are_what_the_hub_reads(run):
    data = ModelCard(text_of(render_card(run, ABOUT))).data
    fields = data.to_dict()
    assert fields["license"] == "mit"
    assert fields["library_name"] == "transformers"
    assert fields["pipeline_tag"] == "visual-question-answering"
    assert fields["language"] == "en"
    assert fields["base_model"] == ["owner/reader"]  # the other encoder was a folder
    assert "datasets" not in fields
    _, results = model_index_to_eval_results(fields["model-index"])
    scores = json.loads((run / "results.json").read_text())["scores"]
    assert {result.metric_name: result.metric_value for result in results} == {
        "VQA accuracy": round(scores["vqa_accuracy"], 2),
        "exact match": round(scores["exact_match"], 2),
    }
    assert {(result.task_type, result.dataset_name, result.dataset_split) for result in results} == {
        ("visual-question-answering", "easy-VQA", "test")
    }


def test_a_data_set_on_the_hub_and_the_hub_name_of_a_copied_encoder_are_linked(run):
    about = dataclasses.replace(ABOUT, data="vqa_v2", base_models={"vision": "owner/looker"})
    fields = ModelCard(text_of(render_card(run, about))).data.to_dict()
    assert fields["datasets"] == ["HuggingFaceM4/VQAv2"]
    assert fields["base_model"] == ["owner/reader", "owner/looker"]


@pytest.mark.parametrize("name", DATA_SETS)
def test_pictures_are_shown_only_where_the_licence_allows_it(run, name):
    files = render_card(run, dataclasses.replace(ABOUT, data=name))
    shown = [file for file in files if file.startswith("examples/")]
    assert bool(shown) == DATA_SETS[name].show_images == (name == "easy_vqa")
    assert all(f"![]({file})" in text_of(files) for file in shown)
    assert ("does not allow them to be shown" in text_of(files)) == (not shown)


def test_the_learning_curve_is_a_picture_and_the_same_each_time(run, tmp_path):
    epochs = json.loads((run / "results.json").read_text())["epochs"]
    for name in ("first.png", "second.png"):
        plot_learning_curve(epochs, "vqa_accuracy", "VQA accuracy", tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    with Image.open(tmp_path / "first.png") as picture:
        assert picture.width > 300


def test_one_seed_of_several_finds_what_was_trained_beside_it(tmp_path):
    folder = write_run(tmp_path / "runs" / "seed1")
    results = json.loads((folder / "results.json").read_text())
    rows = [comparison_row("ume", 80.0, 90.0), comparison_row("concat", 91.0, 93.0)]
    write_json(tmp_path / "runs" / "results.json", {"runs": ["seed0", "seed1"], "comparison": rows})
    write_json(folder / "results.json", {key: value for key, value in results.items() if key != "comparison"})
    text = text_of(render_card(folder, ABOUT))
    assert "| `ume`, 2 seeds | 85.00 ± 7.07 | 85.00 ± 7.07 |" in text
    assert "The head `concat`, trained on equal terms, scores higher: 92.00 ± 1.41 against 85.00 ± 7.07 %" in text
    with pytest.raises(ValueError, match=r"give one of its runs, for example .*seed0"):
        read_run(tmp_path / "runs")


def test_a_gain_from_the_picture_that_is_not_certain_is_said(tmp_path):
    rows = [comparison_row("ume", 83.3), comparison_row("question_only", 80.0)]
    text = text_of(render_card(write_run(tmp_path / "run", comparison=rows), ABOUT))
    assert (
        "What it gains from the picture is not certain: the same model trained without the pictures gives 80.00 %"
        in text
    )


def test_the_headline_is_the_score_that_chose_the_epoch(run):
    results = json.loads((run / "results.json").read_text())
    results["arguments"]["training"]["metric_for_best_model"] = "exact_match"
    write_json(run / "results.json", results)
    assert "% exact match** (95 % interval" in text_of(render_card(run, ABOUT))


def test_no_path_of_the_machine_is_in_the_card(tmp_path):
    folder = write_run(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    results["arguments"]["model"]["vision_model"] = str(tmp_path / "looker")
    results["arguments"]["data"]["train_images"] = str(tmp_path / "images")
    write_json(folder / "results.json", results)
    text = text_of(render_card(folder, ABOUT))
    assert str(tmp_path) not in text
    assert "vision_model: looker" in text


def test_predictions_of_other_answers_are_refused(run):
    rows = read_predictions(run / PREDICTIONS)
    rows[0]["vqa_accuracy"] = 0.0
    write_predictions(run / PREDICTIONS, rows)
    with pytest.raises(ValueError, match="they are not of the same answers"):
        render_card(run, ABOUT)


def test_missing_predictions_are_named_with_the_command_that_writes_them(run):
    (run / PREDICTIONS).unlink()
    with pytest.raises(ValueError, match=r"`ume evaluate .* --predictions .* on the test questions"):
        render_card(run, ABOUT)


def test_of_data_that_nobody_described_the_card_says_so_and_what_is_said_counts(run):
    text = text_of(render_card(run, About(license="mit")))
    assert "which nobody has described here" in text
    assert "What the data may be used for, nobody has said here." in text
    own = {"name": "My squares", "licence": "They are mine."}
    text = text_of(render_card(run, About(license="mit", data=own)))
    assert "questions of My squares" in text
    assert "They are mine." in text
    with pytest.raises(ValueError, match="The data 'coco' are not known: give `data:` in the about file as one of"):
        render_card(run, About(license="mit", data="coco"))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("title: x", "has no license: add a line `license: …`"),
        ("licens: mit", "has a field 'licens', which is unknown: did you mean license?"),
        ("- mit", "must be `field: value` lines"),
        ("license: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_about_file_that_cannot_be_used_is_one_sentence(tmp_path, said, sentence):
    if said is not None:
        (tmp_path / "about.yaml").write_text(said)
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        read_about(tmp_path / "about.yaml")


def test_a_benchmark_gets_an_eval_results_file_that_the_hub_reads(run):
    about = dataclasses.replace(ABOUT, benchmark={"id": "owner/Colour-VQA", "task_id": "colours"})
    files = render_card(run, about, repo="me/ume-colours")
    entries = yaml.safe_load(files[".eval_results/colour_vqa.yaml"])
    if not hasattr(huggingface_hub, "parse_eval_result_entries"):
        pytest.skip("This release of huggingface_hub reads no eval results.")
    (entry,) = huggingface_hub.parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.notes) == ("owner/Colour-VQA", "colours", "VQA accuracy")
    assert entry.value == round(json.loads((run / "results.json").read_text())["scores"]["vqa_accuracy"], 2)
    assert entry.source_url == "https://huggingface.co/me/ume-colours"


def test_a_benchmark_that_was_not_scored_is_refused(tmp_path):
    about = dataclasses.replace(ABOUT, benchmark={"id": "owner/Colour-VQA"})
    folder = write_run(tmp_path / "run", scored_on="validation")
    with pytest.raises(ValueError, match="scored on a part of its training images"):
        render_card(folder, about)


def test_an_interval_draws_images_not_questions():
    rows = [{"image_id": str(i // 10), "vqa_accuracy": 100.0 * (i // 10 % 2)} for i in range(400)]
    low, high = score_interval(rows, "vqa_accuracy")
    # 40 images, half of them right: the standard error of their mean is 7.9, that of 400 questions would be 2.5.
    assert high - low == pytest.approx(2 * 1.96 * 7.9, rel=0.1)
    assert low < 50 < high
    alone = [row for row in rows if row["image_id"] == "1"]
    assert score_interval(alone, "vqa_accuracy") == (100.0, 100.0)


def test_the_means_of_the_rows_are_the_scores_of_the_metric():
    references = [["yes"] * 10, ["red"] * 2 + ["dark red"] * 8, ["2", "two", "3"] + ["4"] * 7]
    answers = ["yes", "Red", "two"]
    columns = {name: ["1", "2", "2"] for name in ("image_id", "question", "image", "question_type", "answer_type")}
    table = {"question_id": [1, 2, 3], **columns, "answers": references}
    dataset = Dataset.from_dict({name: table[name] for name in FEATURES}, features=FEATURES)
    rows, scores = prediction_rows(answers, dataset), score_answers(answers, dataset)
    for metric in ("vqa_accuracy", "exact_match"):
        assert mean_score(rows, metric) == pytest.approx(scores[metric], abs=1e-9)
    assert [row["expected"] for row in rows] == ["yes", "dark red", "4"]


def test_written_predictions_are_read_back_whatever_the_questions_hold(tmp_path):
    rows = rows_of(tmp_path)
    rows[0]["question"] = 'line\u2028separator, "quotes" and\nnew lines?'
    write_predictions(tmp_path / PREDICTIONS, rows)
    assert read_predictions(tmp_path / PREDICTIONS) == rows
    (tmp_path / PREDICTIONS).write_text('{"question_id": 1}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .* is not an answered question"):
        read_predictions(tmp_path / PREDICTIONS)


def test_the_command_writes_the_card_and_its_pictures(run, tmp_path, capsys):
    about = tmp_path / "about.yaml"
    about.write_text("license: mit\ndata: easy_vqa\n")
    assert main(["card", str(run), "--about", str(about), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "learning_curve.png", "examples"}
    assert (tmp_path / "out" / "README.md").read_bytes() == render_card(run, read_about(about))["README.md"]
    assert main(["card", str(tmp_path), "--about", str(about), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", ["easy_vqa", "daquar"])
def test_the_cards_in_model_cards_have_metadata_that_the_hub_reads(name):
    folder = ROOT / "model_cards" / name
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert card.data.license == read_about(folder / "about.yaml").license
    assert len(card.data.eval_results) == 2


def test_a_learning_curve_begins_where_its_loss_was_first_logged(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = {}, Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, x, y, *a, **k: drawn.update({k.get("label"): (x, y)}) or plot(axes, x, y, *a, **k)
    )
    epochs = [
        {"epoch": epoch, "exact_match": 10.0 * epoch, "train_loss": loss, "validation_loss": 1.0 / epoch}
        for epoch, loss in ((1, None), (2, 0.7), (3, 0.5))
    ]
    plot_learning_curve(epochs, "exact_match", "exact match", tmp_path / "curve.png")
    assert drawn["train"] == ([2, 3], [0.7, 0.5])
    assert drawn["validation"][0] == [1, 2, 3]
