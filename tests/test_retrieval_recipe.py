"""A recipe whose task is retrieval: trained, evaluated and compared from the command line."""

import csv

import pytest
import torch
from PIL import Image
from vqa_files import COLOURS, write_tiny_recipe

from configuration_ume.parsing import parse_recipe
from training_ume.commands import main
from training_ume.evaluation.finding import _scores
from training_ume.records.files import read_json


def write_captions(folder, rows=24):
    """Pictures in four colours and what each shows, in words of its own."""
    (folder / "pictures").mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for i in range(rows):
            colour = list(COLOURS)[i % 4]
            picture = Image.new("RGB", (20, 20), COLOURS[colour])
            picture.putpixel((i % 20, i // 20), (1, 2, 3))
            picture.save(folder / "pictures" / f"{i}.png")
            writer.writerow([f"pictures/{i}.png", f"{colour} number{i % 4}"])
    return folder / "captions.csv"


def test_a_recipe_trains_retrieval_and_its_model_is_evaluated_and_compared(tmp_path, capsys):
    table = write_captions(tmp_path / "own")
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", {"data": str(table)}, source=None, num_train_epochs=2,
                               validation_fraction=0.25, task="retrieval", pairs=["text+vision"])  # fmt: skip
    assert main(["train", str(recipe), "--columns", "question=caption"]) == 0
    printed = capsys.readouterr().out
    assert "text to vision" in printed
    assert "recall@10" in printed
    results, config = read_json(tmp_path / "run" / "results.json"), read_json(tmp_path / "run" / "config.json")
    assert config["architectures"] == ["UMEForRetrieval"]
    assert config["retrieval_pairs"] == [["text", "vision"]]
    assert results["scores"]["pairs"].keys() == {"text_to_vision", "vision_to_text"}
    assert 0 < results["baselines"]["chance"]["recall@1"] < 100
    assert len(results["epochs"]) == 2
    out = tmp_path / "scores.json"
    argv = ["evaluate", str(tmp_path / "run"), "--data", str(table), "--columns", "question=caption"]
    assert main([*argv, "--out", str(out)]) == 0
    assert read_json(out)["scores"]["recall@1"] >= 0
    assert main(["compare", str(tmp_path / "run")]) == 0
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "other"), "--rubi_weight", "1"]) == 2
    assert "rubi_weight=1.0 is not for task=retrieval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "retrieval", "pairs": ["text"]}, "pairs has 'text': write two different ones"),
        ({"task": "retrieval", "pairs": ["text+audio"]}, "pairs has 'text.audio'"),
        ({"pairs": ["text+vision"]}, "pairs is about task=retrieval"),
        ({"task": "finding"}, "finding"),
    ],
)
def test_fields_of_retrieval_that_do_not_fit_are_told(tmp_path, fields, said):
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", {"data": "x.csv"}, source=None, **fields)
    with pytest.raises(ValueError, match=said):
        parse_recipe([str(recipe)])


def test_what_is_found_is_counted_by_rank_and_a_model_that_tells_nothing_apart_finds_nothing():
    own = torch.eye(4, dtype=torch.bool)
    perfect, blind = _scores(torch.eye(4), own), _scores(torch.ones(4, 4), own)
    assert (perfect["recall@1"], perfect["median_rank"]) == (100, 1)
    assert (blind["recall@1"], blind["median_rank"], blind["chance"]) == (0, 4, 25)
