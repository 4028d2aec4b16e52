"""Cards of runs on a table of one's own: what one line of a person's and the run make of them, and the preview."""

import json
import re
from html.parser import HTMLParser

import pytest
from huggingface_hub import ModelCard
from test_card import write_run
from test_publish import make_run

import training_ume.hub.card
import training_ume.hub.preview
import training_ume.hub.publish
from training_ume.commands import main
from training_ume.hub.card import render_card
from training_ume.hub.languages import language_of, languages_of
from training_ume.hub.read import About
from training_ume.records.files import write_json
from training_ume.records.predictions import PREDICTIONS, read_predictions, write_predictions

TABLE = {"data": ["/home/someone/tables/squares.csv"], "images": "/home/someone/pictures", "source": None}
TABLE |= {"eval_data": None, "eval_split": None, "validation_fraction": None}


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(training_ume.hub.card, "plot_learning_curve", lambda *args: args[-1].write(b"a curve"))


@pytest.fixture
def run(tmp_path):
    return on_table(write_run(tmp_path / "run", scored_on="validation"))


def on_table(folder, questions=None, **changes):
    """Makes the run one on a table of its maker's own, whose questions have one answer each."""
    results = json.loads((folder / "results.json").read_text())
    results["arguments"]["data"] |= {**TABLE, **changes}
    results["recipe"] = "own_table"
    results["data"]["coverage"] = {
        part: {"ceiling": 0.0, "questions": 0.75} for part in ("train", "validation", "test")
    }
    results["understood"] = {"train": {"name": "squares.csv", "container": "text with commas", "rows": 1234}}
    results["scores"] |= {"measured_by": "exact_match", "vqa_accuracy": 0.0}
    results["selected_by"] = {"score": "exact_match", "why": ""}
    rows = read_predictions(folder / PREDICTIONS)
    for number, row in enumerate(rows):
        row["vqa_accuracy"] = 0.0
        row["question"] = row["question"] if questions is None else questions[number % len(questions)]
    write_predictions(folder / PREDICTIONS, rows)
    write_json(folder / "results.json", results)
    return folder


def card_of(run, about=None, **options):
    return render_card(run, about or About(license="mit"), **options)["README.md"].decode()


def test_one_line_is_enough_for_a_card_that_says_what_is_known_and_no_more(run, tmp_path):
    (tmp_path / "about.yaml").write_text("license: mit\n")
    out = tmp_path / "out"
    argv = ["--about", str(tmp_path / "about.yaml"), "--out", str(out), "--repo", "me/my-squares"]
    assert main(["card", str(run), *argv]) == 0
    text = (out / "README.md").read_text()
    assert "\n# my-squares\n" in text
    assert "A table of the model's maker, `squares.csv` (text with commas, 1,234 rows), which nobody has" in text
    assert "The pictures are not shown, as nobody has said that they may be." in text
    assert not (out / "examples").exists()
    assert "/home/someone" not in text
    assert "data:\n- squares.csv" in text
    assert "VQA accuracy" not in text  # which can only be 0 where a question has one answer
    assert "| train | 90 | 30 | 75.00 |" in text
    assert "about 15% of the training images" in text
    fields = ModelCard(text).data.to_dict()
    assert fields["language"] == "en"
    assert fields["model-index"][0]["results"][0]["dataset"]["name"] == "squares.csv"


def test_what_a_person_says_counts(run):
    data = {"name": "Squares", "show_images": True}
    text = card_of(run, About("mit", title="Mine", language=["la"], data=data), repo="me/other")
    assert "\n# Mine\n" in text
    assert "on the 10 validation questions of Squares" in text
    assert "![](examples/0.png)" in text
    assert "in `la` only, also where" in text
    assert ModelCard(text).data.language == "la"


def test_the_language_is_that_of_the_questions(tmp_path):
    german = ["welche Farbe hat das Auto?", "Wie viele Stühle sind auf dem Bild?", "ist das ein Hund?"]
    text = card_of(on_table(write_run(tmp_path / "de"), german))
    assert ModelCard(text).data.language == "de"
    assert "in German only" in text
    text = card_of(on_table(write_run(tmp_path / "two"), [*german, "图中有什么?"]))
    assert ModelCard(text).data.language == ["de", "zh"]
    assert "in German and Chinese only" in text
    text = card_of(on_table(write_run(tmp_path / "none"), ["xyzzy", "plugh 7"]))
    assert "language" not in ModelCard(text).data.to_dict()
    assert "answers to every question, also where none of them fits" in text


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("What color is the car?", "en"),
        ("Welche Farbe hat das?", "de"),
        ("Combien de chaises y a-t-il dans la pièce ?", "fr"),
        ("¿De qué color es el coche?", "es"),
        ("Di che colore è la macchina?", "it"),
        ("Quantas pessoas há na foto?", "pt"),
        ("Hoeveel stoelen zijn er op het plaatje?", "nl"),
        ("これは何ですか", "ja"),
        ("这是什么?", "zh"),
        ("이것은 무엇입니까?", "ko"),
        ("Что это?", None),  # a script of many languages
        ("42", None),
        ("", None),
    ],
)
def test_languages_are_told_by_letters_and_words(question, code):
    assert language_of(question) == code


