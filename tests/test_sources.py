"""Every named data set loads from a few rows in its own layout, official or from the Hub; adding one is a line."""

import json
import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from vqa_files import write_tiny_recipe

from training_ume.commands import main
from training_ume.data.json_entries import VQADataError
from training_ume.data.sources.base import Layout, Source
from training_ume.data.sources.table import SOURCES, find_source
from training_ume.data.tables.load import load_rows, understand


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(path)
    return path


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def hub(folder, rows, images=1):
    """A parquet file as the Hub has it: pictures stand in it."""
    paths = [str(picture(folder / "made" / f"{i}.jpg", i * 40)) for i in range(images)]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    data = datasets.Dataset.from_dict({"image": [paths[i % images] for i in range(len(rows))], **columns})
    data = data.cast_column("image", datasets.Image())
    data.to_parquet(folder / "hub.parquet")
    return folder / "hub.parquet"


# fmt: off
def pair(folder, questions, annotations, image):
    asked, said, rows = [], [], []
    for number, answer in ((250, "cup"), (251, "plate")):
        asked.append({"image_id": 25, "question": f"what is {number}?", "question_id": number})
        spelled = [{"answer": answer, "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]
        types = {"question_type": "what is", "answer_type": "other"}
        ids = {"image_id": 25, "question_id": number}
        said.append({**ids, "answers": spelled, "multiple_choice_answer": answer, **types})
        row = {**types, "question_id": number, "image_id": "25", "question": f"what is {number}?"}
        rows.append({**row, "answers": [answer] * 10, "image": f"train2014/{image}"})
    dump(folder / questions, {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "questions": asked})
    dump(folder / annotations, {"info": {}, "data_type": "mscoco", "annotations": said})
    picture(folder / "train2014" / image)
    return folder / questions, rows


def vqa_v2(folder):
    names = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
    return pair(folder, *names, "COCO_train2014_000000000025.jpg")


def okvqa(folder):
    names = "OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json"
    return pair(folder, *names, "COCO_train2014_000000000025.jpg")


AOKVQA = {
    "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "what is the man by the bags awaiting?",
    "choices": ["skateboarder", "train", "delivery", "cab"],
    "correct_choice_idx": 3,
    "direct_answers": ["ride", "ride", "bus", "taxi", "travelling", "traffic", "taxi", "cab", "cab", "his ride"],
    "difficult_direct_answer": False,
    "rationales": ["he has bags.", "a cab is near.", "he looks at the street."],
}


OTHER = {**AOKVQA, "question_id": "other", "correct_choice_idx": 0, "direct_answers": ["board"] * 10}


def aokvqa(folder):
    picture(folder / "train2017" / "000000299207.jpg")
    entries = [{"split": "train", "image_id": 299207, **entry} for entry in (AOKVQA, OTHER)]
    row = {**AOKVQA, "answers": AOKVQA["direct_answers"], "correct_choice": "cab", "image_id": "299207"}
    other = {"question_id": "other", "answers": ["board"] * 10, "correct_choice": "skateboarder"}
    rows = [{**row, "image": "train2017/000000299207.jpg", "split": "train"}, other]
    return dump(folder / "aokvqa_v1p0_train.json", entries), rows


def aokvqa_test(folder):
    picture(folder / "test2017" / "000000000007.jpg")
    entry = {"split": "test", "image_id": 7, "question_id": "x1", "question": "who?", "choices": ["a", "b", "c", "d"]}
    path = dump(folder / "aokvqa_v1p0_test.json", [entry])
    return path, [
        {"question_id": "x1", "choices": ["a", "b", "c", "d"], "answers": [], "image": "test2017/000000000007.jpg"}
    ]


def aokvqa_hub(folder):
    path = hub(folder, [{**entry, "direct_answers": str(entry["direct_answers"])} for entry in (AOKVQA, OTHER)])
    row = {**AOKVQA, "answers": AOKVQA["direct_answers"], "correct_choice": "cab"}
    return path, [row, {"question_id": "other", "correct_choice": "skateboarder"}]


TEXTVQA = {
    "question": "what is the brand of this camera?",
    "image_id": "003a8ae2ef43b901",
    "image_classes": ["Cassette deck", "Camera"],
    "flickr_original_url": "https://farm2.staticflickr.com/4/1_o.jpg",
    "flickr_300k_url": "https://c4.staticflickr.com/4/1_z.jpg",
    "image_width": 1024,
    "image_height": 664,
    "answers": ["nous les gosses", "dakota", "clos culombu"] + ["dakota digital"] * 7,
    "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
    "question_id": 34602,
    "set_name": "val",
}


TEXT_TWO = {**TEXTVQA, "question_id": 34603, "answers": ["copenhagen"] * 10}


def textvqa(folder):
    picture(folder / "train_images" / "003a8ae2ef43b901.jpg")
    top = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [TEXTVQA, TEXT_TWO]}
    path = dump(folder / "TextVQA_0.5.1_val.json", top)
    return path, [{**TEXTVQA, "image": "train_images/003a8ae2ef43b901.jpg"}, TEXT_TWO]


def textvqa_hub(folder):
    return hub(folder, [TEXTVQA, TEXT_TWO]), [TEXTVQA, TEXT_TWO]


def vizwiz(folder):
    picture(folder / "train" / "VizWiz_train_00000000.jpg")
    picture(folder / "train" / "VizWiz_train_00000001.jpg")
    said = [{"answer": "soap", "answer_confidence": "yes"}] * 9 + [{"answer": "gel", "answer_confidence": "maybe"}]
    unsure = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    entries = [
        {"image": "VizWiz_train_00000000.jpg", "question": "What's this?", "answers": said, "answer_type": "other",
         "answerable": 1},
        {"image": "VizWiz_train_00000001.jpg", "question": "Which color?", "answers": unsure,
         "answer_type": "unanswerable", "answerable": 0},
    ]  # fmt: skip
    rows = [
        {"question_id": 0, "image": "train/VizWiz_train_00000000.jpg", "question": "What's this?",
         "answers": ["soap"] * 9 + ["gel"], "answer_type": "other", "answerable": 1},
        {"question_id": 1, "answers": ["unanswerable"] * 10, "answer_type": "unanswerable", "answerable": 0},
    ]  # fmt: skip
    return dump(folder / "Annotations" / "train.json", entries), rows


def vizwiz_hub(folder):
    asked = {"question": "Is it ripe?", "category": "yes/no"}
    rows = [{"question_id": f"VizWiz_val_{i}.jpg", "answers": [said] * 10} for i, said in enumerate(("yes", "no"))]
    return hub(folder, [{**asked, **row} for row in rows]), [{**row, "answer_type": "yes/no"} for row in rows]


GQA = {
    "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}],
    "entailed": ["02930160"],
    "equivalent": ["02930152"],
    "question": "Is the sky dark?",
    "imageId": "2354786",
    "isBalanced": True,
    "groups": {"global": None, "local": "06-sky_dark"},
    "answer": "yes",
    "semanticStr": "select: sky (2486325)->verify color: dark [0]",
    "annotations": {"answer": {"0": "2486325"}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
    "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
    "fullAnswer": "Yes, the sky is dark.",
}
GQA_ROW = {
    "question_id": "02930152",
    "image_id": "2354786",
    "question": "Is the sky dark?",
    "answers": ["yes"],
    "question_type": "verify",
    "semantic_type": "attr",
    "detailed": "verifyAttr",
    "isBalanced": True,
    "fullAnswer": "Yes, the sky is dark.",
}


def gqa(folder):
    picture(folder / "images" / "2354786.jpg")
    picture(folder / "images" / "n1.jpg")
    other = {**GQA, "imageId": "n1", "answer": "no", "isBalanced": False, "groups": {"global": "x", "local": None}}
    path = dump(folder / "train_balanced_questions.json", {"02930152": GQA, "07333408": other})
    return path, [{**GQA_ROW, "image": "images/2354786.jpg"}, {"question_id": "07333408", "isBalanced": False}]


def gqa_hub(folder):
    picture(folder / "images" / "2354786.jpg")
    entries = [{"id": "02930152", **GQA}, {"id": "7", **GQA, "answer": "no"}]
    parquet.write_table(pa.Table.from_pylist(entries), folder / "train.parquet")
    return folder / "train.parquet", [GQA_ROW, {"question_id": "7", "answers": ["no"]}]


def clevr(folder):
    names = [f"CLEVR_val_00000{i}.png" for i in range(2)]
    for name in names:
        picture(folder / "images" / "val" / name)
    program = [
        {"inputs": [], "function": "scene", "value_inputs": []},
        {"inputs": [0], "function": "filter_size", "value_inputs": ["large"]},
    ]
    asked = {"split": "val", "question_family_index": 2, "question": "Are there any large things?"}
    entries = [
        {**asked, "image_index": i, "question_index": i, "image_filename": name,
         "answer": ("no", "yes")[i], "program": [*program, {"inputs": [1], "function": last, "value_inputs": []}]}
        for i, (name, last) in enumerate(zip(names, ("exist", "greater_than"), strict=True))
    ]  # fmt: skip
    top = {
        "info": {"split": "val", "license": "Creative Commons", "version": "1.0", "date": "2/14/2017"},
        "questions": entries,
    }
    rows = [
        {"question_id": i, "image_id": name, "image": f"images/val/{name}", "answers": [("no", "yes")[i]],
         "question_type": kind}
        for i, (name, kind) in enumerate(zip(names, ("exist", "compare integer"), strict=True))
    ]
    return dump(folder / "questions" / "CLEVR_val_questions.json", top), rows


def coco_qa(folder):
    lines = {
        "questions.txt": ["what is on top of the book", "how many men are there"],
        "answers.txt": ["phone", "two"],
        "img_ids.txt": ["10", "581929"],
        "types.txt": ["0", "1"],
    }
    for name, text in lines.items():
        (folder / "cocoqa" / "train").mkdir(parents=True, exist_ok=True)
        (folder / "cocoqa" / "train" / name).write_text("\n".join(text) + "\n")
    for number in (10, 581929):
        picture(folder / "train2014" / f"COCO_train2014_{number:012d}.jpg")
    rows = [
        {"question_id": 0, "image_id": "10", "question": "what is on top of the book", "answers": ["phone"],
         "image": "train2014/COCO_train2014_000000000010.jpg", "question_type": "object"},
        {"question_id": 1, "image_id": "581929", "answers": ["two"], "question_type": "number"},
    ]  # fmt: skip
    return folder / "cocoqa", rows


def visual7w(folder):
    for name in ("v7w_1.jpg", "v7w_2.jpg"):
        picture(folder / "images" / name)

    def pairs(start, image):
        answer = "Cars." if start < 101 else "Rain."
        return {"qa_id": start, "question": "What endangers him?", "answer": answer, "type": "what",
                "image_id": image,
                "multiple_choices": ["A tree.", "Snow.", "A dog."]}  # fmt: skip

    images = [
        {"image_id": 1, "filename": "v7w_1.jpg", "split": "train", "qa_pairs": [pairs(100, 1), pairs(101, 1)]},
        {"image_id": 2, "filename": "v7w_2.jpg", "split": "test", "qa_pairs": [pairs(200, 2)]},
    ]
    path = dump(
        folder / "dataset_v7w_telling.json", {"dataset": "v7w_telling", "images": images, "boxes": [{"box_id": 1}]}
    )
    row = {"question_id": 100, "image_id": "1", "image": "images/v7w_1.jpg", "answers": ["Cars."], "split": "train",
           "question_type": "what", "choices": ["A dog.", "A tree.", "Cars.", "Snow."]}  # fmt: skip
    return path, [row, {"question_id": 101}, {"question_id": 200, "image": "images/v7w_2.jpg", "split": "test"}]


def daquar(folder):
    for number in (3, 12):
        picture(folder / "nyu_depth_images" / f"image{number}.png")
    lines = [
        "what is on the right side of the black telephone and on the left side of the red chair in the image3 ?",
        "desk",
        "what is found on the table in this image12 ?",
        "knife, fork",
    ]
    (folder / "qa.894.raw.train.txt").write_text("\n".join(lines) + "\n")
    rows = [
        {"question": "what is on the right side of the black telephone and on the left side of the red chair ?",
         "image": "nyu_depth_images/image3.png", "answers": ["desk"], "raw_question": lines[0]},
        {"question": "what is found on the table ?", "image": "nyu_depth_images/image12.png",
         "answers": ["knife, fork"]},
    ]  # fmt: skip
    return folder / "qa.894.raw.train.txt", rows


RAD = {
    "qid": 1,
    "phrase_type": "freeform",
    "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
    "image_case_url": "https://medpix.nlm.nih.gov/case?id=48e1dd0e-8552-46ad-a354-5eb55be86de6",
    "image_name": "synpic54610.jpg",
    "image_organ": "HEAD",
    "evaluation": "not evaluated",
    "question": "Are regions of the brain infarcted?",
    "question_rephrase": "NULL",
    "question_relation": "NULL",
    "question_frame": "NULL",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED ",
}


def vqa_rad(folder):
    picture(folder / "VQA_RAD Image Folder" / "synpic54610.jpg")
    counted = {**RAD, "qid": 2, "question": "How many kidneys?", "answer": 2, "answer_type": "OPEN"}
    second = {**RAD, "qid": 3, "phrase_type": "para", "answer": "No"}
    path = dump(folder / "VQA_RAD Dataset Public.json", [RAD, {**counted, "phrase_type": "test_para"}, second])
    rows = [
        {"question_id": 1, "image": "VQA_RAD Image Folder/synpic54610.jpg", "answers": ["Yes"],
         "answer_type": "CLOSED", "question_type": "PRES", "image_organ": "HEAD", "split": "train"},
        {"question_id": 2, "answers": ["2"], "answer_type": "OPEN", "split": "test"},
        {"question_id": 3, "answers": ["No"], "split": "train"},
    ]
    return path, rows


MEDICAL = [{"question": "is it open?", "answer": "yes"}, {"question": "what is it?", "answer": "liver"}]
MEDICAL_ROWS = [
    {"question_id": 0, "question": "is it open?", "answers": ["yes"], "answer_type": "CLOSED"},
    {"question_id": 1, "answers": ["liver"], "answer_type": "OPEN"},
]


def vqa_rad_hub(folder):
    return hub(folder, MEDICAL), MEDICAL_ROWS


def path_vqa(folder):
    picture(folder / "pvqa" / "images" / "train" / "train_0422.jpg")
    (folder / "pvqa" / "qas" / "train").mkdir(parents=True)
    path = folder / "pvqa" / "qas" / "train" / "train_qa.pkl"
    path.write_bytes(pickle.dumps([{"image": "train_0422", **row} for row in MEDICAL]))
    return path, [{**MEDICAL_ROWS[0], "image": "pvqa/images/train/train_0422.jpg"}, MEDICAL_ROWS[1]]


def path_vqa_labels(folder):
    picture(folder / "pvqa" / "images" / "val" / "val_0001.jpg")
    (folder / "pvqa" / "qas").mkdir(parents=True)
    entry = {"Q_id": 7, "question_id": 70, "img_id": "val_0001", "sent": "is it open?", "label": {"no": 1},
             "answer_type": "yes/no", "question_type": "is"}  # fmt: skip
    second = {**entry, "question_id": 71, "label": {"yes": 1}}
    (folder / "pvqa" / "qas" / "val_vqa.pkl").write_bytes(pickle.dumps([entry, second]))
    row = {"question_id": 70, "question": "is it open?", "answers": ["no"], "answer_type": "YES/NO"}
    return folder / "pvqa" / "qas" / "val_vqa.pkl", [row, {"question_id": 71, "answers": ["yes"]}]


def path_vqa_hub(folder):
    return hub(folder, MEDICAL), MEDICAL_ROWS


def slake(folder):
    picture(folder / "Slake1.0" / "imgs" / "xmlab1" / "source.jpg")
    entry = {
        "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "What modality is used to take this image?",
        "answer": "MRI", "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN",
        "base_type": "vqa", "content_type": "Modality", "triple": ["vhead", "_", "_"], "qid": 0,
    }  # fmt: skip
    chinese = {
        **entry,
        "question": "图像中有肝脏吗?",
        "answer": "是",
        "q_lang": "zh",
        "answer_type": "CLOSED",
        "qid": 9835,
    }
    row = {"question_id": 0, "image_id": "1", "image": "Slake1.0/imgs/xmlab1/source.jpg", "answers": ["MRI"],
           "answer_type": "OPEN", "question_type": "Modality", "q_lang": "en",
           "triple": ["vhead", "_", "_"]}
    other = {
        "question_id": 9835,
        "question": "图像中有肝脏吗?",
        "answers": ["是"],
        "q_lang": "zh",
        "answer_type": "CLOSED",
    }
    return dump(folder / "Slake1.0" / "train.json", [entry, chinese]), [row, other]


def hateful_memes(folder):
    picture(folder / "img" / "01235.png")
    picture(folder / "img" / "42953.png")
    lines = [
        {"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character that matters"},
        {"id": 1235, "img": "img/01235.png", "label": 1, "text": "a mean caption"},
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)).replace("img/", "img\\/"))
    row = {"question_id": 42953, "image": "img/42953.png", "question": lines[0]["text"], "answers": ["0"]}
    return folder / "train.jsonl", [row, {"question_id": 1235, "image": "img/01235.png", "answers": ["1"]}]


