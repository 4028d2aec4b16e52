"""What is done with a finished checkpoint: load it, score it on a data set, ask it a question.

Checkpoints are loaded through this package's own classes, so no remote code is run.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from datasets import Dataset

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor, UMEVQAPipeline
from training_ume.answers import AnswerVocabulary
from training_ume.challenge import write_challenge_results
from training_ume.collator import VQACollator
from training_ume.results import environment, read_json
from training_ume.trainer import predict, score_answers

BLIND = {"question_only": "question", "image_only": "image"}


def load_checkpoint(name: str) -> tuple[UMEForVisualQuestionAnswering, UMEProcessor]:
    """
    Loads a model and its processor, onto the GPU if there is one.

    Args:
        name (`str`): a folder that `scripts/train.py` wrote (a run, a checkpoint, a LoRA adapter), or a Hub name.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        ValueError: when there is no UME checkpoint of that name; one sentence that says what was found instead.
    """
    path = Path(name)
    advice = "give a folder that scripts/train.py wrote, or the name of a UME model on the Hub."
    if path.is_dir():
        config = read_json(path / "config.json")
        if config is None and not (path / "adapter_config.json").is_file():
            raise ValueError(f"The folder {name!r} holds no model (it has no config.json): {advice}")
        if config is not None and config.get("model_type") != "ume":
            raise ValueError(f"The model in {name!r} is of type {config.get('model_type')!r}, not 'ume': {advice}")
    elif path.exists():
        raise ValueError(f"{name!r} is a file, not a model: {advice}")
    elif name.count("/") != 1 or path.parent.is_dir():
        raise ValueError(f"There is no model {name!r}: {advice}")
    try:
        model = UMEForVisualQuestionAnswering.from_pretrained(name)
        processor = UMEProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"No UME model can be loaded from {name!r} ({first_line(error)}): {advice}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), processor


def evaluate_checkpoint(
    name: str,
    dataset: Dataset,
    *,
    baselines: list[str] | None = None,
    batch_size: int = 64,
    max_question_length: int | None = None,
    num_workers: int = 0,
    challenge_file: str | Path | None = None,
) -> dict:
    """
    Answers a data set's questions with a checkpoint and scores the answers.

    Args:
        name (`str`): see `load_checkpoint`.
        dataset (`Dataset`): rows of `load_vqa`.
        baselines (`list[str]`, *optional*): `question_only`, `image_only`: score the same checkpoint without the other
            input too.
        challenge_file (path, *optional*): where to write the answers in the form that the VQA challenge server reads.

    Returns:
        `dict`: `model`, `questions`, `images`, `seconds`, `environment`; with annotated questions `scores`,
        `baselines` and the `coverage` of them by the model's answers, with others `predictions`.

    Raises:
        ValueError: no such checkpoint, an unknown baseline, or a baseline for questions without answers.
    """
    model, processor = load_checkpoint(name)
    annotated = any(dataset["answers"][:])
    for baseline in baselines or []:
        if baseline not in BLIND:
            raise ValueError(f"The baseline {baseline!r} is not known: choose from {', '.join(BLIND)}.")
        if not annotated:
            raise ValueError("The questions have no answers, so a baseline has no score: leave --baselines out.")

    def answers(inputs: str) -> list[str]:
        collator = VQACollator(processor, inputs=inputs, max_question_length=max_question_length)
        return predict(model, collator, dataset, batch_size, num_workers)

    started = time.perf_counter()
    predictions = answers("both")
    results = {
        "model": name,
        "questions": len(dataset),
        "images": len(set(dataset["image"][:])),
        "seconds": time.perf_counter() - started,
    }
    if annotated:
        vocabulary = AnswerVocabulary.from_id2label(model.config.id2label)
        results["scores"] = score_answers(predictions, dataset)
        results["baselines"] = {
            baseline: {
                "what": f"this checkpoint, given the {BLIND[baseline]} alone",
                **score_answers(answers(BLIND[baseline]), dataset),
            }
            for baseline in baselines or []
        }
        results["coverage"] = dataclasses.asdict(vocabulary.coverage(dataset["answers"][:]))
    else:
        rows = zip(dataset["question_id"][:], predictions, strict=True)
        results["predictions"] = [{"question_id": i, "answer": answer} for i, answer in rows]
    if challenge_file is not None:
        write_challenge_results(challenge_file, dataset["question_id"][:], predictions)
    return {**results, "environment": environment()}


def ask(name: str, image: str, questions: list[str], top_k: int = 3) -> list[list[dict]]:
    """
    The best answers of a checkpoint to questions about one image.

    Returns:
        `list`: for each question `top_k` dicts `{"answer": str, "score": probability}`, the best first.

    Raises:
        ValueError: no such checkpoint, an image that cannot be read, an empty question, an impossible top_k.
    """
    model, processor = load_checkpoint(name)
    pipeline = UMEVQAPipeline(model=model, processor=processor, device=model.device)
    return pipeline(image, questions, top_k=top_k)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
