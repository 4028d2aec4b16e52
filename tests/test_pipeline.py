"""The visual-question-answering pipeline: its calls, its errors, and a saved folder where the package is missing."""

import copy
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertTokenizer, ViTConfig, ViTImageProcessor, pipeline

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor, UMEVQAPipeline
from modeling_ume.pipeline_ume import KEPT_IMAGES

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "it", "?", "red", "a", "circle"]
ANSWERS = {i: f"answer {i}" for i in range(7)}
QUESTIONS = ["what colour is it ?", "is it red ?", "circle ?"]


def make_model(**kwargs):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, initializer_range=0.5, **sizes),
        ViTConfig(image_size=16, patch_size=8, initializer_range=0.5, **sizes),
        fusion_hidden_size=16,
        id2label=ANSWERS,
        **kwargs,
    )
    return UMEForVisualQuestionAnswering(config).eval()


def make_processor(model):
    return UMEProcessor(
        ViTImageProcessor(size={"height": 16, "width": 16}),
        BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=32),
        id2label=model.config.id2label,
        problem_type=model.config.problem_type,
    )


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def ask(model):
    return UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu", top_k=3)


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8))


def equal(got, expected):
    """Same answers in the same order, scores equal but for rounding in another batch."""
    if isinstance(expected, list):
        return len(got) == len(expected) and all(equal(g, e) for g, e in zip(got, expected, strict=True))
    return got["answer"] == expected["answer"] and got["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_one_question_gets_the_models_best_answers(ask, model):
    answers = ask(picture(), QUESTIONS[0])
    inputs = ask.processor(images=picture(), text=QUESTIONS[0])
    with torch.no_grad():
        scores, ids = model(**inputs).logits[0].softmax(-1).topk(3)
    assert [a["answer"] for a in answers] == [ANSWERS[i] for i in ids.tolist()]
    assert [a["score"] for a in answers] == pytest.approx(scores.tolist(), abs=1e-6)


def test_different_questions_and_images_get_different_answers(ask):
    # Guards the tests below: a model that always says the same would pass them all.
    answers = [ask(picture(seed), question)[0]["score"] for seed in (0, 1) for question in QUESTIONS]
    assert len({round(score, 4) for score in answers}) == len(answers)


def test_several_questions_share_one_encoding_of_the_image(ask, model):
    seen = []
    hook = model.ume.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].shape), with_kwargs=True
    )
    answers = ask(picture(), QUESTIONS)
    hook.remove()
    assert seen == [(1, 3, 16, 16)]
    assert equal(answers, [ask(picture(), question) for question in QUESTIONS])


@contextmanager
def images_encoded(model):
    """A list to which every call of the image encoder adds how many images it was given."""
    encoder, seen = model.ume.vision_model, []
    forward = encoder.forward

    def counted(*args, pixel_values, **kwargs):
        seen.append(len(pixel_values))
        return forward(*args, pixel_values=pixel_values, **kwargs)

    encoder.forward = counted  # not by a hook, which empties the store
    try:
        yield seen
    finally:
        del encoder.forward


@pytest.mark.parametrize("fusion", ["ume", "early_input", "late_mean"])
def test_questions_in_later_calls_share_the_encoding_too(tmp_path, fusion):
    model = make_model(fusion=fusion)
    path = tmp_path / "picture.png"
    picture().save(path)
    asked, fresh = (UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu") for _ in range(2))
    expected = fresh(picture(), QUESTIONS)
    # A file by its path, as text too, and an object, another one with the same pixels each time.
    for image, encoded in ((lambda: path, [1]), (lambda: str(path), []), (picture, [1])):
        with images_encoded(model) as seen:
            answers = [asked(image(), question) for question in QUESTIONS]
            answers += asked([{"image": image(), "question": question} for question in QUESTIONS], batch_size=2)
        assert seen == encoded
        assert equal(answers, expected * 2)


def test_every_way_to_call_gives_the_same_answers(ask, tmp_path):
    expected = ask(picture(), QUESTIONS[0])
    picture().save(tmp_path / "picture.png")
    row = {"image": picture(), "question": QUESTIONS[0], "question_id": 7}
    assert ask(image=picture(), question=QUESTIONS[0]) == expected
    assert ask(str(tmp_path / "picture.png"), QUESTIONS[0]) == expected
    assert ask(tmp_path / "picture.png", QUESTIONS[0]) == expected
    assert ask(row) == expected
    assert ask([row]) == [expected]
    assert list(ask(row for _ in range(2))) == [expected, expected]
    assert ask(picture(), [QUESTIONS[0]]) == [expected]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 10])
