"""The heads: the shared behaviour of every one of them, and the formulas of the thesis' heads written out."""

import copy

import pytest
import torch
from conftest import tiny_config
from torch.nn import functional as F

from modeling_ume import FUSIONS, FusionHead, Stream

WIDTHS = [12, 20, 8]
LENGTHS = [5, 9, 4]
BATCH = 4


def make_streams(num_streams: int = 2, seed: int = 0) -> list[Stream]:
    generator = torch.Generator().manual_seed(seed)
    streams = []
    for m in range(num_streams):
        lengths = torch.tensor([LENGTHS[m] - (i % 3) for i in range(BATCH)])
        streams.append(
            Stream(
                states=torch.randn(BATCH, LENGTHS[m], WIDTHS[m], generator=generator),
                mask=torch.arange(LENGTHS[m]) < lengths[:, None],
                pooled=torch.randn(BATCH, WIDTHS[m], generator=generator),
                present=torch.ones(BATCH, dtype=torch.bool),
                grid=(2, 2) if m == 1 else None,
            )
        )
    return streams


def make_head(name: str, num_streams: int = 2, **kwargs) -> FusionHead:
    config = tiny_config(fusion=name, fusion_dropout=0.0, **kwargs)
    head = FUSIONS[name](config, WIDTHS[:num_streams])
    for module in head.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    return head.eval()


def take(streams: list[Stream], rows) -> list[Stream]:
    return [
        Stream(stream.states[rows], stream.mask[rows], stream.pooled[rows], stream.present[rows], stream.grid)
        for stream in streams
    ]


every_head = pytest.mark.parametrize("name", sorted(FUSIONS))
two_or_three = pytest.mark.parametrize("num_streams", [2, 3])