# fmt: on
def daquar_csv(folder):
    picture(folder / "nyu_depth_images" / "image3.png")
    lines = ["question,answer,image_id", "what is on the desk ?,lamp,image3", 'how many ?,"cup, book",image3']
    (folder / "data_train.csv").write_text("\n".join(lines))
    row = {"question": "what is on the desk ?", "answers": ["lamp"], "image": "nyu_depth_images/image3.png"}
    return folder / "data_train.csv", [{**row, "image_id": "image3"}, {"answers": ["cup, book"]}]


FIXTURES = (
    vqa_v2,
    okvqa,
    aokvqa,
    aokvqa_test,
    aokvqa_hub,
    textvqa,
    textvqa_hub,
    vizwiz,
    vizwiz_hub,
    gqa,
    gqa_hub,
    clevr,
    coco_qa,
    visual7w,
    daquar,
    daquar_csv,
    vqa_rad,
    vqa_rad_hub,
    path_vqa,
    path_vqa_labels,
    path_vqa_hub,
    slake,
    hateful_memes,
)  # fmt: skip
# Layouts that any table may have: only a name says that they are of a data set.
ANYBODYS = {"daquar_csv", "vqa_rad_hub", "path_vqa_hub", "vizwiz_hub"}


def name_of(fixture):
    return max((name for name in SOURCES if fixture.__name__.startswith(name)), key=len)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda made: made.__name__)
