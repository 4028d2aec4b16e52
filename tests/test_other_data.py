"""Data that are not VQA v2: one annotator, capitals, signs, copies of pictures, ids as strings, questions left out."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from transformers import TrainerState
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import parse_recipe
from metrics.vqa_accuracy.vqa_accuracy import answer_form, answer_score, is_most_common, normalize_answer
from training_ume.commands import main
from training_ume.data.answers import AnswerVocabulary, several_spellings
from training_ume.data.json_entries import VQADataError
from training_ume.data.load import load_vqa, question_ids
from training_ume.data.pictures import copies, shared_pictures
from training_ume.data.splits import split_by_image
from training_ume.data.tables.load import load_rows
from training_ume.evaluation.challenge import write_challenge_results
from training_ume.evaluation.scores import fitting_score, score
from training_ume.training.prepare import describe_data, load_data
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import UMETrainer

# Answers that the official processing empties or makes one.
DIFFERENT = [
    ["A", "B", "C", "D"],
    ["-5", "5", "+5", "- 5", "5%", "$5", ".5", "5!", '5"', "5'", "<5", "≤ 5", "< 5 mm"],
    ["A+", "A-", "O+", "AB-", "A", "(+)", "(-)"],
    ["+", "-", "?", "!", "+/-", "±", "–"],
    ["1/2", "1 2", "12", "1,2", "1.2", "1-2", "1 - 2", "1;2"],
    ["C", "C#", "C++"],
    ["3.5", "35", "3,5", "3 5"],
    ["vitamin A", "vitamin", "vitamin B"],
    ["A, B", "A,B", "B", "A or B", "A and B", "A/B", "AB"],
    ["ER+/PR-", "ER-/PR+"],
    ["CD4+ cells", "CD4- cells", "CD4 cells"],
    ["p<0.05", "p>0.05", "p=0.05", "p 0.05"],
    ["[0,1)", "(0,1]"],
    ["a an the", "the the", "a"],
    ["是", "否", "نعم", "لا", "👍", "👎", "👍🏽"],
]
SAME = [
    ("KRAS", "Kras"),
    ("10,000", "10000"),
    ("The cat.", "a cat"),
    ("two", "2"),
    ("t-shirt", "T shirt"),
    ("red - white", "red white"),
    ("A.", "a"),
    ("caf\u00e9", "cafe\u0301"),
    ("no", " No! "),
    ('"5"', "5"),
    ("dont", "don't"),
]


# --------------------------------------------------------------------------------------------------- which answers


@pytest.mark.parametrize("answers", DIFFERENT, ids=lambda answers: answers[0])
@pytest.mark.parametrize("annotators", [1, 10])
def test_different_answers_are_different_classes_everywhere(answers, annotators):
    rows = [[answer] * annotators for answer in answers]
    vocabulary = AnswerVocabulary.from_answers(rows)
    again = AnswerVocabulary.from_id2label(json.loads(json.dumps(vocabulary.id2label)))
    ids = [vocabulary.find(answer) for answer in answers]
    assert sorted(ids) == list(range(len(answers)))
    assert all(label.strip() for label in vocabulary.id2label.values())
    assert again.hard_targets(rows).tolist() == vocabulary.hard_targets(rows).tolist() == ids
    assert torch.equal(again.soft_targets(rows), torch.eye(len(answers))[ids])
    for i, row in zip(ids, rows, strict=True):  # what the model says is right for its own question and no other
        assert [is_most_common(vocabulary.id2label[i], other) for other in rows] == [other is row for other in rows]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_answer_are_one_class(one, other):
    vocabulary = AnswerVocabulary.from_answers([[one], [other]])
    assert len(vocabulary) == 1
    assert is_most_common(one, [other])


def test_a_form_is_its_own_form_and_the_official_one_of_ordinary_answers():
    for answer in {word for group in [*DIFFERENT, *SAME] for word in group}:
        assert answer_form(answer_form(answer)) == answer_form(answer) != ""
    for answer in ("Yes", "the cat on a mat", "red/white", "t-shirt, blue-ish", "1,000", "12:30", "dont", "a 12 inch"):
        assert answer_form(answer) == normalize_answer(answer)


def test_answers_without_a_visible_character_are_no_class():
    blank = ["", " ", "\u200b", "\xa0\t"]
    vocabulary = AnswerVocabulary.from_answers([["yes"], *([answer] for answer in blank)])
    assert vocabulary.id2label == {0: "yes"}
    assert vocabulary.hard_targets([[answer] for answer in blank]).tolist() == [-100] * len(blank)
    with pytest.raises(ValueError, match="answers of all 4 questions are empty"):
        AnswerVocabulary.from_answers([[answer] for answer in blank])


def test_labels_keep_capitals_where_each_question_has_one_voice_and_else_are_the_forms():
    assert AnswerVocabulary.from_answers([["Yes"] * 10, ["yes"], ["Yes"], ["red."]]).id2label == {0: "Yes", 1: "red"}
    assert AnswerVocabulary.from_answers([["Yes"] * 9 + ["no"]]).id2label == {0: "yes"}
    assert AnswerVocabulary.from_answers([["A+"] * 9 + ["A-"], ["A-"] * 9 + ["B"]]).id2label == {0: "a+", 1: "a-"}


def test_of_many_spellings_three_are_shown():
    rows = [[word.upper(), word] for word in ("aa", "bb", "cc", "dd")]
    count, examples = several_spellings(rows)
    assert (count, len(examples)) == (4, 3)


def test_vocabularies_with_the_empty_answer_that_older_versions_made_go_on_working():
    vocabulary = AnswerVocabulary.from_id2label({0: "yes", 1: "", 2: "?!x"})
    assert vocabulary.hard_targets([["A"], ["the"], [""], ["?"], ["yes"], ["-5"]]).tolist() == [1, 1, 1, 1, 0, -100]
    assert vocabulary.soft_targets([["a", "the", "?"] + ["x"] * 7])[0, 1] == 1  # counted together


def test_what_was_taken_as_one_answer_is_told_the_evenest_first():
    count, examples = several_spellings([["Yes"], ["yes"], *[["KRAS"]] * 3, *[["Kras"]] * 2, ["no"]])
    assert (count, examples[0]) == (2, ["KRAS", "Kras"])


# ------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("given", "annotators", "thirds", "official"),
    [
        (1, 1, 1, 1),
        (1, 2, 1 / 2, 1 / 2),
        (2, 2, 1, 1),
        (1, 3, 1 / 3, 1 / 3),
        (2, 3, 2 / 3, 2 / 3),
        (3, 3, 1, 1),
        (2, 5, 2 / 3, 8 / 15),
        (5, 5, 1, 1),
        *((n, 10, min(n / 3, 1), official) for n, official in enumerate((0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1), 1)),
    ],
)
def test_a_target_is_the_score_of_the_answer_and_unanimity_is_always_1(given, annotators, thirds, official):
    row = ["cat"] * given + [f"other {i}" for i in range(annotators - given)]
    vocabulary = AnswerVocabulary(["dog", "cat"])
    assert vocabulary.soft_targets([row])[0].tolist() == pytest.approx([0, thirds])
    assert vocabulary.soft_targets([row], "official")[0].tolist() == pytest.approx([0, official])
    if annotators > 3:
        assert official == pytest.approx(answer_score("cat", row))


def test_scores_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="scores='half' must be one of thirds, official"):
        AnswerVocabulary(["cat"]).soft_targets([["cat"]], "half")


# ------------------------------------------------------------------------------------------------ the score that fits


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([["yes"] * 10, ["no"] * 9 + ["yes"]], "vqa_accuracy"),
        ([["yes"]] * 5, "exact_match"),
        ([["yes", "no"]] * 5, "exact_match"),
        ([["yes"] * 3] * 5, "exact_match"),
        ([["yes"] * 4] * 5, "vqa_accuracy"),
        ([["Yes"] * 10] * 5, "exact_match"),
        ([["night_stand"] * 10] * 5, "exact_match"),
        ([["yes"] * 10] * 999 + [["Yes"] * 10], "vqa_accuracy"),
        ([["yes"] * 10] * 9 + [["Yes"] * 10], "exact_match"),
        ([], "vqa_accuracy"),
    ],
)
def test_vqa_accuracy_fits_unless_it_cannot_credit_right_answers(rows, name):
    fits = fitting_score(rows)
    assert fits.name == name
    assert fits.why


def test_scores_by_type_are_of_the_score_that_fits_and_it_stands_first():
    rows, kinds = [["Yes"] * 10, ["No"], ["No"]], ["a", "a", "b"]
    scores = score(["yes", "yes", "no"], rows, kinds, ["", "", ""])
    assert scores["measured_by"] == next(name for name in scores if name != "measured_by") == "exact_match"
    assert scores["per_answer_type"] == {"a": 50, "b": 100}
    assert "per_question_type" not in scores
    of_ten = score(["yes", "yes"], [["yes"] * 10, ["no"] * 10], ["a", "a"])
    assert (of_ten["measured_by"], of_ten["per_answer_type"]) == ("vqa_accuracy", {"a": 50})


class TieTrainer(UMETrainer):
    """A trainer of which only the choice among evaluations is asked."""

    def __init__(self, folder):
        recipe = parse_recipe([str(folder / "tiny.yaml"), "--metric_for_best_model", "exact_match"])
        self.args, self.state, self.eval_dataset = recipe.training, TrainerState(), None

    def evaluated(self, step: int, **scores) -> bool:
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.state.log_history.append({"step": step, **metrics})
        self.state.global_step = step
        return self._determine_best_metric(metrics, trial=None)


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0, 0.9), (0, 0.5), (0, 0.7)], 2),  # a score that never changes does not choose the first
        ([(10, 0.9), (50, 0.9), (50, 0.8), (40, 0.1)], 3),
        ([(50, 0.5), (50, 0.5), (50, 0.6)], 1),  # nothing speaks for more training
        ([(50, 0.5), (60, 0.9), (60, None)], 2),
    ],
)
def test_of_equal_scores_the_lower_loss_chooses_and_then_the_earlier(tmp_path, evaluations, best):
    write_tiny_recipe(tmp_path / "tiny.yaml", {"train_questions": "q", "train_annotations": "a", "train_images": "i"})
    trainer = TieTrainer(tmp_path)
    for step, (exact, loss) in enumerate(evaluations, 1):
        trainer.evaluated(step, exact_match=exact, **({} if loss is None else {"loss": loss}))
    assert trainer.state.best_global_step == best


def respell(path: str, spell, count: int) -> None:
    """Writes other answers into an annotations file."""
    content = json.loads(Path(path).read_text())
    for entry in content["annotations"]:
        entry["answers"] = [{"answer": spell(entry["answers"][0]["answer"])}] * count
    Path(path).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def one_voice(tmp_path_factory):
    """A run on data of one annotator: its recipe, its results and what it printed."""
    folder = tmp_path_factory.mktemp("one_voice")
    files = write_vqa_files(folder / "data")
    respell(files["train_annotations"], str.capitalize, 1)
    fields = {"num_train_epochs": 2, "problem_type": "multi_label_classification"}
    recipe = write_tiny_recipe(folder / "tiny.yaml", files, **fields)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        results = train_and_evaluate(parse_recipe([str(recipe)]))
    return recipe, results, printed.getvalue()


def test_a_run_on_one_annotator_is_chosen_scored_and_reported_by_exact_match(one_voice):
    recipe, results, printed = one_voice
    assert results["selected_by"]["score"] == results["scores"]["measured_by"] == "exact_match"
    assert "fewer than 4 answers" in results["selected_by"]["why"]
    assert set(results["scores"]["per_answer_type"]) == {"other", "yes/no"}
    assert all("exact_match_other" in epoch for epoch in results["epochs"])
    assert "The score that fits them is exact match" in printed
    assert "exact match  VQA accuracy" in printed
    config = json.loads((recipe.parent / "run" / "config.json").read_text())
    assert {"Red", "Yes", "No"} < set(config["id2label"].values())


def test_going_on_with_a_checkpoint_of_other_answers_is_refused(one_voice, tmp_path):
    recipe, _, _ = one_voice
    shutil.copytree(recipe.parent / "run", tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        config = json.loads((checkpoint / "config.json").read_text())
        answers = list(config["id2label"].values())
        config["id2label"] = dict(zip(config["id2label"], reversed(answers), strict=True))
        (checkpoint / "config.json").write_text(json.dumps(config))
    options = ["--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "true"]
    with pytest.raises(ValueError, match="was trained with other answers"):
        train_and_evaluate(parse_recipe([str(recipe), *options]))


# ------------------------------------------------------------------------------------------------------ pictures


def colours(folder: Path, names: dict[str, int]) -> dict[str, str]:
    """Writes an image a name, its colour told by the number: {name: path}."""
    folder.mkdir(exist_ok=True)
    for name, number in names.items():
        Image.new("RGB", (20, 20), (number * 20, 0, 50)).save(folder / name)
    return {name: str(folder / name) for name in names}


def table(paths: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image_id": [str(i) for i in range(len(paths))], "image": paths})


def test_copies_are_known_by_their_bytes_under_any_name_folder_or_link(tmp_path):
    paths = colours(tmp_path / "a", {"1.png": 1, "2.png": 2, "3.png": 1})
    other = colours(tmp_path / "b", {"1.png": 2, "9.png": 1})
    os.symlink(paths["2.png"], tmp_path / "link.png")
    os.link(paths["2.png"], tmp_path / "hard.png")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    links = [str(tmp_path / name) for name in ("link.png", "hard.png", "c/2.png")]
    missing = str(tmp_path / "missing.png")
    same = copies([*paths.values(), *other.values(), *links, "", missing])
    assert same[paths["1.png"]] == same[paths["3.png"]] == same[other["9.png"]] == paths["1.png"]
    assert {same[path] for path in [paths["2.png"], other["1.png"], *links]} == {paths["2.png"]}
    assert (same[""], same[missing]) == ("", missing)


def test_files_of_one_size_and_one_end_are_still_told_apart(tmp_path):
    one, two = tmp_path / "one.bmp", tmp_path / "two.bmp"
    one.write_bytes(b"x" + bytes(10_000))
    two.write_bytes(b"y" + bytes(10_000))
    assert copies([str(one), str(two)]) == {str(one): str(one), str(two): str(two)}


@pytest.mark.parametrize("each", [2, 6, 30])
@pytest.mark.parametrize("seed", [0, 1])
def test_copies_of_a_picture_stand_on_one_side_of_a_split(tmp_path, each, seed):
    paths = colours(tmp_path / "a", {f"{i}.png": i // each for i in range(60)})
    train, held_out = split_by_image(table(list(paths.values())), 0.2, seed)
    pictures = [{Path(path).read_bytes() for path in part["image"]} for part in (train, held_out)]
    assert pictures[0].isdisjoint(pictures[1])
    assert all(pictures)
    assert shared_pictures(train, held_out) == 0


def test_a_split_without_copies_is_the_one_of_the_ids(tmp_path):
    paths = list(colours(tmp_path / "a", {f"{i}.png": i for i in range(12)}).values())
    with_files, without = (split_by_image(table(rows), 0.25, 3) for rows in (paths, [""] * 12))
    assert [part["image_id"][:] for part in with_files] == [part["image_id"][:] for part in without]


def test_test_pictures_that_are_trained_on_are_told_before_training(tmp_path):
    files = write_vqa_files(tmp_path / "data")
    test = write_vqa_files(tmp_path / "test", num_images=3)
    fields = {name.replace("train", "eval"): path for name, path in test.items()}
    recipe = parse_recipe([str(write_tiny_recipe(tmp_path / "tiny.yaml", {**files, **fields}))])
    data = load_data(recipe.data, tmp_path)
    trained_on = shared_pictures(data.scored, data.train)
    assert data.remarks["pictures_trained_on"] == {"validation": 0, "test": trained_on}
    assert 1 <= trained_on <= 3
    assert f"WARNING: {trained_on} of the test pictures are trained on" in describe_data(data)


# ------------------------------------------------------------------------------------------------ challenge files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    fields = {"num_train_epochs": 1, "metric_for_best_model": "loss"}
    assert main(["train", str(write_tiny_recipe(folder / "tiny.yaml", files, **fields))]) == 0
    return str(folder / "run"), files["train_images"]


def test_a_metric_that_was_given_stands(trained):
    results = json.loads((Path(trained[0]) / "results.json").read_text())
    assert results["selected_by"] == {"score": "loss", "why": "metric_for_best_model was given"}
    assert results["scores"]["measured_by"] == "vqa_accuracy"


def ask(tmp_path: Path, trained, questions: list[dict], *options: str) -> tuple[int, Path]:
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    model, images = trained
    data = ["--questions", str(tmp_path / "q.json"), "--images", images, "--image_pattern", "image{image_id}.png"]
    challenge = tmp_path / "challenge.json"
    return main(["evaluate", model, *data, "--challenge_file", str(challenge), *options]), challenge


def question(question_id, image_id=0, text="is it red?") -> dict:
    return {"question_id": question_id, "image_id": image_id, "question": text}


@pytest.mark.parametrize(
    ("bad", "options"),
    [
        (question(2, image_id=77), ["--skipped_log", "LOG"]),
        (question(2, text=" "), ["--skipped_log", "LOG"]),
        (question("two"), ["--skipped_log", "LOG"]),
        ({"image_id": 0, "question": "is it red?"}, ["--skipped_log", "LOG"]),
        (question(2), ["--max_questions", "1"]),
    ],
)
def test_a_challenge_file_that_would_lack_a_question_is_refused(tmp_path, trained, capsys, bad, options):
    options = [str(tmp_path / "log.tsv") if option == "LOG" else option for option in options]
    code, challenge = ask(tmp_path, trained, [question(1), bad], *options)
    assert code == 2
    assert "1 of 2 questions would have no answer" in capsys.readouterr().err
    assert not challenge.exists()


@pytest.mark.parametrize("written", [[7, 3, 5], ["07", "3", "5"]])
def test_a_challenge_file_answers_each_question_once_under_the_id_it_was_asked_with(tmp_path, trained, written):
    code, challenge = ask(tmp_path, trained, [question(question_id) for question_id in written])
    assert code == 0
    assert [entry["question_id"] for entry in json.loads(challenge.read_text())] == written


def test_ids_of_two_kinds_are_refused_before_any_work(tmp_path, trained, capsys):
    code, challenge = ask(tmp_path, trained, [question(1), question("2")])
    assert (code, challenge.exists()) == (2, False)
    assert "Some question ids are numbers and others strings" in capsys.readouterr().err


def test_ids_that_are_strings_stay_strings_and_come_once(tmp_path):
    path = write_challenge_results(tmp_path / "c.json", ["q1", "q2"], ["a", "b"])
    assert [entry["question_id"] for entry in json.loads(path.read_text())] == ["q1", "q2"]
    with pytest.raises(ValueError, match="Question q1 is answered twice"):
        write_challenge_results(tmp_path / "d.json", ["q1", "q1"], ["a", "b"])


def test_scores_over_fewer_questions_say_so(tmp_path, trained, capsys):
    model, images = trained
    questions = [question(1), question(2), question(3), question(4, image_id=77)]
    answers = [{"question_id": i, "answers": ["yes"] * 10} for i in (1, 2, 3, 4)]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answers}))
    data = ["--questions", str(tmp_path / "q.json"), "--annotations", str(tmp_path / "a.json"), "--images", images]
    options = ["--image_pattern", "image{image_id}.png", "--skipped_log", str(tmp_path / "log.tsv")]
    out = tmp_path / "out.json"
    assert main(["evaluate", model, *data, *options, "--max_questions", "2", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert (results["questions"], results["left_out"]) == (2, {"unusable": 1, "beyond_max_questions": 1})
    printed = capsys.readouterr().out
    assert "1 questions are unusable" in printed
    assert "1 questions are beyond max questions" in printed


# ------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "annotation",
    [
        {"answer": "Red"},
        {"answers": ["Red"]},
        {"answers": [{"answer": "Red", "answer_confidence": "no"}]},
        {"answers": {"answer": ["Red"]}},
        {"multiple_choice_answer": "Red"},
    ],
    ids=str,
)
def test_an_answer_is_read_however_it_is_written(tmp_path, annotation):
    (tmp_path / "q.json").write_text(json.dumps({"questions": [question("12")]}))
    entry = {"question_id": 12, "image_id": 0, **annotation}
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [entry]}))
    rows = load_vqa(questions=tmp_path / "q.json", annotations=tmp_path / "a.json")
    assert (rows[0]["question_id"], rows[0]["answers"]) == (12, ["Red"])
    assert question_ids(questions=tmp_path / "q.json") == {12: "12"}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({}, "the key 'answers' is missing"),
        ({"answers": 5}, "answers must be a list, not 5"),
        ({"answers": "Red"}, "answers must be a list, not 'Red'"),
        ({"answers": [5]}, "each answer must be a string, not 5"),
        ({"answer": ""}, "answers is empty"),
        ({"answers": []}, "answers is empty"),
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_a_sentence_with_the_id(tmp_path, annotation, message):
    (tmp_path / "q.json").write_text(json.dumps({"questions": [question(12)]}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"question_id": 12, **annotation}]}))
    with pytest.raises(VQADataError, match=f"question_id 12: {message}"):
        load_vqa(questions=tmp_path / "q.json", annotations=tmp_path / "a.json")


@pytest.mark.parametrize("column", ["answer", "multiple_choice_answer"])
def test_a_data_set_with_one_answer_a_row_is_answered_by_it(tmp_path, column):
    image = colours(tmp_path / "images", {"1.png": 1})["1.png"]
    rows = {"question_id": [1, 2], "question": ["a?", "b?"], "image": [image] * 2, column: ["Red", "blue"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    assert load_vqa(str(tmp_path / "set"))["answers"][:] == [["Red"], ["blue"]]


def test_a_picture_folder_that_is_named_is_found_where_its_source_would_look_beside_it(tmp_path):
    (tmp_path / "gqa" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "gqa" / "images" / "2405722.jpg")
    types = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
    entry = {"question": "Is it red?", "imageId": "2405722", "answer": "yes", "isBalanced": True, "types": types}
    (tmp_path / "gqa" / "questions.json").write_text(json.dumps({"0225": entry}))
    rows = load_rows(tmp_path / "gqa" / "questions.json", images=tmp_path / "gqa" / "images", source="gqa")
    assert rows["image"][:] == [str(tmp_path / "gqa" / "images" / "2405722.jpg")]
