"""The heads for many streams: what an absent modality leaves, what passes through where, and the loss of `mixture`."""

import copy
import itertools

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F

from modeling_ume import FUSIONS, Stream
from modeling_ume.fusion_ume import MembersFusion, build_fusion
from modeling_ume.tasks_ume import PROBLEM_TYPES, answer_loss

MANY = ["bottleneck", "film", "gmu", "mixture", "perceiver", "token_transformer"]
WIDTHS = [12, 20, 8]
every_many = pytest.mark.parametrize("name", MANY)


def make_head(name, widths=WIDTHS, **kwargs):
    sizes = {"fusion_num_layers": 2, "fusion_num_heads": 4, "fusion_rank": 3, "fusion_dropout": 0.0}
    head = build_fusion(tiny_config(fusion=name, **{**sizes, **kwargs}), widths)
    for module in head.modules():
        if hasattr(module, "init_weights"):
            module.init_weights()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return head.eval()


def make_streams(widths=WIDTHS, batch=1, lengths=None):
    lengths = lengths or range(3, 3 + len(widths))
    return [
        Stream(
            torch.randn(batch, n, width),
            torch.ones(batch, n, dtype=torch.bool),
            torch.randn(batch, width),
            torch.ones(batch, dtype=torch.bool),
        )
        for width, n in zip(widths, lengths, strict=True)
    ]


def without(head, m):
    """The head as if it had been built without stream m, with the other streams' parameters."""
    head, count = copy.deepcopy(head), len(head.widths)
    first = int(type(head).__name__ == "FiLMFusion")  # its blocks are those of the other streams
    for name, module in head.named_modules():
        own = name.startswith(("project.streams", "streams", "experts", "layers.", "norms", "modulations."))
        if isinstance(module, nn.ModuleList) and own and name.count(".") <= 1 and len(module) >= count - first:
            del module[m if name.startswith("project") else m - first]
    kept = [k for k in range(count) if k != m]
    for owner, name in ((head.project, "absent"), (head, "stream_embeddings")):
        if hasattr(owner, name):
            setattr(owner, name, nn.Parameter(getattr(owner, name)[kept]))
    if hasattr(head, "gate"):
        reads, says = (head.gate, head.gate) if isinstance(head.gate, nn.Linear) else (head.gate[0], head.gate[-1])
        reads.weight = nn.Parameter(reads.weight.unflatten(1, (count, -1))[:, kept].flatten(1))
        says.weight = nn.Parameter(says.weight.unflatten(0, (count, -1))[kept].flatten(0, 1))
        says.bias = nn.Parameter(says.bias.unflatten(0, (count, -1))[kept].flatten())
    head.widths = [head.widths[k] for k in kept]
    return head


@pytest.mark.parametrize(
    ("name", "absent"), [(name, m) for name in MANY for m in range(3) if (name, m) != ("film", 0)]
)
@torch.no_grad()
def test_with_a_modality_absent_a_head_is_what_it_would_be_without_it(name, absent):
    if (name, absent) == ("film", 0):
        pytest.skip("another stream would be the first: see below")
    head, streams = make_head(name), make_streams(batch=2)
    streams[absent].present[:] = False
    fewer = [stream for m, stream in enumerate(streams) if m != absent]
    expected, found = without(head, absent)(fewer), head(streams)
    torch.testing.assert_close(found.fused, expected.fused, rtol=0, atol=2e-6)
    for key, weight in found.weights.items():
        assert (weight[:, absent] == 0).all()
        assert torch.equal(weight.sum(1).round(decimals=5), torch.ones(2)), key


@torch.no_grad()
def test_without_its_first_stream_film_leaves_the_others_as_their_own_layers_make_them():
    head, streams = make_head("film"), make_streams()
    streams[0].present[:] = False
    means = []
    for m, stream in enumerate(streams[1:]):
        x = head.project.streams[1 + m](stream.states[0])
        for layers in head.layers:
            x = x + F.gelu(F.layer_norm(layers[m](x), (16,)))
        means.append(head.norms[m](x.mean(0)))
    torch.testing.assert_close(head(streams).fused[0, 0], (means[0] + means[1]) / 2, rtol=0, atol=2e-6)


@every_many
@torch.no_grad()
def test_stand_ins_are_read_only_where_there_is_nothing_else_to_read(name):
    head, streams = make_head(name), make_streams(batch=3)
    for stream in streams[:2]:
        stream.present[1] = False
    for stream in streams:
        stream.present[2] = False
    before = head(streams).fused
    head.project.absent += 1.0 + torch.randn(3, 16)
    after = head(streams).fused
    assert torch.equal(after[:2], before[:2])
    assert not torch.allclose(after[2], before[2])


@every_many
def test_every_subset_of_five_streams_gives_finite_numbers_and_gradients_of_its_own(name):
    widths = [6, 10, 4, 8, 12]
    head, subsets = make_head(name, widths), list(itertools.product([False, True], repeat=5))
    streams = make_streams(widths, batch=len(subsets))
    for stream in streams:
        for part in ("states", "pooled"):
            setattr(stream, part, getattr(stream, part)[:1].repeat(len(subsets), *[1] * (2 - (part == "pooled"))))
    for m, stream in enumerate(streams):
        stream.present = torch.tensor([subset[m] for subset in subsets])
    fused = head(streams).fused[:, 0]
    assert fused.isfinite().all()
    alike = torch.cdist(fused.double(), fused.double()) < 1e-5
    assert alike.sum() == len(subsets), "two subsets are answered alike"
    (fused * torch.randn(16)).sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_many
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_and_tiny_states_stay_finite(name, dtype):
    head, streams = make_head(name).to(dtype), make_streams(batch=2)
    for stream in streams:
        scale = torch.tensor([1e3, 1e-7]) if dtype == torch.float16 else torch.tensor([1e15, 1e-15])
        stream.states, stream.pooled = (
            (x * scale.view(2, *[1] * (x.ndim - 1))).to(dtype) for x in (stream.states, stream.pooled)
        )
    fused = head(streams).fused
    assert fused.dtype == dtype
    assert fused.isfinite().all()
    fused.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@torch.no_grad()
