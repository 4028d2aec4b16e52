"""load_rows reads whatever table people have, says what it understood, and drops nothing in silence."""

import gzip
import json
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import ume
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import FEATURES
from training_ume.data.splits import split_by_image
from training_ume.data.tables import containers, writer
from training_ume.data.tables.load import load_rows, understand

NAMES = ("1.jpg", "zwei drei.png", "Tür.png")
ROWS = [
    {"image": "1.jpg", "question": "how many chairs?", "answer": "2", "patient": "a"},
    {"image": "zwei drei.png", "question": "what, and\nwhere?", "answer": 'a "cup", red', "patient": "b"},
    {"image": "Tür.png", "question": "is it open?", "answer": "yes", "patient": "a"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """A folder with three pictures in `pictures`."""
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 6), (number * 60, 0, 0)).save(tmp_path / "pictures" / name)
    return tmp_path


def write(path, rows=ROWS, separator=",", encoding="utf-8"):
    """A csv as spreadsheets write it."""
    path.parent.mkdir(exist_ok=True)
    pandas.DataFrame(rows).to_csv(path, sep=separator, index=False, encoding=encoding)
    return path


def csv(folder):
    return write(folder / "own.csv")


def excel(folder):
    return write(folder / "own.csv", separator=";", encoding="utf-8-sig")


def tsv(folder):
    return write(folder / "own.tsv", separator="\t")


def utf16(folder):
    return write(folder / "own.csv", encoding="utf-16")


def packed(folder):
    path = write(folder / "own.csv")
    (folder / "own.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "own.csv.gz"


def jsonl(folder):
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return folder / "own.jsonl"


def json_list(folder):
    (folder / "own.json").write_text(json.dumps(ROWS))
    return folder / "own.json"


def json_key(folder):
    (folder / "own.json").write_text(json.dumps({"info": {"year": 2024}, "version": 1, "rows": ROWS}))
    return folder / "own.json"


def json_lines_under_json(folder):
    return jsonl(folder).rename(folder / "own.json")


def one_parquet(folder):
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "own.parquet")
    return folder / "own.parquet"


def parquets(folder):
    for part, rows in enumerate((ROWS[:1], ROWS[1:])):
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"own-{part}.parquet")
    return [folder / "own-0.parquet", folder / "own-1.parquet"]


def parquets_by_glob(folder):
    parquets(folder)
    return str(folder / "own-*.parquet")


def dataset(folder):
    return datasets.Dataset.from_list(ROWS)


def stream(folder):
    return datasets.IterableDataset.from_generator(lambda: iter(ROWS))


def frame(folder):
    return pandas.DataFrame(ROWS)


def polars_frame(folder):
    class DataFrame:
        def to_arrow(self):
            return pa.Table.from_pylist(ROWS)

    DataFrame.__module__ = "polars.dataframe.frame"
    return DataFrame()


def dicts(folder):
    return ROWS


def address(folder):
    return write(folder / "own.csv").as_uri()


CONTAINERS = (
    csv, excel, tsv, utf16, packed, jsonl, json_list, json_key, json_lines_under_json, one_parquet, parquets,
    parquets_by_glob, dataset, stream, frame, polars_frame, dicts, address,
)  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda make: make.__name__)
def test_every_container_gives_the_same_rows(container, folder):
    rows = load_rows(container(folder), images=folder / "pictures")
    assert rows.features == datasets.Features({**FEATURES, "patient": datasets.Value("string")})
    pictures = [str(folder / "pictures" / name) for name in NAMES]
    assert rows[:] == {
        "question_id": [0, 1, 2],
        "image_id": pictures,
        "question": [row["question"] for row in ROWS],
        "image": pictures,
        "answers": [[row["answer"]] for row in ROWS],
        "question_type": [""] * 3,
        "answer_type": [""] * 3,
        "patient": ["a", "b", "a"],
    }


# ------------------------------------------------------------------------------------------------------- bad input

