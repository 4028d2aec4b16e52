"""Asking a model every question of a table: answers go into a CSV file as they come, and what it holds is kept.

Beside the file lies a small one that says what answered: a file that another model, other choices or another table
began is not gone on with.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.choices_ume import about_unknown, check_probability, decode_choices, find_choices
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.tasks_ume import PROBLEM_TYPES, check_choosing
from training_ume.data.collator import VQACollator, allow_lacks
from training_ume.data.inputs import lacked_by_all
from training_ume.evaluation.answering import batch_logits
from training_ume.evaluation.load import load_checkpoint
from training_ume.records.files import read_json, write_json, write_text

KEYS = ("question_id", "image", "question")  # what tells a question, in the table and in the file
SEPARATORS = {".csv": ",", ".tsv": "\t"}
LEFT_OUT = ("answers", "image_id", "question_type", "answer_type")  # of every row, whatever the table holds


def about_file(out: str | Path) -> Path:
    """The small file beside the answers."""
    return Path(f"{out}.made.json")


def check_out(out: str | Path, overwrite: bool) -> None:
    """Raises ValueError for a file that cannot be written, or that this did not write."""
    path = Path(out)
    if path.suffix not in SEPARATORS:
        raise ValueError(f"{out!r} is no file for a table of answers: give a name that ends in .csv or .tsv.")
    if path.is_dir():
        raise ValueError(f"{out!r} is a folder: name a file in it.")
    if path.exists() and not overwrite and read_json(about_file(path)) is None:
        raise ValueError(
            f"{out} exists and was not begun by this command: choose another name, or add --overwrite to replace it."
        )


def ask_table(
    name: str,
    rows: Dataset,
    out: str | Path,
    *,
    top_k: int = 1,
    choices: list[str] | None = None,
    min_probability: float | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    say: Callable[[str], Any] | None = None,
) -> int:
    """
    Answers the rows of a table into a CSV file: `question_id`, `image`, `question`, the table's further columns,
    `answer` and `score`, with `top_k` more of them `answer_2`, `score_2` …, and with `min_probability` the `guess`; of
    numbers a column each, under its name.

    Args:
        name (`str`): see `load_checkpoint`.
        rows (`Dataset`): of `load_rows`; answers are not needed.
        out (path): the file; rows that it holds are kept and not asked again.
        top_k, choices, min_probability: see `UMEVQAPipeline`.
        overwrite (`bool`): begin anew, whatever the file holds.
        say (`callable`, *optional*): is given what a user should know.

    Returns:
        How many questions were asked now.

    Raises:
        ValueError: for a file that another model, other options or another table began, and as `load_checkpoint`.
        VQADataError: for a picture that cannot be read; what was answered before stays.
    """
    say = say or (lambda text: None)
    check_out(out, overwrite)
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is impossible: it must be a whole number of 1 or more.")
    if min_probability is not None:
        check_probability(min_probability)
    if len(rows) == 0:
        raise ValueError("There are no questions to ask: the table is empty.")
    model, processor = load_checkpoint(name, trust_remote_code)
    check_choosing(model.config.problem_type, choices=choices, min_probability=min_probability)
    chosen = None if choices is None else find_choices(choices, model.config.id2label)
    if chosen is not None and (unknown := about_unknown(chosen)):
        say(unknown)
    top_k = min(top_k, len(model.config.id2label) if chosen is None else len(chosen.ids))
    chooses = PROBLEM_TYPES[model.config.problem_type].chooses
    ours = _answer_columns(top_k, min_probability) if chooses else list(model.config.id2label.values())
    rows = rows.rename_columns({column: f"given_{column}" for column in ours if column in rows.column_names})
    # Numbers in lists are no cells of a text; the columns of a table stand beside them anyway.
    numbers = [kind.column for kind in MODALITIES.values() if kind.column not in KEYS and not kind.in_files]
    further = [column for column in rows.column_names if column not in (*KEYS, *LEFT_OUT, *numbers)]
    columns = [*KEYS, *further, *ours]
    made_by = {
        "weights": fingerprint(model), "columns": columns, "choices": choices, "min_probability": min_probability,
    }  # fmt: skip
    separator = SEPARATORS[Path(out).suffix]
    done = 0 if overwrite or not Path(out).exists() else _kept(out, rows, {**made_by, "model": name}, separator)
    if done:
        say(f"{done:,} of {len(rows):,} questions are answered in {out} already; they are kept.")
    if done == len(rows):
        return 0
    if not done:
        write_json(about_file(out), {"model": name, **made_by})
        write_text(out, _lines([columns], separator))
    collator = VQACollator(processor, may_lack=lacked_by_all(rows))
    allow_lacks(collator, rows)
    todo = rows.select(range(done, len(rows)))
    config, start = model.config, done
    with (
        open(out, "a", encoding="utf-8", newline="") as file,
        tqdm(total=len(rows), initial=done, desc="asking", unit="question", disable=None) as progress,
    ):
        for logits in batch_logits(model, collator, todo, batch_size, num_workers):
            answers = decode_choices(logits, config.id2label, config.problem_type, top_k, chosen, min_probability)
            _write(file, rows.select(range(start, start + len(answers))), answers, columns, separator)
            start += len(answers)
            progress.update(len(answers))
    return len(rows) - done


def _answer_columns(top_k: int, min_probability: float | None) -> list[str]:
    names = ["answer", "score"] if min_probability is None else ["answer", "score", "guess"]
    return names + [f"{name}_{place}" for place in range(2, top_k + 1) for name in ("answer", "score")]


def _write(file: TextIO, rows: Dataset, answers: list[list[dict]], columns: list[str], separator: str) -> None:
    lines = []
    for row, found in zip(rows, answers, strict=True):
        cells = dict(row)
        for place, entry in enumerate(found, 1):
            end = "" if place == 1 else f"_{place}"
            if "score" not in entry:  # a number
                cells[entry["name"]] = entry["answer"]
                continue
            cells |= {f"answer{end}": entry["answer"], f"score{end}": f"{entry['score']:.6f}"}
            if place == 1:
                cells["guess"] = entry.get("guess", "")
        lines.append([cells.get(column, "") for column in columns])
    file.write(_lines(lines, separator))
    file.flush()


def _lines(rows: list[list], separator: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _kept(out: str | Path, rows: Dataset, made_by: dict, separator: str) -> int:
    """How many rows a file holds, after cutting off one that was being written; ValueError where it is another's."""
    before = read_json(about_file(out)) or {}
    advice = "choose another name, or add --overwrite to begin anew."
    if before.get("weights") != made_by["weights"]:
        raise ValueError(
            f"{out} was begun with another model ({before.get('model')}), and this is {made_by['model']}: {advice}"
        )
    other = [key for key in ("choices", "min_probability", "columns") if before.get(key) != made_by[key]]
    if other:
        raise ValueError(
            f"{out} was begun with other settings: {other[0]} was {before.get(other[0])!r} and is "
            f"{made_by[other[0]]!r}: {advice}"
        )
    text = Path(out).read_text(encoding="utf-8")
    records = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    # The last record is whole where its line has ended, and not within quotes.
    whole = text.endswith("\n") and text.count('"') % 2 == 0
    records = records if whole else records[:-1]
    if records[:1] != [made_by["columns"]]:
        raise ValueError(f"{out} does not begin with the line {', '.join(made_by['columns'])}: {advice}")
    answered = records[1:]
    if len(answered) > len(rows):
        raise ValueError(f"{out} holds {len(answered):,} answers, and the table {len(rows):,} questions: {advice}")
    asked = rows.select_columns(list(KEYS)).select(range(len(answered)))
    for number, (record, row) in enumerate(zip(answered, asked, strict=True), 1):
        if record[: len(KEYS)] != [str(row[key]) for key in KEYS]:
            raise ValueError(
                f"{out} was begun with another table: its answer {number:,} is to {record[2]!r} about {record[1]!r}, "
                f"and the table asks {row['question']!r} about {row['image']!r}: {advice}"
            )
    if not whole:
        write_text(out, _lines(records, separator))
    return len(answered)


def fingerprint(model: UMEForVisualQuestionAnswering) -> str:
    """A checksum of the weights and of the answers that they choose from."""
    digest = hashlib.sha256(repr(model.config.id2label).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