def test_streams_know_of_each_other_through_the_bottleneck_alone():
    """With one layer what a stream says of its own tokens cannot depend on the others; with two it does."""
    for layers, reads in ((1, False), (2, True)):
        head, streams = make_head("bottleneck", fusion_num_layers=layers), make_streams()
        said = []
        head.norms[0].register_forward_hook(lambda module, args, output, said=said: said.append(output))
        head(streams)
        streams[1].states = streams[1].states + 1.0
        head(streams)
        assert (not torch.allclose(said[0], said[1], rtol=0, atol=1e-6)) == reads


@pytest.mark.parametrize(("name", "parameter"), [("bottleneck", "bottleneck"), ("perceiver", "queries")])
def test_fusion_rank_is_the_number_of_shared_tokens(name, parameter):
    assert getattr(make_head(name, fusion_rank=5), parameter).shape == (5, 16)
    usual = FUSIONS[name](tiny_config(fusion=name), WIDTHS)
    assert getattr(usual, parameter).shape == (FUSIONS[name].default_rank, 16)


# The loss of `mixture`.


def test_mixture_says_in_training_what_it_would_without_one_modality():
    torch.manual_seed(0)
    head, count = make_head("mixture"), 600
    streams = [
        Stream(*(x[:1].repeat(count, *[1] * (x.ndim - 1)) for x in (s.states, s.mask, s.pooled, s.present)))
        for s in make_streams()
    ]
    streams[2].present[400:500] = False
    for stream in streams[1:]:
        stream.present[500:] = False
    assert head(streams).fewer is None
    with torch.no_grad():
        output = head.train()(streams)
        alone = {}
        for absent in itertools.chain(range(3), [(0, 2), (1, 2)]):
            here = [Stream(s.states[:1], s.mask[:1], s.pooled[:1], s.present[:1].clone()) for s in streams]
            for m in absent if isinstance(absent, tuple) else (absent,):
                here[m].present[:] = False
            alone[absent] = head.eval()(here).fused[0, 0]
            head.train()
    assert output.fewer_present.tolist() == [True] * 500 + [False] * 100
    for rows, ways in ((slice(0, 400), (0, 1, 2)), (slice(400, 500), ((0, 2), (1, 2)))):
        near = torch.stack([(output.fewer[rows, 0] - alone[way]).abs().amax(1) < 1e-5 for way in ways])
        assert (near.sum(0) == 1).all()  # each row lacks one more than it did
        shares = near.float().mean(1)
        assert ((shares - 1 / len(ways)).abs() < 4 * (1 / len(ways) / near.shape[1]) ** 0.5).all()
    torch.testing.assert_close(output.fewer[500:], output.fused[500:])


@pytest.mark.parametrize("problem_type", sorted(PROBLEM_TYPES))
def test_what_fewer_modalities_answer_better_is_added_to_the_loss(problem_type):
    torch.manual_seed(1)
    more, fewer = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    labels = torch.rand(6, 4)
    has = torch.tensor([True, True, True, True, False, False])

    def each(logits):
        return torch.stack([answer_loss(logits[b : b + 1], labels[b : b + 1], problem_type) for b in range(6)])

    loss = answer_loss(more, labels, problem_type, fewer=(fewer, has))
    worse = (each(more) - each(fewer)).clamp(min=0) * has
    assert 0 < (worse > 0).sum() < 4  # the case shows both
    torch.testing.assert_close(loss, (each(more) + worse).mean())
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 3.0])
    weighted = answer_loss(more, labels, problem_type, loss_weights=weights, fewer=(fewer, has))
    torch.testing.assert_close(weighted, ((each(more) + worse) * weights).sum() / weights.sum())
    loss.backward()
    assert fewer.grad is None
    expected = torch.autograd.grad(((1 + (worse > 0)) * each(more)).mean(), more)[0]
    torch.testing.assert_close(more.grad, expected)


@pytest.mark.parametrize("members", [1, 2])
def test_a_model_with_mixture_trains_on_the_comparison_and_is_scored_without(members):
    options = {"fusion_dropout": 0.0, "classifier_dropout": 0.0, "fusion_num_members": members}
    model, batch = tiny_model(fusion="mixture", **options), tiny_batch()
    labels = torch.tensor([0, 3, 6])
    head, seen = model.ume.fusion, []
    assert isinstance(head, MembersFusion) == (members > 1)
    head.register_forward_hook(lambda module, args, output: seen.append(output))
    plain = model(**batch, labels=labels).loss
    assert seen[0].fewer is None
    loss = model.train()(**batch, labels=labels).loss
    own, more, less = (
        sum(F.cross_entropy(view, labels, reduction="none") for view in model.classifier(fused).unbind(1)) / members
        for fused in (seen[0].fused, seen[1].fused, seen[1].fewer)
    )
    torch.testing.assert_close(plain, own.mean())
    torch.testing.assert_close(loss, (more + (more - less).clamp(min=0)).mean())
    assert loss > more.mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert len(model.train()(**batch).to_tuple()) == len(model.eval()(**batch).to_tuple())