def test_rows_in_batches_get_the_answers_they_get_alone(ask, batch_size):
    rows = [
        {"image": picture(0), "question": QUESTIONS[0]},
        {"image": picture(1), "question": QUESTIONS},
        {"image": picture(2), "question": QUESTIONS[2]},
        {"image": picture(1), "question": QUESTIONS[1:]},
        {"image": picture(0), "question": QUESTIONS[1]},
    ]
    assert equal(ask(rows, batch_size=batch_size), [ask(row) for row in rows])


def test_rows_of_a_batch_that_share_a_path_share_its_encoding(ask, tmp_path):
    path = str(tmp_path / "picture.png")
    picture().save(path)
    rows = [{"image": path, "question": question} for question in QUESTIONS]
    assert ask.preprocess({"rows": rows})["model_inputs"]["pixel_values"].shape[0] == 1
    assert equal(ask(rows, batch_size=3), ask(path, QUESTIONS))


def test_a_generator_is_answered_while_it_yields(ask):
    taken = []

    def rows():
        for i in range(4):
            taken.append(i)
            yield {"image": picture(i), "question": QUESTIONS[0]}

    answers = ask(rows(), batch_size=2)
    assert taken == []
    next(answers)
    assert taken == [0, 1]


def test_a_batch_encodes_only_the_images_that_are_new(ask, model):
    rows = [{"image": picture(seed), "question": question} for seed in range(3) for question in QUESTIONS]
    alone = [ask(row) for row in rows]
    ask.forget_images()
    ask(picture(1), QUESTIONS)
    with images_encoded(model) as seen:
        answers = ask(rows, batch_size=len(rows))
    assert seen == [2]
    assert equal(answers, alone)


def test_only_the_last_few_images_are_kept(ask, model):
    for seed in range(KEPT_IMAGES):
        ask(picture(seed), QUESTIONS[0])
    with images_encoded(model) as seen:
        ask(picture(0), QUESTIONS[0])  # used again, so the second is now the oldest
        ask(picture(KEPT_IMAGES), QUESTIONS[0])
        assert seen == [1]
        ask(picture(0), QUESTIONS[0])
        assert seen == [1]
        ask(picture(1), QUESTIONS[0])
        assert seen == [1, 1]
        ask([{"image": picture(seed), "question": QUESTIONS[0]} for seed in range(3 * KEPT_IMAGES)], batch_size=50)
    assert len(ask._kept) == KEPT_IMAGES
    assert all(states.untyped_storage().nbytes() == states.nbytes for states, _, _ in ask._kept.values())


def test_images_can_be_forgotten(ask, model):
    with images_encoded(model) as seen:
        ask(picture(), QUESTIONS)
        ask.forget_images()
        ask(picture(), QUESTIONS)
    assert seen == [1, 1]


def test_a_picture_that_was_painted_over_is_another_one(ask, model):
    image = picture(0)
    before = ask(image, QUESTIONS[0])
    image.paste(picture(1))
    assert ask(image, QUESTIONS[0]) == ask(picture(1), QUESTIONS[0]) != before


