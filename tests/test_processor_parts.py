"""A processor's parts: any may be absent, one of this project's own is kept in the file, all come back on loading."""

import importlib
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from test_processing import ANSWERS, bert_tokenizer, image_processor, picture
from transformers import ViTConfig

import modeling_ume
from modeling_ume import UMEProcessor
from modeling_ume.log_mel_ume import LogMelPatches
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from modeling_ume.scalers_ume import SeriesScaler, TableScaler


class Halver:
    """A part of this project: a small object that a dict holds."""

    def __init__(self, by: float):
        self.by = by

    def to_dict(self):
        return {"by": self.by}

    @classmethod
    def from_dict(cls, fields):
        return cls(**fields)


class Heights(Modality):
    name = "heights"
    part = "heights_scaler"
    part_classes = (Halver,)

    def collate(self, part, values):
        return {"heights": torch.tensor(values) / part.by}


@pytest.fixture
def with_heights(monkeypatch):
    monkeypatch.setitem(MODALITIES, "heights", Heights())


@pytest.mark.parametrize(
    ("parts", "gone", "what"),
    [
        ({"tokenizer": bert_tokenizer}, "image_processor", {"text": "red ?"}),
        ({"image_processor": image_processor}, "tokenizer", {"images": picture()}),
    ],
)
def test_a_processor_without_text_or_without_images_is_saved_and_loaded_whole(parts, gone, what, tmp_path):
    processor = UMEProcessor(**{name: make() for name, make in parts.items()}, id2label=ANSWERS)
    processor.save_pretrained(tmp_path)
    again = UMEProcessor.from_pretrained(tmp_path)
    assert getattr(again, gone) is None
    assert again.id2label == ANSWERS
    assert again.to_dict() == processor.to_dict()
    before, after = processor(**what), again(**what)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.decode_answers(torch.tensor([[0.0, 3.0, 1.0]]))[0][0]["answer"] == "blue"
    with pytest.raises(ValueError, match="was given, but this processor reads"):
        again(**{"images": picture(), "text": "red ?"})


def test_a_processor_loads_by_its_auto_class_in_a_process_that_knows_nothing_of_it(tmp_path):
    UMEProcessor(image_processor(), id2label=ANSWERS).save_pretrained(tmp_path / "processor")
    code = (
        "import sys; from transformers import AutoProcessor\n"
        "found = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'modeling_ume' not in sys.modules\n"
        "print(type(found).__name__, found.tokenizer, found.id2label)"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "processor")],
        capture_output=True, text=True, cwd=tmp_path, env=env, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == f"UMEProcessor None {ANSWERS}", done.stderr


def test_a_part_of_this_project_is_kept_in_the_processors_file(with_heights, tmp_path):
    processor = UMEProcessor(heights_scaler=Halver(2.0), tokenizer=bert_tokenizer(), id2label=ANSWERS)
    processor.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "processor_config.json").read_text())
    assert said["heights_scaler"] == {"heights_scaler_type": "Halver", "by": 2.0}
    again = UMEProcessor.from_pretrained(tmp_path)
    assert again.image_processor is None
    assert again(heights=[4.0, 6.0])["heights"].tolist() == [2.0, 3.0]
    assert UMEProcessor.from_pretrained(tmp_path, heights_scaler=Halver(1.0)).heights_scaler.by == 1.0


def test_a_part_of_an_unknown_kind_is_refused(with_heights, tmp_path):
    UMEProcessor(heights_scaler=Halver(2.0), id2label=ANSWERS).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(file.read_text().replace("Halver", "Doubler"))
    with pytest.raises(
        ValueError, match=r"heights_scaler in processor_config\.json of .* is of no kind that is known"
    ):
        UMEProcessor.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="heights_scaler is a int: give a Halver"):
        UMEProcessor(heights_scaler=2)


def test_one_encoder_is_enough_to_take_a_processor_from(tmp_path):
    image_processor().save_pretrained(tmp_path)
    processor = UMEProcessor.from_encoders_pretrained(vision_name=tmp_path, image_size=12, id2label=ANSWERS)
    assert processor.tokenizer is None
    assert processor(images=picture())["pixel_values"].shape == (1, 3, 12, 12)
    with pytest.raises(ValueError, match="There is no encoder to prepare inputs for: give text_name or vision_name"):
        UMEProcessor.from_encoders_pretrained()
    with pytest.raises(ValueError, match="image_size was given without vision_name"):
        UMEProcessor.from_encoders_pretrained(tmp_path, image_size=12)
    with pytest.raises(ValueError, match=r"vision_nam is no argument .* Did you mean vision_name"):
        UMEProcessor.from_encoders_pretrained(vision_nam=tmp_path)


@pytest.mark.parametrize("part", ["tokenizer", "image_processor"])
def test_a_file_that_was_written_before_parts_could_be_absent_has_both(part, tmp_path):
    UMEProcessor(image_processor(), bert_tokenizer(), id2label=ANSWERS).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "processor_config.json").read_text())
    assert "tokenizer" not in said
    assert getattr(UMEProcessor.from_pretrained(tmp_path), part) is not None


PARTS_OF_OURS = {
    "audio": (LogMelPatches, lambda: np.sin(np.arange(8000, dtype=np.float32))),
    "video": (
        lambda: MODALITIES["video"].new_part(ViTConfig(image_size=32), {}),
        lambda: np.zeros((3, 20, 30, 3), np.uint8),
    ),
    "series": (lambda: SeriesScaler.fit([[[1.0, 2.0], [3.0, 5.0]]]), lambda: [[1.0, 2.0], [0.0, 1.0]]),
    "table": (lambda: TableScaler.fit([{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}]), lambda: {"a": 1.5, "b": "y"}),
}


@pytest.mark.parametrize("name", [name for name, kind in MODALITIES.items() if kind.part_classes])
def test_a_part_whose_code_was_loaded_a_second_time_prepares_the_same(name, monkeypatch):
    """As in a pipeline of a checkpoint, whose code is another copy of that of its processor."""
    copied = types.ModuleType("copied_ume")
    copied.__path__ = modeling_ume.__path__  # its modules, without what the package registers
    monkeypatch.setitem(sys.modules, "copied_ume", copied)
    make, cell = PARTS_OF_OURS[name]
    part, kind = make(), MODALITIES[name]
    home = importlib.import_module("copied_ume." + type(part).__module__.rpartition(".")[2])
    other = getattr(home, type(part).__name__).from_dict(part.to_dict())
    assert type(other) is not type(part)
    kind.check_part(other)
    assert kind.option_names(other) == kind.option_names(part)
    found, wanted = (kind.process(one, [cell()]) for one in (other, part))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    for loaded in [module for module in sys.modules if module.startswith("copied_ume.")]:
        del sys.modules[loaded]


def test_another_name_of_a_modality_is_answered_by_the_one_that_it_has_here():
    processor = UMEProcessor(image_processor(), id2label=ANSWERS)
    with pytest.raises(ValueError, match=r"A processor is not given image: what it is called here is images=…\."):
        processor(image=picture())
