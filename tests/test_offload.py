"""Weights that are elsewhere: on the CPU, on disk, or on the meta device, and brought in module by module."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from conftest import tiny_batch, tiny_config, tiny_model

from modeling_ume import FUSIONS, Stream, UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEModel
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMEVGGConfig


@torch.no_grad()
def answers(model, batch, name="logits"):
    return model(**batch)[name]


def check(model, batch, folder, name="logits"):
    """Offloaded to the CPU and to disk, asked twice, the model says what it says with its weights in place."""
    expected = answers(model, batch, name)
    for offloaded in (copy.deepcopy(model), copy.deepcopy(model)):
        if folder.exists():
            cpu_offload(offloaded, execution_device="cpu")
        else:
            disk_offload(offloaded, folder, execution_device="cpu")
        assert all(p.is_meta for p in offloaded.parameters())
        for _ in range(2):
            assert torch.equal(answers(offloaded, batch, name), expected)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_head_works_with_its_weights_offloaded(fusion, tmp_path):
    check(tiny_model(fusion=fusion), tiny_batch(), tmp_path / "weights")


def test_so_do_members_soft_scores_missing_modalities_and_encoders_of_our_own(tmp_path):
    batch, texts = tiny_batch(), {}
    check(tiny_model(fusion_num_members=2), batch, tmp_path / "members")
    late = tiny_model(fusion="late_weighted", problem_type="multi_label_classification")
    check(late, {**batch, "image_present": torch.tensor([True, False, True])}, tmp_path / "late")
    texts = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    check(tiny_model(), texts, tmp_path / "texts")
    for cell in ("lstm", "gru"):
        text = UMELSTMConfig(vocab_size=60, embedding_size=8, hidden_size=8, cell=cell)
        image = UMEVGGConfig(hidden_sizes=[4] * 5, fc_size=8, image_size=32)
        config = tiny_config()
        config = type(config).from_encoder_configs(text, image, fusion_hidden_size=16, num_labels=3)
        check(UMEForVisualQuestionAnswering(config).eval(), batch, tmp_path / cell)


@pytest.mark.parametrize(("cls", "name"), [(UMEModel, "fused"), (UMEForImageTextRetrieval, "logits_per_text")])
def test_so_do_the_other_models(cls, name, tmp_path):
    check(cls(tiny_config()).eval(), tiny_batch(), tmp_path / "weights", name)


@pytest.mark.parametrize("fusion", ["ume", "late_weighted", "early_input"])
def test_a_device_map_spreads_a_checkpoint_over_memory_and_disk(fusion, tmp_path):
    model, batch = tiny_model(fusion=fusion), tiny_batch()
    model.save_pretrained(tmp_path / "model")
    loaded = UMEForVisualQuestionAnswering.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": "30KB"}, offload_folder=tmp_path / "weights"
    )
    assert {"cpu", "disk"} >= set(loaded.hf_device_map.values()) >= {"disk"}
    assert torch.equal(answers(loaded, batch), answers(model, batch))


@pytest.mark.parametrize("text", ["bert", "distilbert", "deberta-v2"])
def test_the_modules_that_stay_whole_are_in_the_model(text):
    model = tiny_model(text, fusion="co_attention")
    here = {type(module).__name__ for module in model.modules()}
    assert "CoAttentionFusion" in model._no_split_modules
    assert here.issuperset(model._no_split_modules)


def test_a_stream_moves_to_another_device_with_the_images_that_it_shares():
    images = Stream(torch.ones(1, 2, 4), torch.ones(1, 2).bool(), torch.ones(1, 4), torch.ones(1).bool(), (1, 2))
    index = torch.tensor([0, 0])
    stream = Stream(images.states[index], images.mask[index], images.pooled[index], images.present[index])
    stream.distinct, stream.index = images, index
    moved = stream.to("meta")
    assert all(part.is_meta for part in (moved.states, moved.mask, moved.pooled, moved.present, moved.index))
    assert moved.distinct.states.is_meta
    assert moved.distinct.grid == (1, 2)
