"""From a table to a trained model in Python: `ume.train(rows, …)` gives a `Run`, which asks, scores, draws, publishes.

The same objects work underneath as under `ume train`: a recipe, `train_and_evaluate`, a folder with results.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import PretrainedConfig

from configuration_ume.data_arguments import PAIRS
from configuration_ume.parsing import make_recipe
from configuration_ume.scores import written
from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor, UMEVQAPipeline
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.data.inputs import lacked_by_all
from training_ume.data.rows import FEATURES
from training_ume.data.tables.load import load_rows, understand
from training_ume.evaluation.evaluate import evaluate_checkpoint
from training_ume.evaluation.load import load_checkpoint
from training_ume.hub.publish import publish
from training_ume.records.files import read_json
from training_ume.records.packages import need_matplotlib
from training_ume.report.run_plot import draw_runs
from training_ume.report.subsets import plot_subsets
from training_ume.training.parts import data_arguments, run_part
from training_ume.training.run import train_and_evaluate

OWN_TABLE = "own_table"
# What says how a table is read: of tables that are in memory they are used here, of paths by the recipe.
READING = ("source", "images", *PAIRS)
PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def train(
    data: Any = None,
    *,
    text: str | os.PathLike | Mapping | PretrainedConfig | None = None,
    vision: str | os.PathLike | Mapping | PretrainedConfig | None = None,
    output_dir: str | os.PathLike | None = None,
    recipe: str | os.PathLike | Mapping | None = None,
    **fields: Any,
) -> Run:
    """
    Trains a model on a table and scores it, as `ume train` does.

    ```python
    import ume

    rows = ume.load_rows("own.csv", images="pictures")
    run = ume.train(rows, output_dir="runs/own")
    run.scores
    run.ask("pictures/1.jpg", "how many chairs?")
    ```

    Args:
        data: rows of `load_rows`, or whatever that takes: a path, several, a frame, a list of dicts, a `Dataset`; or a
            `DatasetDict` (a dict) of `train`, and of `validation` and `test` where there are any. Left out, the data
            are those of the recipe.
        text: the question encoder: a Hub name or a folder; or the config of a new one, which begins untrained. Left
            out, the recipe's.
        vision: the image encoder, likewise.
        audio, video, series, table: those of sounds, films, series and table rows, likewise.
        output_dir (path, *optional*): where the model and results.json are written; defaults to the recipe's.
        recipe (*optional*): a YAML file, the name of a shipped recipe, or fields as a dict; defaults to `own_table`.
        fields: any field of a recipe by its name (`ume train own_table --help` lists them): `fusion="concat"`,
            `num_train_epochs=3`, `images="pictures"`, `columns={"answer": "label"}` …. None empties a field. Of
            several values, as in `learning_rate=[1e-3, 2e-3]`, each is trained.

    Returns:
        `Run`: what was trained.

    Raises:
        ValueError: for an output folder that is not empty (`resume_from_checkpoint=True` goes on there,
            `overwrite_output=True` begins anew), fields that there are not or that contradict, and a table that cannot
            be used.
    """
    if recipe is None:
        if data is None and "data" not in fields:
            raise ValueError(
                "There is nothing to train on: give rows, a path or a frame, or a recipe that names data."
            )
        recipe = OWN_TABLE
    encoders = {"text": text, "vision": vision, **{name: fields.pop(name) for name in MODALITIES if name in fields}}
    changes = {}
    for name, given in encoders.items():
        said = _encoder(MODALITIES[name], given)
        twice = [field for field in said if fields.get(field) is not None and field.startswith(f"{name}_")]
        if twice:
            raise ValueError(f"{' and '.join(twice)} and {name} are both given: leave one of them out.")
        changes |= said
    changes |= {name: value for name, value in fields.items() if name not in changes or value is not None}
    if output_dir is not None:
        changes["output_dir"] = os.fspath(output_dir)
    parts, understood = None, {}
    if _is_paths(data):
        changes["data"] = data if isinstance(data, list | tuple) else [os.fspath(data)]
        others = changes.get("eval_data")
        if others is not None and not _is_paths(others):
            raise ValueError(
                f"eval_data is a {type(others).__name__} and data a path: give two paths, or load both with load_rows."
            )
    elif data is not None:
        reading = {name: changes.pop(name) for name in READING if changes.get(name) is not None}
        reading |= _numbers(recipe, changes)
        parts = _parts(data, reading, understood)
        others = changes.pop("eval_data", None)
        if others is not None:  # as the recipe's field: to validate on, or with a share held out to score at the end
            name = "validation" if changes.get("validation_fraction") is None else "test"
            if name in parts:
                raise ValueError(f"eval_data and {name} of the dict of data are both given: leave one of them out.")
            parts[name] = _rows(others, reading, understood, name)
        # Stands in the run's arguments: rows that are others begin another run.
        changes["data"] = [f"{name}: {len(rows):,} rows in memory, {_digest(rows)}" for name, rows in parts.items()]
    made = make_recipe(recipe, changes, several=True)
    train_and_evaluate(made, parts, understood)
    return load_run(made.training.output_dir)


def load_run(folder: str | os.PathLike) -> Run:
    """
    A training that is finished, from its folder.

    Raises:
        ValueError: for a folder without its results.json.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}: give the output_dir of a training.")
    if read_json(folder / "results.json") is None:
        raise ValueError(
            f"{str(folder)!r} holds no results.json, so no training was finished there: give the output_dir of one, "
            "or go on with resume_from_checkpoint=True."
        )
    return Run(folder)


