"""What a table holds, counted before anybody trains on it."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from datasets import Dataset

from metrics.vqa_accuracy.vqa_accuracy import most_common_answer
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.inputs import there
from training_ume.data.json_entries import VQADataError
from training_ume.data.numbers import parse_number
from training_ume.data.order import words
from training_ume.data.pictures import copies
from training_ume.data.rows import FEATURES, logger
from training_ume.data.tables.load import load_rows, understand
from training_ume.data.unknown import MUCH, unknown_tokens

# Sizes of a vocabulary at which its coverage is told, and how many answers are listed.
SIZES = (10, 30, 100, 300, 1000, 3000)
LISTED = 20
# Columns that are told as what must not stand on both sides of a split.
GROUPS = ("patient", "subject", "speaker", "person", "user", "house", "site", "scene", "video", "session")
MANY_NUMBERS = 20  # so many different numbers are no classes
WIDE = 30.0  # so many times the least number the greatest is, where logarithms are worth learning
FEW = 20  # classes, for which weights are worth trying
UNEVEN = 5.0  # so many times as many rows of the most common class as of the rarest


def profile(data: Any, tokenizer=None, **reading: Any) -> dict:
    """
    Reads a table, decodes its pictures once, and counts.

    Args:
        data, reading: see `load_rows`.
        tokenizer (*optional*): counts tokens, and what it reads as unknown.

    Returns:
        `dict`: what was `understood`; `rows`, and those `unusable` (their number by kind, and `examples`); `questions`
        with their lengths in words and tokens, `pictures` with the share of `copies`, `answers` with the most common
        ones and the `coverage` by the size of the vocabulary, of each `further` modality how many rows have it, the
        `modalities` that some rows have, `columns` that go along with how many values they have, `unknown_tokens`;
        `advice`: fields for `ume train`, and why.

    Raises:
        VQADataError: where no row can be used.
    """
    found = understand(data, **reading)
    with tempfile.TemporaryDirectory(prefix="ume-data-") as scratch:
        log = Path(scratch) / "skipped.tsv"
        heard, logger.disabled = logger.disabled, True  # of a log that does not stay
        try:
            rows = load_rows(data, **reading, on_error="skip", skipped_log=log, check_images=True)
        except VQADataError as error:
            reasons = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
            first = next((line.split("\t") for line in reasons if not line.startswith("#")), None)
            if first is None:
                raise
            # The log goes with its folder, so its first line is said.
            raise VQADataError(f"No row can be used; the first: {first[1]}, {first[2]}: {first[-1]}.") from error
        finally:
            logger.disabled = heard
        unusable = _unusable(log)
    asked = [question for question in rows["question"][:] if question.strip()]
    shown = [path for path in rows["image"][:] if path]
    known = {*FEATURES, *(kind.column for kind in MODALITIES.values())}
    facts = {
        "understood": found.as_dict(),
        "rows": len(rows),
        "unusable": unusable,
        "questions": _questions(asked, tokenizer),
        "pictures": _pictures(shown),
        "answers": _answers(rows),
        "further": _further(rows),
        "modalities": [kind.name for kind in there(rows)],
        "columns": {name: len(set(map(str, rows[name][:]))) for name in rows.column_names if name not in known},
        "unknown_tokens": unknown_tokens(tokenizer, asked) if tokenizer is not None else None,
    }
    return {**facts, "advice": advice(facts)}


def _further(rows: Dataset) -> dict[str, dict]:
    """How many rows have what is neither a question nor an image, by the name of the modality."""
    kinds = [kind for kind in MODALITIES.values() if kind.column in rows.column_names and kind.column not in FEATURES]
    return {
        kind.column: {"rows": sum(not kind.lacks(cell) for cell in rows[kind.column][:]), "noun": kind.noun}
        for kind in kinds
    }


def _unusable(log: Path) -> dict:
    entries = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    examples = [f"{file}: {entry}: {reason}" for _, file, entry, reason in entries[:3]]
    return {"count": len(entries), "kinds": dict(Counter(entry[0] for entry in entries)), "examples": examples}


def _questions(asked: list[str], tokenizer) -> dict:
    facts: dict[str, Any] = {"rows": len(asked), "distinct": len(set(asked)), "words": _lengths(words(asked))}
    if tokenizer is not None and asked:
        distinct = list(dict.fromkeys(asked))
        ids = tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        facts["tokens"] = _lengths(list(map(len, ids)))
    return facts


def _lengths(values: list[int]) -> dict | None:
    """The shortest, the middle one, that which 95 % do not exceed, the longest, and how many there are of each."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "shortest": ordered[0],
        "median": statistics.median(ordered),
        "of_95_percent": ordered[min(len(ordered) - 1, -(-95 * len(ordered) // 100) - 1)],
        "longest": ordered[-1],
        "counts": dict(sorted(Counter(ordered).items())),
    }


def _pictures(shown: list[str]) -> dict:
    files = set(shown)
    pictures = set(copies(files).values())
    return {
        "rows": len(shown),
        "files": len(files),
        "distinct": len(pictures),
        "copies": (len(files) - len(pictures)) / len(files) if files else 0.0,
    }


def _answers(rows: Dataset) -> dict:
    """By the form that is a class: the most common answer of each row."""
    counts: Counter[str] = Counter()
    annotators: Counter[int] = Counter()
    for batch in rows.select_columns(["answers"]).iter(batch_size=10_000):
        for given in batch["answers"]:
            annotators[len(given)] += 1
            if given and (form := most_common_answer(given)):
                counts[form] += 1
    total, ranked = counts.total(), sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    reached = list(accumulate(count for _, count in ranked))
    listed = [{"answer": answer, "rows": count, "share": count / total} for answer, count in ranked[:LISTED]]
    sizes = [*(size for size in SIZES if size < len(ranked)), len(ranked)] if ranked else []
    return {
        "rows": total,
        "distinct": len(ranked),
        "once": sum(count == 1 for _, count in ranked),
        "annotators": dict(sorted(annotators.items())),
        "most_common": listed,
        "rarest": ranked[-1][1] if ranked else 0,
        "numbers": _numbers(rows),
        "coverage": [{"answers": size, "share": reached[size - 1] / total} for size in sizes],
    }


def _numbers(rows: Dataset) -> dict | None:
    """The least and the greatest answer where all of them are numbers, one a row; None where they are not."""
    found = []
    for given in rows["answers"][:]:
        try:
            numbers = [parse_number(answer) for answer in given]
        except ValueError:
            return None
        if len(numbers) > 1:
            return None
        found += [number for number in numbers if number == number]
    return {"least": min(found), "most": max(found)} if found else None


def advice(facts: Mapping[str, Any]) -> list[dict]:
    """
    Fields of a recipe that what was counted speaks for.

    Returns:
        `list[dict]`: `field`, `value` (as on the command line) and `why`; a `field` of None is a warning alone.
    """
    answers, unknown, found = facts["answers"], facts["unknown_tokens"], []
    if answers.get("numbers") and answers["distinct"] > MANY_NUMBERS:
        why = f"the answers are numbers, {answers['distinct']:,} different ones"
        found.append({"field": "problem_type", "value": "regression", "why": why})
        low, high = answers["numbers"]["least"], answers["numbers"]["most"]
        if low > 0 and high > WIDE * low:
            why = f"they range from {low:g} to {high:g}: what counts is how many times too large an answer is"
            found.append({"field": "label_transform", "value": "log", "why": why})
        answers = {**answers, "distinct": 0, "most_common": []}  # what follows is about classes
    for name, values in facts["columns"].items():
        if any(group in name.lower() for group in GROUPS) and 1 < values < facts["rows"]:
            found.append(
                {"field": "split_by", "value": name, "why": f"rows of one {name} are alike: keep them on one side"}
            )
            break
    if answers["distinct"] > FEW and answers["once"] > 0.3 * answers["distinct"]:
        why = f"{answers['once']:,} of {answers['distinct']:,} answers are given once: they cannot be learned"
        found.append({"field": "min_answer_count", "value": "2", "why": why})
    most = answers["most_common"][0]["rows"] if answers["most_common"] else 0
    if 1 < answers["distinct"] <= FEW and most > UNEVEN * answers["rarest"]:
        why = f"the most common answer has {most:,} rows, the rarest {answers['rarest']:,}"
        found.append({"field": "class_weights", "value": "balanced", "why": why})
    if unknown is not None and unknown["share"] > MUCH:
        why = (
            f"the tokenizer reads {unknown['share']:.0%} of the tokens as unknown, all alike: for example "
            f"{'; '.join(map(repr, unknown['examples']))}. Choose a text model of the language"
        )
        found.append({"field": None, "value": None, "why": why})
    return found
