"""ONNX graphs against the model they are of, the folder and the script around them; other ways to load and run one."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_batch, tiny_model
from PIL import Image
from transformers import BertConfig, BertTokenizer, BitsAndBytesConfig, ViTConfig, ViTImageProcessor
from vqa_files import COLOURS, write_vqa_files

from modeling_ume import FUSIONS, UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor, UMEVQAPipeline
from training_ume.commands.export import main, report
from training_ume.data.load import load_vqa
from training_ume.report.encoder_facts import IMAGE_ENCODERS, TEXT_ENCODERS, VOCAB_SIZE, available
from training_ume.serve.onnx_answers import OnnxVQA
from training_ume.serve.onnx_export import export_onnx, measure_parity
from training_ume.serve.onnx_graphs import QuestionFusion, trace

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'ume[export]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'ume[export]'")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "what",
    "color",
    "is",
    "it",
    "?",
    *COLOURS,
    "many",
    "the",
    "there",
]
ANSWERS = dict(enumerate([*COLOURS, "yes", "no", "square"]))
QUESTIONS = ["what color is it?", "is it red?", "is there?"]
# Encoders of different kinds: attention with and without a table of positions, causal, recurrent, feature maps.
PAIRS = [
    ("DeBERTa-v2/v3", "BEiT"),
    ("T5", "Swin"),
    ("GPT-2", "ResNet"),
    ("RoBERTa", "ConvNeXt"),
    ("CLIP text", "CLIP vision"),
    ("ModernBERT", "DINOv2"),
    ("BERT", "VGG-16"),
    ("DistilBERT", "EfficientNet"),
]


def make_processor(model, size=16):
    return UMEProcessor(
        ViTImageProcessor(size={"height": size, "width": size}),
        BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=32),
        id2label=model.config.id2label,
        problem_type=model.config.problem_type,
    )


def make_model(text=None, image=None, size=16, **kwargs):
    """A model of one layer, whose weights are large enough for every token to be heard."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        text or BertConfig(vocab_size=len(WORDS), max_position_embeddings=40, initializer_range=0.5, **sizes),
        image or ViTConfig(image_size=size, patch_size=8, initializer_range=0.5, **sizes),
        fusion_hidden_size=16,
        **{"id2label": ANSWERS, **kwargs},
    )
    return UMEForVisualQuestionAnswering(config).eval()


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8))


def run_fusion(path, model, inputs):
    """Logits of the second graph alone and of the model, from the same image states."""
    with torch.no_grad():
        encoded = model.encode_images(inputs["pixel_values"])
        expected = model(**inputs).logits.numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs, **encoded}
    return session.run(None, {i.name: values[i.name].numpy() for i in session.get_inputs()})[0], expected


@pytest.fixture(scope="module")
def model():
    return make_model(fusion="pair")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    files = write_vqa_files(tmp_path_factory.mktemp("data"), num_images=4)
    return load_vqa("vqa_v2", **{name.removeprefix("train_"): value for name, value in files.items()})