def test_a_file_that_was_replaced_is_another_one_even_with_its_size_and_time(ask, tmp_path):
    path = tmp_path / "picture.bmp"
    picture(0).save(path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    before, size = ask(path, QUESTIONS[0]), path.stat().st_size
    picture(1).save(path)
    os.utime(path, ns=times)
    assert path.stat().st_size == size
    assert ask(path, QUESTIONS[0]) == ask(picture(1), QUESTIONS[0]) != before


@torch.no_grad()
def train_a_step(ask):
    next(ask.model.ume.vision_model.parameters()).view(-1)[3] += 1


def merge_by_data(ask):
    next(ask.model.ume.vision_model.parameters()).data.mul_(1.5)


def load_weights(ask):
    ask.model.load_state_dict({name: 1.5 * value for name, value in ask.model.state_dict().items()})


def swap_weights(ask):
    for parameter in ask.model.ume.vision_model.parameters():
        parameter.data = 1.5 * parameter.data


def shorten(ask):
    ask.model.to(torch.bfloat16)


def average_tokens(ask):
    ask.model.ume._adapters["vision"].feature_grid = 1


def crop_otherwise(ask):
    ask.processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def other_model(ask):
    ask.model = make_model(vision_pooling="mean")


@pytest.mark.parametrize(
    "change",
    [
        train_a_step, merge_by_data, load_weights, swap_weights, shorten, average_tokens, crop_otherwise, other_model
    ],
)  # fmt: skip
def test_a_changed_model_never_answers_from_what_it_saw_before(change):
    model = make_model()
    ask = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu")
    before = ask(picture(), QUESTIONS)
    change(ask)
    after = ask(picture(), QUESTIONS)
    assert after == UMEVQAPipeline(model=ask.model, processor=ask.processor, device="cpu")(picture(), QUESTIONS)
    assert not equal(after, before)


def test_a_change_of_the_head_alone_answers_anew_from_the_kept_image():
    model = make_model()
    ask = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu")
    before = ask(picture(), QUESTIONS)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    with images_encoded(model) as seen:
        after = ask(picture(), QUESTIONS)
    assert seen == []
    assert not equal(after, before)


def test_an_adapter_that_is_switched_off_or_merged_is_noticed():
    peft = pytest.importorskip("peft")
    model = make_model()
    base = copy.deepcopy(model)
    lora = peft.LoraConfig(target_modules=r".*vision_model.*(query|q_proj)", init_lora_weights=False)
    wrapped = peft.get_peft_model(model, lora).eval()
    ask = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu")
    plain = UMEVQAPipeline(model=base, processor=ask.processor, device="cpu")(picture(), QUESTIONS)
    adapted = ask(picture(), QUESTIONS)
    assert not equal(adapted, plain)
    with wrapped.disable_adapter():
        assert equal(ask(picture(), QUESTIONS), plain)
    assert equal(ask(picture(), QUESTIONS), adapted)
    with images_encoded(model) as seen:
        wrapped.merge_adapter()
        assert equal(ask(picture(), QUESTIONS), adapted)
    assert seen == [1]


def test_a_hook_on_the_encoder_sees_it_run(ask, model):
    seen = []
    ask(picture(), QUESTIONS)
    layer = list(model.ume.vision_model.modules())[-1]
    hooks = []
    for name in ("first", "second"):
        hooks.append(layer.register_forward_hook(lambda *_, name=name: seen.append(name)))
        ask(picture(), QUESTIONS)
    for hook in hooks:
        hook.remove()
    assert seen == ["first", "first", "second"]


def test_nothing_is_kept_of_an_encoder_in_training(ask, model):
    with images_encoded(model) as seen:
        try:
            model.train()
            ask(picture(), QUESTIONS)
            ask(picture(), QUESTIONS)
        finally:
            model.eval()
        ask(picture(), QUESTIONS)
    assert seen == [1, 1, 1]


def test_what_encode_images_returns_stands_for_the_pixels(model):
    inputs = make_processor(model)(images=[picture(0), picture(1)], text=QUESTIONS)
    index = torch.tensor([1, 0, 1])
    with torch.no_grad():
        expected = model(**inputs, image_index=index).logits
        encoded = model.encode_images(inputs.pop("pixel_values"))
        assert torch.equal(model(**inputs, **encoded, image_index=index).logits, expected)
    assert encoded["vision_grid"].tolist() == [2, 2]


def test_top_k_is_five_unless_set_and_never_more_than_the_answers(model):
    processor = make_processor(model)
    ask = UMEVQAPipeline(model=model, processor=processor, device="cpu")
    assert len(ask(picture(), QUESTIONS[0])) == 5
    assert len(ask(picture(), QUESTIONS[0], top_k=1)) == 1
    assert len(ask(picture(), QUESTIONS[0], top_k=100)) == len(ANSWERS)
    assert len(UMEVQAPipeline(model=model, processor=processor, device="cpu", top_k=2)(picture(), "red ?")) == 2


def test_a_multi_label_model_answers_with_independent_scores():
    model = make_model(problem_type="multi_label_classification")
    processor = make_processor(model)
    answers = UMEVQAPipeline(model=model, processor=processor, device="cpu")(picture(), QUESTIONS[0], top_k=7)
    with torch.no_grad():
        logits = model(**processor(images=picture(), text=QUESTIONS[0])).logits[0]
    assert [a["score"] for a in answers] == pytest.approx(sorted(logits.sigmoid().tolist(), reverse=True), abs=1e-6)


def test_a_bfloat16_model_answers_nearly_the_same(ask):
    model = make_model().to(torch.bfloat16)
    answers = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu", top_k=7)(picture(), QUESTIONS)
    for got, expected in zip(answers, ask(picture(), QUESTIONS, top_k=7), strict=True):
        scores = {a["answer"]: a["score"] for a in got}
        assert all(scores[a["answer"]] == pytest.approx(a["score"], abs=0.1) for a in expected)


def test_a_model_fresh_from_training_answers_without_dropout():
    model = make_model(classifier_dropout=0.9).train()
    ask = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu")
    assert ask(picture(), QUESTIONS[0]) == ask(picture(), QUESTIONS[0])


def test_images_of_two_sizes_that_are_kept_are_answered_together_as_each_alone(ask):
    ask.processor.image_processor.do_resize = False
    images = picture().resize((24, 16)), picture().resize((16, 16))
    alone = [ask(image, "red ?")[0]["score"] for image in images]
    together = ask([{"image": image, "question": "red ?"} for image in images], batch_size=2)
    assert [answers[0]["score"] for answers in together] == pytest.approx(alone, abs=1e-6)
    ask.forget_images()
    with pytest.raises(ValueError, match=r"could not make one batch of 2 images: .* give the images one by one"):
        ask([{"image": image, "question": "red ?"} for image in images], batch_size=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ask: ask("nowhere.png", "red ?"), r"nowhere\.png.*no such file"),
        (lambda ask: ask(__file__, "red ?"), r"test_pipeline\.py.*cannot identify"),
        (lambda ask: ask([picture(), picture()], ["red ?"]), "Several images came with several questions"),
        (lambda ask: ask(picture(), ""), "question is empty"),
        (lambda ask: ask(picture(), ["red ?", "  "]), "question is empty"),
        (lambda ask: ask(picture(), []), "list of questions is empty"),
        (lambda ask: ask(picture(), 3), "must be a string.*not 3"),
        (lambda ask: ask(picture(), ["red ?", None]), "must be a string.*not None"),
        (lambda ask: ask(picture()), "must be a string.*not None"),
        (lambda ask: ask(3), "a dict with both"),
        (lambda ask: ask([{"image": picture()}]), "keys 'image' and 'question'"),
        (lambda ask: ask(["a.png", "b.png"]), r"keys 'image' and 'question', not a\.png"),
        (lambda ask: ask(picture(), "red ?", top_k=0), "top_k=0"),
        (lambda ask: ask(picture(), "red ?", top_k="3"), "top_k='3'"),
        (lambda ask: ask([], batch_size=0), "batch_size=0"),
    ],
)
def test_a_wrong_call_says_what_was_wrong(ask, call, message):
    with pytest.raises(ValueError, match=message):
        call(ask)


