"""What a small file may ask for: entries are read one by one, and their number, size and sum are bounded."""

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_ume.data import json_entries, rows
from training_ume.data.json_entries import JSONEntries, VQADataError
from training_ume.data.load import load_vqa

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(["questions", "info", "ü", ""]), plain, max_size=4) | plain


@settings(max_examples=60, deadline=None)
@given(
    documents,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-le"]),
    st.sampled_from([None, 1]),
    st.integers(4, 9),
    st.booleans(),
)
def test_any_json_gives_the_entries_that_the_json_module_finds(
    tmp_path_factory, document, encoding, indent, chunk, cut
):
    content = json.dumps(document, ensure_ascii=False, indent=indent).encode(encoding)
    content = content[: len(content) // 2] if cut else content
    path = tmp_path_factory.mktemp("json") / "q.json"
    path.write_bytes(content)
    try:
        whole = json.loads(content)
    except ValueError:
        whole = None
    wanted = whole.get("questions") if isinstance(whole, dict) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_entries, "CHUNK", chunk)
        try:
            got = list(JSONEntries(path, "questions"))
        except VQADataError:
            got = None
    assert got == (wanted if isinstance(wanted, list) else None)


@pytest.mark.parametrize("number", ["0.0", "-1.25e-7", "3E+2", "12345", "1e5"])
@pytest.mark.parametrize("chunk", range(4, 12))
def test_a_number_is_read_whole_wherever_a_chunk_ends(tmp_path, monkeypatch, number, chunk):
    (tmp_path / "q.json").write_text(f'{{"info": {number}, "questions": [{number}]}}')
    monkeypatch.setattr(json_entries, "CHUNK", chunk)
    assert list(JSONEntries(tmp_path / "q.json", "questions")) == [json.loads(number)]


def official(**content) -> str:
    return json.dumps(content)


HOSTILE = {
    "empty entries": (b'{"questions":[' + b"[]," * 30_000 + b"[]]}", "1001 problem"),
    "entries in another list": (b'{"info":[' + b"0," * 30_000 + b'0],"questions":[]}', "more than 20,000 entries"),
    "keys": (b"{" + b",".join(b'"%d":0' % i for i in range(30_000)) + b"}", "more than 20,000 entries"),
    "a long string": (b'{"questions":["' + b"a" * 1_500_000 + b'"]}', "more than 1,048,576 characters"),
    "a long key": (b'{"' + b"k" * 1_500_000 + b'":1,"questions":[]}', "more than 1,048,576 characters"),
    "a long number": (b'{"questions":[' + b"1" * 1_500_000 + b"]}", r"not valid JSON|characters"),
    "a long list in an entry": (b'{"questions":[[' + b"0," * 800_000 + b"0]]}", "more than 1,048,576 characters"),
    "nesting": (b'{"questions":[' + b"[" * 500_000, "not valid JSON"),
    "nesting elsewhere": (b'{"info":' + b"[" * 500_000, "not valid JSON"),
    "an entry with a key twice": (b'{"questions":[{"a":1,"a":2}]}', "ambiguous JSON"),
    "the list twice": (b'{"questions":[],"questions":[]}', "ambiguous JSON"),
    "no end": (b'{"questions":[' + b"1,", "not valid JSON"),
    "two documents": (b'{"questions":[]}{}', "not valid JSON"),
}


