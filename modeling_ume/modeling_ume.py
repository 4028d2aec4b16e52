"""The models: two encoders with a fusion head over their streams, and with a classifier over answers on top of it.

For retrieval the same two encoders stand side by side, each with a projection into one common space.
"""

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .arguments_ume import route_arguments  # noqa: F401
from .base_ume import UMEEncoders, UMEPreTrainedModel
from .choices_ume import find_choices  # noqa: F401
from .configuration_ume import UMEConfig
from .encoders_ume import EncoderAdapter
from .fusion_attention_ume import Attention  # noqa: F401
from .fusion_base_ume import FusionModule  # noqa: F401
from .fusion_late_ume import LateFusion  # noqa: F401
from .fusion_pairs_ume import BANFusion  # noqa: F401
from .fusion_pooled_ume import ConcatFusion  # noqa: F401
from .fusion_ume import build_fusion
from .images_ume import read_image  # noqa: F401
from .limits_ume import max_parameters  # noqa: F401
from .loading_ume import split_arguments  # noqa: F401
from .numerics_ume import cut_off, widen
from .outputs_ume import RECORDED, UMEModelOutput, UMEVQAOutput, records, refuse_unknown
from .own_heads_ume import head_of, register_fusion  # noqa: F401 (users import register_fusion from here, too)
from .padding_ume import join_streams
from .pairs_triton_ume import fits_kernels  # noqa: F401
from .pairs_ume import pair_mean  # noqa: F401
from .pipeline_ume import UMEVQAPipeline  # noqa: F401
from .probe_ume import Shape  # noqa: F401
from .processing_ume import process_images  # noqa: F401
from .retrieval_ume import UMEForImageTextRetrieval
from .simple_encoders_ume import SIMPLE_ENCODERS  # noqa: F401
from .stored_ume import own_fields  # noqa: F401
from .streams_ume import Stream, check_shape, drop_modality, looked_at, masked_mean, real_first, reorder, select_images
from .tasks_ume import (
    ViewClassifiers,
    answer_loss,
    decode_logits,  # noqa: F401
)
from .text_ume import check_embeddings, check_tokens, position_limit
from .travelling_ume import own_name  # noqa: F401
from .trust_ume import ForeignCodeError  # noqa: F401
from .vision_ume import check_pixels


