"""From pictures, questions and all else to what the model reads, and from its logits back to answers in words.

`UMEProcessor` holds the part that prepares each modality and keeps the answers, so a saved folder is complete.
"""

import inspect
import os
from functools import partial

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import ImageInput
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import PROCESSOR_NAME, logging

from .arguments_ume import route_arguments
from .audio_ume import Audio  # noqa: F401
from .cells_ume import missing  # noqa: F401
from .films_ume import Film  # noqa: F401
from .hearing_ume import Hearing  # noqa: F401
from .images_ume import process_images  # noqa: F401
from .log_mel_ume import LogMelPatches  # noqa: F401
from .modalities_ume import MODALITIES, prepared, usual
from .modality_base_ume import Modality
from .modality_names_ume import Named  # noqa: F401
from .numerics_ume import accumulate_in  # noqa: F401
from .padding_ume import real_tokens  # noqa: F401
from .parts_ume import Axis  # noqa: F401
from .scalers_ume import mean_and_deviation  # noqa: F401
from .series_ume import Series  # noqa: F401
from .simple_encoders_ume import UMELSTMConfig  # noqa: F401
from .simple_series_ume import UMELSTMSeriesConfig  # noqa: F401
from .simple_tables_ume import UMETableMLPConfig  # noqa: F401
from .sizes_ume import check_sizes  # noqa: F401
from .sounds_ume import Samples  # noqa: F401
from .stored_ume import PLACE_ARGUMENTS, forget_private, nearest, storable
from .streams_ume import Stream  # noqa: F401
from .table_ume import Table  # noqa: F401
from .tasks_ume import DEFAULT_PROBLEM, PROBLEM_TYPES, decode_logits
from .text_ume import position_limit  # noqa: F401
from .trust_ume import check_processor_files, load_trusted, read_quietly
from .video_ume import own_frames  # noqa: F401
from .vision_ume import Vision  # noqa: F401

logger = logging.get_logger(__name__)


class _PartsOfTransformers:
    """`get_attributes` as transformers reads it, from the table of modalities: on the class the parts that it has
    loaders for, on a processor those of them that are there."""

    def __get__(self, processor, processor_class):
        known = [kind for kind in prepared() if kind.part in MODALITY_TO_AUTOPROCESSOR_MAPPING]
        if processor is not None:
            parts = ((kind, getattr(processor, kind.part, None)) for kind in known)
            known = [kind for kind, part in parts if part is not None and not isinstance(part, kind.part_classes)]
        return partial(list, [kind.part for kind in known])


