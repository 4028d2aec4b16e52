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


def test_it_is_there_by_the_short_name():
    assert ume.load_rows is load_rows
