"""The metric equals the official VQA evaluation, says what is wrong with bad input, and loads without a network."""

from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest

from metrics.vqa_accuracy.vqa_accuracy import answer_score, most_common_answer, normalize_answer

FOLDER = Path(__file__).parent.parent / "metrics" / "vqa_accuracy"


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("evaluate")))


def ten(**counts: int) -> list[str]:
    """ten(cat=3, dog=7) -> three times "cat", then seven times "dog"."""
    return [answer for answer, n in counts.items() for _ in range(n)]


# Normalisation


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("Yes", "yes"),
        ("  tennis\nball\t", "tennis ball"),
        ("the cat on a mat", "cat on mat"),
        ("The", ""),
        ("None", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("red/white", "red white"),  # a mark between letters becomes a space
        ("red/ white", "red white"),
        ("red/white/ blue", "redwhite blue"),  # but once it touches a space it vanishes everywhere
        ("t-shirt, blue-ish", "t shirt blue ish"),  # each mark for itself
        ("1,000", "1000"),
        ("1,000-2", "10002"),  # a comma between digits removes the other marks as well
        ("3.", "3"),
        ("3.5", "3.5"),
        ("a.m.", "am"),
        (".5", ".5"),
        ("what?!", "what"),
        ("12:30", "12:30"),  # colons and apostrophes stay
        ("man's", "man's"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # two missing apostrophes are not in the table
        ("ow's'at", "'ow's'at"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),  # the official table has this one the wrong way round
        ("somebodyd", "somebodyd"),
        ("im", "im"),  # "Im" is in the official table, but text is lower case when it is looked up
        ("ive", "ive"),
        ("." * 40 + "x", "." * 8 + "x"),  # re.UNICODE stands where the count belongs: 32 periods go
    ],
)
def test_normalize_answer_follows_the_official_processing(raw, normal):
    assert normalize_answer(raw) == normal


def test_most_common_answer_is_counted_after_normalising_and_the_first_listed_wins_a_tie():
    assert most_common_answer(["dog", "A cat", "cat.", "dog", "bird"]) == "dog"
    assert most_common_answer(["A cat", "dog", "cat.", "dog", "bird"]) == "cat"


# Scores of one question


@pytest.mark.parametrize(("n", "score"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)])
def test_leaving_each_of_ten_annotators_out_gives_the_five_official_scores(n, score):
    assert 100 * answer_score("cat", ["cat"] * n + ["dog"] * (10 - n)) == pytest.approx(score)


def test_answers_that_are_all_alike_are_compared_as_they_are_spelled():
    assert answer_score("Yes", ["yes"] * 10) == 0
    assert answer_score("night stand", ["night_stand"] * 10) == 0
    assert answer_score("night_stand", ["night_stand"] * 10) == 1
    assert answer_score(" yes\n", ["yes", "yes "] * 5) == 1  # white space is cleaned first


def test_answers_that_become_alike_only_by_normalising_are_normalised():
    assert answer_score("YES!", ["yes"] * 9 + ["yes."]) == 1
    assert answer_score("night stand", ["night_stand"] * 9 + ["night stand"]) == 1


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        (["cat"], 0),  # nobody is left to agree when the only one is left out
        (["cat", "dog"], 1 / 6),
        (["cat"] * 3, 2 / 3),
        (["cat", "cat", "dog"], (1 / 3 + 1 / 3 + 2 / 3) / 3),
        (["cat"] * 4, 1),
        (["cat"] * 3 + ["dog"] * 2, (3 * 2 / 3 + 2) / 5),
        (["cat"] * 2 + ["dog"] * 11, (2 / 3 + 11 * 2 / 3) / 13),
    ],
)
def test_the_formula_holds_for_any_number_of_answers(answers, score):
    assert answer_score("cat", answers) == pytest.approx(score)


# The module


