"""A modality that the project does not have, points in space, is one class and one line: here, and nowhere else."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS
from datasets import Dataset
from PIL import Image
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, ViTImageProcessor
from transformers.modeling_outputs import BaseModelOutput

from configuration_ume.training_arguments import UMETrainingArguments
from modeling_ume import FUSIONS, UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from training_ume.build.tokenizer import words_tokenizer
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.evaluation.answering import predict
from training_ume.explain.shapley import explain_dataset
from training_ume.features.build import build_features
from training_ume.features.store import FeatureCache
from training_ume.training.trainer import UMETrainer


class Points(Modality):
    """Clouds of points in space."""

    name = "points"
    noun = "cloud"


class PointsConfig(PretrainedConfig):
    model_type = "points"

    def __init__(self, width=8, **kwargs):
        self.width, self.input_shape = width, (5, 3)
        super().__init__(**kwargs)


class PointsModel(PreTrainedModel):
    config_class = PointsConfig

    def __init__(self, config):
        super().__init__(config)
        self.lift = torch.nn.Linear(3, config.width)
        self.post_init()

    def forward(self, points, return_dict=True):
        return BaseModelOutput(last_hidden_state=torch.relu(self.lift(points)))


AutoConfig.register("points", PointsConfig)
AutoModel.register(PointsConfig, PointsModel)


@pytest.fixture(autouse=True)
def with_points(monkeypatch):
    monkeypatch.setitem(MODALITIES, "points", Points())


# ----------------------------------------------------------------------------------- what stands above is all it takes


def model_of(**fields):
    configs = {"text_config": TEXT_CONFIGS["bert"](), "vision_config": IMAGE_CONFIGS["vit"]()}
    fields = {"id2label": {0: "low", 1: "high"}, "fusion_hidden_size": 16, "points_config": PointsConfig(), **fields}
    return UMEForVisualQuestionAnswering(UMEConfig.from_encoder_configs(**{**configs, **fields})).eval()


@pytest.fixture
def rows(tmp_path):
    """Whether a cloud lies high, which neither the question nor the grey picture tells."""
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "grey.png")
    random, rows = np.random.default_rng(0), []
    for number in range(48):
        high = number % 2
        cloud = random.normal(0, 0.3, (5, 3)) + (2 * high - 1)
        rows.append({"points": cloud.tolist(), "answers": [("low", "high")[high]], "question_id": number})
    shared = {"question": "where is it ?", "image": str(tmp_path / "grey.png"), "image_id": "grey"}
    return Dataset.from_list([{**row, **shared, "question_type": "", "answer_type": "place"} for row in rows])


@pytest.fixture
def processor(rows):
    pictures = ViTImageProcessor(size={"height": 32, "width": 32})
    return UMEProcessor(pictures, words_tokenizer(rows["question"][:]), id2label={0: "low", 1: "high"})


def test_points_are_trained_saved_loaded_cached_dropped_explained_and_evaluated(rows, processor, tmp_path):
    model = model_of(modality_dropout=0.2)
    collator = VQACollator(processor, AnswerVocabulary.from_id2label(model.config.id2label))
    assert collator([rows[0], rows[1]])["points"].shape == (2, 5, 3)
    arguments = UMETrainingArguments(
        str(tmp_path / "run"), num_train_epochs=5, per_device_train_batch_size=8, learning_rate=1e-2, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", eval_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    UMETrainer(model, arguments, data_collator=collator, train_dataset=rows, eval_dataset=rows).train()
    model = model.eval()
    expected = [answers[0] for answers in rows["answers"][:]]
    assert predict(model, collator, rows, batch_size=8) == expected

    model.save_pretrained(tmp_path / "saved")
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "saved")
    assert again.config.modalities == ["text", "vision", "points"]
    batch = collator(rows.select(range(4)))
    logits = model(**batch).logits
    torch.testing.assert_close(again(**batch).logits, logits, rtol=0, atol=0)

    alone = VQACollator(processor, inputs="points")
    build_features(tmp_path / "cache", "points", model, alone, rows, {"name": None, "revision": None})
    collator.features = {"points": FeatureCache(tmp_path / "cache")}
    stored = collator(rows.select(range(4)))
    assert "points" not in stored
    assert stored["points_states"].shape == (4, 5, 8)
    torch.testing.assert_close(model(**stored).logits, logits, rtol=0, atol=1e-2)
    collator.features = {}

    found = explain_dataset(model, processor, rows, batch_size=16)["kinds"]["all"]
    assert list(found["shapley"]) == ["text", "image", "points"]
    assert len(found["values"]) == 8
    assert found["share"]["points"] > 0.8, "the answer hangs on the points alone"
    assert sum(found["shapley"].values()) == pytest.approx(found["values"]["text+image+points"] - found["values"][""])


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_head_takes_points_as_a_third_and_passes_over_what_a_row_lacks(fusion, rows, processor):
    model = model_of(fusion=fusion, fusion_num_heads=1)
    lacking = [{**rows[0], "points": None}, {**rows[1], "question": None}, {**rows[2], "image": ""}]
    batch = VQACollator(processor)(lacking)
    assert {batch[f"{name}_present"].sum().item() for name in ("points", "text", "image")} == {2}
    together = model(**batch).logits
    for number, row in enumerate(lacking):
        alone = VQACollator(processor, may_lack=["text", "vision", "points"])([row])
        torch.testing.assert_close(model(**alone).logits[0], together[number], rtol=0, atol=1e-5)


def test_points_need_no_text(rows, processor):
    model = model_of(text_config=None)
    assert model.config.modalities == ["vision", "points"]
    batch = VQACollator(processor, inputs="image+points")(rows.select(range(3)))
    assert model(**batch).logits.shape == (3, 2)
    with pytest.raises(ValueError, match="input_ids was given, but this model reads vision, points"):
        model(**VQACollator(processor)(rows.select(range(3))))
    with pytest.raises(
        ValueError, match=r"Only points_config is given, .* give text_config or vision_config or .*, too"
    ):
        model_of(text_config=None, vision_config=None)
