"""Two processes of torchrun learn what one learns from the batch of both, whole or sharded, from files or a stream."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from vqa_files import TINY, UME, write_tiny_recipe, write_vqa_files

from configuration_ume import RECIPES
from training_ume.evaluation.load import load_checkpoint

ROOT = Path(__file__).parent.parent
# Runs `ume train` and writes down which questions each process trained on, and on request kills one of them.
WATCHED = """
import json, os, sys
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
sys.argv = sys.argv[1:]
from training_ume.commands.train import main
from training_ume.training.trainer import UMETrainer
training_step, rank = UMETrainer.training_step, os.environ.get("RANK", "0")

def watched(self, model, inputs, *args, **kwargs):
    if os.environ.get("DIES") == rank and self.state.global_step == int(os.environ.get("AT", 2)):
        raise RuntimeError("the second worker has no more memory")
    if "SHOW" in os.environ and rank == "0":
        layers = {type(m).__mro__[2].__name__ for m in model.modules() if isinstance(m, FSDPModule) and m is not model}
        print(json.dumps({"all sharded": all(isinstance(p, DTensor) for p in model.parameters()),
                          "layers": sorted(layers)}), flush=True)
    return training_step(self, model, inputs, *args, **kwargs)

class Collator:
    def __init__(self, collator): self.collator = collator
    def __getattr__(self, name): return getattr(self.collator, name)
    def __call__(self, rows):
        with open(os.path.join(os.environ["SEEN"], rank), "a") as file:
            file.write(" ".join(str(row["question_id"]) for row in rows) + "\\n")
        return self.collator(rows)

def get_train_dataloader(self, original=UMETrainer.get_train_dataloader):
    loader = original(self)
    loader.collate_fn = Collator(loader.collate_fn)
    return loader

UMETrainer.training_step, UMETrainer.get_train_dataloader = watched, get_train_dataloader

# accelerate shards on accelerators only, and trains with DDP where there are CPUs: here it is told that these count.
from accelerate.state import AcceleratorState, DistributedType

def start(self, *args, fsdp_plugin=None, original=AcceleratorState.__init__, **kwargs):
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
    if "fsdp_plugin" in self.__dict__:
        self.distributed_type = DistributedType.FSDP

AcceleratorState.__init__ = start
sys.exit(main(sys.argv[1:]))
"""


def fsdp2() -> dict[str, str]:
    """The environment that `accelerate launch` makes of the shipped file."""
    settings = yaml.safe_load((RECIPES / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    return {"ACCELERATE_USE_FSDP": "true", **{name.upper(): str(value) for name, value in settings.items()}}


def run(folder, processes, batch_size, *arguments, **environment):
    """Trains the tiny recipe without dropout; the finished process and the questions of each step, by process."""
    seen = folder / f"seen{processes}"
    shutil.rmtree(seen, ignore_errors=True)
    seen.mkdir()
    watched = folder / "watched.py"
    watched.write_text(WATCHED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    recipe = str(folder / "tiny.yaml")
    output = ["--output_dir", str(folder / f"run{processes}"), "--per_device_train_batch_size", str(batch_size)]
    done = subprocess.run(
        [*launcher, str(watched), "ume", recipe, *output, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SEEN": str(seen), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = [[line.split() for line in (seen / str(rank)).read_text().splitlines()] for rank in range(processes)]
    return done, lines


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe without dropout, for 33 questions to train on: the last step is half full, and uneven."""
    files = write_vqa_files(tmp_path / "data", num_images=14)
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **TINY}
    write_tiny_recipe(
        tmp_path / "tiny.yaml",
        files,
        text_config={"model_type": "bert", "max_position_embeddings": 16, **without},
        vision_config={"model_type": "vit", "patch_size": 8, **without},
        fusion_dropout=0.0,
        classifier_dropout=0.0,
        validation_fraction=0.2,
        num_train_epochs=2,
        ddp_backend="gloo",
    )
    return tmp_path


