"""Retrieval among any modalities: each encoder with a projection into one space, and a contrastive loss a pair."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .base_ume import UMEEncoders
from .configuration_ume import UMEConfig
from .inputs_ume import takes_inputs
from .modalities_ume import MODALITIES
from .numerics_ume import widen
from .outputs_ume import RECORDS, UMEContrastOutput, UMEFeaturesOutput
from .retrieval_ume import MAX_LOGIT_SCALE
from .streams_ume import Stream


class UMEForRetrieval(UMEEncoders):
    r"""
    Encoders side by side, trained so that what belongs together lies close together, in every pair of modalities that
    `config.retrieval_pairs` names (left out: every two that the config has).

    The summary of each is projected to `fusion_hidden_size` and scaled to length 1. Nothing is fused, so the fields of
    the fusion head and of the answers are not read. Weights of [`UMEForImageTextRetrieval`] load into a model of text
    and vision, and the other way round.

    Args:
        config ([`UMEConfig`]): what to build.

    Example:

    ```python
    >>> from modeling_ume import UMEForRetrieval

    >>> model = UMEForRetrieval.from_encoders_pretrained(audio="openai/whisper-base", vision="microsoft/resnet-50")
    >>> sounds = model.get_features("audio", **processor(audio=clips))
    >>> images = model.get_features("vision", **processor(images=pictures))
    >>> similarity = sounds @ images.T  # [clips, pictures]
    ```"""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self.pairs = [tuple(pair) for pair in config.pairs_to_compare()]
        for modality in config.modalities:
            if any(modality in pair for pair in self.pairs):
                width = self._adapters[modality].pooled_width
                projection = nn.Linear(width, config.fusion_hidden_size, bias=False)
                setattr(self, f"{modality}_projection", projection)
        self.logit_scale = nn.Parameter(torch.empty(()))  # ln of one over the temperature
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, math.log(1 / 0.07))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part, as of the other models: the projections are the head."""
        encoders = [parameter for encoder in self._encoders() for parameter in encoder.parameters()]
        known = {id(parameter) for parameter in encoders}
        head = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return {"encoders": encoders, "fusion": head, "classifier": []}

    def get_features(
        self,
        modality: str,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Tensor,
    ) -> UMEFeaturesOutput | tuple:
        """
        Where items of one modality lie in the common space.

        Args:
            modality: its key in `MODALITIES`, or another name that it has.
            inputs: what `forward` takes of it, of U items.

        Returns:
            Their features [U, D], each of length 1, as `pooler_output` of an object that also stands for them in
            arithmetic, see [`UMEFeaturesOutput`].

        Raises:
            ValueError: for a modality that no pair has, or inputs that are not of it.
        """
        modality = self._compared(modality)
        record = self._recorded(output_attentions, output_hidden_states)
        given = {name: value for name, value in inputs.items() if value is not None}
        kind = MODALITIES[modality]
        if not kind.given(given):
            raise ValueError(f"{kind.main_input} was not given: get_features({modality!r}) needs it.")
        features, stream, outputs = self._features(modality, given, record)
        inner = {name: (outputs or {}).get(name) or None for name in RECORDS}
        output = UMEFeaturesOutput(stream.states, features, **inner)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _compared(self, modality: str) -> str:
        modality = self._modality(modality)
        if not any(modality in pair for pair in self.pairs):
            raise ValueError(
                f"{modality} is in none of the pairs that this model compares: "
                f"{', '.join(' and '.join(pair) for pair in self.pairs)}."
            )
        return modality

    def _features(
        self, modality: str, given: dict[str, Tensor], record: dict[str, bool] | None = None
    ) -> tuple[Tensor, Stream, ModelOutput | None]:
        """The features of the items of a modality, its stream, and what the encoder returned."""
        kind = MODALITIES[modality]
        if kind.states in given:
            stream, outputs = self._stored_stream(kind, given), None
        else:
            stream, outputs = self._encode(modality, given, record)
        projection = getattr(self, f"{modality}_projection")
        return F.normalize(projection(stream.pooled), dim=-1), stream, outputs

    @takes_inputs()
    def forward(
        self,
        inputs: dict[str, Tensor],
        return_loss: bool | None = None,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> UMEContrastOutput | tuple:
        r"""
        Args:
            return_loss (`bool`, *optional*): True adds the loss: the mean over the pairs of [`pair_loss`]. Under DDP
                what an item is told from is the batch of its own process.

        The other arguments are those of [`UMEModel.forward`]: of each modality that a pair names the distinct items
        once, with `…_index` `(batch,)`, which of them an example has (default: the i-th has the i-th), and
        `…_present` `(batch,)`, False where an example has none. Of a modality that is not given, no pair is compared.

        Raises:
            ValueError: where no pair has both of its modalities, or their numbers of examples differ.
        """
        if self.training:
            # In place: a clamp inside the graph has no gradient beyond its bound, and would never let go again.
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        record = self._recorded(output_attentions, output_hidden_states)
        own = self._given(inputs)
        there = [pair for pair in self.pairs if all(modality in own for modality in pair)]
        if not there:
            wanted = " or ".join(" and ".join(MODALITIES[m].main_input for m in pair) for pair in self.pairs)
            raise ValueError(f"No pair of modalities was given to compare: give {wanted}.")
        compared = [modality for modality in own if any(modality in pair for pair in there)]
        embeds, outputs = {}, {}
        for modality in compared:
            embeds[modality], _, outputs[modality] = self._features(modality, own[modality], record)
        # Half precision is too coarse for logits of up to 100.
        with torch.autocast(self.device.type, enabled=False):
            scale = widen(self.logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()
            logits = {pair_name(pair): scale * widen(embeds[pair[0]]) @ widen(embeds[pair[1]]).T for pair in there}
        loss = None
        if return_loss:
            items = self._items(own, embeds)
            losses = [pair_loss(logits[pair_name(pair)], *together(items[pair[0]], items[pair[1]])) for pair in there]
            loss = torch.stack(losses).mean()
        output = UMEContrastOutput(
            loss=loss,
            logits=logits,
            embeds=embeds,
            model_outputs={modality: output for modality, output in outputs.items() if output is not None},
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _given(self, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What was given of each modality that the model has; ValueError for what it does not read, or cannot."""
        own = {
            modality: {name: inputs[name] for name in MODALITIES[modality].all_inputs if name in inputs}
            for modality in self.config.modalities
        }
        strange = [name for name in inputs if not any(name in given for given in own.values())]
        if strange:
            raise ValueError(
                f"{strange[0]} was given, but this model reads {', '.join(own)}: leave it out, or build the model "
                "with such an encoder."
            )
        for modality, given in own.items():
            if MODALITIES[modality].given(given) and not torch.compiler.is_compiling():
                MODALITIES[modality].check(self._adapters[modality], getattr(self, f"{modality}_model"), given)
        return {modality: given for modality, given in own.items() if MODALITIES[modality].given(given)}

    def _items(self, own: dict[str, dict[str, Tensor]], embeds: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each modality which item every example has, [B]; −1: it has none."""
        items = {}
        for modality, features in embeds.items():
            kind = MODALITIES[modality]
            index = own[modality].get(kind.index)
            index = torch.arange(len(features), device=features.device) if index is None else index.to(features.device)
            present = own[modality].get(kind.present)
            if present is not None and present.shape != index.shape:
                raise ValueError(
                    f"{kind.present} has shape {tuple(present.shape)} for {len(index)} examples: give one truth value "
                    "an example."
                )
            items[modality] = index if present is None else index.masked_fill(~present.bool().to(index.device), -1)
        counts = {modality: len(index) for modality, index in items.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} of {modality}" for modality, count in counts.items())
            raise ValueError(
                f"The examples of the modalities differ in number ({said}): give "
                f"{' and '.join(MODALITIES[modality].index for modality in counts)}, which say for each example the "
                "item that it has."
            )
        return items


def pair_name(pair: tuple[str, str]) -> str:
    """What a pair is called in outputs: `audio_vision`."""
    return "_".join(pair)


def together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Which item of one modality and of another each example has, [B] each, −1 where none → the same of those examples
    that have both."""
    both = (first >= 0) & (second >= 0)
    return first[both], second[both]


def pair_loss(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""
    InfoNCE (van den Oord et al. 2018) in both directions, and MIL-NCE (Miech et al. 2020) where an item has several.

    With P(u) the items of the second modality that belong to item u of the first, u's loss is
    −log(Σ_{v ∈ P(u)} exp s_uv / Σ_v exp s_uv): of several candidates one has to fit. It is the mean over the items
    that have any, and then over both directions. Items that no example with both has are no negatives either.

    Args:
        logits (`torch.Tensor` of shape `(U, V)`): similarities over the temperature.
        first, second (`torch.LongTensor` of shape `(B,)`): the rows and columns that belong together, one pair an
            example; none: the loss is 0.
    """
    own = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    own[first, second] = True
    used = own.any(1)[:, None] & own.any(0)[None]  # [U, V]
    losses = []
    for scores, right, seen in ((logits, own, used), (logits.T, own.T, used.T)):
        asked = right.any(1)
        # All items stand in where one has none: its loss and gradient are exactly zero, instead of NaN.
        positives = scores.masked_fill(~right & asked[:, None], -torch.inf).logsumexp(1)
        every = scores.masked_fill(~seen & asked[:, None], -torch.inf).logsumexp(1)
        losses.append((every - positives).sum() / asked.sum().clamp(min=1))
    return (losses[0] + losses[1]) / 2