class UMEProcessor(ProcessorMixin):
    r"""
    Turns images, questions and whatever else a model reads into model inputs, and logits into answers.

    Any part may be left out: a model without text needs no tokenizer.

    Args:
        image_processor (`BaseImageProcessor`, *optional*): the one that belongs to the image encoder.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            The one that belongs to the question encoder. One without a padding token (GPT-2, LLaMA) pads with its
            end-of-sequence token from then on; the attention mask hides the padding either way.
        id2label (`dict[int, str]`, *optional*): the answers, numbered from 0. Needed for `decode_answers` only.
        problem_type (`str`, *optional*):
            `"single_label_classification"` or `"multi_label_classification"`, as in [`UMEConfig`]; `None` means the
            first, which is the config's default too.
        parts: of any other modality of `MODALITIES` the part that prepares it, by the name of that (`part`).

    Raises:
        ValueError: if the tokenizer cannot pad or has no vocabulary, the ids of the answers have gaps or the problem
            type is unknown.
        TypeError: for a part of another kind than its name says, or a name of no part.

    Example:

    ```python
    >>> processor = UMEProcessor.from_encoders_pretrained("bert-base-uncased", "google/vit-base-patch16-224")
    >>> inputs = processor(images="street.jpg", text="What colour is the bus?")
    >>> logits = model(**inputs).logits
    >>> processor.decode_answers(logits, top_k=3)
    ```"""

    get_attributes = _PartsOfTransformers()

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        id2label: dict[int, str] | None = None,
        problem_type: str | None = None,
        **parts,
    ):
        parts |= {"image_processor": image_processor, "tokenizer": tokenizer}
        for kind in prepared():
            part = parts.pop(kind.part, None)
            if not (
                part is None or isinstance(part, kind.part_classes) or kind.part in MODALITY_TO_AUTOPROCESSOR_MAPPING
            ):
                wanted = " or ".join(own.__name__ for own in kind.part_classes)
                raise TypeError(f"{kind.part} is a {type(part).__name__}: give a {wanted}.")
            setattr(self, kind.part, part)
        super().__init__(**{name: getattr(self, name) for name in self.get_attributes()}, **parts)
        if problem_type is None:
            problem_type = DEFAULT_PROBLEM
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type={problem_type!r} is not known: choose one of {', '.join(PROBLEM_TYPES)}.")
        if id2label is not None:
            id2label = {int(key): answer for key, answer in id2label.items()}  # JSON has made the ids strings
            if sorted(id2label) != list(range(len(id2label))):
                raise ValueError(
                    f"id2label has {len(id2label)} entries whose ids are not 0 … {len(id2label) - 1}: number the "
                    "answers from 0 without gaps."
                )
        for kind in prepared():
            if self.part(kind) is not None:
                kind.check_part(self.part(kind))
        self.id2label = id2label
        self.problem_type = problem_type
        # Saving writes it and loading drops it: set here, a processor says the same of itself before and after.
        self.auto_map = {"AutoProcessor": "processing_ume.UMEProcessor"}
        self._forget_private()

    def _forget_private(self) -> None:
        for kind in MODALITIES.values():
            if (part := self.part(kind)) is None:
                continue
            forget_private(part)
            for name in ("id2label", "problem_type"):
                # Releases hand everything that `from_pretrained` is given to the tokenizer, too.
                getattr(part, "init_kwargs", {}).pop(name, None)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, without what was given to load it: no token and no path gets into the files."""
        self._forget_private()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self, *args, **kwargs):
        """As in transformers, without what is private; parts of this project as the dicts that they are made of."""
        said = super().to_dict(*args, **kwargs)
        for kind in prepared():
            part = self.part(kind)
            if part is None:
                said.pop(kind.part, None)
                if kind in usual():  # older files do not say that they have these
                    said[kind.part] = None
            elif isinstance(part, kind.part_classes):
                said[kind.part] = kind.part_to_dict(part)
        return storable(said)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; but code that lies beside the files is run for `trust_remote_code=True` only, and nobody
        is asked. Where the model beside it has got other answers since, they count, unless `id2label` gives others.

        Raises:
            ForeignCodeError: for a tokenizer or an image processor with code of its own.
        """
        if not kwargs.get("trust_remote_code"):
            check_processor_files(pretrained_model_name_or_path, kwargs)
        processor = load_trusted(super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)
        if processor.id2label is not None and "id2label" not in kwargs:
            of_model = read_quietly(pretrained_model_name_or_path, "config.json", kwargs).get("id2label")
            if isinstance(of_model, dict):
                of_model = {int(key): answer for key, answer in of_model.items() if key.isdecimal()}
            if of_model and of_model != processor.id2label:
                logger.warning(
                    f"The processor in {str(pretrained_model_name_or_path)!r} was saved with other answers than the "
                    "model's config.json there holds, which are taken: save the processor again."
                )
                processor.id2label = of_model
        return processor

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """Of each modality that has one the part, which transformers loads or the file itself holds, or None."""
        said, parts = processor_dict or {}, []
        for kind in prepared():
            fields = said.get(kind.part)
            there = fields is not None or (kind in usual() and kind.part not in said)
            part = kind.part_from_dict(fields) if isinstance(fields, dict) else None
            if part is None and there and kind.part in cls.get_attributes():
                loader = MODALITY_TO_AUTOPROCESSOR_MAPPING[kind.part]
                part = load_trusted(loader.from_pretrained, pretrained_model_name_or_path, **kwargs)
            if part is None and there:
                raise ValueError(
                    f"{kind.part} in {PROCESSOR_NAME} of {str(pretrained_model_name_or_path)!r} is of no kind that is "
                    f"known ({str(fields)[:80]}): save the processor again, or take a newer release of this package."
                )
            parts.append(part)
        return parts

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in transformers, from the parts that `_get_arguments_from_pretrained` has found."""
        returns_unused = kwargs.pop("return_unused_kwargs", False)
        parts = dict(zip((kind.part for kind in prepared()), args, strict=True))
        own = {name: processor_dict[name] for name in ("id2label", "problem_type") if name in processor_dict}
        known = {*parts, "id2label", "problem_type", "chat_template"}
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        processor = cls(**{**own, **parts, **given})
        return (processor, kwargs) if returns_unused else processor

    @classmethod
    def from_encoders_pretrained(
        cls,
        text_name: str | os.PathLike | None = None,
        vision_name: str | os.PathLike | None = None,
        id2label: dict[int, str] | None = None,
        problem_type: str | None = None,
        image_size: int | None = None,
        **kwargs,
    ) -> "UMEProcessor":
        r"""
        The processor that fits pretrained encoders, of any modalities.

        Args:
            text_name (`str`, *optional*): Hub name or folder with the text encoder's tokenizer.
            vision_name (`str`, *optional*): Hub name or folder with the image encoder's image processor.
            id2label, problem_type: as in [`UMEProcessor`].
            image_size (`int`, *optional*):
                Height and width in pixels of the images that the model gets, instead of what the image processor says.
            kwargs: `…_name` of any other modality of `MODALITIES`, and its settings; a part of the processor that is
                there already, by its name; where the files lie (`token`, `revision`, `cache_dir`, `subfolder`,
                `local_files_only`, …), for all, or with `text_`, `vision_` … before it for one, which is not stored.

        Raises:
            ValueError: if a part cannot be loaded; the message says what is missing. Or for an argument that is none
                of these, or has nothing to be about.
        """
        names = {f"{kind.name}_name": kind for kind in prepared()}
        given = {"text_name": text_name, "vision_name": vision_name, "image_size": image_size, **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        places = [f"{start}{name}" for start in ("", *(f"{k.name}_" for k in prepared())) for name in PLACE_ARGUMENTS]
        settings = {setting: kind for kind in prepared() for setting in kind.part_settings}
        ready = {name: given.pop(name) for name in list(given) if name in {kind.part for kind in prepared()}}
        for name in given:
            if name not in (*names, *places, *settings):
                own = [*inspect.signature(cls.from_encoders_pretrained).parameters, *names, *places, *settings]
                raise ValueError(f"{name} is no argument of from_encoders_pretrained.{nearest(name, own)}")
            if name in settings and f"{settings[name].name}_name" not in given:
                raise ValueError(f"{name} was given without {settings[name].name}_name: leave it out.")
        parts = {}
        for name, kind in names.items():
            if name not in given:
                continue
            hub = {place: given[place] for place in PLACE_ARGUMENTS if place in given}
            hub |= {p: given[f"{kind.name}_{p}"] for p in PLACE_ARGUMENTS if f"{kind.name}_{p}" in given}
            own = {setting: given[setting] for setting in kind.part_settings if setting in given}
            parts[kind.part] = kind.load_part(str(given[name]), own, **hub)
        if not {**parts, **ready}:
            raise ValueError(f"There is no encoder to prepare inputs for: give {' or '.join(names)}.")
        return cls(**parts, **ready, id2label=id2label, problem_type=problem_type)

    def __call__(
        self,
        images: ImageInput | str | bytes | list | None = None,
        text: str | list[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        text_kwargs: dict | None = None,
        images_kwargs: dict | None = None,
        common_kwargs: dict | None = None,
        **kwargs,
    ) -> BatchFeature:
        r"""
        Args:
            images (image or list of images, *optional*):
                U images. PIL images, paths, URLs, the bytes of files and arrays or tensors of bytes are brought to
                upright RGB first; those of other numbers, [3, H, W] or [H, W, 3], go to the image processor as they
                are. A list of lists is read as one list.
            text (`str` or `list[str]`, *optional*):
                B questions. U and B may differ: the model's `image_index` says which question looks at which image.
                With `is_split_into_words=True` a question is a list of words.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`; None: lists.
            padding, truncation, max_length:
                As in any tokenizer, but on by default: to the longest question, and to `max_length` or else the
                tokenizer's `model_max_length`, if it knows one. A tokenizer that was made with
                `padding="max_length"` pads to its own `max_length`.
            text_kwargs, images_kwargs (`dict`, *optional*): passed on to the tokenizer and to the image processor;
                what stands there counts before the defaults above.
            common_kwargs (`dict`, *optional*): passed on to both, as far as they know the names.
            kwargs: what there is of other modalities of `MODALITIES`, under their names; any other argument of the
                tokenizer (`add_special_tokens`, `return_offsets_mapping`, …) or of the
                image processor (`do_resize`, `size`, …), which goes to the one that knows it.

        Returns:
            `BatchFeature` with `input_ids` [B, L], `attention_mask` [B, L], `token_type_ids` [B, L] if the tokenizer
            makes them, and `pixel_values` [U, 3, H, W], with `pixel_mask` [U, H, W] where the image processor padded
            images to the size of the largest; only those of the modality that was given.

        Raises:
            ValueError: if nothing is given, if texts and images were given in each other's place, if one of them
                cannot be read, or if an argument was given twice.
            TypeError: for an argument that no part knows.
        """
        given = {"images": images, "text": text}
        given |= {kind.argument: kwargs.pop(kind.argument) for kind in MODALITIES.values() if kind.argument in kwargs}
        here = {kind.argument: kind for kind in MODALITIES.values() if self.reads(kind)}
        given = {argument: values for argument, values in given.items() if values is not None}
        kinds = MODALITIES.values()
        called = {name: kind.argument for kind in kinds for name in (kind.column, kind.name, *kind.aliases)}
        for name in kwargs:
            if called.get(name) in here:
                raise ValueError(f"A processor is not given {name}: what it is called here is {called[name]}=….")
        if not given:
            ways = sorted(here)
            more = "both" if len(ways) == 2 else "several of them"
            raise ValueError(f"There is nothing to process: give {', '.join(ways)} or {more}.")
        options = {"padding": padding, "truncation": truncation, "max_length": max_length}
        options = {name: value for name, value in options.items() if value is not None}
        if return_tensors != "pt":  # None says lists
            options["return_tensors"] = return_tensors
        own = {"text_kwargs": text_kwargs, "images_kwargs": images_kwargs}
        own |= {kind.options: kwargs.pop(kind.options) for kind in here.values() if kind.options in kwargs}
        names = {kind.options: kind.option_names(self.part(kind)) for kind in here.values()}
        routed = route_arguments(names, own, common_kwargs, {**options, **kwargs}, given)
        batch = {}
        for argument, kind in here.items():
            if argument in given:
                batch.update(kind.process(self.part(kind), given[argument], **routed[kind.options]))
        return BatchFeature(batch)

    def part(self, kind: Modality):
        """The part that prepares a modality; None where it needs none, or there is none here."""
        return None if kind.part is None else getattr(self, kind.part, None)

    def reads(self, kind: Modality) -> bool:
        """Whether the processor can prepare a modality."""
        return kind.part is None or self.part(kind) is not None

    def decode_answers(self, logits: torch.Tensor, top_k: int = 1) -> list[list[dict]]:
        r"""
        Args:
            logits (`torch.Tensor` of shape [B, C]): the model's logits.
            top_k (`int`, *optional*, defaults to 1): answers a row, 1 … C.

        Returns:
            `list[list[dict]]`: B lists of top_k `{"answer": str, "score": float}`, the best first. Scores are
            probabilities: a softmax over the answers, or a sigmoid of each for `"multi_label_classification"`.

        Raises:
            ValueError: if the processor does not know the answers, the logits do not fit them or top_k is not 1 … C.
        """
        if self.id2label is None:
            raise ValueError(
                "This processor does not know the answers: give it `id2label`, for instance "
                "UMEProcessor(image_processor, tokenizer, id2label=model.config.id2label)."
            )
        return decode_logits(logits, self.id2label, self.problem_type, top_k)


UMEProcessor.register_for_auto_class()