def test_compute_gives_percentages_and_only_the_keys_asked_for(metric):
    predictions, references = ["yes", "Two", "dog"], [ten(yes=10), ["2"] * 2 + ["3"] * 8, ten(cat=6, dog=4)]
    assert metric.compute(predictions=predictions, references=references) == {
        "vqa_accuracy": pytest.approx(260 / 3),
        "exact_match": pytest.approx(100 / 3),
    }
    full = metric.compute(
        predictions=predictions,
        references=references,
        question_types=["is it", "how many", "what"],
        answer_types=["yes/no", "other", "other"],
        per_question=True,
    )
    assert full == {
        "vqa_accuracy": pytest.approx(260 / 3),
        "exact_match": pytest.approx(100 / 3),
        "per_answer_type": {"yes/no": 100, "other": pytest.approx(80)},
        "per_question_type": {"is it": 100, "how many": pytest.approx(60), "what": 100},
        "per_question": pytest.approx([100, 60, 100]),
    }


def test_exact_match_normalises_both_sides_even_where_vqa_accuracy_does_not(metric):
    result = metric.compute(predictions=["The Cat."], references=[ten(cat=10)])
    assert result == {"vqa_accuracy": 0, "exact_match": 100}


def test_exact_match_takes_the_first_listed_of_equally_common_answers(metric):
    references = [["knife", "fork"] * 5] * 2
    assert metric.compute(predictions=["knife", "fork"], references=references)["exact_match"] == 50


def test_ragged_references_are_scored_and_few_answers_are_warned_of(metric):
    with pytest.warns(UserWarning, match="1 of 2 questions have fewer than four answers"):
        result = metric.compute(
            predictions=["x", "y"], references=[["x"], ["y", "y", "y", "y", "z"]], per_question=True
        )
    assert result["per_question"] == pytest.approx([0, 100])
    assert result["exact_match"] == 100


def test_batches_added_one_by_one_score_like_one_call(metric):
    metric.add_batch(predictions=["yes"], references=[ten(yes=10)])
    metric.add(prediction="dog", reference=ten(cat=8, dog=2))
    result = metric.compute(answer_types=["yes/no", "other"])
    assert result["vqa_accuracy"] == pytest.approx(80)
    assert result["per_answer_type"] == {"yes/no": 100, "other": pytest.approx(60)}


def test_what_was_added_before_is_scored_with_what_compute_is_given(metric):
    metric.add_batch(predictions=["yes"], references=[ten(yes=10)])
    result = metric.compute(predictions=["dog"], references=[ten(cat=8, dog=2)], per_question=True)
    assert result["per_question"] == pytest.approx([100, 60])
    assert metric.compute(predictions=["no"], references=[ten(yes=10)]) == {"vqa_accuracy": 0, "exact_match": 0}


def test_arrays_and_dataset_columns_are_scored_like_lists(metric):
    predictions, references = ["yes", "dog"], [ten(yes=10), ten(cat=8, dog=2)]
    expected = metric.compute(predictions=predictions, references=references)
    dataset = datasets.Dataset.from_dict({"prediction": predictions, "answers": references})
    assert metric.compute(predictions=dataset["prediction"], references=dataset["answers"]) == expected
    assert metric.compute(predictions=np.array(predictions), references=np.array(references)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": ["a", "b"], "references": [["a"]]}, "2 predictions and 1 references.*index 1"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": ["a", "b"], "references": [["a"], []]}, r"references\[1\] is empty"),
        ({"predictions": ["a", 2], "references": [["a"], ["b"]]}, r"predictions\[1\] is 2 of type int"),
        ({"predictions": ["a", None], "references": [["a"], ["b"]]}, r"predictions\[1\] is None"),
        ({"predictions": ["a"], "references": [["a", 5]]}, r"references\[0\]\[1\] is 5 of type int"),
        ({"predictions": ["a"], "references": ["abc"]}, r"references\[0\] is 'abc'"),
        ({"predictions": "abc", "references": [["a"]] * 3}, "`predictions` must be a list"),
        ({"predictions": ["a"], "references": None}, "`references` must be a list"),
        (
            {"predictions": ["a"], "references": [["a"]], "answer_types": ["x", "y"]},
            "1 predictions and 2 answer_types.*index 1",
        ),
        (
            {"predictions": ["a"], "references": [["a"]], "question_types": [None]},
            r"question_types\[0\] is None",
        ),
    ],
)
def test_bad_input_is_refused_by_index_and_the_next_call_works(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**arguments)
    assert metric.compute(predictions=["yes"], references=[ten(yes=10)])["vqa_accuracy"] == 100


