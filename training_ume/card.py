"""A model's page on the Hub, written from what its training left behind.

The numbers come from `results.json` and `predictions.jsonl`; what no run knows (the licence, the Hub names of encoders
that were read from folders) a person says in a small YAML file, `About`. The words are in model_cards/template.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from metrics.vqa_accuracy.vqa_accuracy import answer_form
from training_ume.data import open_image
from training_ume.evaluation import BLIND
from training_ume.plots import plot_learning_curve
from training_ume.predictions import PREDICTIONS, mean_score, read_predictions, score_interval
from training_ume.recipes import DataArguments, ModelArguments
from training_ume.results import read_json
from training_ume.scoring import NAMES, in_order, measured_by

TEMPLATE = Path(__file__).resolve().parent.parent / "model_cards" / "template.md"
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


@dataclass
class DataSet:
    """What a card says about a data set."""

    name: str
    about: str  # what it holds and where it is from: whole sentences
    licence: str  # a whole sentence
    hub_id: str | None = None
    show_images: bool = False  # whether its licence lets a card show pictures
    limits: list[str] = field(default_factory=list)  # whole sentences
    citation: str = ""  # BibTeX


@dataclass
class About:
    """
    What a person says about a model, as YAML.

    Args:
        license (`str`): the weights' licence, a Hub identifier such as apache-2.0.
        title (`str`, *optional*): defaults to `ume-<recipe>`.
        data (`str` or `dict`, *optional*): a name of `DATA_SETS` or the fields of a `DataSet`; left out, what the
            recipe names.
        base_models (`dict[str, str | None]`): Hub names of encoders that the run read from folders, by modality;
            null for a folder that is no copy of a Hub model.
        limits (`list[str]`): sentences to add to those that follow from the results.
        benchmark (`dict`, *optional*): `id` and `task_id` of the Hub benchmark that was scored, for `.eval_results/`.
    """

    license: str
    title: str | None = None
    data: str | dict | None = None
    base_models: dict[str, str | None] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    benchmark: dict[str, str] | None = None


def read_about(path: str | Path) -> About:
    """
    Reads an `About` from YAML.

    Raises:
        ValueError: for a file that is not there, is no YAML, has unknown fields, or no licence.
    """
    try:
        said = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} must be `field: value` lines, for example `license: apache-2.0`.")
    return _from_dict(About, said, str(path))


def _from_dict(what: type, said: dict, where: str):
    known = {f.name: f for f in dataclasses.fields(what)}
    for name in said:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
            raise ValueError(f"{where} has a field {name!r}, which is unknown: {hint}")
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and not said.get(name):
            raise ValueError(f"{where} has no {name}: add a line `{name}: …`.")
    return what(**said)


@dataclass
class Run:
    """What a finished run left in its folder."""

    folder: Path
    results: dict
    rows: list[dict]  # of predictions.jsonl
    comparison: list[dict]  # all runs that were trained on equal terms; may be empty

    @property
    def metric(self) -> str:
        """The headline: what the best epoch was chosen by."""
        if "selected_by" in self.results:
            chosen_by = self.results["selected_by"]["score"]
            return chosen_by if chosen_by in NAMES else measured_by(self.results["scores"])
        chosen_by = self.results["arguments"]["training"].get("metric_for_best_model", "")
        return "exact_match" if "exact_match" in chosen_by else "vqa_accuracy"

    @property
    def metrics(self) -> dict[str, str]:
        """The scores and what they are called, that which fits the data first."""
        return {name: NAMES[name] for name in in_order(measured_by(self.results["scores"]))}

    @property
    def own(self) -> dict | None:
        """This model's row of the comparison."""
        return next((row for row in self.comparison if row["name"] == self.results["name"]), None)


