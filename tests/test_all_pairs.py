"""`fusion_pairs="all"`: the pairs of one sequence that the tokens of all modalities form, as the thesis has them."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from torch.nn import functional as F

from configuration_ume.parsing import parse_recipe
from modeling_ume import FUSIONS, Stream, UMEConfig, UMEForVisualQuestionAnswering, pairs_ume
from modeling_ume.fusion_ume import build_fusion

WIDTHS = [6, 10, 4]
HEADS = ["evc", "pair", "ume"]
every_pair_head = pytest.mark.parametrize("name", HEADS)
two_or_three = pytest.mark.parametrize("num_streams", [2, 3])


def make_head(name, num_streams=3, dtype=torch.float64, pairs="all", **kwargs):
    config = tiny_config(fusion=name, fusion_pairs=pairs, fusion_dropout=0.0, fusion_hidden_size=8, **kwargs)
    head = build_fusion(config, WIDTHS[:num_streams])
    for module in head.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    return head.to(dtype).eval()


def make_streams(num_streams=3, batch=4, dtype=torch.float64, lengths=(5, 7, 3)):
    streams = []
    for m in range(num_streams):
        n = lengths[m]
        real = torch.arange(n) < torch.tensor([n - (b + m) % 3 for b in range(batch)])[:, None]
        states, pooled = torch.randn(batch, n, WIDTHS[m], dtype=dtype), torch.randn(batch, WIDTHS[m], dtype=dtype)
        streams.append(Stream(states, real, pooled, torch.ones(batch, dtype=torch.bool)))
    streams[0].mask = streams[0].mask.flip(1)  # padded on the left
    streams[1].present[1] = False
    streams[0].present[2:3] = False
    return streams


def literal(head, name, streams):
    """What the head computes, example by example, with all N² pairs and the 4D concatenation written out."""
    projected, fused, weights = head.project.tokens(streams), [], []
    for b in range(len(streams[0].present)):
        x = [t[b][s.mask[b]] for (t, _), s in zip(projected, streams, strict=True) if s.present[b]]
        x = torch.cat(x)  # x_1 … x_N, one sequence
        if name == "pair":
            h = torch.stack([head.first(i) * head.second(j) for i in x for j in x])
            fused.append(h.mean(0))
            continue
        w = torch.cat([head.combination.weight, torch.diag(head.combination.product_weight)], dim=1)
        h = torch.stack([torch.tanh(w @ torch.cat([i, j, i - j, i * j])) for i in x for j in x])  # [N², D]
        if name == "evc":
            fused.append(h.mean(0))
            continue
        alpha = [(h @ u).softmax(0) for u in head.pair_scorer]
        parts = h.chunk(len(alpha), dim=1)
        z = torch.cat([(a[:, None] * part).sum(0) for a, part in zip(alpha, parts, strict=True)])
        here = [m for m, s in enumerate(streams) if s.present[b]]
        views = torch.stack([*head.project.pooled(streams)[b, here], head.pair_norm(z)])
        beta = head.view_scorer(torch.tanh(head.view_hidden(views))).softmax(0)
        fused.append((beta * views).sum(0))
        weights.append(torch.stack(alpha).mean(0).view(len(x), len(x)))
    return torch.stack(fused), weights


@pytest.mark.parametrize("tile", [8, 8 * 30, 2**20])
@two_or_three
@every_pair_head
def test_all_pairs_equal_the_plain_formula_in_value_and_gradient(name, num_streams, tile, monkeypatch):
    monkeypatch.setitem(pairs_ume._TILE, "cpu", tile)
    monkeypatch.setattr(pairs_ume, "_ROWS", 2)
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    upstream, inputs = torch.randn(4, 8, dtype=torch.float64), [s.states.requires_grad_() for s in streams]
    results = []
    for compute in (lambda: head(streams).fused[:, 0], lambda: literal(head, name, streams)[0]):
        head.zero_grad()
        fused = compute()
        states = torch.autograd.grad((fused * upstream).sum(), inputs, retain_graph=True)
        (fused * upstream).sum().backward()
        # Where a formula never reads a parameter, such as a stand-in, its gradient is none or zero.
        grads = {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None and p.grad.any()}
        results.append((fused.detach(), states, grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@two_or_three
def test_the_weights_of_all_pairs_sum_to_one_over_what_is_real(num_streams):
    head, streams = make_head("ume", num_streams), make_streams(num_streams)
    found = head(streams).weights["pair_weights_all"]
    real = torch.cat([s.mask & s.present[:, None] for s in streams], dim=1)
    expected = literal(head, "ume", streams)[1]
    for b in range(4):
        assert (found[b][~(real[b][:, None] & real[b])] == 0).all()
        torch.testing.assert_close(found[b][real[b]][:, real[b]], expected[b], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["evc", "ume"])
def test_gradients_of_all_pairs_pass_gradcheck_tile_by_tile(name, monkeypatch):
    monkeypatch.setitem(pairs_ume._TILE, "cpu", 8 * 4)
    monkeypatch.setattr(pairs_ume, "_ROWS", 2)
    head, streams = make_head(name, 2), make_streams(2, batch=2, lengths=(3, 4))
    head.requires_grad_(False)

    def fused(*states):
        return head([dataclasses.replace(s, states=x) for s, x in zip(streams, states, strict=True)]).fused

    assert torch.autograd.gradcheck(fused, [s.states.requires_grad_() for s in streams])


@every_pair_head
def test_a_modality_alone_has_pairs_within_itself(name):
    head, streams = make_head(name), make_streams()
    for stream in streams[1:]:
        stream.present[:] = False
    streams[0].present[:] = True
    before = head(streams)
    if name == "ume":
        assert (before.weights["modality_weights"][:, [0, 3]] > 0).all()
        assert (before.weights["modality_weights"][:, 1:3] == 0).all()
    torch.testing.assert_close(before.fused[:, 0], literal(head, name, streams)[0], rtol=1e-10, atol=1e-10)


@every_pair_head
def test_an_example_without_any_modality_stays_finite(name):
    head, streams = make_head(name), make_streams()
    for stream in streams:
        stream.present[:2] = False
    fused = head(streams).fused
    assert fused.isfinite().all()
    fused.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@every_pair_head
def test_padding_and_shared_images_change_nothing(name):
    head, streams = make_head(name, 2), make_streams(2)
    expected = head(streams).fused
    streams[0].states = F.pad(streams[0].states, (0, 0, 2, 1), value=torch.nan)
    streams[0].mask = F.pad(streams[0].mask, (2, 1))
    torch.testing.assert_close(head(streams).fused, expected, rtol=1e-10, atol=1e-10)
    index = torch.tensor([1, 0, 1, 1])
    image = Stream(*(x[:2] for x in (streams[1].states, streams[1].mask, streams[1].pooled, torch.ones(2).bool())))
    rows = Stream(*(x[index] for x in (image.states, image.mask, image.pooled, image.present)))
    rows.present = streams[1].present
    shared = dataclasses.replace(rows, distinct=image, index=index)
    results = []
    for stream in (rows, shared):
        head.zero_grad()
        fused = head([streams[0], stream]).fused
        fused.square().sum().backward()
        results.append([fused.detach(), *(p.grad for p in head.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_pair_head
def test_half_precision_stays_close(name, dtype):
    head, streams = make_head(name, dtype=torch.float32), make_streams(dtype=torch.float32)
    expected = head(streams).fused
    head.to(dtype)
    for stream in streams:
        stream.states, stream.pooled = stream.states.to(dtype), stream.pooled.to(dtype)
    found = head(streams).fused
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


def test_no_tensor_of_all_pairs_is_ever_allocated():
    head = make_head("ume", dtype=torch.float32, fusion_num_heads=1)
    head, streams = build_fusion(tiny_config(fusion_pairs="all", fusion_hidden_size=256), WIDTHS), []
    for width, n in zip(WIDTHS, (60, 50, 40), strict=True):
        full = torch.ones(2, n, dtype=torch.bool)
        streams.append(Stream(torch.randn(2, n, width), full, torch.randn(2, width), torch.ones(2).bool()))
    with torch.profiler.profile(profile_memory=True) as profile:
        head(streams).fused.sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 2 * 150**2 * 256 * 4 / 2


def test_a_model_with_all_pairs_is_another_and_comes_back_from_its_file(tmp_path):
    model, batch = tiny_model(fusion="ume", fusion_pairs="all"), tiny_batch()
    other = tiny_model(fusion="ume")
    other.load_state_dict(model.state_dict())  # the same parameters
    with torch.no_grad():
        expected = model(**batch).logits
        assert (other(**batch).logits - expected).abs().max() > 1e-4
        model.save_pretrained(tmp_path)
        again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(**batch).logits, expected, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["fusion_pairs"] == "all"


def test_a_config_says_its_pairs_only_where_they_are_not_the_usual_ones(tmp_path):
    assert "fusion_pairs" not in tiny_config().to_dict()
    assert UMEConfig.from_dict(tiny_config().to_dict()).fusion_pairs == "cross"
    tiny_config(fusion="evc", fusion_pairs="all").save_pretrained(tmp_path)
    assert UMEConfig.from_pretrained(tmp_path).fusion_pairs == "all"


@pytest.mark.parametrize("name", sorted(FUSIONS.keys() - set(HEADS)))
def test_heads_that_are_of_no_pairs_refuse_all_of_them(name):
    with pytest.raises(ValueError, match=f"fusion_pairs='all' is impossible with fusion='{name}': leave"):
        tiny_config(fusion=name, fusion_pairs="all")


@pytest.mark.parametrize("value", ["both", None, ["all"], 3])
def test_other_pairs_are_refused(value):
    with pytest.raises(ValueError, match=r"fusion_pairs=.* is not known: choose one of cross, all"):
        tiny_config(fusion_pairs=value)


def test_a_recipe_names_the_pairs():
    assert parse_recipe(["easy_vqa"]).model.fusion_pairs == "cross"
    assert parse_recipe(["easy_vqa", "--fusion_pairs", "all"]).model.fusion_pairs == "all"
    with pytest.raises(ValueError, match="fusion_pairs"):
        parse_recipe(["easy_vqa", "--fusion_pairs", "every"])


def test_members_and_training_take_all_pairs():
    model, batch = tiny_model(fusion="ume", fusion_pairs="all", fusion_num_members=2), tiny_batch()
    model.train()(**batch, labels=torch.tensor([0, 3, 6])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.ume.fusion.parameters())
