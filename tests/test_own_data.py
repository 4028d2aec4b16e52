"""A user's own table: `--data`, `--columns`, `--where`, `--split_by`, and what is said where it lacks something."""

import csv
from pathlib import Path

import pytest
from PIL import Image
from vqa_files import COLOURS, TINY, write_tiny_recipe

from configuration_ume.parsing import make_recipe, parse_recipe
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.splits import split_by_image, split_rows
from training_ume.data.tables.load import load_rows
from training_ume.data.unknown import unknown_tokens, unknown_warning
from training_ume.records.files import read_json
from training_ume.training.prepare import load_data


def write_table(folder: Path, pictures: int = 12) -> Path:
    """Columns have names of their own; a patient has two pictures, each with a question in two languages."""
    (folder / "pictures").mkdir(parents=True)
    with (folder / "own.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["img_name", "question", "label", "patient", "q_lang"])
        for i in range(pictures):
            colour = list(COLOURS)[i % 2]
            picture = Image.new("RGB", (20, 20), COLOURS[colour])
            picture.putpixel((i, 0), (1, 2, 3))  # no two are copies of one picture
            picture.save(folder / "pictures" / f"{i}.png")
            writer.writerow([f"{i}.png", "what color is it?", colour, f"p{i // 2}", "en"])
            writer.writerow([f"{i}.png", "是什么颜色?", colour, f"p{i // 2}", "zh"])
    return folder / "own.csv"


OPTIONS = ["--columns", "image=img_name", "answer=label", "--where", "q_lang=en", "--split_by", "patient"]


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "own")


@pytest.fixture
def recipe(tmp_path):
    """A recipe that names other data: files in VQA v2's layout, that are not there."""
    fields = {"num_train_epochs": 1, "validation_fraction": None}
    return write_tiny_recipe(tmp_path / "tiny.yaml", {"train_questions": "a", "train_image_pattern": "b"}, **fields)


def test_a_table_is_trained_on_as_it_is_and_what_was_understood_is_said_and_kept(table, recipe, tmp_path, capsys):
    argv = ["train", str(recipe), "--data", str(table), "--images", str(table.parent / "pictures"), *OPTIONS]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.index("columns says so") < printed.index("Run 1 of 1")
    assert "15% of the values of patient are held out to choose the epoch" in printed
    results = read_json(tmp_path / "run" / "results.json")
    roles = {use["name"]: use["role"] for use in results["understood"]["train"]["columns"]}
    assert roles["img_name"] == "image"
    assert roles["label"] == "answers"
    assert (results["data"]["train_questions"], results["data"]["validation_questions"]) == (10, 2)
    assert results["arguments"]["data"]["where"] == {"q_lang": "en"}
    # The same again goes on; with other rows it would be another run.
    assert main([*argv, "--resume_from_checkpoint"]) == 0
    assert main([*argv, "--where", "q_lang=zh", "--resume_from_checkpoint"]) == 2
    assert "where was {'q_lang': 'en'} and is {'q_lang': 'zh'}" in capsys.readouterr().err


