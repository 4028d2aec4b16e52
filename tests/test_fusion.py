"""The heads: the shared behaviour of every one of them, and each one's formula written out."""

import copy
import dataclasses
import inspect
import math

import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, tiny_batch, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, ElectraConfig, GPT2Config, ViTConfig

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS, FusionHead, Stream, UMEForVisualQuestionAnswering
from modeling_ume.fusion_attention_ume import Attention
from modeling_ume.fusion_base_ume import Projection
from modeling_ume.fusion_pooled_ume import EncoderInputs
from modeling_ume.fusion_ume import MembersFusion, build_fusion
from modeling_ume.streams_ume import masked_mean, masked_softmax

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
        if hasattr(module, "gates"):  # they start shut, and most of the head would not be heard
            nn.init.constant_(module.gates, 0.5)
    return head.eval()


def take(streams: list[Stream], rows) -> list[Stream]:
    return [
        Stream(stream.states[rows], stream.mask[rows], stream.pooled[rows], stream.present[rows], stream.grid)
        for stream in streams
    ]


LATE = [name for name in sorted(FUSIONS) if name.startswith("late_")]
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
def test_examples_that_share_an_image_give_what_a_copy_each_gives(name):
    head, (text, image) = make_head(name).double(), make_streams()
    for stream in (text, image):  # a learned token of small numbers has great gradients, whose rounding would show
        stream.states, stream.pooled = stream.states.double(), stream.pooled.double()
    index = torch.tensor([1, 0, 1, 1])
    image = take([image], [0, 1])[0]
    image.states[0], image.states[1, 0] = torch.nan, 3.0
    rows = take([image], index)[0]
    rows.present = torch.tensor([True, False, True, False])  # the first image, with its NaN, is nobody's
    shared = dataclasses.replace(rows, distinct=image, index=index)
    results = []
    for stream in (rows, shared):
        head.zero_grad()
        fused = head([text, stream]).fused
        fused.square().sum().backward()
        results.append([fused.detach(), *(p.grad for p in head.parameters() if p.grad is not None)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


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
@two_or_three
@pytest.mark.parametrize("shared", [False, True])
def test_whatever_a_head_makes_is_made_where_its_inputs_are(name, num_streams, shared):
    head, streams = make_head(name, num_streams).to("meta"), make_streams(num_streams)
    if shared:
        rows = take(streams[1:2], [0, 1])[0].to("meta")
        streams[1] = dataclasses.replace(streams[1], distinct=rows, index=torch.tensor([0, 1, 1, 0], device="meta"))
    output = head([stream.to("meta") for stream in streams])
    answer = head.combine(
        output.fused @ torch.zeros(16, 5, device="meta"), output.present, "multi_label_classification"
    )
    assert answer.shape == (BATCH, 5)
    assert all(x.is_meta for x in (output.fused, answer, *output.weights.values()))


@every_head
@two_or_three
def test_gradients_reach_every_parameter(name, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    streams[0].present[0] = False
    streams[1].present[1] = False
    for stream in streams:
        stream.present[3] = False  # an example without any, for which every stand-in is read
    output = head(streams)
    logits = output.fused @ torch.randn(16, 5)
    logits = head.combine(logits, output.present, "single_label_classification")
    (logits * torch.randn(5)).sum().backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # These two leave an absent modality out of their sums altogether.
    assert without == (["project.absent"] if name in ("sum", "ume") else [])
    assert all(p.grad is not None for p in head.parameters())


@every_head
def test_a_saved_model_comes_back_through_the_meta_device_with_equal_logits(name, tmp_path):
    model, batch = tiny_model(fusion=name), tiny_batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        expected = model(**batch).logits
        model.save_pretrained(tmp_path)
        reloaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
        torch.testing.assert_close(reloaded(**batch).logits, expected, rtol=0, atol=1e-6)
    # Nothing in the file: every parameter of head and classifier has to be initialised by its name.
    fresh = UMEForVisualQuestionAnswering.from_pretrained(None, config=model.config, state_dict={})
    for key, value in fresh.named_parameters():
        assert value.isfinite().all(), key
        assert value.abs().max() < 100, key
    head, parts = fresh.ume.fusion, fresh.parts()
    assert fresh(**batch).logits.isfinite().all()
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in parts["fusion"])
    assert sum(p.numel() for p in parts["classifier"]) == head.num_views * (16 * 7 + 7)
    assert sum(len(part) for part in parts.values()) == len(list(fresh.parameters()))


# What every parameter starts from that stands in no layer: its mean, and its standard deviation by its shape.
STARTS = {
    "absent": (0, lambda shape: 1.0),
    "bottleneck": (0, lambda shape: 0.02),
    "class_token": (0, lambda shape: 0.02),
    "queries": (0, lambda shape: 0.02),
    "product_weight": (0, lambda shape: 0.5),
    "weight": (0, lambda shape: (8 * shape[0]) ** -0.5),
    "factors": (0, lambda shape: (3 * shape[-1]) ** -0.5),
    "gates": (0, None),
    "glimpses": (0, lambda shape: shape[-1] ** -0.5),
    "pair_scorer": (0, lambda shape: shape[-1] ** -0.5),
    "stream_embeddings": (0, lambda shape: 0.02),
    "stream_scores": (0, None),
    "stream_weights": (1, None),
}


@every_head
@torch.no_grad()
def test_parameters_outside_of_layers_start_from_what_their_formulas_count_on(name):
    config = tiny_config(fusion=name, fusion_hidden_size=512, fusion_num_layers=1, fusion_rank=2)
    inputs = {"embedding_width": 512, "input_widths": WIDTHS[1:2]} if name == "early_input" else {}
    head = build_fusion(config, WIDTHS[:2], **inputs)
    for module in (module for module in head.modules() if hasattr(module, "init_weights")):
        own = dict(module.named_parameters(recurse=False))
        for parameter in own.values():
            parameter.fill_(torch.nan)
        module.init_weights()
        for key, parameter in own.items():
            mean, deviation = STARTS[key]
            if deviation is None:
                assert (parameter == mean).all(), key
            else:
                expected = deviation(parameter.shape)
                assert float(parameter.std()) == pytest.approx(expected, rel=0.15), key
                assert abs(float(parameter.mean())) < 0.15 * expected, key


@every_head
def test_a_head_is_documented_for_the_table_of_heads(name):
    head = FUSIONS[name]
    assert inspect.getdoc(head).startswith(f"`{name}`")
    assert head.source
    assert head.cost


@pytest.mark.slow
@every_head
@two_or_three
def test_a_head_compiles_without_graph_breaks(name, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    streams[1].present[2] = False
    weight = torch.randn(16, 5)

    def answer(streams):
        output = head(streams)
        return head.combine(output.fused @ weight, output.present, "multi_label_classification")

    torch._dynamo.reset()
    compiled = torch.compile(answer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(streams), answer(streams), rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("name", ["ban", "gmu", "late_mean", "mixture", "ume"])
def test_weights_are_computed_in_float32_whatever_the_model_computes_in(name):
    head, streams = make_head(name).bfloat16(), make_streams()
    for stream in streams:
        stream.states, stream.pooled = stream.states.bfloat16(), stream.pooled.bfloat16()
    for weight in head(streams).weights.values():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.flatten(1).sum(1), torch.ones(BATCH), rtol=0, atol=1e-6)


def test_a_row_without_anything_real_has_a_mean_and_a_softmax_of_zero():
    states, mask = torch.randn(2, 3, 4), torch.tensor([[True, False, True], [False] * 3])
    mean = masked_mean(states, mask)
    torch.testing.assert_close(mean[0], (states[0, 0] + states[0, 2]) / 2)
    assert (mean[1] == 0).all()
    scores = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    softmax = masked_softmax(scores, mask)
    torch.testing.assert_close(softmax[0, [0, 2]], scores[0, [0, 2]].float().softmax(-1))
    assert (softmax[1] == 0).all()
    softmax.sum().backward()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", ["concat", "ume"])
def test_a_summary_of_another_width_than_the_tokens_has_a_projection_of_its_own(name):
    head, streams = (
        build_fusion(tiny_config(fusion=name, fusion_dropout=0.0), WIDTHS[:2], [12, 6]).eval(),
        make_streams(),
    )
    for module in head.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    streams[1].pooled = torch.randn(BATCH, 6)
    before = head(streams).fused
    assert before.shape == (BATCH, 1, 16)
    streams[1].pooled = streams[1].pooled + torch.randn(BATCH, 6)
    assert ((head(streams).fused - before).abs().amax((1, 2)) > 1e-4).all()


def test_dropout_acts_on_what_the_norm_gives():
    project, x = Projection(12, 64, 0.5), torch.randn(5, 12)
    expected, dropped = project.eval()(x), project.train()(x)
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    torch.testing.assert_close(dropped, torch.where(zero, 0.0, 2 * expected))


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


def test_of_three_modalities_two_that_are_there_are_a_pair():
    head, streams = make_head("ume", 3), make_streams(3)
    streams[2].present[1] = False
    streams[1].present[2] = streams[2].present[2] = False
    weights = head(streams).weights
    assert (weights["modality_weights"] > 0).tolist() == [
        [True, True, True, True],
        [True, True, False, True],
        [True, False, False, False],
        [True, True, True, True],
    ]
    assert weights["pair_weights_0_1"].flatten(1).any(1).tolist() == [True, True, False, True]
    assert weights["pair_weights_1_2"].flatten(1).any(1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", ["evc", "ume"])
def test_what_is_inside_tanh_starts_with_a_variance_of_a_quarter_each(name):
    head = FUSIONS[name](tiny_config(fusion=name, fusion_hidden_size=256), WIDTHS[:2])
    head.combination.init_weights()
    first, second = F.layer_norm(torch.randn(1, 50, 256), (256,)), F.layer_norm(torch.randn(1, 40, 256), (256,))
    a, b, g = head.combination(first, second)
    for summand in (a, b, g[:, :, None] * second[:, None]):
        assert float(summand.detach().var()) == pytest.approx(0.25, rel=0.15)


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
    width = 16 // len(head.pair_scorer)
    for k, u in enumerate(head.pair_scorer):
        alpha = (pairs @ u).masked_fill(~mask, -torch.inf).softmax(1)
        views.append((alpha[..., None] * pairs[..., k * width : (k + 1) * width]).sum(1))
    z = torch.cat(views, dim=-1)
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    views = torch.cat([head.project.pooled(streams), z[:, None]], dim=1)
    beta = head.view_scorer(torch.tanh(head.view_hidden(views))).softmax(1)
    return (beta * views).sum(1)


@pytest.mark.parametrize(
    ("name", "literal", "heads"), [("evc", literal_evc, 1), ("ume", literal_ume, 1), ("ume", literal_ume, 4)]
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


# Every head's formula for one example, from its parameters: no mask, no batch, only real tokens. `h` holds what each
# modality's tokens are at the common width [n_m, D], `p` its summary [D].


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def perceptron(layers, x):
    first, last = layers[0], layers[-1]
    inner = linear(first, x)
    return linear(last, inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))


def attention(layer, x, context):
    width = x.shape[-1]
    query, key_value, heads = linear(layer.query, x), linear(layer.key_value, context), []
    for part in torch.arange(width).chunk(layer.num_heads):
        scores = query[:, part] @ key_value[:, part].T / math.sqrt(len(part))
        heads.append(scores.softmax(-1) @ key_value[:, width + part])
    return linear(layer.out, torch.cat(heads, dim=-1))


def self_attended(norm, layer, x):
    return x + attention(layer, layer_norm(norm, x), layer_norm(norm, x))


def fed_forward(block, x):
    return x + perceptron(block.feed_forward.layers, layer_norm(block.feed_forward_norm, x))


def transformer_layer(block, x):
    return fed_forward(block, self_attended(block.attention_norm, block.attention, x))


def transformer(module, x):
    for block in module.layers:
        x = transformer_layer(block, x)
    return layer_norm(module.norm, x)


def cross_attended(block, x, context):
    read = attention(block.attention, layer_norm(block.attention_norm, x), layer_norm(block.context_norm, context))
    return fed_forward(block, x + read)


def but(h, m):
    return torch.cat(h[:m] + h[m + 1 :])


def cross_layers(layers, h):
    for blocks in layers:
        h = [cross_attended(block, h[m], but(h, m)) for m, block in enumerate(blocks)]
    return h


def of_means(head, h):
    return perceptron(head.mlp, torch.cat([x.mean(0) for x in h]))


def every_two(h):
    return [(h[m], h[n]) for m in range(len(h)) for n in range(m + 1, len(h))]


def early_summation(head, h, p):
    summed = []
    for i in range(max(map(len, h))):
        summed.append(sum(head.stream_weights[m] * x[i] for m, x in enumerate(h) if i < len(x)))
    return transformer(head.transformer, torch.stack(summed)).mean(0)


def early_concatenation(head, h, p):
    joint = torch.cat([x + head.stream_embeddings[m] for m, x in enumerate(h)])
    return transformer(head.transformer, joint).mean(0)


def multi_to_one(head, h, p):
    joint = torch.cat([transformer(read, x) for read, x in zip(head.streams, h, strict=True)])
    return transformer(head.transformer, joint).mean(0)


def one_to_multi(head, h, p):
    parts = transformer(head.transformer, torch.cat(h)).split([len(x) for x in h])
    return of_means(head, [transformer(read, x) for read, x in zip(head.streams, parts, strict=True)])


def cross_attention(head, h, p):
    h = cross_layers(head.cross.layers, h)
    return of_means(head, [layer_norm(norm, x) for norm, x in zip(head.norms, h, strict=True)])


def cross_attention_to_concatenation(head, h, p):
    return transformer(head.transformer, torch.cat(cross_layers(head.cross.layers, h))).mean(0)


def co_attention(head, h, p):
    for blocks in head.layers:
        h = [
            cross_attended(block, self_attended(block.self_attention_norm, block.self_attention, h[m]), but(h, m))
            for m, block in enumerate(blocks)
        ]
    return of_means(head, [layer_norm(norm, x) for norm, x in zip(head.norms, h, strict=True)])


def gated_cross_attention(head, h, p):
    x, context = h[0], but(h, 0)  # make_streams gives only the second a grid
    for block in head.layers:
        first, second = torch.tanh(block.gates)
        own, read = layer_norm(block.attention_norm, x), layer_norm(block.context_norm, context)
        x = x + first * attention(block.attention, own, read)
        x = x + second * perceptron(block.feed_forward.layers, layer_norm(block.feed_forward_norm, x))
    return layer_norm(head.norm, x).mean(0)


def bottleneck(head, h, p):
    z, count = head.bottleneck, head.rank
    for blocks in head.layers:
        joint = [transformer_layer(layer, torch.cat([x, z])) for layer, x in zip(blocks, h, strict=True)]
        h, z = [x[:-count] for x in joint], sum(x[-count:] for x in joint) / len(h)
    views = [layer_norm(norm, x.mean(0)) for norm, x in zip(head.norms, [*h, z], strict=True)]
    return sum(views) / len(views)


def perceiver(head, h, p):
    x, z = torch.cat([x + head.stream_embeddings[m] for m, x in enumerate(h)]), head.queries
    for block in head.layers:
        queries = layer_norm(block.attention_norm, z)
        z = z + attention(block.attention, queries, torch.cat([layer_norm(block.context_norm, x), queries]))
        z = fed_forward(block, z)
    return layer_norm(head.norm, z).mean(0)


def token_transformer(head, h, p):
    tokens = [head.class_token[0], *(x + head.stream_embeddings[m] for m, x in enumerate(p))]
    return transformer(head.transformer, torch.stack(tokens))[0]


def gmu(head, h, p):
    gates = linear(head.gate, torch.cat(p)).view(len(p), -1).exp()
    said = torch.stack([torch.tanh(linear(layer, x)) for layer, x in zip(head.streams, p, strict=True)])
    return (gates / gates.sum(0) * said).sum(0)


def film(head, h, p):
    total = 0
    for m, x in enumerate(h[1:]):
        for modulations, layers in zip(head.modulations, head.layers, strict=True):
            gamma, beta = linear(modulations[m], p[0]).chunk(2)
            seen = linear(layers[m], x)
            seen = seen - seen.mean(-1, keepdim=True)
            seen = (1 + gamma) * seen / (seen.square().mean(-1, keepdim=True) + 1e-5).sqrt() + beta
            x = x + seen * 0.5 * (1 + torch.erf(seen / math.sqrt(2)))
        total = total + layer_norm(head.norms[m], x.mean(0))
    return total / (len(h) - 1)


def mixture(head, h, p):
    gates = perceptron(head.gate, torch.cat(p)).exp()
    return sum(g * perceptron(expert, x) for g, expert, x in zip(gates / gates.sum(), head.experts, p, strict=True))


def ban(head, h, p):
    total = 0
    for x, y in every_two(h):
        f = x
        for g, glimpse in enumerate(head.glimpses):
            u, v = linear(head.first, x).relu(), linear(head.second, y).relu()
            scores = torch.einsum("k,ik,jk->ij", glimpse, u, v)
            a = scores.exp() / scores.exp().sum()
            u, v = linear(head.joint_first[g], f).relu(), linear(head.joint_second[g], y).relu()
            f = f + linear(head.joint_out[g], torch.einsum("ij,id,jd->d", a, u, v))
        total = total + f.mean(0)
    return total


def rank_sum(head, p):
    """Σ_r ⊙_m W_m^r p_m with W_m^r [D, D] the r-th rows of the m-th factor."""
    total = 0
    for rows in torch.arange(head.factors[0].out_features).chunk(head.rank):
        product = torch.ones(len(rows))
        for x, factor in zip(p, head.factors, strict=True):
            product = product * (factor.weight[rows] @ x + factor.bias[rows])
        total = total + product
    return total


def mlb(head, h, p):
    product = torch.ones(head.rank)
    for x, factor in zip(p, head.factors, strict=True):
        product = product * torch.tanh(linear(factor, x))
    return linear(head.out, product)


def mfb(head, h, p):
    z = rank_sum(head, p)
    z = z.sign() * z.abs().sqrt()
    return math.sqrt(len(z)) * z / z.norm()


def block(head, h, p):
    blocks = []
    for c, part in enumerate(torch.arange(16).chunk(head.num_heads)):
        total = 0
        for r in range(head.rank):
            product = torch.ones(len(part))
            for m, x in enumerate(p):
                product = product * (head.factors[m, c, r] @ x[part])
            total = total + product
        blocks.append(total)
    return linear(head.out, torch.cat(blocks))


FORMULAS = {
    "ban": ban,
    "block": block,
    "bottleneck": bottleneck,
    "co_attention": co_attention,
    "concat": lambda head, h, p: perceptron(head.mlp, torch.cat(p)),
    "cross_attention": cross_attention,
    "cross_attention_to_concatenation": cross_attention_to_concatenation,
    "early_concatenation": early_concatenation,
    "early_input": lambda head, h, p: perceptron(head.mlp, torch.cat(p)),  # by itself; in a model, see below
    "early_summation": early_summation,
    "film": film,
    "gated_cross_attention": gated_cross_attention,
    "gmu": gmu,
    "hierarchical_multi_to_one": multi_to_one,
    "hierarchical_one_to_multi": one_to_multi,
    "low_rank_tensor": lambda head, h, p: rank_sum(head, p),
    "mfb": mfb,
    "mixture": mixture,
    "mlb": mlb,
    "mutan": lambda head, h, p: linear(head.out, rank_sum(head, [torch.tanh(x) for x in p])),
    "pair": lambda head, h, p: sum(
        torch.stack([linear(head.first, i) * linear(head.second, j) for i in x for j in y]).mean(0)
        for x, y in every_two(h)
    ),
    "perceiver": perceiver,
    "sum": lambda head, h, p: sum(w * x for w, x in zip(head.stream_weights, p, strict=True)),
    "token_transformer": token_transformer,
}
SIZES = {"fusion_num_layers": 2, "fusion_num_heads": 4, "fusion_rank": 3}


def test_every_head_has_its_formula_written_out():
    assert {*FORMULAS, *LATE, "evc", "ume", "product"} == FUSIONS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@two_or_three
@torch.no_grad()
def test_a_head_computes_its_formula(name, num_streams):
    head, streams = make_head(name, num_streams, **SIZES), make_streams(num_streams)
    for parameter in head.parameters():
        if parameter.ndim == 1:  # biases, norms, gates: away from their neutral values
            parameter += 0.3 * torch.randn_like(parameter)
    tokens, pooled = head.project.tokens(streams), head.project.pooled(streams)
    expected = [FORMULAS[name](head, [x[b][mask[b]] for x, mask in tokens], list(pooled[b])) for b in range(BATCH)]
    torch.testing.assert_close(head(streams).fused[:, 0], torch.stack(expected), rtol=0, atol=2e-5)


D = 16
PROJECTIONS = 12 * D + 20 * D + 2 * 3 * D + 2 * D  # W and b, a LayerNorm, a stand-in, for two streams
SELF_ATTENTION = 4 * (D * D + D) + 2 * D  # with its norm
FEED_FORWARD = 8 * D * D + 5 * D + 2 * D  # with its norm
LAYER = SELF_ATTENTION + FEED_FORWARD
TRANSFORMER = 2 * LAYER + 2 * D  # of two layers
MLP = (2 * D * D + D) + (D * D + D)
DENSE = D * D + D  # a Linear from D to D


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "concat": MLP,
        "early_input": MLP,
        "sum": 2,
        "early_summation": TRANSFORMER + 2,
        "early_concatenation": TRANSFORMER + 2 * D,
        "hierarchical_multi_to_one": 3 * TRANSFORMER,
        "hierarchical_one_to_multi": 3 * TRANSFORMER + MLP,
        "cross_attention": 4 * (LAYER + 2 * D) + 2 * 2 * D + MLP,
        "cross_attention_to_concatenation": 4 * (LAYER + 2 * D) + TRANSFORMER,
        "co_attention": 4 * (LAYER + 2 * D + SELF_ATTENTION) + 2 * 2 * D + MLP,
        "gated_cross_attention": 2 * (LAYER + 2 * D + 2) + 2 * D,
        "late_mean": 0,
        "late_weighted": 2,
        "late_max": 0,
        "late_product": 0,
        "late_vote": 0,
        "mlb": 2 * (D * 3 + 3) + (3 * D + D),
        "mutan": 2 * 3 * DENSE + DENSE,
        "mfb": 2 * 3 * DENSE,
        "low_rank_tensor": 2 * 3 * DENSE,
        "block": 2 * 4 * 3 * 4 * 4 + DENSE,
        "ban": 2 * 3 * DENSE + 4 * 3 * D + 4 * 3 * DENSE,
        "bottleneck": 3 * D + 4 * LAYER + 3 * 2 * D,
        "perceiver": 2 * D + 3 * D + 2 * (LAYER + 2 * D) + 2 * D,
        "token_transformer": D + 2 * D + TRANSFORMER,
        "gmu": 2 * DENSE + (2 * D) ** 2 + 2 * D,
        "film": 2 * (2 * DENSE + DENSE) + 2 * D,
        "mixture": 2 * 2 * DENSE + (2 * D * D + D) + (2 * D + 2),
    }.items(),
)
def test_a_head_has_the_parameters_of_its_formula(name, expected):
    head = make_head(name, **SIZES)
    assert sum(p.numel() for p in head.parameters()) == PROJECTIONS + expected


def test_early_summation_adds_real_tokens_wherever_the_padding_stands():
    head, streams = make_head("early_summation"), make_streams()
    expected = head(streams).fused
    order = streams[0].mask.byte().argsort(dim=1, stable=True)
    streams[0].states = streams[0].states.gather(1, order[..., None].expand_as(streams[0].states))
    streams[0].mask = streams[0].mask.gather(1, order)
    torch.testing.assert_close(head(streams).fused, expected, rtol=0, atol=1e-6)


def test_gated_cross_attention_starts_as_its_reader_and_stays_so_without_a_context():
    head, streams = make_head("gated_cross_attention"), make_streams()
    alone = [layer_norm(head.norm, x[mask]).mean(0) for x, mask in zip(*head.project.tokens(streams)[0], strict=True)]
    assert (head(streams).fused[:, 0] - torch.stack(alone)).abs().max() > 0.01
    streams[1].present[1] = False
    torch.testing.assert_close(head(streams).fused[1, 0], alone[1], rtol=0, atol=1e-6)
    streams[1].present[1] = True
    head.layers[0].init_weights()
    torch.testing.assert_close(head(streams).fused[:, 0], torch.stack(alone), rtol=0, atol=1e-6)
    swapped = FUSIONS["gated_cross_attention"](tiny_config(fusion="gated_cross_attention"), WIDTHS[1::-1]).eval()
    for module in swapped.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    first, second = make_streams(), make_streams()
    second[1].states = second[1].states + 1.0
    torch.testing.assert_close(swapped(first[::-1]).fused, swapped(second[::-1]).fused)  # the image comes first


@torch.no_grad()
def test_gated_cross_attention_reads_a_stand_in_only_where_there_is_nothing_else():
    head, streams = make_head("gated_cross_attention", 3), make_streams(3)
    streams[1].present[0] = False
    before = head(streams).fused
    head.project.absent[1] += 1.0
    torch.testing.assert_close(head(streams).fused, before, rtol=0, atol=0)


def test_ban_gives_no_weight_to_padding_or_an_absent_modality():
    head, streams = make_head("ban"), make_streams()
    streams[1].present[2] = False
    real = streams[0].mask[:, :, None] & streams[1].mask[:, None] & streams[1].present[:, None, None]
    assert (head(streams).weights["pair_weights"][~real] == 0).all()


def test_mfb_has_finite_gradients_where_dropout_leaves_zeros():
    head, streams = make_head("mfb").train(), make_streams()
    head.dropout.p = 0.9
    fused = head(streams).fused
    assert (fused == 0).any()
    fused.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_the_blocks_of_block_start_as_wide_as_linear_layers_of_their_width():
    head = FUSIONS["block"](tiny_config(fusion="block", fusion_hidden_size=64, fusion_num_heads=4), WIDTHS[:2])
    head.init_weights()
    assert head.factors.std().item() == pytest.approx((3 * 16) ** -0.5, rel=0.05)


def test_heads_are_built_by_the_names_that_checkpoints_hold():
    names = """ban block bottleneck co_attention concat cross_attention cross_attention_to_concatenation
    early_concatenation early_input early_summation evc film gated_cross_attention gmu
    hierarchical_multi_to_one hierarchical_one_to_multi late_max late_mean late_product late_vote
    late_weighted low_rank_tensor mfb mixture mlb mutan pair perceiver product sum token_transformer ume"""
    for name in set(names.split()) - {"early_input"}:  # which asks for more
        assert isinstance(build_fusion(tiny_config(fusion=name), WIDTHS[:2]), FUSIONS[name])
    assert "early_input" in FUSIONS


# The heads that combine late.


def late_probabilities(name, probabilities, shares):
    """The joint probabilities of one example for each answer, from those of the present modalities [n, C]."""
    if name in ("late_mean", "late_weighted"):
        return (shares[:, None] * probabilities).sum(0)
    if name == "late_max":
        return probabilities.max(0).values
    if name == "late_product":
        return probabilities.prod(0)
    votes = torch.zeros_like(probabilities[0])
    for p in probabilities:
        votes[p.argmax()] += 1
    return (votes + probabilities.mean(0)) / (len(probabilities) + 1)


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@two_or_three
@torch.no_grad()
def test_a_late_head_combines_probabilities_by_its_rule(name, problem_type, num_streams):
    head, streams = make_head(name, num_streams), make_streams(num_streams)
    streams[1].present[1] = False
    streams[0].present[2] = False
    single = problem_type == "single_label_classification"
    if name == "late_weighted":
        head.stream_scores += torch.tensor([0.5, -1.0, 0.3])[:num_streams]
    logits = 3 * torch.randn(BATCH, num_streams, 6)
    output = head(streams)
    assert output.fused.shape == (BATCH, num_streams, 16)
    combined = head.combine(logits, output.present, problem_type)
    for b in range(BATCH):
        here = [m for m in range(num_streams) if streams[m].present[b]]
        own = logits[b, here].softmax(-1) if single else logits[b, here].sigmoid()
        scores = head.stream_scores[here] if name == "late_weighted" else torch.zeros(len(here))
        expected = late_probabilities(name, own, scores.softmax(0))
        if name == "late_product" and not single:
            expected = expected / (expected + (1 - own).prod(0))
        elif single:
            expected = expected / expected.sum()
        found = combined[b].softmax(-1) if single else combined[b].sigmoid()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_what_late_heads_combine_in_float64_has_its_precision(name, problem_type):
    head, present = make_head(name, 3).double(), torch.tensor([[True, True, True], [True, False, True]])
    logits = torch.randn(2, 3, 6, dtype=torch.float64)
    combined = head.combine(logits, present, problem_type)
    assert combined.dtype == torch.float64
    single = problem_type == "single_label_classification"
    for b, found in enumerate(combined.softmax(-1) if single else combined.sigmoid()):
        own = logits[b, present[b]].softmax(-1) if single else logits[b, present[b]].sigmoid()
        expected = late_probabilities(name, own, torch.full((len(own),), 1 / len(own), dtype=torch.float64))
        if name == "late_product" and not single:
            expected = expected / (expected + (1 - own).prod(0))
        torch.testing.assert_close(found, expected / expected.sum() if single else expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_votes_for_one_answer_count_in_float64_with_its_precision(problem_type):
    head, logits = make_head("late_vote", 3).double(), torch.tensor([[[1.0, 0], [2, 0], [0, 1]]]).double()
    combined = head.combine(logits, torch.ones(1, 3, dtype=torch.bool), problem_type)[0]
    single = problem_type == "single_label_classification"
    own = logits[0].softmax(-1) if single else logits[0].sigmoid()
    expected = (torch.tensor([2.0, 1.0]).double() + own.mean(0)) / 4
    found = combined.exp() if single else combined.sigmoid()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_attention_drops_in_training_and_only_there():
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    attend = Attention(16, 2, dropout=0.5).eval()
    assert torch.equal(attend(x, x, mask), attend(x, x, mask))
    attend.train()
    assert not torch.equal(attend(x, x, mask), attend(x, x, mask))


def test_votes_outweigh_probabilities_which_only_break_ties():
    head = make_head("late_vote", 3)
    sure, unsure = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([0.0, 0.1, 0.0])
    logits = torch.stack([torch.stack([sure, unsure, unsure]), torch.stack([sure, unsure, sure])])
    present = torch.tensor([[True, True, True], [True, True, False]])
    for problem_type in ("single_label_classification", "multi_label_classification"):
        combined = head.combine(logits, present, problem_type)
        assert combined.argmax(-1).tolist() == [1, 0]
        assert combined.isfinite().all()


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_training_a_late_head_reaches_the_classifier_of_every_modality(name, problem_type):
    model, batch = tiny_model(fusion=name, problem_type=problem_type, classifier_dropout=0.0), tiny_batch()
    single = problem_type == "single_label_classification"
    labels = torch.tensor([2, -100, 5]) if single else torch.rand(3, 7)
    present = torch.tensor([True, True, False])
    output = model(**batch, labels=labels, image_present=present)
    output.loss.backward()
    assert all(p.grad.any() for p in model.parts()["classifier"])
    assert len(model.parts()["classifier"]) == 4

    def loss(logits, rows):
        if single:
            return F.cross_entropy(logits[rows], labels[rows], reduction="none", ignore_index=-100)
        return F.binary_cross_entropy_with_logits(logits[rows], labels[rows], reduction="none").sum(1)

    if name == "late_vote":  # each modality for itself; the last example has only its text
        text, image = (view(output.fused[:, m]) for m, view in enumerate(model.classifier.views))
        own = [(loss(text, [b]) + loss(image, [b])) / 2 for b in (0, 1)] + [loss(text, [2])]
        expected = torch.cat(own)
    else:
        expected = loss(output.logits, [0, 1, 2])
    torch.testing.assert_close(output.loss, expected.sum() / (2 if single else 3))


# The head whose reading is done by the text encoder.


def tiny_early_input(text_config=None, **kwargs):
    text_config = TEXT_CONFIGS["bert"]() if text_config is None else text_config
    config = UMEConfig.from_encoder_configs(
        text_config, IMAGE_CONFIGS["vit"](), fusion="early_input", fusion_hidden_size=16, num_labels=7, **kwargs
    )
    torch.manual_seed(0)
    return UMEForVisualQuestionAnswering(config).eval()


def tiny_gpt2(**kwargs):
    return GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, **kwargs)


@pytest.mark.parametrize("text_config", [TEXT_CONFIGS["bert"], tiny_gpt2])
@torch.no_grad()
def test_early_input_is_the_text_encoder_reading_both_as_one_row(text_config):
    model, batch = tiny_early_input(text_config()), tiny_batch()
    causal = text_config is tiny_gpt2
    fused, head, encoder = model(**batch).fused[:, 0], model.ume.fusion, model.ume.text_model
    images = model.ume.encode_image(batch["pixel_values"]).states
    for b in range(3):
        words = encoder.get_input_embeddings()(batch["input_ids"][b][batch["attention_mask"][b].bool()])
        cells = linear(head.inputs.streams[0], images[batch["image_index"][b]]) + head.inputs.stream_embeddings[0]
        row = torch.cat([cells, words] if causal else [words, cells])
        states = encoder(inputs_embeds=row[None]).last_hidden_state[0]
        text, image = (states[-1], states[: len(cells)]) if causal else (states[0], states[len(words) :])
        pooled = [
            layer_norm(project.norm, linear(project.linear, x))
            for project, x in zip(head.project.streams, (text, image.mean(0)), strict=True)
        ]
        torch.testing.assert_close(fused[b], perceptron(head.mlp, torch.cat(pooled)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("text_config", [TEXT_CONFIGS["bert"], tiny_gpt2])
@torch.no_grad()
def test_early_input_ignores_padding_on_either_side_and_what_is_absent(text_config):
    model, batch = tiny_early_input(text_config()), tiny_batch()
    expected = model(**batch).logits
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    left = {name: F.pad(batch[name].gather(1, order), (2, 0)) for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**{**batch, **left}).logits, expected, rtol=0, atol=1e-6)
    no, some = torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True])
    question = {name: batch[name] for name in ("input_ids", "attention_mask")}
    image = {name: batch[name] for name in ("pixel_values", "image_index")}
    question_only, image_only = model(**question).logits, model(**image).logits
    torch.testing.assert_close(model(**batch, image_present=no).logits, question_only, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(**batch, text_present=no).logits, image_only, rtol=0, atol=1e-6)
    mixed = torch.where(some[:, None], expected, image_only)
    torch.testing.assert_close(model(**batch, text_present=some).logits, mixed, rtol=0, atol=1e-6)
    seen = []
    model.ume.text_model.register_forward_pre_hook(lambda _, __, given: seen.append(given), with_kwargs=True)
    assert model(**batch, text_present=no, image_present=no).logits.isfinite().all()
    assert seen[0]["attention_mask"].any(1).all()  # of nothing at all, some attentions make NaN


def test_early_input_gives_the_encoder_zeros_where_a_token_is_not_real_or_absent():
    inputs, streams = EncoderInputs(WIDTHS[:2], 6), make_streams()
    inputs.init_weights()
    streams[1].present[2] = False
    for m, (stream, embedded) in enumerate(zip(streams, inputs(streams), strict=True)):
        real = stream.mask & stream.present[:, None]
        expected = linear(inputs.streams[m], stream.states) + inputs.stream_embeddings[m]
        torch.testing.assert_close(embedded, torch.where(real[..., None], expected, 0.0))
        assert not embedded[~real].any()


@torch.no_grad()
def test_early_input_reads_one_modality_alone_whatever_the_widths():
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = ElectraConfig(vocab_size=60, embedding_size=8, hidden_size=16, **sizes)
    image = ViTConfig(image_size=32, patch_size=8, hidden_size=24, **sizes)
    config = UMEConfig.from_encoder_configs(text, image, fusion="early_input", fusion_hidden_size=16, num_labels=7)
    model, batch = UMEForVisualQuestionAnswering(config).eval(), tiny_batch()
    for names in (("input_ids", "attention_mask"), ("pixel_values",)):
        assert model(**{name: batch[name] for name in names}).logits.isfinite().all()


@torch.no_grad()
def test_early_input_has_its_encoder_keep_no_cache():
    model, seen = tiny_early_input(tiny_gpt2()), []
    model.ume.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["use_cache"]), with_kwargs=True
    )
    model(**tiny_batch())
    assert seen == [False]


