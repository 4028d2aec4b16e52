"""From a recipe's data fields to the rows of each part, the answer vocabulary, and the scores without a model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from configuration_ume.arguments import DataArguments
from training_ume.data.answers import AnswerVocabulary, several_spellings
from training_ume.data.load import load_vqa, skipped_entries
from training_ume.data.order import in_image_order
from training_ume.data.pictures import shared_pictures
from training_ume.data.splits import split_by_image
from training_ume.data.streaming import StreamedQuestions, open_shards, write_shards
from training_ume.evaluation.baselines import score_baselines
from training_ume.evaluation.scores import fitting_score

# Arguments that decide which rows and answers shards hold.
SHARDED = (
    "validation_fraction", "split_seed", "top_k_answers", "min_answer_count", "max_train_questions",
    "max_eval_questions",
)  # fmt: skip


@dataclass
class VQAData:
    """What all runs of a recipe share: rows to train on, to choose the epoch on and to score at the end (without test
    data these are the same), the answers, and what was counted on the way."""

    train: Dataset | StreamedQuestions
    validation: Dataset | StreamedQuestions
    scored: Dataset | StreamedQuestions
    scored_on: str  # "test" or "validation"
    vocabulary: AnswerVocabulary
    summary: dict
    baselines: dict[str, dict]
    remarks: dict  # what a reader of the scores should know: spellings taken as one, pictures on both sides

    def parts(self) -> dict[str, Dataset | StreamedQuestions]:
        """All rows that a model sees, by what they are for."""
        return {"train": self.train, "validation": self.validation, "scored": self.scored}


# -------------------------------------------------------------------------------------------------------------- data


def load_data(args: DataArguments, log_dir: str | Path) -> VQAData:
    """
    Loads what to train on, to validate on and to score, the latter two in image order, and chooses the answers.

    With a `validation_fraction` the best epoch is chosen on training images held out, and test data, where the
    recipe has any, is scored once at the end; otherwise the validation questions serve for both.
    Training questions whose most common answer is not among them are left out and counted: with cross-entropy they
    teach nothing, and every model gets the same questions. All this was decided for shards when they were written.
    """
    if args.source == "stream":
        return load_shards(args)
    train = load_split(args, "train", log_dir)
    evaluated = {}  # by name; the last of them is what is scored
    if args.validation_fraction is not None:
        train, evaluated["validation"] = split_by_image(train, args.validation_fraction, args.split_seed)
    if args.has_eval_part:
        evaluated["test" if evaluated else "validation"] = load_split(args, "eval", log_dir)
    train = first_rows(train, args.max_train_questions)
    evaluated = {name: first_rows(part, args.max_eval_questions) for name, part in evaluated.items()}
    for name, part in {"train": train, **evaluated}.items():
        if not all(part["answers"][:]):
            raise ValueError(f"The {name} questions have no answers: give their annotations.")
    vocabulary = AnswerVocabulary.from_answers(train["answers"][:], args.top_k_answers, args.min_answer_count)
    coverage = {
        name: dataclasses.asdict(vocabulary.coverage(part["answers"][:]))
        for name, part in {"train": train, **evaluated}.items()
    }
    known = [i for i, label in enumerate(vocabulary.hard_targets(train["answers"][:]).tolist()) if label != -100]
    summary = {
        "train_questions": len(known),
        "train_questions_left_out": len(train) - len(known),
        "train_images": len(set(train["image_id"][:])),
        **{f"{name}_questions": len(part) for name, part in evaluated.items()},
        **{f"{name}_images": len(set(part["image_id"][:])) for name, part in evaluated.items()},
        "answers": len(vocabulary),
        "coverage": coverage,
    }
    train = train.select(known)
    evaluated = {name: in_image_order(part)[0] for name, part in evaluated.items()}
    scored_on, scored = list(evaluated.items())[-1]
    baselines = score_baselines(train, scored, vocabulary)
    remarks = {
        "several_spellings": dict(zip(("answers", "examples"), several_spellings(train["answers"][:]), strict=True)),
        "entries_skipped": {
            path.stem.removeprefix("skipped_"): skipped_entries(path)
            for path in (Path(log_dir) / f"skipped_{part}.tsv" for part in ("train", "eval"))
            if args.on_error == "skip" and path.is_file()
        },
        "pictures_trained_on": {name: shared_pictures(part, train) for name, part in evaluated.items()},
    }
    return VQAData(train, evaluated["validation"], scored, scored_on, vocabulary, summary, baselines, remarks)


def load_shards(args: DataArguments) -> VQAData:
    """
    What `shard_data` wrote, to be read while training.

    Raises:
        ValueError: when the arguments ask for other rows or answers than the shards hold.
    """
    facts, parts = open_shards(args.dataset_name)
    wanted = {name: getattr(args, name) for name in SHARDED}
    changes = [
        f"{name} was {facts['arguments'][name]!r} and is {value!r}"
        for name, value in wanted.items()
        if facts["arguments"][name] != value
    ]
    if changes:
        raise ValueError(
            f"The shards in {args.dataset_name} were written with other arguments: {'; '.join(changes)}. Give the "
            "same ones, or write other shards."
        )
    return VQAData(
        parts["train"],
        parts["validation"],
        parts[facts["scored_on"]],
        facts["scored_on"],
        AnswerVocabulary(facts["answers"]),
        facts["summary"],
        facts["baselines"],
        facts.get("remarks", {}),  # shards of earlier versions have none
    )


def shard_data(args: DataArguments, folder: str | Path, shards: int | None = None) -> dict:
    """
    Writes the data of a recipe as shards that `source=stream` trains from: its questions and its images, with the
    answers, counts and scores without a model that `load_data` finds; see `write_shards` for the rest.

    Returns:
        `dict`: the index.
    """
    data = load_data(args, log_dir=Path(folder))
    facts = {
        "arguments": {name: getattr(args, name) for name in SHARDED},
        "answers": [data.vocabulary.id2label[i] for i in range(len(data.vocabulary))],
        "scored_on": data.scored_on,
        "summary": data.summary,
        "baselines": data.baselines,
        "remarks": data.remarks,
    }
    parts = {"train": data.train, "validation": data.validation, data.scored_on: data.scored}
    return write_shards(parts, facts, folder, shards)


def load_split(args: DataArguments, part: str, log_dir: str | Path) -> Dataset:
    """The rows of `part` (`"train"` or `"eval"`), as the data arguments describe them."""
    common = {"on_error": args.on_error}
    if args.on_error == "skip":
        common["skipped_log"] = Path(log_dir) / f"skipped_{part}.tsv"
    if args.source == "easy_vqa":
        return load_vqa("easy_vqa", split="train" if part == "train" else "test", **common)
    if args.source == "hub":
        split = args.train_split if part == "train" else args.eval_split
        images = args.train_images if part == "train" else args.eval_images
        return load_vqa(args.dataset_name, name=args.dataset_config, split=split, images=images, **common)
    names = ("questions", "annotations", "images", "image_pattern")
    return load_vqa("vqa_v2", **{name: getattr(args, f"{part}_{name}") for name in names}, **common)


def first_rows(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def describe_data(data: VQAData) -> str:
    """The lines printed before training: what there is, and what the vocabulary makes of it."""
    summary = data.summary
    left_out = summary["train_questions_left_out"]
    fits = fitting_score(data.scored["answers"][:])
    parts = {"train": "training", "validation": "validation", "test": "test"}
    counts = [
        f"{summary[f'{name}_questions']:,} {adjective} questions about {summary[f'{name}_images']:,} images"
        for name, adjective in parts.items()
        if f"{name}_questions" in summary
    ]
    lines = [
        f"{', '.join(counts)}, {summary['answers']:,} answers.",
        f"The best epoch is chosen on the validation questions; the final scores are those of the {data.scored_on} "
        "questions.",
        f"The score that fits them is {fits.label}: {fits.why}.",
    ]
    if left_out:
        lines.append(f"{left_out:,} training questions are left out: their answer is not among these.")
    for part, numbers in summary["coverage"].items():
        lines.append(
            f"On the {part} questions the vocabulary holds {numbers['questions']:.2%} of the most common answers and "
            f"{numbers['answers']:.2%} of all answers; no model can score above "
            f"{100 * numbers['ceiling' if fits.name == 'vqa_accuracy' else 'questions']:.2f}."
        )
    for name, scores in data.baselines.items():
        lines.append(f"Without a model, {name.replace('_', ' ')}: {scores[fits.name]:.2f} {fits.label}.")
    spelled = data.remarks.get("several_spellings", {"answers": 0})
    if spelled["answers"]:
        examples = "; ".join(" and ".join(map(repr, pair)) for pair in spelled["examples"])
        lines.append(f"{spelled['answers']:,} answers have several spellings, each taken as one answer: {examples}.")
    for part, count in data.remarks.get("entries_skipped", {}).items():
        if count:
            lines.append(f"{count:,} entries of the {part} data are left out as unusable: see skipped_{part}.tsv.")
    for name, shared in data.remarks.get("pictures_trained_on", {}).items():
        if shared:
            lines.append(
                f"WARNING: {shared:,} of the {name} pictures are trained on, too (the same files, whatever their "
                f"names): the {name} scores are not those of unseen pictures."
            )
    return "\n".join(lines)