HEAD = "image,question,answer\n"
REFUSED = {
    "cp1252": (b"image,question,answer\n1.jpg,T\xfcr?,zu\n",
        r"own\.csv, line 2: the byte 0xFC .*reads? '1.jpg,Tür.*iconv"),
    "utf16_unmarked": ((HEAD + "1.jpg,a,b\n").encode("utf-16-le"),
        r"own\.csv holds bytes of value 0.*iconv -f UTF-16LE"),
    "utf16_cut": ((HEAD + "1.jpg,a,b\n").encode("utf-16")[:-1], r"own\.csv begins as UTF-16.*cut off"),
    "no_header": ("1.jpg,how many?,2\n", "no line of column names.*'1.jpg' is the name of a picture"),
    "no_header_numbers": ("1,how many,2\n2,what,3\n", "no line of column names.*'1' is a number"),
    "no_header_again": ("a,cat\nb,cat\n", "no line of column names.*'cat' stands in its own column again"),
    "no_header_files": ("2,katze\nzwei drei,hund\n",
        r"no line of column names.*'2' in its first line.*picture that is there"),
    "two_of_a_name": ("image,question,answer,answer\n1.jpg,a,b,c\n",
        r"2 columns of the name 'answer' \(columns 3 and 4\)"),
    "no_name": ("image,,answer\n1.jpg,a,b\n", "line 1: column 2 has no name"),
    "open_quote": (HEAD + '1.jpg,"how many?,2\n', "line 2: unexpected end of data. A quote"),
    "stray_quote": (HEAD + '1.jpg,a,b\n2.jpg,"what" is?,3\n', "line 3: .*A quote"),
    "many_cells": (HEAD + "1.jpg,how many, really?,2\n", "line 2: there are 4 cells .* and 3 columns: put cells"),
    "few_cells": (HEAD + "1.jpg,how many?\n", "line 2: there are 2 cells"),
    "empty": ("", r"own\.csv is empty"),
    "head_alone": (HEAD, "no row below it"),
    "no_file": (HEAD + "1.jpg,a,b\n9.jpg,a,b\n", "line 3, column 'image': there is no file '9.jpg' in .*images"),
    "capitals": (HEAD + "1.JPG,a,b\n", "line 2, column 'image': .*but '1.jpg': mend its capitals"),
    "outside": (HEAD + "../x/1.jpg,a,b\n", "line 2, column 'image': .* leaves the image folder .*images"),
    "windows": (HEAD + "C:\\me\\1.jpg,a,b\n", "line 2, column 'image': .*path of a Windows machine; give the folder"),
    "nowhere": (HEAD + "/nowhere/1.jpg,a,b\n", "line 2, column 'image': there is no file /nowhere/1.jpg"),
    "nobody": (HEAD + "http://127.0.0.1:9/1.jpg,a,b\n", "line 2, column 'image': .*cannot be fetched"),
    "nothing": (HEAD + "1.jpg,a,b\n,,b\n", "line 3, .*neither a question nor a picture"),
    "no_answer": (HEAD + "1.jpg,a,b\n1.jpg,a,\n", "line 3, column 'answer': the row has no answer although"),
    "same_id": ("id,image,question,answer\nx,1.jpg,a,b\nx,1.jpg,a,b\n",
        r"line 3, column 'id': the id 'x' stands in line 2, too"),
    "no_id": ("id,image,question,answer\n1,1.jpg,a,b\n,1.jpg,a,b\n", "line 3, column 'id': the row has no id"),
    "two_images": ("front,back,question\n1.jpg,1.jpg,a\n", "2 columns that could be the image: 'front' .*'back'"),
    "two_names": ("img,picture,question\n1.jpg,1.jpg,a\n", "2 columns that could be the image: 'img' .*'picture'"),
    "two_cases": (HEAD.strip() + ",Answer\n1.jpg,a,b,c\n", "2 columns that could be the answer: 'answer' .*'Answer'"),
    "two_questions": ("image,q1,q2\n1.jpg,what is it?,who is it?\n", "could be the question: 'q1' .*'q2'.*--columns"),
    "two_answers": ("image,question,x,y\n1.jpg,a,b,c\n", r"could be the answer: 'x' .*columns=\{'answer': None\}"),
    "unknown": ("a,b\nc,d\n", "no column that is known as a picture or a question: it has 'a', 'b'"),
}  # fmt: skip
REFUSED_JSON = {
    "line.jsonl": (
        '{"image": "1.jpg", "question": "a"}\n{"image": \n',
        "line 2: the line is no JSON .*mend or delete it",
    ),
    "first.jsonl": ('{"image": \n', "line 1: the line is no JSON"),
    "twice.jsonl": (
        '{"image": "1.jpg", "a": 1}\n{"a": 1, "a": 2}',
        "line 2: an object has the key 'a' more than once",
    ),
    "list.jsonl": ('{"image": "1.jpg"}\n[1]\n', "line 2: an entry must be an object"),
    "cut.json": ('[{"image": "1.jpg"},\n{"image": "1.jpg"', r"not valid JSON .* in what begins in line 2"),
    "empty.json": ("", "holds nothing"),
    "none.json": ("[]", "0 entries, and none of them is an object"),
    "one.json": ("5", "one value, and no list of rows"),
    "lists.json": ('{"a": [{"x": 1}], "b": [{"x": 1}]}', "several lists: a, b"),
    "keys.json": ('{"a": 1, "b": 2}', "an object with the keys a, b, and no list"),
    "columns.json": ('{"image": {"0": "1.jpg"}, "question": {"0": "a?"}}', "column by column.*orient='records'"),
    "lists.column.json": ('{"image": ["1.jpg"], "question": ["a?"]}', "column by column.*orient='records'"),
    "ids.json": ('{"a": {"image": "1.jpg"}, "a": {"image": "1.jpg"}}', "the id 'a' is there more than once"),
    "half.json": ('[{"image": "1.jpg", "question": "\\ud83d"}]', "entry number 0, column 'question'.*must be a text"),
    "text.parquet": ("image\n", r"text\.parquet is no parquet file .*suffix"),
    "table.xlsx": ("x", r"suffix '\.xlsx'.*CSV UTF-8"),
}


