"""Finding the image of a text and the texts of an image: batches of pairs, and recall@k.

A pair is a dict {"text": str, "image": path}; pairs with the same path give that image several texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from modeling_ume import UMEForImageTextRetrieval, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.collator import VQACollator


class PairCollator:
    """
    Collates pairs into what `UMEForImageTextRetrieval.forward` takes, each distinct image once, and asks for the loss.

    A batch of T pairs about U distinct images holds `input_ids`, `attention_mask`, `token_type_ids` [T, L] where they
    apply, `image_index` [T] and `pixel_values` [U, 3, H, W], and `return_loss`, True. Texts of one image that meet in
    a batch are its positives together. The Trainer must leave the columns alone: `remove_unused_columns=False`.

    Args:
        processor (`UMEProcessor`): has a `tokenizer` and an `image_processor`.
        max_text_length (`int`, *optional*): in tokens; defaults to the tokenizer's own limit.
        image_cache_bytes (`int`, *optional*, defaults to 0): as in [`VQACollator`].

    Raises:
        ValueError, VQADataError: as [`VQACollator`]; the number of a question is that of its pair in the batch.
    """

    def __init__(self, processor: UMEProcessor, max_text_length: int | None = None, image_cache_bytes: int = 0):
        self.collate = VQACollator(processor, max_question_length=max_text_length, image_cache_bytes=image_cache_bytes)

    def __call__(self, pairs: Sequence[dict]) -> dict:
        rows = [{"question_id": i, "question": pair["text"], "image": pair["image"]} for i, pair in enumerate(pairs)]
        return {**self.collate(rows), "return_loss": True}


def recall_at_k(similarity: Tensor, image_index: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """
    How often what belongs together is among the k most similar, in both directions.

    A text counts where its image is among the k first of all images; an image counts where any of its texts is among
    the k first of all texts, and images without a text are not asked for. Among equally similar ones, and for NaN, the
    right one comes last: a model that finds everything equal finds nothing.

    Args:
        similarity (`torch.Tensor` of shape `(T, U)`): of each text to each image, higher is more similar.
        image_index (`torch.LongTensor` of shape `(T,)`): which image each text belongs to, 0 … U − 1.
        ks: the ks.

    Returns:
        `dict`: `text_to_image_recall@k` and `image_to_text_recall@k` for every k, in percent.

    Raises:
        ValueError: for shapes that do not fit, an index that is not among the images, or a k below 1.
    """
    if similarity.ndim != 2 or image_index.shape != similarity.shape[:1] or similarity.numel() == 0:
        raise ValueError(
            f"similarity has shape {tuple(similarity.shape)} and image_index {tuple(image_index.shape)}: they must be "
            "[texts, images] and [texts], with at least one of each."
        )
    if image_index.min() < 0 or image_index.max() >= similarity.shape[1]:
        raise ValueError(f"image_index must lie in 0 … {similarity.shape[1] - 1}, as there are so many images.")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={tuple(ks)} is impossible: give ranks from 1 on.")
    right = similarity.gather(1, image_index[:, None])  # [T, 1]
    # Not `similarity >= right`, which NaN would pass; the right one itself makes rank 1.
    text_ranks = (~(similarity < right)).sum(1)  # [T]
    own = image_index == torch.arange(similarity.shape[1], device=similarity.device)[:, None]  # [U, T]
    described = own.any(1)
    own, candidates = own[described], similarity.T[described]
    best = candidates.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    image_ranks = 1 + (~(candidates < best) & ~own).sum(1)
    recalls = {}
    for direction, ranks in (("text_to_image", text_ranks), ("image_to_text", image_ranks)):
        for k in ks:
            recalls[f"{direction}_recall@{k}"] = 100 * (ranks <= k).double().mean().item()
    return recalls


@torch.no_grad()
def evaluate_retrieval(
    model: UMEForImageTextRetrieval,
    processor: UMEProcessor,
    pairs: Sequence[dict],
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
) -> dict:
    """
    Recall@k of a model over all the texts and images of `pairs`, every text and every distinct image encoded once.

    Args:
        model: in eval mode or not, on any one device.
        pairs: see the head of this file.
        batch_size (`int`): texts, or images, a batch.

    Returns:
        `dict`: `texts` and `images`, how many there are, and the recalls of `recall_at_k`.

    Raises:
        ValueError: when there are no pairs.
        VQADataError: for an image that cannot be read.
    """
    if len(pairs) == 0:
        raise ValueError("There are no pairs to evaluate: give at least one text with its image.")
    texts = [{"question": pair["text"]} for pair in pairs]
    position = {path: u for u, path in enumerate(dict.fromkeys(pair["image"] for pair in pairs))}
    images = [{"question_id": f"of image {u}", "image": path} for path, u in position.items()]

    def features(rows: list[dict], inputs: str, encode: Callable[..., ModelOutput], names: tuple[str, ...]) -> Tensor:
        loader = DataLoader(rows, batch_size, collate_fn=VQACollator(processor, inputs=inputs))
        batches = tqdm(loader, desc=f"encoding {inputs}s", leave=False)
        moved = ({k: v.to(model.device) for k, v in batch.items() if k in names} for batch in batches)
        return torch.cat([encode(**inputs, return_dict=True).pooler_output for inputs in moved]).float().cpu()

    was_training = model.training
    model.eval()
    text = features(texts, "question", model.get_text_features, MODALITIES["text"].inputs)  # [T, D]
    image = features(images, "image", model.get_image_features, ("pixel_values", "pixel_mask"))  # [U, D]
    model.train(was_training)
    image_index = torch.tensor([position[pair["image"]] for pair in pairs])
    return {"texts": len(text), "images": len(image), **recall_at_k(text @ image.T, image_index, ks)}
