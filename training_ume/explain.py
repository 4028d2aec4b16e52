"""Why a model gives an answer: where it looked, which words mattered, and how much each modality did.

`explain` says it of one question about one image, `explain_dataset` of the modalities over many. Gradients are taken
in attribution.py, pictures drawn in explain_plots.py; whether a map is right is asked in faithfulness.py.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.padding_ume import unpadded
from training_ume.attribution import grad_cam, integrated_map, token_scores
from training_ume.collator import VQACollator
from training_ume.trainer import in_image_order

VIEWS = ("text", "image", "pairs")  # what the modality weights of a head are of, in this order
SUBSETS = ((), ("text",), ("image",), ("text", "image"))  # what the Shapley values are made of
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass
class PairMaps:
    """The head's own weights of question token × image token, which sum to 1 over all pairs.

    Attributes:
        tokens: the question's tokens as the model reads them, T of them, special ones too.
        maps: [T, h, w], what each token gives to each cell of the image.
        off_grid: [T], what it gives to image tokens that are no place in the image, such as a class token.
    """

    tokens: list[str]
    maps: np.ndarray
    off_grid: np.ndarray


@dataclass
class Explanation:
    """What `explain` finds out about one question, one image and one answer.

    Attributes:
        question, answer, probability, logit: what is explained.
        candidates: the best answers, `{"answer", "score"}`, the first being the predicted one.
        image: [H, W, 3] in 0 … 1, the image as the model sees it: resized and cropped.
        grad_cam: [h, w]; what is above 0 speaks for the answer.
        layer: the layer of the image encoder that it was read at.
        integrated: [16, 16], what each part of the image adds to the logit, compared with its mean colour everywhere.
        integrated_error: by how much its sum differs from what all of the image adds: the error of the integral.
        pair_weights: of the heads that weigh pairs of tokens, else None.
        words: `{"word", "start", "end", "score"}` in the question's order; scores in units of the logit.
        baseline_logit: the logit with every word replaced by padding. What the scores sum to is `logit` minus this.
        completeness_error: by how much the words' scores fail to: the error of the numerical integral.
        modality_weights: the head's own, by view, where it has some; they sum to 1.
        values: the answer's probability by what the model is given: `""`, `"text"`, `"image"`, `"text+image"`.
        shapley: `text` and `image`; they sum to `values["text+image"] - values[""]`.
    """

    question: str
    answer: str
    probability: float
    logit: float
    candidates: list[dict]
    image: np.ndarray
    grad_cam: np.ndarray
    layer: str
    integrated: np.ndarray
    integrated_error: float
    pair_weights: PairMaps | None
    words: list[dict]
    baseline_logit: float
    completeness_error: float
    modality_weights: dict[str, float] | None
    values: dict[str, float]
    shapley: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """All of it but the image, for `json.dumps`."""
        pairs = self.pair_weights
        return {
            "question": self.question,
            "answer": self.answer,
            "probability": self.probability,
            "logit": self.logit,
            "candidates": self.candidates,
            "grad_cam": {"layer": self.layer, "grid": list(self.grad_cam.shape), "map": self.grad_cam.tolist()},
            "integrated": {
                "grid": list(self.integrated.shape),
                "map": self.integrated.tolist(),
                "error": self.integrated_error,
            },
            "pair_weights": pairs
            and {"tokens": pairs.tokens, "maps": pairs.maps.tolist(), "off_grid": pairs.off_grid.tolist()},
            "words": self.words,
            "completeness": {
                "logit": self.logit,
                "baseline_logit": self.baseline_logit,
                "sum_of_words": sum(word["score"] for word in self.words),
                "error": self.completeness_error,
            },
            "modality_weights": self.modality_weights,
            "modality_values": self.values,
            "shapley": self.shapley,
        }


def need_captum() -> None:
    """Raises ImportError where captum is missing; asked before any work."""
    if find_spec("captum") is None:
        raise ImportError("Explanations need the package captum: `pip install captum` (or the extra `ume[explain]`).")


def explain(
    model: UMEForVisualQuestionAnswering,
    processor: UMEProcessor,
    image: Image.Image | str,
    question: str,
    answer: str | None = None,
) -> Explanation:
    """
    Explains one answer to one question about one image.

    Args:
        model: in eval mode, on any device.
        image: an image, its path or its URL.
        answer (`str`, *optional*): the answer to explain; default: the one that the model gives.

    Raises:
        ImportError: without captum.
        ValueError: for an image that cannot be read, an empty question, an answer that the model does not know, a
            tokenizer that cannot say where in the question a token stands, or an image encoder without a grid.
    """
    need_captum()
    if not question.strip():
        raise ValueError("The question is empty: write what you want to know about the image.")
    if not processor.tokenizer.is_fast:
        raise ValueError(
            f"{type(processor.tokenizer).__name__} does not say where in the question a token stands, so words cannot "
            "be scored: use the model's fast tokenizer, the one with a tokenizer.json."
        )
    target = None if answer is None else answer_id(model, answer)
    wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    inputs = processor(images=image, text=question, text_kwargs=wanted)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    special = inputs.pop("special_tokens_mask")[0].bool()
    seen = processor(images=image, images_kwargs={"do_normalize": False})["pixel_values"][0]
    if "pixel_mask" in inputs:  # padded to a fixed size: the image is explained as it is read
        [own] = unpadded(inputs["pixel_values"], inputs.pop("pixel_mask"))
        inputs["pixel_values"], seen = own[None], seen[:, : own.shape[1], : own.shape[2]]
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
        encoded = model.encode_images(inputs["pixel_values"])
    if "vision_grid" not in encoded:
        raise ValueError(
            f"The image encoder {model.config.vision_config.model_type!r} gives no grid of image tokens, so there is "
            "no map of where it looked: choose another encoder."
        )
    if target is None:
        target = output.logits[0].argmax().item()
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    # Padding stands for every word; special tokens stay, and so score 0.
    blank = text["input_ids"].masked_fill(~special.to(model.device), processor.tokenizer.pad_token_id)
    scores, baseline_logit, _ = token_scores(model, text, blank, encoded, target)
    cam, layer = grad_cam(model, inputs, target)
    integrated, integrated_error = integrated_map(model, inputs, target)
    words = merge_words(question, offsets, special.tolist(), scores.tolist())
    logit = output.logits[0, target].item()
    values = subset_probabilities(model, {**text, **encoded}, torch.tensor([target]))[0]
    shapley = shapley_values(values)
    return Explanation(
        question=question,
        answer=model.config.id2label[target],
        probability=values[-1].item(),
        logit=logit,
        candidates=processor.decode_answers(output.logits, top_k=min(5, model.config.num_labels))[0],
        image=seen.clamp(0, 1).permute(1, 2, 0).numpy(),
        grad_cam=cam.cpu().numpy(),
        layer=layer,
        integrated=integrated.cpu().numpy(),
        integrated_error=integrated_error,
        pair_weights=pair_maps(
            output.fusion_weights, encoded["vision_grid"], token_texts(processor, text, question, offsets, special)
        ),
        words=words,
        baseline_logit=baseline_logit,
        completeness_error=abs(sum(word["score"] for word in words) - (logit - baseline_logit)),
        modality_weights=named_weights(output.fusion_weights),
        values={"+".join(subset): value for subset, value in zip(SUBSETS, values.tolist(), strict=True)},
        shapley=dict(zip(("text", "image"), shapley.tolist(), strict=True)),
    )


def answer_id(model: UMEForVisualQuestionAnswering, answer: str) -> int:
    """The id of an answer; ValueError, with the ones most like it, for one that the model does not know."""
    ids = {label: i for i, label in model.config.id2label.items()}
    if answer not in ids:
        near = difflib.get_close_matches(answer, ids, n=5, cutoff=0.0)
        raise ValueError(
            f"The model does not know the answer {answer!r}: choose one of its {len(ids)}, such as {', '.join(near)}."
        )
    return ids[answer]


# --------------------------------------------------------------------------------------------- tokens, cells and words


def pair_maps(weights: dict[str, Tensor], grid: Tensor, tokens: list[str]) -> PairMaps | None:
    """The head's "pair_weights" [1, T, N] as a map a token; None where it has none."""
    if "pair_weights" not in weights:
        return None
    pairs, grid = weights["pair_weights"][0].detach().float().cpu(), tuple(grid.tolist())
    places = pairs[:, -math.prod(grid) :]
    return PairMaps(
        tokens=tokens,
        maps=places.unflatten(1, grid).numpy(),
        off_grid=pairs[:, : -math.prod(grid)].sum(1).numpy(),
    )


