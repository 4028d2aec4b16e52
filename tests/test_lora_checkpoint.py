"""What a LoRA run leaves, merged model and adapter, answers alike in a process without this package."""

import inspect
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers.models.auto import auto_factory
from vqa_files import write_tiny_recipe, write_vqa_files

import training_ume.training.run
from configuration_ume.parsing import parse_recipe

# transformers 5.0 looks for an adapter's base only where it lay in training.
pytestmark = pytest.mark.skipif(
    "os.path.exists" not in inspect.getsource(auto_factory),
    reason="This release of transformers finds no moved adapter's base.",
)
QUESTIONS = ["what color is it?", "is it red?"]
ELSEWHERE = """
import json, sys

for name in ("modeling_ume", "configuration_ume", "training_ume", "metrics", *sys.argv[3].split()):
    sys.modules[name] = None  # as if it were not installed

import torch
from transformers import AutoModel, AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline

folder, image, _, *questions = sys.argv[1:]
kwargs = {"trust_remote_code": True, "local_files_only": True}
inputs = AutoProcessor.from_pretrained(folder, **kwargs)(images=image, text=questions)
inputs["image_index"] = torch.zeros(len(questions), dtype=torch.long)
try:
    model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, **kwargs).eval()
except ImportError as error:
    sys.exit(f"refused: {error}")
base = AutoModel.from_pretrained(folder, **kwargs).eval()
ask = pipeline("visual-question-answering", model=folder, device="cpu", **kwargs)
with torch.no_grad():
    logits, fused = model(**inputs).logits.tolist(), base(**inputs).fused.tolist()
print(json.dumps({"logits": logits, "fused": fused, "answers": ask(image, questions, top_k=1)}))
"""


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """(The output folder of a LoRA run, moved after training; an image; the outputs in training)."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("lora")
    files = write_vqa_files(folder / "data")
    image = f"{files['train_images']}/image0.png"
    expected = {}
    save_final = training_ume.training.run.save_final

    def save_and_answer(trainer, processor, output):
        model = trainer.accelerator.unwrap_model(trainer.model).eval()
        inputs = processor(images=Image.open(image), text=QUESTIONS)
        with torch.no_grad():
            outputs = model(**inputs, image_index=torch.zeros(len(QUESTIONS), dtype=torch.long))
        expected.update(logits=outputs.logits, fused=outputs.fused)
        return save_final(trainer, processor, output)

    recipe = write_tiny_recipe(folder / "tiny.yaml", files, lora_r=2, num_train_epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_ume.training.run, "save_final", save_and_answer)
        training_ume.training.run.train_and_evaluate(parse_recipe([str(recipe)]))
    return shutil.move(folder / "run", folder / "moved"), image, expected


def load_elsewhere(folder, image, tmp_path, missing=""):
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, folder, image, missing, *QUESTIONS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# In the fast tests the adapter, which is the harder one; the merged folder is like any other checkpoint.
@pytest.mark.parametrize(
    ("name", "missing"), [("adapter", ""), pytest.param("", "peft accelerate datasets", marks=pytest.mark.slow)]
)
def test_a_moved_lora_folder_answers_as_the_training_process_did(lora_run, tmp_path, name, missing):
    folder, image, expected = lora_run
    done = load_elsewhere(folder / name, image, tmp_path, missing)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    for key, value in expected.items():
        torch.testing.assert_close(torch.tensor(got[key]), value, atol=1e-5, rtol=0)
    id2label = json.loads((folder / "config.json").read_text())["id2label"]
    best = [id2label[str(i)] for i in expected["logits"].argmax(-1).tolist()]
    assert [answers[0]["answer"] for answers in got["answers"]] == best


@pytest.mark.slow
def test_an_adapter_is_refused_where_peft_is_missing_instead_of_answering_as_its_base(lora_run, tmp_path):
    folder, image, _ = lora_run
    done = load_elsewhere(folder / "adapter", image, tmp_path, missing="peft")
    assert done.returncode == 1
    assert "refused: " in done.stderr
    assert "holds a LoRA adapter, which needs the package peft" in done.stderr
