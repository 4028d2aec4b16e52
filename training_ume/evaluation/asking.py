"""Asking a model a few questions about one picture; imports what that takes, and nothing that reads data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modeling_ume import UMEVQAPipeline
from modeling_ume.images_ume import read_image
from training_ume.evaluation.load import load_checkpoint


def ask(
    name: str, image: str, questions: Iterable[str], top_k: int = 3, trust_remote_code: bool = False
) -> Iterator[tuple[str, list[dict]]]:
    """
    The best answers of a checkpoint to questions about one image, which is read and encoded once.

    Args:
        name (`str`): see `load_checkpoint`.
        image (`str`): path or URL.
        questions: a list is answered in one batch; of anything else, each as it comes.
        trust_remote_code (`bool`): see `load_checkpoint`.

    Yields:
        A question and `top_k` dicts `{"answer": str, "score": probability}`, the best first.

    Raises:
        ValueError: no such checkpoint, an impossible top_k, an image that cannot be read (these before the first
            question is taken), an empty question.
    """
    model, processor = load_checkpoint(name, trust_remote_code)
    pipeline = UMEVQAPipeline(model=model, processor=processor, device=model.device, top_k=top_k)
    picture = read_image(image)
    if isinstance(questions, list):
        yield from zip(questions, pipeline(picture, questions), strict=True)
    else:
        for question in questions:
            yield question, pipeline(picture, question)