@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_JSON])
def test_bad_input_gets_file_row_column_what_was_found_and_what_to_do(case, folder):
    content, said = (REFUSED | REFUSED_JSON)[case]
    path = folder / "pictures" / (case if case in REFUSED_JSON else "own.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    Image.new("RGB", (4, 4)).save(folder / "pictures" / "2.jpg")
    with pytest.raises(VQADataError, match=rf"(?s){path.name}.*{said}|{said}"):
        load_rows(path)


@pytest.mark.parametrize(
    ("data", "arguments", "said"),
    [
        (ROWS, {"columns": {"anwser": "patient"}}, r"'anwser', which is no role\. Did you mean 'answer'"),
        (ROWS, {"columns": {"answer": "anser"}}, r"no column 'anser'.*Did you mean 'answer'"),
        (ROWS, {"columns": {"answer": "answer", "label": "patient"}}, "columns gives two columns for 'answers'"),
        (ROWS, {"where": {"patent": "a"}}, r"no column 'patent' for where.*Did you mean 'patient'"),
        (ROWS, {"where": {"patient": "z"}}, r"fits patient = z \(it has a, b\)"),
        (ROWS, {"split": "test"}, "one table without a column 'split'"),
        (ROWS, {"on_error": "skip"}, "needs skipped_log"),
        (ROWS, {"images": "nowhere"}, "image folder .*nowhere does not exist"),
        ([], {}, "the list of rows is empty"),
        (None, {}, "load_rows needs data"),
        ("nowhere.csv", {}, r"nowhere\.csv does not exist"),
        (["nowhere.csv"], {}, r"nowhere\.csv does not exist"),
        ("nowhere/*.csv", {}, r"No file fits nowhere/\*\.csv"),
        (pandas.DataFrame([["1.jpg", "a", "b"]], columns=["image", "x", "x"]), {}, "2 columns of the name 'x'"),
        (pandas.DataFrame({"image": []}), {}, "has no rows"),
    ],
)
def test_arguments_that_fit_no_table_get_a_sentence(data, arguments, said):
    with pytest.raises(ValueError, match=said):
        load_rows(data, **arguments)


def test_what_is_no_table_is_a_type_error():
    with pytest.raises(TypeError, match="int is no table"):
        load_rows(5)


def test_skipping_counts_and_lists_each_row_and_keeps_the_others(folder, caplog):
    path = folder / "pictures" / "own.csv"
    broken = folder / "pictures" / "broken.jpg"
    broken.write_text("no picture")
    lines = ["id,image,question,answer", "1,1.jpg,a,b", "2,9.jpg,a,b", "3,1.jpg,a", "1,1.jpg,a,b", "5,1.jpg,a,"]
    path.write_text("\n".join([*lines, "6,broken.jpg,a,b", "7,1.jpg,a,c"]))
    rows = load_rows(path, on_error="skip", skipped_log=folder / "log")
    assert rows["question_id"][:] == [1, 7]
    listed = [line.split("\t") for line in (folder / "log").read_text().splitlines()[2:]]
    assert {place: kind for kind, _, place, _ in listed} == {
        "line 3, column 'image'": "missing_image",
        "line 4": "malformed_entry",
        "line 5, column 'id'": "duplicate_question_id",
        "line 6, column 'answer'": "question_without_annotation",
        "question_id 6": "broken_image",
    }
    assert "2 questions kept, 5 entries skipped" in caplog.text


def test_it_is_there_by_the_short_name():
    assert ume.load_rows is load_rows


# ----------------------------------------------------------------------------------------------- what is understood


def test_pictures_may_be_bytes_objects_arrays_or_names_and_copies_are_known_by_their_content(folder):
    path = folder / "pictures" / "1.jpg"
    cells = [
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        Image.open(path),
        Image.open(path).convert("CMYK"),
        np.zeros((4, 4, 3), np.uint8),
        str(path),
        path.as_uri(),
        [path.read_bytes()],
    ]
    rows = load_rows([{"image": cell, "question": f"{i}?", "answer": "x"} for i, cell in enumerate(cells)])
    assert all(Image.open(path).size in ((8, 6), (4, 4)) for path in rows["image"][:])
    assert rows["image_id"][0] == rows["image_id"][1] != rows["image_id"][5]
    train, held_out = split_by_image(rows, 0.4, seed=0)
    sides = [{Path(p).read_bytes() for p in part["image"][:]} for part in (train, held_out)]
    assert not sides[0] & sides[1]
    with pytest.raises(VQADataError, match="there are 2 pictures in the row"):
        load_rows([{"image": [path.read_bytes()] * 2, "answer": "x"}])
    with pytest.raises(VQADataError, match=r"row 1 .*column 'image': the picture in the row cannot be kept"):
        load_rows([{"image": path.read_bytes(), "answer": "x"}, {"image": Image.new("F", (4, 4)), "answer": "x"}])


def test_features_of_a_dataset_are_used(folder):
    paths = [str(folder / "pictures" / name) for name in NAMES[:2]]
    data = datasets.Dataset.from_dict({"image": paths, "label": [1, 0]})
    data = data.cast_column("image", datasets.Image())
    data = data.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    data.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(folder / "parts")
    data.to_parquet(folder / "own.parquet")
    for way in (data, data.to_iterable_dataset(), folder / "saved", folder / "own.parquet", folder / "parts"):
        rows = load_rows(way)
        assert rows["answers"][:] == [["dog"], ["cat"]]
        assert rows["question"][:] == ["", ""]
        assert [Path(path).read_bytes() for path in rows["image"][:]] == [Path(path).read_bytes() for path in paths]
    assert load_rows(folder / "parts", split="test")["answers"][:] == [["cat"]]
    assert load_rows(data, where={"label": "dog"})["question_id"][:] == [0]


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_folders_of_pictures_with_metadata(metadata, folder):
    entry = {"image_file_name": "zwei drei.png", "question": "what is it?", "label": 3}
    path = folder / "pictures" / metadata
    path.write_text(json.dumps(entry) if metadata.endswith("l") else write(path, [entry]).read_text())
    (row,) = load_rows(folder / "pictures")
    assert (row["image"], row["answers"]) == (str(folder / "pictures" / "zwei drei.png"), ["3"])
    assert "2 of the 3 pictures in" in understand(folder / "pictures").table()


def test_folders_named_by_their_label(folder):
    for part in ("train/cat", "train/dog", "test/dog"):
        (folder / "all" / part).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "all" / part / "1.png")
    rows = load_rows(folder / "all")
    assert (rows["answers"][:], rows["question"][:]) == ([["cat"], ["dog"]], ["", ""])
    assert load_rows(folder / "all", split="test")["image"][:] == [str(folder / "all/test/dog/1.png")]
    with pytest.raises(VQADataError, match="has the parts test, train, not 'validation'"):
        load_rows(folder / "all", split="validation")
    assert load_rows(folder / "pictures")["answers"][:] == [[]] * 3


