"""Text: how questions become tokens, and what a text encoder is given."""

import os

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import ModelOutput, is_protobuf_available, is_sentencepiece_available

from .arguments_ume import tokenizer_names
from .images_ume import is_picture
from .modality_base_ume import Modality, Size
from .numerics_ume import cut_off
from .padding_ume import in_given_order, real_tokens
from .parts_ume import Axis, Parts, word_of, word_spans
from .streams_ume import Stream, check_ids, check_shape, described, real_first, reorder
from .trust_ume import ForeignCodeError, load_tokenizer


class Text(Modality):
    """Questions and other texts: any text `AutoModel`, or this project's LSTM."""

    name = "text"
    noun = "question"
    called = "text"
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    instead = later_inputs = ("inputs_embeds",)
    mask = "attention_mask"
    part = "tokenizer"
    of_new = ("tokenizer",)
    column = "question"
    default_config = "bert"
    marks = ("vocab_size",)
    ordered = reads_empty = True
    reads = "a model that reads text"
    hub_classes = "text-classification"
    code = '"a text"'
    explained = "words"
    column_names = (
        ("questions", "question_text", "query", "sentence", "text", "prompt", "caption", "sent", "statement"),
    )

    def new_fields(self, config):
        return {"tokenizer": "words"}

    def check(self, adapter, encoder, inputs):
        embeddings, ids = inputs.get("inputs_embeds"), inputs.get(self.main_input)
        if embeddings is not None:
            width = encoder.get_input_embeddings().weight.shape[-1] if "inputs_embeds" in adapter.arguments else None
            check_embeddings(embeddings, width, encoder.config.model_type)
        if ids is not None:
            check_tokens(ids, getattr(encoder.get_input_embeddings(), "num_embeddings", None))
        self.check_index(inputs)
        given = self.given(inputs)
        if given:
            for name in ("attention_mask", "token_type_ids"):
                check_shape(name, inputs.get(name), inputs[given[0]].shape[:2], "one value a token")

    def example(self, config, rows=1):
        tokens = torch.ones(rows, 8, dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def follow_part(self, config, part, settings):
        config.vocab_size, config.pad_token_id = len(part), part.pad_token_id

    def graph_sizes(self, config):
        length = {1: Size("length")}
        return {"input_ids": length, "attention_mask": length}

    def encoder_inputs(self, encoder, arguments, inputs):
        own = [inputs.get(name) for name in (*self.inputs, *self.instead)]
        return text_inputs(arguments, *own)

    def own_pooling(self, encoder, pooled_width, num_special):
        # An encoder whose models predict masked tokens reads both ways and has a summary token in front.
        masked_lm = type(encoder.config) in MODEL_FOR_MASKED_LM_MAPPING
        causal = type(encoder.config) in MODEL_FOR_CAUSAL_LM_MAPPING and not masked_lm
        without = "cls" if masked_lm else "mean"
        if causal or pools_padding(encoder):
            return "last", without, causal
        return ("pooler" if pooled_width is not None else without), without, causal

    def check_pooling(self, encoder, pooling, pooled_width, num_special):
        if pooling == "pooler" and pools_padding(encoder):
            raise ValueError(
                f"{self.pooling_field}='pooler': the encoder {encoder.config.model_type!r} pools padding too; use "
                "'auto' or 'last'."
            )
        super().check_pooling(encoder, pooling, pooled_width, num_special)

    def read(self, adapter, encoder, inputs, record=None):
        """Runs the encoder on the real tokens, which stand in front whatever side was padded; see the base class."""
        embeddings, input_ids, token_type_ids = (
            inputs.get(name) for name in ("inputs_embeds", "input_ids", "token_type_ids")
        )
        given = input_ids if embeddings is None else embeddings
        mask = self.real(encoder, inputs)
        order = real_first(mask)
        front = reorder(mask, order)
        if token_type_ids is not None:
            token_type_ids = reorder(token_type_ids, order)
        if embeddings is not None:
            embeddings = cut_off(reorder(embeddings, order), front)
        else:
            input_ids = reorder(input_ids, order)
            padding = getattr(encoder.config, "pad_token_id", None)
            if padding is not None and padding >= 0:
                # RoBERTa counts positions, and CLIP looks for the end, by the ids themselves.
                input_ids = input_ids.masked_fill(~front, padding)
        # Attention over nothing at all would be NaN, in a question without any token.
        attended = (front | (torch.arange(front.shape[1], device=front.device) == 0)).long()
        try:
            outputs = adapter.run(
                encoder, text_inputs(adapter.arguments, input_ids, attended, token_type_ids, embeddings), record
            )
        except (RuntimeError, IndexError) as error:
            limit, length = position_limit(encoder), given.shape[1]
            if limit is None or length <= limit:
                raise
            raise ValueError(
                f"A question has {length} tokens, but the text encoder {encoder.config.model_type!r} reads {limit}: "
                f"cut it with the processor's max_length={limit}, or set the tokenizer's model_max_length."
            ) from error
        pooled = adapter.pool(outputs, outputs.last_hidden_state, front, content=front)
        states = in_given_order(outputs, order)  # [B, L, D]
        return Stream(states, mask, pooled, mask.any(1), modality=self.name), outputs

    def load_part(self, name, settings, **hub):
        return tokenizer_of(name, **hub)

    def check_part(self, part):
        """Raises ValueError for a tokenizer without a vocabulary, or that cannot pad; one that can gets a token for
        it."""
        if len(part) <= len(set(part.all_special_ids)):
            # What transformers makes, without a word, of a folder that lost its vocabulary.
            raise ValueError(
                f"The tokenizer ({type(part).__name__}) knows no token but {', '.join(part.all_special_tokens)}: its "
                "vocabulary (tokenizer.json, vocab.txt or the like) is missing. Restore that file beside the others."
            )
        if part.pad_token is None:
            # Decoder-only models were trained on single long texts and never had to pad. Which token fills the gap
            # does not matter, as the mask hides it; it has to be one that the embedding table knows.
            if part.eos_token is None:
                raise ValueError(
                    f"The tokenizer ({type(part).__name__}) has neither a padding nor an end-of-sequence token, so "
                    "questions of different lengths cannot share a batch: set `tokenizer.pad_token` first."
                )
            part.pad_token = part.eos_token

    def option_names(self, part):
        return tokenizer_names(part)

    def process(self, part, values, **options):
        if is_picture(values):
            raise ValueError("text is a picture: the images come first, or by name, `processor(images=…, text=…)`.")
        defaults = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": None}
        own = part.init_kwargs
        if own.get("padding") == "max_length" and "padding" not in options:
            defaults |= {name: own[name] for name in ("padding", "max_length") if name in own}
        options = {**defaults, **options}
        words = options.get("is_split_into_words", False)
        single = isinstance(values, str) or (words and values and isinstance(values[0], str))
        questions = [values] if single else values
        if not isinstance(questions, (list, tuple)) or not questions:
            raise ValueError(f"text must be a question or a list of questions that is not empty, not {values!r}.")
        for question in questions:
            for part_of_it in question if words else [question]:
                check_question(part_of_it)
        if isinstance(options.get("text_pair"), str):
            options["text_pair"] = [options["text_pair"]]
        if options["truncation"] is True and options["max_length"] is None:
            limit = part.model_max_length
            # Without a limit there is nothing to cut to, and tokenizers warn when they are asked to.
            options.update({"max_length": limit} if limit < UNLIMITED else {"truncation": False})
        return tokenize(part, list(questions), **options)

    def made_up(self, config, part, number=0):
        return MADE_UP[number % len(MADE_UP)]

    def collate(self, part, values, max_length=None):
        """Questions → ids and masks [B, L], padded to the longest; what is longer than `max_length` is cut."""
        encoded = tokenize(
            part, values, padding=True, truncation=max_length is not None, max_length=max_length, return_tensors="pt"
        )
        return {name: encoded[name] for name in self.inputs if name in encoded}

    def parts(self, part, config, cell, inputs):
        """Words, in whose stead padding may stand; special tokens stay."""
        wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        read = self.process(part, cell, **wanted)
        ids, spans = inputs["input_ids"][0].cpu(), word_spans(cell)
        of = torch.full_like(ids, -1)
        for place, (start, end) in enumerate(read["offset_mapping"][0].tolist()):
            if spans and not read["special_tokens_mask"][0][place]:
                of[place] = word_of(spans, start, end)
        blank = torch.full_like(ids, part.pad_token_id)
        axis = Axis("word", [cell[start:end] for start, end in spans], [*(start for start, _ in spans), len(cell)])
        return Parts((axis,), {"input_ids": of}, {"input_ids": blank})

    @staticmethod
    def real(encoder, inputs: dict) -> Tensor:
        """[B, L] bool, of ids [B, L] or embeddings [B, L, E]: the mask, or without one all but padding at the ends."""
        mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        if mask is not None:
            return mask.bool()
        if ids is not None:
            return real_tokens(encoder.config, ids)
        embeddings = inputs["inputs_embeds"]
        return torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)

    def tokens(self, config, outputs: ModelOutput, inputs: dict):
        states = outputs.last_hidden_state
        length = next(inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None).shape[1]
        if states.shape[1] != length:
            raise ValueError(
                f"The text encoder {config.model_type!r} returns {states.shape[1]} states for {length} tokens: choose "
                "one that keeps every token."
            )
        return states, 0, None


# Of clearly different lengths, so that their batch is padded; what they say does not matter.
MADE_UP = (
    "what colour is the small shape in the upper left corner of the picture?",
    "is it red?",
    "how many people are there in the image?",
    "is there a dog?",
)


def pools_padding(encoder: PreTrainedModel) -> bool:
    """SigLIP's text half pools what stands at the last position, be it padding."""
    return hasattr(encoder.config, "projection_size")


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
