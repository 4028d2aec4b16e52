"""From a recipe's data fields to the rows of each part, the answer vocabulary, and the scores without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from configuration_ume.data_arguments import HELD_OUT, DataArguments
from configuration_ume.scores import quantity, written
from modeling_ume.modalities_ume import ALL, MODALITIES, seen_by, usual
from modeling_ume.tasks_ume import DEFAULT_PROBLEM, DEFAULT_TASK, PROBLEM_TYPES, TASKS
from training_ume.data.answers import AnswerVocabulary, several_spellings
from training_ume.data.inputs import there
from training_ume.data.load import load_vqa, skipped_entries
from training_ume.data.numbers import NumberTargets, count_numbers
from training_ume.data.order import in_image_order
from training_ume.data.pictures import shared_pictures
from training_ume.data.sources.table import find_source
from training_ume.data.splits import split_rows
from training_ume.data.streaming import StreamedQuestions, open_shards, write_shards
from training_ume.data.tables.load import load_rows, understand
from training_ume.evaluation.scoring import AnswerScoring, scoring_of_targets

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
    vocabulary: AnswerVocabulary | NumberTargets
    summary: dict
    baselines: dict[str, dict]
    remarks: dict  # what a reader of the scores should know: spellings taken as one, pictures on both sides
    understood: dict | None = None  # of a user's own table: which column is what, by part
    inputs: str = "both"  # what there is for a model to see, of what the recipe says
    task: str = DEFAULT_TASK
    problem_type: str = DEFAULT_PROBLEM

    @property
    def scoring(self) -> AnswerScoring:
        """How answers to these rows are scored."""
        return scoring_of_targets(self.vocabulary, self.problem_type, self.task)

    def parts(self) -> dict[str, Dataset | StreamedQuestions]:
        """All rows that a model sees, by what they are for."""
        return {"train": self.train, "validation": self.validation, "scored": self.scored}


# -------------------------------------------------------------------------------------------------------------- data


def load_data(
    args: DataArguments,
    log_dir: str | Path,
    rows: Mapping[str, Dataset] | None = None,
    say: Callable[[str], None] | None = None,
    problem_type: str = DEFAULT_PROBLEM,
    label_transform: str | None = None,
    names: Sequence[str] | None = None,
    task: str | None = None,
) -> VQAData:
    """
    Loads what to train on, to validate on and to score, the latter two in image order, and chooses the answers.

    With a `validation_fraction` the best epoch is chosen on training images held out, and test data, where the
    recipe has any, is scored once at the end; otherwise the validation questions serve for both.
    Training questions whose most common answer is not among them are left out and counted: with cross-entropy they
    teach nothing, and every model gets the same questions. All this was decided for shards when they were written.

    Args:
        log_dir (path): where entries that are left out are listed.
        rows (*optional*): the rows of `train`, and of `validation` and `test` where there are any, in place of what
            the arguments name.
        say (callable, *optional*): is given what a table was understood to be, before its rows are read.
        problem_type (`str`): what answers are, see `PROBLEM_TYPES`.
        label_transform (`str`, *optional*): of numbers, what is learned of them.
        names (*optional*): of numbers, what they are called, where rows are given.
        task (`str`, *optional*): one of `TASKS`; left out, what the rows say: question answering where they have
            questions.
    """
    problem = PROBLEM_TYPES[problem_type]
    numbers = not problem.chooses
    if args.source == "stream":
        return load_shards(args)
    understood: dict[str, dict] = {}
    train, evaluated = split_parts(args, log_dir, rows, understood, say, numbers)
    for name, part in {"train": train, **evaluated}.items():
        if not all(part["answers"][:]):
            raise ValueError(f"The {name} questions have no answers: give their annotations.")
    task = task or (DEFAULT_TASK if any(train["question"]) else "classification")
    if numbers:
        vocabulary, known, counted = _numbers(train, evaluated, label_transform, names or answer_names(understood))
    else:
        several = not (problem.exclusive or TASKS[task].asks)
        vocabulary, known, counted = _answers(train, evaluated, args, several)
    summary = {
        "train_questions": len(known),
        "train_questions_left_out": len(train) - len(known),
        "train_images": len(set(train["image_id"][:])),
        **{f"{name}_questions": len(part) for name, part in evaluated.items()},
        **{f"{name}_images": len(set(part["image_id"][:])) for name, part in evaluated.items()},
        "answers": len(vocabulary),
        **counted,
    }
    train = train.select(known)
    evaluated = {name: in_image_order(part)[0] for name, part in evaluated.items()}
    scored_on, scored = list(evaluated.items())[-1]
    baselines = scoring_of_targets(vocabulary, problem_type, task).baselines(train, scored, vocabulary)
    spelled = (
        {} if numbers else dict(zip(("answers", "examples"), several_spellings(train["answers"][:]), strict=True))
    )
    remarks = {
        **({"several_spellings": spelled} if spelled else {}),
        "entries_skipped": {
            path.stem.removeprefix("skipped_"): skipped_entries(path)
            for path in (Path(log_dir) / f"skipped_{part}.tsv" for part in ("train", "eval"))
            if args.on_error == "skip" and path.is_file()
        },
        "pictures_trained_on": {name: shared_pictures(part, train) for name, part in evaluated.items()},
    }
    inputs = what_there_is(args.inputs, train)
    return VQAData(
        train,
        evaluated["validation"],
        scored,
        scored_on,
        vocabulary,
        summary,
        baselines,
        remarks,
        understood or None,
        inputs,
        task,
        problem_type,
    )


def split_parts(
    args: DataArguments,
    log_dir: str | Path,
    rows: Mapping[str, Dataset] | None,
    understood: dict[str, dict],
    say: Callable[[str], None] | None = None,
    numbers: bool = False,
) -> tuple[Dataset, dict[str, Dataset]]:
    """The rows to train on, and by name those to evaluate, of which the last are to be scored; see `load_data`."""
    if rows is not None:
        train, evaluated = rows["train"], {name: rows[name] for name in ("validation", "test") if name in rows}
        if "validation" not in evaluated:
            train, held_out = split_rows(train, args.held_out or HELD_OUT, args.split_seed, args.split_by)
            evaluated = {"validation": held_out, **evaluated}
    else:
        train = load_split(args, "train", log_dir, understood, say, numbers)
        evaluated = {}  # by name; the last of them is what is scored
        if args.held_out is not None:
            train, evaluated["validation"] = split_rows(train, args.held_out, args.split_seed, args.split_by)
        if args.has_eval_part:
            evaluated["test" if evaluated else "validation"] = load_split(
                args, "eval", log_dir, understood, say, numbers
            )
    train = first_rows(train, args.max_train_questions)
    return train, {name: first_rows(part, args.max_eval_questions) for name, part in evaluated.items()}


def _answers(train: Dataset, evaluated: dict[str, Dataset], args: DataArguments, several: bool) -> tuple:
    """
    The answers, which training rows have one of them, and what share of each part these cover.

    Args:
        several (`bool`): all answers of a row are right, as its labels.
    """
    answers = train["answers"][:]
    vocabulary = AnswerVocabulary.from_answers(answers, args.top_k_answers, args.min_answer_count, several)
    if several and len(vocabulary) < 2:
        raise ValueError(
            f"All training rows have the label {vocabulary.id2label[0]!r} alone: there is nothing to learn."
        )
    coverage = {
        name: dataclasses.asdict(vocabulary.coverage(part["answers"][:]))
        for name, part in {"train": train, **evaluated}.items()
    }
    if several:
        known = [i for i, row in enumerate(answers) if any(vocabulary.find(label) is not None for label in row)]
    else:
        known = [i for i, label in enumerate(vocabulary.hard_targets(answers).tolist()) if label != -100]
    return vocabulary, known, {"coverage": coverage}


def _numbers(
    train: Dataset, evaluated: dict[str, Dataset], transform: str | None, names: Sequence[str] | None
) -> tuple:
    """The numbers, which training rows say one, and how they are spread in each part."""
    count = count_numbers(train)
    if names is None or len(names) != count:
        names = ["answer"] if count == 1 else [f"number {i + 1}" for i in range(count)]
    vocabulary = NumberTargets.from_answers(train["answers"][:], names, transform)
    spread, known = {}, []
    for part, rows in {"train": train, **evaluated}.items():
        if count_numbers(rows) != count:
            raise ValueError(
                f"The {part} rows have {count_numbers(rows)} columns of answers and the training rows {count}: name "
                "the same ones in both, in the same order."
            )
        numbers = vocabulary.numbers(rows["answers"][:], rows["question_id"][:])
        there = ~np.isnan(numbers)
        known = known if spread else np.flatnonzero(there.any(1)).tolist()
        if not there.any():
            raise ValueError(f"No {part} row says a number: fill the cells of {' or '.join(vocabulary.names)}.")
        if transform == "log" and (numbers[there] <= 0).any():
            raise ValueError(
                f"A {part} row has the number {numbers[there].min():g}, which has no logarithm: leave label_transform "
                "out (`--label_transform null`), or give numbers above 0."
            )
        spread[part] = {name: _spread(column) for name, column in zip(vocabulary.names, numbers.T, strict=True)}
    return vocabulary, known, {"numbers": spread}


def _spread(numbers: np.ndarray) -> dict:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return {"rows": 0}
    measures = {"mean": known.mean(), "sd": known.std(), "least": known.min(), "median": np.median(known),
                "most": known.max()}  # fmt: skip
    return {"rows": len(known), **{name: float(value) for name, value in measures.items()}}


def answer_names(understood: Mapping[str, dict] | None) -> list[str] | None:
    """The columns that the training table's answers are in; None where nothing says it."""
    columns = ((understood or {}).get("train") or {}).get("columns") or []
    return [use["name"] for use in columns if "answers" in use["role"].split(", ")] or None


