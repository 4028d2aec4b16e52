"""Which columns of a table are sounds, films, sensors or tables of numbers: one role for each modality there is."""

import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
from datasets import Dataset
from PIL import Image

from configuration_ume.data_arguments import DataArguments
from modeling_ume.cells_ume import as_number, decimal_sign, numbers_in
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from training_ume.data.json_entries import VQADataError
from training_ume.data.profile import profile
from training_ume.data.splits import split_rows
from training_ume.data.tables.load import load_rows, understand
from training_ume.report.data import data_lines


class Sound(Modality):
    """Stands in files."""

    name, noun, suffixes, beside, in_files = "noise", "noise", (".snd",), ("noises",), True
    column_names = (("recording",),)

    def open(self, cell, content=None):
        text = Path(cell).read_bytes() if content is None else content
        if text.startswith(b"bad"):
            raise ValueError(f"{cell} is no noise")
        return text


class Steps(Modality):
    """Numbers in several columns."""

    name, noun, joins, depth = "steps", "recording", True, 2

    def cell(self, cells):
        columns = [numbers_in(value) for value in cells.values()]
        if all(column is None for column in columns):
            return None
        if len({len(column) for column in columns}) > 1:
            raise ValueError("the columns have different lengths")
        return [list(step) for step in zip(*columns, strict=True)]


class Values(Modality):
    """Columns by name."""

    name, noun, joins, by_name = "values", "values", True, True

    def lacks(self, cell):
        return cell is None or all(value is None for value in cell.values())


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    for kind in (Sound(), Steps(), Values()):
        monkeypatch.setitem(MODALITIES, kind.name, kind)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "noises").mkdir()
    for name in "abc":
        (tmp_path / "noises" / f"{name}.snd").write_bytes(name.encode())
    return tmp_path


def written(folder, rows) -> str:
    pandas.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    return str(folder / "own.csv")


def test_files_are_told_by_their_endings_and_found_beside_the_table_or_in_the_folder(folder):
    rows = [{"clip": f"{name}.snd", "label": "yes"} for name in "abc"]
    found = load_rows(written(folder, rows))
    assert found["noise"][:] == [str(folder / "noises" / f"{name}.snd") for name in "abc"]
    assert found["question"][:] == found["image"][:] == ["", "", ""]
    (folder / "noises").rename(folder / "elsewhere")
    for argument in ("files", "images"):
        assert load_rows(rows, **{argument: folder / "elsewhere"})["noise"][0].endswith("elsewhere/a.snd")
    with pytest.raises(VQADataError, match=r"the noise is only the name 'a\.snd'; give the folder"):
        load_rows(rows)
    with pytest.raises(ValueError, match="two names of one folder"):
        load_rows(rows, files="x", images="y")


def test_files_by_name_or_by_their_content_and_rows_without_one(folder):
    content = {"bytes": b"inside", "path": "x.snd"}
    rows = [{"recording": content, "image": str(folder / "a.png"), "label": "a"}, {"image": str(folder / "a.png")}]
    found = load_rows(rows, columns={"answer": None}, cache_dir=folder / "cache")
    first, second = found["noise"][:]
    assert (Path(first).read_bytes(), first[-4:], second) == (b"inside", ".snd", "")
    assert found["image"][0] == str(folder / "a.png")


def test_a_column_that_is_only_called_so_is_none(folder):
    rows = [{"image": str(folder / "a.png"), "noise": "loud", "steps": "Main Street", "label": "x"}]
    found = load_rows(rows)
    assert (found["noise"][0], found["steps"][0]) == ("loud", "Main Street")


def test_broken_files_are_found_beforehand(folder):
    (folder / "noises" / "b.snd").write_bytes(b"bad")
    table, log = written(folder, [{"noise": f"{name}.snd", "answer": "yes"} for name in "abc"]), folder / "log.tsv"
    with pytest.raises(VQADataError, match=r"1 × broken_noise.*\n.*b.snd: question_id 1: .*is no noise"):
        load_rows(table, check_images=True)
    assert len(load_rows(table, on_error="skip", skipped_log=log)) == 2
    assert "broken_noise" in log.read_text()


@pytest.mark.parametrize(
    "cells",
    [
        {"ecg": "[1, 2.5, null]", "speed": "[4, 5, 6]"},
        {"ecg": "1 2.5 NA", "speed": "4;5;6"},
        {"ecg": [1, 2.5, None], "speed": (4, 5, 6)},
        {"ecg": np.array([1, 2.5, np.nan]), "speed": np.array([4, 5, 6])},
    ],
)
def test_several_columns_make_one_cell(cells):
    rows = [{**cells, "label": "a"}, {"ecg": None, "speed": None, "question": "?", "label": "b"}]
    found = load_rows(rows, columns={"steps": ["ecg", "speed"]})
    np.testing.assert_array_equal(found["steps"][0], [[1, 4], [2.5, 5], [math.nan, 6]])
    assert found["steps"][1] is None
    assert "2 columns make one recording: 'ecg', 'speed'." in understand(rows, columns={"steps": "ecg,speed"}).table()