def test_files_of_a_folder_by_the_part_in_their_names(folder):
    for part in ("train", "validation"):
        write(folder / "parts" / f"{part}-00000-of-00001.csv", ROWS[: 1 + (part == "train")])
    assert len(load_rows(folder / "parts", images=folder / "pictures")) == 2
    assert len(load_rows(folder / "parts", images=folder / "pictures", split="validation")) == 1
    with pytest.raises(VQADataError, match="none for 'test' by its name among several tables: train-00000"):
        load_rows(folder / "parts", split="test")
    (folder / "parts" / "data").mkdir()
    for path in (folder / "parts").glob("*.csv"):
        path.rename(folder / "parts" / "data" / path.name)
    assert len(load_rows(folder / "parts", images=folder / "pictures")) == 2
    write(folder / "pictures" / "deep" / "own.csv")
    with pytest.raises(VQADataError, match=r"holds pictures, and tables in its folders: deep/own\.csv"):
        load_rows(folder / "pictures")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ('image, question, answer\n1.jpg, "how many, really?", 2\n', [["2"]]),
        ("sep=;\nimage;question;answer\n1.jpg;how many, really?;2,5\n", [["2,5"]]),
        ("image\tquestion\tanswer\n1.jpg\thow many, really?\t2\n", [["2"]]),
        ("image|question|answer\n1.jpg|how many, really?|2\n", [["2"]]),
        ("\n\nimage,question,answer,\n1.jpg,what?,2,\n\n", [["2"]]),
        (",image,question,answer\n0,1.jpg,what?,2\n", [["2"]]),
        ("image,question,answer\r1.jpg,what?,2\r", [["2"]]),
    ],
)
def test_what_programs_write_as_csv_is_read(text, answers, folder):
    (folder / "pictures" / "own.csv").write_text(text, newline="")
    rows = load_rows(folder / "pictures" / "own.csv")
    assert rows["answers"][:] == answers
    assert rows["question"][0] in ("how many, really?", "what?")


