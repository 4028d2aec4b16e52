"""load_vqa reads every source into one row schema and names every problem; so do open_image and split_by_image."""

import gzip
import io
import json
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from training_ume.data import rows
from training_ume.data.images import infer_image_pattern, open_image
from training_ume.data.json_entries import VQADataError
from training_ume.data.load import load_vqa
from training_ume.data.rows import FEATURES
from training_ume.data.sources import hub
from training_ume.data.splits import split_by_image

SHARED = os.environ.get("UME_SHARED")
COCO_PATTERN = "COCO_val2014_{image_id:012d}.jpg"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def question(question_id, image_id, text="what is it?"):
    return {"question_id": question_id, "image_id": image_id, "question": text}


def annotation(question_id, image_id, answers=("cup",) * 10, **more):
    listed = [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(answers)]
    entry = {"question_id": question_id, "image_id": image_id, "answers": listed, "multiple_choice_answer": answers[0]}
    return entry | {"question_type": "what is", "answer_type": "other"} | more


@pytest.fixture
def official(tmp_path):
    """A folder of three COCO-named images, and a function that writes questions and annotations beside it."""
    images = tmp_path / "images"
    images.mkdir()
    for number in (3, 25, 581929):
        Image.new("RGB", (8, 6), (number % 255, 0, 0)).save(images / f"COCO_train2014_{number:012d}.jpg")

    def write(questions, annotations=None, **more):
        files = {"questions": tmp_path / "q.json"}
        files["questions"].write_text(json.dumps({"info": {}, "questions": questions}))
        if annotations is not None:
            files["annotations"] = tmp_path / "a.json"
            files["annotations"].write_text(json.dumps({"info": {}, "annotations": annotations}))
        return files | {"images": images} | more

    write.images = images
    return write


GOOD_QUESTIONS = [question(250, 25), question(251, 25, "how many?"), question(30, 3)]
GOOD_ANNOTATIONS = [annotation(30, 3), annotation(250, 25, ["a", "b"] * 5), annotation(251, 25)]


def test_official_files_become_rows_in_the_order_of_the_questions(official):
    rows = load_vqa(**official(GOOD_QUESTIONS, GOOD_ANNOTATIONS))
    assert rows.features == FEATURES
    assert rows["question_id"][:] == [250, 251, 30]
    assert rows[0] == {
        "question_id": 250,
        "image_id": "25",
        "question": "what is it?",
        "image": str(official.images / "COCO_train2014_000000000025.jpg"),
        "answers": ["a", "b"] * 5,
        "question_type": "what is",
        "answer_type": "other",
    }


def test_a_test_set_without_annotations_has_rows_without_answers(official):
    rows = load_vqa(**official(GOOD_QUESTIONS))
    assert rows["answers"][:] == [[], [], []]


def test_text_alone_loads_without_an_image_folder(official):
    rows = load_vqa(**official(GOOD_QUESTIONS, GOOD_ANNOTATIONS, images=None))
    assert rows["image"][:] == ["", "", ""]


def test_gzip_and_the_official_zip_give_the_same_rows_as_plain_json(official, tmp_path):
    files = official(GOOD_QUESTIONS, GOOD_ANNOTATIONS)
    plain = load_vqa(**files)
    zipped = tmp_path / "v2_Questions_Train_mscoco.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("__MACOSX/._v2_questions.json", "shadow")
        archive.write(files["questions"], "v2_OpenEnded_mscoco_train2014_questions.json")
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(files["annotations"].read_bytes()))
    assert load_vqa(**files | {"questions": zipped, "annotations": packed}).to_list() == plain.to_list()
    assert sorted(p.name for p in tmp_path.rglob("*.json")) == ["a.json", "q.json"], "nothing may be extracted"


def test_a_zip_of_both_files_serves_as_both(official, tmp_path):
    files = official(GOOD_QUESTIONS, GOOD_ANNOTATIONS)
    both = tmp_path / "both.zip"
    with zipfile.ZipFile(both, "w") as archive:
        archive.write(files["questions"], "questions.json")
        archive.write(files["annotations"], "annotations.json")
    assert len(load_vqa(questions=both, annotations=both, images=official.images)) == 3


