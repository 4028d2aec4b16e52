"""Answering with the exported ONNX graphs."""

from __future__ import annotations

import os

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume.images_ume import read_image
from modeling_ume.tasks_ume import decode_logits
from training_ume.data.collator import VQACollator
from training_ume.data.order import in_image_order
from training_ume.evaluation.scoring import scoring_of
from training_ume.serve.onnx_graphs import IMAGE_ENCODER, QUESTION_FUSION, question_inputs
from training_ume.serve.onnx_sessions import Sessions


class OnnxVQA(Sessions):
    r"""
    Answers questions about images from an exported folder with onnxruntime; the model's own code is not run.

    Args:
        folder: what `export_onnx` wrote.
        precision (`str`): `"fp32"` or, where it was exported, `"int8"`.

    Raises:
        ImportError: without onnxruntime.
        ValueError: when the folder holds no such export.

    Example:

    ```python
    >>> ask = OnnxVQA("exported")
    >>> street = ask.encode("street.jpg")
    >>> ask(street, "What colour is the bus?", top_k=2)
    [{'answer': 'red', 'score': 0.91}, {'answer': 'blue', 'score': 0.04}]
    >>> ask(street, ["Is it raining?", "How many people are there?"])
    ```"""

    def __init__(self, folder: str | os.PathLike, precision: str = "fp32"):
        super().__init__(folder, precision)
        if "modalities" in self.about:
            raise ValueError(
                f"The folder {str(folder)!r} holds the graphs of a model of {', '.join(self.about['modalities'])}: "
                "answer with OnnxModel of training_ume.serve.onnx_any."
            )
        self._token_types = "token_type_ids" in self.about[QUESTION_FUSION]["inputs"]

    def encode(self, images) -> dict[str, np.ndarray]:
        """
        What the image encoder says of one image or a list of them, for any number of questions.

        Args:
            images: a PIL image, its path or URL, or a list of these.

        Returns:
            `vision_states` [U, N, D_m] and `vision_pooled` [U, D_p], float32.

        Raises:
            ValueError: when an image cannot be read.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        processed = self.processor(images=[read_image(image) for image in images])
        if "pixel_mask" in processed:
            raise ValueError(
                "The image processor pads images of different sizes, which the exported graphs do not read: encode "
                "them one by one, or let it resize or crop to one height and width."
            )
        pixel_values = processed["pixel_values"]
        return self.encode_pixels(pixel_values.numpy())

    def encode_pixels(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """As `encode`, of pixel_values [U, 3, H, W], as the processor makes them."""
        outputs = self.about[IMAGE_ENCODER]["outputs"]
        return dict(zip(outputs, self._run(IMAGE_ENCODER, {"pixel_values": pixel_values}), strict=True))

    def logits(self, questions: dict[str, np.ndarray]) -> np.ndarray:
        """By name the inputs of the second graph, for B questions → logits [B, C]. Other names are passed over."""
        return self._run(QUESTION_FUSION, questions)[0]

    def __call__(self, image, question: str | list[str], top_k: int = 5):
        """
        Args:
            image: what `encode` takes or has given, one image.
            question: one question, or several about this image.
            top_k: answers a question; all of them if the model knows fewer.

        Returns:
            A list of `{"answer": str, "score": probability}`, the best first; for several questions, a list of these.

        Raises:
            ValueError: when the image cannot be read, a question is no string, or top_k is below 1.
        """
        encoded = image if isinstance(image, dict) else self.encode(image)
        if len(encoded["vision_states"]) != 1:
            raise ValueError(f"{len(encoded['vision_states'])} images were given: ask about one at a time.")
        asked = [question] if isinstance(question, str) else question
        tokens = question_inputs(self.processor, asked, self.about["max_question_length"], self._token_types)
        inputs = {name: values.numpy() for name, values in tokens.items()}
        logits = self.logits({**inputs, **encoded, "image_index": np.zeros(len(asked), np.int64)})
        top_k = min(top_k, len(self._id2label))
        answers = decode_logits(torch.from_numpy(logits), self._id2label, self.about["problem_type"], top_k)
        return answers[0] if isinstance(question, str) else answers

    def predict(self, dataset: Dataset, batch_size: int = 64, num_workers: int = 0) -> list:
        """The best answer to every question of rows of `load_vqa`, in their order."""
        collator = VQACollator(self.processor, max_question_length=self.about["max_question_length"])
        ordered, order = in_image_order(dataset)
        loader = DataLoader(ordered, batch_size, collate_fn=collator, num_workers=num_workers)
        answers, positions = [None] * len(order), iter(order)
        scoring = scoring_of(self.about["problem_type"], self._id2label, self.about.get("label_transform"))
        for batch in tqdm(loader, desc="answering", leave=False):
            inputs = {name: values.numpy() for name, values in batch.items()}
            logits = torch.from_numpy(self.logits({**inputs, **self.encode_pixels(inputs["pixel_values"])}))
            for answer in scoring.answers(scoring.kept(logits).tolist()):
                answers[next(positions)] = answer
        return answers