def test_each_layout_loads_with_exactly_its_rows(fixture, tmp_path):
    path, expected = fixture(tmp_path)
    rows = load_rows(path, source=name_of(fixture))
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        wanted = {k: v for k, v in wanted.items() if k in row or k in ("answers", "image")}
        if "image" in wanted:
            wanted["image"] = str(tmp_path / wanted["image"])
        assert {key: row[key] for key in wanted} == wanted
        Image.open(row["image"]).load()


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda made: made.__name__)
def test_a_layout_is_recognised_where_only_one_fits_and_that_is_said(fixture, tmp_path):
    path, _ = fixture(tmp_path)
    understood = understand(path)
    recognised = SOURCES[name_of(fixture)].title if fixture.__name__ not in ANYBODYS else None
    assert understood.source == recognised
    assert ("the only layout that fits" in understood.table()) == (recognised is not None)


def test_where_and_split_keep_rows(tmp_path):
    path, _ = slake(tmp_path)
    assert load_rows(path, source="slake", where={"q_lang": "en"})["question_id"][:] == [0]
    assert load_rows(path, where={"q_lang": ["en", "zh"], "qid": "9835"})["question_id"][:] == [9835]
    path, _ = visual7w(tmp_path)
    assert load_rows(path, source="visual7w", split="test")["question_id"][:] == [200]
    path, _ = vqa_rad(tmp_path)
    assert load_rows(path, split="test")["question_id"][:] == [2]
    with pytest.raises(VQADataError, match=r"No row .* fits q_lang = fr \(it has en, zh\)"):
        load_rows(slake(tmp_path)[0], where={"q_lang": "fr"})