class Run:
    """
    A training that is finished; see `train` and `load_run`.

    Args:
        folder (`Path`): its output folder.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.results: dict = read_json(self.folder / "results.json")

    def __repr__(self) -> str:
        if not self.is_one:
            return f"Run({str(self.folder)!r}, of {len(self.results['runs'])} runs)"
        first = self.scores.get("measured_by", "vqa_accuracy")
        return f"Run({str(self.folder)!r}, {self.results['name']}, {first} {written(first, self.scores[first])})"

    @property
    def is_one(self) -> bool:
        """Whether it is a single training: of several seeds or values, each has a folder of its own."""
        return "scores" in self.results

    @property
    def runs(self) -> list[Run]:
        """Each training by itself, in the order of the comparison."""
        folders = self.results.get("runs")
        return [self] if folders is None else [Run(self.folder / name) for name in folders]

    @property
    def best(self) -> Run:
        """
        Of several values, the training that was the best on the validation questions.

        Raises:
            ValueError: of several seeds, which are no choice.
        """
        if self.is_one:
            return self
        best = self.results.get("best")
        if best is None:
            raise ValueError(f"{self.folder} holds {len(self.results['runs'])} runs: choose one of `run.runs`.")
        return next(run for run in self.runs if run.results["name"] == best["name"])

    @property
    def scores(self) -> dict:
        """The scores of the test questions, or of those that chose the epoch (`results["scored_on"]`), in percent."""
        return self.best.results["scores"]

    @cached_property
    def _loaded(self) -> tuple[UMEForVisualQuestionAnswering, UMEProcessor]:
        # A head of one's own that was trained here is one's own code.
        return load_checkpoint(str(self.best.folder), trust_remote_code=True)

    @property
    def model(self) -> UMEForVisualQuestionAnswering:
        """The model, in eval mode."""
        return self._loaded[0]

    @property
    def processor(self) -> UMEProcessor:
        return self._loaded[1]

    @cached_property
    def _pipeline(self) -> UMEVQAPipeline:
        return UMEVQAPipeline(model=self.model, processor=self.processor, device=self.model.device)

    def ask(self, image=None, question: str | Sequence[str] | None = None, top_k: int = 3, **parts):
        """
        The best answers to a question about an image; of a model of other modalities, to what there is of them.

        ```python
        run.ask("1.jpg", "how many chairs?")
        run.ask(image="1.jpg", table={"bedrooms": 3, "area": 120.0})
        run.ask(audio="three.wav")
        ```

        Args:
            image: a path, an address or a PIL image.
            question: one, or several.
            top_k (`int`): how many answers.
            parts: what there is of other modalities, by their names; any may be left out. And other options of
                `UMEVQAPipeline`, as `candidate_labels` and `min_probability`.

        Returns:
            Dicts of `answer` and `score`, its probability, the best first; for several questions a list of these each.
            Of numbers, dicts of `answer`, the number in its unit, and its `name`.

        Raises:
            ValueError: for what the model does not read, or cannot be read.
        """
        options = {name: parts.pop(name) for name in ("candidate_labels", "min_probability") if name in parts}
        given = {"image": image, "question": question, **parts}
        given = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in given.items()}
        options["top_k"] = min(top_k, self.model.config.num_labels)
        image, asked, parts = (given.pop("image"), given.pop("question"), given)
        asked = asked if asked is None or isinstance(asked, str) else list(asked)
        if not self._pipeline.asks_about_images or not (image is None or asked is None or parts):
            return self._pipeline(image, asked, **options, **parts)
        rows = [{"image": image, "question": one, **parts} for one in (asked if isinstance(asked, list) else [asked])]
        answers = self._pipeline.answer(rows, **options)
        return answers if isinstance(asked, list) else answers[0]

    def evaluate(self, data: Any, **options) -> dict:
        """
        Scores the model on other rows.

        Args:
            data: rows of `load_rows`, or whatever that takes.
            options: those of `load_rows` (`images`, `columns` …) and of `evaluate_checkpoint` (`batch_size` …).

        Returns:
            `dict`: see `evaluate_checkpoint`; `scores` among it.
        """
        reading = {name: options.pop(name) for name in (*READING, "split") if name in options}
        options = {"trust_remote_code": True, **options}
        reading |= {} if PROBLEM_TYPES[self.model.config.problem_type].chooses else {"numbers": True}
        rows = _rows(data, reading, {}, "rows")
        return evaluate_checkpoint(str(self.best.folder), rows, **{"may_lack": lacked_by_all(rows), **options})

    def subsets(self, data: Any = None, plot: str | os.PathLike | None = None, **options) -> dict:
        """
        What each modality is worth: scores the model on every non-empty subset of its modalities.

        Args:
            data: as `evaluate` takes it; left out, the rows that the run was scored on.
            plot (*optional*): a PNG file to draw.
            options: those of `evaluate`.

        Returns:
            `dict`: see `score_subsets`.

        Raises:
            ValueError: for rows without answers, and where the run's own are not to be had.
            ImportError: for a plot without matplotlib.
        """
        if plot is not None:
            need_matplotlib()
        if data is None:
            data = run_part(self.best.folder, self.best.results["scored_on"])[0]
            own = data_arguments(self.best.folder)
            options = {"max_question_length": own.max_question_length, **options}
        found = self.evaluate(data, subsets=True, **options)["subsets"]
        if plot is not None:
            plot_subsets(found, plot)
        return found

    def plot(self, path: str | os.PathLike | None = None):
        """
        Draws the losses and the scores over the epochs; of several trainings, all of them.

        Args:
            path (*optional*): a PNG file to write.

        Returns:
            A PIL image, which a notebook shows; with `path` that path.

        Raises:
            ImportError: without matplotlib.
        """
        return draw_runs({run.results["name"]: run.results for run in self.runs}, path)

    def publish(
        self, repo: str, *, about: str | os.PathLike | Mapping | None = None, dry_run: bool = False, **options
    ):
        """
        Puts the model with its card on the Hub.

        Args:
            repo (`str`): `OWNER/NAME`.
            about: what only a person can say, as a YAML file or a dict: at least the `license`, which a dry run does
                without.
            dry_run (`bool`): check and show everything; write and upload nothing.
            options: others of `training_ume.hub.publish.publish`, as `private`.

        Returns:
            `str`: the address of the commit; None of a dry run.

        Raises:
            ValueError: see `publish`.
        """
        options.setdefault("confirm", lambda question: True)  # to call it says so
        folder = self.best.folder
        if about is None and dry_run and not (folder / "README.md").is_file():
            print("No licence is said: this dry run writes `unknown`; give about={'license': …} to publish.")
            about = {"license": "unknown"}
        if not isinstance(about, Mapping):
            return publish(folder, repo, about=about, dry_run=dry_run, **options)
        with tempfile.TemporaryDirectory(prefix="ume-about-") as scratch:
            file = Path(scratch) / "about.yaml"
            file.write_text(yaml.safe_dump(dict(about), allow_unicode=True), encoding="utf-8")
            return publish(folder, repo, about=file, dry_run=dry_run, **options)


def _encoder(kind: Modality, given: Any) -> dict[str, Any]:
    """The fields that say a modality's encoder, those of the other kind emptied."""
    if given is None:
        return {}
    name = kind.name
    model, config, revision = f"{name}_model", f"{name}_config", f"{name}_revision"
    if isinstance(given, str | os.PathLike):
        return {model: os.fspath(given), config: None, revision: None}
    if isinstance(given, PretrainedConfig):
        settings = {"model_type": given.model_type, **given.to_diff_dict()}
        given = {name: value for name, value in settings.items() if name not in ("transformers_version", "dtype")}
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} is a {type(given).__name__}: give a Hub name, a folder, or a config.")
    given = dict(given)
    return {
        config: given, model: None, revision: None, f"freeze_{name}": False,
        **dict.fromkeys(kind.of_recipe), **kind.new_fields(given),
    }  # fmt: skip