class UMEModel(UMEEncoders):
    r"""
    Two encoders and the fusion head over their streams: text and image in, one fused vector out.

    Args:
        config ([`UMEConfig`]): what to build; the encoders get random weights (`from_pretrained` and
            `from_encoders_pretrained` fill them).
    """

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        head, inputs = head_of(config), {}
        text, vision = self._adapters.values()
        widths, pooled_widths = [text.width, vision.width], [text.pooled_width, vision.pooled_width]
        if head.reads_in_encoder:
            if "inputs_embeds" not in text.arguments:
                raise ValueError(
                    f"fusion={config.fusion!r} lets the text encoder read image tokens, but the forward of "
                    f"{config.text_config.model_type!r} takes no inputs_embeds: choose another text encoder or head."
                )
            inputs = {"embedding_width": self._embedding_width, "input_widths": [vision.width]}
            widths[1] = pooled_widths[1] = text.width  # the head is given what the text encoder says of the image
            self._text_positions = position_limit(self.text_model)
        self.fusion = build_fusion(config, widths, pooled_widths, **inputs)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        text_states: Tensor | None = None,
        text_pooled: Tensor | None = None,
        vision_states: Tensor | None = None,
        vision_pooled: Tensor | None = None,
        vision_grid: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
        **unknown,
    ) -> UMEModelOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): the questions; None: no text at all.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for real tokens, wherever the
                padding stands. Default: all but the text encoder's padding tokens at either end.
            token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): passed on where the encoder
                takes it.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*): each distinct
                image once; None: no image at all.
            image_index (`torch.LongTensor` of shape `(batch,)`, *optional*): which image each question looks at.
                Default: the i-th question looks at the i-th image.
            text_present, image_present (`torch.BoolTensor` of shape `(batch,)`, *optional*): False where an example
                lacks the modality; what stands in its place is then ignored.
            text_states, text_pooled (`torch.FloatTensor`, *optional*): `(batch, length, width)` and `(batch, width)`,
                what the text encoder once said about the questions, instead of `input_ids`; `attention_mask` says
                which of the states are real.
            vision_states, vision_pooled (`torch.FloatTensor`, *optional*): `(images, tokens, width)` and
                `(images, width)`, the same of each distinct image, instead of `pixel_values`.
            vision_grid (`torch.LongTensor` of shape `(2,)`, *optional*): height and width of the grid that the last
                of `vision_states` form.
            return_dict (`bool`, *optional*): False returns a tuple. Default: what the config says.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, width)`, *optional*): the questions' word
                embeddings, instead of `input_ids`, for the text encoders that take them.
            output_attentions, output_hidden_states (`bool`, *optional*): also return the encoders' inner states, see
                [`EncoderRecords`]. Default: what the config says.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`, *optional*): 0 where an image was padded on
                the right and at the bottom to the size of the others. Each is then read at its own size, as if it had
                come alone. Default: no image was padded.
            vision_mask (`torch.Tensor` of shape `(images, tokens)`, *optional*): 1 for those of `vision_states` that
                the image has. Default: all.

        Raises:
            ValueError: when neither modality is given, one is given twice, or questions and images do not match in
                number, or one of the tensors has another shape or type than said above.
            TypeError: for an argument that is not above, unless it is None.
        """
        refuse_unknown(self.forward, unknown)
        if not torch.compiler.is_compiling():
            self._check_inputs(input_ids, pixel_values, image_index, inputs_embeds)
            texts = next((x for x in (input_ids, inputs_embeds, text_states) if x is not None), None)
            rows = image_index if image_index is not None else vision_states if pixel_values is None else pixel_values
            rows = texts if texts is not None else rows
            if rows is not None:
                check_shape("text_present", text_present, rows.shape[:1], "one truth value an example")
                check_shape("image_present", image_present, rows.shape[:1], "one truth value an example")
            if texts is not None:
                check_shape("attention_mask", attention_mask, texts.shape[:2], "one value a token")
                check_shape("token_type_ids", token_type_ids, texts.shape[:2], "one value a token")
            if vision_states is not None:
                check_shape("vision_mask", vision_mask, vision_states.shape[:2], "one value a token")
        text = image = None
        record, recorded = self._recorded(output_attentions, output_hidden_states), {}
        questions = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "text_states": text_states}
        given = [name for name, value in questions.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} were both given: give the questions once.")
        if text_states is not None:
            if self.fusion.reads_in_encoder:
                raise ValueError(
                    f"fusion={self.config.fusion!r} reads questions and images together, so stored text_states cannot "
                    "be used: give input_ids."
                )
            text = self._stream("text", text_states, text_pooled, attention_mask)
        elif given and self.fusion.reads_in_encoder:
            text = self._embed_text(input_ids, attention_mask, inputs_embeds)
        elif given:
            text, outputs = self._encode_text(input_ids, attention_mask, token_type_ids, inputs_embeds, record)
            recorded.update(records("text", outputs))
        if vision_states is not None:
            if pixel_values is not None:
                raise ValueError("pixel_values and vision_states were both given: give the images once.")
            grid = None if vision_grid is None else tuple(vision_grid.tolist())
            image = self._stream("vision", vision_states, vision_pooled, vision_mask, grid)
        elif pixel_values is not None:
            if image_present is not None:
                # Their gradients pass through the encoder, where zero times what is no number is no number.
                pixel_values = cut_off(pixel_values, looked_at(pixel_values, image_index, image_present))
            image, outputs = self._encode_image(pixel_values, record, pixel_mask)
            recorded.update(records("vision", outputs))
        if text is None and image is None:
            raise ValueError("Neither input_ids nor pixel_values was given: a UME model needs at least one of them.")
        if image is not None:
            image = select_images(image, image_index, batch_size=None if text is None else text.states)
        adapters = self._adapters
        text = text if text is not None else self._absent(adapters["text"], like=image)
        image = image if image is not None else self._absent(adapters["vision"], like=text)
        for stream, present in ((text, text_present), (image, image_present)):
            if present is not None:
                stream.present = stream.present & present.bool()
        if self.training and self.config.modality_dropout > 0:
            drop_modality(text, image, self.config.modality_dropout)
        if self.fusion.reads_in_encoder:
            text, image, outputs = self._read_together(text, image, token_type_ids, record)
            recorded.update(records("text", outputs))
        output = self.fusion([text, image])
        output = UMEModelOutput(
            fused=output.fused,
            fusion_weights=output.weights,
            view_present=output.present,
            view_log_shares=output.log_shares,
            **recorded,
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _check_inputs(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        image_index: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> None:
        """Says what would otherwise fail deep inside an encoder, or not at all."""
        text, vision = self.config.text_config, self.config.vision_config
        if inputs_embeds is not None:
            readable = "inputs_embeds" in self._adapters["text"].arguments
            check_embeddings(inputs_embeds, self._embedding_width if readable else None, text.model_type)
        if input_ids is not None:
            known = getattr(self.text_model.get_input_embeddings(), "num_embeddings", None)
            check_tokens(input_ids, known)
        if pixel_values is not None:
            check_pixels(pixel_values, getattr(vision, "num_channels", 3), image_index)

    def _stream(
        self,
        modality: str,
        states: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Stream:
        """The stream of an encoder's stored output, which may have been kept in a shorter type."""
        adapter = self._adapters[modality]
        width, pooled_width = states.shape[-1], None if pooled is None else pooled.shape[-1]
        if (width, pooled_width) != (adapter.width, adapter.pooled_width):
            raise ValueError(
                f"{modality}_states and {modality}_pooled are {width} and {pooled_width or 0} wide, but the encoder's "
                f"are {adapter.width} and {adapter.pooled_width}: give both, as this model's own encoder makes them."
            )
        if mask is None:
            mask = torch.ones(states.shape[:2], device=states.device)
        mask = mask.bool()
        return Stream(states.to(self.dtype), mask, pooled.to(self.dtype), mask.any(1), grid)

    @property
    def _embedding_width(self) -> int:
        return self.text_model.get_input_embeddings().weight.shape[-1]

    def _embed_text(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, embeddings: Tensor | None = None
    ) -> Stream:
        """The questions' stream before the text encoder's layers: their tokens' embeddings, no summary yet."""
        if embeddings is None:
            embeddings = self.text_model.get_input_embeddings()(input_ids)  # [B, L, E]
        given = embeddings if input_ids is None else input_ids
        mask = self._adapters["text"].text_mask(self.text_model, attention_mask, given)
        return Stream(embeddings, mask, embeddings[:, 0], mask.any(1))

    def _read_together(
        self, text: Stream, image: Stream, token_type_ids: Tensor | None, record: dict[str, bool] | None = None
    ) -> tuple[Stream, Stream, ModelOutput]:
        """The text encoder reads the text's embeddings and the image's tokens as one row; what it says of each.

        A row has no gaps: what is not real, or absent, is moved to its end, so that positions are counted over real
        tokens. The text comes first and keeps the positions it was trained at, unless the encoder is causal: then the
        image comes first, for the text to read it.

        Raises:
            ValueError: when the encoder has fewer positions than there are tokens.
        """
        adapter, lengths = self._adapters["text"], [text.states.shape[1], image.states.shape[1]]
        limit = self._text_positions
        if limit is not None and sum(lengths) > limit:
            raise ValueError(
                f"fusion={self.config.fusion!r}: {lengths[0]} text tokens and {lengths[1]} image tokens are more than "
                f"the {limit} positions of the text encoder {self.config.text_config.model_type!r}: shorten the "
                "questions, set feature_grid to average the image's tokens, or choose another encoder."
            )
        masks = [stream.mask & stream.present[:, None] for stream in (text, image)]
        rows = [text.states.masked_fill(~masks[0][..., None], 0.0), *self.fusion.inputs([image])]
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
        text_pooled = adapter._pool(outputs, reorder(states[0], order), mask, content=mask)
        image_pooled = masked_mean(states[1], image.mask)
        return (
            Stream(states[0], text.mask, text_pooled, text.present),
            Stream(states[1], image.mask, image_pooled, image.present, image.grid),
            outputs,
        )

    def _absent(self, adapter: EncoderAdapter, like: Stream) -> Stream:
        """The stream of a modality that no example of the batch has."""
        batch_size = len(like.states)
        absent = like.present.new_zeros(batch_size)
        grid = (1, 1) if adapter.modality == "vision" else None
        width = adapter.width
        if self.fusion.reads_in_encoder and adapter.modality == "text":
            width = self._embedding_width
        return Stream(
            states=like.states.new_zeros(batch_size, 1, width),
            mask=absent[:, None],
            pooled=like.states.new_zeros(batch_size, adapter.pooled_width),
            present=absent,
            grid=grid,
        )


