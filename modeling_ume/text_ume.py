"""Text: how questions become tokens, and what a text encoder is given."""

import os

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from .streams_ume import check_ids, described
from .trust_ume import ForeignCodeError, load_tokenizer


def position_limit(encoder: PreTrainedModel) -> int | None:
    """How many tokens an encoder can read that has a table of positions; None: it has no such table."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in name or "wpe" in name):
            limit = getattr(encoder.config, "max_position_embeddings", module.num_embeddings)
            # The table may begin with rows that stand for no position, up to that of the padding.
            return limit if module.padding_idx is None else limit - module.padding_idx - 1
    return None


def text_inputs(
    arguments: set[str],
    input_ids: Tensor | None,
    mask: Tensor,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
) -> dict:
    inputs = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    inputs["attention_mask"] = mask
    if token_type_ids is not None and "token_type_ids" in arguments:
        inputs["token_type_ids"] = token_type_ids
    if "use_cache" in arguments:
        inputs["use_cache"] = False  # a question is read once, nothing is generated
    return inputs


# Vocabulary files of SentencePiece, which transformers reads only when that package is installed.
SENTENCEPIECE_FILES = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_FILES,
)  # fmt: skip
# A tokenizer that knows no limit says so with a huge `model_max_length` (1e30).
UNLIMITED = 1_000_000


def check_question(question) -> None:
    """Raises ValueError for a question that is no string or that no tokenizer can read; it may be empty."""
    if not isinstance(question, str):
        raise ValueError(f"A question must be a string, not {question!r} ({type(question).__name__}).")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The question {question[:60]!r} holds half of a character (a lone surrogate): mend or remove it."
        ) from error


def tokenize(tokenizer, questions: list[str], **options):
    """
    What the tokenizer makes of them; where none has any token, one column of padding instead of no column.

    There is always a mask, of the lengths that the tokenizer padded: many, such as SigLIP's, make none by themselves,
    and which of equal ids is padding cannot be told afterwards.
    """
    if options.get("return_attention_mask") is None:
        options["return_attention_mask"] = True
    encoded = tokenizer(questions, **options)
    if not any(len(ids) for ids in encoded["input_ids"]):
        encoded = tokenizer(questions, **{**options, "padding": "max_length", "truncation": True, "max_length": 1})
    return encoded


def tokenizer_of(name, **hub):
    folder = os.path.join(name, hub.get("subfolder") or "")
    if os.path.isdir(folder):
        files = os.listdir(folder)
        if not any(file in TOKENIZER_FILES for file in files):
            raise ValueError(
                f"The folder {name!r} has no tokenizer: it holds none of {', '.join(TOKENIZER_FILES)}. Save the "
                "tokenizer there with `tokenizer.save_pretrained(folder)`."
            )
        needs_conversion = "tokenizer.json" not in files and any(file in SENTENCEPIECE_FILES for file in files)
        # Without the packages transformers fails later, with a message about another one.
        if needs_conversion and not (is_sentencepiece_available() and is_protobuf_available()):
            raise ValueError(
                f"The tokenizer in {name!r} is a SentencePiece file that has to be converted once: "
                "`pip install sentencepiece protobuf` and try again. Saved again, it loads without them."
            )
    try:
        return load_tokenizer(name, **hub)
    except ForeignCodeError:
        raise
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise ValueError(
            f"No tokenizer can be loaded from {name!r}. A SentencePiece one (DeBERTa-v3, ALBERT, XLM-R, T5) needs "
            f"`pip install sentencepiece protobuf`; other than that: {error}"
        ) from error


def check_tokens(input_ids: Tensor, known: int | None) -> None:
    """Raises ValueError for what are no token ids [batch, length] of a text encoder that knows `known` of them."""
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"input_ids is {described(input_ids)}: give [batch, length], one token or more.")
    check_ids("input_ids", input_ids, known, "the text encoder's tokens")


def check_embeddings(inputs_embeds: Tensor, width: int | None, model_type: str) -> None:
    """Raises ValueError for what are no embeddings [batch, length, width]; None: this encoder takes none."""
    if width is None:
        raise ValueError(
            f"inputs_embeds was given, but the text encoder {model_type!r} reads only token ids: give input_ids."
        )
    if (
        not isinstance(inputs_embeds, Tensor)
        or not inputs_embeds.is_floating_point()
        or inputs_embeds.ndim != 3
        or inputs_embeds.shape[1] == 0
        or inputs_embeds.shape[2] != width
    ):
        raise ValueError(
            f"inputs_embeds is {described(inputs_embeds)}: give floating-point numbers [batch, length, {width}] of "
            "one token or more, as `model.get_input_embeddings()` makes them."
        )
