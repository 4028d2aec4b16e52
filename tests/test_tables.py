"""load_rows reads whatever table people have, says what it understood, and drops nothing in silence."""

import gzip
import io
import json

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import ume
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import FEATURES
from training_ume.data.tables.load import load_rows

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
    pandas.DataFrame(rows).to_csv(path, sep=separator, index=False, encoding=encoding)
    return path


def picture_bytes(number=0):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 60, 0, 0)).save(file, "PNG")
    return file.getvalue()


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
