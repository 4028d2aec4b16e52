"""The sections of a model card."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
from collections import Counter
from pathlib import Path

import yaml

from configuration_ume.arguments import DataArguments, ModelArguments
from configuration_ume.data_arguments import HELD_OUT
from configuration_ume.scores import NAMES
from metrics.vqa_accuracy.vqa_accuracy import answer_form
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.images import open_image
from training_ume.data.inputs import BLIND
from training_ume.hub.data_sets import DataSet
from training_ume.hub.languages import NAMES as LANGUAGES
from training_ume.hub.read import About, Run, _base_models
from training_ume.records.predictions import PREDICTIONS, mean_score, read_predictions, score_interval
from training_ume.report.markdown import _cell, _table

# How the claim names what answers without the picture.
WITHOUT_PICTURE = {
    "question_only": "the same model trained without the pictures",
    "image_only": "the same model trained without the questions",
    "question_lookup": "looking the question up among the training questions",
    "most_common_answer": "always giving the commonest answer",
}

BLIND_RUNS = {
    "question_only": "question only (trained without the pictures)",
    "image_only": "picture only (trained without the questions)",
}
CONFUSED, DRAWN, MISTAKES, TYPES = 8, 6, 4, 10  # rows of the tables
FEWEST = 10  # questions of a type that is shown


# ---------------------------------------------------------------------------------------------------------- sections


def _claim(run: Run, data_set: DataSet) -> str:
    results, metric = run.results, run.metric
    low, high = score_interval(run.rows, metric)
    (name, blind), data = _best_blind(run), results["data"]
    part = f"the {data[results['scored_on'] + '_questions']:,} {results['scored_on']} questions of {data_set.name}"
    return (
        f"**{results['scores'][metric]:.2f} % {NAMES[metric]}** (95 % interval {low:.2f} to {high:.2f}) on {part}, "
        f"with {_count(results['parameters']['total'])} parameters; {WITHOUT_PICTURE[name]} gives {blind:.2f} %."
    )


def _best_blind(run: Run) -> tuple[str, float]:
    """What scores best without seeing both question and picture: its name and its score in the headline metric."""
    scores = {name: baseline[run.metric] for name, baseline in run.results["baselines"].items()}
    scores |= {row["name"]: row[run.metric]["mean"] for row in run.comparison if row["name"] in BLIND}
    return max(scores.items(), key=lambda item: item[1])


def _architecture(run: Run, adapter: bool) -> str:
    results, model = run.results, run.results["arguments"]["model"]
    text = (
        "A uni-modal ensemble: one encoder reads the question, another the picture, the fusion head "
        f"`{model['fusion']}` joins their tokens, and a classifier names one of "
        f"{results['data']['answers']:,} answers."
    )
    if adapter:
        return (
            f"{text} This repo holds the LoRA adapter (rank {model['lora_r']}) together with the model it belongs to."
        )
    if model["lora_r"]:
        return f"{text} It was trained with LoRA (rank {model['lora_r']}), which is merged into these weights."
    return text


def _encoders(run: Run, about: About) -> str:
    model, bases = run.results["arguments"]["model"], _base_models(run, about)
    lines = []
    for modality, kind in MODALITIES.items():
        if modality not in bases and model.get(f"{modality}_config") is None:
            continue
        source = run.results.get("encoders", {}).get(modality, {})
        if modality in bases:
            name = bases[modality]
            what = f"[{name}](https://huggingface.co/{name})" if name else f"`{Path(model[f'{modality}_model']).name}`"
            revision = source.get("revision") or model[f"{modality}_revision"] or "not recorded"
            revision = f"weights with SHA-256 `{source['sha256'][:16]}…`" if "sha256" in source else f"`{revision}`"
        else:
            what, revision = f"new: `{json.dumps(model[f'{modality}_config'])}`", "–"
        trained = (
            "frozen" if model[f"freeze_{modality}"] else f"LoRA, rank {model['lora_r']}" if model["lora_r"] else "yes"
        )
        lines.append((kind.noun, what, revision.replace("`not recorded`", "not recorded"), trained))
    return _table(("", "encoder", "revision", "trained"), lines)


def _data(run: Run, data_set: DataSet) -> str:
    data, arguments = run.results["data"], run.results["arguments"]["data"]
    # VQA accuracy counts nothing where a question has one answer.
    by_people = run.metric == "vqa_accuracy"
    highest, of = ("VQA accuracy", "ceiling") if by_people else ("exact match", "questions")
    counts = [
        (
            part,
            f"{data[f'{part}_questions']:,}",
            f"{data[f'{part}_images']:,}",
            f"{100 * data['coverage'][part].get(of, data['coverage'][part]['ceiling']):.2f}",
        )
        for part in ("train", "validation", "test")
        if f"{part}_questions" in data
    ]
    table = _table(("part", "questions", "images", f"highest {highest} possible"), counts, right=3)
    text = []
    held_out = arguments["validation_fraction"]
    if held_out is None and arguments.get("data") and not (arguments["eval_data"] or arguments["eval_split"]):
        held_out = HELD_OUT
    if held_out is not None:
        text.append(
            f"The validation questions are those about {held_out:.0%} of the training images, "
            f"drawn with seed {arguments['split_seed']}: no image is in both parts."
        )
    text.append(f"The {data['answers']:,} answers are those of the training questions" + _cut(arguments) + ".")
    if data["train_questions_left_out"]:
        text.append(
            f"{data['train_questions_left_out']:,} training questions, whose answer is not among them, were left out."
        )
    return f"{data_set.about}\n\n{table}\n\n{' '.join(text)}"


def _cut(arguments: dict) -> str:
    if arguments["top_k_answers"] is not None:
        return f", the {arguments['top_k_answers']:,} most frequent"
    if arguments["min_answer_count"] is not None:
        return f" given at least {arguments['min_answer_count']} times"
    return ""


def _training(run: Run) -> str:
    results, parameters = run.results, run.results["parameters"]
    # Of those with the same score, the Trainer keeps the one with the lower loss.
    best = max(results["epochs"], key=lambda e: (e[run.metric], -(e["validation_loss"] or 0)), default=None)
    text = (
        f"{parameters['total']:,} parameters ({parameters['encoders']:,} in the encoders, {parameters['fusion']:,} in "
        f"the fusion head, {parameters['classifier']:,} in the classifier), of which {parameters['trainable']:,} were "
        "trained. "
    )
    if best is not None:
        text += f"The weights are those of epoch {best['epoch']:.0f}, the best on the validation questions. "
    return text + "What differs from the defaults, as a recipe for `ume train`:"


def _recipe(run: Run, about: About) -> str:
    """The run's arguments as YAML: without defaults, and without the paths of the machine it ran on."""
    arguments, bases = run.results["arguments"], _base_models(run, about)
    defaults = {f.name: f.default for what in (ModelArguments, DataArguments) for f in dataclasses.fields(what)}
    paths = {"feature_cache", "images", "eval_data", "fusion_sha256"} | {
        f"{part}_{name}" for part in ("train", "eval") for name in ("questions", "annotations", "images")
    }
    recipe = {
        name: value
        for group in arguments.values()
        for name, value in group.items()
        if name in ("fusion", "source") or (name not in paths and value != defaults.get(name))
    }
    if recipe.get("data"):
        on_hub = re.compile(r"[\w.-]+/[\w-]+")
        recipe["data"] = [name if on_hub.fullmatch(name) else Path(name).name for name in recipe["data"]]
        if recipe["source"] is None:
            del recipe["source"]
    for modality, name in bases.items():
        recipe[f"{modality}_model"] = name or Path(recipe[f"{modality}_model"]).name
    lines = (yaml.safe_dump({name: value}, allow_unicode=True, width=1000) for name, value in recipe.items())
    return "".join(lines).rstrip()


