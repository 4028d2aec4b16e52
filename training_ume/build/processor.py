"""The processor and the collator of a recipe's model."""

from __future__ import annotations

from configuration_ume.arguments import DataArguments, ModelArguments
from modeling_ume import UMEProcessor
from modeling_ume.modalities_ume import prepared
from modeling_ume.modality_base_ume import Modality
from training_ume.build.model import encoder_config
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator

ROWS = 1000  # that are looked at together


def build_processor(args: ModelArguments, tokenizer, vocabulary: AnswerVocabulary | None, rows=None) -> UMEProcessor:
    """
    The processor: the tokenizer, of every other modality its encoder's own part, a plain one or what the training rows
    make it, and the answers.

    Args:
        tokenizer: None for a recipe without text.
        rows: those that are trained on, which only modalities need whose part is `fitted`.

    Raises:
        ValueError: where a part cannot be had.
    """
    parts, settings = {}, vars(args)
    for kind in prepared():
        if kind.name not in args.modalities:
            continue
        name, revision = getattr(args, f"{kind.name}_model"), getattr(args, f"{kind.name}_revision")
        if kind.part == "tokenizer":
            parts[kind.part] = tokenizer
        elif kind.fitted:
            parts[kind.part] = fit_part(kind, args, rows)
        elif name is not None:
            parts[kind.part] = kind.load_part(name, settings, revision=revision or "main")
        else:
            parts[kind.part] = kind.new_part(encoder_config(getattr(args, kind.config_field), None, None), settings)
    id2label = None if vocabulary is None else dict(vocabulary.id2label)
    return UMEProcessor(**parts, id2label=id2label, problem_type=args.problem_type)


def fit_part(kind: Modality, args: ModelArguments, rows):
    """What the training rows make of a part; ValueError where no row has the modality."""
    if rows is None or kind.column not in getattr(rows, "column_names", ()):
        raise ValueError(
            f"The recipe has an encoder of {kind.nouns}, and the training rows have no column {kind.column!r}: say "
            f"which columns are its own, e.g. --columns {kind.column}=…, or leave {kind.name}_config out."
        )
    name, revision = getattr(args, f"{kind.name}_model"), getattr(args, f"{kind.name}_revision")
    config = encoder_config(getattr(args, kind.config_field), name, revision)
    parts = rows.with_format(None).select_columns([kind.column]).iter(batch_size=ROWS)
    return kind.fit((cell for part in parts for cell in part[kind.column]), config, vars(args))


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
