"""ONNX graphs of models of any modalities, one an encoder and one of the head: they say what the model says."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS
from test_audio import model_of, processor_of, sound
from transformers import ViTImageProcessor

from modeling_ume import UMEConfig, UMEForSequenceClassification, UMEProcessor, UMEVQAPipeline
from modeling_ume.scalers_ume import SeriesScaler, TableScaler
from modeling_ume.simple_series_ume import UMECNNSeriesConfig, UMELSTMSeriesConfig
from modeling_ume.simple_tables_ume import UMEFTTransformerConfig
from training_ume.commands.export import report
from training_ume.serve.onnx_answers import OnnxVQA
from training_ume.serve.onnx_any import OnnxModel
from training_ume.serve.onnx_export import export_onnx

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'ume[export]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'ume[export]'")


def table_model(series=UMECNNSeriesConfig, **fields):
    """A model of series and table rows that gives a price, with its processor."""
    torch.manual_seed(0)
    table = UMEFTTransformerConfig(num_numbers=2, category_sizes=[4], hidden_size=16, num_hidden_layers=1, num_heads=2)
    fields = {"problem_type": "regression", "id2label": {0: "price"}, "label_mean": 12.0, "label_std": 0.5,
              "label_transform": "log", **fields}  # fmt: skip
    config = UMEConfig.from_encoder_configs(
        series_config=series(num_input_channels=2), table_config=table, fusion_hidden_size=16, **fields
    )
    parts = {
        "series_scaler": SeriesScaler([0.0, 1.0], [1.0, 2.0]),
        "table_scaler": TableScaler(["area", "rooms"], [100.0, 3.0], [20.0, 1.0], {"side": ["north", "south"]}),
    }
    model = UMEForSequenceClassification(config).eval()
    return model, UMEProcessor(**parts, id2label=config.id2label, problem_type="regression")


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    model, processor = table_model()
    folder = tmp_path_factory.mktemp("priced") / "onnx"
    return model, processor, folder, export_onnx(model, processor, folder, int8=True)


ROWS = [
    {"series": np.arange(14.0).reshape(7, 2), "table": {"area": 90.0, "rooms": 2, "side": "south"}},
    {"table": {"area": 250.0, "side": "moon"}},
    {"series": np.ones((40, 2))},
]


def test_a_table_and_a_series_answer_as_the_model_does_also_alone(priced):
    model, processor, folder, about = priced
    assert about["graphs"] == ["series_encoder", "table_encoder", "fusion"]
    assert about["series_encoder"]["inputs"]["series_values"] == ["rows", "8*series_steps_by_8", 2]
    ask, pipeline = OnnxModel(folder), UMEVQAPipeline(model=model, processor=processor, device="cpu")
    for row in ROWS:
        (got,), (wanted,) = ask(**row), pipeline.answer([row])[0]
        assert got["name"] == "price"
        assert got["answer"] == pytest.approx(wanted["answer"], rel=1e-4)
    together = ask.logits(ROWS)[:, 0]
    assert together == pytest.approx([ask(**row)[0]["answer"] for row in ROWS], rel=1e-4)
    with pytest.raises(ValueError, match="image was given, and there is no encoder for it"):
        ask(image="1.jpg")
    with pytest.raises(ValueError, match="holds the graphs of a model of series, table: answer with OnnxModel"):
        OnnxVQA(folder)


def test_the_report_names_each_graph(priced):
    header, *rows = report(priced[3])
    assert header == ("", "series encoder, MB", "table encoder, MB", "fusion, MB", "a logit differs by")
    assert [row[0] for row in rows] == ["fp32", "int8"]


def test_sounds_of_any_length_answer_as_the_model_does(tmp_path):
    model = model_of("wav2vec2_layer")
    processor = processor_of(model.config)
    about = export_onnx(model, processor, tmp_path / "onnx")
    assert about["parity"]["fp32"]["logits"] < 1e-4
    assert about["audio_encoder"]["inputs"] == {"input_values": ["rows", "audio_length"]}
    ask, picture = OnnxModel(tmp_path / "onnx"), torch.randint(256, (30, 40, 3), dtype=torch.uint8)
    pipeline = UMEVQAPipeline(model=model, processor=processor, device="cpu")
    for row in ({"audio": sound(3000), "image": picture}, {"audio": sound(9000)}, {"image": picture}):
        scores = {a["answer"]: a["score"] for a in ask(**row)}
        assert scores == pytest.approx({a["answer"]: a["score"] for a in pipeline.answer([row])[0]}, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "audio-spectrogram-transformer", "hubert"])
def test_audio_encoders_of_every_kind_become_graphs(kind, tmp_path):
    model = model_of(kind)
    about = export_onnx(model, processor_of(model.config), tmp_path / "onnx")
    assert about["parity"]["fp32"]["logits"] < 1e-4


def test_what_is_no_graph_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="The series encoder 'ume_lstm_series' cannot be exported"):
        export_onnx(*table_model(UMELSTMSeriesConfig), tmp_path / "onnx")
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        TEXT_CONFIGS["bert"](), IMAGE_CONFIGS["vit"](), table_config=UMEFTTransformerConfig(num_numbers=1),
        fusion="early_input", num_labels=2, fusion_hidden_size=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match="fusion='early_input' reads all modalities within the text encoder"):
        export_onnx(UMEForSequenceClassification(config).eval(), UMEProcessor(ViTImageProcessor()), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