def _machine(run: Run) -> str:
    hardware, versions = run.results["environment"]["hardware"], run.results["environment"]["versions"]
    gpus = Counter(hardware["gpus"])
    devices = "".join(f", {count} × {name}" for name, count in gpus.items()) or ", no GPU"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    revision = run.results["environment"]["git_revision"]
    return (
        f"Training took {run.results['train_seconds']:,.0f} seconds, evaluation after each epoch included, and "
        f"{run.results['train_cpu_seconds']:,.0f} seconds of processor time on {hardware['cpu']} with "
        f"{hardware['cores']} cores (torch threads: {hardware['torch_threads']}){devices}. Versions: {packages}"
        + (f"; source revision `{revision}`." if revision else ".")
    )


def _results(run: Run) -> str:
    results = run.results
    label = f"this model (`{results['name']}`, seed {results['seed']})"
    lines = [(label, *(_with_interval(run.rows, metric) for metric in run.metrics))]
    seeds = False
    for row in run.comparison:
        name = BLIND_RUNS.get(row["name"], f"`{row['name']}`")
        if len(row["seeds"]) > 1:
            seeds = True
            lines.append((f"{name}, {len(row['seeds'])} seeds", *(_mean(row[metric]) for metric in run.metrics)))
        elif row is not run.own:
            path = run.folder / "beside" / row["name"] / PREDICTIONS
            rows = read_predictions(path) if path.is_file() else None
            lines.append((name, *(_with_interval(rows, m) if rows else f"{row[m]['mean']:.2f}" for m in run.metrics)))
    for name, scores in results["baselines"].items():
        lines.append((f"{name.replace('_', ' ')}, no model", *(f"{scores[metric]:.2f}" for metric in run.metrics)))
    images = len({row["image_id"] for row in run.rows})
    note = (
        f"In percent, on {len(run.rows):,} {results['scored_on']} questions about {images:,} images. In brackets 95 % "
        "bootstrap intervals over images: 2,000 draws of as many images, each with all its questions."
    )
    if seeds:
        note += " ± is the standard deviation over seeds."
    return _table(("", *run.metrics.values()), lines, right=len(run.metrics)) + f"\n\n{note}"