@pytest.fixture(scope="module")
def exported(model, dataset, tmp_path_factory):
    """The folder, and what onnx.json says."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    return folder, export_onnx(model, make_processor(model), folder, int8=True, dataset=dataset, batch_size=5)


# ---------------------------------------------------------------------------------------------------------- the graphs


def test_graphs_and_model_agree_on_padded_batches_of_other_sizes_than_the_example(model, exported):
    measured = measure_parity(model, make_processor(model), OnnxVQA(exported[0]))
    assert measured["logits"] < 1e-5
    assert measured["image_states"] < 1e-5


@pytest.mark.parametrize(("batch_size", "num_images", "length"), [(1, 1, 2), (5, 3, 9), (7, 1, 4)])
def test_the_question_graph_takes_any_number_of_questions_images_and_tokens(
    batch_size, num_images, length, model, exported
):
    inputs = tiny_batch(batch_size, num_images, length)
    inputs["input_ids"] %= len(WORDS)
    inputs["attention_mask"][:, 0] = 1
    inputs["pixel_values"] = inputs["pixel_values"][..., :16, :16]
    got, expected = run_fusion(exported[0] / "question_fusion.onnx", model, inputs)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_what_stands_in_the_padding_does_not_change_an_answer_of_the_graph(exported):
    graphs = OnnxVQA(exported[0])
    encoded = graphs.encode(picture())
    inputs = {"input_ids": np.array([[2, 7, 8, 3, 5, 6]]), "attention_mask": np.array([[1, 1, 1, 1, 0, 0]])}
    inputs |= {"token_type_ids": np.zeros((1, 6), np.int64), "image_index": np.zeros(1, np.int64), **encoded}
    other = {**inputs, "input_ids": np.array([[2, 7, 8, 3, 11, 12]])}
    np.testing.assert_allclose(graphs.logits(inputs), graphs.logits(other), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "fields"),
    [*((name, {}) for name in sorted(FUSIONS)), ("ume", {"fusion_num_members": 2}), ("ume", {"fusion_pairs": "all"})],
)
def test_every_head_says_the_same_as_a_graph(fusion, fields, tmp_path):
    model = make_model(fusion=fusion, **fields)
    _, traced, _ = trace(model, make_processor(model))
    traced.save(tmp_path / "graph.onnx")
    inputs = tiny_batch(5, 3, 9)
    inputs["input_ids"] %= len(WORDS)
    inputs["pixel_values"] = inputs["pixel_values"][..., :16, :16]
    got, expected = run_fusion(tmp_path / "graph.onnx", model, inputs)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "image"), PAIRS)
def test_encoders_of_every_kind_become_graphs(text, image, tmp_path):
    if text not in available({text: TEXT_ENCODERS[text]}) or image not in available({image: IMAGE_ENCODERS[image]}):
        pytest.skip(f"this release of transformers has no {text} or no {image}")
    assert len(WORDS) <= VOCAB_SIZE
    model = make_model(TEXT_ENCODERS[text](), IMAGE_ENCODERS[image](), fusion="pair")
    about = export_onnx(model, make_processor(model, size=64), tmp_path / "onnx")
    assert about["parity"]["fp32"]["logits"] < 1e-4


def test_a_recurrent_text_encoder_is_refused_by_name():
    # How long it runs depends on the questions: a packed sequence is no graph.
    model = make_model(TEXT_ENCODERS["LSTM (deeper LSTM Q)"](), fusion="pair")
    _, traced, _ = trace(model, make_processor(model))
    with pytest.raises(ValueError, match="The text encoder 'ume_lstm' with fusion='pair' cannot be exported"):
        traced.program()


# ------------------------------------------------------------------------------------------------- answering from them


def test_the_runner_answers_as_the_pipeline_does(model, exported):
    ask = OnnxVQA(exported[0])
    expected = UMEVQAPipeline(model=model, processor=make_processor(model), device="cpu")(
        picture(), QUESTIONS, top_k=3
    )
    for got in (ask(picture(), QUESTIONS, top_k=3), [ask(picture(), question, top_k=3) for question in QUESTIONS]):
        for answers, others in zip(got, expected, strict=True):
            assert [a["answer"] for a in answers] == [a["answer"] for a in others]
            assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in others], abs=1e-5)


def test_an_image_encoded_once_serves_later_questions_without_its_encoder(exported, monkeypatch):
    ask = OnnxVQA(exported[0])
    expected = ask(picture(), QUESTIONS)
    encoded = ask.encode(picture())
    monkeypatch.setattr(ask, "encode_pixels", lambda pixels: pytest.fail("the image was encoded again"))
    assert [ask(encoded, question)[0]["answer"] for question in QUESTIONS] == [a[0]["answer"] for a in expected]


def test_the_runner_asks_about_one_image_at_a_time(exported):
    ask = OnnxVQA(exported[0])
    with pytest.raises(ValueError, match="2 images were given"):
        ask(ask.encode([picture(), picture(1)]), QUESTIONS[0])


def test_a_data_set_is_answered_in_its_own_order(exported, dataset):
    ask = OnnxVQA(exported[0])
    rows = dataset.select([5, 0, 7, 2])
    single = [ask(row["image"], row["question"], top_k=1)[0]["answer"] for row in rows]
    assert ask.predict(rows, batch_size=3) == single


def test_a_folder_without_an_export_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="holds no fp32 export"):
        OnnxVQA(tmp_path)
    with pytest.raises(ValueError, match="precision='int4' is not known"):
        OnnxVQA(exported[0], "int4")


# ----------------------------------------------------------------------------------------------------- what is written


def test_the_json_says_what_goes_in_and_out_and_how_well_it_agrees(exported):
    folder, about = exported
    assert json.loads((folder / "onnx.json").read_text()) == about
    assert about["image_encoder"]["inputs"] == {"pixel_values": ["images", 3, 16, 16]}
    assert about["question_fusion"]["inputs"]["input_ids"] == ["questions", "length"]
    assert about["question_fusion"]["outputs"] == {"logits": ["questions", 7]}
    assert about["max_question_length"] == 32
    assert about["parity"]["fp32"]["logits"] <= about["parity"]["allowed"] == 1e-4
    assert {"onnx", "onnxscript", "onnxruntime", "torch"} <= about["environment"]["versions"].keys()


def test_exporting_leaves_the_models_attention_as_it_was(model, exported):
    assert model.ume.text_model.config._attn_implementation == "sdpa"
    assert model.ume.vision_model.config._attn_implementation == "sdpa"


def test_int8_stands_beside_fp32_with_its_size_and_score(exported, dataset):
    folder, about = exported
    for graph in ("image_encoder", "question_fusion"):
        assert about["bytes"]["int8"][graph] == (folder / f"{graph}.int8.onnx").stat().st_size
    assert about["questions"] == len(dataset)
    assert all(0 <= about["scores"][precision]["vqa_accuracy"] <= 100 for precision in ("fp32", "int8"))
    # Quantised, and not beyond recognition.
    assert 1e-5 < about["parity"]["int8"]["logits"] < 0.2 * about["parity"]["int8"]["largest_logit"]


def test_a_folder_that_is_not_empty_is_left_alone(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty: add --overwrite"):
        export_onnx(model, make_processor(model), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_graphs_that_differ_from_the_model_are_refused_and_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr("training_ume.serve.onnx_graphs.Traced.save", lambda traced, path: path.write_bytes(b"") or 20)
    monkeypatch.setattr(
        "training_ume.serve.onnx_export._signature", lambda folder, graph: {"inputs": {}, "outputs": {}}
    )
    monkeypatch.setattr("training_ume.serve.onnx_export.OnnxVQA", lambda folder: None)
    monkeypatch.setattr("training_ume.serve.onnx_export.measure_parity", lambda *args: {"logits": float("nan")})
    with pytest.raises(ValueError, match=r"differ from the model by nan .* more than the 1\.0e-04 allowed"):
        export_onnx(model, make_processor(model), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_new_export_leaves_no_quantised_graph_of_the_old_one(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("question_fusion.int8.onnx", "image_encoder.onnx.data", "notes.txt"):
        (out / name).write_text("old")
    monkeypatch.setattr(
        "training_ume.serve.onnx_graphs.Traced.save", lambda traced, path: path.write_text("new") and 20
    )
    monkeypatch.setattr(
        "training_ume.serve.onnx_export._signature", lambda folder, graph: {"inputs": {}, "outputs": {}}
    )
    monkeypatch.setattr("training_ume.serve.onnx_export.OnnxVQA", lambda folder: None)
    monkeypatch.setattr("training_ume.serve.onnx_export.measure_parity", lambda *args: {"logits": 0.0})
    export_onnx(model, make_processor(model), out, overwrite=True)
    assert {path.name for path in out.glob("*.onnx*")} == {"question_fusion.onnx", "image_encoder.onnx"}
    assert (out / "notes.txt").read_text() == "old"
    assert (out / "question_fusion.onnx").read_text() == "new"


def test_images_of_more_than_one_size_are_refused(model):
    processor = make_processor(model)
    processor.image_processor.do_resize = False
    with pytest.raises(ValueError, match=r"images of different sizes .*let it resize or crop"):
        trace(model, processor)


def test_a_model_that_cannot_be_traced_is_named(model):
    _, traced, _ = trace(model, make_processor(model))

    class Branching(QuestionFusion):
        def forward(self, *values):
            return values[0] if values[0].sum() > 3 else values[1]

    traced.module = Branching(model, None, list(traced.inputs))
    with pytest.raises(ValueError, match="The text encoder 'bert' with fusion='pair' cannot be exported"):
        traced.program()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: The folder {tmp_path / 'out'} is not empty")
    assert main([str(tmp_path), str(tmp_path / "new")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "new"), "--batch_size", "0"]) == 2
    assert "batch_size=0 is impossible" in capsys.readouterr().err


def test_the_command_reports_size_parity_and_score_a_precision(exported):
    header, *rows = report(exported[1])
    assert header[-2:] == ("VQA accuracy", "seconds")
    assert [row[0] for row in rows] == ["fp32", "int8"]
    assert all(len(row) == len(header) for row in rows)


# -------------------------------------------------------------------------------------- other ways to run and load one


def test_torch_export_gives_a_program_for_other_batch_sizes_and_lengths(model):
    encoder, fusion, _ = trace(model, make_processor(model))
    pixel_values = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        expected = model.encode_images(pixel_values)
        torch.testing.assert_close(encoder.program().module()(pixel_values)[0], expected["vision_states"])
        mask = torch.ones(4, 7, dtype=torch.long)
        mask[1:, 4:] = 0
        questions = {"input_ids": torch.randint(5, len(WORDS), (4, 7)), "attention_mask": mask}
        questions |= {"token_type_ids": torch.zeros(4, 7, dtype=torch.long), "image_index": torch.tensor([4, 0, 0, 1])}
        values = {**questions, **expected}
        logits = fusion.program().module()(*(values[name] for name in fusion.inputs))
        torch.testing.assert_close(logits, model(**questions, pixel_values=pixel_values).logits)


@pytest.mark.slow
def test_torch_compile_takes_a_model_as_one_graph():
    model, batch = tiny_model(fusion="ume"), tiny_batch(4, 2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # the graph, without the minute of its compiling
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)


def test_a_checkpoint_in_several_files_is_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == files
    loaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("fusion", ["concat", "late_mean", "pair", "ume"])
def test_a_checkpoint_loaded_in_bfloat16_answers_alike_in_half_the_memory(fusion, tmp_path):
    model, batch = tiny_model(fusion=fusion), tiny_batch(6, 3)
    model.save_pretrained(tmp_path)
    half = UMEForVisualQuestionAnswering.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits, expected = half(**batch).logits, model(**batch).logits
    assert logits.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits, so a few of its steps at the size of the logits.
    torch.testing.assert_close(logits.float(), expected, atol=0.03 * float(expected.abs().max()), rtol=0)


def test_a_checkpoint_loaded_in_8_bit_answers_alike_in_less_memory(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model, batch = tiny_model(fusion="ume"), tiny_batch(3, 2)
    model.save_pretrained(tmp_path)
    small = UMEForVisualQuestionAnswering.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    assert small.get_memory_footprint() < model.get_memory_footprint()
    with torch.no_grad():
        expected = model(**batch).logits
        logits = small(**{name: value.to(small.device) for name, value in batch.items()}).logits
    torch.testing.assert_close(logits.float().cpu(), expected, atol=0.02, rtol=0)


def test_tools_that_are_imported_leave_the_places_where_modules_are_found_as_they_are():
    code = (
        "import sys; before = list(sys.path); from training_ume.serve.onnx_export import _quantisers; _quantisers(); "
        "assert sys.path == before, sys.path"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_graphs_of_numbers_give_them_in_their_unit(tmp_path):
    names = {"problem_type": "regression", "id2label": {0: "price"}}
    model = make_model(**names, label_mean=12.5, label_std=0.7, label_transform="log")
    export_onnx(model, make_processor(model), tmp_path / "out")
    answers = OnnxVQA(tmp_path / "out")(picture(), "how much?")
    assert answers[0]["name"] == "price"
    assert 20_000 < answers[0]["answer"] < 3_000_000
