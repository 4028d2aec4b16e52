"""The models: two encoders, a fusion head over their streams, and for question answering a classifier over answers."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_ume import UMEConfig
from .encoders_ume import EncoderAdapter, build_encoder, load_encoder
from .fusion_ume import FUSIONS, FusionModule, Stream
from .pipeline_ume import UMEVQAPipeline  # noqa: F401 (so that every saved model brings its pipeline along)

MODALITIES = ("text", "vision")


@dataclass
class UMEModelOutput(ModelOutput):
    """What [`UMEModel`] returns.

    Args:
        fused (`torch.Tensor` of shape `(batch, K, fusion_hidden_size)`): the fused vector (K = 1), or one view a
            modality for the heads that combine late.
        fusion_weights (`dict[str, torch.Tensor]`): what the head attended to, by name; may be empty.
    """

    fused: Tensor | None = None
    fusion_weights: dict[str, Tensor] | None = None


@dataclass
class UMEVQAOutput(ModelOutput):
    """What [`UMEForVisualQuestionAnswering`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, where `labels` were given): mean over the examples.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): a score for each answer of `config.id2label`.
        fused, fusion_weights: as in [`UMEModelOutput`].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    fused: Tensor | None = None
    fusion_weights: dict[str, Tensor] | None = None


class UMEPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading shared by the UME models."""

    config_class = UMEConfig
    base_model_prefix = "ume"
    supports_gradient_checkpointing = True
    # Each encoder decides for itself what it supports; the composite stands in no one's way.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = [head.__name__ for head in set(FUSIONS.values())]  # noqa: RUF012 (read by transformers)
    # The Trainer would otherwise take `forward` to divide by its `num_items_in_batch` and scale the loss itself.
    accepts_loss_kwargs = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Scaled by the inputs: a fixed 0.02 starves a head of a few hundred dimensions, and training stalls.
            init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, FusionModule):
            module.init_weights()

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As `nn.Module.load_state_dict`, and also right for weights that `save_pretrained` wrote.

        `save_pretrained` writes some encoders under the names of their original release, which differ from the live
        ones. The Trainer loads such files with `strict=False` on resume and for the best checkpoint, where every
        foreign name would be passed over in silence. Names are therefore mapped back first, as `from_pretrained` does.
        """
        live = self.state_dict()
        if not live.keys() >= state_dict.keys():
            loaded, info = type(self).from_pretrained(
                None, config=self.config, state_dict=dict(state_dict), output_loading_info=True
            )
            if not info["unexpected_keys"]:
                missing = set(info["missing_keys"])
                state_dict = {name: value for name, value in loaded.state_dict().items() if name not in missing}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class UMEModel(UMEPreTrainedModel):
    r"""
    Two encoders and the fusion head over their streams: text and image in, one fused vector out.

    Args:
        config ([`UMEConfig`]): what to build; the encoders get random weights (`from_pretrained` and
            `from_encoders_pretrained` fill them).
    """

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self.text_model = build_encoder(config.text_config, config.text_pooling)
        self.vision_model = build_encoder(config.vision_config, config.vision_pooling)
        self._adapters = {
            "text": EncoderAdapter(self.text_model, "text", config.text_pooling),
            "vision": EncoderAdapter(self.vision_model, "vision", config.vision_pooling),
        }
        self.fusion = FUSIONS[config.fusion](
            config,
            [adapter.width for adapter in self._adapters.values()],
            [adapter.pooled_width for adapter in self._adapters.values()],
        )
        self._frozen: set[str] = set()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def encoder(self, modality: str) -> PreTrainedModel:
        """The encoder of `"text"` or `"vision"`."""
        if modality not in MODALITIES:
            raise ValueError(f"modality={modality!r} is not known: choose 'text' or 'vision'.")
        return self.text_model if modality == "text" else self.vision_model

    def freeze(self, modality: str) -> None:
        """Takes the encoder of `"text"` or `"vision"` out of training: no gradients, and it stays in eval mode."""
        self.encoder(modality).requires_grad_(False).eval()
        self._frozen.add(modality)

    def train(self, mode: bool = True):
        super().train(mode)
        for modality in self._frozen:
            # A frozen BatchNorm would otherwise go on moving its statistics, and dropout disturb fixed features.
            self.encoder(modality).eval()
        return self

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Stream:
        """input_ids [B, L] and masks alike → the questions' `Stream` of B rows."""
        return self._adapters["text"].text(self.text_model, input_ids, attention_mask, token_type_ids)

    def encode_image(self, pixel_values: Tensor) -> Stream:
        """pixel_values [U, 3, H, W] → the images' `Stream` of U rows."""
        pixel_values = pixel_values.to(self.vision_model.dtype)
        return self._adapters["vision"].vision(self.vision_model, pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> UMEModelOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): the questions; None: no text at all.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for real tokens. Default: all.
            token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): passed on where the encoder
                takes it.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*): each distinct
                image once; None: no image at all.
            image_index (`torch.LongTensor` of shape `(batch,)`, *optional*): which image each question looks at.
                Default: the i-th question looks at the i-th image.
            text_present, image_present (`torch.BoolTensor` of shape `(batch,)`, *optional*): False where an example
                lacks the modality; what stands in its place is then ignored.
            return_dict (`bool`, *optional*): False returns a tuple.

        Raises:
            ValueError: when neither modality is given, or questions and images do not match in number.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("Neither input_ids nor pixel_values was given: a UME model needs at least one of them.")
        text = image = None
        if input_ids is not None:
            text = self.encode_text(input_ids, attention_mask, token_type_ids)
        if pixel_values is not None:
            image = select_images(self.encode_image(pixel_values), image_index, batch_size=input_ids)
        adapters = self._adapters
        text = text if text is not None else self._absent(adapters["text"], like=image)
        image = image if image is not None else self._absent(adapters["vision"], like=text)
        for stream, present in ((text, text_present), (image, image_present)):
            if present is not None:
                stream.present = stream.present & present.bool()
        output = self.fusion([text, image])
        output = UMEModelOutput(fused=output.fused, fusion_weights=output.weights)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return self.config.return_dict if return_dict is None else return_dict

    @staticmethod
    def _absent(adapter: EncoderAdapter, like: Stream) -> Stream:
        """The stream of a modality that no example of the batch has."""
        batch_size = len(like.states)
        absent = like.present.new_zeros(batch_size)
        grid = (1, 1) if adapter.modality == "vision" else None
        return Stream(
            states=like.states.new_zeros(batch_size, 1, adapter.width),
            mask=absent[:, None],
            pooled=like.states.new_zeros(batch_size, adapter.pooled_width),
            present=absent,
            grid=grid,
        )