def _per_type(run: Run) -> str:
    tables = []
    for column, label in (("answer_type", "answer"), ("question_type", "question")):
        groups: dict[str, list[dict]] = {}
        for row in run.rows:
            groups.setdefault(row[column], []).append(row)
        groups.pop("", None)
        shown = [(kind, rows) for kind, rows in groups.items() if len(rows) >= FEWEST]
        shown = sorted(shown, key=lambda item: (-len(item[1]), item[0]))[:TYPES]
        lines = [
            (_cell(kind), f"{len(rows):,}", *(_with_interval(rows, metric) for metric in run.metrics))
            for kind, rows in shown
        ]
        if lines:
            tables.append(_table((label, "questions", *run.metrics.values()), lines, right=1 + len(run.metrics)))
        if lines and len(shown) < len(groups):
            tables.append(f"These are the commonest of {len(groups)} kinds of {label}.")
    return "\n\n".join(tables)


def _learning_curve(run: Run) -> str:
    epochs = run.results["epochs"]
    if not epochs:
        return ""
    first, last = epochs[0], epochs[-1]
    label = NAMES[run.metric]
    return (
        f"![{label} on the validation questions over the epochs, and both losses: {first[run.metric]:.2f} % after "
        f"epoch {first['epoch']:.0f}, {last[run.metric]:.2f} % after epoch {last['epoch']:.0f}.](learning_curve.png)"
    )


def _confusion(run: Run) -> str:
    expected = [name for name, _ in Counter(row["expected"] for row in run.rows).most_common(CONFUSED)]
    pairs = Counter((row["expected"], answer_form(row["answer"])) for row in run.rows)
    totals = Counter(row["expected"] for row in run.rows)
    lines = []
    for wanted in expected:
        counts = [pairs[wanted, given] for given in expected]
        cells = [f"**{n}**" if given == wanted else str(n or "·") for given, n in zip(expected, counts, strict=True)]
        lines.append((_cell(wanted), *cells, str(totals[wanted] - sum(counts) or "·")))
    share = sum(totals[name] for name in expected) / len(run.rows)
    header = ("expected \\ answered", *(_cell(name) for name in expected), "any other")
    return (
        _table(header, lines, right=len(expected) + 1)
        + f"\n\nNumbers of questions; these {len(expected)} answers are expected of {share:.0%} of them."
    )


