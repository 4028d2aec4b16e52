"""Asking: among choices, with "I do not know", from standard input, and whole tables whose answers are kept."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from odd_inputs import saved_checkpoint
from PIL import Image
from transformers import AutoProcessor

from modeling_ume import UMEVQAPipeline
from modeling_ume.choices_ume import UNSURE, decode_choices, find_choices
from training_ume.commands import main
from training_ume.evaluation import asking_tables

WORDS = ["red", "green", "blue", "New York", "yes", "no", "2"]
ANSWERS = dict(enumerate(WORDS))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "model"
    tiny_model(id2label=ANSWERS).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(saved_checkpoint()[0])
    processor.id2label = ANSWERS
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Six questions about three pictures, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    lines = ["picture,question,who"]
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 9, 9)).save(tmp_path / "pictures" / f"{number % 3}.png")
        lines.append(f'{number % 3}.png,"what, is ""{number}""?",user {number}')
    (tmp_path / "questions.csv").write_text("\n".join(lines) + "\n")
    return ["--data", "questions.csv", "--images", "pictures", "--out", "answers.csv"]


def read(path="answers.csv"):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.endswith("tsv") else ","))


# -------------------------------------------------------------------------------------------- choices, "I do not know"


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_choices_are_scored_among_themselves(problem_type):
    logits = torch.tensor([[1.0, 2.0, 3.0, 9.0, 0.0, 0.0, 0.0]])
    choices = find_choices(["Blue ", "red", "grey"], ANSWERS)
    assert choices == ([2, 0], ["Blue ", "red"], ["grey"])
    (row,) = decode_choices(logits, ANSWERS, problem_type, 5, choices)
    softmax = torch.tensor([3.0, 1.0]).softmax(-1)
    expected = softmax if problem_type.startswith("single") else torch.tensor([3.0, 1.0]).sigmoid()
    assert [entry["answer"] for entry in row] == ["Blue ", "red"]
    assert [entry["score"] for entry in row] == pytest.approx(expected.tolist())
    assert [find_choices(given, ANSWERS).ids for given in ("new york, 2", ("new  york", "2"))] == [[3, 6], [3, 6]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["grey", "black"], "knows none of the choices 'grey', 'black': it chooses from the 7 answers"),
        (["red"], "nothing to choose from"),
        ([], "nothing to choose from"),
        (["red", "RED"], "are one answer of this model"),
        (3, "must be a list of choices"),
        (["red", 3], "must be a list of choices"),
    ],
)
def test_impossible_choices_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        find_choices(given, ANSWERS)


def test_the_pipeline_takes_both_once_or_at_a_call(checkpoint):
    model, processor = tiny_model(id2label=ANSWERS), AutoProcessor.from_pretrained(checkpoint)
    ask = UMEVQAPipeline(model=model, processor=processor)
    picture = Image.new("RGB", (32, 32))
    free = ask(picture, "what?", top_k=7)
    with pytest.warns(UserWarning, match="does not know the choice 'grey'.*among 'yes', 'no'"):
        chosen = ask(picture, "what?", candidate_labels=["yes", "no", "grey"])
    among = {entry["answer"]: entry["score"] for entry in free if entry["answer"] in ("yes", "no")}
    assert {entry["answer"] for entry in chosen} == among.keys()
    for entry in chosen:
        assert entry["score"] == pytest.approx(among[entry["answer"]] / sum(among.values()), abs=1e-5)
    best = free[0]
    assert ask(picture, "what?", min_probability=best["score"] - 1e-3)[0]["answer"] == best["answer"]
    unsure = ask([{"image": picture, "question": "what?"}], min_probability=0.99)[0]
    assert unsure == [{"answer": UNSURE, "score": pytest.approx(best["score"], abs=1e-5), "guess": best["answer"]}]
    once = UMEVQAPipeline(model=model, processor=processor, candidate_labels="yes, no", min_probability=0.99)
    assert once(picture, ["what?", "who?"])[1][0]["guess"] in ("yes", "no")
    for wrong in (1.5, -0.1, True, "0.5"):
        with pytest.raises(ValueError, match="a probability lies in"):
            ask(picture, "what?", min_probability=wrong)


def test_ask_says_which_choice_is_unknown_and_when_it_does_not_know(checkpoint, table, capsys):
    asked = [checkpoint, "pictures/0.png", "what?"]
    assert main(["ask", *asked, "--choices", "yes", "no", "grey"]) == 0
    done = capsys.readouterr()
    assert "'grey'" in done.err
    assert sorted(line.split()[-1] for line in done.out.splitlines()[1:]) == ["no", "yes"]
    assert main(["ask", *asked, "--min_probability", "0.99"]) == 0
    assert "I do not know (the best guess is " in capsys.readouterr().out
    assert main(["ask", *asked, "--min_probability", "0.99", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["answers"][0]["answer"] == UNSURE
    assert main(["ask", *asked, "--min_probability", "7"]) == 2
    assert "\nerror: min_probability=7.0" in "\n" + capsys.readouterr().err


def test_questions_come_from_standard_input_as_they_are_asked(checkpoint, table, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("what?\n\n  who is it?\nwhere?"))
    assert main(["ask", "--top_k", "1", checkpoint, "pictures/0.png", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["what?", "who is it?", "where?"]
    assert all("%" in line for line in lines[1::2])


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_table_is_answered_as_the_pipeline_answers_it(checkpoint, table, capsys):
    assert main(["ask", checkpoint, *table, "--top_k", "2", "--batch_size", "4"]) == 0
    rows = read()
    assert list(rows[0]) == ["question_id", "image", "question", "who", "answer", "score", "answer_2", "score_2"]
    assert [row["question"] for row in rows] == [f'what, is "{number}"?' for number in range(6)]
    assert [row["who"] for row in rows] == [f"user {number}" for number in range(6)]
    pipeline = UMEVQAPipeline(model=tiny_model(id2label=ANSWERS), processor=AutoProcessor.from_pretrained(checkpoint))
    for row in rows:
        first, second = pipeline(row["image"], row["question"], top_k=2)
        assert [row["answer"], row["answer_2"]] == [first["answer"], second["answer"]]
        assert float(row["score"]) == pytest.approx(first["score"], abs=1e-5)


@pytest.fixture
def asked(monkeypatch):
    """How many questions each call has put to a model."""
    counts, batches = [], asking_tables.batch_logits
    monkeypatch.setattr(asking_tables, "batch_logits", lambda *args: counts.append(len(args[2])) or batches(*args))
    return counts


def test_what_is_answered_is_kept_and_not_asked_again(checkpoint, table, asked, capsys):
    answers = Path("answers.csv")
    assert main(["ask", checkpoint, *table]) == 0
    whole = answers.read_text()
    for cut in (whole[: len(whole) // 2], whole[: whole.rindex('"')], whole[: whole.index("\n") + 1]):
        answers.write_text(cut)  # killed while it wrote
        assert main(["ask", checkpoint, *table]) == 0
        assert answers.read_text() == whole
        assert asked[-1] == 6 - (cut.count("\n") - 1)
    assert main(["ask", checkpoint, *table]) == 0
    assert "Asked 0 of 6 questions now" in capsys.readouterr().out
    with open("questions.csv", "a") as file:
        file.write('0.png,"one\nmore?",me\n')
    assert main(["ask", checkpoint, *table]) == 0
    assert asked == [6, *asked[1:4], 1]
    assert answers.read_text().startswith(whole)
    answers.write_text(answers.read_text()[:-3])
    assert main(["ask", checkpoint, *table]) == 0
    assert read()[-1]["question"] == "one\nmore?"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda args: [str(saved_checkpoint()[0]), *args[1:]], "was begun with another model"),
        (lambda args: [*args, "--choices", "yes", "no"], "choices was None and is"),
        (lambda args: [*args, "--min_probability", "0.5"], "min_probability was None and is 0.5"),
        (lambda args: [*args, "--where", "who=user 3"], "was begun with another table|and the table 1 questions"),
        (lambda args: [*args, "--columns", "question=who"], "columns was|was begun with another table"),
    ],
)
def test_another_model_table_or_setting_does_not_go_on_with_a_file(checkpoint, table, capsys, change, said):
    assert main(["ask", checkpoint, *table]) == 0
    before = Path("answers.csv").read_text()
    capsys.readouterr()
    other = change([checkpoint, *table])
    assert main(["ask", *other]) == 2
    assert re.search(f"error: .*({said}).*--overwrite to begin anew", capsys.readouterr().err)
    assert Path("answers.csv").read_text() == before
    assert main(["ask", *other, "--overwrite"]) == 0
    assert Path("answers.csv").read_text() != before


def test_a_file_of_somebody_else_is_not_written_over(checkpoint, table, capsys):
    Path("answers.csv").write_text("mine")
    assert main(["ask", checkpoint, *table]) == 2
    assert "was not begun by this command" in capsys.readouterr().err
    assert Path("answers.csv").read_text() == "mine"
    assert main(["ask", checkpoint, *table[:-1], "answers.txt"]) == 2
    assert "ends in .csv or .tsv" in capsys.readouterr().err
    assert main(["ask", checkpoint, *table[:-1], "answers.tsv", "--where", "who=user 1", "who=user 4"]) == 0
    assert [row["who"] for row in read("answers.tsv")] == ["user 1", "user 4"]


def test_answers_that_a_table_has_go_along(checkpoint, table, capsys):
    text = Path("questions.csv").read_text().replace("who", "answer", 1)
    Path("questions.csv").write_text(text + "2.png,what?,\n")
    assert main(["ask", checkpoint, *table]) == 0
    assert [row["given_answer"] for row in read()] == [*(f"user {number}" for number in range(6)), ""]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a.png", "--data", "q.csv", "--out", "a.csv"], "leave the image"),
        (["--data", "q.csv"], "--out is missing"),
        (["a.png", "what?", "--out", "a.csv"], "--out is for a table"),
        ([], "there is no image"),
        (["a.png", "what?", "-"], "give it alone"),
    ],
)
def test_what_contradicts_itself_is_refused(capsys, argv, said):
    with pytest.raises(SystemExit):
        main(["ask", "model", *argv])
    assert said in capsys.readouterr().err


def test_what_holds_no_model_is_told_before_what_could_be_asked_of_one(tmp_path, capsys):
    for argv in (["clip.wav"], ["--audio", "clip.wav"]):
        assert main(["ask", str(tmp_path), *argv]) == 2
        assert "holds no model" in capsys.readouterr().err
