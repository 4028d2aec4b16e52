"""The commands as a user meets them: what they print, what they refuse, and a kill -9 in the middle of training."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers
from PIL import Image
from safetensors.torch import load_file
from vqa_files import UME, write_tiny_recipe, write_vqa_files

from training_ume.commands import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that `ume train` trained: (its folder, the paths of its data)."""
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    recipe = write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1)
    assert main(["train", str(recipe)]) == 0
    return folder / "run", files


def images_with(folder, files, content):
    """A copy of the images in which image0.png has other content, or (None) is missing."""
    shutil.copytree(files["train_images"], folder)
    (folder / "image0.png").unlink()
    if content is not None:
        (folder / "image0.png").write_bytes(content)
    return folder


def data_options(files, annotations=True):
    options = ["--questions", files["train_questions"], "--images", files["train_images"]]
    return [*options, "--annotations", files["train_annotations"]] if annotations else options


def test_a_folder_that_is_not_empty_is_refused_then_overwritten_and_other_files_stay(tmp_path, trained, capsys):
    _, files = trained
    output = tmp_path / "run"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    (output / "checkpoint-999").mkdir()
    recipe = str(write_tiny_recipe(tmp_path / "tiny.yaml", files, num_train_epochs=1))
    assert main(["train", recipe]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: The output folder {output} is not empty.")
    assert "--resume_from_checkpoint" in error
    assert "--overwrite_output" in error
    assert main(["train", recipe, "--overwrite_output"]) == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert not (output / "checkpoint-999").exists()


def test_training_prints_the_ceiling_before_and_the_table_after(tmp_path, trained, capsys):
    _, files = trained
    recipe = str(write_tiny_recipe(tmp_path / "tiny.yaml", files, num_train_epochs=1))
    assert main(["train", recipe, "--beside", "concat"]) == 0
    printed = capsys.readouterr().out
    assert "no model can score above" in printed.split("Run 1 of 2")[0]
    assert re.search(r"^ume +\d+\.\d\d", printed, re.MULTILINE)
    assert re.search(r"^concat +\d+\.\d\d", printed, re.MULTILINE)


def test_ctrl_c_says_where_the_checkpoint_is_and_how_to_go_on(tmp_path, trained, capsys, monkeypatch):
    from training_ume.training.trainer import UMETrainer

    _, files = trained
    step, seen = UMETrainer.training_step, []

    def training_step(self, *args, **kwargs):
        seen.append(1)
        if len(seen) > 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(UMETrainer, "training_step", training_step)
    recipe = str(write_tiny_recipe(tmp_path / "tiny.yaml", files))
    assert main(["train", recipe]) == 130
    error = capsys.readouterr().err
    assert f"The last checkpoint is {tmp_path / 'run' / 'checkpoint-5'}" in error
    assert "--resume_from_checkpoint" in error


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_ends_a_training_process_without_a_traceback(tmp_path, workers):
    files = write_vqa_files(tmp_path / "data", num_images=60)
    recipe = write_tiny_recipe(
        tmp_path / "tiny.yaml", files, num_train_epochs=1000, dataloader_num_workers=int(workers)
    )
    command = [*UME, "train", str(recipe)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    training = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that put the tests into the background has them, and all that they start, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    begun = tmp_path / "run" / "checkpoint-34"
    deadline = time.monotonic() + 300
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert begun.exists(), "the training wrote no checkpoint in five minutes"
    os.killpg(training.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    error = training.communicate(timeout=60)[1]
    assert training.returncode == 130
    assert "To go on, repeat the command with --resume_from_checkpoint." in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["nonsense"], "There is no recipe 'nonsense'"),
        (["easy_vqa", "--fusoin", "x"], "Did you mean fusion"),
        (["TINY", "--beside", "nonsense"], "beside names 'nonsense', which is unknown: choose from"),
        (["TINY", "--beside", "ume"], "which the recipe trains anyway"),
        (["TINY", "--fusion", "nonsense"], "fusion='nonsense' is not known"),
        (
            ["TINY", "--vision_config", '{"model_type": "vitt"}'],
            "no encoder that transformers knows. Did you mean vit",
        ),
        (["TINY", "--train_images", "BROKEN"], "image0.png cannot be read"),
        (["TINY", "--train_images", "EMPTY"], "image0.png of image_id '0' does not exist"),
        (["TINY", "--output_dir", "TINY"], "is a file: choose a folder"),
        (["TINY", "--train_questions", "absent.json"], "absent.json"),
        (["TINY", "--text_config", "null", "--tokenizer", "null", "--text_model", "./absent"], "'./absent'"),
    ],
)
def test_what_train_cannot_use_is_one_sentence_and_exit_code_2(tmp_path, trained, capsys, argv, sentence):
    names = {
        "TINY": write_tiny_recipe(tmp_path / "tiny.yaml", trained[1]),
        "BROKEN": images_with(tmp_path / "broken", trained[1], b"no image"),
        "EMPTY": images_with(tmp_path / "missing", trained[1], None),
    }
    assert main(["train", *(str(names.get(argument, argument)) for argument in argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert "Traceback" not in error


def test_evaluate_writes_scores_baselines_and_challenge_answers(tmp_path, trained, capsys):
    model, files = trained
    out, challenge = tmp_path / "results.json", tmp_path / "challenge.json"
    options = ["--baselines", "question_only", "image_only", "--out", str(out), "--challenge_file", str(challenge)]
    assert main(["evaluate", str(model), *data_options(files), *options]) == 0
    results = json.loads(out.read_text())
    assert results["questions"] == 24
    assert results["images"] == 8
    assert results["scores"]["per_answer_type"].keys() == {"other", "yes/no"}
    assert results["baselines"].keys() == {"question_only", "image_only"}
    assert "question alone" in results["baselines"]["question_only"]["what"]
    answers = json.loads(challenge.read_text())
    assert [answer["question_id"] for answer in answers] == list(range(24))
    assert "question only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"MODEL": "absent"}, "There is no model 'absent'"),
        ({"MODEL": "CUT"}, "No UME model can be loaded from"),
        ({"--questions": "absent.json"}, "The questions file absent.json does not exist"),
        ({"--questions": "HALF"}, "is not valid JSON"),
        ({"--images": "absent"}, "absent does not exist or is not a folder"),
        ({"--images": "EMPTY"}, "image0.png of image_id '0' does not exist"),
        ({"--images": "BROKEN"}, "image0.png cannot be read"),
        ({"--source": "./absent"}, "The data set './absent'"),
        ({"--out": "HALF"}, "exists: delete it, or choose another name"),
        ({"--challenge_file": "HALF"}, "exists: delete it, or choose another name"),
        ({"--max_questions": "0"}, "max_questions=0 is impossible"),
    ],
)
def test_what_evaluate_cannot_use_is_one_sentence_and_exit_code_2(tmp_path, trained, capsys, change, sentence):
    folder, files = trained
    (tmp_path / "half.json").write_text('{"questions": [')
    cut = shutil.copytree(folder, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:100])
    names = {
        "CUT": tmp_path / "cut",
        "HALF": tmp_path / "half.json",
        "BROKEN": images_with(tmp_path / "broken", files, b"no image"),
        "EMPTY": images_with(tmp_path / "missing", files, None),
    }
    options = data_options(files)
    options = {"MODEL": folder, **dict(zip(options[::2], options[1::2], strict=True)), **change}
    if "--source" in change:
        options = {"MODEL": folder, **change}
    model, *rest = (str(names.get(value, value)) for value in options.values())
    argv = [text for pair in zip(list(options)[1:], rest, strict=True) for text in pair]
    assert main(["evaluate", model, *argv]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert sentence in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("name", "function"), [("evaluate", "evaluate"), ("ask", "ask")])