def test_a_zip_with_two_questions_files_asks_which_and_takes_the_answer(official, tmp_path):
    files = official(GOOD_QUESTIONS)
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(two, "w") as archive:
        archive.write(files["questions"], "test2015.json")
        archive.writestr("test-dev2015.json", json.dumps({"questions": [question(7, 3)]}))
    with pytest.raises(VQADataError, match=r"several questions files.*two\.zip::test2015\.json"):
        load_vqa(questions=two, images=official.images)
    assert load_vqa(questions=f"{two}::test-dev2015.json", images=official.images)["question_id"][:] == [7]


PROBLEMS = {
    "duplicate_question_id": ([*GOOD_QUESTIONS, question(30, 3)], GOOD_ANNOTATIONS, "question_id 30"),
    "question_without_annotation": (GOOD_QUESTIONS, GOOD_ANNOTATIONS[1:], "question_id 30"),
    "annotation_without_question": (GOOD_QUESTIONS, [*GOOD_ANNOTATIONS, annotation(99, 3)], "question_id 99"),
    "duplicate_annotation": (GOOD_QUESTIONS, [*GOOD_ANNOTATIONS, annotation(30, 3)], "question_id 30"),
    "missing_image": (
        [*GOOD_QUESTIONS, question(4, 4)],
        [*GOOD_ANNOTATIONS, annotation(4, 4)],
        "question_id 4:.*4.j",
    ),
    "image_id_mismatch": (GOOD_QUESTIONS, [annotation(30, 25), *GOOD_ANNOTATIONS[1:]], "question_id 30"),
    "malformed_entry": ([*GOOD_QUESTIONS, {"question_id": 5}], GOOD_ANNOTATIONS, "question_id 5:.*'image_id'"),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_problem_is_raised_with_file_and_id_or_skipped_with_a_line_in_the_log(kind, official, tmp_path, caplog):
    questions, annotations, named = PROBLEMS[kind]
    files = official(questions, annotations)
    with pytest.raises(VQADataError, match=rf"(?s)1 × {kind}.*\.json: {named}.*on_error='skip'"):
        load_vqa(**files)

    log = tmp_path / "logs" / "skipped.tsv"
    rows = load_vqa(**files, on_error="skip", skipped_log=log)
    lost = {"question_without_annotation": 1, "image_id_mismatch": 1}.get(kind, 0)
    assert len(rows) == 3 - lost
    lines = [line.split("\t") for line in log.read_text().splitlines() if not line.startswith("#")]
    assert [(line[0], line[2]) for line in lines] == [(kind, named.split(":")[0])]
    assert f"{3 - lost} questions kept, 1 entries skipped: 1 × {kind}" in caplog.text


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (question("seven", 3), "question_id must be"),
        (question(True, 3), "question_id must be"),
        (question("9" * 5000, 3), "question_id must be"),
        (question(7, "9" * 5000), "is not a number, which the pattern"),
        (question(2**63, 3), "question_id must be"),
        (question(7, 2.5), "image_id must be"),
        (question(7, None), "image_id must be"),
        (question(7, 3, 12), "question must be"),
        (question(7, 3, "  "), "question must be"),
        (question(7, 3, "half a pair \ud800"), "question must be"),
        ("a string", "an entry must be an object"),
    ],
)
def test_a_question_of_a_wrong_type_is_named(entry, reason, official):
    with pytest.raises(VQADataError, match=reason):
        load_vqa(**official([*GOOD_QUESTIONS, entry]))