def select_images(images: Stream, image_index: Tensor | None, batch_size: Tensor | None = None) -> Stream:
    """Gives each question its image: a stream of U images and image_index [B] → a stream of B rows.

    Raises:
        ValueError: when without `image_index` the number of images is not that of the questions (`batch_size` holds
            the question batch), or `image_index` has another length than it.
    """
    if image_index is None:
        if batch_size is not None and len(batch_size) != len(images.states):
            raise ValueError(
                f"{len(batch_size)} questions came with {len(images.states)} images: pass image_index, which says for "
                "each question the row of its image in pixel_values."
            )
        return images
    if batch_size is not None and len(batch_size) != len(image_index):
        raise ValueError(f"image_index has {len(image_index)} entries for {len(batch_size)} questions.")
    # index_select, unlike indexing, has a backward that adds in the same order every time.
    return Stream(
        states=images.states.index_select(0, image_index),
        mask=images.mask.index_select(0, image_index),
        pooled=images.pooled.index_select(0, image_index),
        present=images.present.index_select(0, image_index),
        grid=images.grid,
    )


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
        self.classifier = nn.Linear(config.fusion_hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_encoders_pretrained(cls, text_name: str, vision_name: str, **kwargs) -> "UMEForVisualQuestionAnswering":
        r"""
        Joins two pretrained encoders with a new fusion head and classifier.

        Args:
            text_name, vision_name (`str`): Hub names or folders of the encoders; of a dual checkpoint (CLIP, SigLIP)
                the half that fits is taken.
            kwargs: `text_*` and `vision_*` go to the `from_pretrained` of that encoder without the prefix
                (`text_revision="…"`, `vision_dtype=torch.bfloat16`), `dtype` to both; `text_pooling`,
                `vision_pooling` and everything else go to [`UMEConfig`].

        Returns:
            A model in eval mode, as from `from_pretrained`.
        """
        routed = {modality: {} for modality in MODALITIES}
        for name in list(kwargs):
            modality, _, rest = name.partition("_")
            if modality in routed and rest != "pooling":
                routed[modality][rest] = kwargs.pop(name)
        dtype = kwargs.pop("dtype", None)
        encoders = {}
        for modality, name in zip(MODALITIES, (text_name, vision_name), strict=True):
            if dtype is not None:
                routed[modality].setdefault("dtype", dtype)
            pooling = kwargs.get(f"{modality}_pooling", "auto")
            encoders[modality] = load_encoder(name, modality, pooling, **routed[modality])
        config = UMEConfig.from_encoder_configs(encoders["text"].config, encoders["vision"].config, **kwargs)
        model = cls(config)
        if dtype is not None:
            model.to(dtype)
        for modality in MODALITIES:
            encoder = encoders[modality]
            # One config object for the model and its encoder, as when the model is built from its config.
            shared = getattr(config, f"{modality}_config")
            shared._attn_implementation = encoder.config._attn_implementation
            encoder.config = shared
            setattr(model.ume, f"{modality}_model", encoder)
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.ume.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.ume.set_input_embeddings(value)

    def freeze(self, modality: str) -> None:
        """See [`UMEModel.freeze`]."""
        self.ume.freeze(modality)

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
        return_dict: bool | None = None,
    ) -> UMEVQAOutput | tuple:
        r"""
        Args:
            labels (`torch.Tensor`, *optional*): for `"single_label_classification"` the answer's id, `(batch,)` of
                type long, −100 where it is not among the answers (the example then has no loss); for
                `"multi_label_classification"` the soft score of every answer in [0, 1], `(batch, num_labels)`.

        The other arguments are those of [`UMEModel.forward`].
        """
        output = self.ume(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            image_index=image_index,
            text_present=text_present,
            image_present=image_present,
            return_dict=True,
        )
        logits = self.classifier(self.classifier_dropout(output.fused[:, 0]))  # [B, C]
        loss = None if labels is None else self._loss(logits, labels)
        output = UMEVQAOutput(loss=loss, logits=logits, fused=output.fused, fusion_weights=output.fusion_weights)
        return output if self.ume._wants_dict(return_dict) else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "single_label_classification":
            if labels.ndim != 1:
                raise ValueError(
                    f"labels have shape {tuple(labels.shape)}: problem_type='single_label_classification' takes one "
                    "answer id an example, [batch]; soft scores need problem_type='multi_label_classification'."
                )
            # Not the built-in mean: it is NaN for a batch in which no answer is known.
            total = F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
            return total / (labels != -100).sum().clamp(min=1)
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}: problem_type="
                "'multi_label_classification' takes a score for every answer, [batch, num_labels]."
            )
        # Summed over the answers: the mean over thousands of them would make the gradient depend on their number.
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
        return loss.sum(1).mean()


UMEModel.register_for_auto_class("AutoModel")
UMEForVisualQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")
