"""Where a recipe's questions, answers and images come from, and what of them is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from configuration_ume.values import pairs
from modeling_ume.modalities_ume import ALL, inputs_known
from modeling_ume.stored_ume import nearest

# Fields that are a mapping: `--columns image=img_name answer=label`.
PAIRS = ("columns", "where")
# Fields that say where data of a known layout lie; `data` takes the place of all of them.
OF_THE_LAYOUT = {
    "source", "train_questions", "train_annotations", "train_images", "train_image_pattern", "eval_questions",
    "eval_annotations", "eval_images", "eval_image_pattern", "dataset_name", "dataset_config",
}  # fmt: skip
# Fields that several runs may differ in and still be scored on the same rows.
SWEPT = {
    "top_k_answers", "min_answer_count", "inputs", "max_question_length", "group_by_image", "bucket_by_length",
    "max_train_questions",
}  # fmt: skip
# Sources that `data` is not for: they have their own place, or are one.
WITHOUT_DATA = ("easy_vqa", "hub", "stream")
# Sources with fields of their own; all others are layouts of a table, or tables that are made.
OWN_FIELDS = (*WITHOUT_DATA, "vqa_v2")
# Of the pictures of a single table, held out to choose the epoch where nothing else is said.
HELD_OUT = 0.15


@dataclass
class DataArguments:
    """Where questions, answers and images come from, and what of them is used."""

    _argument_group_name = "data"

    data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Your own table, one file or several: csv, tsv, jsonl, json, parquet, a folder, or a Hub name. "
            "Which column is what is found out, and printed before training."
        },
    )
    images: str | None = field(
        default=None,
        metadata={
            "help": "Folder that the table's names of images, sounds and other files start from (left out: the "
            "table's own)."
        },
    )
    files: str | None = field(default=None, metadata={"help": "The same as images, where the files are none."})
    columns: dict | str | None = field(
        default=None,
        metadata={
            "help": "Which column of `data` is what, where that is not clear: image=img_name question=sentence "
            "answer=label audio=wav table=area,rooms series=ecg,speed …"
        },
    )
    where: dict | str | None = field(
        default=None,
        metadata={"help": "Rows of `data` to keep, by column: q_lang=en; of a column named twice, both values."},
    )
    eval_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rows to validate on, in the same layout as `data`; with validation_fraction, to score once at "
            "the end instead."
        },
    )
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "Column of `data` whose values do not stand on both sides of the split, for example patient; or "
            "image, audio …, whose files alone then do not (left out: no file stands on both sides)."
        },
    )
    source: str | None = field(
        default=None,
        metadata={
            "help": "Without `data`, vqa_v2 (the default): files in VQA v2's layout; easy_vqa: the pip package of "
            "that name; hub: a dataset with VQAv2's columns; stream: what `ume shard` wrote, read while training. "
            "With `data`, the layout of a known data set, such as slake or gqa (left out: found out)."
        },
    )
    train_questions: str | None = field(
        default=None, metadata={"help": "Questions JSON (plain, .gz or inside the official .zip)."}
    )
    train_annotations: str | None = field(default=None, metadata={"help": "Annotations JSON with the answers."})
    train_images: str | None = field(default=None, metadata={"help": "Folder with the images."})
    train_image_pattern: str | None = field(
        default=None,
        metadata={
            "help": "File name of an image, for example COCO_train2014_{image_id:012d}.jpg (needs train_images)."
        },
    )
    eval_questions: str | None = field(
        default=None,
        metadata={"help": "Questions to validate on; with validation_fraction, to score once at the end instead."},
    )
    eval_annotations: str | None = field(default=None, metadata={"help": "Their answers."})
    eval_images: str | None = field(default=None, metadata={"help": "Folder with their images."})
    eval_image_pattern: str | None = field(default=None, metadata={"help": "File name of an image to validate on."})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub dataset, or a folder that `datasets.load_dataset` reads; for stream, a folder with shards or "
            "a Hub dataset made of one."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration, where it has several."})
    train_split: str = field(
        default="train", metadata={"help": "Split to train on, of a Hub dataset or of `data` that has splits."}
    )
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "Split to validate on, of a Hub dataset or of `data` that has splits; with validation_fraction, "
            "to score once at the end instead (left out: of a Hub dataset validation, or with validation_fraction "
            "none)."
        },
    )
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training images, with all their questions, to hold out for validation. The best "
            "epoch is chosen on them; test data, where there is any, is then scored once, at the end. (Left out, with "
            f"`data` and nothing to validate on: {HELD_OUT}.)"
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that split; the same for every training seed."})
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "A missing image and the like: raise stops, skip leaves the question out, counts and logs it."
        },
    )
    top_k_answers: int | None = field(default=None, metadata={"help": "Keep the K most frequent answers …"})
    min_answer_count: int | None = field(
        default=None, metadata={"help": "… or those given to this many questions or more; neither: all."}
    )
    inputs: Literal[inputs_known()] = field(
        default=ALL, metadata={"help": "What the model gets to see: all there is, or one column."}
    )
    max_question_length: int | None = field(
        default=None, metadata={"help": "Longest question in tokens; the rest is cut off."}
    )
    group_by_image: bool = field(
        default=True, metadata={"help": "Put questions about the same image into the same batch: it is encoded once."}
    )
    bucket_by_length: bool = field(
        default=False,
        metadata={
            "help": "Put images whose questions are of similar length into the same training batch: less padding, but "
            "batches that are a little more alike."
        },
    )
    image_cache_mb: int = field(
        default=0,
        metadata={"help": "Keep processed images in memory up to this size; worth it where all fit (easy-VQA: 250)."},
    )
    max_train_questions: int | None = field(
        default=None, metadata={"help": "Train on the first so many questions only, for a trial."}
    )
    max_eval_questions: int | None = field(
        default=None, metadata={"help": "Validate on the first so many questions only."}
    )

    def __post_init__(self) -> None:
        if self.source is None and self.data is None:
            self.source = "vqa_v2"
        self._check_table()
        if self.is_table:
            pass
        elif self.source == "vqa_v2":
            # Blind training never opens an image, so it needs no folder.
            needed = (
                ["questions", "annotations"] if self.inputs == "question" else ["questions", "annotations", "images"]
            )
            for name in needed:
                if getattr(self, f"train_{name}") is None:
                    raise ValueError(f"source=vqa_v2 needs train_{name}: give the path as `--train_{name} PATH`.")
            missing = [f"eval_{name}" for name in needed if getattr(self, f"eval_{name}") is None]
            if self.validation_fraction is None and missing:
                raise ValueError(
                    f"There is nothing to validate on: give {', '.join(missing)}, or a validation_fraction of the "
                    "training images to hold out."
                )
            if 0 < len(missing) < len(needed):
                raise ValueError(f"The eval_* files to score are incomplete: give {', '.join(missing)} too, or none.")
        if self.source == "hub" and self.dataset_name is None:
            raise ValueError("source=hub needs dataset_name: the name of a Hub dataset with VQAv2's columns.")
        if self.source == "stream" and self.dataset_name is None:
            raise ValueError(
                "source=stream needs dataset_name: the folder that `ume shard` wrote, or a name on the Hub."
            )
        if self.source == "stream" and self.bucket_by_length:
            raise ValueError("bucket_by_length contradicts source=stream, whose questions are not known beforehand.")
        if self.source == "stream" and not self.group_by_image:
            raise ValueError(
                "group_by_image=false contradicts source=stream, where an image comes once, with all its questions."
            )
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} is impossible: it lies between 0 and 1.")
        if self.top_k_answers is not None and self.min_answer_count is not None:
            raise ValueError(
                "top_k_answers and min_answer_count are both given: the vocabulary is cut by one of them. Empty the "
                "other (`--top_k_answers null` or `--min_answer_count null`)."
            )
        for name in ("top_k_answers", "min_answer_count", "max_train_questions", "max_eval_questions"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: give 1 or more, or leave it out.")
        if self.source == "hub" and self.eval_split is None and self.validation_fraction is None:
            self.eval_split = "validation"

    def _check_table(self) -> None:
        if self.files is not None:
            if self.images not in (None, self.files):
                raise ValueError(
                    f"images={self.images!r} and files={self.files!r} are two names of one folder: give one of them."
                )
            self.images, self.files = self.files, None
        for name in ("data", "eval_data"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        for name in PAIRS:
            if isinstance(getattr(self, name), str):
                setattr(self, name, pairs(name, [getattr(self, name)]))
        if self.data is not None and self.source in WITHOUT_DATA:
            raise ValueError(
                f"source={self.source!r} contradicts data, which is read from where it lies: leave source out "
                "(`--source null`), or name a layout such as slake."
            )
        hint = "" if self.data is not None or not self.is_table else nearest(self.source, OWN_FIELDS)
        if hint:
            raise ValueError(f"source={self.source!r} is not known.{hint}")
        if self.is_table:
            foreign = [name for name in sorted(OF_THE_LAYOUT - {"source", "dataset_config"}) if getattr(self, name)]
            if foreign:
                given = "data" if self.data is not None else f"source={self.source!r}"
                raise ValueError(f"{', '.join(foreign)} and {given} are both given: leave one of them out.")
            return
        for name in ("images", "columns", "where", "eval_data", "split_by"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is about a table of your own: give it with --data FILE.")

    @property
    def is_table(self) -> bool:
        """Whether rows are those of `load_rows`: of a table, or of a source that has a place of its own."""
        return self.data is not None or self.source not in OWN_FIELDS

    @property
    def held_out(self) -> float | None:
        """The share of the training images to validate on: with a single table, some are held out in any case."""
        if self.is_table and self.validation_fraction is None and not self.has_eval_part:
            return HELD_OUT
        return self.validation_fraction

    @property
    def has_eval_part(self) -> bool:
        """Whether there is data beside the training part: to validate on, or, with a validation_fraction, to test."""
        if self.is_table:
            return self.eval_data is not None or self.eval_split is not None
        given = {"easy_vqa": True, "vqa_v2": self.eval_questions is not None, "hub": self.eval_split is not None}
        return given[self.source]
