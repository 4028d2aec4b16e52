"""Classes: one or several labels of a row that is no question, as a table of a user's own has them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from datasets import Dataset
from PIL import Image
from test_runs import QUICK, TEXT, VISION
from transformers import AutoModelForSequenceClassification, AutoModelForVisualQuestionAnswering
from vqa_files import COLOURS, write_tiny_recipe

import ume
from modeling_ume import TASK_MODELS, TASKS, UMEForSequenceClassification, UMEForVisualQuestionAnswering
from training_ume.commands import main
from training_ume.data.answers import AnswerVocabulary
from training_ume.evaluation.scoring import ClassScoring, LabelsScoring, scoring_of_model
from training_ume.hub.card import render_card
from training_ume.hub.read import About
from training_ume.records.class_scores import ClassScores, LabelScores
from training_ume.records.files import read_json
from training_ume.records.predictions import measured, read_predictions


def test_each_task_has_a_model_an_auto_class_and_a_place_in_the_config():
    assert TASK_MODELS.keys() == TASKS.keys()
    config = tiny_config()
    for name, task in TASKS.items():
        assert TASK_MODELS[name].__name__ == task.model
        assert config.auto_map[task.auto] == f"modeling_ume.{task.model}"


def test_checkpoints_of_both_classifiers_interchange(tmp_path):
    model = tiny_model().eval()
    classifier = UMEForSequenceClassification(model.config).eval()
    classifier.load_state_dict(model.state_dict())
    classifier.save_pretrained(tmp_path)
    assert read_json(tmp_path / "config.json")["architectures"] == ["UMEForSequenceClassification"]
    logits = model(**tiny_batch()).logits
    for kind in (AutoModelForSequenceClassification, AutoModelForVisualQuestionAnswering):
        assert torch.equal(kind.from_pretrained(tmp_path).eval()(**tiny_batch()).logits, logits)
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is UMEForSequenceClassification
    assert type(AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)) is UMEForVisualQuestionAnswering


def test_scores_of_classes_are_those_of_the_formulas():
    scores = ClassScores(["a", "a", "b", "c"], ["a", "b", "b", "b"]).scores()
    assert scores["accuracy"] == 50
    assert scores["balanced_accuracy"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert scores["macro_f1"] == pytest.approx(100 * (2 / 3 + 2 / 4 + 0) / 3)
    table = ClassScores(["a", "a", "b", "c"], ["a", "b", "b", "b"]).confusion()
    assert table.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_scores_of_label_sets_are_those_of_the_formulas():
    scores = LabelScores([["a"], ["a", "b"], []], [["a"], ["b", "c"], []]).scores()
    assert scores["subset_accuracy"] == pytest.approx(200 / 3)
    assert scores["micro_f1"] == pytest.approx(100 * 2 * 2 / 6)
    assert scores["macro_f1"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)


def test_every_label_of_a_row_counts_and_is_right():
    rows = [["dog", "cat"], ["dog", "bird"], ["Dog"]]
    labels = AnswerVocabulary.from_answers(rows, every=True)
    assert labels.id2label == {0: "dog", 1: "bird", 2: "cat"}
    assert labels.soft_targets(rows, "any").tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]
    assert len(AnswerVocabulary.from_answers(rows, top_k=1, every=True)) == 1


@pytest.mark.parametrize(
    ("problem_type", "kind"),
    [("single_label_classification", ClassScoring), ("multi_label_classification", LabelsScoring)],
)
def test_scores_are_chosen_by_the_task_and_the_problem(problem_type, kind):
    config = tiny_config(problem_type=problem_type, num_labels=None, id2label={0: "a", 1: "b"})
    assert type(scoring_of_model(UMEForSequenceClassification(config))) is kind
    assert type(scoring_of_model(UMEForVisualQuestionAnswering(config))) not in (ClassScoring, LabelsScoring)


def test_labels_are_those_with_half_the_probability_or_more():
    scoring = LabelsScoring({0: "a", 1: "b"})
    rows = Dataset.from_dict({"answers": [["a"], ["a", "b"]], "image_id": ["x", "y"]})
    answers = scoring.answers(scoring.kept(torch.tensor([[1.0, -1.0], [0.0, 3.0]])).tolist())
    assert answers == [["a"], ["a", "b"]]
    assert scoring.score(answers, rows)["micro_f1"] == 100


# -------------------------------------------------------------------------------------------------------------- tables


def write_shapes(folder: Path, pictures: int = 24) -> Path:
    """Pictures in one of two colours, some with a white corner: no questions."""
    (folder / "pictures").mkdir(parents=True)
    with (folder / "shapes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "label", "tags"])
        for i in range(pictures):
            colour = list(COLOURS)[i % 2]
            picture = Image.new("RGB", (20, 20), COLOURS[colour])
            picture.putpixel((i % 20, i // 20), (1, 2, 3))
            tags = [colour] + (["corner"] if i % 3 == 0 else [])
            picture.save(folder / "pictures" / f"{i}.png")
            writer.writerow([f"pictures/{i}.png", colour, str(tags)])
    return folder / "shapes.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def printed():
    return []


@pytest.fixture(scope="module")
def run(table, tmp_path_factory, printed):
    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny_recipe(folder / "tiny.yaml", {"data": str(table)}, source=None, num_train_epochs=2,
                               validation_fraction=0.25, output_dir=str(folder / "run"))  # fmt: skip
    assert main(["train", str(recipe), "--columns", "answer=label", "tags=tags"]) == 0
    return folder / "run"


def test_rows_that_ask_nothing_are_classified(run, table, tmp_path, capsys):
    results, config = read_json(run / "results.json"), read_json(run / "config.json")
    assert config["architectures"] == ["UMEForSequenceClassification"]
    assert results["selected_by"]["score"] == results["scores"]["measured_by"] == "accuracy"
    assert results["scores"].keys() == {"measured_by", "accuracy", "balanced_accuracy", "macro_f1"}
    assert results["baselines"].keys() == {"most_common_class"}
    rows = read_predictions(run / "predictions.jsonl")
    assert measured(rows).scores()["accuracy"] == results["scores"]["accuracy"]
    out = tmp_path / "scores.json"
    argv = ["evaluate", str(run), "--data", str(table), "--columns", "answer=label", "--out", str(out)]
    capsys.readouterr()
    assert main([*argv, "--scores", "auroc", "macro_f1"]) == 0
    printed = capsys.readouterr().out
    for word in ("balanced accuracy", "macro F1", "AUROC"):
        assert word in printed
    for word in ("VQA", "question"):
        assert word not in printed
    assert 0 <= read_json(out)["scores"]["auroc"] <= 100
    assert main(["compare", str(run)]) == 0


def test_what_is_said_of_a_table_without_questions_names_none(table, tmp_path, capsys):
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", {"data": str(table)}, source=None, num_train_epochs=1)
    assert main(["train", str(recipe), "--columns", "answer=label", "--output_dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out.lower()
    assert "vqa" not in said
    assert "exact match" not in said
    assert "2 classes" in said


def test_several_labels_a_row_are_learned_all(table, tmp_path):
    run = ume.train(str(table), text=TEXT, vision=VISION, output_dir=tmp_path / "run", columns={"answer": "tags"},
                    problem_type="multi_label_classification", **QUICK)  # fmt: skip
    assert set(run.model.config.id2label.values()) == {"red", "green", "corner"}
    assert isinstance(run.model, UMEForSequenceClassification)
    assert run.scores.keys() == {"measured_by", "micro_f1", "macro_f1", "subset_accuracy"}
    assert all(isinstance(row["answer"], list) for row in read_predictions(run.folder / "predictions.jsonl"))
    assert np.isfinite(run.evaluate(str(table), columns={"answer": "tags"})["intervals"]["micro_f1"]).all()


def test_a_recipe_says_the_task_where_rows_have_questions(tmp_path):
    rows = [{"image": Image.new("RGB", (20, 20), (10 * i, 0, 0)), "question": "which?", "answer": "ab"[i % 2]}
            for i in range(12)]  # fmt: skip
    run = ume.train(rows, text=TEXT, vision=VISION, output_dir=tmp_path / "run", task="classification", **QUICK)
    assert type(run.model) is UMEForSequenceClassification
    assert "accuracy" in run.scores


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_cards_of_classes_speak_of_rows_and_show_what_is_confused(kind, run, table, tmp_path):
    pytest.importorskip("matplotlib")
    folder = run
    if kind == "labels":
        several = {"columns": {"answer": "tags"}, "problem_type": "multi_label_classification", **QUICK}
        folder = ume.train(str(table), text=TEXT, vision=VISION, output_dir=tmp_path / "run", **several).folder
    files = render_card(folder, About(license="mit"), repo="me/shapes")
    card = files["README.md"].decode().replace(str(tmp_path), "")
    assert "AutoModelForSequenceClassification" in card
    for word in ("VQA", "questions", "exact match", "text="):
        assert word not in card
    shown = {"classes": "## Confusion of the commonest classes", "labels": "| label |"}[kind]
    assert shown in card.replace("| label  ", "| label ").replace("### C", "## C")
    assert ("confusion.png" in files) == (kind == "classes")
