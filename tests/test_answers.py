"""The answer vocabulary: what it keeps, the targets it makes, what it says that it covers; and challenge files."""

from __future__ import annotations

import itertools
import json
import os
import stat

import numpy as np
import pytest
import torch

from metrics.vqa_accuracy.vqa_accuracy import answer_score
from training_ume.data.answers import AnswerVocabulary, Coverage
from training_ume.evaluation.challenge import write_challenge_results

ROWS = [
    ["Yes"] * 6 + ["no"] * 4,
    ["yes."] * 9 + ["maybe"],
    ["no"] * 10,
    ["two"] * 5 + ["2", "3", "3", "4", "5"],
    ["a cat", "cat", "dog", "dog", "bird", "cow", "pig", "hen", "fox", "elk"],  # cat and dog tie, cat is listed first
]


def answers_of(vocabulary: AnswerVocabulary) -> list[str]:
    return [vocabulary.id2label[i] for i in range(len(vocabulary))]


# Which answers


def test_answers_are_normalised_and_ordered_by_count_then_alphabet():
    assert answers_of(AnswerVocabulary.from_answers(ROWS)) == ["yes", "2", "cat", "no"]


def test_the_order_of_the_questions_does_not_change_the_vocabulary():
    for rows in itertools.permutations(ROWS):
        assert answers_of(AnswerVocabulary.from_answers(rows)) == ["yes", "2", "cat", "no"]


def test_top_k_keeps_the_most_frequent_answers():
    assert answers_of(AnswerVocabulary.from_answers(ROWS, top_k=2)) == ["yes", "2"]
    assert len(AnswerVocabulary.from_answers(ROWS, top_k=1000)) == 4


def test_min_count_counts_questions_and_not_single_answers():
    assert answers_of(AnswerVocabulary.from_answers(ROWS, min_count=2)) == ["yes"]
    assert answers_of(AnswerVocabulary.from_answers(ROWS * 9, min_count=9)) == ["yes", "2", "cat", "no"]


def test_answers_may_come_from_a_generator():
    assert len(AnswerVocabulary.from_answers(row for row in ROWS)) == 4


def test_listed_items_that_share_the_ten_slots_count_for_the_first():
    assert answers_of(AnswerVocabulary.from_answers([["knife", "fork"] * 5])) == ["knife"]


@pytest.mark.parametrize(
    ("rows", "limits", "message"),
    [
        (ROWS, {"top_k": 0}, "`top_k` must be at least 1, but it is 0"),
        (ROWS, {"min_count": -1}, "`min_count` must be at least 1"),
        (ROWS, {"top_k": 3, "min_count": 9}, "not both; got top_k=3 and min_count=9"),
        (ROWS, {"min_count": 3}, "most common one of 3 or more questions.*'yes'.*of 2"),
        ([], {"top_k": 3}, "no questions"),
        ([["yes"], []], {}, "question at index 1 has no answers"),
        (["yes"], {}, "index 0 has the string 'yes'"),
    ],
)
def test_limits_and_rows_that_make_no_sense_are_refused(rows, limits, message):
    with pytest.raises(ValueError, match=message):
        AnswerVocabulary.from_answers(rows, **limits)


def test_duplicate_answers_are_refused_also_when_only_their_spelling_differs():
    with pytest.raises(ValueError, match="ids 0 and 2 are 'yes' and 'yes'"):
        AnswerVocabulary(["yes", "no", "yes"])
    with pytest.raises(ValueError, match="'t shirt' and 'T-shirt', both 't shirt' when normalised"):
        AnswerVocabulary(["t shirt", "T-shirt"])


def test_no_answers_and_answers_that_are_no_strings_are_refused():
    with pytest.raises(ValueError, match="at least one answer"):
        AnswerVocabulary([])
    with pytest.raises(ValueError, match="id 1 is 2"):
        AnswerVocabulary(["yes", 2])


# id2label


def test_id2label_survives_json_and_any_order_of_keys():
    vocabulary = AnswerVocabulary.from_answers(ROWS)
    stored = json.loads(json.dumps(vocabulary.id2label))
    again = AnswerVocabulary.from_id2label(dict(reversed(stored.items())))
    assert again.id2label == vocabulary.id2label == {0: "yes", 1: "2", 2: "cat", 3: "no"}
    assert again.label2id == {"yes": 0, "2": 1, "cat": 2, "no": 3}


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({0: "yes", 2: "no"}, "0 to 1 without gaps, but 1 is missing"),
        ({1: "yes", 2: "no"}, "but 0 is missing"),
        ({0: "yes", "0": "no"}, "but 1 is missing"),
        ({"zero": "yes"}, "whole numbers"),
        ({}, "at least one answer"),
    ],
)
def test_id2label_with_gaps_is_refused(id2label, message):
    with pytest.raises(ValueError, match=message):
        AnswerVocabulary.from_id2label(id2label)


def test_labels_of_a_foreign_checkpoint_are_kept_and_found_by_their_normalised_form():
    vocabulary = AnswerVocabulary.from_id2label({0: "T-Shirt", 1: "Yes"})
    assert vocabulary.id2label == {0: "T-Shirt", 1: "Yes"}
    assert vocabulary.hard_targets([["t shirt"], ["yes"]]).tolist() == [0, 1]


# Targets


def test_soft_targets_are_a_third_for_each_annotator_up_to_one():
    vocabulary = AnswerVocabulary(["yes", "no", "2", "3"])
    targets = vocabulary.soft_targets([*ROWS, []])
    expected = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2 / 3], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float32))