def merge_words(question: str, offsets: list[list[int]], special: list[bool], scores: list[float]) -> list[dict]:
    """
    Sums the scores of tokens over the words that they are pieces of; special tokens are left out.

    Args:
        offsets: of each token, where it begins and ends in the question.

    Returns:
        One dict a word of which the model has read a piece: `word`, `start`, `end`, `score`. A mark is a word, too.
    """
    spans = [match.span() for match in WORD.finditer(question)]
    sums: dict[tuple[int, int], float] = {}
    for (start, end), is_special, score in zip(offsets, special, scores, strict=True):
        if is_special or not spans:
            continue
        # The word it shares most with; of a token that is a space only, the word behind it.
        span = max(spans, key=lambda s: (min(s[1], end) - max(s[0], start), s[0]))
        sums[span] = sums.get(span, 0.0) + score
    return [
        {"word": question[start:end], "start": start, "end": end, "score": score}
        for (start, end), score in sorted(sums.items())
    ]


def token_texts(
    processor: UMEProcessor, text: dict[str, Tensor], question: str, offsets: list[list[int]], special: Tensor
) -> list[str]:
    """Each token as it stands in the question; special ones by their names."""
    names = processor.tokenizer.convert_ids_to_tokens(text["input_ids"][0].tolist())
    return [
        name if is_special else question[start:end].strip() or name
        for name, (start, end), is_special in zip(names, offsets, special.tolist(), strict=True)
    ]


