#!/usr/bin/env python
"""Try this project with several releases of transformers; `bash scripts/test_releases.sh` makes their environments.

python scripts/releases.py latest 5.0 5.5     # the last patch of each, and the newest release
python scripts/releases.py run 5.0.0 5.23.0   # with the environments in .releases; writes results/releases.json

`save` and `load` are what `run` has the Python of each release do.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".releases"
QUESTIONS = ["what color is it?", "is it red?", "is it not a big blue square?"]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (255, 255, 255)}
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {
    "bert": {"model_type": "bert", **LAYERS},
    "deberta-v2": {"model_type": "deberta-v2", **LAYERS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                   "position_buckets": 8},
    "ume_lstm": {"model_type": "ume_lstm", "embedding_size": 8, "hidden_size": 12, "num_layers": 2},
}  # fmt: skip
IMAGE = {
    "vit": {"model_type": "vit", "image_size": 32, "patch_size": 8, **LAYERS},
    "swin": {"model_type": "swin", "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
             "num_heads": [2, 2], "window_size": 4},
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1],
               "layer_type": "basic"},
    "ume_vgg": {"model_type": "ume_vgg", "hidden_sizes": [4, 4, 6, 6, 8], "fc_size": 12, "image_size": 32},
}  # fmt: skip
MODELS = {
    "bert_vit_ume": ("bert", "vit", "ume"),
    "bert_vit_co_attention": ("bert", "vit", "co_attention"),
    "lstm_vgg_ume": ("ume_lstm", "ume_vgg", "ume"),
    "deberta_swin_cross_attention": ("deberta-v2", "swin", "cross_attention"),
    "bert_resnet_ume": ("bert", "resnet", "ume"),
}
# Every checkpoint that is moved between releases; the last three come out of `ume train`.
CASES = {
    **{name: f"{text} × {image}, `{head}`" for name, (text, image, head) in MODELS.items()},
    "trained": "bert × vit, `ume`, trained",
    "adapter": "the LoRA adapter of such a training",
    "adapter, moved": "the same in another folder",
}
# The first epoch counts as the best, so that keeping the best model means loading it back at the end.
TRAINING = {
    "text_config": {**TEXT["bert"], "max_position_embeddings": 16},
    "tokenizer": "words",
    "vision_config": {"model_type": "vit", "patch_size": 8, **LAYERS},
    "image_size": 32,
    "fusion": "ume",
    "fusion_hidden_size": 16,
    "source": "vqa_v2",
    "validation_fraction": 0.25,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
    "save_total_limit": 9,
    "disable_tqdm": True,
    "use_cpu": True,
}


# ------------------------------------------------------------------------------------- with the Python of one release


def save(folder: Path) -> None:
    """Saves all that this release is to save, beside what `train` left in the folder, each with what it answers."""
    save_models(folder)
    record(folder / "trained")
    record(folder / "lora")
    shutil.copytree(folder / "lora" / "adapter", folder / "moved")
    config = json.loads((folder / "moved" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "no" / "longer" / "there")
    (folder / "moved" / "adapter_config.json").write_text(json.dumps(config))


def save_models(folder: Path) -> None:
    """Writes a random checkpoint of each of `MODELS`, with its processor, into a folder of its own."""
    import torch
    from transformers import AutoConfig, ViTImageProcessor

    from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
    from training_ume.build.tokenizer import words_tokenizer

    answers = dict(enumerate([*COLOURS, "yes", "no"]))
    tokenizer = words_tokenizer(QUESTIONS, max_length=16)
    processor = UMEProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer, id2label=answers)
    for name, (text, image, head) in MODELS.items():
        configs = [dict(TEXT[text], vocab_size=len(tokenizer)), dict(IMAGE[image])]
        configs = [AutoConfig.for_model(config.pop("model_type"), **config) for config in configs]
        torch.manual_seed(0)
        model = UMEForVisualQuestionAnswering(
            UMEConfig.from_encoder_configs(*configs, fusion=head, fusion_hidden_size=16, id2label=answers)
        )
        stir(model)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        record(folder / name)


def stir(model) -> None:
    """Makes every weight and statistic random: zeros and ones would hide that one of them was lost."""
    import torch

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
                if name.endswith("running_var"):
                    value.abs_().add_(0.1)


def record(folder: Path) -> None:
    """Writes what a checkpoint answers in this release into `expected.json`."""
    (folder / "expected.json").write_text(json.dumps(answers_of(folder, UMEClasses())))


class UMEClasses:
    """The classes as they are imported from this project."""

    def __init__(self):
        from modeling_ume import UMEForVisualQuestionAnswering, UMEModel, UMEProcessor

        self.model, self.base, self.processor = UMEForVisualQuestionAnswering, UMEModel, UMEProcessor
        self.options = {"local_files_only": True}


class RemoteClasses:
    """The Auto classes, which run the code that lies beside the weights."""

    def __init__(self):
        from transformers import AutoModel, AutoModelForVisualQuestionAnswering, AutoProcessor

        self.model, self.base, self.processor = AutoModelForVisualQuestionAnswering, AutoModel, AutoProcessor
        self.options = {"local_files_only": True, "trust_remote_code": True}


def answers_of(folder: Path, classes: UMEClasses | RemoteClasses) -> dict:
    """What the checkpoint says about two drawings: the processor's output, fused vectors, logits, ranked answers."""
    import torch
    from PIL import Image, ImageDraw
    from transformers import pipeline

    images = []
    for colour in ("red", "blue"):
        image = Image.new("RGB", (40, 36), COLOURS["white"])
        ImageDraw.Draw(image).ellipse((6, 4, 30, 30), fill=COLOURS[colour])
        images.append(image)
    processor = classes.processor.from_pretrained(folder, **classes.options)
    inputs = dict(processor(images=images, text=QUESTIONS))
    inputs["image_index"] = torch.tensor([0, 1, 1])
    found = {"processor": inputs}
    model = classes.model.from_pretrained(folder, **classes.options).eval()
    base = classes.base.from_pretrained(folder, **classes.options).eval()
    with torch.no_grad():
        found |= {"logits": model(**inputs).logits, "fused": base(**inputs).fused}
    if isinstance(classes, RemoteClasses):
        ask = pipeline("visual-question-answering", model=str(folder), device="cpu", trust_remote_code=True)
        ranked = [ask(images[index], question, top_k=6) for index, question in zip((0, 1, 1), QUESTIONS, strict=True)]
    else:
        ranked = processor.decode_answers(found["logits"], top_k=6)
    found["pipeline"] = [sorted((entry["answer"], entry["score"]) for entry in answers) for answers in ranked]
    return json.loads(json.dumps(found, default=lambda tensor: tensor.tolist()))


