"""The visual-question-answering pipeline: a picture and a question in, the best answers in words out.

`pipeline("visual-question-answering", model=folder, trust_remote_code=True)` finds it by `config.custom_pipelines`.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from PIL import Image
from transformers import Pipeline

from .processing_ume import decode_logits, read_image


class UMEVQAPipeline(Pipeline):
    r"""
    Answers questions about images with a [`UMEForVisualQuestionAnswering`] and its [`UMEProcessor`].

    The model is put into eval mode. Besides `model`, `processor` and `device`, `top_k` and `batch_size` can be given
    once here instead of at every call.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> ask = pipeline("visual-question-answering", model="my-checkpoint", trust_remote_code=True)
    >>> ask("street.jpg", "What colour is the bus?", top_k=2)
    [{'answer': 'red', 'score': 0.91}, {'answer': 'blue', 'score': 0.04}]
    >>> ask("street.jpg", ["Is it raining?", "How many people are there?"])
    >>> ask([{"image": "street.jpg", "question": "Is it day?"}, {"image": "beach.jpg", "question": "Who is this?"}])
    ```"""

    _load_processor = True
    # The processor brings these along.
    _load_image_processor = False
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                "The visual-question-answering pipeline needs the processor of its model: pass `processor=…`, for "
                "instance AutoProcessor.from_pretrained(folder, trust_remote_code=True)."
            )
        self.model.eval()  # a model fresh from training would answer with dropout, each time something else

    def __call__(self, image=None, question=None, top_k: int | None = None, batch_size: int | None = None):
        r"""
        Args:
            image (`PIL.Image.Image`, `str` or `os.PathLike`):
                An image, its path or its URL. Or rows: one dict `{"image": …, "question": …}`, a list of them, or
                a generator or dataset that yields them; other columns are ignored.
            question (`str` or `list[str]`, *optional*):
                One question or several about this image, which is encoded once. Not with rows, which bring their own.
            top_k (`int`, *optional*, defaults to 5): answers a question; all of them if the model knows fewer.
            batch_size (`int`, *optional*, defaults to 1): rows that go through the model together.

        Returns:
            For one question: `list[dict]` of `{"answer": str, "score": float}`, the best first; scores are
            probabilities. For a list of questions: a list of these. For rows: one of the above a row, as a list for a
            list and one by one as they are ready for a generator or dataset.

        Raises:
            ValueError: if an image cannot be read, a question is empty or not a string, or top_k or batch_size are not
                whole numbers of 1 or more.
        """
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        _check_count("batch_size", batch_size)
        params = {**self._postprocess_params, **self._sanitize_parameters(top_k)[2]}
        if question is not None or isinstance(image, (str, os.PathLike, Image.Image)):
            return self._answer_batch([{"image": image, "question": question}], params)[0]
        if isinstance(image, dict):
            return self._answer_batch([image], params)[0]
        if not isinstance(image, Iterable):
            raise ValueError(
                f"The pipeline takes (image, question), a dict with both or a list of such dicts, not {image!r}."
            )
        answers = self._answer(image, batch_size, params)
        return list(answers) if isinstance(image, (list, tuple)) else answers

    def _answer(self, rows: Iterable[dict], batch_size: int, params: dict) -> Iterator[list]:
        rows = iter(rows)
        while batch := list(islice(rows, batch_size)):
            yield from self._answer_batch(batch, params)

    def _answer_batch(self, rows: list[dict], params: dict) -> list:
        # Not by the base class' own batching: its collator keeps only the first question of a row.
        return self.run_single({"rows": rows}, {}, {}, params)

    def _sanitize_parameters(self, top_k=None, **hub_kwargs):
        # hub_kwargs: `pipeline(…)` hands over what it used itself, such as `local_files_only`.
        if top_k is None:
            return {}, {}, {}
        _check_count("top_k", top_k)
        return {}, {}, {"top_k": top_k}

    def preprocess(self, inputs: dict) -> dict:
        """{"rows": R rows} → the model's inputs for all their questions together, and how many each row has."""
        images, position, questions, image_index, counts = [], {}, [], [], []
        for row in inputs["rows"]:
            if not isinstance(row, dict) or not {"image", "question"} <= row.keys():
                raise ValueError(f"A row must be a dict with the keys 'image' and 'question', not {str(row)[:200]}.")
            asked = row["question"]
            _check_questions(asked)
            image = row["image"]
            # Rows that share an image share its encoding. Objects are told apart by identity, paths by their text.
            key = image if isinstance(image, str) else id(image)
            if key not in position:
                position[key] = len(images)
                images.append(read_image(image))
            single = isinstance(asked, str)
            questions += [asked] if single else asked
            counts.append(None if single else len(asked))
            image_index += [position[key]] * (1 if single else len(asked))
        model_inputs = self.processor(images=images, text=questions)  # [Q, L] token ids, [U, 3, H, W] pixels
        return {"model_inputs": {**model_inputs, "image_index": torch.tensor(image_index)}, "counts": counts}

    def _forward(self, inputs: dict) -> dict:
        return {"logits": self.model(**inputs["model_inputs"]).logits, "counts": inputs["counts"]}

    def postprocess(self, outputs: dict, top_k: int = 5) -> list:
        """Logits [Q, C] of all questions → a row's answers each, in the shape of its question."""
        config = self.model.config  # which answer a logit means, the model knows
        answers = iter(
            decode_logits(outputs["logits"], config.id2label, config.problem_type, min(top_k, len(config.id2label)))
        )
        return [next(answers) if count is None else list(islice(answers, count)) for count in outputs["counts"]]

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model and processor, with their code, so that the folder loads again as a pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _check_questions(asked):
    if isinstance(asked, (list, tuple)):
        if not asked:
            raise ValueError("The list of questions is empty: ask at least one.")
    else:
        asked = [asked]
    for question in asked:
        if not isinstance(question, str):
            raise ValueError(
                f"A question must be a string, or a list of strings about one image, not {question!r} "
                f"({type(question).__name__})."
            )
        if not question.strip():
            raise ValueError("A question is empty: write what you want to know about the image.")


def _check_count(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is impossible: it must be a whole number of 1 or more.")