@pytest.mark.parametrize("answers", [None, [], "cup", [{"answer": 5}], [7], [{"text": "cup"}], ["\ud800"]])
def test_an_annotation_with_malformed_answers_is_named_and_takes_its_question_along(answers, official, tmp_path):
    files = official(GOOD_QUESTIONS, [annotation(30, 3) | {"answers": answers}, *GOOD_ANNOTATIONS[1:]])
    with pytest.raises(VQADataError, match=r"1 × malformed_entry(?s:.*)a\.json: question_id 30"):
        load_vqa(**files)
    rows = load_vqa(**files, on_error="skip", skipped_log=tmp_path / "log")
    assert rows["question_id"][:] == [250, 251]
    assert len((tmp_path / "log").read_text().splitlines()) == 3, "one problem is one line, below two of heading"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"questions": [{"question_id": 1, ', "not valid JSON.*cut off"),
        (gzip.compress(b'{"questions": []}' * 99, mtime=0)[:-9], "cannot be read"),
        (b"PK\x03\x04 not really", "cannot be read"),
        (b"[1, 2]", "no list under the key 'questions'"),
        (b'{"annotations": []}', "no list under the key 'questions'"),
        (b'{"questions": {"1": 2}}', "no list under the key 'questions'"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_parsed_raises_with_its_name_even_when_skipping(content, reason, tmp_path):
    (tmp_path / "cut.json").write_bytes(content)
    with pytest.raises(VQADataError, match=rf"cut\.json.*{reason}|{reason}.*cut\.json"):
        load_vqa(questions=tmp_path / "cut.json", on_error="skip", skipped_log=tmp_path / "log")


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": [{"question_id": 1}], "questions": []}',
        '{"questions": [{"question_id": 1, "image_id": 3, "question": "a?", "question": "b?"}]}',
    ],
)
def test_a_key_that_is_there_twice_is_refused_as_one_would_be_dropped(text, tmp_path):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(VQADataError, match=r"q\.json is ambiguous JSON: an object has the key 'question"):
        load_vqa(questions=tmp_path / "q.json")


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_an_archive_that_unpacks_to_too_much_is_refused(packed, tmp_path, monkeypatch):
    content = json.dumps({"questions": [], "filling": " " * 10_000})
    if packed == "gz":
        (tmp_path / "q.gz").write_bytes(gzip.compress(content.encode()))
    else:
        with zipfile.ZipFile(tmp_path / "q.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("q.json", content)
    monkeypatch.setattr("training_ume.data.json_entries.MAX_UNPACKED", 1000)
    with pytest.raises(VQADataError, match=r"q\.(gz|zip.*) holds more than .* Unpack it yourself"):
        load_vqa(questions=tmp_path / f"q.{packed}")


def test_members_of_an_archive_are_read_and_never_written(official, tmp_path):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.json", json.dumps({"questions": [question(1, 3)]}))
    before = set(tmp_path.rglob("*"))
    assert len(load_vqa(questions=archive, images=official.images)) == 1
    assert set(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "escaped.json").exists()


def test_missing_files_and_folders_are_named(official, tmp_path):
    with pytest.raises(VQADataError, match=r"nowhere\.json does not exist"):
        load_vqa(questions=tmp_path / "nowhere.json")
    with pytest.raises(VQADataError, match=r"image folder .*nowhere does not exist .* Check the path\."):
        load_vqa(**official(GOOD_QUESTIONS, images=tmp_path / "nowhere"))
    (tmp_path / "train2014.zip").touch()
    with pytest.raises(VQADataError, match="Unpack the archive"):
        load_vqa(**official(GOOD_QUESTIONS, images=tmp_path / "train2014.zip"))


def test_a_folder_or_a_dead_link_with_the_name_of_an_image_is_a_missing_image(official):
    (official.images / "COCO_train2014_000000000001.jpg").mkdir()
    (official.images / "COCO_train2014_000000000002.jpg").symlink_to("gone.jpg")
    with pytest.raises(VQADataError, match="2 × missing_image"):
        load_vqa(**official([*GOOD_QUESTIONS, question(1, 1), question(2, 2)]))


def test_broken_images_are_found_by_the_check_and_their_questions_listed(official, tmp_path):
    images = official.images
    whole = (images / "COCO_train2014_000000000025.jpg").read_bytes()
    (images / "COCO_train2014_000000000025.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "COCO_train2014_000000000003.jpg").write_text("not an image")
    questions = [*GOOD_QUESTIONS, question(1, 581929)]
    assert len(load_vqa(**official(questions))) == 4, "without the check, broken images are the collator's business"
    with pytest.raises(VQADataError, match="3 × broken_image"):
        load_vqa(**official(questions), check_images=True)
    rows = load_vqa(**official(questions), on_error="skip", skipped_log=tmp_path / "log")
    assert rows["question_id"][:] == [1]
    listed = [line.split("\t")[2] for line in (tmp_path / "log").read_text().splitlines()[2:]]
    assert listed == ["question_id 250", "question_id 251", "question_id 30"]


def test_a_table_with_nothing_left_is_an_error(official, tmp_path):
    with pytest.raises(VQADataError, match=r"No question .* can be used\. See .*log for the reasons"):
        load_vqa(**official([question(4, 25, "")]), on_error="skip", skipped_log=tmp_path / "log")


@pytest.mark.parametrize("image_id", ["../secret", "a/../../secret", "/etc/passwd", "a\0b"])
def test_an_image_id_cannot_leave_the_image_folder(image_id, official, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    files = official([question(1, image_id), question(2, "000000000025")])
    with pytest.raises(VQADataError, match="unsafe_image_name"):
        load_vqa(**files, image_pattern="{image_id}.jpg")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"on_error": "ignore"}, "must be 'raise' or 'skip'"),
        ({"on_error": "skip"}, "needs skipped_log"),
        ({}, "needs questions"),
        ({"questions": "q.json", "name": "en"}, "takes no name"),
        ({"source": "easy_vqa", "images": "x"}, "takes no images"),
        ({"source": "easy_vqa", "split": "validation"}, "'train' and 'test', not 'validation'"),
        ({"source": "vqa_v1", "questions": "q.json"}, "use 'vqa_v2' or 'easy_vqa'"),
    ],
)
def test_contradictory_arguments_raise_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_vqa(**arguments)