def test_soft_targets_of_an_empty_batch_or_of_unknown_answers_are_zero():
    vocabulary = AnswerVocabulary(["yes", "no"])
    assert vocabulary.soft_targets([]).shape == (0, 2)
    assert vocabulary.soft_targets([["blue"]]).tolist() == [[0, 0]]


def test_hard_targets_are_the_most_common_answer_or_minus_100():
    vocabulary = AnswerVocabulary(["no", "yes", "2", "dog"])
    targets = vocabulary.hard_targets([*ROWS, []])
    assert targets.dtype == torch.int64
    # The fifth question's cat and dog tie: cat is listed first and is not in the vocabulary.
    assert targets.tolist() == [1, 1, 0, 2, -100, -100]


# Coverage


def test_coverage_counts_questions_and_answers_of_the_vocabulary():
    coverage = AnswerVocabulary(["yes", "no"]).coverage(ROWS)
    assert coverage.questions == pytest.approx(3 / 5)
    assert coverage.answers == pytest.approx((10 + 9 + 10 + 0 + 0) / 50)


def test_a_question_is_covered_by_its_most_common_answer_and_by_no_other():
    coverage = AnswerVocabulary(["no", "dog"]).coverage(ROWS)
    assert coverage.questions == pytest.approx(1 / 5)  # cat, listed first, is the one that ties with dog
    assert coverage.answers == pytest.approx((4 + 0 + 10 + 0 + 2) / 50)


def test_the_ceiling_is_the_mean_score_of_the_best_answer_for_each_question():
    odd = [["night_stand"] * 10, ["none", "0", *"abcdefgh"], ["the"] * 5 + ["a"] * 5, ["x"]]
    for answers in (["yes", "no"], ["dog", "3", "night stand", "0", ""], ["Yes", "night_stand", "fox"]):
        vocabulary = AnswerVocabulary(answers)
        best = [max(answer_score(answer, row) for answer in answers) for row in ROWS + odd]
        assert vocabulary.coverage(ROWS + odd).ceiling == pytest.approx(sum(best) / len(best))


def test_a_full_vocabulary_covers_every_question():
    coverage = AnswerVocabulary.from_answers(ROWS).coverage(ROWS)
    assert coverage.questions == 1
    assert coverage.ceiling == pytest.approx((1 + 1 + 1 + 1 + 0.6) / 5)


def test_coverage_is_printed_as_one_sentence():
    assert str(Coverage(questions=0.939, answers=0.90561, ceiling=0.9351)) == (
        "The answer vocabulary holds the most common answer of 93.90% of the questions and 90.56% of all given "
        "answers; no model that answers from it can score above 93.51 VQA accuracy here."
    )


@pytest.mark.parametrize(("rows", "message"), [([], "no questions"), ([["a"], []], "index 1 has no answers")])
def test_coverage_of_nothing_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        AnswerVocabulary(["yes"]).coverage(rows)


# Challenge files


def test_a_challenge_file_is_the_list_that_the_server_reads(tmp_path):
    path = write_challenge_results(
        tmp_path / "new" / "results.json", [np.int64(7), torch.tensor(3), 5], ["ja", "é", ""]
    )
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"question_id": 7, "answer": "ja"},
        {"question_id": 3, "answer": "é"},
        {"question_id": 5, "answer": ""},
    ]


def test_a_challenge_file_can_be_read_by_whoever_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_challenge_results(tmp_path / "results.json", [1], ["yes"])
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("ids", "answers", "message"),
    [
        ([4, 9, 4], ["a", "b", "c"], "Question 4 is answered twice, at index 0 and at index 2"),
        ([4, np.int64(4)], ["a", "b"], "Question 4 is answered twice"),
        ([1, 2], ["a"], "2 question ids and 1 answers"),
        ([], [], "no answers to write"),
        ([1, "2"], ["a", "b"], r"question_ids\[1\] is '2'"),
        ([1.0], ["a"], r"question_ids\[0\] is 1.0"),
        ([True], ["a"], r"question_ids\[0\] is True"),
        ([1], [None], "that of question 1 is None"),
    ],
)
def test_a_challenge_file_with_a_mistake_is_refused_and_the_old_one_stays(tmp_path, ids, answers, message):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        write_challenge_results(path, ids, answers)
    assert path.read_text() == "old"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_challenge_results(path, [1], ["yes"])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_answer_whose_normal_form_changes_again_is_not_lost():
    dotted = "." * 40 + "x"  # normalising takes 32 periods away at a time
    vocabulary = AnswerVocabulary.from_answers([[dotted] * 3, ["red"] * 3])
    assert vocabulary.hard_targets([[dotted] * 3]).tolist() == [vocabulary.label2id["x"]]
    assert vocabulary.soft_targets([[dotted] * 3]).sum() == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "needs a list of answers, but that at index 1 has a NoneType"),
        (5, "needs a list of answers, but that at index 1 has a int"),
        ("red", "needs a list of answers, but that at index 1 has the string 'red'"),
        ({"answer": "red"}, "needs a list of answers, but that at index 1 has a dict"),
        (["red", None], "the question at index 1 has None among them"),
        (["red", 5], "the question at index 1 has 5 among them"),
        ([["red"]], r"the question at index 1 has \['red'\] among them"),
    ],
)
def test_rows_that_are_no_lists_of_strings_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        AnswerVocabulary.from_answers([["red"], row])
