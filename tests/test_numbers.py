"""Numbers from a table: read, trained on, scored, asked for and compared, as a user types it."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from test_runs import QUICK, TEXT, VISION
from vqa_files import write_tiny_recipe

import ume
from configuration_ume.parsing import parse_recipe
from configuration_ume.scores import in_words, lower_is_better, quantity, written
from training_ume.commands import main
from training_ume.data.collator import VQACollator
from training_ume.data.json_entries import VQADataError
from training_ume.data.numbers import NumberTargets, count_numbers, numbers_in, parse_number
from training_ume.data.profile import profile
from training_ume.data.tables.load import load_rows
from training_ume.hub.card import render_card
from training_ume.hub.read import About
from training_ume.records.files import read_json
from training_ume.records.number_scores import NumberScores
from training_ume.records.predictions import number_rows, numbers_of, read_predictions, write_predictions


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234.5", 1234.5), (" -3 ", -3.0), ("1e5", 1e5), (".5", 0.5), ("12", 12.0), ("1,234,567", 1234567.0)],
)
def test_numbers_are_read_as_people_write_them(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("12 %", "without its unit"),
        ("$5", "without its unit"),
        ("nan", "leave the cell empty"),
        ("N/A", "leave the cell empty"),
        ("inf", "a finite number"),
        ("1e999", "write it as 1234.5"),
        ("12,5", "a point before decimals"),
        ("1,2345", "groups of three"),
        ("1.2.3", "write it as"),
        ("red", "write it as"),
        ("true", "write it as"),
        ("٣", "write it as"),
    ],
)
def test_what_is_no_number_is_told_with_what_to_write(text, hint):
    with pytest.raises(ValueError, match=f"is no number: .*{hint}"):
        parse_number(text)


def test_several_people_are_one_number_and_several_columns_several_numbers():
    assert numbers_in([["1", "2", ""], [], [""]], 1)[0, 0] == 1.5
    assert np.isnan(numbers_in([["1"], [], [""]], 1)[1:]).all()
    np.testing.assert_array_equal(numbers_in([["1", ""], ["2", "3"]], 2), [[1, np.nan], [2, 3]])
    with pytest.raises(ValueError, match="question_id 7 has 3 answers, and there are 2 numbers"):
        numbers_in([["1", "2", "3"]], 2, [7])


@pytest.mark.parametrize("transform", [None, "log"])
def test_labels_are_standardised_by_the_rows_that_say_them(transform):
    targets = NumberTargets.from_answers([["10", "1"], ["1000", ""], ["", "3"]], ["price", "rooms"], transform)
    learned = np.log if transform else (lambda x: x)
    assert targets.mean == pytest.approx([learned(np.array([10, 1000])).mean(), learned(np.array([1, 3])).mean()])
    assert targets.std == pytest.approx([learned(np.array([10, 1000])).std(), learned(np.array([1, 3])).std()])
    assert targets.usual == pytest.approx([100.0, math.sqrt(3)] if transform else [505.0, 2.0])
    assert torch.isnan(targets.targets([["", "5"]])).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("answers", "transform", "said"),
    [
        ([["5"], ["5"]], None, "'price' is 5 in all 2 training rows that say it: there is nothing to learn"),
        ([[""], []], None, "No training row says a number for 'price'"),
        ([["5"], ["0"]], "log", "'price' is 0 in a training row, which has no logarithm"),
    ],
)
def test_labels_that_teach_nothing_are_told(answers, transform, said):
    with pytest.raises(ValueError, match=said):
        NumberTargets.from_answers(answers, ["price"], transform)


# -------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_the_formulas():
    known, given = np.array([1.0, 2.0, 3.0, 6.0, np.nan]), np.array([1.5, 2.0, 2.0, 5.0, 9.0])
    scores = NumberScores(given, known, ["price"], logs=True).scores()
    assert scores["r2"] == pytest.approx(1 - 2.25 / 14)
    assert scores["mae"] == pytest.approx(2.5 / 4)
    assert scores["rmse"] == pytest.approx(math.sqrt(2.25 / 4))
    assert scores["pearson"] == pytest.approx(np.corrcoef(given[:4], known[:4])[0, 1])
    assert scores["spearman"] == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1])
    y, p = np.log(known[:4]), np.log(given[:4])
    assert scores["r2_log"] == pytest.approx(1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_several_numbers_have_the_mean_of_their_scores_and_each_its_own():
    known = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]])
    scores = NumberScores(known + np.array([0.0, 3.0]), known, ["a", "b"]).scores()
    assert scores["per_number"]["a"]["r2"] == 1
    assert scores["mae"] == pytest.approx(1.5)
    assert scores["r2"] == pytest.approx((1 + 1 - 27 / 200) / 2)


def test_a_single_row_has_an_error_and_no_share_of_variance():
    scores = NumberScores(np.array([2.0]), np.array([3.0]), ["price"]).scores()
    assert (scores["r2"], scores["pearson"], scores["mae"]) == (None, None, 1.0)


def test_intervals_hold_the_score_and_narrow_with_the_rows():
    generator = np.random.default_rng(0)
    widths = []
    for rows in (30, 3000):
        known = generator.normal(size=rows)
        measured = NumberScores(known + generator.normal(size=rows), known, ["a"])
        low, high = measured.interval("mae")
        assert low < measured.scores()["mae"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [(250_000.4, "250,000"), (12.3456, "12.35"), (-0.00123, "-0.001230"), (0, "0"), (2e-7, "2.000e-07")],
)
def test_quantities_keep_four_digits(value, shown):
    assert quantity(value) == shown


def test_scores_are_shown_as_what_they_are():
    assert written("vqa_accuracy", 51.234) == "51.23"
    assert in_words("r2", 0.51234) == "0.512 R²"
    assert in_words("exact_match", 50.0) == "50.00 % exact match"
    assert [lower_is_better(name) for name in ("loss", "mae", "test_loss", "mae_price", "r2")] == [True] * 4 + [False]


def test_predictions_of_numbers_are_read_as_they_were_written(tmp_path):
    rows = Dataset.from_dict(
        {name: [["1"], ["2"]] if name == "answers" else ["a", "b"] for name in
         ("question_id", "image_id", "image", "question", "question_type", "answer_type", "answers")}
    )  # fmt: skip
    made = number_rows([[1.5, 7.0], [2.5, 8.0]], np.array([[1.0, np.nan], [2.0, 8.0]]), ["x", "y"], rows)
    write_predictions(tmp_path / "p.jsonl", made)
    read = read_predictions(tmp_path / "p.jsonl")
    assert read == made
    assert (read[0]["expected"], read[0]["answer"]) == ({"x": 1.0, "y": None}, {"x": 1.5, "y": 7.0})
    assert numbers_of(read, logs=False).scores()["per_number"]["y"]["mae"] == 0


# -------------------------------------------------------------------------------------------------------------- tables


def write_houses(folder: Path, houses: int = 24) -> Path:
    """Pictures whose brightness is the price, and a second number."""
    (folder / "pictures").mkdir(parents=True)
    with (folder / "houses.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "question", "price", "rent"])
        for i in range(houses):
            Image.new("RGB", (20, 20), (10 * i, 10 * i, 10 * i)).save(folder / "pictures" / f"{i}.png")
            writer.writerow([f"pictures/{i}.png", "how much?", f"{1000 * (i + 1):,}", "" if i % 5 == 0 else i + 1])
    return folder / "houses.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_houses(tmp_path_factory.mktemp("houses"))


def test_each_cell_is_read_as_a_number_and_a_wrong_one_is_named(tmp_path):
    table = write_houses(tmp_path)
    rows = load_rows(str(table), columns={"answer": "price"}, numbers=True)
    assert (rows["answers"][:2], count_numbers(rows)) == ([["1,000"], ["2,000"]], 1)
    several = load_rows(str(table), columns={"answer": ["price", "rent"]}, numbers=True)
    assert (several["answers"][:2], count_numbers(several)) == ([["1,000", ""], ["2,000", "2"]], 2)
    assert count_numbers(several.select([1])) == 2
    table.write_text(table.read_text().replace('"3,000"', "12 %"))
    with pytest.raises(VQADataError, match=r"'price': '12 %' is no number: write the number alone, without its unit"):
        load_rows(str(table), columns={"answer": "price"}, numbers=True)


def test_labels_of_a_batch_are_numbers_and_other_targets_are_refused(table):
    rows = load_rows(str(table), columns={"answer": ["price", "rent"]}, numbers=True)
    targets = NumberTargets.from_answers(rows["answers"][:], ["price", "rent"])
    collator = VQACollator(None, targets, problem_type="regression")
    torch.testing.assert_close(
        collator._labels([rows[0], rows[1]]), torch.tensor([[1000.0, math.nan], [2000.0, 2.0]]), equal_nan=True
    )
    with pytest.raises(ValueError, match="makes labels of answers, and the vocabulary is NumberTargets"):
        VQACollator(None, targets)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny_recipe(folder / "tiny.yaml", {"data": str(table)}, source=None, num_train_epochs=2,
                               validation_fraction=0.25, output_dir=str(folder / "run"))  # fmt: skip
    argv = ["train", str(recipe), "--columns", "answer=price", "--problem_type", "regression"]
    assert main([*argv, "--label_transform", "log", "--regression_loss", "huber"]) == 0
    return folder / "run"


def test_a_table_of_numbers_is_trained_on_as_it_is(run):
    results = read_json(run / "results.json")
    config = read_json(run / "config.json")
    assert config["id2label"] == {"0": "price"}
    assert config["label_transform"] == "log"
    trained = np.log(1000.0 * np.arange(1, 25))
    assert trained.min() < config["label_mean"][0] < trained.max()
    assert results["selected_by"]["score"] == "r2_log"
    assert {"r2", "mae", "rmse", "pearson", "spearman", "r2_log"} <= results["scores"].keys()
    assert results["baselines"].keys() == {"training_mean", "question_lookup"}
    assert results["data"]["numbers"]["train"]["price"]["rows"] == 18
    assert "coverage" not in results["data"]
    rows = read_predictions(run / "predictions.jsonl")
    assert numbers_of(rows, logs=True).scores() == {
        name: pytest.approx(value) for name, value in results["scores"].items() if name != "measured_by"
    }


def test_a_model_of_numbers_is_evaluated_asked_and_compared_from_the_command_line(run, table, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "scores.json"
    argv = ["evaluate", str(run), "--data", str(table), "--columns", "answer=price", "--out", str(out)]
    assert main([*argv, "--by", "rent"]) == 0
    printed = capsys.readouterr().out
    assert "R²" in printed
    assert "VQA accuracy" not in printed
    assert read_json(out)["intervals"]["mae"][0] < read_json(out)["scores"]["mae"]
    assert main(["evaluate", str(run), "--part", "validation"]) == 0
    assert main(["ask", str(run), str(table.parent / "pictures" / "3.png"), "how much?"]) == 0
    assert "  price: " in capsys.readouterr().out
    assert main(["ask", str(run), str(table.parent / "pictures" / "3.png"), "how much?", "--choices", "1", "2"]) == 2
    assert "choices is about answers from a list, and this model gives numbers" in capsys.readouterr().err
    answers = tmp_path / "answers.csv"
    assert main(["ask", str(run), "--data", str(table), "--out", str(answers)]) == 0
    with answers.open(encoding="utf-8", newline="") as file:
        asked = list(csv.DictReader(file))
    assert len(asked) == 24
    assert float(asked[0]["price"]) > 0
    assert asked[3]["given_price"] in ("4,000", "4000")
    assert main(["compare", str(run), str(run)]) == 0
    assert "R² of the logarithms" in capsys.readouterr().out


def test_several_numbers_are_trained_from_python(table, tmp_path):
    run = ume.train(str(table), text=TEXT, vision=VISION, output_dir=tmp_path / "run", problem_type="regression",
                    columns={"answer": ["price", "rent"]}, **QUICK)  # fmt: skip
    assert run.model.config.id2label == {0: "price", 1: "rent"}
    assert run.scores["per_number"].keys() == {"price", "rent"}
    assert repr(run).startswith("Run(")
    asked = run.ask(table.parent / "pictures" / "3.png", "how much?")
    assert [answer["name"] for answer in asked] == ["price", "rent"]
    rows = [{"image": str(table.parent / "pictures" / f"{i}.png"), "question": "how much?", "answer": 5 * i}
            for i in range(1, 13)]  # fmt: skip
    of_rows = ume.train(rows, text=TEXT, vision=VISION, output_dir=tmp_path / "rows", problem_type="regression",
                        metric_for_best_model="mae", **QUICK)  # fmt: skip
    assert of_rows.model.config.id2label == {0: "answer"}
    assert of_rows.evaluate(rows)["scores"]["mae"] > 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--class_weights", "balanced"], "class_weights weighs answers by how rare they are"),
        (["--rubi_weight", "1"], "rubi_weight weighs an answer's probability"),
        (["--top_k_answers", "5"], "top_k_answers keeps the most frequent answers"),
        (["--soft_targets", "true"], "soft_targets is for a softmax, and problem_type=regression has numbers"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor is for a softmax"),
        (["--answer_scores", "official"], "answer_scores is about answers that some"),
        (
            ["--problem_type", "single_label_classification", "--label_transform", "log"],
            "label_transform is about num",
        ),
    ],
)
def test_fields_about_answers_from_a_list_are_refused(tmp_path, argv, said):
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", {"data": "x.csv"}, source=None)
    with pytest.raises(ValueError, match=said):
        parse_recipe([str(recipe), "--problem_type", "regression", *argv])


def test_the_card_of_numbers_tells_them_in_their_unit(run):
    pytest.importorskip("matplotlib")
    files = render_card(run, About(license="mit"))
    card = files["README.md"].decode()
    claim = card.split("# ume-tiny")[1].split("##")[0]
    assert re.search(
        r"\*\*-?\d\.\d{3} R² of the logarithms\*\*.*, mean absolute error [\d,]+ on the 6 validation", claim
    )
    assert "mean of the training rows gives" in claim or "looking the question up" in claim
    assert "linear layer gives `price` (its logarithm is learned)" in card
    assert "![What is predicted against what is true" in card
    for word in ("VQA accuracy", "exact match", "coverage"):
        assert word not in card
    assert {"predicted.png", "learning_curve.png"} <= files.keys()


def test_numbers_are_proposed_where_the_answers_are_many_and_numbers(table, tmp_path):
    found = {one["field"]: one["value"] for one in profile(str(table), columns={"answer": "price"})["advice"]}
    assert found["problem_type"] == "regression"
    assert "min_answer_count" not in found
    words = tmp_path / "words.csv"
    words.write_text("question,answer\n" + "".join(f"which?,{'red' if i % 2 else i}\n" for i in range(60)))
    assert "problem_type" not in {one["field"] for one in profile(str(words))["advice"]}
