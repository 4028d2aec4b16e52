"""The page of models of any modalities: an input for each that they read, any of which may be left empty.

Which input it is, the modality's class says: files by their endings, columns by their names, all else is text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from training_ume.serve.html import SHOW_ANSWERS, render_answers
from training_ume.serve.judges import (
    KEPT_ANSWERS,
    MAX_QUESTION,
    MAX_UPLOAD,
    SUFFIXES,
    Card,
    Judge,
    read_question,
    read_upload,
)
from training_ume.serve.sentences import HOUR, QUEUE, sentences

MAX_CELL = 100  # characters of a table's cell
TITLE = "# Try a model\nGive what you have and press Answer: any input may be left empty."


def kinds_of(judges: Iterable[Judge]) -> list[Modality]:
    """The modalities that any of the models reads."""
    return [kind for name, kind in MODALITIES.items() if any(name in j.model.config.modalities for j in judges)]


def fields_of(judges: Iterable[Judge], kind: Modality) -> dict[str, list[str] | None]:
    """The columns that any of the models reads, with what may be chosen."""
    found: dict[str, list[str] | None] = {}
    for judge in judges:
        if kind.name in judge.model.config.modalities:
            found = {**kind.fields_of(judge.processor.part(kind)), **found}
    return found


def endings(kind: Modality) -> tuple[str, ...]:
    """Of the files that may be uploaded."""
    return SUFFIXES if kind.shown_as == "Image" else kind.suffixes


def read_file(kind: Modality, path: str | Path | None) -> Any:
    """
    A stranger's file as a model can be given it; None where there is none.

    Raises:
        ValueError: for one that is too large, of another ending, or cannot be read.
    """
    if path is None:
        return None
    if kind.shown_as == "Image":
        return read_upload(path)
    if not isinstance(path, (str, Path)) or "\0" in str(path):
        raise ValueError(f"What was sent is no {kind.noun}: upload one.")
    path = Path(path)
    name = f"The file “{path.name[-60:]}”"
    if not path.is_file():
        raise ValueError(f"{name} is no longer here: upload it again.")
    if path.stat().st_size > MAX_UPLOAD:
        raise ValueError(f"{name} is larger than {MAX_UPLOAD // 2**20} MB: choose a smaller one.")
    unreadable = f"{name} is not a {kind.noun} that can be read: choose one of {', '.join(kind.suffixes)}."
    if path.suffix.lower() not in kind.suffixes:
        raise ValueError(unreadable)
    try:
        kind.open(str(path))
    except Exception as error:  # decoders raise whatever they like, and name where the file lies
        raise ValueError(unreadable) from error
    return str(path)


def read_cells(kind: Modality, fields: dict[str, list[str] | None], values: Iterable[Any]) -> dict | None:
    """
    What a visitor typed into the columns of a table, without those that are empty; None where all are.

    Raises:
        ValueError: for what is no number in a column of numbers, or nothing that may be chosen.
    """
    row = {}
    for (name, choices), value in zip(fields.items(), values, strict=True):
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        if len(text) > MAX_CELL:
            raise ValueError(f"{name} has {len(text)} characters: give {MAX_CELL} or fewer.")
        if choices is not None and text not in choices:
            raise ValueError(f"{name} has no choice “{text}”: pick one of those on the page, or leave it empty.")
        try:
            row[name] = text if choices is not None else float(text)
        except ValueError:
            raise ValueError(f"{name} is “{text}”, which is no number: write one, or leave it empty.") from None
    return row or None


def answer_any(judges: list[Judge], given: dict[str, Any], title: str) -> Card:
    """
    Each model's answers to what was given, of which it is told what it reads.

    Args:
        given: by the keys of the modalities; None for what was left empty.
        title: what the card is called.

    Raises:
        ValueError: where there is nothing for a model to answer from.
    """
    there = {name: value for name, value in given.items() if value is not None}
    if not there:
        nouns = [kind.noun for kind in kinds_of(judges)]
        raise ValueError(f"Nothing was given: this page takes {', '.join(nouns)}; give one of them or more.")
    card = Card(title, [])
    for judge in judges:
        own = {name: value for name, value in there.items() if name in judge.model.config.modalities}
        for name, value in own.items():
            fields = MODALITIES[name].fields_of(judge.processor.part(MODALITIES[name]))
            if fields:
                own[name] = {column: cell for column, cell in value.items() if column in fields}
        if not any(own.values() if all(isinstance(v, dict) for v in own.values()) else [True]):
            own = {}
        if not own:
            raise ValueError(f"{judge.title} reads nothing of what was given: give more.")
        with judge.lock:
            card.answers.append(judge.pipeline.answer([own])[0])
    return card


def _short(cell) -> str:
    return cell if isinstance(cell, str) else f"{cell:g}"


def build_any(judges: list[Judge]):
    """The page as `gradio.Blocks`."""
    import gradio as gr

    kinds = kinds_of(judges)
    slots: list[tuple[Modality, dict, int]] = []  # each modality with its columns, and how many inputs it has

    def ask(cards: list[Card], *values):
        given, said, rest = {}, [], list(values)
        with sentences():
            for kind, fields, count in slots:
                own, rest = rest[:count], rest[count:]
                if fields:
                    given[kind.name] = read_cells(kind, fields, own)
                    said += [f"{name} {_short(value)}" for name, value in (given[kind.name] or {}).items()]
                elif kind.suffixes:
                    given[kind.name] = read_file(kind, own[0])
                    said += [Path(own[0]).name[-40:]] if own[0] is not None else []
                else:
                    given[kind.name] = read_question(own[0]) if own[0] and own[0].strip() else None
                    said += [given[kind.name]] if given[kind.name] else []
            cards = [answer_any(judges, given, ", ".join(said)), *cards][:KEPT_ANSWERS]
        return cards, render_answers(judges, cards)

    def show(kind: Modality):
        def shown(path):
            with sentences():
                value = read_file(kind, path)
            return getattr(gr, kind.shown_as)(value, visible=value is not None)

        return shown

    with gr.Blocks(analytics_enabled=False, title="Try a model", fill_width=True, delete_cache=(HOUR, HOUR)) as demo:
        cards = gr.State([], time_to_live=HOUR)
        gr.Markdown(TITLE)
        inputs = []
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                for kind in kinds:
                    fields = fields_of(judges, kind)
                    before = len(inputs)
                    for name, choices in fields.items():
                        if choices is None:
                            inputs.append(gr.Textbox(label=name, max_lines=1, max_length=MAX_CELL))
                        else:
                            inputs.append(gr.Dropdown(label=name, choices=["", *choices], value=""))
                    if not fields and kind.suffixes:
                        label = f"A {kind.subject} (up to {MAX_UPLOAD // 2**20} MB)"
                        file = gr.File(label=label, file_types=list(endings(kind)), height=104, elem_id=kind.name)
                        inputs.append(file)
                        if kind.shown_as:
                            seen = getattr(gr, kind.shown_as)(visible=False, interactive=False, label=kind.subject)
                            called = {"concurrency_id": "picking", "concurrency_limit": 1}
                            changed = file.change(show(kind), file, seen, api_visibility="private", **called)
                            changed.failure(lambda: None, None, file, api_visibility="private")
                    elif not fields:
                        box = gr.Textbox(label=f"A {kind.subject}", max_lines=3, max_length=MAX_QUESTION)
                        inputs.append(box)
                    slots.append((kind, fields, len(inputs) - before))
                button = gr.Button("Answer", variant="primary", elem_id="ask")
            with gr.Column(scale=5, min_width=300):
                answers = gr.HTML(render_answers(judges, []), elem_id="answers", padding=False)
        call = button.click(
            ask, [cards, *inputs], [cards, answers], api_name="ask", show_progress_on=answers,
            concurrency_id="asking", concurrency_limit=1,
        )  # fmt: skip
        call.success(js=SHOW_ANSWERS)
    return demo.queue(max_size=QUEUE)