@pytest.mark.parametrize(
    ("names", "ids", "pattern"),
    [
        (["COCO_val2014_000000000025.jpg", "COCO_val2014_000000581929.jpg"], ["25"], COCO_PATTERN),
        (["image1.jpg", "image20.jpg", "cover.jpg", "notes.txt"], ["1", "20"], "image{image_id}.jpg"),
        (["7.PNG", "12.PNG"], ["7", "12"], "{image_id}.PNG"),
        (["n161313.webp"], ["n161313"], "{image_id}.webp"),
        (["a{b}_01.png", "a{b}_10.png"], ["1", "10"], "a{{b}}_{image_id:02d}.png"),
        (["train_001.jpg", "val_002.jpg"], ["1"], "train_{image_id:03d}.jpg"),
        *(([f"1.{end}"], ["1"], f"{{image_id}}.{end}") for end in ("jpeg", "png", "bmp", "gif", "tif")),
        *(([f"1.{end}"], ["1"], f"{{image_id}}.{end}") for end in ("tiff", "ppm", "pgm")),
    ],
)
def test_the_file_name_pattern_is_read_off_the_folder(names, ids, pattern, tmp_path):
    for file_name in names:
        (tmp_path / file_name).touch()
    assert infer_image_pattern(tmp_path, ids) == pattern


def test_a_folder_that_leaves_doubt_asks_for_the_pattern(tmp_path):
    for file_name in ("left_1.jpg", "right_1.jpg"):
        (tmp_path / file_name).touch()
    with pytest.raises(VQADataError, match=r"Several .*left_\{image_id\}\.jpg.*image_pattern"):
        infer_image_pattern(tmp_path, ["1"])
    with pytest.raises(VQADataError, match=r"No file .* fits .*left_1\.jpg.*ids are 7"):
        infer_image_pattern(tmp_path, ["7"])


@pytest.mark.parametrize("pattern", ["image.jpg", "{id}.jpg", "{image_id:q}.jpg", "{image_id", "{image_id}_{x}.jpg"])
def test_an_unusable_pattern_is_refused(pattern, official):
    with pytest.raises(ValueError, match=r"image_pattern=.* cannot be used"):
        load_vqa(**official(GOOD_QUESTIONS), image_pattern=pattern)


def test_an_id_written_as_a_string_of_digits_fits_a_numbered_pattern(official):
    rows = load_vqa(**official([question("17", "25")]), image_pattern="COCO_train2014_{image_id:012d}.jpg")
    assert rows[0]["question_id"] == 17
    assert Path(rows[0]["image"]).name == "COCO_train2014_000000000025.jpg"


def test_easy_vqa_loads_with_ten_equal_answers_and_types():
    pytest.importorskip("easy_vqa")
    train, test = load_vqa("easy_vqa"), load_vqa("easy_vqa", split="test")
    assert (len(train), len(test)) == (38_575, 9_673)
    assert train.features == FEATURES
    assert all(set(answers) == {answers[0]} and len(answers) == 10 for answers in test["answers"][:])
    assert set(test["answer_type"][:]) == {"yes/no", "other"}
    assert {"is there", "what color"} < set(test["question_type"][:])
    assert not set(train["image_id"][:]) & set(test["image_id"][:])
    assert open_image(test[0]["image"]).size == (64, 64)


def test_without_the_easy_vqa_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(ImportError, match="pip install easy-vqa"):
        load_vqa("easy_vqa")


