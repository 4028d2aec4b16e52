"""What a card is made from: what a person says of a model, and what its run left behind."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from configuration_ume.scores import LABELS, NAMES, in_order, measured_by, names_in, written
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.tasks_ume import DEFAULT_PROBLEM, DEFAULT_TASK, PROBLEM_TYPES, TASKS, ProblemType, Task
from training_ume.records.files import read_json
from training_ume.records.predictions import PREDICTIONS, mean_score, read_predictions

NO_LICENCE = (
    "No licence is said, so this card says `unknown`: write one line into a file, for example `license: apache-2.0`, "
    "and name it by --about."
)


@dataclass
class About:
    """
    What a person says about a model, as YAML.

    Args:
        license (`str`): the weights' licence, a Hub identifier such as apache-2.0.
        title (`str`, *optional*): defaults to the name of the repo, or to `ume-<recipe>`.
        data (`str` or `dict`, *optional*): a name of `DATA_SETS` or fields of a `DataSet`; what is left out is told
            by the run.
        language (`str` or `list[str]`, *optional*): codes such as en; left out, they are told by the questions.
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
    language: str | list[str] | None = None


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
            return chosen_by if chosen_by in self.results["scores"] else measured_by(self.results["scores"])
        chosen_by = self.results["arguments"]["training"].get("metric_for_best_model", "")
        return "exact_match" if "exact_match" in chosen_by else "vqa_accuracy"

    @property
    def metrics(self) -> dict[str, str]:
        """The scores and what they are called, that which fits the data first; none that can only be 0."""
        fits = measured_by(self.results["scores"])
        if fits not in NAMES:
            return {name: LABELS[name] for name in names_in(self.results["scores"])}
        highest = self.results["data"]["coverage"][self.results["scored_on"]]["ceiling"]
        return {name: NAMES[name] for name in in_order(fits) if name == fits or name != "vqa_accuracy" or highest}

    @property
    def problem(self) -> ProblemType:
        """What its answers are to each other."""
        return PROBLEM_TYPES[self.results["arguments"]["model"].get("problem_type", DEFAULT_PROBLEM)]

    @property
    def task(self) -> Task:
        """What it is for; by its scores, where the recipe left it to the rows."""
        said = self.results["arguments"]["model"].get("task")
        asks = said is None and (measured_by(self.results["scores"]) in NAMES or any(r["question"] for r in self.rows))
        return TASKS[said or (DEFAULT_TASK if asks else "classification")]

    @property
    def called(self) -> str:
        """What its rows are called."""
        return "questions" if any(row["question"] for row in self.rows) else "rows"

    @property
    def of_images(self) -> bool:
        """Whether its rows are about images, of which some may share one."""
        return any(row["image_id"] for row in self.rows)

    @property
    def own(self) -> dict | None:
        """This model's row of the comparison."""
        return next((row for row in self.comparison if row["name"] == self.results["name"]), None)


def read_run(folder: str | Path) -> Run:
    """
    Reads the folder of one run of `ume train`.

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
            f"`ume evaluate {folder} … --predictions {folder / PREDICTIONS}` on the "
            f"{results['scored_on']} questions."
        ) from None
    for metric in names_in(results["scores"]):
        answered, recorded, label = mean_score(rows, metric), results["scores"][metric], LABELS[metric]
        if abs(answered - recorded) > (0.005 if metric in NAMES else 1e-4 * max(1.0, abs(recorded))):
            raise ValueError(
                f"{folder / PREDICTIONS} has {written(metric, answered)} {label}, results.json has "
                f"{written(metric, recorded)}: they are not of "
                "the same answers. Write the predictions anew with `ume evaluate`."
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


def _base_models(run: Run, about: About) -> dict[str, str | None]:
    """Hub names of the pretrained encoders by modality; None where only a folder is known."""
    names = {}
    for modality in MODALITIES:
        name = run.results["arguments"]["model"].get(f"{modality}_model")
        source = run.results.get("encoders", {}).get(modality, {})
        if name is not None:
            is_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and "sha256" not in source and not Path(name).is_dir()
            names[modality] = about.base_models.get(modality, name if is_hub else None)
    return names
