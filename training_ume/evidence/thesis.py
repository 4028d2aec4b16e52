"""The thesis, row by row: its 17 models as recipes, run on VQA v2 or a sample of it, and its figures beside ours.

`reproduce` trains the rows that are asked for and puts each into one results file once it is finished. Encoders that
cannot be had are replaced only where that was asked for, and such rows say so for good.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from configuration_ume.arguments import Recipe
from configuration_ume.parsing import parse_recipe
from configuration_ume.thesis_rows import OFFICIAL, ROWS, THESIS, Row
from training_ume.records.files import read_json, write_json
from training_ume.records.run_folder import NOT_COMPARED, Run, check_same_arguments, run_arguments
from training_ume.training.run import plan_runs, train_and_evaluate

# The order in which the thesis adds its parts to LSTM × VGG: each head, and what it is there.
STEPS = {
    "concat": "Concatenation",
    "product": "Element Wise Product",
    "cross_attention": "Cross-Modal Attention",
    "evc": "+ Efficient Vector Combination",
    "ume": "+ Adaptive Weighted Summation",
}

# Tiny encoders with random weights, of the same families. A new LSTM is what the thesis has, so it needs none.
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY_TEXT = {"max_position_embeddings": 40, **TINY}

STAND_INS = {
    "bert": {"model_type": "bert", **TINY_TEXT},
    "roberta": {"model_type": "roberta", **TINY_TEXT},
    "deberta_v3": {
        "model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", **TINY_TEXT,
    },
    "vgg": {"model_type": "ume_vgg", "hidden_sizes": [8, 8, 16, 16, 16], "fc_size": 64},
    "vit": {"model_type": "vit", "patch_size": 16, **TINY},
    "beit": {"model_type": "beit", "patch_size": 16, **TINY},
}  # fmt: skip

STAND_IN_IMAGE_SIZE = 64

# The official files by the recipe's fields: the downloads, or what is in them.
OFFICIAL_FILES = {
    "train_questions": ("v2_Questions_Train_mscoco.zip", "v2_OpenEnded_mscoco_train2014_questions.json"),
    "train_annotations": ("v2_Annotations_Train_mscoco.zip", "v2_mscoco_train2014_annotations.json"),
    "train_images": ("train2014",),
    "eval_questions": ("v2_Questions_Val_mscoco.zip", "v2_OpenEnded_mscoco_val2014_questions.json"),
    "eval_annotations": ("v2_Annotations_Val_mscoco.zip", "v2_mscoco_val2014_annotations.json"),
    "eval_images": ("val2014",),
}

SAMPLE_FILES = {
    "train_questions": ("train_questions.json",),
    "train_annotations": ("train_annotations.json",),
    "train_images": ("images",),
}

SAMPLE_VALIDATION = 0.2  # of a sample's images, which has no validation part of its own

# What the rows, the data and the encoders decide.
DECIDED = {
    "source", "inputs", "fusion", "text_model", "text_config", "text_revision", "tokenizer", "vision_model",
    "vision_config", "vision_revision", "output_dir", "beside", "seeds", "resume_from_checkpoint", "overwrite_output",
    "init_from",
    *OFFICIAL_FILES, "train_image_pattern", "eval_image_pattern",
}  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """Where the questions come from: a name for the results, and the recipe's fields as command-line arguments."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One row to run on one data set: the recipe as shipped, the same as it is run, and its single run."""

    row: Row
    data_set: str
    shipped: Recipe
    recipe: Recipe

    @property
    def run(self) -> Run:
        return plan_runs(self.recipe)[0]

    @property
    def stand_in(self) -> bool:
        return any(self.is_stand_in(modality) for modality in self.shipped.model.modalities)

    def is_stand_in(self, modality: str) -> bool:
        name = f"{modality}_model"
        return getattr(self.recipe.model, name) is None and getattr(self.shipped.model, name) is not None

    @property
    def key(self) -> tuple:
        return self.data_set, self.row.name, self.stand_in

    def finished(self) -> dict | None:
        """The results of the run, if it is finished; ValueError if it was begun with other arguments."""
        check_same_arguments(self.run, run_arguments(self.run, self.recipe))
        results = read_json(self.run.folder / "results.json")
        return results if results is not None and "scores" in results else None


# ------------------------------------------------------------------------------------------------------------- rows


def choose_rows(names: Iterable[str] | None) -> list[Row]:
    """
    The rows of some names: of a row (`lstm_vgg/evc`) or a pair (`bert_vit`); all where none are given.

    Raises:
        ValueError: for a name that is neither.
    """
    if names is None:
        return list(ROWS.values())
    chosen = set()
    for name in names:
        found = [row.name for row in ROWS.values() if name in (row.name, row.pair)]
        if not found:
            pairs = dict.fromkeys(row.pair for row in ROWS.values())
            raise ValueError(
                f"The thesis has no row {name!r}: choose a pair ({', '.join(pairs)}) or a row ({', '.join(ROWS)})."
            )
        chosen.update(found)
    return [row for row in ROWS.values() if row.name in chosen]