def test_a_misspelt_argument_is_not_passed_over(ask):
    with pytest.raises(TypeError, match="topk"):
        ask(picture(), "red ?", topk=3)


def test_a_pipeline_without_a_processor_is_refused(model):
    with pytest.raises(ValueError, match="needs the processor"):
        UMEVQAPipeline(model=model, device="cpu")


def test_a_saved_pipeline_loads_again(ask, tmp_path):
    ask.save_pretrained(tmp_path)
    again = pipeline("visual-question-answering", model=str(tmp_path), trust_remote_code=True, device="cpu", top_k=3)
    assert equal(again(picture(), QUESTIONS), ask(picture(), QUESTIONS))


ELSEWHERE = """
import json, sys

class NotInstalled:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("modeling_ume", "configuration_ume", "training_ume", "metrics"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled)

import torch
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline

folder, image, again, *questions = sys.argv[1:]
kwargs = {"trust_remote_code": True, "local_files_only": True}
ask = pipeline("visual-question-answering", model=folder, device="cpu", batch_size=2, **kwargs)
processor = AutoProcessor.from_pretrained(folder, **kwargs)
model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, **kwargs)
inputs = processor(images=image, text=questions)
inputs["image_index"] = torch.zeros(len(questions), dtype=torch.long)
with torch.no_grad():
    logits = model(**inputs).logits
# What was loaded as remote code must save as a whole again.
ask.save_pretrained(again)
reloaded = pipeline("visual-question-answering", model=again, device="cpu", **kwargs)
print(json.dumps({
    "answers": ask(image, questions, top_k=3),
    "rows": ask([{"image": image, "question": question} for question in questions], top_k=3),
    "decoded": processor.decode_answers(logits, top_k=3),
    "logits": logits.tolist(),
    "reloaded": reloaded(image, questions, top_k=3),
}))
"""