def test_a_pair_is_given_as_paths_in_any_order_as_a_folder_or_by_its_questions(tmp_path):
    path, _ = okvqa(tmp_path)
    annotations = tmp_path / "mscoco_train2014_annotations.json"
    ways = [path, [path, annotations], [annotations, path], {"questions": path, "annotations": annotations}, tmp_path]
    loaded = [load_rows(way, source="okvqa").to_list() for way in ways]
    assert all(rows == loaded[0] for rows in loaded)
    assert loaded[0][0]["answers"] == ["cup"] * 10
    annotations.unlink()
    assert load_rows(path)["answers"][:] == [[], []]


def test_two_files_of_questions_and_annotations_of_no_known_names_are_a_pair(tmp_path):
    path, expected = vqa_v2(tmp_path)
    annotations = next(file for file in tmp_path.glob("*.json") if "annotations" in file.name)
    asked, said = path.rename(tmp_path / "my_questions.json"), annotations.rename(tmp_path / "my_annotations.json")
    for way in ([asked, said], [said, asked], tmp_path):
        rows = load_rows(way)
        assert rows["question"][:] == [row["question"] for row in expected]
        assert understand(way).source == "VQA v2"


def test_sources_that_need_no_files():
    rows = load_rows("easy_vqa", split="test")
    assert rows[0]["answers"] == [rows[0]["answers"][0]] * 10
    drawn = load_rows(source="sort_of_clevr", split="test", name="3")
    assert len(drawn) == 3 * 20
    assert set(drawn["question_type"][:]) == {"relational", "not relational"}
    assert len(set(zip(drawn["image"][:], drawn["question"][:], strict=True))) == 60
    assert load_rows("sort_of_clevr", split="test", name="3").to_list() == drawn.to_list()
    assert Image.open(drawn[0]["image"]).size == (75, 75)


