"""Rendering a model card and its pictures."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_ume.scores import LABELS, axis_label
from modeling_ume.modalities_ume import usual
from training_ume.hub.data_sets import CITATION, DataSet
from training_ume.hub.described import described
from training_ume.hub.languages import languages_of
from training_ume.hub.learning_curve import plot_learning_curve
from training_ume.hub.read import About, Run, _base_models, read_run
from training_ume.hub.reads import given_parts, hub_tag, kinds_of, packages, seen_by
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
        repo (`str`, *optional*): the Hub repo, for the title and the lines that load the model; defaults to the title.
        adapter (`bool`): the card goes beside the LoRA adapter instead of the merged model.

    Returns:
        `dict[str, bytes]`: the files of the card by their path: `README.md`, `learning_curve.png` and where the data's
        licence allows it `examples/*.png`; with a benchmark `.eval_results/*.yaml`.

    Raises:
        ValueError: for a folder that is no run, a data set that `About` names and is not known, a benchmark that was
            not scored.
        ImportError: where matplotlib is missing.
    """
    run = read_run(folder)
    results = run.results
    data_set = described(run, about)
    languages = _languages(run, about, data_set)
    title = about.title or (repo.split("/")[-1] if repo else f"ume-{results['recipe'].replace('_', '-')}")
    files = {}
    examples, images = _examples(run, data_set)
    files.update(images)
    confusion_title, confusion, pictures = _confusion(run)
    files.update(pictures)
    if any(run.metric in epoch for epoch in results["epochs"]):
        curve = io.BytesIO()
        plot_learning_curve(results["epochs"], run.metric, axis_label(run.metric), curve)
        files["learning_curve.png"] = curve.getvalue()
    if about.benchmark is not None:
        name = re.sub(r"\W+", "_", about.benchmark["id"].split("/")[-1]).lower()
        files[f".eval_results/{name}.yaml"] = _eval_results(run, about.benchmark, repo)
    card = ModelCard.from_template(
        _metadata(run, about, data_set, title, languages),
        template_path=str(template),
        title=title,
        claim=_claim(run, data_set),
        architecture=_architecture(run, adapter),
        adapter=adapter,
        code=" and ".join(["`*_ume.py`", *(f"`{file}`" for file in own_code(results))]),
        repo=repo or title,
        task=run.task,
        asks=run.task.asks and [kind.name for kind in usual()] == seen_by(run),
        chooses=run.problem.chooses,
        given=given_parts(run),
        imports="\n".join(["import torch", *dict.fromkeys(k.code_import for k in kinds_of(run) if k.code_import)]),
        packages=packages(run),
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
        confusion=confusion,
        confusion_title=confusion_title,
        examples=examples,
        limits="\n".join(f"- {limit}" for limit in [*_limits(run, data_set, languages), *about.limits]),
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


def own_code(results: dict) -> list[str]:
    """The file of a fusion head from outside."""
    head = results["arguments"]["model"]["fusion"]
    return [head.partition(":")[0]] if ":" in head else []


def _languages(run: Run, about: About, data_set: DataSet) -> list[str]:
    said = about.language or data_set.language
    if said is None:
        return languages_of(row["question"] for row in run.rows)
    return [said] if isinstance(said, str) else list(said)


def _metadata(run: Run, about: About, data_set: DataSet, title: str, languages: list[str]) -> ModelCardData:
    results = run.results
    fusion = results["arguments"]["model"]["fusion"]
    bases = [name for name in _base_models(run, about).values() if name is not None]
    tag = hub_tag(run)
    if tag is not None and tag == run.task.tag:
        kinds = [tag, "vqa"]
    else:
        kinds = [run.task.name.replace("_", "-") if run.problem.chooses else "regression"]
        kinds += [kind.name for kind in kinds_of(run)]
    return ModelCardData(
        language=languages[0] if len(languages) == 1 else languages or None,
        license=about.license,
        library_name="transformers",
        pipeline_tag=tag,
        tags=[*kinds, "multimodal", "ume", fusion.partition(":")[2] or fusion],
        datasets=[data_set.hub_id] if data_set.hub_id else None,
        base_model=bases or None,
        model_name=title,
        eval_results=[
            EvalResult(
                task_type=tag or run.task.name,
                task_name=run.task.title if run.problem.chooses else "Regression",
                dataset_type=data_set.hub_id or data_set.name,
                dataset_name=data_set.name,
                dataset_split=results["scored_on"],
                metric_type="accuracy" if metric == "vqa_accuracy" else metric,
                metric_name=label,
                metric_value=round(results["scores"][metric], 2 if run.problem.chooses else 4),
            )
            for metric, label in LABELS.items()
            if metric in run.metrics
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
        "notes": LABELS[run.metric],
    }
    if repo is not None:
        entry["source"] = {"url": f"https://huggingface.co/{repo}", "name": "Model card"}
    return yaml.safe_dump([entry], sort_keys=False).encode()