def _as_inputs(image: Stream) -> dict[str, Tensor]:
    """A stream of images as what `forward` takes."""
    grid = {} if image.grid is None else {"vision_grid": torch.tensor(image.grid)}
    return {"vision_states": image.states, "vision_pooled": image.pooled, "vision_mask": image.mask, **grid}


class UMEForVisualQuestionAnswering(UMEPreTrainedModel):
    r"""
    [`UMEModel`] with a classifier over the answers of `config.id2label`.

    Example:

    ```python
    >>> from modeling_ume import UMEForVisualQuestionAnswering

    >>> model = UMEForVisualQuestionAnswering.from_encoders_pretrained(
    ...     "bert-base-uncased", "google/vit-base-patch16-224-in21k", fusion="ume", id2label={0: "no", 1: "yes"}
    ... )
    ```"""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self.ume = UMEModel(config)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        num_views, sizes = self.ume.fusion.num_views, (config.fusion_hidden_size, config.num_labels)
        self.classifier = nn.Linear(*sizes) if num_views == 1 else ViewClassifiers(num_views, *sizes)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.ume.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.ume.set_input_embeddings(value)

    def freeze(self, modality: str) -> None:
        """See [`UMEModel.freeze`]."""
        self.ume.freeze(modality)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers.

        Raises:
            ValueError: when the config was given other answers than the classifier has, as it could not be loaded.
        """
        views = self.classifier.views if isinstance(self.classifier, ViewClassifiers) else [self.classifier]
        for linear in views:
            if isinstance(linear, nn.Linear) and linear.out_features != self.config.num_labels:
                raise ValueError(
                    f"The config names {self.config.num_labels} answers, but the classifier has "
                    f"{linear.out_features}: load the model with from_pretrained(…, id2label=…, "
                    "ignore_mismatched_sizes=True), which gives it a new classifier, and train that."
                )
        super().save_pretrained(save_directory, *args, **kwargs)

    def encode_images(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        r"""
        Runs the image encoder alone, for questions that come later: `model(**questions, **encoded, image_index=…)`.

        What comes back is worth something only as long as the encoder's weights stay as they are.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): each image once.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`, *optional*): 0 where an image was padded.

        Returns:
            `dict`: what `forward` takes instead of pixels: `vision_states` `(images, tokens, width)`, `vision_pooled`
            `(images, width)`, where the tokens form a grid, `vision_grid` `(2,)`, which lies on the CPU, and, where
            images were padded, `vision_mask` `(images, tokens)`.
        """
        encoded = _as_inputs(self.ume.encode_image(pixel_values, pixel_mask))
        return encoded if pixel_mask is not None else {k: v for k, v in encoded.items() if k != "vision_mask"}

    def join_images(self, encoded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `encode_images` said of several images one by one → what it says of all of them together."""
        streams = []
        for image in encoded:
            grid = tuple(image["vision_grid"].tolist()) if "vision_grid" in image else None
            mask = image.get("vision_mask")
            mask = torch.ones(image["vision_states"].shape[:2]) if mask is None else mask
            mask = mask.to(image["vision_states"].device).bool()
            streams.append(Stream(image["vision_states"], mask, image["vision_pooled"], mask.any(1), grid))
        return _as_inputs(join_streams(streams))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part (`"encoders"`, `"fusion"`, `"classifier"`), e.g. for a learning rate each."""
        encoders = [*self.ume.text_model.parameters(), *self.ume.vision_model.parameters()]
        return {
            "encoders": encoders,
            "fusion": list(self.ume.fusion.parameters()),
            "classifier": list(self.classifier.parameters()),
        }

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        labels: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        text_states: Tensor | None = None,
        text_pooled: Tensor | None = None,
        vision_states: Tensor | None = None,
        vision_pooled: Tensor | None = None,
        vision_grid: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
        loss_weights: Tensor | None = None,
        **unknown,
    ) -> UMEVQAOutput | tuple:
        r"""
        Args:
            labels (`torch.Tensor`, *optional*): for `"single_label_classification"` the answer's id, `(batch,)` of
                type long, −100 where it is not among the answers (the example then has no loss), or a score for every
                answer, `(batch, num_labels)`, whose shares in their sum are the target; for
                `"multi_label_classification"` the soft score of every answer in [0, 1], `(batch, num_labels)`.
            loss_weights (`torch.Tensor` of shape `(batch,)`, *optional*): what each example counts in the loss, which
                is their weighted mean.

        The other arguments are those of [`UMEModel.forward`].
        """
        refuse_unknown(self.forward, unknown)
        output = self.ume(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            image_index=image_index,
            text_present=text_present,
            image_present=image_present,
            text_states=text_states,
            text_pooled=text_pooled,
            vision_states=vision_states,
            vision_pooled=vision_pooled,
            vision_grid=vision_grid,
            return_dict=True,
            inputs_embeds=inputs_embeds,
            pixel_mask=pixel_mask,
            vision_mask=vision_mask,
            **self._recorded(output_attentions, output_hidden_states),
        )
        head = self.ume.fusion
        views = self.classifier(self.classifier_dropout(output.fused))  # [B, K, C]
        shares = {} if output.view_log_shares is None else {"log_shares": output.view_log_shares}
        logits = head.combine(views, output.view_present, self.config.problem_type, **shares)  # [B, C]
        logits = logits.to(views.dtype)
        loss = None
        if labels is not None:
            shares = None
            if head.trains_views:
                counts = widen(output.view_present.to(views.dtype))
                shares = counts / counts.sum(1, keepdim=True)
            scored = logits if shares is None else views
            loss = answer_loss(scored, labels, self.config.problem_type, shares, loss_weights)
        output = UMEVQAOutput(
            loss=loss,
            logits=logits,
            fused=output.fused,
            fusion_weights=output.fusion_weights,
            **{name: getattr(output, name) for name in RECORDED},
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


# transformers copies the file that a class says it is from and names it in config.json: this one for all models, also
# for the one that is defined elsewhere. It imports every file that has to travel (see tests/test_modeling.py).
UMEForImageTextRetrieval.__module__ = __name__
UMEModel.register_for_auto_class("AutoModel")
UMEForVisualQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")
UMEForImageTextRetrieval.register_for_auto_class("AutoModelForZeroShotImageClassification")