def test_answers_about_drawn_scenes_are_right(tmp_path):
    for row in load_rows("sort_of_clevr", split="test", name="2", cache_dir=tmp_path):
        pixels = Image.open(row["image"]).load()
        shown = {pixels[x, y] for x in range(75) for y in range(75)}
        assert len(shown) == 7, "six colours on white"
        if "left or on the right" in row["question"]:
            colour = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "orange": (255, 156, 0),
                      "gray": (128, 128, 128), "yellow": (255, 255, 0)}[row["colour"]]  # fmt: skip
            across = [x for x in range(75) for y in range(75) if pixels[x, y] == colour]
            assert row["answers"] == ["left" if sum(across) / len(across) < 37.5 else "right"]


class Danger:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps([Danger()]), b"no pickle", pickle.dumps(3), pickle.dumps([])],
    ids=["code", "text", "number", "empty"],
)
def test_a_pickle_is_plain_data_or_refused(content, tmp_path, capsys):
    (tmp_path / "train_qa.pkl").write_bytes(content)
    with pytest.raises(VQADataError, match=r"train_qa\.pkl is no pickled list of questions"):
        load_rows(tmp_path / "train_qa.pkl", source="path_vqa")
    assert capsys.readouterr().out == ""


def test_a_name_that_is_not_known_and_a_table_in_another_layout_are_said(tmp_path):
    assert [find_source(name).name for name in ("A-OKVQA", "vqa-rad", "COCO QA")] == ["aokvqa", "vqa_rad", "coco_qa"]
    with pytest.raises(ValueError, match=r"source='slak' is no data set that is known.*Did you mean 'slake'"):
        load_rows(tmp_path, source="slak")
    with pytest.raises(VQADataError, match=r"not in a layout of SLAKE: it has the columns a, b, where .*q_lang"):
        load_rows([{"a": 1, "b": 2}], source="slake")
    (tmp_path / "qa.txt").write_text("what is it in the image3 ?\ndesk\nwhat ?\n")
    with pytest.raises(VQADataError, match="3 lines: a question and its answer"):
        load_rows(tmp_path / "qa.txt", source="daquar")


