"""The processor and the collator of a recipe's model."""

from __future__ import annotations

from configuration_ume.arguments import DataArguments, ModelArguments
from modeling_ume import UMEProcessor
from modeling_ume.modalities_ume import prepared
from training_ume.build.model import encoder_config
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator


def build_processor(args: ModelArguments, tokenizer, vocabulary: AnswerVocabulary) -> UMEProcessor:
    """
    The processor: the tokenizer, of every other modality its encoder's own part or a plain one, and the answers.

    Args:
        tokenizer: None for a recipe without text.
    """
    parts, settings = {}, vars(args)
    for kind in prepared():
        if kind.name not in args.modalities:
            continue
        name, revision = getattr(args, f"{kind.name}_model"), getattr(args, f"{kind.name}_revision")
        if kind.part == "tokenizer":
            parts[kind.part] = tokenizer
        elif name is not None:
            parts[kind.part] = kind.load_part(name, settings, revision=revision or "main")
        else:
            parts[kind.part] = kind.new_part(encoder_config(getattr(args, kind.config_field), None, None), settings)
    return UMEProcessor(**parts, id2label=dict(vocabulary.id2label), problem_type=args.problem_type)


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
