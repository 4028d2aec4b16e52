"""The visual-question-answering pipeline: a picture and a question in, the best answers in words out.

`pipeline("visual-question-answering", model=folder, trust_remote_code=True)` finds it by `config.custom_pipelines`.
"""

import hashlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Pipeline

from .arguments_ume import route_arguments  # noqa: F401
from .audio_ume import Audio  # noqa: F401
from .cells_ume import missing  # noqa: F401
from .choices_ume import about_unknown, check_probability, decode_choices, find_choices
from .films_ume import Film  # noqa: F401
from .given_ume import by_modality, inputs_of
from .hearing_ume import Hearing  # noqa: F401
from .images_ume import is_image, read_image
from .log_mel_ume import LogMelPatches  # noqa: F401
from .modalities_ume import MODALITIES, usual
from .modality_base_ume import Modality  # noqa: F401
from .modality_names_ume import Named  # noqa: F401
from .numerics_ume import widen  # noqa: F401
from .padding_ume import real_tokens  # noqa: F401
from .parts_ume import Axis  # noqa: F401
from .processing_ume import UMEProcessor
from .scalers_ume import mean_and_deviation  # noqa: F401
from .series_ume import Series  # noqa: F401
from .simple_encoders_ume import UMELSTMConfig  # noqa: F401
from .simple_series_ume import UMELSTMSeriesConfig  # noqa: F401
from .simple_tables_ume import UMETableMLPConfig  # noqa: F401
from .sizes_ume import check_sizes  # noqa: F401
from .sounds_ume import Samples  # noqa: F401
from .stored_ume import storable  # noqa: F401
from .streams_ume import Stream  # noqa: F401
from .table_ume import Table  # noqa: F401
from .tasks_ume import check_choosing, decode_logits  # noqa: F401
from .text_ume import position_limit  # noqa: F401
from .trust_ume import ForeignCodeError  # noqa: F401
from .video_ume import own_frames  # noqa: F401
from .vision_ume import Vision  # noqa: F401

KEPT_IMAGES = 8  # of the last ones; each takes 1.8 MB at ViT-B/16-384 in float32
# What the image encoder says of one image: token states [N, D], summary [D_p], and the grid of the last H·W tokens.
State = tuple[Tensor, Tensor, tuple[int, int] | None]


