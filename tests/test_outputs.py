"""What --overwrite_output deletes, what it leaves, and what is known to fail before anything is deleted or loaded."""

import os
import re
from pathlib import Path

import pytest
from vqa_files import write_tiny_recipe, write_vqa_files

import configuration_ume.requirements
import training_ume.training.run
from configuration_ume.arguments import UMETrainingArguments
from configuration_ume.parsing import parse_recipe
from training_ume.commands import train
from training_ume.records.outputs import clear, files_of_runs, not_of_runs


@pytest.fixture
def recipe(tmp_path):
    files = write_vqa_files(tmp_path / "data", num_images=5)

    def write(**fields):
        fields = {"num_train_epochs": 1, "output_dir": str(tmp_path / "run"), **fields}
        return str(write_tiny_recipe(tmp_path / "tiny.yaml", files, **fields))

    return write


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_overwriting_leaves_nothing_of_the_runs_before_and_all_that_is_the_users(recipe, tmp_path, capsys):
    """A model and one beside it, then several seeds: the root holds no model that is not theirs."""
    run = tmp_path / "run"
    assert train.main([recipe(), "--fusion", "concat", "--beside", "image_only"]) == 0
    mine = {
        "notes.txt",
        "README.md",
        "beside/image_only/plot.png",
        "checkpoint-3/notes.txt",
        "checkpoint-old/x",
        "a.py",
    }
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_text("mine")
    (run / "base").symlink_to(tmp_path / "elsewhere")
    capsys.readouterr()
    assert train.main([recipe(), "--fusion", "sum", "--seeds", "0", "1", "--overwrite_output"]) == 0
    printed = capsys.readouterr().out
    said = re.search(r"not written by a run: (.*)\.\n", printed)[1].split(", ")
    assert set(said) == mine - {"checkpoint-old/x"} | {"checkpoint-old/", "base/"}
    ours = {name for name in files_in(run) if not name.startswith("seed")} - mine - {"base/model.safetensors"}
    assert ours == {"results.json"}
    assert (tmp_path / "elsewhere" / "model.safetensors").read_text() == "mine"
    assert {"seed0/model.safetensors", "seed1/model.safetensors"} <= files_in(run)
    # What lies there now is not one run's, and cannot be resumed as one.
    assert train.main([recipe(), "--fusion", "sum", "--resume_from_checkpoint"]) == 2
    assert "holds the runs of several seeds" in capsys.readouterr().err


def test_a_single_run_is_not_resumed_as_several(recipe, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "arguments.json").write_text("{}")
    assert train.main([recipe(), "--seeds", "0", "1", "--resume_from_checkpoint"]) == 2
    assert "holds the run of a single seed" in capsys.readouterr().err


