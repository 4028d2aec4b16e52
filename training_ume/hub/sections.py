"""The sections of a model card."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from configuration_ume.arguments import DataArguments, ModelArguments
from configuration_ume.data_arguments import HELD_OUT
from configuration_ume.scores import LABELS, NUMBERS, in_words, lower_is_better, quantity, written
from metrics.vqa_accuracy.vqa_accuracy import answer_form
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.images import open_image
from training_ume.data.inputs import BLIND
from training_ume.hub.data_sets import DataSet
from training_ume.hub.languages import NAMES as LANGUAGES
from training_ume.hub.plots import plot_confusion, plot_numbers
from training_ume.hub.read import About, Run, _base_models
from training_ume.hub.reads import held_out, named, readers, seen_by, told
from training_ume.records.class_scores import ClassScores, LabelScores
from training_ume.records.number_scores import NumberScores
from training_ume.records.predictions import PREDICTIONS, mean_score, measured, read_predictions, score_interval
from training_ume.report.markdown import _cell, _table

CONFUSED, DRAWN, MISTAKES, TYPES = 8, 6, 4, 10  # rows of the tables
FEWEST = 10  # questions of a type that is shown


# ---------------------------------------------------------------------------------------------------------- sections


def _claim(run: Run, data_set: DataSet) -> str:
    results, metric = run.results, run.metric
    (name, blind), data = _best_blind(run), results["data"]
    part = f"the {data[results['scored_on'] + '_questions']:,} {results['scored_on']} {run.called} of {data_set.name}"
    between = score_interval(run.rows, metric)
    between = "" if between is None else f" (95 % interval {' to '.join(written(metric, end) for end in between)})"
    more = ""
    if not run.problem.chooses and metric != "mae":
        more = f", {LABELS['mae']} {written('mae', results['scores']['mae'])}"
    return (
        f"**{in_words(metric, results['scores'][metric])}**{between}{more} on {part}, "
        f"with {_count(results['parameters']['total'])} parameters; {told(run, name)} gives "
        f"{written(metric, blind)}{_percent(metric)}."
    )


def _percent(metric: str) -> str:
    return "" if metric in NUMBERS else " %"


def _best_blind(run: Run) -> tuple[str, float]:
    """What scores best without seeing both question and picture: its name and its score in the headline metric."""
    scores = {name: baseline.get(run.metric) for name, baseline in run.results["baselines"].items()}
    own = run.results["name"]
    blind = [row for row in run.comparison if row["name"] in BLIND and row["name"] != own]
    scores |= {row["name"]: row[run.metric]["mean"] for row in blind}
    scores = {name: score for name, score in scores.items() if score is not None}
    return (min if lower_is_better(run.metric) else max)(scores.items(), key=lambda item: item[1])


def _architecture(run: Run, adapter: bool) -> str:
    model = run.results["arguments"]["model"]
    text = (
        f"A uni-modal ensemble: {readers(seen_by(run))}, the fusion head `{model['fusion']}` joins their tokens, and "
        f"a {_says(run)}."
    )
    if adapter:
        return (
            f"{text} This repo holds the LoRA adapter (rank {model['lora_r']}) together with the model it belongs to."
        )
    if model["lora_r"]:
        return f"{text} It was trained with LoRA (rank {model['lora_r']}), which is merged into these weights."
    return text


def _says(run: Run) -> str:
    """What the model gives, as a part of a sentence."""
    count = run.results["data"]["answers"]
    if not run.problem.chooses:
        names = ", ".join(f"`{name}`" for name in run.rows[0]["answer"])
        logs = " (its logarithm is learned)" if run.results["arguments"]["model"].get("label_transform") else ""
        return f"linear layer gives {names}{logs}"
    if run.task.asks:
        return f"classifier names one of {count:,} answers"
    return f"classifier names {'one' if run.problem.exclusive else 'those that fit'} of {count:,} classes"


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
    header, last = _last_columns(run)
    header = (*(["images"] if run.of_images else []), *header)

    def images(part: str) -> list[str]:
        return [f"{data[f'{part}_images']:,}"] if run.of_images else []

    counts = [
        (part, f"{data[f'{part}_questions']:,}", *images(part), *last(part))
        for part in ("train", "validation", "test")
        if f"{part}_questions" in data
    ]
    table = _table(("part", run.called, *header), counts, right=1 + len(header))
    text = []
    share = arguments["validation_fraction"]
    if share is None and arguments.get("data") and not (arguments["eval_data"] or arguments["eval_split"]):
        share = HELD_OUT
    if share is not None:
        text.append(f"The validation {run.called} are {held_out(run, share)}.")
    left_out = data["train_questions_left_out"]
    if not run.problem.chooses:
        text += (
            [f"{left_out:,} training {run.called}, of which no number is known, were left out."] if left_out else []
        )
        return f"{data_set.about}\n\n{table}\n\n{' '.join(text)}"
    answers = "answers" if run.task.asks else "classes"
    text.append(f"The {data['answers']:,} {answers} are those of the training {run.called}" + _cut(arguments) + ".")
    if left_out:
        text.append(f"{left_out:,} training {run.called}, whose answer is not among them, were left out.")
    return f"{data_set.about}\n\n{table}\n\n{' '.join(text)}"


def _last_columns(run: Run) -> tuple[tuple[str, ...], Callable[[str], tuple[str, ...]]]:
    """What a part is told besides its size: the names of the columns, and what makes the cells of a part."""
    data = run.results["data"]
    if not run.problem.chooses:
        names = list(run.rows[0]["answer"])

        def spread(part: str) -> tuple[str, ...]:
            found = [data["numbers"][part][name] for name in names]
            return tuple(f"{quantity(one['mean'])} ± {quantity(one['sd'])}" if one["rows"] else "" for one in found)

        return tuple(f"{name}, mean ± deviation" for name in names), spread
    if not run.task.asks:
        return (), lambda part: ()
    # VQA accuracy counts nothing where a question has one answer.
    by_people = run.metric == "vqa_accuracy"
    highest, of = ("VQA accuracy", "ceiling") if by_people else ("exact match", "questions")
    covered = data["coverage"]
    return (f"highest {highest} possible",), lambda part: (
        f"{100 * covered[part].get(of, covered[part]['ceiling']):.2f}",
    )


def _cut(arguments: dict) -> str:
    if arguments["top_k_answers"] is not None:
        return f", the {arguments['top_k_answers']:,} most frequent"
    if arguments["min_answer_count"] is not None:
        return f" given at least {arguments['min_answer_count']} times"
    return ""


def _training(run: Run) -> str:
    results, parameters = run.results, run.results["parameters"]
    # Of those with the same score, the Trainer keeps the one with the lower loss.
    sign = -1 if lower_is_better(run.metric) else 1
    there = [epoch for epoch in results["epochs"] if run.metric in epoch]
    best = max(there, key=lambda e: (sign * e[run.metric], -(e["validation_loss"] or 0)), default=None)
    text = (
        f"{parameters['total']:,} parameters ({parameters['encoders']:,} in the encoders, {parameters['fusion']:,} in "
        f"the fusion head, {parameters['classifier']:,} in the classifier), of which {parameters['trainable']:,} were "
        "trained. "
    )
    if best is not None:
        text += f"The weights are those of epoch {best['epoch']:.0f}, the best on the validation {run.called}. "
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
        name = named(run, row["name"])
        if len(row["seeds"]) > 1:
            seeds = True
            lines.append(
                (f"{name}, {len(row['seeds'])} seeds", *(_mean(metric, row[metric]) for metric in run.metrics))
            )
        elif row is not run.own:
            path = run.folder / "beside" / row["name"] / PREDICTIONS
            rows = read_predictions(path) if path.is_file() else None
            lines.append((name, *(_with_interval(rows, m) if rows else _mean(m, row[m]) for m in run.metrics)))
    for name, scores in results["baselines"].items():
        lines.append(
            (f"{name.replace('_', ' ')}, no model", *(written(metric, scores.get(metric)) for metric in run.metrics))
        )
    images = len({row["image_id"] for row in run.rows})
    drawn = 1000 if measured(run.rows) else 2000
    note = f"{'In percent, on' if run.problem.chooses else 'On'} {len(run.rows):,} {results['scored_on']} {run.called}"
    note += f" about {images:,} images. " if run.of_images else ". "
    note += (
        f"In brackets 95 % bootstrap intervals over {'images' if run.of_images else run.called}: {drawn:,} draws of "
    )
    note += f"as many images, each with all its {run.called}." if run.of_images else "as many."
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
            tables.append(_table((label, run.called, *run.metrics.values()), lines, right=1 + len(run.metrics)))
        if lines and len(shown) < len(groups):
            tables.append(f"These are the commonest of {len(groups)} kinds of {label}.")
    return "\n\n".join(tables)


def _learning_curve(run: Run) -> str:
    epochs = run.results["epochs"]
    if not epochs:
        return ""
    first, last = epochs[0], epochs[-1]
    ends = [f"{written(run.metric, epoch.get(run.metric))}{_percent(run.metric)}" for epoch in (first, last)]
    return (
        f"![{LABELS[run.metric]} on the validation {run.called} over the epochs, and both losses: {ends[0]} after "
        f"epoch {first['epoch']:.0f}, {ends[1]} after epoch {last['epoch']:.0f}.](learning_curve.png)"
    )


def _confusion(run: Run) -> tuple[str, str, dict[str, bytes]]:
    """What is said where something else is right: the title of the section, its text, and its pictures by path."""
    together, picture = measured(run.rows), io.BytesIO()
    if isinstance(together, NumberScores):
        plot_numbers(together, picture)
        text = "![What is predicted against what is true, and what is left of it.](predicted.png)"
        return "Predicted against true", text, {"predicted.png": picture.getvalue()}
    if isinstance(together, LabelScores):
        return "Labels", _labels(together), {}
    if isinstance(together, ClassScores):
        plot_confusion(together, picture)
        text = "![How often each class was given where each was right.](confusion.png)"
        files = {"confusion.png": picture.getvalue()}
        return "Confusion of the commonest classes", f"{_confusion_table(run)}\n\n{text}", files
    return "Confusion of the commonest answers", _confusion_table(run), {}


def _labels(scores: LabelScores) -> str:
    hits, given, right = ((table).sum(0) for table in (scores.given & scores.expected, scores.given, scores.expected))
    lines = [
        (_cell(scores.names[i]), f"{right[i]:,}", f"{given[i]:,}", f"{hits[i]:,}",
         f"{200 * hits[i] / max(1, given[i] + right[i]):.2f}")
        for i in np.argsort(-right, kind="stable")[:TYPES]
    ]  # fmt: skip
    return _table(("label", "right", "given", "both", "F1"), lines, right=4)


def _confusion_table(run: Run) -> str:
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
    answers = "answers" if run.task.asks else "classes"
    return (
        _table(header, lines, right=len(expected) + 1)
        + f"\n\nNumbers of {run.called}; these {len(expected)} {answers} are expected of {share:.0%} of them."
    )


def _examples(run: Run, data_set: DataSet) -> tuple[str, dict[str, bytes]]:
    """The table of example answers, and the pictures in it by their path."""
    generator = random.Random(0)  # noqa: S311 (the same examples every time, which is no secret)
    drawn = generator.sample(run.rows, min(DRAWN, len(run.rows)))
    wrong = [row for row in run.rows if _is_wrong(row) and row not in drawn]
    asks = run.called == "questions"
    mistakes = generator.sample(wrong, min(MISTAKES, len(wrong)))
    files, lines = {}, []
    for number, row in enumerate(drawn + mistakes):
        cells = (_cell(_shown(row["expected"])), _cell(_shown(row["answer"])))
        cells = (_cell(row["question"]), *cells) if asks else cells
        if data_set.show_images and row["image"]:
            picture = io.BytesIO()
            open_image(row["image"]).save(picture, format="PNG")
            name = f"examples/{number}.png"
            files[name] = picture.getvalue()
            cells = (f"![]({name})", *cells)
        lines.append(cells)
    header = (("question",) if asks else ()) + ("expected", "answered")
    header = (("picture",) if data_set.show_images else ()) + header
    text = _table(header, lines) + f"\n\nThe first {len(drawn)} were drawn at random from all {run.called}"
    text += f", the other {len(mistakes)} from those answered wrongly." if mistakes else "."
    if not any(row["image"] for row in run.rows):
        pass
    elif data_set.show_images is None:
        text += " The pictures are not shown, as nobody has said that they may be."
    elif not data_set.show_images:
        text += " The licence of the pictures does not allow them to be shown here."
    return text, files


def _is_wrong(row: dict) -> bool:
    """Whether a row is an example of an error; of numbers none is, as all are a little off."""
    if isinstance(row["answer"], dict):
        return False
    if isinstance(row["answer"], list):
        return set(map(answer_form, row["answer"])) != set(row["expected"])
    return not row.get("exact_match", answer_form(row["answer"]) == row["expected"])


def _shown(answer) -> str:
    """An answer, several labels, or numbers by their names, as text."""
    if isinstance(answer, dict):
        known = {name: "–" if value is None else quantity(value) for name, value in answer.items()}
        return ", ".join(known.values() if len(known) == 1 else (f"{name} {value}" for name, value in known.items()))
    return ", ".join(answer) if isinstance(answer, list) else answer


def _limits(run: Run, data_set: DataSet, languages: list[str]) -> list[str]:
    results, metric, own = run.results, run.metric, run.own
    score, label = (own[metric]["mean"] if own else results["scores"][metric]), LABELS[metric]
    label, sign = label if metric in NUMBERS else f"% {label}", -1 if lower_is_better(metric) else 1
    name, blind = _best_blind(run)
    between = score_interval(run.rows, metric)
    answers = results["data"]["answers"]
    if not run.problem.chooses:
        limits = ["It gives numbers like those of its training rows, also for what is like none of them."]
    elif run.task.asks:
        limits = [
            f"It gives one of its {answers:,} answers to every question, {_spoken(languages)}also where none of them "
            "fits."
        ]
    else:
        limits = [f"It knows its {answers:,} classes and no other, also where none of them fits."]
    said = f"{told(run, name)} gives {written(metric, blind)} {label}"
    gains = "the picture" if run.called == "questions" and run.of_images else "what it reads"
    if between is None or sign * blind >= min(sign * end for end in between):
        limits.append(
            f"What it gains from {gains} is not certain: {said}, which is not below the interval of this model."
            if sign > 0
            else f"What it gains from {gains} is not certain: {said}."
        )
    elif run.called == "questions" and run.of_images:
        limits.append(f"{said[0].upper()}{said[1:]}: that much needs no picture.")
    else:
        nothing = "none of the rest" if name in BLIND else "no model"
        limits.append(f"{said[0].upper()}{said[1:]}: that much needs {nothing}.")
    better = [row for row in run.comparison if row["name"] not in BLIND and sign * row[metric]["mean"] > sign * score]
    for row in sorted(better, key=lambda row: -sign * row[metric]["mean"]):
        limits.append(
            f"The head `{row['name']}`, trained on equal terms, scores higher: {_mean(metric, row[metric])} against "
            f"{_mean(metric, own[metric])} {label}."
        )
    if results["scored_on"] == "validation":
        limits.append(f"The {run.called} scored here also chose the epoch, so that the scores are somewhat too high.")
    if own is None or len(own["seeds"]) == 1:
        limits.append("It was trained once, with one seed: how much another seed changes is not known.")
    else:
        limits.append(
            f"It is one of {len(own['seeds'])} trainings that differ in their seed; their mean is "
            f"{_mean(metric, own[metric])} {label}."
        )
    return limits + data_set.limits


def _spoken(languages: list[str]) -> str:
    names = [LANGUAGES.get(code, f"`{code}`") for code in languages]
    if not names:
        return ""
    return f"in {' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} only, "


def _with_interval(rows: list[dict], metric: str) -> str:
    between = score_interval(rows, metric)
    ends = "" if between is None else f" ({'–'.join(written(metric, end) for end in between)})"
    return written(metric, mean_score(rows, metric)) + ends


def _mean(metric: str, score: dict) -> str:
    return written(metric, score["mean"]) + ("" if score["sd"] is None else f" ± {written(metric, score['sd'])}")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"