def test_ctrl_c_ends_the_other_commands_with_a_word(monkeypatch, capsys, name, function):
    def interrupted(*args):
        raise KeyboardInterrupt

    module = importlib.import_module(f"training_ume.commands.{name}")
    monkeypatch.setattr(module, function, interrupted)
    assert module.main(["model", "image", "question"][: 1 if name == "evaluate" else 3]) == 130
    assert capsys.readouterr().err.startswith("\nInterrupted")


def test_evaluate_equals_the_score_of_the_training_run(tmp_path, trained):
    model, files = trained
    out = tmp_path / "results.json"
    assert main(["evaluate", str(model), *data_options(files), "--out", str(out), "--batch_size", "3"]) == 0
    results = json.loads(out.read_text())
    recorded = json.loads((model / "results.json").read_text())
    assert recorded["scores"].keys() == results["scores"].keys()
    assert results["coverage"]["questions"] == 1.0


def test_each_questions_answer_and_score_are_kept_by_training_and_by_evaluate(tmp_path, trained):
    model, files = trained
    written = tmp_path / "predictions.jsonl"
    assert main(["evaluate", str(model), *data_options(files), "--predictions", str(written)]) == 0
    rows = {row["question_id"]: row for row in map(json.loads, written.read_text().splitlines())}
    assert len(rows) == 24
    recorded = [json.loads(line) for line in (model / "predictions.jsonl").read_text().splitlines()]
    assert recorded == [rows[row["question_id"]] for row in recorded]
    scores = json.loads((model / "results.json").read_text())["scores"]
    assert sum(row["exact_match"] for row in recorded) / len(recorded) == pytest.approx(scores["exact_match"])