def _is_paths(data: Any) -> bool:
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(item, str | os.PathLike) for item in data)
    return isinstance(data, str | os.PathLike)


def _rows(data: Any, reading: Mapping[str, Any], understood: dict[str, dict], part: str) -> Dataset:
    """Rows as they are, and those of any other table; what that is taken for is put into `understood`."""
    is_rows = isinstance(data, Dataset) and set(FEATURES) <= set(data.column_names)
    if is_rows and not reading.keys() - {"numbers"} and data.features["image"].dtype == "string":
        return data
    found = understand(data, **reading)
    understood[part] = found.as_dict()
    print(found.table(), flush=True)
    return load_rows(data, **reading)


def _parts(data: Any, reading: Mapping[str, Any], understood: dict[str, dict]) -> dict[str, Dataset]:
    # A dict without a part's name is a table, of its columns.
    if not isinstance(data, Mapping) or not any(name in PARTS for name in data):
        return {"train": _rows(data, reading, understood, "train")}
    unknown = [str(name) for name in data if name not in PARTS]
    if unknown or "train" not in data:
        what = f"has {', '.join(unknown)}" if unknown else "has no train"
        raise ValueError(f"A dict of data {what}: its names are train, and validation and test where there are any.")
    return {PARTS[name]: _rows(part, reading, understood, PARTS[name]) for name, part in data.items()}


def _numbers(recipe: Any, changes: Mapping[str, Any]) -> dict[str, bool]:
    """What `load_rows` is told where a recipe with these changes learns numbers."""
    told = {name: value for name, value in changes.items() if name != "eval_data"}
    made = make_recipe(recipe, {**told, "data": ["rows"]}, several=True)
    return {} if PROBLEM_TYPES[made.model.problem_type].chooses else {"numbers": True}


def _digest(rows: Dataset) -> str:
    """What rows are known by: what they ask, show and answer."""
    digest = hashlib.sha256()
    columns = [rows[name][:] for name in ("question", "image", "answers")]
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
    return digest.hexdigest()[:16]