def test_a_picture_that_easy_vqa_lacks_is_named_and_the_others_are_kept(monkeypatch, tmp_path):
    package = SimpleNamespace(__file__="easy_vqa.py")
    for part in ("train", "test"):
        asked = (["is it red?", "is it blue?"], ["yes", "blue"], [0, 1])
        setattr(package, f"get_{part}_questions", lambda asked=asked: asked)
        setattr(package, f"get_{part}_image_paths", lambda: {1: str(Path(__file__).parent / "1.png")})
    monkeypatch.setitem(sys.modules, "easy_vqa", package)
    with pytest.raises(VQADataError, match=r"easy_vqa\.py: question_id 0: no image test-0"):
        load_vqa("easy_vqa", split="test")
    log = tmp_path / "log"
    kept = load_vqa("easy_vqa", split="test", on_error="skip", skipped_log=log, check_images=False)
    assert [(row["question_id"], row["answer_type"]) for row in kept] == [(1, "other")]


def image_bytes(colour, fmt="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(buffer, fmt)
    return buffer.getvalue()


HUB_ROWS = {"question_id": [1, 2, 3], "question": ["a?", "b?", "c?"], "answers": [["x"] * 10, ["y"] * 10, ["z"] * 10]}


def test_embedded_images_are_written_once_as_their_original_bytes(tmp_path):
    red, blue = image_bytes("red"), image_bytes("blue", "JPEG")
    listed = [[{"answer": a, "answer_id": i} for i, a in enumerate(answers)] for answers in HUB_ROWS["answers"]]
    columns = HUB_ROWS | {"answers": listed, "image": [{"bytes": b, "path": None} for b in (red, blue, red)]}
    features = {
        "question_id": datasets.Value("int64"),
        "question": datasets.Value("string"),
        "answers": datasets.List({"answer": datasets.Value("string"), "answer_id": datasets.Value("int64")}),
        "image": datasets.Image(),
    }
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (tmp_path / "named").mkdir()
    table.to_parquet(tmp_path / "named" / "train.parquet")
    rows = load_vqa(str(tmp_path / "named"), cache_dir=tmp_path / "images")
    assert rows.features == FEATURES
    assert rows["answers"][:] == HUB_ROWS["answers"]
    paths = rows["image"][:]
    assert paths[0] == paths[2] != paths[1]
    assert [Path(path).read_bytes() for path in paths] == [red, blue, red]
    assert [Path(path).suffix for path in paths] == [".png", ".jpg", ".png"]
    assert rows["image_id"][0] == rows["image_id"][2] != rows["image_id"][1]

    datasets.DatasetDict({"validation": table}).save_to_disk(tmp_path / "saved")
    saved = load_vqa(str(tmp_path / "saved"), split="validation", cache_dir=tmp_path / "images")
    assert saved.to_list() == rows.to_list()
    with pytest.raises(VQADataError, match="splits validation, not 'train'"):
        load_vqa(str(tmp_path / "saved"))


def test_a_loaded_table_saved_to_disk_loads_again_unchanged(official, tmp_path):
    rows = load_vqa(**official(GOOD_QUESTIONS, GOOD_ANNOTATIONS))
    rows.save_to_disk(tmp_path / "saved")
    assert load_vqa(str(tmp_path / "saved")).to_list() == rows.to_list()


def write_json_rows(folder, rows):
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder)


def test_a_named_table_with_image_names_reads_them_from_the_image_folder_only(official, tmp_path):
    row = {"question_id": 1, "question": "a?", "answers": ["x"], "image": "COCO_train2014_000000000025.jpg"}
    source = write_json_rows(tmp_path / "named", [row, row | {"question_id": 2, "image": "../q.json"}])
    log = tmp_path / "log"
    rows = load_vqa(source, images=official.images, on_error="skip", skipped_log=log)
    assert rows["question_id"][:] == [1]
    assert rows[0]["image"] == str(official.images / row["image"])
    assert "unsafe_image_name" in log.read_text()


