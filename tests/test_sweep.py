"""Several values for a field: each is trained in a folder of its own, and they are compared at the end."""

from pathlib import Path

import pytest
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import make_recipe, parse_recipe
from training_ume.commands import main
from training_ume.records.files import read_json
from training_ume.training.trainer import UMETrainer


@pytest.fixture
def recipe(tmp_path):
    files = write_vqa_files(tmp_path / "data")
    return write_tiny_recipe(tmp_path / "tiny.yaml", files, num_train_epochs=1)


def variants(recipe, *argv):
    return parse_recipe([str(recipe), *argv], several=True).sweep


def test_several_values_are_a_recipe_each_and_two_fields_their_product(recipe):
    assert variants(recipe, "--learning_rate", "1e-3") == ()
    found = variants(recipe, "--learning_rate", "1e-3", "2e-3", "--fusion", "concat", "product", "--freeze_text", "no")
    assert [dict(each.settings) for each in found] == [
        {"fusion": fusion, "learning_rate": rate} for fusion in ("concat", "product") for rate in (1e-3, 2e-3)
    ]
    assert [(each.model.fusion, each.training.learning_rate) for each in found] == [
        ("concat", 1e-3), ("concat", 2e-3), ("product", 1e-3), ("product", 2e-3),
    ]  # fmt: skip
    assert [Path(each.training.output_dir).name for each in found][:2] == [
        "fusion=concat,learning_rate=0.001", "fusion=concat,learning_rate=0.002",
    ]  # fmt: skip
    assert len({each.training.output_dir for each in found}) == 4
    both = variants(recipe, "--freeze_text", "yes", "no", "--top_k_answers", "null", "3")
    assert [(each.model.freeze_text, each.data.top_k_answers) for each in both] == [
        (True, None), (True, 3), (False, None), (False, 3),
    ]  # fmt: skip


def test_a_recipe_and_a_call_may_hold_several_values_too(tmp_path, recipe):
    recipe.write_text(recipe.read_text().replace('"learning_rate": 0.001', '"learning_rate": [1e-3, 2e-3]'))
    assert [each.training.learning_rate for each in variants(recipe)] == [1e-3, 2e-3]
    assert variants(recipe, "--learning_rate", "1e-4") == ()
    made = make_recipe(recipe, {"learning_rate": (1e-4, 1e-5), "output_dir": tmp_path / "here"}, several=True)
    assert [each.training.learning_rate for each in made.sweep] == [1e-4, 1e-5]
    assert made.training.output_dir == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--output_dir", "a", "b"], "output_dir takes one value, and got a b: runs that differ in it learn the same"),
        (["--validation_fraction", "0.1", "0.2"], "validation_fraction takes one value"),
        (["--seed", "0", "1"], "give several seeds as --seeds 0 1"),
        (["--learning_rate", "1e-3", "0.001"], "learning_rate is given the same value twice"),
        (["--learning_rate", "1e-3", "-1"], "With learning_rate=-1.0: learning_rate=-1.0 is impossible"),
        (["--fusion", "ume", "umee"], "With fusion=umee: fusion='umee' is not known"),
    ],
)
def test_values_that_cannot_be_compared_are_refused_before_anything_is_trained(recipe, argv, sentence):
    with pytest.raises(ValueError, match=sentence):
        variants(recipe, *argv)


def test_other_commands_take_one_value(recipe):
    with pytest.raises(ValueError, match=r"learning_rate takes one value, and got 0\.001 0\.002: only `ume"):
        parse_recipe([str(recipe), "--learning_rate", "1e-3", "2e-3"])


def test_each_value_is_trained_and_resumed_in_its_folder_and_all_are_compared(recipe, tmp_path, monkeypatch, capsys):
    argv = ["train", str(recipe), "--learning_rate", "1e-3", "2e-3"]
    step, steps = UMETrainer.training_step, []

    def cut(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > 6:  # in the second of them
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UMETrainer, "training_step", cut)
        assert main(argv) == 130
    assert "repeat the command with --resume_from_checkpoint" in capsys.readouterr().err
    assert main([*argv, "--resume_from_checkpoint"]) == 0
    printed = capsys.readouterr().out
    assert "It is finished; its results are taken as they are." in printed
    assert "Best on the validation questions: ume, learning_rate=0.00" in printed
    output = tmp_path / "run"
    results = read_json(output / "results.json")
    assert [row["name"] for row in results["comparison"]] == ["ume, learning_rate=0.001", "ume, learning_rate=0.002"]
    assert results["runs"] == ["sweep/learning_rate=0.001", "sweep/learning_rate=0.002"]
    assert results["best"]["score"] == "vqa_accuracy"
    for folder in results["runs"]:
        assert (output / folder / "model.safetensors").is_file()
    # A single run would stand beside theirs as if it belonged to them; --overwrite_output clears them away.
    single = ["train", str(recipe)]
    assert main([*single, "--resume_from_checkpoint"]) == 2
    assert "holds the runs of several seeds or values" in capsys.readouterr().err
    assert main([*single, "--overwrite_output"]) == 0
    assert not (output / "sweep").exists()
    assert main([*argv, "--resume_from_checkpoint"]) == 2
    assert "holds the run of a single seed and value" in capsys.readouterr().err