def test_early_input_trains_both_encoders_and_its_projection():
    model = tiny_early_input()
    model.train()(**tiny_batch(), labels=torch.tensor([0, 3, 6])).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_early_input_refuses_what_its_text_encoder_cannot_read():
    clip = CLIPTextConfig(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    clip.num_attention_heads = 2
    with pytest.raises(ValueError, match="'clip_text_model' takes no inputs_embeds: choose another text encoder"):
        tiny_early_input(clip)
    model = tiny_early_input(tiny_gpt2(n_positions=20))
    with pytest.raises(ValueError, match="6 text tokens and 17 image tokens are more than the 20 positions of the"):
        model(**tiny_batch())
    model, stream = tiny_early_input(), tiny_early_input().ume.encode_text(tiny_batch()["input_ids"])
    with pytest.raises(ValueError, match="stored text_states cannot be used: give input_ids"):
        model(text_states=stream.states, text_pooled=stream.pooled)


# Members: several heads of one kind.


def make_members(name: str, num_streams: int) -> MembersFusion:
    head = build_fusion(tiny_config(fusion=name, fusion_num_members=3, fusion_dropout=0.0), WIDTHS[:num_streams])
    for module in head.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    return head.eval()


@pytest.mark.parametrize("name", ["concat", "ume"])
@two_or_three
def test_members_are_heads_of_their_own(name, num_streams):
    head, streams = make_members(name, num_streams), make_streams(num_streams)
    streams[0].present[0] = False
    for stream in streams:
        stream.present[3] = False
    output, alone = head(streams), [member(streams) for member in head.members]
    for m, other in enumerate(alone):
        torch.testing.assert_close(output.fused[:, m], other.fused[:, 0], rtol=0, atol=0)
    assert len({float(other.fused.detach().sum()) for other in alone}) == 3  # each starts elsewhere
    for key, weight in output.weights.items():
        torch.testing.assert_close(weight, sum(other.weights[key] for other in alone) / 3)
    assert output.present.shape == (BATCH, 3)
    assert output.present.all()


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_the_answer_of_members_is_the_mean_of_their_probabilities(problem_type):
    head, logits = make_members("ume", 2), 4 * torch.randn(BATCH, 3, 5)
    f = torch.sigmoid if problem_type.startswith("multi") else lambda x: x.softmax(-1)
    combined = head.combine(logits, None, problem_type)
    torch.testing.assert_close(f(combined), f(logits).mean(1))


def test_members_are_trained_each_on_its_own_loss_and_come_back_from_a_file(tmp_path):
    model, batch, labels = tiny_model(fusion="ume", fusion_num_members=2), tiny_batch(), torch.tensor([0, 3, 6])
    output = model(**batch, labels=labels)
    views = model.classifier(model.ume(**batch).fused)
    own = [F.cross_entropy(view, labels) for view in views.unbind(1)]
    torch.testing.assert_close(output.loss, (own[0] + own[1]) / 2)
    output.loss.backward()
    head = model.ume.fusion
    for member in head.members:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in member.parameters())
    model.save_pretrained(tmp_path)
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, output.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["early_input", "late_mean"])
def test_heads_that_cannot_be_members_are_refused(name):
    with pytest.raises(ValueError, match=f"fusion_num_members=2 is impossible with fusion='{name}'"):
        tiny_config(fusion=name, fusion_num_members=2)


def test_a_config_that_was_changed_to_impossible_members_builds_no_head():
    config = tiny_config(fusion="concat", fusion_num_members=2)
    config.fusion = "late_mean"
    with pytest.raises(ValueError, match="fusion_num_members=2 is impossible with fusion='late_mean'"):
        build_fusion(config, WIDTHS[:2])