def test_a_table_from_the_hub_cannot_name_files_of_this_machine(official, monkeypatch):
    image = str(official.images / "COCO_train2014_000000000025.jpg")
    remote = datasets.Dataset.from_dict({"question_id": [1], "question": ["a?"], "answers": [["x"]], "image": [image]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: remote)
    with pytest.raises(VQADataError, match=r"1 × missing_image(?s:.*)give the folder that holds it as images"):
        load_vqa("some/set")
    with pytest.raises(VQADataError, match="1 × unsafe_image_name"):
        load_vqa("some/set", images=official.images / "deeper")


def test_a_table_in_a_folder_may_name_files_anywhere_unless_an_image_folder_is_given(official, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.png")
    row = {"question_id": 1, "question": "a?", "answers": ["x"], "image": str(tmp_path / "mine.png")}
    source = write_json_rows(tmp_path / "named", [row])
    assert load_vqa(source)[0]["image"] == row["image"]
    with pytest.raises(VQADataError, match="1 × unsafe_image_name"):
        load_vqa(source, images=official.images)


def test_links_in_the_image_folder_are_followed_as_they_are_the_owners(official, tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "elsewhere.jpg")
    (official.images / "COCO_train2014_000000000007.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert open_image(load_vqa(**official([question(1, 7)]))[0]["image"]).size == (4, 4)


def test_a_named_table_reports_lacking_columns_and_rows_without_answers(official, tmp_path):
    image = str(official.images / "COCO_train2014_000000000025.jpg")
    with pytest.raises(VQADataError, match=r"lacks the column\(s\) image, question: it has question_id, text"):
        load_vqa(write_json_rows(tmp_path / "lacking", [{"question_id": 1, "text": "a?"}]))
    row = {"question_id": 1, "question": "a?", "answers": ["x"], "image": image}
    source = write_json_rows(tmp_path / "partly", [row, row | {"question_id": 2, "answers": None}])
    with pytest.raises(VQADataError, match="1 × question_without_annotation"):
        load_vqa(source)
    source = write_json_rows(tmp_path / "test", [{key: row[key] for key in ("question_id", "question", "image")}])
    assert load_vqa(source)["answers"][:] == [[]]


def test_a_table_without_answers_says_what_it_cannot_be_used_for(official, tmp_path, caplog):
    row = {"question_id": 1, "question": "a?", "image": str(official.images / "COCO_train2014_000000000025.jpg")}
    load_vqa(write_json_rows(tmp_path / "rows", [row]))
    assert "its rows can be answered, but neither trained on nor scored" in caplog.text


def test_a_row_without_answers_among_others_is_told_with_its_id_and_left_out(official, tmp_path):
    image = str(official.images / "COCO_train2014_000000000025.jpg")
    row = {"question_id": 1, "question": "a?", "answers": ["x"], "image": image}
    source = write_json_rows(tmp_path / "rows", [row, row | {"question_id": 2, "answers": None}])
    assert load_vqa(source, on_error="skip", skipped_log=tmp_path / "log")["question_id"][:] == [1]
    assert "question_id 2\tthe row has no answers although others have\n" in (tmp_path / "log").read_text()


def test_a_source_that_is_nowhere_names_the_sources_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(VQADataError, match=r"'no/such'.*'vqa_v2' \(official files\)"):
        load_vqa("no/such")


# ------------------------------------------------------------------------------------------------------------ images


def test_an_image_turned_by_exif_is_opened_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: width and height change places
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)


def test_transparent_parts_become_white_whatever_lies_under_them(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("LA", (2, 2), (0, 128)).save(tmp_path / "half.png")
    Image.new("RGB", (2, 2), (9, 9, 9)).save(tmp_path / "key.png", transparency=(9, 9, 9))
    colours = [open_image(tmp_path / f"{n}.png").getpixel((0, 0)) for n in ("clear", "palette", "half", "key")]
    assert colours == [(255, 255, 255), (255, 255, 255), (127, 127, 127), (255, 255, 255)]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "grey16.png")
    image = open_image(tmp_path / "grey16.png")
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("1", "a.png"), ("CMYK", "a.jpg"), ("P", "a.gif")])
def test_every_usual_mode_opens_as_rgb(mode, name, tmp_path):
    Image.new(mode, (3, 2)).save(tmp_path / name)
    image = open_image(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", (3, 2))


def test_images_that_cannot_be_read_raise_an_error_with_their_path(tmp_path, monkeypatch):
    whole = image_bytes("red")
    contents = {"cut.png": whole[:40], "text.png": b"hello", "empty.jpg": b"", "flipped.png": whole[:45] + b"\0" * 30}
    for file_name, content in contents.items():
        (tmp_path / file_name).write_bytes(content)
        with pytest.raises(VQADataError, match=rf"{file_name} cannot be read"):
            open_image(tmp_path / file_name)
    with pytest.raises(VQADataError, match=r"gone\.png does not exist"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(VQADataError, match="cannot be read"):
        open_image(tmp_path)
    Image.new("F", (2, 2)).save(tmp_path / "float.tiff")
    with pytest.raises(VQADataError, match=r"float\.tiff cannot be read \(its pixels are floating-point"):
        open_image(tmp_path / "float.tiff")
    Image.new("RGB", (30, 30)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(VQADataError, match=r"bomb\.png is too large"):
        open_image(tmp_path / "bomb.png")


# ------------------------------------------------------------------------------------------------------------ splits


def table(image_ids, paths=None):
    rows = [
        [n, image_id, "a?", paths[n] if paths else f"/{image_id}.jpg", ["x"], "", ""]
        for n, image_id in enumerate(image_ids)
    ]
    return datasets.Dataset.from_dict(dict(zip(FEATURES, map(list, zip(*rows, strict=True)), strict=True)), FEATURES)


def test_a_split_by_image_has_no_image_on_both_sides_and_loses_no_row():
    rows = table([str(n % 40) for n in range(200)])
    train, held_out = split_by_image(rows, 0.25, seed=0)
    assert not set(train["image_id"][:]) & set(held_out["image_id"][:])
    assert len(set(held_out["image_id"][:])) == 10
    assert sorted(train["question_id"][:] + held_out["question_id"][:]) == list(range(200))


def test_a_split_depends_on_the_seed_but_not_on_the_order_of_the_rows():
    rows = table([str(n % 40) for n in range(200)])

    def held_out(dataset, seed):
        return set(split_by_image(dataset, 0.25, seed)[1]["image_id"][:])

    assert held_out(rows, 0) == held_out(rows.shuffle(seed=5), 0)
    assert held_out(rows, 0) != held_out(rows, 1)


def test_a_split_does_not_depend_on_the_format_of_the_rows():
    rows = table([str(n % 40) for n in range(80)])
    held_out = [split_by_image(rows.with_format(form), 0.25, seed=0)[1] for form in (None, "numpy", "arrow")]
    assert [part.with_format(None)["question_id"][:] for part in held_out[1:]] == [held_out[0]["question_id"][:]] * 2


def test_ids_that_share_a_file_stay_on_one_side():
    ids = [str(n) for n in range(40)]
    paths = [f"/{n // 2}.jpg" for n in range(40)]
    for seed in range(5):
        train, held_out = split_by_image(table(ids, paths), 0.3, seed)
        assert not set(train["image"][:]) & set(held_out["image"][:])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), True, 0.001])
