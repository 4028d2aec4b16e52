"""Retrieval: the encoders side by side, each with a projection into one space, trained by a contrastive loss."""

import inspect
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .base_ume import UMEEncoders
from .configuration_ume import UMEConfig
from .inputs_ume import refuse_unknown
from .numerics_ume import widen
from .outputs_ume import RECORDS, UMEFeaturesOutput, UMERetrievalOutput

MAX_LOGIT_SCALE = math.log(100)


class UMEForImageTextRetrieval(UMEEncoders):
    r"""
    The two encoders side by side, trained so that a text and its image lie close to each other.

    Both pooled vectors are projected to `fusion_hidden_size` and scaled to length 1. Nothing is fused, so the fields
    of the fusion head and of the answers are not read. A checkpoint of this model gives its encoders to the other two,
    and takes theirs.

    Args:
        config ([`UMEConfig`]): what to build.

    Example:

    ```python
    >>> from modeling_ume import UMEForImageTextRetrieval

    >>> model = UMEForImageTextRetrieval.from_encoders_pretrained(
    ...     "bert-base-uncased", "google/vit-base-patch16-224-in21k", fusion_hidden_size=256
    ... )
    >>> similarity = model.get_text_features(**texts) @ model.get_image_features(pixel_values).T  # [T, U]
    ```"""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        if config.modalities != ["text", "vision"]:  # it is about these two by nature
            raise ValueError(
                f"{type(self).__name__} compares texts with images, and the config has "
                f"{', '.join(config.modalities)}: give it text_config and vision_config alone."
            )
        text, vision = (self._adapters[modality].pooled_width for modality in ("text", "vision"))
        self.text_projection = nn.Linear(text, config.fusion_hidden_size, bias=False)
        self.vision_projection = nn.Linear(vision, config.fusion_hidden_size, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))  # ln of one over the temperature
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, math.log(1 / 0.07))

    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> UMEFeaturesOutput | tuple:
        """
        input_ids [T, L] (or inputs_embeds [T, L, E]) and masks alike → the texts' features [T, D], each of length 1,
        as `pooler_output` of an object that also stands for them in arithmetic, see [`UMEFeaturesOutput`].
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the texts either as input_ids or as inputs_embeds.")
        record = self._recorded(output_attentions, output_hidden_states)
        features, outputs = self._text_features(input_ids, attention_mask, token_type_ids, inputs_embeds, record)
        return self._features_output(features, outputs, return_dict)

    def get_image_features(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pixel_mask: Tensor | None = None,
    ) -> UMEFeaturesOutput | tuple:
        """pixel_values [U, 3, H, W] (and pixel_mask [U, H, W], 0 where padded) → the images' features [U, D], as
        `get_text_features` returns those of texts."""
        record = self._recorded(output_attentions, output_hidden_states)
        return self._features_output(*self._image_features(pixel_values, record, pixel_mask), return_dict)

    def _text_features(self, *inputs) -> tuple[Tensor, ModelOutput]:
        *inputs, record = inputs
        names = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds")
        text, outputs = self._encode("text", dict(zip(names, inputs, strict=True)), record)
        return F.normalize(self.text_projection(text.pooled), dim=-1), outputs

    def _image_features(
        self, pixel_values: Tensor, record: dict[str, bool], pixel_mask: Tensor | None = None
    ) -> tuple[Tensor, ModelOutput]:
        image, outputs = self._encode("vision", {"pixel_values": pixel_values, "pixel_mask": pixel_mask}, record)
        return F.normalize(self.vision_projection(image.pooled), dim=-1), outputs

    def _features_output(
        self, features: Tensor, outputs: ModelOutput, return_dict: bool | None
    ) -> UMEFeaturesOutput | tuple:
        inner = {record: outputs.get(record) or None for record in RECORDS}
        output = UMEFeaturesOutput(outputs.last_hidden_state, features, **inner)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        return_loss: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        **unknown,
    ) -> UMERetrievalOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(texts, length)`): the texts.
            attention_mask, token_type_ids: as in [`UMEModel.forward`].
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): each distinct image once.
            image_index (`torch.LongTensor` of shape `(texts,)`, *optional*): which image each text belongs to; read
                by the loss only. Default: the i-th text belongs to the i-th image.
            return_loss (`bool`, *optional*): True adds the loss, see [`contrastive_loss`]. The Trainer needs it in
                the batch. Under DDP the negatives of a text or image are those of its own process's batch.
            return_dict, inputs_embeds, output_attentions, output_hidden_states, pixel_mask: as in
                [`UMEModel.forward`].

        Raises:
            ValueError: when there are no texts or no images, or the loss cannot tell which image a text belongs to.
            TypeError: for an argument that is not above, unless it is None.
        """
        known = [name for name in inspect.signature(self.forward).parameters if name != "unknown"]
        refuse_unknown(known, [name for name, value in unknown.items() if value is not None])
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Retrieval compares texts with images: give the texts as input_ids or as inputs_embeds.")
        if pixel_values is None:
            raise ValueError("pixel_values was not given: retrieval compares texts with images, so pass both.")
        if self.training:
            # In place: a clamp inside the graph has no gradient beyond its bound, and would never let go again.
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        record = self._recorded(output_attentions, output_hidden_states)
        texts = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        text, text_outputs = self._text_features(*texts, record)  # [T, D]
        image, image_outputs = self._image_features(pixel_values, record, pixel_mask)  # [U, D]
        # Half precision is too coarse for logits of up to 100.
        with torch.autocast(text.device.type, enabled=False):
            scale = widen(self.logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()
            logits = scale * widen(text) @ widen(image).T  # [T, U]
        loss = None
        if return_loss:
            if image_index is None:
                if len(text) != len(image):
                    raise ValueError(
                        f"{len(text)} texts came with {len(image)} images: pass image_index, which says for each text "
                        "the row of its image in pixel_values."
                    )
                image_index = torch.arange(len(text), device=text.device)
            elif image_index.shape != text.shape[:1]:
                raise ValueError(f"image_index has shape {tuple(image_index.shape)} for {len(text)} texts.")
            loss = contrastive_loss(logits, image_index)
        output = UMERetrievalOutput(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=text,
            image_embeds=image,
            text_model_output=text_outputs,
            vision_model_output=image_outputs,
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


def contrastive_loss(logits_per_text: Tensor, image_index: Tensor) -> Tensor:
    r"""
    The mean of the two directions of InfoNCE over a batch, as in CLIP (Radford et al. 2021).

    With s the logits and I(t) the image of text t: text to image −log(exp s_tI(t) / Σ_u exp s_tu), mean over the
    texts; image to text −log(Σ_{t: I(t) = u} exp s_tu / Σ_t exp s_tu), mean over the images that have a text. The sum
    over the several texts of an image, inside the logarithm, is MIL-NCE's (Miech et al. 2020): one of them has to fit.

    Args:
        logits_per_text (`torch.Tensor` of shape `(T, U)`): similarities over the temperature.
        image_index (`torch.LongTensor` of shape `(T,)`): which image each text belongs to; an image without a text is
            only a negative.
    """
    to_image = F.cross_entropy(logits_per_text, image_index)
    logits = logits_per_text.T  # [U, T]
    own = image_index == torch.arange(len(logits), device=logits.device)[:, None]  # [U, T]
    described = own.any(1)  # [U]
    # All texts stand in where an image has none: its loss and gradient are exactly zero, instead of NaN.
    positives = logits.masked_fill(~own & described[:, None], -torch.inf).logsumexp(1)
    to_text = (logits.logsumexp(1) - positives).sum() / described.sum()
    return (to_image + to_text) / 2