def read_run(folder: str | Path) -> Run:
    """
    Reads the folder of one run of `scripts/train.py`.

    Raises:
        ValueError: if a file is missing, or `predictions.jsonl` is of other answers than `results.json`.
    """
    folder = Path(folder)
    results = read_json(folder / "results.json")
    if results is None or "scores" not in results:
        runs = (results or {}).get("runs", [])
        advice = f"give one of its runs, for example {folder / runs[0]}." if runs else "give a folder of train.py."
        raise ValueError(f"{folder} holds no results.json of a single finished run: {advice}")
    try:
        rows = read_predictions(folder / PREDICTIONS)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} holds no {PREDICTIONS}, which a card needs for its intervals and examples: write it with "
            f"`python scripts/evaluate.py {folder} … --predictions {folder / PREDICTIONS}` on the "
            f"{results['scored_on']} questions."
        ) from None
    for metric, label in NAMES.items():
        answered, recorded = mean_score(rows, metric), results["scores"][metric]
        if abs(answered - recorded) > 0.005:
            raise ValueError(
                f"{folder / PREDICTIONS} has {answered:.2f} {label}, results.json has {recorded:.2f}: they are not of "
                "the same answers. Write the predictions anew with scripts/evaluate.py."
            )
    return Run(folder, results, rows, _comparison(folder, results))


def _comparison(folder: Path, results: dict) -> list[dict]:
    if "comparison" in results:
        return results["comparison"]
    for parent in folder.absolute().parents[:3]:  # seed0, or beside/concat/seed0
        above = read_json(parent / "results.json") or {}
        if folder.absolute().relative_to(parent).as_posix() in above.get("runs", []):
            return above["comparison"]
    return []


def render_card(
    folder: str | Path, about: About, repo: str | None = None, adapter: bool = False, template: str | Path = TEMPLATE
) -> dict[str, bytes]:
    """
    Makes the card of a run.

    Args:
        folder: one run of `scripts/train.py`.
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


def _base_models(run: Run, about: About) -> dict[str, str | None]:
    """Hub names of the pretrained encoders by modality; None where only a folder is known."""
    names = {}
    for modality in ("text", "vision"):
        name = run.results["arguments"]["model"][f"{modality}_model"]
        source = run.results.get("encoders", {}).get(modality, {})
        if name is not None:
            is_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and "sha256" not in source and not Path(name).is_dir()
            names[modality] = about.base_models.get(modality, name if is_hub else None)
    return names


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
    for modality, label in (("text", "question"), ("vision", "picture")):
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
        lines.append((label, what, revision.replace("`not recorded`", "not recorded"), trained))
    return _table(("", "encoder", "revision", "trained"), lines)


def _data(run: Run, data_set: DataSet) -> str:
    data, arguments = run.results["data"], run.results["arguments"]["data"]
    counts = [
        (
            part,
            f"{data[f'{part}_questions']:,}",
            f"{data[f'{part}_images']:,}",
            f"{100 * data['coverage'][part]['ceiling']:.2f}",
        )
        for part in ("train", "validation", "test")
        if f"{part}_questions" in data
    ]
    table = _table(("part", "questions", "images", "highest VQA accuracy possible"), counts, right=3)
    text = []
    if arguments["validation_fraction"] is not None:
        text.append(
            f"The validation questions are those about {arguments['validation_fraction']:.0%} of the training images, "
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
    return text + "What differs from the defaults, as a recipe for `scripts/train.py`:"


def _recipe(run: Run, about: About) -> str:
    """The run's arguments as YAML: without defaults, and without the paths of the machine it ran on."""
    arguments, bases = run.results["arguments"], _base_models(run, about)
    defaults = {f.name: f.default for what in (ModelArguments, DataArguments) for f in dataclasses.fields(what)}
    paths = {"feature_cache"} | {
        f"{part}_{name}" for part in ("train", "eval") for name in ("questions", "annotations", "images")
    }
    recipe = {
        name: value
        for group in arguments.values()
        for name, value in group.items()
        if name in ("fusion", "source") or (name not in paths and value != defaults.get(name))
    }
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
    return _table(("", *run.metrics.values()), lines, right=2) + f"\n\n{note}"


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
            tables.append(_table((label, "questions", *run.metrics.values()), lines, right=3))
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
    if not data_set.show_images:
        text += " The licence of the pictures does not allow them to be shown here."
    return text, files


