"""`ume data`: what a table holds, counted, drawn, and with a command that trains on it."""

import json
import shutil
import wave

import pytest
from PIL import Image
from test_own_data import write_table

from configuration_ume.parsing import parse_recipe
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.profile import advice, profile

COLUMNS = {"image": "img_name", "answer": "label"}


@pytest.fixture
def table(tmp_path):
    """Twelve pictures with two rows each, of which one picture is a copy, one is broken and one is not there."""
    table = write_table(tmp_path / "own")
    pictures = table.parent / "pictures"
    shutil.copy(pictures / "0.png", pictures / "1.png")
    (pictures / "2.png").write_bytes(b"no picture")
    (pictures / "3.png").unlink()
    return table


@pytest.fixture
def tokenizer(tmp_path):
    words_tokenizer(["what color is it?"]).save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


def test_a_table_is_counted_and_what_is_wrong_with_it_is_told(table, tokenizer, tmp_path, capsys):
    argv = ["data", str(table), "--images", str(table.parent / "pictures"), "--columns", "image=img_name"]
    argv += ["answer=label", "--text_model", tokenizer]
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == 20
    assert facts["unusable"]["count"] == 4
    assert set(facts["unusable"]["kinds"]) == {"missing_image", "broken_image"}
    assert facts["pictures"] == {"rows": 20, "files": 10, "distinct": 9, "copies": 0.1}
    assert facts["questions"]["distinct"] == 2
    assert facts["questions"]["words"]["longest"] == 4
    assert facts["questions"]["tokens"]["longest"] == 7  # with the sign and those around
    assert [(one["answer"], one["rows"]) for one in facts["answers"]["most_common"]] == [("green", 10), ("red", 10)]
    assert facts["answers"]["coverage"] == [{"answers": 2, "share": 1.0}]
    assert facts["columns"] == {"patient": 5, "q_lang": 2}  # the two pictures of one patient cannot be read
    assert facts["unknown_tokens"]["examples"] == ["是什么颜色?"]
    assert main([*argv, "--plot", str(tmp_path / "data.png")]) == 0
    printed = capsys.readouterr().out
    assert "WARNING: 4 cannot be used (2 × missing image, 2 × broken image), for example:" in printed
    assert "10% of the 10 picture files are copies" in printed
    assert "WARNING: the tokenizer reads" in printed
    assert Image.open(tmp_path / "data.png").size[0] > 500
    # The command at the end is one that `ume train` takes.
    line = next(line for line in printed.splitlines() if line.startswith("  ume train"))
    recipe = parse_recipe(line.split()[2:])
    assert recipe.data.data == [str(table)]
    assert recipe.data.columns == COLUMNS
    assert recipe.data.split_by == "patient"
    assert recipe.model.text_model == tokenizer
    assert main([*argv, "--plot", str(tmp_path / "data.png")]) == 2
    assert "exists: delete it" in capsys.readouterr().err


def test_lengths_and_coverage_are_those_of_the_rows(tmp_path):
    lines = [f"{'word ' * (i % 4)}end,{i if i < 40 else 'often'}" for i in range(100)]
    (tmp_path / "texts.csv").write_text("\n".join(["question,answer", *lines]))
    facts = profile(str(tmp_path / "texts.csv"))
    assert facts["pictures"]["files"] == 0
    assert facts["questions"]["words"] == {
        "shortest": 1, "median": 2.5, "of_95_percent": 4, "longest": 4, "counts": {1: 25, 2: 25, 3: 25, 4: 25},
    }  # fmt: skip
    assert facts["answers"]["once"] == 40
    assert facts["answers"]["coverage"] == [
        {"answers": 10, "share": 0.69}, {"answers": 30, "share": 0.89}, {"answers": 41, "share": 1.0},
    ]  # fmt: skip
    assert [one["field"] for one in facts["advice"]] == ["min_answer_count"]


def test_rare_classes_are_worth_weights():
    answers = {"distinct": 2, "once": 0, "rarest": 3, "most_common": [{"rows": 90}]}
    facts = {"columns": {"note": 4}, "rows": 93, "answers": answers, "unknown_tokens": None}
    assert [one["field"] for one in advice(facts)] == ["class_weights"]
    assert advice({**facts, "answers": {**answers, "rarest": 30}}) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["{table}", "--columns", "img_name"], "is no pair"),
        (["{table}", "--text_model", "{folder}"], "No tokenizer can be loaded from"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(table, tmp_path, capsys, argv, said):
    assert main(["data", *(word.format(table=table, folder=tmp_path) for word in argv)]) == 2
    assert said in capsys.readouterr().err


def test_the_proposed_command_names_an_encoder_of_what_rows_have_and_leaves_out_what_none_has(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("wav,area,label\na.wav,1,x\nb.wav,2,y\n")
    for name in ("a.wav", "b.wav"):
        with wave.open(str(tmp_path / name), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(1600))
    assert main(["data", str(tmp_path / "own.csv"), "--columns", "table=area"]) == 0
    said = capsys.readouterr().out
    assert "--text_model null --vision_model null --audio_model NAME --table_config" in said
    assert "Tokens are not counted" not in said
    assert main(["data", str(tmp_path / "own.csv")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("own.csv --audio_model NAME")  # a model joins two or more


def test_where_no_row_can_be_used_the_first_reason_is_said_and_no_file_that_is_gone(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("image,question,answer\nnowhere.png,what?,a\nno.png,who?,b\n")
    assert main(["data", str(tmp_path / "own.csv")]) == 2
    said = capsys.readouterr().err
    assert "No row can be used; the first: " in said
    assert "nowhere.png" in said
    assert "skipped.tsv" not in said