def test_wrong_types_after_added_batches_are_refused_and_the_next_call_works(metric):
    metric.add_batch(predictions=["yes"], references=[ten(yes=10)])
    with pytest.raises(ValueError, match="1 predictions and 2 answer_types"):
        metric.compute(answer_types=["yes/no", "other"])
    assert metric.compute(predictions=["no"], references=[ten(yes=10)])["vqa_accuracy"] == 0


def test_the_module_loads_by_its_relative_path_without_a_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(FOLDER.parent.parent)
    metric = evaluate.load("metrics/vqa_accuracy", cache_dir=str(tmp_path))
    assert metric.compute(predictions=["yes"], references=[["yes"] * 10])["vqa_accuracy"] == 100


def test_the_card_has_the_front_matter_of_a_space():
    import yaml

    _, front, body = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["sdk"] == "gradio"
    assert (FOLDER / card["app_file"]).is_file()
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert body.lstrip().startswith("# Metric card")


def test_the_example_of_the_card_gives_what_the_card_says(metric):
    body = (FOLDER / "README.md").read_text(encoding="utf-8")
    call, result = (block.split("```")[0] for block in body.split("```python\n")[1:3])
    call = call.split("metric.compute(")[1].strip().removesuffix(")")
    given = eval(f"dict({call})")
    said = eval(result)
    got = metric.compute(**given)
    assert list(got) == [key for key in got if key in said]
    assert got["per_question"] == pytest.approx(said.pop("per_question"))
    assert got["per_answer_type"] == pytest.approx(said.pop("per_answer_type"))
    assert {key: got[key] for key in said} == pytest.approx(said)


@pytest.mark.skipif(not os.environ.get("UME_SHARED"), reason="UME_SHARED does not point to the folder with real data")
def test_all_real_questions_score_as_the_official_code_says(metric):
    folder = Path(os.environ["UME_SHARED"]) / "data" / "vqa_v2_60k_text"
    with gzip.open(folder / "train_annotations.json.gz", "rt") as file:
        annotations = {row["question_id"]: row for row in json.load(file)["annotations"]}
    with gzip.open(folder / "train_official_scores.json.gz", "rt") as file:
        official = json.load(file)
    rows = [annotations[result["question_id"]] for result in official["results"]]
    result = metric.compute(
        predictions=[result["answer"] for result in official["results"]],
        references=[[answer["answer"] for answer in row["answers"]] for row in rows],
        question_types=[row["question_type"] for row in rows],
        answer_types=[row["answer_type"] for row in rows],
        per_question=True,
    )
    wrong = [
        (said["question_id"], got, said["accuracy"])
        for got, said in zip(result["per_question"], official["results"], strict=True)
        if round(got, 2) != said["accuracy"]
    ]
    assert len(rows) > 0
    assert wrong == []
    assert round(result["vqa_accuracy"], 2) == official["overall"]
    for key in ("per_answer_type", "per_question_type"):
        assert {kind: round(score, 2) for kind, score in result[key].items()} == official[key]


@pytest.mark.parametrize("references", [[{"answer": "yes"}], {"0": ["yes"]}])
def test_dicts_are_no_lists_of_answers(metric, references):
    with pytest.raises(ValueError, match="list of answers"):
        metric.compute(predictions=["yes"], references=references)