def test_a_fraction_that_makes_no_split_is_refused(fraction):
    why = "of 3 images puts 0 on one side" if fraction == 0.001 else "must lie between 0 and 1"
    with pytest.raises(ValueError, match=f"fraction={fraction!r} {why}"):
        split_by_image(table(["a", "b", "c"]), fraction, seed=0)


@pytest.mark.skipif(not SHARED, reason="UME_SHARED does not name a folder with real data")
@pytest.mark.parametrize(("name", "questions", "images"), [("daquar", 6795, 794), ("vqa_v2_sample", 2873, 1920)])
def test_real_data_loads_whole(name, questions, images):
    folder = Path(SHARED) / "data" / name
    rows = load_vqa(
        questions=folder / "train_questions.json",
        annotations=folder / "train_annotations.json",
        images=folder / "images",
        check_images=True,
    )
    assert (len(rows), len(set(rows["image"][:]))) == (questions, images)
    assert {len(answers) for answers in rows["answers"][:]} == {10}


# What is said of what is wrong


def test_a_wrong_value_is_shown_whole_up_to_60_characters_and_else_cut_to_them():
    assert rows._short("x" * 58) == f"'{'x' * 58}'"
    assert rows._short("x" * 59) == f"'{'x' * 56}..."


def test_of_many_problems_all_are_counted_three_shown_and_as_many_kept_as_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_PROBLEMS", 4)
    problems = rows._Problems()
    for number in range(6):
        problems.add("odd" if number in (0, 3) else "broken", "q.json", f"question_id {number}", "of no use")
    shown = "\n".join(f"  q.json: question_id {number}: of no use" for number in range(3))
    with pytest.raises(VQADataError) as raised:
        problems.raise_if_any()
    start = f"The data has 6 problem(s): 4 × broken, 2 × odd.\n{shown}\n  and 3 more\nMend the files"
    assert str(raised.value).startswith(start)
    problems.write(tmp_path / "log" / "skipped.tsv", kept=7)
    assert (tmp_path / "log" / "skipped.tsv").read_text(encoding="utf-8").splitlines() == [
        "# 7 questions kept, 6 entries skipped: 4 × broken, 2 × odd",
        "# kind\tfile\tid\treason",
        *(f"{'odd' if n in (0, 3) else 'broken'}\tq.json\tquestion_id {n}\tof no use" for n in range(4)),
        "# and 2 more, which are not listed",
    ]


