"""What the models return, and what goes along of an encoder's inner states when a caller asks for it."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .modalities_ume import MODALITIES

RECORDS = ("hidden_states", "attentions")
RECORDED = tuple(f"{modality}_{record}" for record in RECORDS for modality in MODALITIES)


class EncoderRecords:
    """
    The inner states of the encoders in an output of a model.

    Attributes:
        text_hidden_states, vision_hidden_states (`tuple[torch.Tensor]`, with `output_hidden_states=True`): what that
            encoder holds after its embeddings and after each layer; of feature maps, `(images, channels, height,
            width)`.
        text_attentions, vision_attentions (`tuple[torch.Tensor]`, with `output_attentions=True`): its attention
            weights layer by layer, `(rows, heads, tokens, tokens)`.
        …_hidden_states, …_attentions: those of any other modality that the model has.
        hidden_states, attentions: those of the text encoder, by the names that transformers' own code looks for; of a
            model without text None.

    Texts have a row an example; images one a distinct image, as in `pixel_values`, whatever `image_index` says. With
    `fusion="early_input"` the text encoder's rows hold the image's tokens too, the real ones in front. A field is None
    where it was not asked for, where no encoder ran (an absent modality, stored states) and where the encoder has no
    such thing: a convolutional one has no attentions, the LSTM and VGG of this repository give neither.
    """

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        return getattr(self, "text_hidden_states", None)

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        return getattr(self, "text_attentions", None)


def records(modality: str, outputs: ModelOutput) -> dict[str, tuple[Tensor, ...] | None]:
    """What an encoder has kept on the way, under the names that it has in the outputs of the models."""
    return {f"{modality}_{record}": outputs.get(record) or None for record in RECORDS}


def add_records(output: ModelOutput, recorded: dict[str, tuple[Tensor, ...] | None]) -> ModelOutput:
    """The output with those inner states that an encoder has kept."""
    for name, value in recorded.items():
        if value is not None:
            output[name] = value
    return output


def recorded_in(output: ModelOutput) -> dict[str, tuple[Tensor, ...]]:
    """What `add_records` has put into an output."""
    return {name: value for name, value in output.items() if name.endswith(tuple(f"_{record}" for record in RECORDS))}


def _with_records(output_class: type) -> type:
    """The class as a dataclass that ends with a field for every modality and record."""
    for name in RECORDED:
        output_class.__annotations__[name] = "tuple[Tensor, ...] | None"
        setattr(output_class, name, None)
    return dataclass(output_class)


@_with_records
class UMEModelOutput(EncoderRecords, ModelOutput):
    """What [`UMEModel`] returns.

    Args:
        fused (`torch.Tensor` of shape `(batch, K, fusion_hidden_size)`): the fused vector (K = 1), or one view a
            modality for the heads that combine late.
        fusion_weights (`dict[str, torch.Tensor]`): what the head attended to, by name; may be empty.
        view_present (`torch.BoolTensor` of shape `(batch, K)`, of the heads that combine late): which views count.
        view_log_shares (`torch.Tensor` of shape `(batch, K)`, of the heads that average views): ln of how much each
            counts.
        fewer_fused, fewer_present (`torch.Tensor` of shapes `(batch, K, fusion_hidden_size)` and `(batch,)`, in
            training, of the heads that compare): what `fused` would be without some of an example's modalities, and
            which examples have that.
        text_hidden_states, …: see [`EncoderRecords`].
    """

    fused: Tensor | None = None
    fusion_weights: dict[str, Tensor] | None = None
    view_present: Tensor | None = None
    view_log_shares: Tensor | None = None
    fewer_fused: Tensor | None = None
    fewer_present: Tensor | None = None


@_with_records
class UMEVQAOutput(EncoderRecords, ModelOutput):
    """What [`UMEForVisualQuestionAnswering`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, where `labels` were given): mean over the examples.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): a score for each answer of `config.id2label`.
        fused, fusion_weights: as in [`UMEModelOutput`].
        text_hidden_states, …: see [`EncoderRecords`].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    fused: Tensor | None = None
    fusion_weights: dict[str, Tensor] | None = None


