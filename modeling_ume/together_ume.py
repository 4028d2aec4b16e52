"""Heads that let the text encoder read the tokens of other modalities, among the words, as one row."""

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .modalities_ume import MODALITIES
from .streams_ume import Stream, masked_mean, real_first, reorder


class TogetherReader:
    """What a model with such a head (`reads_in_encoder`) does besides; for a class that has encoders and `fusion`."""

    @property
    def _embedding_width(self) -> int:
        return self.text_model.get_input_embeddings().weight.shape[-1]

    def _embed_text(self, given: dict[str, Tensor]) -> Stream:
        """The questions' stream before the text encoder's layers: their tokens' embeddings, no summary yet."""
        embeddings = given.get("inputs_embeds")
        if embeddings is None:
            embeddings = self.text_model.get_input_embeddings()(given["input_ids"])  # [B, L, E]
        mask = MODALITIES["text"].real(self.text_model, given)
        return Stream(embeddings, mask, embeddings[:, 0], mask.any(1), modality="text")

    def _read_together(
        self, streams: dict[str, Stream], token_type_ids: Tensor | None, record: dict[str, bool] | None = None
    ) -> tuple[dict[str, Stream], ModelOutput]:
        """The text encoder reads the text's embeddings and the others' tokens as one row; what it says of each.

        A row has no gaps: what is not real, or absent, is moved to its end, so that positions are counted over real
        tokens. The text comes first and keeps the positions it was trained at, unless the encoder is causal: then the
        others come first, for the text to read them.

        Raises:
            ValueError: when the encoder has fewer positions than there are tokens.
        """
        adapter, text = self._adapters["text"], streams["text"]
        others = {modality: stream for modality, stream in streams.items() if modality != "text"}
        in_turn = {"text": text, **others}
        lengths = [stream.states.shape[1] for stream in in_turn.values()]
        limit = self._text_positions
        if limit is not None and sum(lengths) > limit:
            counted = (f"{n} {MODALITIES[m].called} tokens" for m, n in zip(in_turn, lengths, strict=True))
            raise ValueError(
                f"fusion={self.config.fusion!r}: {' and '.join(counted)} are more than "
                f"the {limit} positions of the text encoder {self.config.text_config.model_type!r}: shorten the "
                "questions, set feature_grid to average the image's tokens, or choose another encoder."
            )
        masks = [stream.mask & stream.present[:, None] for stream in in_turn.values()]
        rows = [text.states.masked_fill(~masks[0][..., None], 0.0), *self.fusion.inputs(list(others.values()))]
        types = [torch.zeros_like(mask, dtype=torch.long) for mask in masks]
        if token_type_ids is not None:
            types[0] = token_type_ids
        turn = -1 if adapter.causal else 1
        embeddings, mask, types = (torch.cat(parts[::turn], dim=1) for parts in (rows, masks, types))
        order = real_first(mask)  # [B, L + N]
        mask = reorder(mask, order)
        # Attention over nothing at all would be NaN, in an example that has neither.
        mask = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
        inputs = {"inputs_embeds": reorder(embeddings, order), "attention_mask": mask.long()}
        if token_type_ids is not None and "token_type_ids" in adapter.arguments:
            inputs["token_type_ids"] = reorder(types, order)
        if "use_cache" in adapter.arguments:
            inputs["use_cache"] = False
        outputs = adapter.run(self.text_model, inputs, record)
        states = reorder(outputs.last_hidden_state, order.argsort(dim=1)).split(lengths[::turn], dim=1)[::turn]
        order = real_first(text.mask)  # the first token sums up the text, also where padding stands before it
        mask = reorder(text.mask, order)
        read = {}
        for (modality, stream), said in zip(in_turn.items(), states, strict=True):
            if modality == "text":
                pooled = adapter.pool(outputs, reorder(said, order), mask, content=mask)
            else:
                pooled = masked_mean(said, stream.mask)
            read[modality] = Stream(said, stream.mask, pooled, stream.present, stream.grid, modality=modality)
        return {modality: read[modality] for modality in streams}, outputs
