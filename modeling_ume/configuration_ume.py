"""What a UME model is made of: the encoders' configs, the fusion head over them, and the answers it can give.

`UMEConfig` travels with every checkpoint, so this file imports nothing but transformers and its siblings.
"""

import copy
import itertools

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, __version__
from transformers.utils import logging

from .answers_ume import (
    NUMBER_FIELDS,
    as_numbers,
    check_numbers,
    check_pairs,
    checked_answers,
    inverted,
    settle_answers,
)
from .arguments_ume import route_arguments  # noqa: F401
from .audio_ume import Audio  # noqa: F401
from .cells_ume import missing  # noqa: F401
from .films_ume import Film  # noqa: F401
from .fusion_attention_ume import Attention  # noqa: F401
from .fusion_base_ume import FusionModule  # noqa: F401
from .fusion_late_ume import LateFusion  # noqa: F401
from .fusion_many_ume import GMUFusion  # noqa: F401
from .fusion_pairs_ume import PAIR_SETS
from .fusion_pooled_ume import ConcatFusion  # noqa: F401
from .fusion_ume import FUSIONS, MembersFusion
from .hearing_ume import Hearing  # noqa: F401
from .images_ume import read_image  # noqa: F401
from .limits_ume import check_encoder_size, check_head_size, check_own_size
from .log_mel_ume import LogMelPatches  # noqa: F401
from .modalities_ume import MODALITIES, usual
from .modality_base_ume import Modality
from .modality_names_ume import Named  # noqa: F401
from .numerics_ume import accumulate_in  # noqa: F401
from .outputs_ume import RECORDED
from .own_heads_ume import FILE, check_known, check_travels, find_head, head_of, known_head, recorded_head, save_head
from .padding_ume import real_tokens  # noqa: F401
from .pairs_triton_ume import fits_kernels  # noqa: F401
from .pairs_ume import pair_mean  # noqa: F401
from .parts_ume import Axis  # noqa: F401
from .scalers_ume import mean_and_deviation  # noqa: F401
from .series_ume import Series  # noqa: F401
from .simple_encoders_ume import SIMPLE_ENCODERS  # noqa: F401 (importing it makes their configs known)
from .simple_series_ume import UMELSTMSeriesConfig  # noqa: F401
from .simple_tables_ume import UMETableMLPConfig  # noqa: F401
from .sizes_ume import check_sizes  # noqa: F401
from .sounds_ume import Samples  # noqa: F401
from .stored_ume import is_private, known_fields, nearest, own_fields, refuse_unknown, storable
from .streams_ume import check_modality_dropout
from .table_ume import Table  # noqa: F401
from .tasks_ume import DEFAULT_PROBLEM, PROBLEM_TYPES, TASKS
from .text_ume import Text  # noqa: F401
from .travelling_ume import own_name  # noqa: F401
from .trust_ume import check_fields
from .video_ume import own_frames  # noqa: F401
from .vision_ume import Vision  # noqa: F401

logger = logging.get_logger(__name__)

POOLINGS = ("auto", "cls", "mean", "pooler", "last")
ANSWERS = ("id2label", "label2id", "num_labels")  # three names of one fact


class _SubConfigs:
    """`sub_configs` as transformers reads it, on the class and on a config, from the table of modalities."""

    def __get__(self, config, config_class) -> dict[str, type]:
        kinds = MODALITIES if config is None else config.modalities
        return {MODALITIES[name].config_field: AutoConfig for name in kinds}