def test_rows_that_were_loaded_load_again_as_they_are(folder):
    for more in ({}, {"question_id": "a"}):
        rows = load_rows([{**ROWS[0], **more}], images=folder / "pictures")
        assert load_rows(rows).to_list() == rows.to_list()


def test_long_numbers_are_kept_whole(folder):
    numbers = ["1234567890123456789", "1234567890123456788"]
    (folder / "own.csv").write_text("id,question,answer,code\n" + "".join(f"{n},what?,x,{n}0\n" for n in numbers))
    rows = load_rows(folder / "own.csv")
    assert (rows["question_id"][:], rows["code"][:]) == (numbers, [f"{n}0" for n in numbers])


def test_a_column_of_names_is_the_picture_where_image_holds_numbers(folder):
    rows = [{"image": 5, "image_path": "1.jpg", "question": "a?", "answer": "b"}]
    (row,) = load_rows(rows, images=folder / "pictures")
    assert (row["image"], row["source_image"]) == (str(folder / "pictures" / "1.jpg"), 5)


def test_a_part_of_a_table_by_its_column_under_any_of_its_names(folder):
    rows = [{"question": "a?", "answer": "x", "split": "val"}, {"question": "b?", "answer": "x", "split": "train"}]
    assert load_rows(rows, split="validation")["question"][:] == ["a?"]
    assert load_rows(rows)["split"][:] == ["val", "train"]
    # A file of one part is that part, also to who asks for the rows to train on.
    assert load_rows(rows[:1], split="train")["question"][:] == ["a?"]
    assert "All rows are of the part 'val'" in understand(rows[:1], split="train").table()
    with pytest.raises(VQADataError, match="fits split = test or testing"):
        load_rows(rows[:1], split="test")