def test_every_file_of_a_run_is_known_by_its_name(tmp_path):
    names = [
        "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json",
        "tokenizer.json", "vocab.txt", "processor_config.json", "modeling_ume.py", "trust_ume.py", "results.json",
        "predictions.jsonl", "skipped_train.tsv", "_checkpoint-5.unfinished", "learning_curve.png",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "base/model.safetensors",
        "seed3/results.json", "beside/concat/seed3/config.json", "checkpoint-5/optimizer.pt",
        "checkpoint-5/rng_state_1.pth", "checkpoint-5/pytorch_model_fsdp_0/__0_0.distcp", "checkpoint-5/latest",
        "checkpoint-5/optimizer_0/.metadata", "checkpoint-5/global_step5/mp_rank_00_model_states.pt",
        "checkpoint-5/global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "runs/May01_host/events.out.tfevents.1.host.2.0",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "README.md").write_text("---\nlicense: mit\npipeline_tag: visual-question-answering\n---\n# A model\n")
    assert not_of_runs(tmp_path) == []
    found = files_of_runs(tmp_path)
    (tmp_path / "skipped_train.tsv").write_text("written anew while the data was loaded")
    os.utime(tmp_path / "skipped_train.tsv", ns=(0, 1))
    clear(found)
    assert [path.name for path in tmp_path.iterdir()] == ["skipped_train.tsv"]


CANNOT = [
    ({"report_to": "tensorbord"}, "report_to names 'tensorbord', which is unknown: did you mean tensorboard?"),
    ({"report_to": "neptune"}, "report_to names neptune, which is not installed here"),
    ({"report_to": ["neptune", "swanlab"]}, "neptune, swanlab, which are not installed here"),
    ({"fp16": True}, "fp16 needs a GPU"),
    ({"tf32": True}, "--tf32 requires"),
    ({"deepspeed": "ds.json"}, "deepspeed is given, but the package is not there"),
    ({"label_names": ["answers"]}, "label_names=['answers'] is impossible"),
    ({"remove_unused_columns": True}, "remove_unused_columns=True is impossible"),
    ({"train_sampling_strategy": "group_by_length"}, "Use random, with bucket_by_length"),
    ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches=True is impossible"),
    ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config.dispatch_batches=True is impossible"),
    ({"seed": -1}, "seed=-1 is impossible"),
    ({"seeds": [0, 2**40]}, "seeds=1099511627776 is impossible"),
    ({"optim": "adamw_bnb_8bit"}, "optim='adamw_bnb_8bit' cannot be used"),
    ({"optim": "sgd", "optim_args": "momentum"}, "optim='sgd' with optim_args='momentum' cannot be used"),
    ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}}, "'polynomial' cannot be used with"),
    ({"use_liger_kernel": True}, "use_liger_kernel=True is impossible"),
    ({"fsdp": "full_shard"}, "fsdp shards a model over several processes"),
    ({"push_to_hub": True}, "push_to_hub needs a Hub token"),
    ({"metric_for_best_model": "eval_accuracy"}, "metric_for_best_model='eval_accuracy' is not among what"),
    ({"lora_r": 2, "no_peft": True}, "lora_r needs the package peft"),
    ({"output_dir": "FILE/run"}, "is no folder. Choose another one"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "sentence"), CANNOT, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_said_before_anything_is_loaded_or_deleted(
    recipe, tmp_path, capsys, monkeypatch, fields, sentence
):
    monkeypatch.setattr(training_ume.training.run, "load_data", lambda *args, **kwargs: pytest.fail("data was loaded"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    find = configuration_ume.requirements.find_spec
    absent = ["deepspeed"] + ["peft"] * fields.pop("no_peft", False)
    monkeypatch.setattr(
        configuration_ume.requirements, "find_spec", lambda name: None if name in absent else find(name)
    )
    (tmp_path / "FILE").write_text("")
    fields = {
        name: value.replace("FILE", str(tmp_path / "FILE")) if name == "output_dir" else value
        for name, value in fields.items()
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_text("the model before")
    assert train.main([recipe(**fields), "--overwrite_output"]) == 2
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").read_text() == "the model before"


def test_reports_to_all_are_those_that_are_there(recipe):
    assert "neptune" not in parse_recipe([recipe(report_to="all")]).training.report_to
    assert parse_recipe([recipe(report_to=["none"])]).training.report_to == []
    assert parse_recipe([recipe(), "--report_to", "none"]).training.report_to == []


@pytest.mark.parametrize(
    "fields",
    [
        {"text_config": {"model_type": "bert", "hidden_size": 15}},
        {"text_config": {"model_type": "bert", "hidden_act": "gellu"}},
        {"vision_config": {"model_type": "vit", "patch_size": 64, "num_hidden_layers": 1}},
        {"vision_config": {"model_type": "vit", "num_channels": 1, "patch_size": 8, "num_hidden_layers": 1}},
        {"init_from": "no"},
        {"feature_cache": "no", "freeze_vision": True},
        {"metric_for_best_model": "vqa_accuracy_numbr"},
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_or_chosen_costs_nothing(recipe, tmp_path, capsys, fields):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_text("the model before")
    assert train.main([recipe(**fields), "--overwrite_output"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (tmp_path / "run" / "model.safetensors").read_text() == "the model before"


def test_the_arguments_by_themselves_are_held_to_the_same(tmp_path):
    with pytest.raises(ValueError, match="report_to names neptune"):
        UMETrainingArguments(output_dir=str(tmp_path), report_to=["neptune"], use_cpu=True)