def test_a_source_whose_pictures_are_missing_says_where_they_are_from(tmp_path):
    path, _ = slake(tmp_path)
    (tmp_path / "Slake1.0" / "imgs" / "xmlab1" / "source.jpg").unlink()
    with pytest.raises(
        VQADataError, match=r"column 'img_name': there is no file .*SLAKE's pictures: They are in Slake1"
    ):
        load_rows(path)


def test_lines_that_do_not_fit_a_layout_are_named_or_listed(tmp_path):
    path, _ = daquar(tmp_path)
    path.write_text(path.read_text() + "how many ?\n3\n")
    with pytest.raises(VQADataError, match=r"qa\.894\.raw\.train\.txt: line 5: a question must name its image"):
        load_rows(path)
    rows = load_rows(path, on_error="skip", skipped_log=tmp_path / "log")
    assert len(rows) == 2
    assert "line 5" in (tmp_path / "log").read_text()


def test_a_source_is_added_by_one_object_and_one_line(tmp_path, monkeypatch):
    birds = Source(
        name="birds",
        title="Birds",
        layouts=[Layout({"image": "photo_of_bird", "question": "asked", "answers": "species"}, frozenset({"ring"}))],
        scores=("exact_match",),
        by=("ring",),
        url="https://birds.example",
        licence="CC0",
        size="1 question",
        near=("nest",),
    )
    monkeypatch.setitem(SOURCES, birds.name, birds)
    picture(tmp_path / "nest" / "a.png")
    path = dump(tmp_path / "birds.json", [{"photo_of_bird": "a", "asked": "which?", "species": "wren", "ring": 7}])
    (row,) = load_rows(path, source="birds")
    assert (row["question"], row["answers"], row["ring"]) == ("which?", ["wren"], 7)
    assert row["image"] == str(tmp_path / "nest" / "a.png")
    assert understand(path).source == "Birds"


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_says_where_it_is_to_be_had_and_what_it_is_scored_by(source):
    assert source.scores
    assert source.licence
    assert source.size
    assert source.pictures.endswith(".")
    assert source.url.startswith("https://") or not source.needs_data
    assert all(len(reference) == 3 for reference in source.references)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", [f for f in FIXTURES if f is not aokvqa_test], ids=lambda made: made.__name__)
def test_each_data_set_is_trained_on_and_scored_by_its_scores(fixture, tmp_path, capsys):
    path, _ = fixture(tmp_path)
    source, recipe = name_of(fixture), tmp_path / "tiny.yaml"
    write_tiny_recipe(recipe, {}, num_train_epochs=1, validation_fraction=None, source=None)
    named = ["--data", str(path), "--source", source]
    assert main(["train", str(recipe), *named, "--eval_data", str(path)]) == 0
    assert f"in the layout of {SOURCES[source].title}" in capsys.readouterr().out
    out = tmp_path / "scores.json"
    assert main(["evaluate", str(tmp_path / "run"), *named, "--out", str(out)]) == 0
    scores = json.loads(out.read_text())["scores"]
    assert {score for score in SOURCES[source].scores if not score.startswith("wups")} <= scores.keys()
