"""`ume evaluate` on the run's own parts and on other rows: which they are, what was trained on, scores by a column."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_measures import write_wordnet
from vqa_files import COLOURS, write_tiny_recipe

from training_ume.commands import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run on a table of one's own, in two languages; four pictures are held out."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pictures").mkdir()
    rows = []
    for number in range(16):
        colour = list(COLOURS)[number % 4]
        image = Image.new("RGB", (20, 20), COLOURS[colour])
        image.putpixel((number, 0), (number, 7, 7))
        image.save(folder / "pictures" / f"{number}.png")
        rows.append([f"{number}.png", "what color is it?", colour, "en"])
        rows.append([f"{number}.png", "ist es rot?", "yes" if colour == "red" else "no", "de"])
    write(folder / "own.csv", rows)
    fields = {"source": None, "data": [str(folder / "own.csv")], "images": str(folder / "pictures")}
    recipe = write_tiny_recipe(folder / "tiny.yaml", {}, num_train_epochs=1, **fields)
    assert main(["train", str(recipe)]) == 0
    return folder


def write(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["image", "question", "answer", "language"], *rows])
    return path


def scored(folder, *argv):
    out = folder / "results.json"
    out.unlink(missing_ok=True)
    assert main(["evaluate", str(folder / "run"), *map(str, argv), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_part_that_was_held_out_is_scored_as_in_training(trained, capsys):
    then = json.loads((trained / "run" / "results.json").read_text())
    argv = ["--part", "validation", "--by", "language", "open_closed", "--scores", "macro_f1", "auroc"]
    found = scored(trained, *argv)
    assert found["scores"]["exact_match"] == then["scores"]["exact_match"]
    assert found["questions"] == then["data"]["validation_questions"] == 8
    assert {"macro_f1", "auroc"} <= found["scores"].keys()
    assert {value: entry["questions"] for value, entry in found["by"]["language"].items()} == {"en": 4, "de": 4}
    assert list(found["by"]["open_closed"]) == ["closed", "open"]
    mean = sum(entry["exact_match"] for entry in found["by"]["language"].values()) / 2
    assert mean == pytest.approx(found["scores"]["exact_match"])
    assert found["intervals"].keys() == {"exact_match", "vqa_accuracy", "macro_f1", "auroc"}
    said = capsys.readouterr().out
    assert "the best epoch was chosen" in said
    assert "language" in said
    assert "WARNING" not in said


def test_rows_that_were_trained_on_are_said_whatever_they_are_called(trained, tmp_path, capsys):
    assert "trained on" in "".join(scored(trained, "--part", "train")["remarks"])
    lines = (trained / "run" / "predictions.jsonl").read_text().splitlines()
    held_out = {Path(json.loads(line)["image"]).name for line in lines}
    inside = next(f"{number}.png" for number in range(16) if f"{number}.png" not in held_out)
    outside = sorted(held_out)[0]
    for name, copy in ((inside, "x.png"), (outside, "y.png")):
        shutil.copy(trained / "pictures" / name, tmp_path / copy)
    rows = [["x.png", "What  color is it?", "red", "en"], ["x.png", "is it new?", "no", "en"]]
    data = write(tmp_path / "other.csv", [*rows, ["y.png", "what color is it?", "red", "en"]])
    capsys.readouterr()
    found = scored(trained, "--data", data)
    assert found["trained_on"] == {"rows": 1, "of_rows": 3, "pictures": 1, "of_pictures": 2}
    assert "WARNING: the model was trained on 1 of these 3 rows" in capsys.readouterr().out
    found = scored(trained, "--data", write(tmp_path / "new.csv", [["y.png", "is it new?", "no", "en"]]))
    assert found["trained_on"]["pictures"] == 0
    assert found["remarks"] == []


def test_where_the_data_are_gone_or_changed_that_is_said(trained, tmp_path, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(trained / "run", folder / "run")
    arguments = json.loads((folder / "run" / "arguments.json").read_text())
    lines = (trained / "own.csv").read_text().splitlines()
    (tmp_path / "less.csv").write_text("\n".join(lines[:-6]))
    arguments["data"]["data"] = [str(tmp_path / "less.csv")]
    (folder / "run" / "arguments.json").write_text(json.dumps(arguments))
    assert "The data have changed since the training" in "".join(scored(folder, "--part", "validation")["remarks"])
    (tmp_path / "less.csv").unlink()
    data = write(tmp_path / "new.csv", [[str(trained / "pictures" / "1.png"), "is it new?", "no", "en"]])
    found = scored(folder, "--data", data)
    assert "less.csv" in found["trained_on"]["unknown"]
    assert "cannot be told" in found["remarks"][0]
    arguments["data"]["data"] = ["train: 32 rows in memory, 0123456789abcdef"]
    (folder / "run" / "arguments.json").write_text(json.dumps(arguments))
    assert main(["evaluate", str(folder / "run"), "--part", "train"]) == 2
    assert "rows in memory, which no file holds" in capsys.readouterr().err


def test_a_data_set_by_name_is_scored_as_it_is_judged(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("UME_WORDNET", raising=False)
    picture = trained / "pictures" / "1.png"
    (tmp_path / "image1.png").write_bytes(picture.read_bytes())
    (tmp_path / "qa.txt").write_text("what is it in image1 ?\ntable\nwhat is on it in image1 ?\nchair, dog\n")
    argv = ["--data", tmp_path / "qa.txt", "--source", "daquar", "--images", tmp_path]
    found = scored(trained, *argv)
    assert "judged by WUPS, too, which is left out" in "".join(found["remarks"])
    pytest.importorskip("nltk")
    found = scored(trained, *argv, "--wordnet", write_wordnet(tmp_path / "wordnet"))
    assert {"wups_0.9", "wups_0.0"} <= found["scores"].keys()
    assert "WUPS@0.9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "There are no rows to score"),
        (["--part", "test"], "had no test rows"),
        (["--part", "train", "--data", "x.csv"], "leave other data out"),
        (["--data", "x.csv", "--questions", "q.json"], "leave --questions out"),
        (["--where", "a=b"], "name it by --data"),
        (["--part", "train", "--by", "langage"], "no such column.*Did you mean language"),
        (["--part", "train", "--scores", "f2"], "The score 'f2' is not known"),
        (["--part", "train", "--scores", "wups"], "WUPS needs WordNet's files"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(trained, capsys, monkeypatch, argv, said):
    monkeypatch.delenv("UME_WORDNET", raising=False)
    assert main(["evaluate", str(trained / "run"), *argv]) == 2
    assert re.search(f"error: .*{said}", capsys.readouterr().err)


def test_a_folder_without_a_run_has_no_parts(trained, tmp_path, capsys):
    shutil.copytree(trained / "run", tmp_path / "run", ignore=shutil.ignore_patterns("arguments.json"))
    assert main(["evaluate", str(tmp_path / "run"), "--part", "train"]) == 2
    assert "has no arguments.json" in capsys.readouterr().err


def test_rows_of_other_answers_are_said(trained, tmp_path, capsys):
    own = write(tmp_path / "own.csv", [["0.png", "what is it?", "a circle", "en"], ["1.png", "and it?", "two", "en"]])
    found = scored(trained, "--data", own, "--images", trained / "pictures")
    assert "WARNING: None of these rows have an answer that the model can give" in " ".join(found["remarks"])
    assert "None of these rows" in capsys.readouterr().out
    own = write(tmp_path / "own.csv", [["0.png", "what is it?", "red", "en"], ["1.png", "and it?", "two", "en"]])
    assert "can give" not in " ".join(scored(trained, "--data", own, "--images", trained / "pictures")["remarks"])
