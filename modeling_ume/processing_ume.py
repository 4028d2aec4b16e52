"""From a picture and a question to what the model reads, and from its logits back to answers in words.

`UMEProcessor` pairs any tokenizer with any image processor and keeps the answers, so a saved folder is complete.
"""

import inspect
import os

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import ImageInput
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from .arguments_ume import route_arguments
from .images_ume import process_images, with_image_size  # noqa: F401
from .modalities_ume import MODALITIES
from .modality_base_ume import Modality
from .numerics_ume import accumulate_in  # noqa: F401
from .padding_ume import real_tokens  # noqa: F401
from .stored_ume import PLACE_ARGUMENTS, forget_private, nearest, storable
from .streams_ume import Stream  # noqa: F401
from .tasks_ume import DEFAULT_PROBLEM, PROBLEM_TYPES, decode_logits
from .text_ume import tokenizer_of
from .trust_ume import ForeignCodeError, check_processor_files, load_trusted, read_quietly
from .vision_ume import Vision  # noqa: F401

logger = logging.get_logger(__name__)


class UMEProcessor(ProcessorMixin):
    r"""
    Turns images and questions into model inputs, and logits into answers.

    Args:
        image_processor (`BaseImageProcessor`): the one that belongs to the image encoder.
        tokenizer (`PreTrainedTokenizerBase`):
            The one that belongs to the question encoder. One without a padding token (GPT-2, LLaMA) pads with its
            end-of-sequence token from then on; the attention mask hides the padding either way.
        id2label (`dict[int, str]`, *optional*): the answers, numbered from 0. Needed for `decode_answers` only.
        problem_type (`str`, *optional*):
            `"single_label_classification"` or `"multi_label_classification"`, as in [`UMEConfig`]; `None` means the
            first, which is the config's default too.

    Raises:
        ValueError: if the tokenizer cannot pad or has no vocabulary, the ids of the answers have gaps or the problem
            type is unknown.

    Example:

    ```python
    >>> processor = UMEProcessor.from_encoders_pretrained("bert-base-uncased", "google/vit-base-patch16-224")
    >>> inputs = processor(images="street.jpg", text="What colour is the bus?")
    >>> logits = model(**inputs).logits
    >>> processor.decode_answers(logits, top_k=3)
    ```"""

    def __init__(
        self,
        image_processor,
        tokenizer,
        id2label: dict[int, str] | None = None,
        problem_type: str | None = None,
        **kwargs,
    ):
        super().__init__(image_processor, tokenizer, **kwargs)
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
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            # What transformers makes, without a word, of a folder that lost its vocabulary.
            raise ValueError(
                f"The tokenizer ({type(tokenizer).__name__}) knows no token but "
                f"{', '.join(tokenizer.all_special_tokens)}: its vocabulary (tokenizer.json, vocab.txt or the like) "
                "is missing. Restore that file beside the others."
            )
        if tokenizer.pad_token is None:
            # Decoder-only models were trained on single long texts and never had to pad. Which token fills the gap
            # does not matter, as the mask hides it; it has to be one that the embedding table knows.
            if tokenizer.eos_token is None:
                raise ValueError(
                    f"The tokenizer ({type(tokenizer).__name__}) has neither a padding nor an end-of-sequence token, "
                    "so questions of different lengths cannot share a batch: set `tokenizer.pad_token` first."
                )
            tokenizer.pad_token = tokenizer.eos_token
        self.id2label = id2label
        self.problem_type = problem_type
        # Saving writes it and loading drops it: set here, a processor says the same of itself before and after.
        self.auto_map = {"AutoProcessor": "processing_ume.UMEProcessor"}
        self._forget_private()

    def _forget_private(self) -> None:
        for name in self.get_attributes():
            forget_private(getattr(self, name))
        for name in ("id2label", "problem_type"):
            # Releases hand everything that `from_pretrained` is given to the tokenizer, too.
            self.tokenizer.init_kwargs.pop(name, None)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, without what was given to load it: no token and no path gets into the files."""
        self._forget_private()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self, *args, **kwargs):
        """As in transformers, without what is private."""
        return storable(super().to_dict(*args, **kwargs))

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
    def from_encoders_pretrained(
        cls,
        text_name: str | os.PathLike,
        vision_name: str | os.PathLike,
        id2label: dict[int, str] | None = None,
        problem_type: str | None = None,
        image_size: int | None = None,
        **kwargs,
    ) -> "UMEProcessor":
        r"""
        The processor that fits two pretrained encoders.

        Args:
            text_name (`str`): Hub name or folder with the text encoder's tokenizer.
            vision_name (`str`): Hub name or folder with the image encoder's image processor.
            id2label, problem_type: as in [`UMEProcessor`].
            image_size (`int`, *optional*):
                Height and width in pixels of the images that the model gets, instead of what the image processor says.
            kwargs: where the files lie (`token`, `revision`, `cache_dir`, `subfolder`, `local_files_only`, …), for
                both, or with `text_` or `vision_` before it for one; it is not stored.

        Raises:
            ValueError: if the tokenizer or the image processor cannot be loaded; the message says what is missing. Or
                for an argument that is none of these.
        """
        places = {name: {} for name, kind in MODALITIES.items() if kind.part is not None}
        known = [*PLACE_ARGUMENTS, *(f"{modality}_{name}" for modality in places for name in PLACE_ARGUMENTS)]
        for name in kwargs:
            if name not in known:
                own = [*inspect.signature(cls.from_encoders_pretrained).parameters, *known]
                raise ValueError(f"{name} is no argument of from_encoders_pretrained.{nearest(name, own)}")
        for modality, place in places.items():
            for name in PLACE_ARGUMENTS:
                for given in (name, f"{modality}_{name}"):
                    if given in kwargs:
                        place[name] = kwargs[given]
        tokenizer = tokenizer_of(str(text_name), **places["text"])
        try:
            image_processor = load_trusted(AutoImageProcessor.from_pretrained, vision_name, **places["vision"])
        except ForeignCodeError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"No image processor can be loaded from {str(vision_name)!r}: a folder needs its "
                f"preprocessor_config.json, a Hub repository must be one of an image model ({error})"
            ) from error
        if image_size is not None:
            image_processor = with_image_size(image_processor, image_size)
        return cls(image_processor, tokenizer, id2label=id2label, problem_type=problem_type)

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