def losses(folder, step):
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def farthest(first, second):
    """The largest difference between the weights of two runs."""
    first, second = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max() for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_two_processes_that_accumulate_equal_one_on_the_same_questions(folder, problem_type):
    """33 questions as updates of 6 + 6, 6 + 6 and 6 + 3: a process's last batch holds one, or two."""
    options = ["--gradient_accumulation_steps", "2", "--num_train_epochs", "1", "--max_grad_norm", "0"]
    options += ["--problem_type", problem_type]
    (one, whole), (two, parts) = run(folder, 1, 6, *options), run(folder, 2, 3, *options)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert [first + second for first, second in zip(*parts, strict=True)] == whole[0]
    assert len(whole[0][-1]) == 3
    assert losses(folder / "run2", 3) == pytest.approx(losses(folder / "run1", 3), abs=1e-5)
    assert farthest(folder / "run1", folder / "run2") < 1e-4


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(folder):
    (one, whole), (two, parts) = run(folder, 1, 6), run(folder, 2, 3)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    steps = [first + second for first, second in zip(*parts, strict=True)]
    assert steps == whole[0]
    epoch = [question for step in steps[: len(steps) // 2] for question in step]
    assert len(set(epoch)) == len(epoch) == 33
    assert [len(part[-1]) for part in parts] == [1, 2]  # the processes' losses do not weigh the same here
    results = [json.loads((folder / f"run{n}" / "results.json").read_text()) for n in (1, 2)]
    one_losses, two_losses = (losses(folder / f"run{n}", len(steps)) for n in (1, 2))
    assert len(one_losses) == len(steps)
    assert two_losses == pytest.approx(one_losses, abs=1e-4)
    assert results[0]["scores"] == results[1]["scores"]
    evaluations = [[epoch["vqa_accuracy"] for epoch in result["epochs"]] for result in results]
    assert evaluations[0] == evaluations[1]
    assert farthest(folder / "run1", folder / "run2") < 1e-4


@pytest.mark.slow
def test_two_processes_equal_one_also_with_an_average_of_the_weights_and_a_question_only_branch(folder):
    changes = ["--ema_decay", "0.9", "--rubi_weight", "1", "--soft_targets", "--label_smoothing_factor", "0.1"]
    for processes, batch_size in ((1, 6), (2, 3)):
        done, _ = run(folder, processes, batch_size, *changes)
        assert done.returncode == 0, done.stderr
    assert farthest(folder / "run1", folder / "run2") < 1e-4
    results = [json.loads((folder / f"run{n}" / "results.json").read_text()) for n in (1, 2)]
    evaluations = [[epoch["vqa_accuracy"] for epoch in result["epochs"]] for result in results]
    assert evaluations[0] == evaluations[1]


@pytest.mark.slow
def test_two_processes_that_shard_the_model_equal_one_also_after_an_interruption(folder):
    (one, _), (died, _) = run(folder, 1, 6), run(folder, 2, 3, DIES="1", AT="8", **fsdp2())
    assert one.returncode == 0, one.stderr
    assert "the second worker has no more memory" in died.stderr
    resumed, parts = run(folder, 2, 3, "--resume_from_checkpoint", **fsdp2())
    assert resumed.returncode == 0, resumed.stderr
    assert "Going on from" in resumed.stdout
    assert len(parts[0]) == 6  # the second epoch alone
    assert losses(folder / "run2", 12) == pytest.approx(losses(folder / "run1", 12), abs=1e-4)
    assert farthest(folder / "run1", folder / "run2") < 1e-4
    files = {path.name for path in (folder / "run1").iterdir() if path.is_file()}
    assert {path.name for path in (folder / "run2").iterdir() if path.is_file()} == files
    model, _ = load_checkpoint(str(folder / "run2"))
    assert model.config.architectures == ["UMEForVisualQuestionAnswering"]


@pytest.mark.slow
def test_sharding_shards(folder):
    done, _ = run(folder, 2, 3, "--max_steps", "1", SHOW="1", **fsdp2())
    assert done.returncode == 0, done.stderr
    shown = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert shown["all sharded"]
    assert shown["layers"] == ["BertLayer", "Embedding", "UMEFusion", "ViTEmbeddings", "ViTLayer"]


@pytest.mark.slow
def test_two_processes_train_from_a_stream_and_give_the_evaluation_of_one(folder):
    shards = folder / "shards"
    recipe = json.loads((folder / "tiny.yaml").read_text())
    del recipe["ddp_backend"]  # needs a launcher
    (folder / "alone.yaml").write_text(json.dumps(recipe))
    written = subprocess.run(
        [*UME, "shard", str(folder / "alone.yaml"), "--out", str(shards), "--shards", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr
    source = ["--source", "stream", "--dataset_name", str(shards), "--learning_rate", "1e-2"]
    done, parts = run(folder, 2, 3, *source)
    assert done.returncode == 0, done.stderr
    assert len(parts[0]) == len(parts[1])
    half = len(parts[0]) // 2
    for epoch in (slice(0, half), slice(half, None)):
        seen = [question for part in parts for batch in part[epoch] for question in batch]
        assert len(set(seen)) == len(seen) == 33
    results = json.loads((folder / "run2" / "results.json").read_text())
    # The processes shared the evaluation of each epoch; at the end each answered all questions.
    assert max(epoch["vqa_accuracy"] for epoch in results["epochs"]) == results["scores"]["vqa_accuracy"]


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2"])
def test_accelerate_reads_the_shipped_files(name):
    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}[name]
    assert str(config.distributed_type).endswith(kind)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_its_reason(folder):
    done, _ = run(folder, 2, 4, DIES="1")
    assert done.returncode != 0
    assert "the second worker has no more memory" in done.stderr
    assert not (folder / "run2" / "results.json").exists()
