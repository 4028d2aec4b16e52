"""The processor and the collator of a recipe's model."""

from __future__ import annotations

from transformers import PretrainedConfig, ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from configuration_ume.arguments import DataArguments, ModelArguments
from modeling_ume import UMEProcessor
from modeling_ume.images_ume import with_image_size
from modeling_ume.loading_ume import load_config
from modeling_ume.trust_ume import ForeignCodeError, load_trusted
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.records.files import first_line


def build_processor(args: ModelArguments, tokenizer, vocabulary: AnswerVocabulary) -> UMEProcessor:
    """The processor: the tokenizer, the image encoder's own image processor or a plain one, and the answers."""
    if args.vision_model is not None:
        try:
            image_processor = load_image_processor(args.vision_model, args.vision_revision or "main")
        except ForeignCodeError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"No image processor can be loaded from {args.vision_model!r} ({first_line(error)})."
            ) from error
        if args.image_size is not None:
            image_processor = with_image_size(image_processor, args.image_size)
    else:
        image_processor = ViTImageProcessor(
            size={"height": args.image_size, "width": args.image_size},
            image_mean=args.image_mean or [0.5] * 3,
            image_std=args.image_std or [0.5] * 3,
        )
    return UMEProcessor(image_processor, tokenizer, id2label=dict(vocabulary.id2label), problem_type=args.problem_type)


def load_image_processor(name: str, revision: str):
    """A pretrained image encoder's own image processor; of timm's VGG, whose own only timm reads, ImageNet's."""
    fields, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    if fields.get("model_type") == "timm_wrapper" and load_config(name, revision=revision).model_type == "ume_vgg":
        return ViTImageProcessor(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
    return load_trusted(AutoImageProcessor.from_pretrained, name, revision=revision)


def build_collator(
    args: DataArguments,
    processor: UMEProcessor,
    vocabulary: AnswerVocabulary | None,
    problem_type: str,
    inputs: str,
    soft_targets: bool = False,
    answer_scores: str = "thirds",
) -> VQACollator:
    return VQACollator(
        processor,
        vocabulary,
        problem_type=problem_type,
        inputs=inputs,
        max_question_length=args.max_question_length,
        image_cache_bytes=args.image_cache_mb * 1_000_000,
        soft_targets=soft_targets,
        answer_scores=answer_scores,
    )