def test_one_problem_more_than_are_kept_stops_the_reading_and_none_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_PROBLEMS", 3)
    problems = rows._Problems(stops=True)
    problems.raise_if_any()
    problems.write(tmp_path / "skipped.tsv", kept=7)
    assert (tmp_path / "skipped.tsv").read_text() == (
        "# 7 questions kept, 0 entries skipped\n# kind\tfile\tid\treason\n"
    )
    for number in range(3):
        problems.add("odd", "q.json", f"question_id {number}", "of no use")
    with pytest.raises(VQADataError, match="3 problem") as raised:
        problems.raise_if_any()
    assert "more" not in str(raised.value)
    with pytest.raises(VQADataError, match=r"The data has 4 problem\(s\), and was read no further: 4 × odd"):
        problems.add("odd", "q.json", "question_id 3", "of no use")


def test_a_folder_that_does_not_fit_is_described_by_three_names_and_three_ids(tmp_path):
    for name in ("d.png", "b.png", "a.jpg", "c.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(VQADataError, match=r"the folder holds a\.jpg, b\.png, c\.jpeg, the ids are 1, 2, 3, … Give"):
        infer_image_pattern(tmp_path, ["3", "1", "4", "2"])
    for name in ("a", "b", "c", "d"):
        for path in tmp_path.glob(f"{name}.*"):
            path.unlink()
    with pytest.raises(VQADataError, match="the folder holds no image, the ids are 7, … Give"):
        infer_image_pattern(tmp_path, ["7"])


def test_patterns_that_both_fit_are_counted(tmp_path):
    for name in ("1.jpg", "2.jpg", "3.jpg", "1.png", "2.png", "a_1.jpg"):
        (tmp_path / name).touch()
    counted = r"\{image_id\}\.jpg \(3 images\), \{image_id\}\.png \(2 images\), a_\{image_id\}\.jpg \(1 images\)\. Say"
    with pytest.raises(VQADataError, match=counted):
        infer_image_pattern(tmp_path, ["1", "2", "3"])


def test_a_pattern_with_zeros_is_counted_like_one_without(tmp_path):
    for name in ("left_01.jpg", "left_02.jpg", "right_1.jpg"):
        (tmp_path / name).touch()
    found = r"left_\{image_id:02d\}\.jpg \(2 images\), right_\{image_id\}\.jpg \(1 images\)"
    with pytest.raises(VQADataError, match=found):
        infer_image_pattern(tmp_path, ["1", "2"])


def test_nothing_to_use_points_to_the_log_where_that_says_why(official, tmp_path):
    log = tmp_path / "skipped.tsv"
    skip = {"on_error": "skip", "skipped_log": log}
    with pytest.raises(VQADataError, match=rf"can be used\. See {log} for the reasons\.$"):
        load_vqa(**official([question(1, 9)], [annotation(1, 9)], image_pattern="{image_id}.jpg"), **skip)
    with pytest.raises(VQADataError, match=r"can be used\.$"):
        load_vqa(**official([], [], image_pattern="{image_id}.jpg"), **skip)


def test_images_out_of_a_data_set_share_folders_and_are_written_once(tmp_path):
    store = SimpleNamespace(folder=str(tmp_path), SUFFIXES=hub._ImageStore.SUFFIXES)
    first = hub._ImageStore._write(store, b"one", "ab1")
    second = hub._ImageStore._write(store, b"two", "ab2")
    assert Path(first).parent == Path(second).parent == tmp_path / "ab"
    assert (Path(first).read_bytes(), Path(second).read_bytes()) == (b"one", b"two")
    assert hub._ImageStore._write(store, b"not read", "ab1") == first
    assert Path(first).read_bytes() == b"one"
    assert len(list((tmp_path / "ab").iterdir())) == 2