def test_a_recipe_says_the_same_as_the_command_line(recipe, table):
    images = str(table.parent / "pictures")
    typed = parse_recipe([str(recipe), "--data", str(table), "--images", images, *OPTIONS]).data
    fields = {"columns": {"image": "img_name", "answer": "label"}, "where": {"q_lang": "en"}, "split_by": "patient"}
    assert make_recipe(recipe, {"data": table, "images": images, **fields}).data == typed
    other = {"train_questions": None, "train_image_pattern": None, "source": None}
    written = write_tiny_recipe(
        recipe, {}, **other, data=str(table), images=images, validation_fraction=None, **fields
    )
    assert parse_recipe([str(written)]).data == typed
    assert typed.source is None  # not the layout that the recipe names for its own files
    assert typed.held_out == 0.15
    as_json = parse_recipe([str(recipe), "--data", str(table), "--where", '{"q_lang": ["en", "zh"]}']).data
    assert as_json.where == parse_recipe([str(written), "--where", "q_lang=en", "q_lang=zh"]).data.where


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--images", "x"], r"images is about a table of your own: give it with --data FILE"),
        (["--data", "x", "--columns", "image"], "columns has 'image', which is no pair: write key=value"),
        (["--data", "x", "--source", "easy_vqa"], "source='easy_vqa' contradicts data"),
        (["--source", "easy_vq"], "Did you mean easy_vqa"),
        (["--data", "x", "--train_questions", "y"], "train_questions and data are both given"),
    ],
)
def test_fields_that_do_not_go_together_are_told(recipe, argv, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_recipe([str(recipe), *argv])


def loaded(recipe, tmp_path, *argv):
    return load_data(parse_recipe([str(recipe), *argv]).data, tmp_path)


def test_what_rows_lack_the_model_does_not_see(recipe, table, tmp_path, capsys):
    labels, words = table.parent / "labels.csv", table.parent / "words.csv"
    labels.write_text("image,label\n" + "".join(f"pictures/{i}.png,{'ab'[i % 2]}\n" for i in range(12)))
    words.write_text("text,label\n" + "".join(f"one more {i},{'ab'[i % 2]}\n" for i in range(12)))
    for file, sees, said in (
        (labels, "image", "No row has any question"),
        (words, "question", "No row has any image"),
    ):
        output = tmp_path / sees
        assert main(["train", str(recipe), "--data", str(file), "--output_dir", str(output)]) == 0
        assert f"{said}: the model sees the {sees} alone" in capsys.readouterr().out
        results = read_json(output / "results.json")
        assert results["name"] == f"{sees}_only"
        assert results["arguments"]["data"]["inputs"] == sees
        assert results["data"]["validation_questions"] == 2
    with pytest.raises(ValueError, match="inputs='image', but no row has any image"):
        loaded(recipe, tmp_path, "--data", str(words), "--inputs", "image")


def test_other_rows_to_validate_on_or_to_score(recipe, table, tmp_path):
    given = ["--data", str(table), "--images", str(table.parent / "pictures"), *OPTIONS[:3]]
    other = str(write_table(tmp_path / "other", pictures=4))
    data = loaded(recipe, tmp_path, *given, "--eval_data", other)
    assert (len(data.train), len(data.validation), data.scored_on) == (24, 8, "validation")
    data = loaded(recipe, tmp_path, *given, "--eval_data", other, "--validation_fraction", "0.5")
    assert (len(data.train), len(data.validation), len(data.scored), data.scored_on) == (12, 12, 8, "test")
    assert set(data.understood) == {"train", "eval"}


def test_one_value_of_a_column_never_stands_on_both_sides(table):
    rows = load_rows(
        str(table), images=str(table.parent / "pictures"), columns={"image": "img_name", "answer": "label"}
    )
    train, held_out = split_rows(rows, 0.3, seed=0, by="patient")
    assert len(train) + len(held_out) == len(rows)
    assert not set(train["patient"][:]) & set(held_out["patient"][:])
    assert len(set(held_out["patient"][:])) == 2
    # A picture that two patients share holds both together.
    shared = rows.map(lambda row: {"patient": "p0"} if row["patient"] == "p1" and row["q_lang"] == "en" else row)
    for seed in range(4):
        sides = [set(part["patient"][:]) for part in split_rows(shared, 0.3, seed, by="patient")]
        assert ("p0" in sides[0]) == ("p1" in sides[0])
    # Pictures alone: as ever.
    for ours, before in zip(split_rows(rows, 0.3, 0), split_by_image(rows, 0.3, 0), strict=True):
        assert ours["question_id"][:] == before["question_id"][:]
    with pytest.raises(ValueError, match=r"split_by='patien' is no column .* Did you mean patient\?"):
        split_rows(rows, 0.3, 0, by="patien")
    with pytest.raises(ValueError, match="leave a single group"):
        split_rows(rows.map(lambda row: {"patient": "p"}), 0.3, 0, by="patient")


def test_texts_without_pictures_are_split_by_what_they_ask(tmp_path):
    (tmp_path / "words.csv").write_text("text,label\n" + "".join(f"text {i % 6},{i % 2}\n" for i in range(12)))
    train, held_out = split_rows(load_rows(str(tmp_path / "words.csv")), 0.3, seed=0)
    assert not set(train["question"][:]) & set(held_out["question"][:])
    assert (len(train), len(held_out)) == (8, 4)


def test_a_layout_needs_its_file_and_an_unknown_one_is_told(recipe, tmp_path):
    for argv, said in (
        (["--source", "gqa"], "source='gqa' is the layout of a file: give it with --data"),
        (["--source", "slakee"], "slakee"),
    ):
        with pytest.raises(ValueError, match=said):
            loaded(recipe, tmp_path, *argv)


def test_words_that_the_tokenizer_does_not_know_are_told(recipe, table, tmp_path, capsys):
    tokenizer = words_tokenizer(["what color is it"])
    found = unknown_tokens(tokenizer, ["what color", "是 什么 颜色", "is it blue", ""])
    assert found == {"share": 4 / 8, "questions": 2 / 3, "examples": ["是 什么 颜色", "is it blue"]}
    assert unknown_tokens(tokenizer, [""]) is None
    assert unknown_warning({"training": {**found, "share": 0.04}, "test": None}) == []
    given = ["--data", str(table), "--images", str(table.parent / "pictures"), *OPTIONS[:3], "--where", "q_lang=zh"]
    tokenizer.save_pretrained(tmp_path / "words")
    config = {"model_type": "bert", "max_position_embeddings": 16, **TINY}
    write_tiny_recipe(recipe, {}, tokenizer=str(tmp_path / "words"), text_config=config, num_train_epochs=1)
    assert main(["train", str(recipe), *given]) == 0
    printed = capsys.readouterr().out
    assert "WARNING: the tokenizer reads 100% of the training questions' tokens as unknown, all alike" in printed
    assert "'是什么颜色?'" in printed
    remarks = read_json(tmp_path / "run" / "results.json")["remarks"]
    assert remarks["unknown_tokens"]["training"]["share"] == 1