@pytest.mark.parametrize("packed", ["json", "gz", "zip"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_asks_for_too_much_is_refused_with_its_name(kind, packed, tmp_path, monkeypatch):
    if packed != "gz" and kind not in ("empty entries", "nesting", "a long string"):
        pytest.skip("the same code reads them")
    content, said = HOSTILE[kind]
    monkeypatch.setenv("UME_MAX_ENTRIES", "20000")
    monkeypatch.setattr(rows, "KEPT_PROBLEMS", 1000)
    path = tmp_path / f"q.{packed}"
    if packed == "json":
        path.write_bytes(content)
    elif packed == "gz":
        path.write_bytes(gzip.compress(content, 1))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("q.json", content)
    with pytest.raises(VQADataError, match=said) as caught:
        load_vqa(questions=path)
    assert f"q.{packed}" in str(caught.value)


def test_the_limit_on_entries_is_named_and_can_be_raised(tmp_path, monkeypatch):
    path = tmp_path / "q.json"
    entries = [{"question_id": i, "image_id": 1, "question": "what?"} for i in range(20_000)]
    path.write_text(official(questions=entries))
    monkeypatch.setenv("UME_MAX_ENTRIES", "9999")
    with pytest.raises(VQADataError, match=r"more than 9,999 entries.*UME_MAX_ENTRIES"):
        load_vqa(questions=path)
    monkeypatch.setenv("UME_MAX_ENTRIES", "many")
    with pytest.raises(ValueError, match="UME_MAX_ENTRIES='many' is no number"):
        load_vqa(questions=path)
    monkeypatch.delenv("UME_MAX_ENTRIES")
    assert len(load_vqa(questions=path)) == 20_000


def test_all_members_of_an_archive_share_one_limit(tmp_path, monkeypatch):
    path = tmp_path / "q.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.json", json.dumps({"other": ["x" * 100] * 3}))
        archive.writestr("q.json", official(questions=[{"question_id": 1, "image_id": 1, "question": "what?"}]))
    assert len(load_vqa(questions=path)) == 1
    monkeypatch.setattr(json_entries, "MAX_UNPACKED", 1000)  # each has 300
    with pytest.raises(VQADataError, match=r"json holds more than .* Unpack it yourself"):
        load_vqa(questions=path)


def test_what_unpacks_to_hundreds_of_times_its_size_is_refused_before_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(json_entries, "RATIO_FROM", 100_000)
    entries = [{"question_id": i, "image_id": 1, "question": "what is it?" * 200} for i in range(2000)]
    path = tmp_path / "q.gz"
    path.write_bytes(gzip.compress(official(questions=entries).encode()))
    with pytest.raises(VQADataError, match=r"200 times as much as it has packed"):
        load_vqa(questions=path)


def test_of_many_problems_the_first_are_listed_and_the_others_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_PROBLEMS", 10)
    good = {"question_id": 1, "image_id": 1, "question": "what?"}
    (tmp_path / "q.json").write_text(official(questions=[{}] * 50 + [good]))
    arguments = {"questions": tmp_path / "q.json", "skipped_log": tmp_path / "log"}
    assert len(load_vqa(**arguments, on_error="skip")) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].startswith("# 1 questions kept, 50 entries skipped: 50 × malformed_entry")
    assert len(lines) == 2 + 10 + 1
    assert lines[-1] == "# and 40 more, which are not listed"
    with pytest.raises(VQADataError, match=r"11 problem.*read no further"):
        load_vqa(**arguments)


def test_a_question_with_a_million_answers_is_malformed(tmp_path):
    question = {"question_id": 1, "image_id": 1, "question": "what?"}
    (tmp_path / "q.json").write_text(official(questions=[question]))
    (tmp_path / "a.json").write_text(official(annotations=[{"question_id": 1, "answers": ["a"] * 100_000}]))
    with pytest.raises(VQADataError, match="100000 answers, and 1000 are the most"):
        load_vqa(questions=tmp_path / "q.json", annotations=tmp_path / "a.json")


def test_a_table_of_very_many_equal_rows_is_refused_before_it_is_written_out(tmp_path, monkeypatch):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int8()), ["what?"])
    parquet.write_table(pa.table({"question": column}), tmp_path / "rows.parquet")
    monkeypatch.setenv("UME_MAX_ENTRIES", "1000")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("it was written out"))
    with pytest.raises(VQADataError, match="more than 1,000 entries"):
        load_vqa(str(tmp_path))


MEASURE = """
import resource, sys
from training_ume.data.load import load_vqa
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
before = peak()
try:
    load_vqa(questions=sys.argv[1], on_error=sys.argv[2], skipped_log=sys.argv[1] + ".log")
except ValueError as error:
    print("refused:", str(error)[:80].replace("\\n", " "))
print(peak() - before)
"""


def test_no_more_is_read_than_is_asked_for(tmp_path):
    path = tmp_path / "q.json"
    path.write_bytes(b'{"questions":[' + b"[]," * 2**20 + b"and never a word of JSON")
    assert next(iter(JSONEntries(path, "questions"))) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_reading_a_small_archive_of_millions_of_entries_takes_little_memory(tmp_path, on_error):
    path = tmp_path / "q.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"questions":[' + b"[]," * 1_500_000 + b"[]]}")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), on_error], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, grown = done.stdout.splitlines()
    assert refused.startswith("refused: ")
    assert float(grown) < 150, "MB"  # 900 where every problem is kept