def test_no_language_is_named_that_few_questions_are_in():
    assert languages_of(["what is it?"] * 99 + ["was ist das für ein Ding?"]) == ["en"]
    assert languages_of(["?"] * 6 + ["what is it?"] * 4) == []
    assert languages_of([]) == []


def test_a_data_set_by_name_and_one_of_the_hub_are_called_so(run):
    results = json.loads((run / "results.json").read_text())
    results["understood"]["train"]["source"] = "SLAKE"
    write_json(run / "results.json", results)
    text = card_of(run)
    assert "[SLAKE](https://" in text
    assert "SLAKE: CC BY 4.0." in text
    del results["understood"]
    results["arguments"]["data"]["data"] = ["owner/colours"]
    write_json(run / "results.json", results)
    text = card_of(run)
    assert ModelCard(text).data.datasets == ["owner/colours"]
    results["arguments"]["data"]["data"] = ["train: 36 rows in memory, 0123456789abcdef"]
    write_json(run / "results.json", results)
    assert "A table of the model's maker, which nobody has described here." in card_of(run)


def test_the_file_of_a_head_from_outside_is_named_among_the_code(run):
    results = json.loads((run / "results.json").read_text())
    results["arguments"]["model"] |= {"fusion": "my_head.py:MyHead", "fusion_sha256": "00ff"}
    write_json(run / "results.json", results)
    text = card_of(run)
    assert "(`*_ume.py` and `my_head.py`)" in text
    assert "00ff" not in text
    assert "MyHead" in ModelCard(text).data.tags


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.cells, self.code = [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.cells += tag == "td"
        self.code += tag == "pre"


def test_the_preview_is_one_page_with_its_pictures_which_is_opened(run, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setenv("BROWSER", "some")
    monkeypatch.setattr(training_ume.hub.preview.webbrowser, "open", lambda address: opened.append(address) or True)
    (tmp_path / "about.yaml").write_text("license: mit\ndata: {show_images: true, name: '<b>Squares</b>'}\n")
    argv = ["--about", str(tmp_path / "about.yaml"), "--out", str(tmp_path / "page"), "--repo", "me/my-squares"]
    assert main(["card", str(run), "--preview", *argv]) == 0
    (file,) = (tmp_path / "page").iterdir()
    assert opened == [file.as_uri()]
    text, page = file.read_text(), Page()
    page.feed(text)
    assert "<h1>my-squares</h1>" in text
    assert "license: mit" in text
    assert page.cells > 30
    assert page.code >= 3
    pictures = [source for source in page.sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) > 3
    assert all(source.startswith(("data:", "https://")) for source in page.sources)
    assert "<b>" not in text.replace("&lt;b&gt;", "")  # what a person says is no markup of the page


def test_a_preview_needs_no_word_and_no_browser(run, capsys, monkeypatch):
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(training_ume.hub.preview.sys, "platform", "linux")
    assert main(["card", str(run), "--preview"]) == 0
    said = capsys.readouterr().out
    assert "No licence is said" in said
    assert re.search(r"wrote \S+preview\.html", said)
    assert "There is no browser here" in said
    with pytest.raises(SystemExit):
        main(["card", str(run), "--out", "x"])
    assert "--about and --out are needed" in capsys.readouterr().err


def test_a_dry_run_shows_the_card_also_where_nobody_said_a_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training_ume.hub.publish, "answer_elsewhere", lambda *args: {"logits": [], "answer": ""})
    folder = on_table(make_run(tmp_path / "run"))
    before = sorted(path.name for path in folder.iterdir())
    assert main(["publish", str(folder), "me/my-squares", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "No licence is said, so this card says `unknown`" in said
    assert "\n# my-squares\n" in said
    assert "## Limits" in said
    assert sorted(path.name for path in folder.iterdir()) == before
    assert main(["publish", str(folder), "me/my-squares", "--yes"]) == 2
    assert "has no README.md to publish" in capsys.readouterr().err
