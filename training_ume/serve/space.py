"""The page as a Space: the folder that a Hub Space runs."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from training_ume.records.private import check_files
from training_ume.serve.judges import folder_name, load_judges
from training_ume.serve.page import QUESTIONS, find_examples
from training_ume.serve.page_any import kinds_of

GRADIO_VERSION = "6.31.0"  # the one that the page is tested with
PACKAGES = ("modeling_ume", "configuration_ume", "training_ume", "metrics")  # what a Space needs of this project


# ------------------------------------------------------------------------------------------------------------- a Space

APP = '''"""The page of this Space: the models below answer questions about pictures."""

import os

from training_ume.serve.judges import load_judges
from training_ume.serve.page import build_demo, launch

# The proxies in front of a Space, which say who asks: each visitor then has a limit, not all of them one.
os.environ.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")
demo = build_demo(load_judges({models!r}{trusted}), {examples!r})

if __name__ == "__main__":
    launch(demo)
'''

README = """---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{listed}pinned: false
---

# {title}

{what}
"""
PICTURES = """\
Choose a picture, ask, and see the answers of {titles}, the part of the picture that speaks for them, and what the
question and the picture add to their probability. Pictures are deleted after an hour and not kept otherwise."""
ANYTHING = """\
Give a {nouns}, any of which may be left empty, and see the answers of {titles}. Files are
deleted after an hour and not kept otherwise."""


def write_space(
    folder: str | Path, names: list[str], examples: str | Path | None = None, trust_remote_code: bool = False
) -> list[str]:
    """
    Writes a folder that runs as a Space: `app.py`, `requirements.txt`, `README.md`, and this project's packages.

    Models of the Hub are named in it, models in folders are put into it.

    Returns:
        The files, relative to the folder.

    Raises:
        ValueError: when there is such a folder with something in it, or as `load_judges` and `find_examples`.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists and is not empty: name a new folder for the Space.")
    images, _ = find_examples(examples)
    judges = load_judges(names, trust_remote_code)
    about_images = all(judge.pipeline.asks_about_images for judge in judges)
    if images and not about_images:
        raise ValueError("--examples are for questions about images, and this model reads other things.")
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for name, judge in zip(names, judges, strict=True):
        if not Path(name).is_dir():
            models.append(name)
            continue
        place = f"models/{folder_name(name)}"
        if place in models:
            place += f"-{len(models) + 1}"
        judge.pipeline.save_pretrained(folder / place)
        models.append(place)
    if images:
        (folder / "examples").mkdir()
        for path in [*images, Path(examples) / QUESTIONS]:
            if path.is_file():
                shutil.copyfile(path, folder / "examples" / path.name)
    for package in PACKAGES:
        source = Path(__file__).resolve().parent.parent.parent / package
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    on_hub = [name for name in models if not name.startswith("models/")]
    texts = {
        "app.py": APP.format(
            models=models,
            examples="examples" if images else None,
            trusted=", trust_remote_code=True" if trust_remote_code else "",
        ),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "README.md": README.format(
            gradio=GRADIO_VERSION,
            listed="".join(["models:\n", *(f"  - {name}\n" for name in on_hub)]) if on_hub else "",
            title="Ask about a picture" if about_images else "Try a model",
            what=(PICTURES if about_images else ANYTHING).format(
                titles=" and ".join(f"`{judge.title}`" for judge in judges),
                nouns=" or a ".join(kind.subject for kind in kinds_of(judges)),
            ),
        ),
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    ours = tuple(f"{package}/" for package in PACKAGES)
    check_files({name: folder / name for name in written if not name.startswith(ours)})
    return written


def requirements() -> list[str]:
    """What this project's page needs besides gradio, which a Space brings in the version that its README.md names."""
    needed = []
    for line in metadata.requires("ume"):
        requirement = Requirement(line)
        given = requirement.marker is None or requirement.marker.evaluate({"extra": "demo"})
        if given and requirement.name != "gradio":
            requirement.marker = None
            needed.append(str(requirement))
    return sorted(needed)