def test_a_table_of_labels_without_questions_and_one_of_texts_beside_few_pictures(folder):
    (folder / "labels.csv").write_text("photo,species\n1.jpg,cat\nTür.png,dog\n")
    rows = load_rows(folder / "labels.csv", images=folder / "pictures")
    assert (rows["question"][:], rows["answers"][:]) == (["", ""], [["cat"], ["dog"]])
    (folder / "texts.csv").write_text("text,image,label\nI like it,1.jpg,good\nnot at all,,bad\n")
    rows = load_rows(folder / "texts.csv")
    assert (rows["image"][1], rows["image_id"][1], rows["question"][1]) == ("", "", "not at all")
    assert "1 of the rows looked at have no image" in understand(folder / "texts.csv").table()
    (folder / "alone.csv").write_text("text,label\nI like it,good\n")
    assert load_rows(folder / "alone.csv")["image"][:] == [""]


def test_what_is_empty_is_nothing_and_words_are_words(folder):
    path = folder / "own.csv"
    path.write_text("image,question,answer,age,code\n1.jpg,a?,nan,3,007\n1.jpg,b?,None,,008\n")
    rows = load_rows(path, images=folder / "pictures")
    assert rows["answers"][:] == [["nan"], ["None"]]
    assert (rows["age"][:], rows["code"][:]) == ([3, None], ["007", "008"])
    assert "2 cells of 'answer' say nan, none or null" in understand(path).table()
    frame = pandas.DataFrame({"question": ["a?", "b?"], "image": ["1.jpg", np.nan], "answer": [3, np.nan]})
    with pytest.raises(VQADataError, match=r"row 1 .*column 'answer': the row has no answer"):
        load_rows(frame, images=folder / "pictures")
    assert load_rows(frame.head(1), images=folder / "pictures")["answers"][:] == [["3"]]


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        (["red, blue", "green"], [["red, blue"], ["green"]]),
        (['["red", "blue"]', "['green']"], [["red", "blue"], ["green"]]),
        (["[red]", "green"], [["[red]"], ["green"]]),
        ([["red", "blue"], ["green"]], [["red", "blue"], ["green"]]),
        ([[{"answer": "red"}], [{"answer": "blue", "answer_id": 1}]], [["red"], ["blue"]]),
        ([1, 2], [["1"], ["2"]]),
        ([0.5, 2.0], [["0.5"], ["2"]]),
        ([True, False], [["true"], ["false"]]),
    ],
)
def test_answers_are_lists_only_where_they_are_written_so(cells, answers):
    rows = load_rows([{"question": f"{i}?", "answers": cell} for i, cell in enumerate(cells)])
    assert rows["answers"][:] == answers


def test_columns_say_what_names_do_not(folder):
    row = {"image": "1.jpg", "other": "Tür.png", "question": "a?", "first": "x", "second": "y", "nr": "q7", "Alter": 5}
    columns = {"image": "other", "answer": ["first", "second"], "id": "nr", "age": "Alter"}
    (loaded,) = load_rows([row], images=folder / "pictures", columns=columns)
    assert (loaded["image"], loaded["answers"]) == (str(folder / "pictures" / "Tür.png"), ["x", "y"])
    assert (loaded["question_id"], loaded["age"], loaded["source_image"]) == ("q7", 5, "1.jpg")
    assert load_rows([row], columns={"image": None, "answers": None})[0]["answers"] == []


@pytest.mark.parametrize(
    "name", ["./1.jpg", ".\\1.jpg", "1", " 1.jpg", "C:\\me\\pictures\\1.jpg", "/home/me/1.jpg", "%31.jpg", 1]
)
def test_names_of_pictures_are_understood_as_they_are_written(name, folder):
    (row,) = load_rows([{"image": name, "question": "a?", "answer": "b"}], images=folder / "pictures")
    assert row["image"] == str(folder / "pictures" / "1.jpg")


def test_two_paths_of_another_machine_never_lead_to_one_file(folder):
    rows = [{"image": f"C:\\{name}\\1.jpg", "question": "a?", "answer": "b"} for name in ("x", "y")]
    with pytest.raises(VQADataError, match=r"ambiguous_image(?s:.*)both lead to"):
        load_rows(rows, images=folder / "pictures")


def test_names_may_be_composed_otherwise_and_lie_in_a_folder_beside(folder):
    write(folder / "own.csv", [{**ROWS[2], "image": "Tu\u0308r.png"}])
    assert load_rows(folder / "own.csv")["image"][:] == [str(folder / "pictures" / "Tür.png")]