def test_predictions_without_annotations_are_refused(tmp_path, trained, capsys):
    model, files = trained
    argv = [str(model), *data_options(files, annotations=False), "--predictions", str(tmp_path / "p.jsonl")]
    assert main(["evaluate", *argv]) == 2
    assert "leave --predictions out" in capsys.readouterr().err


def test_questions_without_annotations_are_answered_and_not_scored(tmp_path, trained):
    model, files = trained
    out = tmp_path / "results.json"
    assert main(["evaluate", str(model), *data_options(files, annotations=False), "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert "scores" not in results
    assert len(results["predictions"]) == 24


def test_a_baseline_without_annotations_is_refused(trained, capsys):
    model, files = trained
    argv = [str(model), *data_options(files, annotations=False), "--baselines", "question_only"]
    assert main(["evaluate", *argv]) == 2
    assert "leave --baselines out" in capsys.readouterr().err


def test_ask_prints_answers_with_probabilities(trained, capsys):
    model, files = trained
    image = str(Path(files["train_images"]) / "image0.png")
    assert main(["ask", str(model), image, "what color is it?", "is it red?", "--top_k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "what color is it?"
    assert lines[3] == "is it red?"
    assert all(re.fullmatch(r" +\d+\.\d%  \S.*", line) for line in (*lines[1:3], *lines[4:6]))


@pytest.mark.parametrize("end", ["", EOFError])
def test_ask_at_a_terminal_answers_line_after_line_and_encodes_the_image_once(trained, capsys, monkeypatch, end):
    from modeling_ume import UMEModel

    model, files = trained
    image = str(Path(files["train_images"]) / "image0.png")
    asked = ["what color is it?", "is it red?", " what color is it? "]
    assert main(["ask", str(model), image, *asked]) == 0
    at_once = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    encode, encoded, lines = UMEModel._encode, [], iter([*asked, end])

    def typed(prompt):
        if (line := next(lines)) is EOFError:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(
        UMEModel,
        "_encode",
        lambda self, modality, inputs, *rest: (
            (encoded.append(len(inputs["pixel_values"])) if modality == "vision" else None)
            or encode(self, modality, inputs, *rest)
        ),
    )
    assert main(["ask", str(model), image]) == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if line]
    assert answers == at_once
    assert len(answers) == 9
    assert encoded == [1]


def test_ask_without_a_question_and_a_terminal_says_what_is_missing(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    with pytest.raises(SystemExit):
        main(["ask", str(trained[0]), "picture.png"])
    assert "there is no question: give one behind the image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "image", "question", "sentence"),
    [
        ("absent", "IMAGE", "q", "There is no model 'absent'"),
        ("EMPTY", "IMAGE", "q", "holds no model (it has no config.json)"),
        ("OTHER", "IMAGE", "q", "is of type 'bert', not 'ume'"),
        ("IMAGE", "IMAGE", "q", "is a file, not a model"),
        ("MODEL", "absent.png", "q", "The image 'absent.png' cannot be read"),
        ("MODEL", "TEXT", "q", "cannot be read"),
        ("MODEL", "CUT", "q", "cannot be read: image file is truncated"),
        ("MODEL", "IMAGE", "", "A question is empty"),
    ],
)
def test_what_ask_cannot_use_is_one_sentence_and_exit_code_2(
    tmp_path, trained, capsys, model, image, question, sentence
):
    folder, files = trained
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "text.jpg").write_text("no image")
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    names = {
        "MODEL": folder,
        "IMAGE": Path(files["train_images"]) / "image0.png",
        "EMPTY": tmp_path / "empty",
        "OTHER": tmp_path / "other",
        "TEXT": tmp_path / "text.jpg",
        "CUT": tmp_path / "cut.jpg",
    }
    assert main(["ask", str(names.get(model, model)), str(names.get(image, image)), question]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error


@pytest.mark.slow
def test_kill_9_and_the_same_command_with_resume_give_the_weights_of_an_uninterrupted_run(tmp_path):
    files = write_vqa_files(tmp_path / "data", num_images=60)
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", files, num_train_epochs=4)

    def command(output, *more):
        return [*UME, "train", str(recipe), "--output_dir", str(output), *more]

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(whole), env=environment, check=True, capture_output=True)
    killed = subprocess.Popen(command(cut), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoint-34" / "trainer_state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (cut / "results.json").exists()
    resumed = subprocess.run(
        command(cut, "--resume_from_checkpoint"), env=environment, check=True, capture_output=True, text=True
    )
    assert "Going on from" in resumed.stdout
    first, second = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


def test_the_readme_shows_the_results_that_are_there():
    pinned = re.search(r"^transformers==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    if transformers.__version__ != pinned:
        pytest.skip(f"The table of encoders is that of transformers {pinned}.")
    render = runpy.run_path(str(ROOT / "scripts" / "render.py"))
    assert render["main"](["--check"]) == 0, "run: python scripts/render.py"