class UMEVQAPipeline(Pipeline):
    r"""
    Answers questions about images with a [`UMEForVisualQuestionAnswering`] and its [`UMEProcessor`].

    The model is put into eval mode. Besides `model`, `processor` and `device`, `top_k`, `candidate_labels`,
    `min_probability` and `batch_size` can be given once here instead of at every call.

    What the image encoder says of the last few images is kept, so that the next question about one of them does not
    run it again. An image is known by its content, a file as well as an object; a change of the encoder or of the
    image processor empties the store (see [`UMEVQAPipeline.forget_images`]).

    Example:

    ```python
    >>> from transformers import pipeline

    >>> ask = pipeline("visual-question-answering", model="my-checkpoint", trust_remote_code=True)
    >>> ask("street.jpg", "What colour is the bus?", top_k=2)
    [{'answer': 'red', 'score': 0.91}, {'answer': 'blue', 'score': 0.04}]
    >>> ask("street.jpg", ["Is it raining?", "How many people are there?"])
    >>> ask([{"image": "street.jpg", "question": "Is it day?"}, {"image": "beach.jpg", "question": "Who is this?"}])
    ```"""

    task_name = "visual-question-answering"
    _load_processor = True
    # The processor brings these along.
    _load_image_processor = False
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        if config.model_type != "ume":
            raise ValueError(
                f"This visual-question-answering pipeline is that of UME models, and the model is of the kind "
                f"{config.model_type!r}; transformers has removed the one for all models."
            )
        if self.processor is None and self.tokenizer is not None and self.image_processor is not None:
            self.processor = UMEProcessor(
                self.image_processor, self.tokenizer, id2label=config.id2label, problem_type=config.problem_type
            )
        if self.processor is None:
            raise ValueError(
                "The visual-question-answering pipeline needs the processor of its model: pass `processor=…`, for "
                "instance AutoProcessor.from_pretrained(folder, trust_remote_code=True)."
            )
        self.model.eval()  # a model fresh from training would answer with dropout, each time something else
        self._kept: OrderedDict[bytes, State] = OrderedDict()  # content → state, the last used at the end
        self._kept_for = None  # what those states depend on besides the content

    def __call__(
        self,
        image=None,
        question=None,
        top_k: int | None = None,
        batch_size: int | None = None,
        candidate_labels: list[str] | str | None = None,
        min_probability: float | None = None,
        **parts,
    ):
        r"""
        Args:
            image:
                An image: a PIL image, its path or URL, the bytes of its file, or an array or tensor of bytes. Or a
                list, generator or dataset of images, with one question for all. Or rows: one dict
                `{"image": …, "question": …}`, a list of them, or a generator or dataset that yields them; other
                columns are ignored.
            question (`str` or `list[str]`, *optional*):
                One question or several about this image, which is encoded once, also if more are asked in later
                calls. Not with rows, which bring their own.
            top_k (`int`, *optional*, defaults to 5): answers a question; all of them if the model knows fewer.
            batch_size (`int`, *optional*, defaults to 1): rows that go through the model together.
            candidate_labels (`list[str]` or `str`, *optional*):
                The choices, of which the probabilities are then; a string holds them with commas between. What the
                model does not know as an answer is left out, with a warning that names it.
            min_probability (`float`, *optional*):
                Where no answer has as much, the list is one dict: its `answer` is "I do not know", its `guess` the
                best answer, and `score` the probability of that.
            parts:
                Of a model that reads anything but images and questions, what there is of its other modalities, by
                their names (`audio=…`, `table={…}`). Of such a model any may be left out, also image and question,
                and a row is a dict of what it has.

        Returns:
            For one question: `list[dict]` of `{"answer": str, "score": float}`, the best first; scores are
            probabilities. For a list of questions: a list of these. For rows: one of the above a row, as a list for a
            list and one by one as they are ready for a generator or dataset.

        Raises:
            ValueError: if an image cannot be read, a question is empty or not a string, top_k or batch_size are not
                whole numbers of 1 or more, the model knows none of the choices, or min_probability is none.
            TypeError: for `parts` of a model that reads images and questions alone.
        """
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        _check_count("batch_size", batch_size)
        now = self._sanitize_parameters(top_k, candidate_labels, min_probability)[2]
        params = {**self._postprocess_params, **now}
        if not self.asks_about_images:
            return self._answer_any(image, question, parts, batch_size, params)
        if parts:
            raise TypeError(f"{type(self).__name__} got an unexpected argument {next(iter(parts))!r}.")
        rows = image if is_image(image) else _each(image)
        if is_image(image) or (question is not None and rows is None):
            return self._answer_batch([{"image": image, "question": question}], params)[0]
        if question is not None and not isinstance(image, dict):
            if not isinstance(question, str):
                raise ValueError(
                    "Several images came with several questions: give one question for all of them, or rows, "
                    "[{'image': …, 'question': …}, …], which say what is asked about which."
                )
            rows = ({"image": picture, "question": question} for picture in _each(image))
        elif question is not None:
            raise ValueError("A row was given, and a question besides: a row brings its own.")
        if isinstance(image, dict):
            return self._answer_batch([image], params)[0]
        if rows is None:
            raise ValueError(
                f"The pipeline takes (image, question), a dict with both or a list of such dicts, not {image!r}."
            )
        answers = self._answer(rows, batch_size, params)
        return list(answers) if isinstance(image, (list, tuple)) else answers

    @property
    def asks_about_images(self) -> bool:
        """Whether the model reads images and questions, and nothing else."""
        return list(self.model.config.modalities) == [kind.name for kind in usual()]

    def _answer_any(self, image, question, parts: dict, batch_size: int, params: dict):
        """A call of a model of other modalities."""
        rows = [image] if isinstance(image, dict) and not is_image(image) else image
        alone = question is None and not parts
        if alone and not is_image(rows) and not isinstance(rows, str) and (each := _each(rows)) is not None:
            batches = _batches(each, batch_size)
            answers = (row for batch in batches for row in self._answer_parts(batch, params, others=True))
            if isinstance(image, dict):
                return next(answers)
            return list(answers) if isinstance(image, (list, tuple)) else answers
        given = {"image": image, **parts}
        if isinstance(question, (list, tuple)):
            _check_questions(question)
            return self._answer_parts([{**given, "question": asked} for asked in question], params)
        return self._answer_parts([{**given, "question": question}], params)[0]

    def answer(self, rows: list[dict], **options) -> list[list[dict]]:
        """
        The answers to rows of any modalities, in one batch; nothing is kept of them.

        Args:
            rows: dicts by the names of the modalities (`image`, `question`, `audio`, `table` …), any of which a row
                may lack.
            options: `top_k`, `candidate_labels` and `min_probability`, as in `__call__`.

        Returns:
            A list a row, as `__call__` returns of one question.

        Raises:
            ValueError: for what the model does not read, cannot be read, or a row of nothing.
        """
        return self._answer_parts(rows, {**self._postprocess_params, **self._sanitize_parameters(**options)[2]})

    def _answer_parts(self, rows: list[dict], params: dict, others: bool = False) -> list[list[dict]]:
        own = list(self.model.config.modalities)
        for row in rows:
            if not isinstance(row, dict):
                raise ValueError(
                    f"A row must be a dict of what there is of {', '.join(MODALITIES[key].column for key in own)}, "
                    f"not {str(row)[:200]}."
                )
        return self.run_single({"found": [by_modality(row, own, others) for row in rows]}, {}, {}, params)

    def _answer(self, rows: Iterable[dict], batch_size: int, params: dict) -> Iterator[list]:
        for batch in _batches(rows, batch_size):
            yield from self._answer_batch(batch, params)

    def _answer_batch(self, rows: list[dict], params: dict) -> list:
        # Not by the base class' own batching: its collator keeps only the first question of a row.
        return self.run_single({"rows": rows}, {}, {}, params)

    def _sanitize_parameters(self, top_k=None, candidate_labels=None, min_probability=None, **hub_kwargs):
        # hub_kwargs: `pipeline(…)` hands over what it used itself, such as `local_files_only`.
        params = {}
        if top_k is not None:
            _check_count("top_k", top_k)
            params["top_k"] = top_k
        kind = self.model.config.problem_type
        check_choosing(kind, candidate_labels=candidate_labels, min_probability=min_probability)
        if candidate_labels is not None:
            params["choices"] = find_choices(candidate_labels, self.model.config.id2label)
            if unknown := about_unknown(params["choices"]):
                warnings.warn(unknown, stacklevel=3)
        if min_probability is not None:
            check_probability(min_probability)
            params["min_probability"] = min_probability
        return {}, {}, params

    def preprocess(self, inputs: dict) -> dict:
        """{"rows": R rows} → the model's inputs for all their questions together, and how many each row has.

        `pixel_values` holds the images whose states are not kept; `states` those of all images, None for the former.
        """
        if "found" in inputs:
            rows = inputs["found"]
            batch = inputs_of(self.processor, rows, self.model.config.modalities)
            return {"model_inputs": batch, "counts": [None] * len(rows)}
        kept = self._states_kept()
        images, position, keys, states, questions, image_index, counts = [], {}, {}, [], [], [], []
        for row in inputs["rows"]:
            if not isinstance(row, dict) or not {"image", "question"} <= row.keys():
                raise ValueError(f"A row must be a dict with the keys 'image' and 'question', not {str(row)[:200]}.")
            asked = row["question"]
            _check_questions(asked)
            image = row["image"]
            # Within one call, an object and a path stay what they are: no need to look at the content twice.
            name = image if isinstance(image, str) else id(image)
            if name not in keys:
                keys[name], read = _content(image)
                if keys[name] not in position:
                    position[keys[name]] = len(states)
                    states.append(kept.get(keys[name]))
                    if states[-1] is None:
                        images.append(read())
            single = isinstance(asked, str)
            questions += [asked] if single else asked
            counts.append(None if single else len(asked))
            image_index += [position[keys[name]]] * (1 if single else len(asked))
        model_inputs = self.processor(images=images or None, text=questions)  # [Q, L] ids, [new, 3, H, W] pixels
        model_inputs = {**model_inputs, "image_index": torch.tensor(image_index)}
        return {"model_inputs": model_inputs, "states": states, "keys": list(position), "counts": counts}

    def _forward(self, inputs: dict) -> dict:
        model_inputs = dict(inputs["model_inputs"])
        if "states" not in inputs:
            return {"logits": self.model(**model_inputs, return_dict=True).logits, "counts": inputs["counts"]}
        states = list(inputs["states"])
        if "pixel_values" in model_inputs:
            pixel_values, pixel_mask = model_inputs.pop("pixel_values"), model_inputs.pop("pixel_mask", None)
            new = [i for i, state in enumerate(states) if state is None]
            # Of images of different sizes each has a grid of its own.
            masks = [None] if pixel_mask is None else pixel_mask.split(1)
            parts = [pixel_values] if pixel_mask is None else pixel_values.split(1)
            encoded = [self._encode(*part) for part in zip(parts, masks, strict=True)]
            for i, state in zip(new, chain.from_iterable(encoded), strict=True):
                states[i] = state
        for key, state in zip(inputs["keys"], states, strict=True):
            self._kept[key] = state
            self._kept.move_to_end(key)
        while len(self._kept) > KEPT_IMAGES:
            self._kept.popitem(last=False)
        encoded = [_as_encoded(state) for state in states]
        alike = len({(state[0].shape, state[2]) for state in states}) == 1
        joined = _stack(encoded) if alike else self.model.join_images(encoded)
        model_inputs.update(joined)
        return {"logits": self.model(**model_inputs, return_dict=True).logits, "counts": inputs["counts"]}

    def _encode(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> list[State]:
        """The states of images of one size; of a single one, which may be padded, at its own."""
        if pixel_mask is not None:
            height, width = (int(pixel_mask[0].any(side).sum()) for side in (1, 0))
            pixel_values = pixel_values[:, :, :height, :width]
        encoded = self.model.encode_images(pixel_values)
        grid = tuple(encoded["vision_grid"].tolist()) if "vision_grid" in encoded else None
        rows = zip(encoded["vision_states"], encoded["vision_pooled"], strict=True)
        # Its own copy: a row of a batch would keep the whole batch in memory.
        return [(tokens.clone(), pooled.clone(), grid) for tokens, pooled in rows]

    def forget_images(self) -> None:
        """
        Drops what is kept of earlier images, for instance to free memory.

        Training steps, loaded weights, another precision or device, adapters switched or merged, forward hooks and new
        settings of the image processor are noticed without it. It is needed after changes that PyTorch does not count
        and that leave nearly all weights as they are, such as `weight.data[0, 0] = 1`.
        """
        self._kept.clear()

    def _states_kept(self) -> dict[bytes, State]:
        """The states that still hold; those of another encoder or other settings are dropped."""
        ume, device = self.model.ume, self.device.type
        now = (
            _encoder_signature(ume.vision_model),
            _plain_attributes(ume._adapters["vision"]),
            repr(self.processor.image_processor.to_dict()),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        )
        # In training mode the encoder says something else each time.
        if now != self._kept_for or ume.vision_model.training:
            self._kept.clear()
            self._kept_for = now
        return self._kept

    def postprocess(self, outputs: dict, top_k: int = 5, choices=None, min_probability: float | None = None) -> list:
        """Logits [Q, C] of all questions → a row's answers each, in the shape of its question."""
        config = self.model.config  # which answer a logit means, the model knows
        logits, kind = outputs["logits"], config.problem_type
        answers = iter(decode_choices(logits, config.id2label, kind, top_k, choices, min_probability))
        return [next(answers) if count is None else list(islice(answers, count)) for count in outputs["counts"]]

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model and processor, with their code, so that the folder loads again as a pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _batches(rows: Iterable, size: int) -> Iterator[list]:
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


def _each(rows) -> Iterable | None:
    """What can be gone through one by one, torch's data sets too, which are read by number; None for all else."""
    if not isinstance(rows, Iterable) and hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        return (rows[i] for i in range(len(rows)))
    return rows if isinstance(rows, Iterable) else None


def _content(image) -> tuple[bytes, Callable[[], Image.Image]]:
    """A key of what an image shows, and a function that gives it as `read_image` does."""
    if isinstance(image, (str, os.PathLike)) and os.path.isfile(image):
        with suppress(OSError), open(image, "rb") as file:  # `read_image` says what is wrong
            content = file.read()
            return hashlib.sha256(content).digest(), lambda: read_image(image, content)
    picture = read_image(image)
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest(), lambda: picture


def _as_encoded(state: State) -> dict[str, Tensor]:
    """What `encode_images` says of that image alone."""
    tokens, pooled, grid = state
    encoded = {"vision_states": tokens[None], "vision_pooled": pooled[None]}
    return encoded if grid is None else {**encoded, "vision_grid": torch.tensor(grid)}


def _stack(encoded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same of images with equally many tokens on equal grids."""
    rows = {name: torch.cat([image[name] for image in encoded]) for name in ("vision_states", "vision_pooled")}
    return {**encoded[0], **rows}


def _encoder_signature(encoder: nn.Module) -> tuple:
    """
    What tells an encoder from itself after a change, in a few milliseconds.

    PyTorch counts what is written into a tensor (`_version`), and another tensor lies elsewhere. Writing through
    `.data`, as merging an adapter does, is not counted: for that, some values of every tensor are compared. Adapters
    are switched by plain attributes of their modules. A forward hook, known by its number, may change what comes out,
    or wait for the encoder to run.
    """
    tensors, samples = [*encoder.parameters(), *encoder.buffers()], {}
    for tensor in tensors:
        if not tensor.is_meta:  # offloaded
            sample = tensor.detach().flatten()[:: tensor.numel() // 16 + 1]
            samples.setdefault((tensor.device, tensor.dtype), []).append(sample)
    return (
        tuple((t.data_ptr(), None if t.is_inference() else t._version, t.shape, t.dtype, t.device) for t in tensors),
        tuple(torch.cat(parts).cpu().view(torch.uint8).numpy().tobytes() for parts in samples.values()),
        tuple((type(m), *m._forward_pre_hooks, *m._forward_hooks, _plain_attributes(m)) for m in encoder.modules()),
    )


def _plain_attributes(thing) -> str:
    return repr({name: value for name, value in vars(thing).items() if _is_plain(value)})


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))


def _check_questions(asked):
    if isinstance(asked, (list, tuple)):
        if not asked:
            raise ValueError("The list of questions is empty: ask at least one.")
    else:
        asked = [asked]
    for question in asked:
        if not isinstance(question, str):
            raise ValueError(
                f"A question must be a string, or a list of strings about one image, not {question!r} "
                f"({type(question).__name__})."
            )
        if not question.strip():
            raise ValueError("A question is empty: write what you want to know about the image.")


def _check_count(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is impossible: it must be a whole number of 1 or more.")