# ---------------------------------------------------------------------------------------------------- which modality


def named_weights(weights: dict[str, Tensor]) -> dict[str, float] | None:
    """The first example's "modality_weights" by the name of the view; None where the head has none."""
    if "modality_weights" not in weights:
        return None
    return dict(zip(VIEWS, weights["modality_weights"][0].tolist(), strict=False))


@torch.no_grad()
def subset_probabilities(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], targets: Tensor | None = None
) -> Tensor:
    """
    The probability of an answer with nothing, the text, the image, and both given, [B, 4] in the order of `SUBSETS`.

    Args:
        inputs: B questions and the states of their images, as `encode_images` gives them.
        targets: [B], ids of the answers; default: those that the model gives with both.
    """
    size, subsets = len(inputs["input_ids"]), len(SUBSETS)
    rows = {k: v.repeat_interleave(subsets, 0) for k, v in inputs.items() if not k.startswith("vision_")}
    rows |= {name: value for name, value in inputs.items() if name.startswith("vision_")}
    device = rows["input_ids"].device
    rows.setdefault("image_index", torch.arange(size, device=device).repeat_interleave(subsets))
    for modality in ("text", "image"):
        given = torch.tensor([modality in subset for subset in SUBSETS], device=device)
        rows[f"{modality}_present"] = given.repeat(size)
    logits = model(**rows).logits.float().unflatten(0, (size, subsets)).cpu()  # [B, 4, C]
    single = model.config.problem_type == "single_label_classification"
    probabilities = logits.softmax(-1) if single else logits.sigmoid()
    if targets is None:
        targets = logits[:, -1].argmax(-1)
    return probabilities[torch.arange(size), :, targets]