def find_data(folder: Path) -> DataSet:
    """
    VQA v2's official files in a folder, or a sample's: `train_questions.json`, `train_annotations.json`, `images`.

    Raises:
        ValueError: when there is no folder or something is missing from it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: give the one with VQA v2's files, or with a sample of them.")
    sample, _ = _find(folder, SAMPLE_FILES)
    if sample is not None:
        name = Path(os.path.abspath(folder)).name
        if _folder_name(name) == _folder_name(OFFICIAL):
            raise ValueError(
                f"{folder} holds a sample, but is named as the whole of {OFFICIAL}, which its results would then be "
                "taken for: give the folder another name."
            )
        # Samples have their own file names of images, which are found by the ids.
        split = ["--train_image_pattern", "null", "--eval_image_pattern", "null"]
        return DataSet(name, (*sample, *split, "--validation_fraction", str(SAMPLE_VALIDATION)))
    official, missing = _find(folder, OFFICIAL_FILES)
    if official is None:
        sample_names = ", ".join(name for (name,) in SAMPLE_FILES.values())
        raise ValueError(
            f"{folder} lacks of {OFFICIAL}: {', '.join(missing)}. Put the files there, or give a folder with a sample "
            f"({sample_names})."
        )
    return DataSet(OFFICIAL, tuple(official))


def _find(folder: Path, files: dict[str, tuple[str, ...]]) -> tuple[list[str] | None, list[str]]:
    arguments, missing = [], []
    for field, names in files.items():
        there = [folder / name for name in names if (folder / name).exists()]
        if there:
            arguments += [f"--{field}", str(there[0])]
        else:
            missing.append(" or ".join(names))
    return (None if missing else arguments), missing


def _folder_name(data_set: str) -> str:
    return data_set.lower().replace(" ", "_")


def parse_encoders(given: Iterable[str]) -> dict[str, str]:
    """
    `["bert=FOLDER", …]` as a dict.

    Raises:
        ValueError: for another form, an encoder that no row has, or a folder that is not there.
    """
    encoders = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if name not in STAND_INS or not equals:
            raise ValueError(f"{text!r} names no encoder: write NAME=FOLDER with one of {', '.join(STAND_INS)}.")
        if not Path(folder).is_dir():
            raise ValueError(f"There is no folder {folder!r} for the encoder {name}: give one that holds a model.")
        encoders[name] = folder
    return encoders


def make_jobs(
    rows: list[Row],
    data: DataSet,
    output_dir: Path,
    *,
    stand_ins: bool = False,
    encoders: dict[str, str] | None = None,
    fields: Iterable[str] = (),
) -> list[Job]:
    """
    What to train for some rows.

    Args:
        rows: see `choose_rows`.
        data: see `find_data`.
        output_dir: each row is trained in a folder of its own below it.
        stand_ins (`bool`): replace every encoder that `encoders` does not name by a tiny one with random weights, with
            images of 64 pixels and one epoch.
        encoders: folders of pretrained encoders to take instead of the recipes' own, by the names of `STAND_INS`.
        fields: changes to all recipes, as on the command line of `ume train`.

    Raises:
        ValueError: for a field that is decided here, or an encoder that none of the rows has.
    """
    encoders, fields = encoders or {}, list(fields)
    for field in fields:
        name = field.removeprefix("--").partition("=")[0].replace("-", "_")
        if field.startswith("--") and name in DECIDED:
            raise ValueError(f"{field} cannot be given here: the rows, the data and the encoders decide it.")
    unread = [name for name in encoders if not any(name in (row.text, row.vision) for row in rows)]
    if unread:
        raise ValueError(f"No row that is to be run has the encoder {unread[0]}: leave it out, or choose other rows.")
    jobs = []
    for row in rows:
        common = [row.recipe, "--fusion", row.fusion, *data.arguments, "--resume_from_checkpoint", "true"]
        changes, replaced = [], False
        for modality, name in (("text", row.text), ("vision", row.vision)):
            if name in encoders:
                changes += [f"--{modality}_model", encoders[name]]
            elif stand_ins and name in STAND_INS:
                replaced = True
                changes += [f"--{modality}_model", "null", f"--{modality}_config", json.dumps(STAND_INS[name])]
                size = str(STAND_IN_IMAGE_SIZE)
                changes += ["--tokenizer", "words"] if modality == "text" else ["--image_size", size]
        if replaced:
            changes += ["--num_train_epochs", "1"]
        folder = output_dir / ("stand_ins" if replaced else "") / _folder_name(data.name) / row.name
        shipped = parse_recipe(common)
        recipe = parse_recipe([*common, *changes, *fields, "--output_dir", str(folder)])
        jobs.append(Job(row, data.name, shipped, recipe))
    return jobs


# ---------------------------------------------------------------------------------------------------------- running


def reproduce(jobs: list[Job], out: Path, *, overwrite: bool = False) -> dict:
    """
    Trains what is not finished yet, in the order of the jobs, and adds each row to `out` as soon as it is there.

    Args:
        out: JSON file; its rows of other jobs, also of other data sets, stay as they are.
        overwrite (`bool`): replace rows of `out` that come from another run of the same job.

    Returns:
        `dict`: what `out` holds in the end: `rows`, see `result_row`.

    Raises:
        ValueError: when `out` is no such file or holds another run's row, or a run was begun with other arguments;
            and whatever `train_and_evaluate` refuses. Nothing is trained before all jobs were looked at.
    """
    written = read_results(out)
    finished = [job.finished() for job in jobs]
    for job, results in zip(jobs, finished, strict=True):
        known = written.get(job.key)
        if known is not None and not overwrite and (results is None or result_row(job, results) != known):
            raise ValueError(
                f"{out} holds {job.row.name} on {job.data_set} from another run: choose another file for this one, or "
                "add --overwrite to replace the row."
            )
    for job, results in zip(jobs, finished, strict=True):
        if results is None:
            results = train_and_evaluate(job.recipe)
        if job.recipe.training.should_save:
            # Read anew: another process may have added rows of other data in the meantime.
            written = read_results(out) | {job.key: json.loads(json.dumps(result_row(job, results)))}
            write_json(out, {"rows": in_order(written)})
    return {"rows": in_order(written)}


def read_results(path: Path) -> dict[tuple, dict]:
    """The rows of a results file by data set, row and whether there is a stand-in; none if there is no file."""
    results = read_json(path)
    if results is None:
        return {}
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise ValueError(f"{path} holds no results of this script: choose another file.")
    return {(row["data_set"], row["row"], row["stand_in"]): row for row in results["rows"]}


def in_order(rows: dict[tuple, dict]) -> list[dict]:
    """VQA v2 first, then other data by name; of each the thesis' order, a real row before its stand-in."""
    places = list(ROWS)
    order = sorted(rows, key=lambda key: (key[0] != OFFICIAL, key[0], places.index(key[1]), key[2]))
    return [rows[key] for key in order]