def test_numbers_that_cannot_be_read_are_told_with_row_and_column():
    rows = [{"ecg": [1, 2], "speed": [1, 2, 3], "label": "a"}]
    with pytest.raises(VQADataError, match=r"malformed_recording.*\n.*row 0.*the columns have different lengths"):
        load_rows(rows, columns={"steps": ["ecg", "speed"]})
    with pytest.raises(VQADataError, match="there are infinite numbers in it"):
        load_rows([{"steps": [[1.0, math.inf]], "label": "a"}])


HOUSES = [
    {"area": "1.200,5", "rooms": 3, "zip": 93510, "pool": "yes", "price": "high", "note": "n1"},
    {"area": "80,25", "rooms": None, "zip": 85255, "pool": "NA", "price": "low", "note": "n2"},
    {"area": "-", "rooms": 5, "zip": 93510, "pool": "none", "price": "low", "note": "n3"},
]
WANTED = [
    {"area": 1200.5, "rooms": 3.0, "zip": "93510", "pool": "yes"},
    {"area": 80.25, "rooms": None, "zip": "85255", "pool": None},
    {"area": None, "rooms": 5.0, "zip": "93510", "pool": "none"},
]


@pytest.mark.parametrize("container", ["entries", "csv", "pandas", "dataset", "parquet", "jsonl", "stream"])
def test_named_columns_stay_apart_as_numbers_and_words_in_whatever_they_come(container, tmp_path):
    frame = pandas.DataFrame(HOUSES)
    data = {
        "entries": lambda: HOUSES,
        "csv": lambda: written(tmp_path, HOUSES),
        "pandas": lambda: frame,
        "dataset": lambda: Dataset.from_list(HOUSES),
        "stream": lambda: Dataset.from_list(HOUSES).to_iterable_dataset(),
        "parquet": lambda: (frame.to_parquet(tmp_path / "own.parquet"), str(tmp_path / "own.parquet"))[1],
        "jsonl": lambda: (
            (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, HOUSES))), str(tmp_path / "own.jsonl")
        )[1],
    }[container]()  # fmt: skip
    columns = {"values": ["area", "rooms", "zip", "pool"], "answer": "price"}
    found = load_rows(data, columns=columns)
    # A csv that pandas has written has no NA: the cell is empty.
    assert found["values"][:] == WANTED
    assert found["zip"][0] == 93510, "for --split_by"
    said = understand(data, columns=columns).table()
    assert "Of the values, numbers: 'area', 'rooms'." in said
    assert "The numbers of 'zip' are taken as names, not as amounts; zip:number says otherwise." in said
    assert load_rows(found, columns={"answer": "answers"})["values"][:] == WANTED, "rows are a table, too"


def test_all_columns_that_are_left_and_patterns_and_what_a_column_is_said_to_be():
    given = {"values": "*", "answer": "price"}
    (first, *_) = load_rows(HOUSES, columns=given)["values"]
    assert set(first) == {"area", "rooms", "zip", "pool", "note"}
    said = understand(HOUSES, columns=given)
    assert {use.role for use in said.columns if use.name != "price"} == {"values"}
    assert said.columns[0].why == "columns says so: all that are left"
    (first, *_) = load_rows(HOUSES, columns={"values": ["*o*:category", "zip:number"], "answer": "price"})["values"]
    assert first == {"rooms": "3", "pool": "yes", "note": "n1", "zip": 93510.0}


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"values": ["area", "price"], "answer": "price"}, "'price' is given for 'values' and is the answer"),
        ({"values": ["area", "area"], "answer": "price"}, "'area' twice for 'values'"),
        ({"values": ["aera"], "answer": "price"}, "no column 'aera'.*Did you mean 'area'"),
        ({"values": [], "answer": "price"}, "gives no column for 'values'"),
        ({"question": ["area", "note"]}, "gives several columns for 'question'; only answers, .*steps, values may"),
        ({"valeus": "area"}, "Did you mean 'values'"),
    ],
)
def test_columns_that_do_not_fit_are_told(columns, sentence):
    with pytest.raises(VQADataError, match=sentence):
        load_rows(HOUSES, columns=columns)


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["1,234", "12,000"], "the comma may stand before thousands or before decimals"),
        ([[1, 2], [3]], "holds lists, for example .*takes numbers and words"),
        ([*map(str, range(20)), "a lot"], "holds numbers, and 'a lot' among them"),
        ([math.inf, 1.0], "inf is infinite: write a number, or leave the cell empty"),
    ],
)
def test_cells_that_are_neither_one_nor_the_other_are_told(cells, sentence):
    rows = [{"area": cell, "label": "ab"[i % 2]} for i, cell in enumerate(cells)]
    with pytest.raises(VQADataError, match=sentence):
        load_rows(rows, columns={"values": "area"})


