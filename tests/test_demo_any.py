"""The page of models of other modalities: an input for each, any left empty, a sentence for what cannot be read."""

import numpy as np
import pytest
import soundfile
from test_audio import model_of, processor_of, sound
from test_demo import picture
from test_export_any import table_model

from modeling_ume.modalities_ume import MODALITIES
from training_ume.serve import page_any
from training_ume.serve.html import render_answers
from training_ume.serve.judges import Judge
from training_ume.serve.page import build_demo
from training_ume.serve.page_any import answer_any, fields_of, kinds_of, read_cells, read_file
from training_ume.serve.space import write_space


@pytest.fixture(scope="module")
def hearing():
    model = model_of("wav2vec2")
    return [Judge("ume", model, processor_of(model.config))]


@pytest.fixture(scope="module")
def pricing():
    return [Judge("ume", *table_model())]


AUDIO, SERIES, TABLE = (MODALITIES[name] for name in ("audio", "series", "table"))


def test_inputs_are_those_of_what_the_models_read(hearing, pricing):
    assert [kind.name for kind in kinds_of(hearing)] == ["vision", "audio"]
    assert [kind.name for kind in kinds_of([*hearing, *pricing])] == ["vision", "audio", "series", "table"]
    assert fields_of(pricing, TABLE) == {"area": None, "rooms": None, "side": ["north", "south"]}


def test_a_sound_and_a_picture_are_answered_each_alone_and_together(hearing, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(4000), 16000)
    given = {"audio": read_file(AUDIO, tmp_path / "a.wav"),
             "vision": read_file(MODALITIES["vision"], picture(tmp_path / "a.png"))}  # fmt: skip
    for names in (["audio"], ["vision"], ["audio", "vision"]):
        some = {name: given[name] if name in names else None for name in given}
        [answers] = answer_any(hearing, some, "a").answers
        assert answers == hearing[0].pipeline.answer([{name: given[name] for name in names}])[0]
    with pytest.raises(ValueError, match="Nothing was given: this page takes image, sound; give one"):
        answer_any(hearing, dict.fromkeys(given), "a")


def test_numbers_are_shown_with_their_name_and_a_row_may_lack_cells(pricing):
    row = read_cells(TABLE, fields_of(pricing, TABLE), ["1200", "", "south"])
    assert row == {"area": 1200.0, "side": "south"}
    assert read_cells(TABLE, fields_of(pricing, TABLE), ["", None, " "]) is None
    card = answer_any(pricing, {"table": row, "series": None}, "<b>")
    html = render_answers(pricing, [card])
    assert "<dt class=first>price</dt>" in html
    assert "&lt;b&gt;" in html
    assert "Looking for" not in html


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["twelve", "", ""], "area is “twelve”, which is no number"),
        (["1,5", "", ""], "area is “1,5”, which is no number"),
        (["", "", "west"], "side has no choice “west”"),
        (["1" * 101, "", ""], "area has 101 characters"),
    ],
)
def test_what_is_no_cell_is_one_sentence(values, said, pricing):
    with pytest.raises(ValueError, match=said):
        read_cells(TABLE, fields_of(pricing, TABLE), values)


def test_files_that_are_none_are_one_sentence_without_a_path(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    assert read_file(SERIES, tmp_path / "a.npy") == str(tmp_path / "a.npy")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "c.txt").write_text("1,2")
    for kind, name in ((AUDIO, "b.wav"), (SERIES, "pickled.npy"), (SERIES, "c.txt"), (AUDIO, "a.npy")):
        with pytest.raises(ValueError, match=f"The file “{name}” is not a {kind.noun} that can be read") as error:
            read_file(kind, tmp_path / name)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(ValueError, match="is no longer here"):
        read_file(AUDIO, tmp_path / "gone.wav")
    for sent in (["a"], {"path": "a"}, 7, "a\0b"):
        with pytest.raises(ValueError, match="What was sent is no sound"):
            read_file(AUDIO, sent)
    monkeypatch.setattr(page_any, "MAX_UPLOAD", 3)
    with pytest.raises(ValueError, match="is larger than 0 MB"):
        read_file(SERIES, tmp_path / "a.npy")


def test_the_page_has_an_input_for_each_and_takes_no_examples(hearing, pricing, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ume[demo]'")
    for judges, wanted in (
        (hearing, ["A picture", "A sound"]), (pricing, ["area", "rooms", "side", "A series"]),
    ):  # fmt: skip
        config = build_demo(judges).get_config_file()
        labels = [part["props"].get("label", "").partition(" (")[0] for part in config["components"]]
        assert set(wanted) <= set(labels)
    with pytest.raises(ValueError, match="--examples are for questions about images"):
        build_demo(hearing, tmp_path)


def test_a_space_of_such_a_model_says_what_it_takes(hearing, tmp_path, monkeypatch):
    monkeypatch.setattr("training_ume.serve.space.load_judges", lambda names, *rest: hearing)
    write_space(tmp_path / "space", ["someone/tones"])
    assert "Give a picture or a sound, any of which may be left empty" in (tmp_path / "space/README.md").read_text()