def _examples(run: Run, data_set: DataSet) -> tuple[str, dict[str, bytes]]:
    """The table of example answers, and the pictures in it by their path."""
    generator = random.Random(0)  # noqa: S311 (the same examples every time, which is no secret)
    drawn = generator.sample(run.rows, min(DRAWN, len(run.rows)))
    wrong = [row for row in run.rows if not row["exact_match"] and row not in drawn]
    mistakes = generator.sample(wrong, min(MISTAKES, len(wrong)))
    files, lines = {}, []
    for number, row in enumerate(drawn + mistakes):
        cells = (_cell(row["question"]), _cell(row["expected"]), _cell(row["answer"]))
        if data_set.show_images:
            picture = io.BytesIO()
            open_image(row["image"]).save(picture, format="PNG")
            name = f"examples/{number}.png"
            files[name] = picture.getvalue()
            cells = (f"![]({name})", *cells)
        lines.append(cells)
    header = (("picture",) if data_set.show_images else ()) + ("question", "expected", "answered")
    text = _table(header, lines) + f"\n\nThe first {len(drawn)} were drawn at random from all questions"
    text += f", the other {len(mistakes)} from those answered wrongly." if mistakes else "."
    if data_set.show_images is None:
        text += " The pictures are not shown, as nobody has said that they may be."
    elif not data_set.show_images:
        text += " The licence of the pictures does not allow them to be shown here."
    return text, files


def _limits(run: Run, data_set: DataSet, languages: list[str]) -> list[str]:
    results, metric, own = run.results, run.metric, run.own
    score, label = (own[metric]["mean"] if own else results["scores"][metric]), NAMES[metric]
    name, blind = _best_blind(run)
    low, _ = score_interval(run.rows, metric)
    answers = results["data"]["answers"]
    limits = [
        f"It gives one of its {answers:,} answers to every question, {_spoken(languages)}also where none of them fits."
    ]
    if blind >= low:
        limits.append(
            f"What it gains from the picture is not certain: {WITHOUT_PICTURE[name]} gives {blind:.2f} % {label}, "
            "which is not below the interval of this model."
        )
    else:
        limits.append(f"{WITHOUT_PICTURE[name].capitalize()} gives {blind:.2f} % {label}: that much needs no picture.")
    better = [row for row in run.comparison if row["name"] not in BLIND and row[metric]["mean"] > score]
    for row in sorted(better, key=lambda row: -row[metric]["mean"]):
        limits.append(
            f"The head `{row['name']}`, trained on equal terms, scores higher: {_mean(row[metric])} against "
            f"{_mean(own[metric])} % {label}."
        )
    if results["scored_on"] == "validation":
        limits.append("The questions scored here also chose the epoch, so that the scores are somewhat too high.")
    if own is None or len(own["seeds"]) == 1:
        limits.append("It was trained once, with one seed: how much another seed changes is not known.")
    else:
        limits.append(
            f"It is one of {len(own['seeds'])} trainings that differ in their seed; their mean is "
            f"{_mean(own[metric])} % {label}."
        )
    return limits + data_set.limits


def _spoken(languages: list[str]) -> str:
    names = [LANGUAGES.get(code, f"`{code}`") for code in languages]
    if not names:
        return ""
    return f"in {' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} only, "


def _with_interval(rows: list[dict], metric: str) -> str:
    low, high = score_interval(rows, metric)
    return f"{mean_score(rows, metric):.2f} ({low:.2f}–{high:.2f})"


def _mean(score: dict) -> str:
    return f"{score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {score['sd']:.2f}")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"
