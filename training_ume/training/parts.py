"""The rows of a finished run: the part that was held out, and which of other rows it was trained on.

A run's folder knows them by its arguments.json: the same data fields give the same split.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path

from datasets import Dataset

from configuration_ume.arguments import DataArguments
from training_ume.data.inputs import cell_keys, paths_in
from training_ume.data.pictures import copies
from training_ume.records.files import first_line, read_json
from training_ume.records.predictions import PREDICTIONS, read_predictions
from training_ume.training.prepare import VQAData, load_data

PARTS = ("validation", "test", "train")
IN_MEMORY = re.compile(r"\w+: [\d,]+ rows in memory, [0-9a-f]+")  # what stands for them in a run's arguments


def run_folder(folder: str | Path) -> Path | None:
    """The folder of the run that a model is of, which its adapter and its checkpoints lie in; None: it is of none."""
    folder = Path(folder)
    above = [folder.absolute().parent] if folder.name == "adapter" or folder.name.startswith("checkpoint-") else []
    places = (place for place in (folder, *above) if (place / "arguments.json").is_file())
    return next(places, None) if folder.is_dir() else None


def data_arguments(folder: str | Path) -> DataArguments | None:
    """The data fields of the run in a folder; None where there is no run."""
    place = run_folder(folder)
    arguments = None if place is None else read_json(place / "arguments.json")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("data"), dict):
        return None
    known = {field.name for field in dataclasses.fields(DataArguments)}
    return DataArguments(**{name: value for name, value in arguments["data"].items() if name in known})


def label_arguments(folder: str | Path) -> dict:
    """What `load_data` is told of the labels of the run in a folder."""
    place = run_folder(folder)
    model = (read_json(place / "arguments.json") or {}).get("model") if place is not None else None
    names = ("problem_type", "label_transform", "task")
    return {name: model[name] for name in names if isinstance(model, dict) and model.get(name) is not None}


def run_rows(folder: str | Path) -> VQAData:
    """
    All rows of a run, as it was trained on them.

    Raises:
        ValueError: for a folder without a run, one that was trained from a stream, and data that are not there.
    """
    arguments = data_arguments(folder)
    if arguments is None:
        raise ValueError(
            f"{str(folder)!r} has no arguments.json, which says what it was trained on: give the folder that "
            "`ume train` wrote (of several seeds, that of one), or name rows by --data."
        )
    if arguments.source == "stream":
        raise ValueError(
            f"The run in {str(folder)!r} was trained from shards, whose parts are no table: name rows to score by "
            "--data or --questions."
        )
    if any(IN_MEMORY.fullmatch(name) for name in arguments.data or ()):
        raise ValueError(
            f"The run in {str(folder)!r} was trained on rows in memory, which no file holds: name rows by --data."
        )
    with tempfile.TemporaryDirectory() as log_dir:  # of rows that are left out, the run has its own list
        return load_data(arguments, log_dir=log_dir, **label_arguments(folder))


def run_part(folder: str | Path, part: str) -> tuple[Dataset, str | None, list[str]]:
    """
    The rows of a part of a run's data, the name of its data set, and what a reader of their scores should know
    (sentences).

    Args:
        part (`str`): one of `PARTS`.

    Raises:
        ValueError: for a part that the run has not, and as `run_rows`.
    """
    data = run_rows(folder)
    if part == "test" and data.scored_on != "test":
        raise ValueError(
            f"The run in {str(folder)!r} had no test rows: it was scored on what was held out, which is --part "
            "validation."
        )
    rows = {"train": data.train, "validation": data.validation, "test": data.scored}[part]
    remarks = []
    if part == "train":
        remarks.append("These are the rows that the model was trained on: the scores say nothing about others.")
    elif part == "validation" and not data_arguments(folder).has_eval_part:
        remarks.append("On these rows the best epoch was chosen, so the scores are a little too good.")
    predictions = run_folder(folder) / PREDICTIONS
    if part == data.scored_on and predictions.is_file():
        then = {str(row["question_id"]) for row in read_predictions(predictions)}
        now = set(map(str, rows["question_id"][:]))
        if then != now:
            remarks.append(
                f"The data have changed since the training: {len(then - now):,} of the {len(then):,} rows that it was "
                f"scored on are no longer in this part, and {len(now - then):,} are new, which it may have been "
                "trained on."
            )
    return rows, ((data.understood or {}).get("train") or {}).get("source"), remarks


def trained_on(folder: str | Path, rows: Dataset) -> dict | None:
    """
    How many of the rows the model in a folder was trained on, told by the pictures' bytes and the questions' words,
    and by whatever else a row has.

    Returns:
        `dict`: `rows` (the same picture and question), `pictures` (that it was trained on with any question), of
        `of_rows` and `of_pictures`; or `unknown`, a reason. None for a folder without a run.
    """
    if run_folder(folder) is None:
        return None
    try:
        train = run_rows(folder).train
    except (ValueError, OSError, ImportError, TypeError) as error:
        return {"unknown": first_line(error)}
    files = [path for part in (rows, train) for paths in paths_in(part).values() for path in paths]
    picture = copies(files)
    seen = {*cell_keys(train, picture)}
    keys, paths = cell_keys(rows, picture), {picture[path] for path in rows["image"][:] if path}
    of_train = {picture[path] for path in train["image"][:] if path}
    return {
        "rows": sum(key in seen for key in keys),
        "of_rows": len(rows),
        "pictures": len(paths & of_train),
        "of_pictures": len(paths),
    }


def describe_trained_on(found: dict | None) -> str | None:
    """A sentence for whoever reads the scores; None where there is nothing to say."""
    if found is None or (found.get("unknown") is None and not found["rows"] and not found["pictures"]):
        return None
    if found.get("unknown") is not None:
        return f"Whether the model was trained on these rows cannot be told: {found['unknown']}"
    return (
        f"WARNING: the model was trained on {found['rows']:,} of these {found['of_rows']:,} rows (alike in all that a "
        f"model sees), and on {found['pictures']:,} of their {found['of_pictures']:,} pictures: the scores are not "
        "those of unseen ones."
    )