def shapley_values(values: Tensor) -> Tensor:
    """
    Values of the `SUBSETS` [..., 4] → Shapley values of text and image [..., 2].

    With two players each is the mean of what it adds to nothing and of what it adds to the other; their sum is the
    value of both minus that of neither.
    """
    nothing, text, image, both = values.unbind(-1)
    return torch.stack([(text - nothing + both - image) / 2, (image - nothing + both - text) / 2], dim=-1)


@torch.no_grad()
def explain_dataset(
    model: UMEForVisualQuestionAnswering, processor: UMEProcessor, dataset: Dataset, batch_size: int = 64
) -> dict[str, Any]:
    """
    How much each modality does for the answers that the model gives to a data set's questions.

    Args:
        dataset (`Dataset`): rows of `load_vqa`.
        batch_size (`int`): questions a batch.

    Returns:
        `dict`: `questions`, `images`, and `kinds`: for `all` questions and for each type of answer `modality_means`.

    Raises:
        ValueError: when there is no question.
    """
    if not len(dataset):
        raise ValueError("There is no question to explain: the data set is empty.")
    ordered, order = in_image_order(dataset)
    values, weights = [], []
    for batch in tqdm(
        DataLoader(ordered, batch_size, collate_fn=VQACollator(processor)), desc="explaining", leave=False
    ):
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        inputs |= model.encode_images(inputs.pop("pixel_values"), inputs.pop("pixel_mask", None))
        values.append(subset_probabilities(model, inputs))
        given = model(**inputs).fusion_weights
        if "modality_weights" in given:
            weights.append(given["modality_weights"].float().cpu())
    values = torch.cat(values)
    weights = torch.cat(weights) if weights else None
    types = [dataset["answer_type"][i] for i in order]
    kinds = {"all": torch.ones(len(order), dtype=torch.bool)}
    for kind in sorted({kind for kind in types if kind}):
        kinds[kind] = torch.tensor([given == kind for given in types])
    return {
        "questions": len(dataset),
        "images": len(set(dataset["image"][:])),
        "kinds": {
            kind: modality_means(values[rows], None if weights is None else weights[rows])
            for kind, rows in kinds.items()
        },
    }


def modality_means(values: Tensor, weights: Tensor | None) -> dict[str, Any]:
    """
    Means over questions.

    Args:
        values: [Q, 4], see `subset_probabilities`.
        weights: the head's own modality weights [Q, views], if it has some.

    Returns:
        `dict`: `questions`; `values`, the mean probability by what the model is given; `shapley`, the mean Shapley
        values; `share`, what part each modality has in the sum of their magnitudes over all questions, which is 1 for
        both together (None where nothing moves any answer); `modality_weights`, by view, or None.
    """
    shapley = shapley_values(values)
    moved = shapley.abs().sum(0)  # [2]
    names = ("text", "image")
    share = dict(zip(names, (moved / moved.sum()).tolist(), strict=True)) if moved.sum() > 0 else None
    return {
        "questions": len(values),
        "values": {"+".join(s): value for s, value in zip(SUBSETS, values.mean(0).tolist(), strict=True)},
        "shapley": dict(zip(names, shapley.mean(0).tolist(), strict=True)),
        "share": share,
        "modality_weights": None if weights is None else dict(zip(VIEWS, weights.mean(0).tolist(), strict=False)),
    }


def modality_table(kinds: dict[str, dict]) -> list[tuple[str, ...]]:
    """`kinds` of `explain_dataset` as lines of cells, the first being the header; shares in percent."""
    views = list(kinds["all"]["modality_weights"] or {})
    header = ("", "questions", "share text", "share image", "P neither", "P text", "P image", "P both")
    lines = [(*header, *(f"weight {view}" for view in views))]
    for kind, means in kinds.items():
        shares = ("–", "–") if means["share"] is None else (f"{100 * s:.1f} %" for s in means["share"].values())
        lines.append(
            (
                kind,
                f"{means['questions']:,}",
                *shares,
                *(f"{value:.3f}" for value in means["values"].values()),
                *(f"{means['modality_weights'][view]:.3f}" for view in views),
            )
        )
    return lines