@dataclass
class UMERetrievalOutput(EncoderRecords, ModelOutput):
    """What [`UMEForImageTextRetrieval`] returns, for T texts and U images.

    Args:
        loss (`torch.Tensor` of shape `()`, with `return_loss=True`): mean of both directions.
        logits_per_image, logits_per_text (`torch.Tensor` of shapes `(U, T)`, `(T, U)`): cosine similarities over the
            temperature, at least in float32.
        text_embeds, image_embeds (`torch.Tensor` of shapes `(T, D)`, `(U, D)`): the features, of length 1.
        text_model_output, vision_model_output (`ModelOutput`): what the encoders returned, as in CLIP's output; their
            `hidden_states` and `attentions` where they were asked for, also under the names of [`EncoderRecords`].
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    text_model_output: ModelOutput | None = None
    vision_model_output: ModelOutput | None = None

    def to_tuple(self) -> tuple:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class UMEContrastOutput(ModelOutput):
    """What [`UMEForRetrieval`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, with `return_loss=True`): mean over the pairs.
        logits (`dict[str, torch.Tensor]`): by pair (`"audio_vision"`) the cosine similarities over the temperature of
            the U items of the first modality to the V of the second, `(U, V)`, at least in float32.
        embeds (`dict[str, torch.Tensor]`): by modality the features of its items, `(U, D)`, of length 1.
        model_outputs (`dict[str, ModelOutput]`): by modality what its encoder returned.
    """

    loss: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    embeds: dict[str, Tensor] | None = None
    model_outputs: dict[str, ModelOutput] | None = None


def _kept_by(modality: str, record: str) -> property:
    def kept(output: UMERetrievalOutput) -> tuple[Tensor, ...] | None:
        outputs = getattr(output, f"{modality}_model_output", None)
        return None if outputs is None else outputs.get(record) or None

    return property(kept)


# One name for the encoders' inner states in the outputs of all models; here they are fields of what the encoders said.
for _modality, _record in ((modality, record) for modality in MODALITIES for record in RECORDS):
    setattr(UMERetrievalOutput, f"{_modality}_{_record}", _kept_by(_modality, _record))


@dataclass
class UMEFeaturesOutput(BaseModelOutputWithPooling):
    """The features of texts or images, `(rows, D)`, in `pooler_output`, beside what the encoder said.

    transformers 5 returns such an object where earlier releases, and this repository, returned the features
    themselves. In arithmetic, in functions of torch and for a tensor's attributes (`features @ other.T`,
    `torch.cat([a, b])`, `features.shape`) it therefore still stands for them; indexing is that of every output object.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(*_features_of(args), **_features_of(kwargs or {}))

    def __getattr__(self, name: str):
        features = self.__dict__.get("pooler_output")
        if name.startswith("__") or features is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(features, name)

    def __matmul__(self, other):
        return self.pooler_output @ _features_of(other)

    def __rmatmul__(self, other):
        return _features_of(other) @ self.pooler_output

    def __add__(self, other):
        return self.pooler_output + _features_of(other)

    def __sub__(self, other):
        return self.pooler_output - _features_of(other)

    def __mul__(self, other):
        return self.pooler_output * _features_of(other)

    def __truediv__(self, other):
        return self.pooler_output / _features_of(other)

    __radd__, __rmul__ = __add__, __mul__


def _features_of(value):
    """`value` with the features in place of every object that stands for them."""
    if isinstance(value, UMEFeaturesOutput):
        return value.pooler_output
    if isinstance(value, (list, tuple)):
        return type(value)(map(_features_of, value))
    if isinstance(value, dict):
        return {name: _features_of(part) for name, part in value.items()}
    return value