class UMEConfig(PretrainedConfig):
    r"""
    Configuration of [`UMEModel`], [`UMEForVisualQuestionAnswering`] and [`UMEForImageTextRetrieval`].

    Args:
        text_config (`PretrainedConfig` or `dict`, *optional*, defaults to `BertConfig()`):
            Config of the question encoder: any that `AutoModel` knows. Of a dual config such as CLIP's, its
            `text_config` is taken.
        vision_config (`PretrainedConfig` or `dict`, *optional*, defaults to `ViTConfig()`):
            Config of the image encoder. Of a dual config, its `vision_config` is taken.
        …_config (`PretrainedConfig` or `dict`, *optional*):
            Config of the encoder of any other modality of `MODALITIES`, under its name. The model has the modalities
            whose configs are given, two or more; where no other than text and vision is, it has both of these.
        fusion (`str`, *optional*, defaults to `"ume"`):
            Name of the fusion head, a key of `FUSIONS`, or a file of yours and the class in it,
            `"my_head.py:MyHead"`, which is run.
        fusion_hidden_size (`int`, *optional*, defaults to 512):
            Common width D to which a head brings every modality, and width of what it returns.
        fusion_num_heads (`int`, *optional*):
            Attention heads of the heads that attend, several pair weightings for `ume`, glimpses of `ban`, blocks of
            `block`. `None` takes the head's own default (`FUSIONS[fusion].default_num_heads`).
        fusion_num_members (`int`, *optional*, defaults to 1):
            Heads of this kind side by side, each with a classifier of its own and trained on its own loss; the answer
            is the mean of their probabilities. Not for the late heads and `early_input`.
        fusion_num_layers (`int`, *optional*, defaults to 1):
            Layers (blocks) of the heads that have layers.
        fusion_rank (`int`, *optional*):
            Rank of the bilinear heads: the inner width of `mlb`, the summed factors of `mutan`, `mfb`, `block` and
            `low_rank_tensor`, the inner width of `ban`'s attention as a multiple of D; of `bottleneck` and `perceiver`
            the number of shared tokens. `None` takes the head's own default (`FUSIONS[fusion].default_rank`).
        fusion_pairs (`str`, *optional*, defaults to `"cross"`):
            Which pairs of tokens `ume`, `evc` and `pair` are of: `"cross"`, of two modalities each, summed up over
            every two; or `"all"`, of the one sequence that the tokens of all modalities form, pairs within a modality
            among them, with one softmax over all of them.
        fusion_dropout (`float`, *optional*, defaults to 0.1):
            Dropout inside the head, on the projected vectors and in its blocks.
        classifier_dropout (`float`, *optional*, defaults to 0.1):
            Dropout on the fused vector before the classifier.
        modality_dropout (`float` or `dict[str, float]`, *optional*, defaults to 0.0):
            Probability in training that an example with two modalities or more loses one of them, evenly chosen, so
            that the model learns to answer without. A dict has a probability for each modality that it names,
            `{"audio": 0.3, "table": 0.1}`: each is lost independently of the others, but never the last that an
            example has; where all would go, one, evenly chosen, stays.
        text_pooling, vision_pooling, …_pooling (`str`, *optional*, defaults to `"auto"`):
            What summarises a modality in one vector: `"cls"` (first token), `"mean"` (over real content tokens),
            `"pooler"` (the encoder's own), `"last"` (last real token), or `"auto"`, which picks by what the encoder
            gives.
        feature_grid (`int`, *optional*):
            Average the image's tokens over a g×g grid before the head sees them (7: 49 instead of a ViT-B/16's 196);
            class tokens stay. Left out, the head sees the encoder's own grid.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`):
            `"single_label_classification"` (cross-entropy), `"multi_label_classification"` (binary cross-entropy on
            soft answer scores) or `"regression"` (one or several numbers).
        id2label (`dict[int, str]`, *optional*):
            The answers, or the names of the numbers. `num_labels=n` gives n unnamed ones; it and `label2id` always
            follow from this field.
        label_mean, label_std (`float` or `list[float]`, *optional*):
            For `"regression"`, one a number: mean and standard deviation of the labels, after `label_transform`. The
            model learns standardised numbers; its logits are in the labels' own unit. Left out: 0 and 1.
        label_transform (`str`, *optional*):
            For `"regression"`, `"log"`: the logarithm of the labels is learned, as of prices. Logits are in the
            labels' own unit all the same.
        regression_loss (`str`, *optional*):
            For `"regression"`, the loss of the standardised numbers: `"mse"`, the default, or `"huber"`, which labels
            far off dominate less.

        retrieval_pairs (`list[list[str]]`, *optional*):
            For [`UMEForRetrieval`]: which pairs of modalities it compares, `[["audio", "vision"], …]`. Left out: every
            two.
        fusion_file (`str`, *optional*):
            Where a head from outside this package is from, `"my_head.py:MyHead"`: it says so by itself. A file that a
            stored config names is run by nothing but `trust_remote_code=True`.

    What `PretrainedConfig` defines is accepted, too. No secret, path of this machine or argument of loading is ever
    stored; a field that is none of these and stands in a file of another release is left out with a warning.

    Raises:
        ValueError: for a field or name that nobody defined, an impossible size or fields that contradict each other;
            the message names the field, the value and what is allowed.

    Example:

    ```python
    >>> from transformers import BertConfig, ViTConfig
    >>> from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering

    >>> config = UMEConfig.from_encoder_configs(BertConfig(), ViTConfig(), fusion="ume", num_labels=3129)
    >>> model = UMEForVisualQuestionAnswering(config)
    ```"""

    model_type = "ume"
    sub_configs = _SubConfigs()
    # In evaluation the Trainer gathers every output that is not listed here: only the logits are wanted.
    keys_to_ignore_at_inference = [  # noqa: RUF012 (the Trainer adds a list to it)
        "fused",
        "fusion_weights",
        *RECORDED,
        *(f"{name}_model_output" for name in MODALITIES),
    ]

    def __init__(
        self,
        *encoder_configs,
        fusion="ume",
        fusion_hidden_size=512,
        fusion_num_heads=None,
        fusion_num_layers=1,
        fusion_rank=None,
        fusion_dropout=0.1,
        classifier_dropout=0.1,
        modality_dropout=0.0,
        feature_grid=None,
        problem_type=DEFAULT_PROBLEM,
        fusion_num_members=1,
        fusion_file=None,
        fusion_pairs=PAIR_SETS[0],
        label_mean=None,
        label_std=None,
        label_transform=None,
        regression_loss=None,
        retrieval_pairs=None,
        **kwargs,
    ):
        kwargs = {**_by_field(encoder_configs, kwargs), **kwargs}
        refuse_unknown(type(self), kwargs)
        for kind in _modalities_of(kwargs):
            setattr(self, kind.config_field, _encoder_config(kind, kwargs.get(kind.config_field)))
        for kind in MODALITIES.values():
            kwargs.pop(kind.config_field, None)
            setattr(self, kind.pooling_field, kwargs.pop(kind.pooling_field, "auto"))
        self.fusion = known_head(fusion) if fusion_file is None else fusion
        self.fusion_file = fusion_file
        self.fusion_hidden_size = fusion_hidden_size
        self.fusion_num_heads = fusion_num_heads
        self.fusion_num_members = fusion_num_members
        self.fusion_num_layers = fusion_num_layers
        self.fusion_rank = fusion_rank
        self.fusion_pairs = fusion_pairs
        self.fusion_dropout = fusion_dropout
        self.classifier_dropout = classifier_dropout
        self.modality_dropout = modality_dropout
        self.feature_grid = feature_grid
        self.label_mean = as_numbers("label_mean", label_mean)
        self.label_std = as_numbers("label_std", label_std)
        self.label_transform = label_transform
        self.regression_loss = regression_loss
        self.retrieval_pairs = retrieval_pairs
        self.problem_type = problem_type  # how many answers are enough depends on it
        super().__init__(problem_type=problem_type, **settle_answers(kwargs, problem_type))
        if self.output_attentions and self._attn_implementation is None:
            self._attn_implementation = "eager"  # as setting the field later does: the others keep no attentions
        # A loaded config brings these with the address of the repo it came from; the plain form is right everywhere.
        self.auto_map = {
            "AutoConfig": "configuration_ume.UMEConfig",
            "AutoModel": "modeling_ume.UMEModel",
            **{task.auto: f"modeling_ume.{task.model}" for task in TASKS.values()},
            "AutoModelForZeroShotImageClassification": "modeling_ume.UMEForImageTextRetrieval",
        }
        self.custom_pipelines = {
            "visual-question-answering": {
                "impl": "pipeline_ume.UMEVQAPipeline",
                "pt": ["AutoModelForVisualQuestionAnswering"],
            }
        }
        self._check()

    @classmethod
    def own_fields(cls) -> list[str]:
        """The fields that the table of modalities gives to a config."""
        return [name for kind in MODALITIES.values() for name in (kind.config_field, kind.pooling_field)]

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model has, in the order of `MODALITIES`, which its streams have too."""
        return [name for name, kind in MODALITIES.items() if vars(self).get(kind.config_field) is not None]

    def pairs_to_compare(self) -> list[list[str]]:
        """The pairs of modalities that retrieval compares: those that were named, or every two."""
        return self.retrieval_pairs or [list(pair) for pair in itertools.combinations(self.modalities, 2)]

    def encoder_config(self, modality: str) -> PretrainedConfig:
        """The config of the encoder of a modality that the model has."""
        return getattr(self, MODALITIES[modality].config_field)

    @classmethod
    def from_encoder_configs(cls, *encoder_configs, **kwargs):
        r"""
        Args:
            encoder_configs (`PretrainedConfig`): of any text `AutoModel` and of any image `AutoModel`, in this order,
                or of dual ones, whose halves are taken; those of other modalities by name (`…_config`).
            kwargs: every other field of [`UMEConfig`].

        Returns:
            `UMEConfig`, which holds copies of the configs.
        """
        fields = {kind.config_field for kind in MODALITIES.values()}
        given = _by_field(encoder_configs, kwargs)
        given |= {name: kwargs.pop(name) for name in list(kwargs) if name in fields}
        copies = {name: config.to_dict() for name, config in given.items() if config is not None}
        return cls(**copies, **kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers; ForeignCodeError where the file asks for code from elsewhere.

        A fusion head of the checkpoint's own is run with `trust_remote_code=True` only, and otherwise when a model is
        loaded that says so.
        """
        given, trusted = kwargs, kwargs.pop("trust_remote_code", None)
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_fields(fields, f"The config.json of {str(pretrained_model_name_or_path)!r}")
        if trusted:
            named = fields.get("fusion"), fields.get("fusion_file")
            find_head(*named, pretrained_model_name_or_path, trusted, given)
        return fields, kwargs

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers; fields that this release does not know are left out, with a warning that names them.

        Other answers than those of the dict, by any of `id2label`, `label2id` and `num_labels`, take their place.
        """
        known = known_fields(cls)
        unknown = [name for name in config_dict if name not in known]
        if unknown:
            logger.warning(
                f"The config has fields that {cls.__name__} does not know, which are left out: {', '.join(unknown)}."
            )
        fields = {name: value for name, value in config_dict.items() if name in known}
        if fields.get("id2label") is not None:
            fields.pop("label2id", None)  # it only says the same once more
        if isinstance(fields.get("fusion"), str) and FILE.fullmatch(fields["fusion"]):
            fields["fusion_file"] = fields.get("fusion_file") or fields["fusion"]  # whatever it is, it is not run here
        given = {name: kwargs.pop(name) for name in ANSWERS if name in kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        if given and given != {"num_labels": len(fields.get("id2label") or ())}:
            fields = {name: value for name, value in fields.items() if name not in ANSWERS} | given
            # What is known of other numbers says nothing of these.
            fields = {name: value for name, value in fields.items() if name not in ("label_mean", "label_std")}
        return super().from_dict(fields, **kwargs)

    @classmethod
    def from_json_file(cls, json_file):
        """As in transformers; see `from_dict`."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def to_dict(self):
        """As in transformers, without what is private, and of fields only those that are defined."""
        known = known_fields(type(self))
        fields = {name: value for name, value in super().to_dict().items() if name in known}
        for name in ("fusion_file", "retrieval_pairs", *NUMBER_FIELDS):  # most models have none
            if fields[name] is None:
                del fields[name]
        if fields["fusion_pairs"] == PAIR_SETS[0]:  # as in every config of earlier releases
            del fields["fusion_pairs"]
        for name, kind in MODALITIES.items():  # what it has no encoder of is not said to be summarised
            if name not in self.modalities:
                fields.pop(kind.pooling_field, None)
        return storable({**fields, "label2id": self.label2id})

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers; what was set afterwards and is no field, or private, is left out, with a warning."""
        self._check()  # what was set afterwards shall fail here, not when somebody loads it
        head_of(self)
        check_travels(self.fusion)
        known = known_fields(type(self)) | {name for name in vars(PretrainedConfig()) if name.startswith("_")}
        for name, value in vars(self).items():
            if name not in known or (is_private(name, value) and not name.startswith("_")):
                logger.warning(
                    f"config.{name} is not stored: it is no field of {type(self).__name__}, or private."
                    f"{nearest(name, own_fields(type(self)))}"
                )
        if self.fusion_file is not None and kwargs.get("push_to_hub"):
            raise ValueError("A config with a head from outside is pushed by its push_to_hub, not by saving it.")
        super().save_pretrained(save_directory, *args, **kwargs)
        save_head(self.fusion, save_directory)

    @property
    def id2label(self) -> dict[int, str] | None:
        """The answers, by their ids; the one field that holds them: `label2id` and `num_labels` follow from it."""
        return vars(self).get("id2label")

    @id2label.setter
    def id2label(self, answers):
        if answers is not None:
            answers = checked_answers(answers, self.problem_type)
        vars(self)["id2label"] = answers

    @property
    def label2id(self) -> dict[str, int] | None:
        """The ids of the answers; set, it sets the answers."""
        return None if self.id2label is None else {answer: key for key, answer in self.id2label.items()}

    @label2id.setter
    def label2id(self, ids):
        if ids is not None:  # the base class says so while it has no answers yet
            self.id2label = inverted(ids, self.problem_type)

    def _check(self):
        def one_of(field, allowed):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}={value!r} is not known: choose one of {', '.join(allowed)}.")

        def at_least_one(field):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field}={value!r} is impossible: it must be a whole number of 1 or more.")
            check_own_size(field, value)

        known = isinstance(self.fusion, str) and self.fusion in FUSIONS
        if known:
            self.fusion_file = recorded_head(self.fusion)
        elif not (isinstance(self.fusion, str) and isinstance(self.fusion_file, str) and self.fusion_file):
            check_known(self.fusion)
        for kind in MODALITIES.values():
            one_of(kind.pooling_field, POOLINGS)
        one_of("problem_type", PROBLEM_TYPES)
        check_numbers(self)
        check_pairs(self)
        one_of("fusion_pairs", PAIR_SETS)
        at_least_one("fusion_hidden_size")
        at_least_one("fusion_num_layers")
        at_least_one("fusion_num_members")
        for field in ("fusion_num_heads", "fusion_rank", "feature_grid"):
            if getattr(self, field) is not None:
                at_least_one(field)
        check_head_size(self.fusion_hidden_size, self.fusion_num_layers, self.fusion_num_members)
        check_modality_dropout(self.modality_dropout, self.modalities)
        for field in ("fusion_dropout", "classifier_dropout"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{field}={value!r} is impossible: a dropout lies in [0, 1).")
        if not known:
            return  # of a checkpoint whose code was not run
        if self.fusion_pairs not in FUSIONS[self.fusion].pair_sets:
            able = ", ".join(name for name, head in sorted(FUSIONS.items()) if self.fusion_pairs in head.pair_sets)
            raise ValueError(
                f"fusion_pairs={self.fusion_pairs!r} is impossible with fusion={self.fusion!r}: leave it out, or "
                f"choose one of {able}."
            )
        FUSIONS[self.fusion].check_config(self)
        if self.fusion_num_members > 1:
            MembersFusion.check_config(self)


def _by_field(encoder_configs: tuple, named: dict) -> dict:
    """The configs that came without names, by their fields; TypeError for too many, or one that has come by name."""
    fields = [kind.config_field for kind in usual()]
    if len(encoder_configs) > len(fields):
        raise TypeError(
            f"{len(encoder_configs)} configs were given without names: only {' and '.join(fields)} may be; give all "
            "else by name."
        )
    given = dict(zip(fields, encoder_configs, strict=False))
    twice = [name for name in given if name in named]
    if twice:
        raise TypeError(f"{twice[0]} was given twice: give it once.")
    return given


def _modalities_of(fields: dict) -> list[Modality]:
    """The modalities of a config with these fields: those it gives an encoder of, and without others the usual two."""
    given = [kind for kind in MODALITIES.values() if fields.get(kind.config_field) is not None]
    if all(kind in usual() for kind in given):
        return usual()
    if len(given) < 2:
        others = [kind.config_field for kind in MODALITIES.values() if kind not in given]
        raise ValueError(
            f"Only {given[0].config_field} is given, and a model joins two modalities or more: give "
            f"{' or '.join(others)}, too."
        )
    return given


def half_of(config: PretrainedConfig, modality: str) -> PretrainedConfig:
    """CLIP, SigLIP and their like hold several configs: the one for this modality; any other config itself."""
    for field in MODALITIES[modality].halves:
        if isinstance(half := getattr(config, field, None), PretrainedConfig):
            return half
    return config


def _encoder_config(kind: Modality, value) -> PretrainedConfig:
    """Returns the encoder's config object for what the user gave: a config, its dict, a dual config, or None."""
    field = kind.config_field
    if value is None:
        return AutoConfig.for_model(kind.default_config)
    if isinstance(value, dict):
        value = storable(value)
        model_type = value.pop("model_type", None)
        if model_type is None:
            raise ValueError(
                f"{field} is a dict without `model_type`: name the kind of encoder, e.g. "
                f"{kind.default_config or 'bert'!r}."
            )
        if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
            raise ValueError(f"{field}: transformers {__version__} has no model_type={model_type!r}: choose another.")
        check_encoder_size(field, value)
        try:
            value = AutoConfig.for_model(model_type, **value)
        except Exception as error:  # configs of later releases check their fields with errors of their own
            raise ValueError(
                f"{field} is no config of model_type={model_type!r}: {' '.join(str(error).split())}."
            ) from error
    elif not isinstance(value, PretrainedConfig):
        raise ValueError(f"{field} is a {type(value).__name__}: give a transformers config or its dict.")
    else:
        private = [name for name, held in vars(value).items() if is_private(name, held) and not name.startswith("_")]
        value = copy.copy(value) if private else value
        for name in private:
            delattr(value, name)
    value = half_of(value, kind.name)
    shows = [other for other in MODALITIES.values() if other.shows(value)]
    if kind.marks and shows and kind not in shows:
        raise ValueError(
            f"{field} is of the {shows[0].called} encoder {value.model_type!r}: were the two configs swapped?"
        )
    return value


UMEConfig.register_for_auto_class()