def result_row(job: Job, results: dict) -> dict:
    """
    A row of the results file.

    Args:
        results: of the run, as `train_and_evaluate` returns them.

    Returns:
        `dict`: `data_set`, `row`, `recipe`, `fusion`, `seed`; `stand_in`: whether an encoder is a tiny random one;
        `encoders` by modality, with `instead_of` where they are not the recipe's own; `changes`: fields that differ
        from the recipe; `scored_on`, `scores` in percent, `baselines`, `data`, seconds, `parameters`, `environment`.
    """
    encoders = {}
    for modality in job.shipped.model.modalities:
        name, wanted = (getattr(recipe.model, f"{modality}_model") for recipe in (job.recipe, job.shipped))
        if name is None:
            facts = {"config": getattr(job.recipe.model, f"{modality}_config")}
        else:
            facts = dict(results["encoders"][modality])
        if name != wanted:
            facts["instead_of"] = wanted
        encoders[modality] = {**facts, "stand_in": job.is_stand_in(modality)}
    copied = ("seed", "scored_on", "baselines", "data", "train_seconds", "train_cpu_seconds", "parameters")
    scores = {key: value for key, value in results["scores"].items() if key != "per_question_type"}
    baselines = {
        name: {metric: of[metric] for metric in ("vqa_accuracy", "exact_match")}
        for name, of in results["baselines"].items()
    }
    return {
        "data_set": job.data_set,
        "row": job.row.name,
        "stand_in": job.stand_in,
        "recipe": job.row.recipe,
        "fusion": job.row.fusion,
        "encoders": encoders,
        "changes": what_changed(job.shipped, job.recipe),
        "scores": scores,
        **{name: results[name] for name in copied},
        "baselines": baselines,
        "environment": results["environment"],
    }


def what_changed(shipped: Recipe, recipe: Recipe) -> dict:
    """The fields whose values differ, without paths, the encoders' names and what does not touch the training."""
    before, after = (
        {**dataclasses.asdict(of.model), **dataclasses.asdict(of.data), **of.training.to_dict()}
        for of in (shipped, recipe)
    )
    left_out = DECIDED | NOT_COMPARED | {"use_cpu"}
    return {name: after[name] for name in after if name not in left_out and after[name] != before[name]}


def steps_table(arenas: dict[str, dict]) -> str:
    """What each part of the thesis adds, step by step: its figures for LSTM × VGG, and ours in arenas.

    Args:
        arenas: by its title, the results of an arena as [`training_ume.evidence.statistics.summarise`] makes them.
    """
    columns = {"the thesis, LSTM × VGG, VQA v2": {head: THESIS[f"lstm_vgg/{head}"] for head in STEPS}}
    for title, results in arenas.items():
        of_heads = {row["fusion"]: row[results["metric"]] for row in results["rows"] if row["name"] in STEPS}
        columns[title] = {head: (of_heads[head]["mean"], of_heads[head]["sd"]) for head in STEPS}
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    previous = None
    for head, title in STEPS.items():
        cells = []
        for scores in columns.values():
            gain = f" ({scores[head][0] - scores[previous][0]:+.1f})" if previous else ""
            cells.append("{:.1f} ± {:.1f}".format(*scores[head]) + gain)
        lines.append(f"| {title} (`{head}`) | {' | '.join(cells)} |")
        previous = head
    return "\n".join([*lines, "", "In percent; in brackets what a step adds to the one above it."])