@every_head
@two_or_three
def test_padded_tokens_never_change_the_output(name, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    expected = head(streams).fused
    for stream in streams:
        stream.states = torch.where(stream.mask[..., None], stream.states, 100.0)
    torch.testing.assert_close(head(streams).fused, expected, rtol=0, atol=1e-6)
    for stream in streams:
        stream.states = F.pad(stream.states, (0, 0, 0, 3), value=7.0)
        stream.mask = F.pad(stream.mask, (0, 3))
    torch.testing.assert_close(head(streams).fused, expected, rtol=0, atol=1e-6)


@every_head
@two_or_three
def test_a_batch_equals_its_examples_one_by_one_in_any_order(name, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    expected = head(streams).fused
    single = torch.cat([head(take(streams, [i])).fused for i in range(BATCH)])
    torch.testing.assert_close(single, expected, rtol=0, atol=1e-6)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(head(take(streams, order)).fused, expected[order], rtol=0, atol=1e-6)


@every_head
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("whole_batch", [False, True])
def test_an_absent_modality_never_reaches_the_output_or_its_gradient(name, training, whole_batch):
    head = make_head(name).train(training)
    outputs = []
    for garbage in (torch.nan, 5.0):
        streams = make_streams()
        absent = slice(None) if whole_batch else slice(1, 2)
        streams[1].present[absent] = False
        streams[1].states[absent] = garbage
        streams[1].pooled[absent] = garbage
        states = streams[1].states.requires_grad_()
        fused = head(streams).fused
        fused.square().sum().backward()
        assert fused.isfinite().all()
        if states.grad is not None:  # heads that read only the summary leave the token states alone
            assert (states.grad[absent] == 0).all()
        outputs.append(fused.detach())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@every_head
def test_gradients_reach_every_parameter(name):
    head, streams = make_head(name), make_streams()
    streams[0].present[0] = False
    streams[1].present[1] = False
    weight = torch.randn(16)
    (head(streams).fused @ weight).sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


@every_head
def test_bfloat16_and_autocast_stay_close_to_float32(name):
    head, streams = make_head(name), make_streams()
    expected = head(streams).fused
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(streams).fused
    half = copy.deepcopy(head).bfloat16()
    for stream in streams:
        stream.states, stream.pooled = stream.states.bfloat16(), stream.pooled.bfloat16()
    fused = half(streams).fused
    assert fused.dtype == torch.bfloat16
    scale = expected.abs().max()
    for other in (mixed, fused):
        assert (other.float() - expected).abs().max() < 0.05 * scale + 0.02


@every_head
@two_or_three
def test_weights_are_non_negative_and_sum_to_one_over_what_is_real(name, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    for weight in head(streams).weights.values():
        assert (weight >= 0).all()
        torch.testing.assert_close(weight.flatten(1).sum(1), torch.ones(BATCH))


def test_ume_gives_no_weight_to_padding_or_an_absent_modality():
    head, streams = make_head("ume"), make_streams()
    streams[1].present[2] = False
    weights = head(streams).weights
    real = streams[0].mask[:, :, None] & streams[1].mask[:, None] & streams[1].present[:, None, None]
    assert (weights["pair_weights"][~real] == 0).all()
    assert (weights["modality_weights"][2, 1:] == 0).all()
    torch.testing.assert_close(weights["modality_weights"][2, 0], torch.tensor(1.0))


def literal_pairs(head, first, second):
    """The thesis' formula as it stands: the 4D concatenation written out and multiplied by a full W [D, 4D]."""
    weight = torch.cat([head.combination.weight, torch.diag(head.combination.product_weight)], dim=1)
    i, j = torch.broadcast_tensors(first[:, :, None], second[:, None])
    return torch.tanh(torch.cat([i, j, i - j, i * j], dim=-1) @ weight.T)  # [B, N1, N2, D]


def literal_evc(head, streams):
    (first, first_mask), (second, second_mask) = head.project.tokens(streams)
    pairs = literal_pairs(head, first, second)
    mask = (first_mask[:, :, None] & second_mask[:, None]).float()
    return (pairs * mask[..., None]).sum((1, 2)) / mask.sum((1, 2))[:, None]


def literal_ume(head, streams):
    (first, first_mask), (second, second_mask) = head.project.tokens(streams)
    pairs = literal_pairs(head, first, second).flatten(1, 2)
    mask = (first_mask[:, :, None] & second_mask[:, None]).flatten(1)
    views = []
    for u in head.pair_scorer:
        alpha = (pairs @ u).masked_fill(~mask, -torch.inf).softmax(1)
        views.append((alpha[..., None] * pairs).sum(1))
    z = torch.cat(views, dim=-1)
    if head.heads_out is not None:
        z = head.heads_out(z)
    views = torch.cat([head.project.pooled(streams), z[:, None]], dim=1)
    beta = (torch.tanh(head.view_hidden(views)) @ head.view_scorer).softmax(1)
    return (beta[..., None] * views).sum(1)


@pytest.mark.parametrize(
    ("name", "literal", "heads"), [("evc", literal_evc, 1), ("ume", literal_ume, 1), ("ume", literal_ume, 3)]
)
def test_the_decomposed_form_equals_the_literal_formula_in_value_and_gradient(name, literal, heads):
    head, streams = make_head(name, fusion_num_heads=heads), make_streams()
    upstream = torch.randn(BATCH, 16)
    results = []
    for compute in (lambda: head(streams).fused[:, 0], lambda: literal(head, streams)):
        head.zero_grad()
        output = compute()
        (output * upstream).sum().backward()
        results.append(
            (output.detach(), {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    for parameter, grad in results[1][1].items():
        torch.testing.assert_close(results[0][1][parameter], grad, rtol=1e-5, atol=1e-5, msg=parameter)


def test_pair_is_the_mean_of_every_product():
    head, streams = make_head("pair"), make_streams()
    (first, first_mask), (second, second_mask) = head.project.tokens(streams)
    pairs = head.first(first)[:, :, None] * head.second(second)[:, None]
    mask = (first_mask[:, :, None] & second_mask[:, None]).float()[..., None]
    expected = (pairs * mask).sum((1, 2)) / mask.sum((1, 2))
    torch.testing.assert_close(head(streams).fused[:, 0], expected, rtol=0, atol=1e-5)


def test_product_normalises_the_image_only():
    head, streams = make_head("product"), make_streams()
    expected = head(streams).fused
    streams[1].pooled = streams[1].pooled * 10
    torch.testing.assert_close(head(streams).fused, expected, rtol=0, atol=1e-6)
    streams[0].pooled = streams[0].pooled * 10
    assert (head(streams).fused - expected).abs().max() > 0.01


def test_a_head_with_one_stream_is_refused():
    with pytest.raises(ValueError, match="two or more streams"):
        FUSIONS["concat"](tiny_config(), [8])