def load(folders: list[str]) -> list[dict]:
    """Loads checkpoints as one does where this project is not installed, and compares them with what they said."""
    for name in ("modeling_ume", "configuration_ume", "training_ume", "metrics"):
        sys.modules[name] = None  # not to be found, whatever is installed
    rows = []
    for folder, expected in (pair.split("=") for pair in folders):
        row = {"error": None}
        try:
            found = answers_of(Path(folder), RemoteClasses())
            row |= compare(json.loads(Path(expected, "expected.json").read_text()), found)
        except Exception as error:  # whatever it is, it is the result
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        rows.append(row)
    return rows


def compare(expected: dict, found: dict) -> dict[str, float]:
    """The largest difference of each part; infinite where not even the form agrees."""
    return {name: difference(expected[name], found[name]) for name in expected}


def difference(one, other) -> float:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max(difference(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((difference(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    packages = ("torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "peft")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


# ------------------------------------------------------------------------------------------------- with this Python


def latest(lines: list[str], offered: list[str]) -> list[str]:
    """The last patch of each line (`"5.0"`) among the releases that are offered, and the newest of all."""
    numbers = {release: tuple(map(int, release.split("."))) for release in offered if re.fullmatch(r"[\d.]+", release)}
    chosen = []
    for line in lines:
        patches = [release for release in numbers if release.startswith(f"{line}.")]
        if not patches:
            raise ValueError(f"pip offers no transformers {line}.*: give the releases to try by their whole number.")
        chosen.append(max(patches, key=numbers.get))
    newest = max(numbers, key=numbers.get)
    return [release for release in chosen if release != newest] + [newest]


def offered_by_pip() -> list[str]:
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    listed = re.search(r"^Available versions: (.*)$", done.stdout, re.MULTILINE)
    if listed is None:
        raise ValueError(
            "pip could not say which releases of transformers there are "
            f"({(done.stderr.strip() or 'no answer').splitlines()[-1]}): give them as arguments, such as 5.0.0 5.23.0."
        )
    return listed[1].split(", ")


def write_data(folder: Path) -> dict:
    """Coloured squares and questions about them in VQA v2's layout; returns the recipe's fields that name them."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    questions, annotations = [], []
    for image_id in range(8):
        colour = list(COLOURS)[image_id % len(COLOURS)]
        Image.new("RGB", (40, 36), COLOURS[colour]).save(folder / "images" / f"{image_id}.png")
        for question, answer in ((QUESTIONS[0], colour), (QUESTIONS[1], "yes" if colour == "red" else "no")):
            about = {"question_id": len(questions), "image_id": image_id}
            questions.append({**about, "question": question})
            annotations.append(
                {**about, "question_type": "is", "answer_type": "other", "multiple_choice_answer": answer,
                 "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]}
            )  # fmt: skip
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return {
        "train_questions": str(folder / "questions.json"),
        "train_annotations": str(folder / "annotations.json"),
        "train_images": str(folder / "images"),
        "train_image_pattern": "{image_id}.png",
    }


def ask(release: str, scratch: Path, *arguments: str | Path, environments: Path = ENVIRONMENTS) -> str:
    """Runs a script with the Python of a release, offline, and returns what it printed.

    Raises:
        RuntimeError: with the last line of what it complained about.
    """
    python = environments / release / "bin" / "python"
    environment = {**os.environ, "HF_HOME": str(scratch / "hf" / release), "HF_HUB_OFFLINE": "1"}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [str(python), "-I", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise RuntimeError(lines[-1])
    return done.stdout


def train(release: str, scratch: Path, recipe: Path) -> dict:
    """Trains with a release: without interruption, from the first checkpoint on, and with LoRA."""
    folder, command = scratch / release, ("-m", "training_ume.commands", "train")
    ask(release, scratch, *command, recipe, "--output_dir", folder / "trained")
    checkpoints = sorted((folder / "trained").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    # As a kill during the second epoch leaves it.
    resumed = folder / "resumed"
    resumed.mkdir()
    shutil.copytree(checkpoints[0], resumed / checkpoints[0].name)
    shutil.copy(folder / "trained" / "arguments.json", resumed)
    ask(release, scratch, *command, recipe, "--output_dir", resumed, "--resume_from_checkpoint")
    lora = ("--lora_r", "2", "--num_train_epochs", "1")
    ask(release, scratch, *command, recipe, "--output_dir", folder / "lora", *lora)
    first, last = checkpoints[0], checkpoints[-1]
    return {
        "resumed": weights_differ(last, resumed / last.name),
        "best": weights_differ(folder / "trained", first),
        "moved": weights_differ(first, last),
    }


def weights_differ(one: Path, other: Path) -> float:
    """The largest difference between the weights of two checkpoints of one release."""
    from safetensors.torch import load_file

    one, other = (load_file(path / "model.safetensors") for path in (one, other))
    if one.keys() != other.keys():
        return float("inf")
    return max((value.double() - other[name].double()).abs().max().item() for name, value in one.items())


def folders_of(release: str, scratch: Path) -> dict[str, tuple[Path, Path]]:
    """The folder of each case that a release has saved, and that with what it answered."""
    own = scratch / release
    adapters = {"adapter": (own / "lora" / "adapter", own / "lora"), "adapter, moved": (own / "moved", own / "lora")}
    return {name: adapters.get(name, (own / name, own / name)) for name in CASES}


def train_and_save(release: str, scratch: Path, recipe: Path) -> tuple[dict, dict]:
    """What a release trains and saves into its folder: the versions beside it, and how the training went."""
    script, installed, training = Path(__file__).resolve(), {}, {"error": None}
    try:
        installed = json.loads(ask(release, scratch, script, "versions").splitlines()[-1])
        training |= train(release, scratch, recipe)
        ask(release, scratch, script, "save", scratch / release)
    except (RuntimeError, OSError) as error:
        training["error"] = str(error).replace(str(scratch), "SCRATCH")
    return installed, training


def load_elsewhere(saved_by: str, loaded_by: str, scratch: Path) -> list[dict]:
    """One row a case that a release has saved, as another one loads it."""
    folders = folders_of(saved_by, scratch)
    pairs = [f"{folder}={expected}" for folder, expected in folders.values()]
    try:
        rows = json.loads(ask(loaded_by, scratch, Path(__file__).resolve(), "load", *pairs).splitlines()[-1])
    except RuntimeError as error:
        rows = [{"error": str(error)}] * len(pairs)
    return [
        {
            "case": case, "saved_by": saved_by, "loaded_by": loaded_by, **row,
            "error": row["error"] and row["error"].replace(str(scratch), "SCRATCH"),
        }
        for case, row in zip(folders, rows, strict=True)
    ]  # fmt: skip


def run(releases: list[str], scratch: Path, jobs: int, say=print) -> dict:
    """Tries all that is to be tried with the given releases, the last of which counts as the newest."""
    from training_ume.records.machine import environment

    started, newest = time.monotonic(), releases[-1]
    results = {"releases": releases, "newest": newest, "cases": CASES, "versions": {}, "training": {}, "loads": []}
    recipe = scratch / "tiny.yaml"
    recipe.write_text(json.dumps({**TRAINING, **write_data(scratch / "data")}))  # JSON is YAML
    with ThreadPoolExecutor(jobs) as pool:
        say("Training and saving", flush=True)
        done = pool.map(lambda release: train_and_save(release, scratch, recipe), releases)
        for release, (installed, training) in zip(releases, done, strict=True):
            say(f"  transformers {release}: {training['error'] or 'done'}", flush=True)
            results["versions"][release], results["training"][release] = installed, training
        pairs = [
            (saved_by, loaded_by)
            for loaded_by in releases
            for saved_by in releases
            if results["training"][saved_by]["error"] is None
            and (newest in (loaded_by, saved_by) or loaded_by == saved_by)
        ]
        say(f"Loading what others saved, {len(pairs)} pairs of releases", flush=True)
        for rows in pool.map(lambda pair: load_elsewhere(*pair, scratch), pairs):
            results["loads"] += rows
    results["seconds"] = round(time.monotonic() - started)
    results["environment"] = environment()
    return results


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, several in (("latest", "lines"), ("run", "releases"), ("save", "folders"), ("load", "folders")):
        commands.add_parser(name).add_argument("values", metavar=several, nargs="+")
    commands.add_parser("versions")
    commands.choices["run"].add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    commands.choices["run"].add_argument("--out", type=Path, default=ROOT / "results" / "releases.json")
    arguments = parser.parse_args(argv)
    if arguments.command == "versions":
        print(json.dumps(versions()))
    elif arguments.command == "save":
        save(Path(arguments.values[0]))
    elif arguments.command == "load":
        print(json.dumps(load(arguments.values)))
    elif arguments.command == "latest":
        try:
            print(*latest(arguments.values, offered_by_pip()))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    else:
        return report(arguments.values, arguments.out, arguments.jobs)
    return 0


def report(releases: list[str], out: Path, jobs: int) -> int:
    """Runs, writes the results, prints the matrix; 1 where something failed."""
    from training_ume.records.files import write_json
    from training_ume.report.console import print_table
    from training_ume.report.releases import failures, matrix

    missing = [release for release in releases if not (ENVIRONMENTS / release / "bin" / "python").exists()]
    if missing:
        print(
            f"error: There is no environment for {', '.join(missing)}: run bash scripts/test_releases.sh.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="releases") as scratch:
        results = run(releases, Path(scratch), jobs)
    write_json(out, results)
    header, rows = matrix(results)
    print_table([tuple(header), *map(tuple, rows)])
    failed = failures(results)
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