def what_there_is(inputs: str, rows: Dataset) -> str:
    """
    What a model sees of these rows: all, or those of the usual modalities that any row has.

    Raises:
        ValueError: where no row has what `inputs` asks for.
    """
    has = [kind.column for kind in there(rows)]
    asked = [MODALITIES[name].column for name in seen_by(inputs)]
    missing = [column for column in asked if column not in has]
    if inputs == ALL and has:
        lacked = [kind.column for kind in usual() if kind.column not in has]
        return "+".join(has) if lacked else ALL
    if missing:
        what = "question or image" if inputs == ALL else missing[0]
        raise ValueError(
            f"inputs={inputs!r}, but no row has any {what}: say with --columns which column it is in, or choose "
            f"other inputs."
        )
    return inputs


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


def load_split(
    args: DataArguments,
    part: str,
    log_dir: str | Path,
    understood: dict[str, dict] | None = None,
    say: Callable[[str], None] | None = None,
    numbers: bool = False,
) -> Dataset:
    """
    The rows of `part` (`"train"` or `"eval"`), as the data arguments describe them.

    Args:
        understood (*optional*): what a table is taken for is put into it, by part; `say` is given it as text.
        numbers (`bool`): see `load_rows`.
    """
    common = {"on_error": args.on_error}
    if args.on_error == "skip":
        common["skipped_log"] = Path(log_dir) / f"skipped_{part}.tsv"
    if args.is_table:
        table, options = table_of(args, part)
        options["numbers"] = numbers
        found = understand(table, **options)
        if understood is not None:
            understood[part] = found.as_dict()
        if say is not None:
            say(found.table())
        return load_rows(table, **options, **common)
    if args.source == "easy_vqa":
        return load_vqa("easy_vqa", split="train" if part == "train" else "test", **common)
    if args.source == "hub":
        split = args.train_split if part == "train" else args.eval_split
        images = args.train_images if part == "train" else args.eval_images
        return load_vqa(args.dataset_name, name=args.dataset_config, split=split, images=images, **common)
    names = ("questions", "annotations", "images", "image_pattern")
    return load_vqa("vqa_v2", **{name: getattr(args, f"{part}_{name}") for name in names}, **common)