def test_a_saved_folder_answers_equally_where_the_package_is_not_installed(tmp_path):
    model = make_model()
    processor = make_processor(model)
    folder, image, elsewhere = tmp_path / "checkpoint", tmp_path / "picture.png", tmp_path / "elsewhere"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    picture().save(image)
    elsewhere.mkdir()
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, folder, image, tmp_path / "again", *QUESTIONS],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout.splitlines()[-1])

    inputs = processor(images=picture(), text=QUESTIONS)
    with torch.no_grad():
        logits = model(**inputs, image_index=torch.zeros(len(QUESTIONS), dtype=torch.long)).logits
    expected = processor.decode_answers(logits, top_k=3)
    # Weights mapped from a file lie elsewhere in memory, and PyTorch's kernels round by alignment: not bit for bit.
    assert torch.allclose(torch.tensor(got["logits"]), logits, atol=1e-6, rtol=0)
    for name in ("answers", "rows", "decoded", "reloaded"):
        assert equal(got[name], expected), name


def test_pipeline_takes_a_model_in_memory_and_the_two_parts_of_a_processor(ask, model):
    processor, expected = make_processor(model), ask(picture(), QUESTIONS[0])
    by_name = pipeline("visual-question-answering", model=model, processor=processor, top_k=3)
    assert isinstance(by_name, UMEVQAPipeline)
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    for other in (by_name, UMEVQAPipeline(model=model, **parts, top_k=3)):
        assert equal(other(picture(), QUESTIONS[0]), expected)
    with pytest.raises(ValueError, match="is that of UME models, and the model is of the kind 'vit'"):
        UMEVQAPipeline(model=model.get_encoder("image"), processor=processor)


def test_an_image_comes_as_bytes_array_file_or_from_a_data_set(ask, tmp_path):
    expected, path = ask(picture(), QUESTIONS[0]), tmp_path / "picture.png"
    picture().save(path)
    pixels = np.asarray(picture())
    with open(path, "rb") as file:
        forms = [path.read_bytes(), file, pixels, torch.from_numpy(pixels.copy()), {"bytes": path.read_bytes()}]
        assert all(equal(ask(form, QUESTIONS[0]), expected) for form in forms)
    with pytest.raises(ValueError, match="it is 1 arrays of float64; give one of bytes"):
        ask(pixels / 255, QUESTIONS[0])


def test_several_images_share_one_question(ask):
    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return picture(i)

    expected = [ask(picture(seed), QUESTIONS[0]) for seed in range(2)]
    assert equal(ask([picture(0), picture(1)], QUESTIONS[0]), expected)
    assert equal(list(ask(Pictures(), QUESTIONS[0])), expected)
    with pytest.raises(ValueError, match="Several images came with several questions"):
        ask([picture(0), picture(1)], QUESTIONS[:2])
    with pytest.raises(ValueError, match="a row brings its own"):
        ask({"image": picture(), "question": QUESTIONS[0]}, QUESTIONS[0])


def test_a_head_is_told_the_grid_of_an_image(ask):
    seen = []
    handle = ask.model.register_forward_pre_hook(
        lambda model, args, inputs: seen.append(inputs["vision_grid"].tolist()), with_kwargs=True
    )
    ask(picture(), "red ?")
    handle.remove()
    assert seen == [[2, 2]]