def _limits(run: Run, data_set: DataSet) -> list[str]:
    results, metric, own = run.results, run.metric, run.own
    score, label = (own[metric]["mean"] if own else results["scores"][metric]), NAMES[metric]
    name, blind = _best_blind(run)
    low, _ = score_interval(run.rows, metric)
    answers = results["data"]["answers"]
    limits = [
        f"It gives one of its {answers:,} answers to every question, in English only, also where none of them fits."
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


# ------------------------------------------------------------------------------------------------------------ format


def _table(header: tuple[str, ...], lines: list[tuple[str, ...]], right: int = 0) -> str:
    """A Markdown table; the last `right` columns are aligned to the right."""
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|") or "(empty)"


def _with_interval(rows: list[dict], metric: str) -> str:
    low, high = score_interval(rows, metric)
    return f"{mean_score(rows, metric):.2f} ({low:.2f}–{high:.2f})"


def _mean(score: dict) -> str:
    return f"{score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {score['sd']:.2f}")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


CITATION = """
@software{ume,
  title = {{UME}: Uni-Modal Ensemble},
  note = {Implements the thesis "Research on Efficient Modality Fusion for Enhanced Uni-modal Ensemble"},
}
"""

DATA_SETS = {
    "easy_vqa": DataSet(
        name="easy-VQA",
        about="[easy-VQA](https://github.com/vzhou842/easy-VQA): drawings of 64 × 64 pixels, each of one coloured "
        "shape, with generated questions about shape and colour; from the Python package `easy-vqa`.",
        licence="easy-VQA is MIT-licensed; the pictures on this page are from it.",
        show_images=True,
        limits=["It has seen drawings of one shape on a plain ground, three shapes and eight colours: nothing else."],
        citation="""
@software{zhou2019easyvqa,
  title = {easy-{VQA}},
  author = {Zhou, Victor},
  year = {2019},
  url = {https://github.com/vzhou842/easy-VQA},
}
""",
    ),
    "daquar": DataSet(
        name="DAQUAR",
        about="[DAQUAR](https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/"
        "vision-and-language/visual-turing-challenge): questions that people asked about the indoor photographs of "
        "NYU Depth v2.",
        licence="DAQUAR's questions and NYU Depth v2's photographs come without a stated data licence: none is "
        "included.",
        limits=[
            "It has seen indoor photographs of one collection; one person answered each question, often where others "
            "would say something else.",
        ],
        citation="""
@inproceedings{malinowski2014daquar,
  title = {A Multi-World Approach to Question Answering about Real-World Scenes based on Uncertain Input},
  author = {Malinowski, Mateusz and Fritz, Mario},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2014},
}

@inproceedings{silberman2012nyu,
  title = {Indoor Segmentation and Support Inference from {RGBD} Images},
  author = {Silberman, Nathan and Hoiem, Derek and Kohli, Pushmeet and Fergus, Rob},
  booktitle = {European Conference on Computer Vision},
  year = {2012},
}
""",
    ),
    "vqa_v2": DataSet(
        name="VQA v2",
        about="[VQA v2](https://visualqa.org): questions about COCO photographs, with the answers of ten people each.",
        licence="VQA v2's annotations are CC BY 4.0; the photographs belong to their Flickr authors; none is "
        "included.",
        hub_id="HuggingFaceM4/VQAv2",
        limits=["Its questions are short, in English, and were asked by paid annotators about Flickr photographs."],
        citation="""
@inproceedings{goyal2017making,
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author = {Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2017},
}
""",
    ),
}
