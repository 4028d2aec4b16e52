"""Trainings against one another, from what they left in their folders: scores with intervals, and differences.

Intervals are over images, whose questions share what is hard about them, and count no seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from configuration_ume.arguments import DataArguments, ModelArguments
from configuration_ume.data_arguments import SWEPT
from configuration_ume.scores import NAMES, measured_by
from training_ume.evidence.statistics import draw_images, interval
from training_ume.records.comparison import comparison_rows
from training_ume.records.files import read_json
from training_ume.records.measured import Measured
from training_ume.records.predictions import PREDICTIONS, measured, read_predictions

# What a run is named by anyway, and where it lies.
NAMED = {"fusion", "inputs", "seed"}
LONGEST_VALUE = 40


@dataclasses.dataclass
class Finished:
    """A single training: its folder and its results, named by what it differs in from those beside it."""

    folder: Path
    results: dict

    @property
    def label(self) -> str:
        return self.results["name"]


def finished_runs(folders: Iterable[str | Path]) -> tuple[list[Finished], dict[str, list]]:
    """
    The single trainings under folders of `ume train`.

    Returns:
        `(runs, differ)`: the runs in the order of the folders, each named by its head and by the fields in which they
        differ, and these fields with all their values.

    Raises:
        ValueError: where there is none, the same run is there twice, or runs are scored on other questions.
    """
    runs: list[Finished] = []
    for folder in map(Path, folders):
        found = [(path.parent, read_json(path)) for path in sorted(folder.rglob("results.json"))]
        found = [Finished(place, results) for place, results in found if results and "scores" in results]
        if not found:
            raise ValueError(f"{folder} holds no results.json of a finished run.")
        runs += [run for run in found if run.folder.resolve() not in {other.folder.resolve() for other in runs}]
    _check_same_questions(runs)
    fields = [_fields(run.results) for run in runs]
    names = sorted({name for each in fields for name in each})
    differ = {
        name: values
        for name in names
        if len(values := list(dict.fromkeys(_shown(each.get(name)) for each in fields))) > 1
    }
    seen: dict[tuple[str, int], Path] = {}
    for run, each in zip(runs, fields, strict=True):
        head = run.results["name"].split(", ")[0]
        label = ", ".join([head, *(f"{name}={_shown(each.get(name))}" for name in differ)])
        run.results = {**run.results, "name": label}
        first = seen.setdefault((label, run.results["seed"]), run.folder)
        if first != run.folder:
            raise ValueError(
                f"{run.folder} holds {label} with seed {run.results['seed']}, which {first} holds, too: name one of "
                "them."
            )
    return runs, differ


def _fields(results: dict) -> dict:
    """What a run was told, as far as it may differ in it from others that are scored on the same questions."""
    arguments, merged = results["arguments"], {}
    for part, kind in (("model", ModelArguments), ("data", DataArguments)):
        # A run of an older version lacks the fields that are newer; it did what their defaults do.
        merged |= {field.name: field.default for field in dataclasses.fields(kind)} | arguments[part]
    others = DataArguments.__dataclass_fields__.keys() - SWEPT
    merged |= arguments["training"]
    return {name: value for name, value in merged.items() if name not in NAMED | others}


def _shown(value) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _check_same_questions(runs: list[Finished]) -> None:
    def scored(results: dict) -> dict:
        part = results["scored_on"]
        counts = {name: results["data"].get(f"{part}_{name}") for name in ("questions", "images")}
        return {"scored on": part, **counts}

    first = runs[0]
    for run in runs[1:]:
        ours, theirs = scored(run.results), scored(first.results)
        if ours != theirs:
            raise ValueError(
                f"{run.folder} and {first.folder} are scored on other questions ({_said(ours)}; {_said(theirs)}): "
                "only scores of the same questions can be compared."
            )


def _said(scored: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in scored.items() if value is not None)


def compare_runs(folders: Iterable[str | Path]) -> tuple[dict, list[Finished]]:
    """
    Compares all trainings under some folders with the first of them.

    Args:
        folders: output folders of `ume train`.

    Returns:
        `(facts, runs)`: `facts` has `recipe`, `scored_on`, `baselines`, `data`, `arguments` and `environment` of the
        first run; `differ`, the fields in which runs differ, with their values; and `comparison`, the rows of
        `comparison_rows`. Where each run has its predictions.jsonl, a row has the 95 % `interval` of its score (the
        mean over its seeds, images drawn with replacement), and all but the first row `ahead`, its score minus the
        first row's, `mean` and paired `interval`.

    Raises:
        ValueError: see `finished_runs`, and when predictions answer other questions.
    """
    runs, differ = finished_runs(folders)
    first = runs[0].results
    kept = ("recipe", "scored_on", "baselines", "data", "arguments", "environment")
    rows = comparison_rows(run.results for run in runs)
    if all((run.folder / PREDICTIONS).is_file() for run in runs):
        _add_intervals(rows, runs)
    return {**{name: first[name] for name in kept}, "differ": differ, "comparison": rows}, runs


def _add_intervals_of_all(rows: list[dict], runs: list[Finished], metric: str) -> None:
    """The same of numbers and classes, whose scores are of all rows together: each draw of images is scored anew."""
    scored: dict[str, list[Measured]] = {}
    asked = None
    for run in runs:
        answered = sorted(read_predictions(run.folder / PREDICTIONS), key=lambda row: str(row["question_id"]))
        ids = [str(row["question_id"]) for row in answered]
        if asked is not None and ids != asked:
            raise ValueError(_other_questions(run, runs[0]))
        asked = ids
        scored.setdefault(run.label, []).append(measured(answered))
    draws = {name: [] for name in scored}
    for drawn in next(iter(scored.values()))[0].draws():
        values = {name: [each.score(metric, drawn) for each in group] for name, group in scored.items()}
        if all(value is not None for group in values.values() for value in group):
            for name, group in values.items():
                draws[name].append(float(np.mean(group)))
    reference = np.array(draws[rows[0]["name"]])
    for row in rows:
        own = np.array(draws[row["name"]])
        row["interval"] = [float(value) for value in np.quantile(own, [0.025, 0.975])]
        if row is not rows[0]:
            ahead = own - reference
            between = [float(value) for value in np.quantile(ahead, [0.025, 0.975])]
            row["ahead"] = {"mean": row[metric]["mean"] - rows[0][metric]["mean"], "interval": between}


def _other_questions(run: Finished, first: Finished) -> str:
    return (
        f"{run.folder / PREDICTIONS} answers other questions than {first.folder / PREDICTIONS}: only scores of the "
        "same questions can be compared."
    )


def _add_intervals(rows: list[dict], runs: list[Finished]) -> None:
    metric = measured_by(runs[0].results["scores"])
    if metric not in NAMES:
        return _add_intervals_of_all(rows, runs, metric)
    scores: dict[str, list[np.ndarray]] = {}
    asked = images = None
    for run in runs:
        answered = sorted(read_predictions(run.folder / PREDICTIONS), key=lambda row: str(row["question_id"]))
        ids = [str(row["question_id"]) for row in answered]
        if asked is None:
            asked, images = ids, [str(row["image_id"] or row["question_id"]) for row in answered]
        if ids != asked:
            raise ValueError(_other_questions(run, runs[0]))
        scores.setdefault(run.label, []).append(np.array([row[metric] for row in answered]))
    draws = draw_images(images)
    means = {name: np.mean(each, axis=0) for name, each in scores.items()}  # over seeds: [N]
    reference = means[rows[0]["name"]]
    for row in rows:
        row["interval"] = list(interval(draws, means[row["name"]]))
        if row is not rows[0]:
            ahead = means[row["name"]] - reference
            row["ahead"] = {"mean": float(ahead.mean()), "interval": list(interval(draws, ahead))}