def test_numbers_as_they_are_written():
    assert [as_number(text) for text in ("1.234,5", "1,234.5", "-3,5", "1 2"[:1], True, " NA ")] == [
        1234.5, 1234.5, -3.5, 1.0, 1.0, None,
    ]  # fmt: skip
    assert [decimal_sign(texts) for texts in (["1,234", "0,5"], ["1,234", "2.5"], ["1,234"], ["7"])] == [
        ",", ".", None, ".",
    ]  # fmt: skip
    assert as_number("1,234", ",") == 1.234
    assert as_number("1.234", ",") == 1234
    for text in ("1_000", "007", "$5", "five", "inf"):
        with pytest.raises(ValueError, match=r"is no number|is infinite"):
            as_number(text)


def test_rows_without_questions_and_pictures_are_split_and_counted(tmp_path):
    rows = [{"area": float(i), "label": "ab"[i % 2]} for i in range(20)]
    train, held_out = split_rows(load_rows(rows, columns={"values": "area"}), 0.2, 0)
    assert (len(train), len(held_out)) == (16, 4)
    facts = profile(written(tmp_path, rows), columns={"values": "area", "answer": "label"})
    assert any("20 with values, 20 with an answer" in line for line in data_lines(facts))


def test_copies_of_one_file_stay_on_one_side(folder):
    (folder / "noises" / "b.snd").write_bytes(b"a")
    rows = load_rows(written(folder, [{"noise": f"{name}.snd", "label": name} for name in "abc"]))
    for seed in range(5):
        parts = split_rows(rows, 0.4, seed)
        assert sorted(len(part) for part in parts) == [1, 2]


def test_a_folder_of_files_named_by_their_label(folder):
    for label in ("dog", "cat"):
        (folder / "sounds" / label).mkdir(parents=True)
        (folder / "sounds" / label / "1.snd").write_bytes(label.encode())
    rows = load_rows(folder / "sounds")
    assert rows["answers"][:] == [["cat"], ["dog"]]
    assert rows["noise"][0].endswith("cat/1.snd")


def test_the_folder_of_files_has_two_names():
    assert DataArguments(data=["own.csv"], files="pictures").images == "pictures"
    with pytest.raises(ValueError, match="two names of one folder"):
        DataArguments(data=["own.csv"], files="a", images="b")


def features(folder, rows=6):
    random = np.random.default_rng(0)
    np.savez(
        folder / "own.npz",
        sound=random.normal(size=(rows, 4)),
        face=random.normal(size=(rows, 3)),
        label=np.array(["a", "b"] * (rows // 2)),
        about=np.array("made up"),
    )
    return folder / "own.npz"


def test_arrays_of_numpy_are_a_table_and_vectors_are_one_step_or_a_column_an_entry(tmp_path):
    path = features(tmp_path)
    with np.load(path) as held:
        columns = {"series": "sound:step", "values": "face", "answer": "label"}
        rows = load_rows(path, columns=columns)
        np.testing.assert_array_equal(rows["series"][1], held["sound"][1:2])
        assert list(rows["values"][0]) == ["face[0]", "face[1]", "face[2]"]
        np.testing.assert_array_equal([list(cell.values()) for cell in rows["values"]], held["face"])
    assert rows["answers"][:2] == [["a"], ["b"]]
    assert "Left out, as they have no row for each of 6: about." in understand(path, columns=columns).table()
    assert "face" not in rows.column_names
    again = load_rows(rows.to_list(), columns={"answer": "answers"})
    assert again["series"][:] == rows["series"][:]


def test_arrays_that_cannot_be_read_are_told(tmp_path):
    for name, what, said in (
        ("objects", {"a": np.array([{}], dtype=object)}, "hold Python's objects"),
        ("empty", {"a": np.zeros((0, 2))}, "has no rows"),
        ("single", {"a": np.array(3)}, "has no rows"),
    ):
        np.savez(tmp_path / f"{name}.npz", **what)
        with pytest.raises(VQADataError, match=said):
            load_rows(tmp_path / f"{name}.npz")
    (tmp_path / "cut.npz").write_bytes(features(tmp_path).read_bytes()[:300])
    with pytest.raises(VQADataError, match=r"cut\.npz cannot be read"):
        load_rows(tmp_path / "cut.npz")
