"""The models: encoders with a fusion head over their streams, and with a classifier over answers on top of it.

For retrieval the same encoders stand side by side, each with a projection into one common space.
"""

import torch
from torch import Tensor, nn

from .answers_ume import check_numbers  # noqa: F401
from .arguments_ume import route_arguments  # noqa: F401
from .audio_ume import Audio  # noqa: F401
from .base_ume import UMEEncoders, UMEPreTrainedModel
from .cells_ume import missing  # noqa: F401
from .choices_ume import find_choices  # noqa: F401
from .configuration_ume import UMEConfig
from .contrast_ume import UMEForRetrieval
from .encoders_ume import encoder_class  # noqa: F401
from .encodes_apart_ume import EncodesApart
from .films_ume import Film  # noqa: F401
from .fusion_attention_ume import Attention  # noqa: F401
from .fusion_base_ume import FusionModule  # noqa: F401
from .fusion_late_ume import LateFusion  # noqa: F401
from .fusion_many_ume import GMUFusion  # noqa: F401
from .fusion_pairs_ume import BANFusion  # noqa: F401
from .fusion_pooled_ume import ConcatFusion  # noqa: F401
from .fusion_ume import build_fusion
from .given_ume import names_of  # noqa: F401
from .hearing_ume import Hearing  # noqa: F401
from .images_ume import read_image  # noqa: F401
from .inputs_ume import takes_inputs
from .limits_ume import max_parameters  # noqa: F401
from .loading_ume import split_arguments  # noqa: F401
from .log_mel_ume import LogMelPatches  # noqa: F401
from .modalities_ume import MODALITIES
from .modality_base_ume import Setting  # noqa: F401
from .modality_names_ume import Named  # noqa: F401
from .numerics_ume import widen
from .outputs_ume import UMEModelOutput, UMEVQAOutput, add_records, recorded_in, records
from .own_heads_ume import head_of, register_fusion  # noqa: F401 (users import register_fusion from here, too)
from .padding_ume import real_tokens  # noqa: F401
from .pairs_triton_ume import fits_kernels  # noqa: F401
from .pairs_ume import pair_mean  # noqa: F401
from .parts_ume import Axis  # noqa: F401
from .pipeline_ume import UMEVQAPipeline  # noqa: F401
from .probe_ume import Shape  # noqa: F401
from .processing_ume import process_images  # noqa: F401
from .retrieval_ume import UMEForImageTextRetrieval
from .scalers_ume import mean_and_deviation  # noqa: F401
from .series_ume import Series  # noqa: F401
from .simple_encoders_ume import SIMPLE_ENCODERS  # noqa: F401
from .simple_series_ume import UMELSTMSeriesConfig  # noqa: F401
from .simple_tables_ume import UMETableMLPConfig  # noqa: F401
from .sizes_ume import check_sizes  # noqa: F401
from .sounds_ume import Samples  # noqa: F401
from .stored_ume import own_fields  # noqa: F401
from .streams_ume import (
    Stream,
    check_shape,
    drop_each,
    drop_modality,
    looked_at,
    select_rows,
)
from .table_ume import Table  # noqa: F401
from .tasks_ume import (
    TASKS,
    ViewClassifiers,
    answer_loss,
    decode_logits,  # noqa: F401
    label_scale,
)
from .text_ume import position_limit
from .together_ume import TogetherReader
from .travelling_ume import own_name  # noqa: F401
from .trust_ume import ForeignCodeError  # noqa: F401
from .video_ume import own_frames  # noqa: F401
from .vision_ume import Vision  # noqa: F401