def test_numbers_find_numbered_pictures(folder):
    for number in (7, 12):
        Image.new("RGB", (4, 4)).save(folder / "pictures" / f"COCO_val2014_{number:012d}.jpg")
    rows = load_rows(pandas.DataFrame({"image_id": [7, 12], "question": ["a?", "b?"]}), images=folder / "pictures")
    assert rows["image_id"][:] == ["7", "12"]
    assert rows["image"][1].endswith("COCO_val2014_000000000012.jpg")


def test_pictures_and_tables_at_addresses_are_fetched_once(folder, web):
    write(folder / "pictures" / "own.csv")
    rows = load_rows(f"{web.address}/own.csv")
    assert [Path(path).read_bytes() for path in rows["image"][:]] == [
        (folder / "pictures" / name).read_bytes() for name in NAMES
    ]
    asked = len(web.asked)
    row = {"image": f"{web.address}/1.jpg", "question": "a?", "answer": "b"}
    load_rows([row, row])
    load_rows([row])
    assert [path for path in web.asked[asked:] if path == "/1.jpg"] == []
    with pytest.raises(VQADataError, match=r"row 0 .*the picture http.*none\.jpg cannot be fetched"):
        load_rows([{**row, "image": f"{web.address}/none.jpg"}])
    with pytest.raises(VQADataError, match=r"none\.csv cannot be read .*Check the address"):
        load_rows(f"{web.address}/none.csv")


@pytest.fixture
def web(folder):
    class Handler(SimpleHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def __init__(self, *args):
            super().__init__(*args, directory=str(folder / "pictures"))

        def do_GET(self):
            self.asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    Handler.address = f"http://127.0.0.1:{server.server_port}"
    yield Handler
    server.shutdown()


def test_a_downloaded_table_names_no_files_of_this_machine(folder, monkeypatch):
    path = str(folder / "pictures" / "1.jpg")
    data = datasets.Dataset.from_list([{"image": path, "question": "a?", "answer": "b"}])
    monkeypatch.setattr(containers, "_open_named", lambda *args: data)
    with pytest.raises(VQADataError, match="give the folder that holds it as images"):
        load_rows("someone/data")
    assert load_rows("someone/data", images=folder / "pictures")["image"][:] == [path]
    for address in (f"file://{path}", f"local://{path}", f"https://x::file://{path}"):
        data = datasets.Dataset.from_list([{"image": address, "question": "a?", "answer": "b"}])
        with pytest.raises(VQADataError, match=r"unsafe_image_name|give the folder"):
            load_rows("someone/data")


def test_what_was_understood_is_said_before_rows_are_read_and_is_an_object(folder):
    said = []
    (folder / "own.csv").write_text(
        "Bild;Frage;Antwort;Patient\n1.jpg;wie viele sind es?;2;a\nx.jpg;was ist das?;3;b\n"
    )
    with pytest.raises(VQADataError):
        load_rows(folder / "own.csv", say=said.append)
    found = understand(folder / "own.csv")
    assert said == [found.table()]
    assert [(use.name, use.role) for use in found.columns] == [
        ("Bild", "image"), ("Frage", "question"), ("Antwort", "answers"), ("Patient", "")
    ]  # fmt: skip
    assert (found.column("answers"), found.rows, found.source) == ("Antwort", 2, None)
    assert json.loads(json.dumps(found.as_dict()))["columns"][0]["why"] == "it holds pictures"


def test_many_rows_are_written_to_a_file_and_are_the_same(folder, monkeypatch):
    rows = [{"id": i * 7 % 5003, "question": f"{i}?", "answer": str(i % 5), "half": i / 2} for i in range(5000)]
    path = write(folder / "own.csv", rows)
    small = load_rows(path)
    monkeypatch.setattr(writer, "IN_MEMORY", 1000)
    large = load_rows(path, cache_dir=folder / "kept")
    assert large.cache_files
    assert not small.cache_files
    assert large.to_list() == small.to_list()
    write(folder / "own.csv", [*rows, {**rows[3], "question": "again?"}])
    with pytest.raises(VQADataError, match=r"line 5002, column 'id': the id 21 stands in line 5, too"):
        load_rows(path, cache_dir=folder / "kept")