def table_of(args: DataArguments, part: str) -> tuple[str | list[str] | None, dict]:
    """The table of a part, and the arguments of `load_rows` that go with it."""
    files = args.data if part == "train" or args.eval_data is None else args.eval_data
    if files is None and (source := find_source(args.source)).needs_data:
        raise ValueError(
            f"source={args.source!r} is the layout of a file: give it with --data. It is at {source.url}."
        )
    options = {name: getattr(args, name) for name in ("source", "images", "columns", "where")}
    if options["columns"]:  # nothing behind the = says that there is none
        options["columns"] = {role: column or None for role, column in options["columns"].items()}
    options["split"] = args.train_split if part == "train" else args.eval_split
    options["name"] = args.dataset_config
    return files[0] if files is not None and len(files) == 1 else files, options


def first_rows(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def describe_data(data: VQAData) -> str:
    """The lines printed before training: what there is, and what the vocabulary makes of it."""
    summary = data.summary
    left_out = summary["train_questions_left_out"]
    fits = data.scoring.fitting(data.scored["answers"][:])
    parts = {"train": "training", "validation": "validation", "test": "test"}
    seen = [MODALITIES[name].column for name in seen_by(data.inputs)]
    asked = "questions" if "question" in seen else "rows"
    counts = [
        f"{summary[f'{name}_questions']:,} {adjective} {asked}"
        + (f" about {summary[f'{name}_images']:,} images" if "image" in seen else "")
        for name, adjective in parts.items()
        if f"{name}_questions" in summary
    ]
    lines = [
        f"{', '.join(counts)}, {_what_is_learned(data)}.",
        f"The best epoch is chosen on the validation {asked}; the final scores are those of the {data.scored_on} "
        f"{asked}.",
        f"The score that fits them is {fits.label}: {fits.why}.",
    ]
    if left_out:
        why = "no number is known of them" if "numbers" in summary else "their answer is not among these"
        lines.append(f"{left_out:,} training {asked} are left out: {why}.")
    for part, numbers in summary.get("numbers", {}).items():
        lines += [
            f"On the {part} {asked} {name} is {quantity(found['mean'])} on average (deviation "
            f"{quantity(found['sd'])}, from {quantity(found['least'])} to {quantity(found['most'])})."
            for name, found in numbers.items()
            if found["rows"]
        ]
    for part, numbers in summary.get("coverage", {}).items() if TASKS[data.task].asks else ():
        lines.append(
            f"On the {part} {asked} the vocabulary holds {numbers['questions']:.2%} of the most common answers and "
            f"{numbers['answers']:.2%} of all answers; no model can score above "
            f"{100 * numbers['ceiling' if fits.name == 'vqa_accuracy' else 'questions']:.2f}."
        )
    for name, scores in data.baselines.items():
        if scores.get(fits.name) is not None:
            shown = f"{written(fits.name, scores[fits.name])} {fits.label}"
            lines.append(f"Without a model, {name.replace('_', ' ')}: {shown}.")
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


def _what_is_learned(data: VQAData) -> str:
    if not isinstance(data.vocabulary, NumberTargets):
        return f"{data.summary['answers']:,} {'answers' if TASKS[data.task].asks else 'classes'}"
    learned = f"the number{'s' * (len(data.vocabulary) > 1)} {', '.join(data.vocabulary.names)}"
    return learned + (" by the logarithm" if data.vocabulary.transform == "log" else "")


def unread(rows: Dataset, modalities: Collection[str]) -> list[str]:
    """A sentence for each modality that the rows have and a model does not read, beyond questions and images."""
    lines = []
    for kind in there(rows):
        if kind.name not in modalities and kind not in usual():
            advice = f"{kind.name}_model NAME"
            if kind.own_encoder:
                advice = f'{kind.name}_config \'{{"model_type": "{kind.own_encoder}"}}\''
            lines.append(
                f"The rows have {kind.nouns}, and the recipe has no encoder of them: they are not read. Give "
                f"--{advice}, or another encoder."
            )
    return lines


def choices_made(
    args: DataArguments,
    data: VQAData,
    rows: Mapping[str, Dataset] | None = None,
    modalities: Collection[str] = tuple(MODALITIES),
) -> list[str]:
    """What was decided because the recipe does not say it, a sentence each; `modalities` are those of the model."""
    lines = []
    nothing_to_validate_on = args.is_table and args.validation_fraction is None and not args.has_eval_part
    if nothing_to_validate_on and (rows is None or "validation" not in rows):
        seen = [MODALITIES[name] for name in seen_by(data.inputs)]
        there = [kind for kind in seen if kind.in_files and kind.column in data.train.column_names]
        files = [kind.file_nouns for kind in there if any(data.train[kind.column][:])]
        what = " and ".join(files) or ("questions" if data.inputs == "question" else "rows")
        what = what if args.split_by is None else f"values of {args.split_by}"
        lines.append(
            f"Nothing to validate on is given: {HELD_OUT:.0%} of the {what} are held out to choose the epoch, and "
            "scored. Give --eval_data, or another --validation_fraction."
        )
    if data.inputs != args.inputs:
        seen = [MODALITIES[name].column for name in seen_by(data.inputs) if name in modalities]
        without = [MODALITIES[name].column for name in modalities if MODALITIES[name].column not in seen]
        alone = f"{seen[0]} alone" if len(seen) == 1 else " and ".join(seen)
        if seen and without:
            lines.append(f"No row has any {' or '.join(without)}: the model sees the {alone} (inputs={data.inputs}).")
    return [*lines, *unread(data.train, modalities)] if isinstance(data.train, Dataset) else lines
