"""Rendering a model card and its pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_ume.scores import NAMES
from training_ume.hub.data_sets import CITATION, DATA_SETS, DataSet
from training_ume.hub.learning_curve import plot_learning_curve
from training_ume.hub.read import About, Run, _base_models, _from_dict, read_run
from training_ume.hub.sections import (
    _architecture,
    _claim,
    _confusion,
    _data,
    _encoders,
    _examples,
    _learning_curve,
    _limits,
    _machine,
    _per_type,
    _recipe,
    _results,
    _training,
)

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "model_cards" / "template.md"


def render_card(
    folder: str | Path, about: About, repo: str | None = None, adapter: bool = False, template: str | Path = TEMPLATE
) -> dict[str, bytes]:
    """
    Makes the card of a run.

    Args:
        folder: one run of `ume train`.
        about (`About`): what a person says.
        repo (`str`, *optional*): the Hub repo, for the lines that load the model; defaults to the title.
        adapter (`bool`): the card goes beside the LoRA adapter instead of the merged model.

    Returns:
        `dict[str, bytes]`: the files of the card by their path: `README.md`, `learning_curve.png` and where the data's
        licence allows it `examples/*.png`; with a benchmark `.eval_results/*.yaml`.

    Raises:
        ValueError: for a folder that is no run, data that `About` must describe, a benchmark that was not scored.
        ImportError: where matplotlib is missing.
    """
    run = read_run(folder)
    results = run.results
    data_set = _data_set(run, about)
    title = about.title or f"ume-{results['recipe'].replace('_', '-')}"
    files = {}
    examples, images = _examples(run, data_set)
    files.update(images)
    if results["epochs"]:
        curve = io.BytesIO()
        plot_learning_curve(results["epochs"], run.metric, NAMES[run.metric], curve)
        files["learning_curve.png"] = curve.getvalue()
    if about.benchmark is not None:
        name = re.sub(r"\W+", "_", about.benchmark["id"].split("/")[-1]).lower()
        files[f".eval_results/{name}.yaml"] = _eval_results(run, about.benchmark, repo)
    card = ModelCard.from_template(
        _metadata(run, about, data_set, title),
        template_path=str(template),
        title=title,
        claim=_claim(run, data_set),
        architecture=_architecture(run, adapter),
        adapter=adapter,
        repo=repo or title,
        question=json.dumps(run.rows[0]["question"], ensure_ascii=False),
        num_answers=f"{results['data']['answers']:,}",
        encoders=_encoders(run, about),
        data=_data(run, data_set),
        training=_training(run),
        recipe=_recipe(run, about),
        machine=_machine(run),
        results=_results(run),
        per_type=_per_type(run),
        learning_curve=_learning_curve(run),
        confusion=_confusion(run),
        examples=examples,
        limits="\n".join(f"- {limit}" for limit in [*_limits(run, data_set), *about.limits]),
        citation="\n\n".join(part.strip() for part in (CITATION, data_set.citation) if part),
        licence=f"The weights and the code in this repo: {about.license}. {data_set.licence}",
    )
    files["README.md"] = (re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n").encode()
    return dict(sorted(files.items()))


def write_card(files: dict[str, bytes], folder: str | Path) -> None:
    """Writes what `render_card` returned into a folder, over older files of the same names."""
    for name, content in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ---------------------------------------------------------------------------------------------------------- metadata


def _metadata(run: Run, about: About, data_set: DataSet, title: str) -> ModelCardData:
    results = run.results
    bases = [name for name in _base_models(run, about).values() if name is not None]
    return ModelCardData(
        language="en",
        license=about.license,
        library_name="transformers",
        pipeline_tag="visual-question-answering",
        tags=["visual-question-answering", "vqa", "multimodal", "ume", results["arguments"]["model"]["fusion"]],
        datasets=[data_set.hub_id] if data_set.hub_id else None,
        base_model=bases or None,
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="visual-question-answering",
                task_name="Visual Question Answering",
                dataset_type=data_set.hub_id or data_set.name,
                dataset_name=data_set.name,
                dataset_split=results["scored_on"],
                metric_type="exact_match" if metric == "exact_match" else "accuracy",
                metric_name=label,
                metric_value=round(results["scores"][metric], 2),
            )
            for metric, label in NAMES.items()
        ],
    )


def _eval_results(run: Run, benchmark: dict, repo: str | None) -> bytes:
    """A file of https://huggingface.co/docs/hub/eval-results: a list of scores on Hub benchmarks."""
    data = run.results["arguments"]["data"]
    if run.results["scored_on"] != "test" and data["validation_fraction"] is not None:
        raise ValueError(
            "The benchmark is named, but the run was scored on a part of its training images: leave it out."
        )
    if data["max_eval_questions"] is not None:
        raise ValueError("The benchmark is named, but the run was scored on its first questions only: leave it out.")
    entry = {
        "dataset": {"id": benchmark["id"], "task_id": benchmark.get("task_id", "default")},
        "value": round(run.results["scores"][run.metric], 2),
        "notes": NAMES[run.metric],
    }
    if repo is not None:
        entry["source"] = {"url": f"https://huggingface.co/{repo}", "name": "Model card"}
    return yaml.safe_dump([entry], sort_keys=False).encode()


def _data_set(run: Run, about: About) -> DataSet:
    recipe, source = run.results["recipe"], run.results["arguments"]["data"]["source"]
    if isinstance(about.data, dict):
        return _from_dict(DataSet, about.data, "`data`")
    if about.data is not None:
        name = about.data
    elif source == "hub":
        name = run.results["arguments"]["data"]["dataset_name"]
        if not Path(name).is_dir() and name not in DATA_SETS:
            about_it = f"Questions and answers from [{name}](https://huggingface.co/datasets/{name})."
            return DataSet(name, about_it, "The data keep the licence that their page states.", hub_id=name)
    else:
        name = source if source == "easy_vqa" else next((key for key in DATA_SETS if recipe.startswith(key)), recipe)
    if name not in DATA_SETS:
        raise ValueError(
            f"The data {name!r} are not known, so a person must describe them: give `data:` in the about file, either "
            f"one of {', '.join(DATA_SETS)} or {', '.join(f.name for f in dataclasses.fields(DataSet))}."
        )
    return DATA_SETS[name]