class UMEModel(TogetherReader, UMEEncoders):
    r"""
    Encoders and the fusion head over their streams: text, image and whatever the config has in, one fused vector out.

    Args:
        config ([`UMEConfig`]): what to build; the encoders get random weights (`from_pretrained` and
            `from_encoders_pretrained` fill them).
    """

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        head, inputs = head_of(config), {}
        widths = [adapter.width for adapter in self._adapters.values()]
        pooled_widths = [adapter.pooled_width for adapter in self._adapters.values()]
        if head.reads_in_encoder:
            reader = self._adapters.get("text")
            if reader is None or "inputs_embeds" not in reader.arguments:
                what = "the config has none" if reader is None else (
                    f"the forward of {config.text_config.model_type!r} takes no inputs_embeds"
                )  # fmt: skip
                raise ValueError(
                    f"fusion={config.fusion!r} lets the text encoder read image tokens, but {what}: choose another "
                    "text encoder or head."
                )
            others = [adapter.width for adapter in self._adapters.values() if adapter is not reader]
            inputs = {"embedding_width": self._embedding_width, "input_widths": others}
            widths = [reader.width] * len(widths)  # the head is given what the text encoder says of all
            pooled_widths = [
                adapter.pooled_width if adapter is reader else reader.width for adapter in self._adapters.values()
            ]
            self._text_positions = position_limit(self.text_model)
        self.fusion = build_fusion(config, widths, pooled_widths, **inputs)
        self.post_init()

    @takes_inputs()
    def forward(
        self,
        inputs: dict[str, Tensor],
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
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
            text_index (`torch.LongTensor` of shape `(batch,)`, *optional*): which of the questions each example has,
                by the rule of `image_index`. Of every other modality that the config has, its inputs (`MODALITIES`),
                `…_index`, `…_present`, `…_states`, `…_pooled` and `…_mask` follow the same rules.

        Raises:
            ValueError: when no modality is given, one is given twice or is none of this model's, or their numbers of
                rows do not match, or one of the tensors has another shape or type than said above.
            TypeError: for an argument that is not above, unless it is None.
        """
        own = self._inputs_of(inputs)
        record, recorded = self._recorded(output_attentions, output_hidden_states), {}
        streams: dict[str, Stream] = {}
        for modality, given in own.items():
            kind = MODALITIES[modality]
            if kind.states in given:
                streams[modality] = self._stored_stream(kind, given)
            elif kind.given(given) and self.fusion.reads_in_encoder and modality == "text":
                streams[modality] = self._embed_text(given)
            elif kind.given(given):
                if kind.present in given:
                    rows = given[kind.given(given)[0]]
                    given = kind.without_absent(given, looked_at(rows, given.get(kind.index), given[kind.present]))
                streams[modality], outputs = self._encode(modality, given, record)
                recorded.update(records(modality, outputs))
        if not streams:
            wanted = [MODALITIES[modality].main_input for modality in own]
            none = f"Neither {wanted[0]} nor {wanted[1]}" if len(wanted) == 2 else f"None of {', '.join(wanted)}"
            raise ValueError(f"{none} was given: a UME model needs at least one of them.")
        streams = self._rows(streams, own)
        like = next(iter(streams.values()))
        streams = {m: streams[m] if m in streams else self._absent(m, like) for m in own}
        for modality, stream in streams.items():
            present = own[modality].get(MODALITIES[modality].present)
            if present is not None:
                stream.present = stream.present & present.bool()
        if self.training and (rate := self.config.modality_dropout):
            (drop_each if isinstance(rate, dict) else drop_modality)(list(streams.values()), rate)
        if self.fusion.reads_in_encoder:
            streams, outputs = self._read_together(streams, inputs.get("token_type_ids"), record)
            recorded.update(records("text", outputs))
        output = self.fusion(list(streams.values()))
        output = UMEModelOutput(
            fused=output.fused,
            fusion_weights=output.weights,
            view_present=output.present,
            view_log_shares=output.log_shares,
            fewer_fused=output.fewer,
            fewer_present=output.fewer_present,
        )
        output = add_records(output, recorded)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _inputs_of(self, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What was given of each modality that the model has; says what would otherwise fail deep inside an encoder,
        or not at all."""
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
            kind = MODALITIES[modality]
            if not torch.compiler.is_compiling():
                kind.check(self._adapters[modality], getattr(self, f"{modality}_model"), given)
            twice = kind.given(given)
            if len(twice) > 1:
                raise ValueError(f"{' and '.join(twice)} were both given: give the {kind.nouns} once.")
            if kind.states in given and self.fusion.reads_in_encoder and modality == "text":
                raise ValueError(
                    f"fusion={self.config.fusion!r} reads questions and images together, so stored text_states cannot "
                    "be used: give input_ids."
                )
        if not torch.compiler.is_compiling():
            counts = [
                given[kind.index if kind.index in given else kind.given(given)[0]].shape[:1]
                for kind, given in ((MODALITIES[modality], given) for modality, given in own.items())
                if kind.given(given)
            ]
            for modality, given in own.items() if counts else ():
                present = MODALITIES[modality].present
                check_shape(present, given.get(present), counts[0], "one truth value an example")
        return own

    def _rows(self, streams: dict[str, Stream], own: dict[str, dict[str, Tensor]]) -> dict[str, Stream]:
        """The streams with a row an example, of which `…_index` says which it has.

        Raises:
            ValueError: when their numbers of rows do not match.
        """
        first, rows = None, {}
        for modality, stream in streams.items():
            kind = MODALITIES[modality]
            index = own[modality].get(kind.index)
            count = stream.states.shape[0] if index is None else index.shape[0]
            if first is None:
                first = kind, count
            elif count != first[1] and index is None:
                raise ValueError(
                    f"{first[1]} {first[0].nouns} came with {count} {kind.nouns}: pass {kind.index}, which says for "
                    f"each {first[0].noun} the row of its {kind.noun} in {kind.main_input}."
                )
            elif count != first[1]:
                raise ValueError(f"{kind.index} has {count} entries for {first[1]} {first[0].nouns}.")
            rows[modality] = select_rows(stream, index)
        return rows

    def _absent(self, modality: str, like: Stream) -> Stream:
        """The stream of a modality that no example of the batch has."""
        adapter, batch_size = self._adapters[modality], len(like.states)
        absent = like.present.new_zeros(batch_size)
        width = adapter.width
        if self.fusion.reads_in_encoder and modality == "text":
            width = self._embedding_width
        return Stream(
            states=like.states.new_zeros(batch_size, 1, width),
            mask=absent[:, None],
            pooled=like.states.new_zeros(batch_size, adapter.pooled_width),
            present=absent,
            modality=modality,
        )


class UMEForVisualQuestionAnswering(EncodesApart, UMEPreTrainedModel):
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

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part (`"encoders"`, `"fusion"`, `"classifier"`), e.g. for a learning rate each."""
        encoders = [parameter for encoder in self._encoders() for parameter in encoder.parameters()]
        return {
            "encoders": encoders,
            "fusion": list(self.ume.fusion.parameters()),
            "classifier": list(self.classifier.parameters()),
        }

    @takes_inputs(labels=("labels",))
    def forward(
        self,
        inputs: dict[str, Tensor],
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        loss_weights: Tensor | None = None,
    ) -> UMEVQAOutput | tuple:
        r"""
        Args:
            labels (`torch.Tensor`, *optional*): for `"single_label_classification"` the answer's id, `(batch,)` of
                type long, −100 where it is not among the answers (the example then has no loss), or a score for every
                answer, `(batch, num_labels)`, whose shares in their sum are the target; for
                `"multi_label_classification"` the soft score of every answer in [0, 1], `(batch, num_labels)`; for
                `"regression"` the numbers in their own unit, `(batch, num_labels)` or, of one, `(batch,)`, nan where
                one is not known. Their loss is that of the standardised numbers, the mean over those of an example;
                `logits` are numbers in the labels' unit, at least in float32.
            loss_weights (`torch.Tensor` of shape `(batch,)`, *optional*): what each example counts in the loss, which
                is their weighted mean.

        The other arguments are those of [`UMEModel.forward`].
        """
        record = self._recorded(output_attentions, output_hidden_states)
        output = self.ume(**inputs, return_dict=True, **record)
        recorded = recorded_in(output)
        head = self.ume.fusion
        log_shares = {} if output.view_log_shares is None else {"log_shares": output.view_log_shares}

        def answer(fused: Tensor) -> tuple[Tensor, Tensor]:
            views = self.classifier(self.classifier_dropout(fused))  # [B, K, C]
            logits = head.combine(views, output.view_present, self.config.problem_type, **log_shares)  # [B, C]
            return views, logits.to(views.dtype)

        (views, logits), scale = answer(output.fused), label_scale(self.config)
        loss = None
        if labels is not None:
            shares = None
            if head.trains_views:
                counts = widen(output.view_present.to(views.dtype))
                shares = counts / counts.sum(1, keepdim=True)
            scored = logits if shares is None else views
            fewer = None
            if output.fewer_fused is not None:
                less = answer(output.fewer_fused)
                fewer = less[1] if shares is None else less[0], output.fewer_present
            loss = answer_loss(scored, labels, self.config.problem_type, shares, loss_weights, scale, fewer)
        output = UMEVQAOutput(
            loss=loss,
            logits=logits if scale is None else scale.in_unit(logits),
            fused=output.fused,
            fusion_weights=output.fusion_weights,
        )
        output = add_records(output, recorded)
        return output if self._wants_dict(return_dict) else output.to_tuple()


class UMEForSequenceClassification(UMEForVisualQuestionAnswering):
    r"""
    The same for rows that are no questions: [`UMEModel`] with a classifier over the classes of `config.id2label`, or
    with one or several numbers of these names. Its weights are called as [`UMEForVisualQuestionAnswering`]'s are, so
    that either loads the other's checkpoints.

    `config.problem_type` says what labels are: one class a row (`"single_label_classification"`), several, multi-hot
    (`"multi_label_classification"`), or numbers in their own unit (`"regression"`); see `forward` there.

    Example:

    ```python
    >>> from modeling_ume import UMEConfig, UMEForSequenceClassification

    >>> config = UMEConfig(problem_type="regression", id2label={0: "price"})
    >>> model = UMEForSequenceClassification(config)
    >>> prices = model(**inputs).logits  # [B, 1], in the labels' unit
    ```"""


# transformers copies the file that a class says it is from and names it in config.json: this one for all models, also
# for the one that is defined elsewhere. It imports every file that has to travel (see tests/test_modeling.py).
UMEForImageTextRetrieval.__module__ = __name__
UMEModel.register_for_auto_class("AutoModel")
UMEForRetrieval.__module__ = __name__
TASK_MODELS = {name: globals()[task.model] for name, task in TASKS.items()}
for _name, _model in TASK_MODELS.items():
    _model.register_for_auto_class(TASKS[_name].auto)
UMEForImageTextRetrieval.register_for_auto_class("AutoModelForZeroShotImageClassification")
