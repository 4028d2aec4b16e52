"""`import ume`: one table of names, each imported from its home when it is asked for."""

import ast
import importlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from vqa_files import write_tiny_recipe, write_vqa_files

import ume
from training_ume.commands import main

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# What only trains, scores or draws.
NOT_FOR_ASKING = (
    "datasets", "evaluate", "pandas", "pyarrow", "matplotlib", "captum", "onnx", "gradio", "peft",
    "transformers.trainer", "training_ume.training", "training_ume.data",
)  # fmt: skip


def modules_after(program: str) -> set[str]:
    """What a new process has imported at the end of a program, which may print to stdout."""
    program += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_importing_ume_and_looking_at_it_loads_neither_torch_nor_transformers():
    loaded = modules_after("import ume\nprint(dir(ume), ume.__version__, ume.__all__)")
    assert "ume" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "modeling_ume", "training_ume"}


@pytest.mark.parametrize("name", ume.HOMES)
def test_each_name_is_that_of_its_home_and_is_kept(name):
    vars(ume).pop(name, None)
    found = getattr(ume, name)
    assert found is getattr(importlib.import_module(ume.HOMES[name]), name)
    assert vars(ume)[name] is found
    assert name in ume.__all__
    assert name in dir(ume)


def test_editors_see_the_names_of_the_table():
    tree = ast.parse(Path(ume.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == ume.HOMES


@pytest.mark.parametrize(("wrong", "right"), [("UMEModle", "UMEModel"), ("load_vga", "load_vqa"), ("Ask", "ask")])
def test_a_name_that_there_is_not_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(AttributeError, match=rf"module 'ume' has no attribute '{wrong}': did you mean {right}\?"):
        getattr(ume, wrong)


def test_what_python_itself_looks_for_is_absent_as_usual():
    assert not hasattr(ume, "__wrapped__")
    assert not hasattr(ume, "nothing_like_it_at_all")
    assert ume.__version__ == metadata.version("ume")


def test_the_installed_project_has_every_package_with_code():
    """pyproject.toml lists the packages; one that is forgotten is missing from the wheel and nowhere else."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = {line.strip().strip('",') for line in text.split("packages = [")[1].split("]")[0].splitlines()} - {""}
    folders = ("ume", "modeling_ume", "configuration_ume", "training_ume")
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in folders
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert found <= listed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a tiny model's folder, an image)"""
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    assert main(["train", str(write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1))]) == 0
    return folder / "run", Path(files["train_images"]) / "image0.png"


@pytest.mark.parametrize("from_python", [False, True])
def test_asking_imports_only_what_it_uses(trained, from_python):
    model, image = map(str, trained)
    call = f"assert main(['ask', {model!r}, {image!r}, 'is it red?']) == 0"
    if from_python:
        call = f"print(list(ume.ask({model!r}, {image!r}, ['is it red?'])))"
    loaded = modules_after(f"import ume\nfrom training_ume.commands import main\n{call}")
    assert "modeling_ume.modeling_ume" in loaded
    assert sorted(name for name in loaded if name.startswith(NOT_FOR_ASKING)) == []
