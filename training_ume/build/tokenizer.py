"""The tokenizer that a recipe names, or one made from the words of the training questions."""

from __future__ import annotations

from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from configuration_ume.arguments import ModelArguments
from modeling_ume.trust_ume import ForeignCodeError, load_tokenizer
from training_ume.records.files import first_line

# ------------------------------------------------------------------------------------------------------------- model


def build_tokenizer(args: ModelArguments, train: Dataset):
    """The text model's tokenizer, the one that is named, or a word-level one made from the training questions; None
    for a recipe without text."""
    if "text" not in args.modalities:
        return None
    if args.tokenizer == "words":
        texts = train["question"][:]
        if not any(map(str.split, texts)):  # pictures alone: a tokenizer has to know some word
            texts = [answer for answers in train["answers"][:] for answer in answers]
        return words_tokenizer(texts, args.text_config.get("max_position_embeddings"))
    name, revision = (args.text_model, args.text_revision) if args.text_model else (args.tokenizer, None)
    try:
        return load_tokenizer(name, revision=revision or "main")
    except ForeignCodeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"No tokenizer can be loaded from {name!r} ({first_line(error)}).") from error


def words_tokenizer(questions: list[str], max_length: int | None = None) -> PreTrainedTokenizerFast:
    """
    A word-level tokenizer with every word of `questions`, in lower case; other words become [UNK].

    Args:
        max_length (`int`, *optional*): longest question in tokens, for an encoder that has so many positions.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]  # [PAD] is 0, as encoder configs have it
    tokenizer.train_from_iterator(questions, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))]
    )
    limit = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **limit,
    )
