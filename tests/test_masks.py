"""Nothing behind a mask takes part in any sum, and float64 stays float64."""

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model

from modeling_ume import FUSIONS, UMEForImageTextRetrieval
from modeling_ume.fusion_late_ume import LateFusion
from modeling_ume.pairs_ume import pair_mean, weighted_pair_sum
from modeling_ume.retrieval_ume import contrastive_loss
from modeling_ume.streams_ume import Stream, masked_softmax, select_rows

GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30)
WIDTHS = (6, 5, 4, 3)


def head_of(name, number=2, **fields):
    config = tiny_config(fusion=name, fusion_hidden_size=8, fusion_num_heads=2, **fields)
    torch.manual_seed(0)
    head = FUSIONS[name](config, list(WIDTHS[:number])).eval()
    with torch.no_grad():
        for module in head.modules():
            if hasattr(module, "init_weights"):
                module.init_weights()
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def streams_of(number=2, fill=0.0, dtype=torch.float32):
    """Streams with padding before, between and behind, and an example that lacks each; there stands `fill`."""
    generator, streams = torch.Generator().manual_seed(1), []
    for m, width in enumerate(WIDTHS[:number]):
        states = torch.randn(number + 2, 4 + m, width, generator=generator, dtype=dtype)
        pooled = torch.randn(number + 2, width, generator=generator, dtype=dtype)
        mask = torch.rand(states.shape[:2], generator=generator) < 0.6
        mask[:, 1] = True
        mask[0] = True
        present = torch.arange(number + 2) != m
        mask[-1, :] = m > 0  # nothing of the first is real here, though nobody says that it is absent
        states = states.masked_fill(~(mask & present[:, None])[..., None], fill)
        pooled = pooled.masked_fill(~(present & mask.any(1))[:, None], fill)
        grid = (1, 2) if m == 1 else None
        streams.append(Stream(states.requires_grad_(), mask, pooled.requires_grad_(), present, grid))
    return streams


def everything(head, streams):
    """What a head says and the gradients of all that went in: of the parameters and of the streams."""
    head.zero_grad()
    output = head(streams)
    (output.fused * torch.linspace(-1, 1, output.fused.numel()).view_as(output.fused)).sum().backward()
    found = {"fused": output.fused, **output.weights}
    found |= {f"gradient of {name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    for m, stream in enumerate(streams):
        found |= {f"gradient of {m}": stream.states.grad, f"gradient of the summary {m}": stream.pooled.grad}
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_nothing_behind_a_mask_reaches_what_a_head_says_or_any_gradient(name, number):
    head = head_of(name, number)
    expected = everything(head, streams_of(number))
    assert all(value.isfinite().all() for value in expected.values())
    for fill in GARBAGE:
        found = everything(head, streams_of(number, fill))
        assert found.keys() == expected.keys()
        for what, value in found.items():
            assert torch.equal(value, expected[what]), (what, fill)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_nothing_behind_a_mask_of_shared_images_reaches_what_a_head_says(name):
    head, index = head_of(name), torch.tensor([1, 0, 1, 1])

    def outputs(fill):
        text, image = streams_of(2)
        states = image.states.detach()[[0, 2, 3]].clone()
        mask = image.mask[[0, 2, 3]].clone()
        mask[1, 0] = False
        states[1, 0] = fill
        states[2] = fill  # nobody looks at it
        shared = Stream(states, mask, image.pooled.detach()[[0, 2, 3]], torch.ones(3, dtype=torch.bool), (1, 2))
        return head([text, select_rows(shared, index)])

    expected = outputs(0.0)
    for fill in GARBAGE:
        found = outputs(fill)
        assert torch.equal(found.fused, expected.fused)
        assert all(torch.equal(found.weights[weight], expected.weights[weight]) for weight in expected.weights)


@pytest.mark.parametrize(
    ("name", "problem_type"),
    [(name, "single_label_classification") for name in sorted(FUSIONS)]
    + [(name, "multi_label_classification") for name in sorted(FUSIONS) if issubclass(FUSIONS[name], LateFusion)],
)
def test_every_head_and_what_it_combines_pass_gradcheck_in_float64(name, problem_type):
    head = head_of(name, problem_type=problem_type).double()
    classifiers = torch.randn(head.num_views, 8, 3, dtype=torch.float64)
    streams = streams_of(2, dtype=torch.float64)

    def answer(*values):
        given = [
            Stream(states, stream.mask, pooled, stream.present, stream.grid)
            for stream, states, pooled in zip(streams, values[::2], values[1::2], strict=True)
        ]
        output = head(given)
        views = torch.einsum("bkd,kdc->bkc", output.fused, classifiers)
        logits = head.combine(views, output.present, problem_type)
        assert logits.dtype == torch.float64
        return logits, *(weight for weight in output.weights.values() if weight.requires_grad)

    values = [x.detach().requires_grad_() for stream in streams for x in (stream.states, stream.pooled)]
    # Tighter than float32 could be: a sum that falls to it is off by 1e-7, and by 1e-1 in a difference of 1e-6.
    assert torch.autograd.gradcheck(answer, values, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    ("fusion", "problem_type", "labels"),
    [
        ("ume", "single_label_classification", torch.tensor([0, -100, 4])),
        ("ume", "single_label_classification", torch.rand(3, 7)),
        ("late_vote", "multi_label_classification", torch.rand(3, 7)),
        ("late_vote", "single_label_classification", torch.tensor([0, -100, 4])),
    ],
)
def test_losses_pass_gradcheck_in_float64(fusion, problem_type, labels):
    model = tiny_model(fusion=fusion, problem_type=problem_type).double()
    batch = tiny_batch()
    batch["pixel_values"] = batch["pixel_values"].double()
    weight = (model.classifier.weight if fusion == "ume" else model.classifier.views[0].weight).detach().clone()
    name = "classifier.weight" if fusion == "ume" else "classifier.views.0.weight"

    def loss(value):
        found = torch.func.functional_call(model, {name: value}, kwargs={**batch, "labels": labels}).loss
        assert found.dtype == torch.float64
        return found

    assert torch.autograd.gradcheck(loss, weight.requires_grad_(), eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=True)


def test_the_loss_of_retrieval_passes_gradcheck_in_float64():
    model = UMEForImageTextRetrieval(tiny_config()).double().eval()
    batch = tiny_batch()
    output = model(**{**batch, "pixel_values": batch["pixel_values"].double()}, return_loss=True)
    assert output.loss.dtype == output.logits_per_text.dtype == torch.float64
    logits = output.logits_per_text.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, batch["image_index"]), logits, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    scores, mask = torch.randn(2, 5).to(dtype), torch.tensor([[True] * 5, [True, False, True, False, False]])
    assert masked_softmax(scores, mask).dtype == torch.float32
    for name in ("late_mean", "late_weighted", "late_max", "late_product", "late_vote"):
        head = head_of(name).to(dtype)
        combined = head.combine(torch.randn(3, 2, 4).to(dtype), torch.ones(3, 2).bool(), "single_label_classification")
        assert combined.dtype == torch.float32


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fill", GARBAGE)
def test_nothing_behind_a_mask_reaches_sums_of_pairs_or_their_gradients(fill, shared, monkeypatch):
    index = torch.tensor([0, 0, 1]) if shared else None
    first_mask = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1]]).bool()
    second_mask = torch.tensor([[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1]]).bool()

    def results(fill):
        torch.manual_seed(0)
        a, g = torch.randn(2, 3, 4, 6)
        b, h = torch.randn(2, 2 if shared else 3, 5, 6)
        scorer = torch.randn(2, 6, requires_grad=True)
        real = second_mask[[0, 2]] if shared else second_mask
        tokens = [x.masked_fill(~first_mask[..., None], fill).requires_grad_() for x in (a, g)]
        tokens += [x.masked_fill(~real[..., None], fill).requires_grad_() for x in (b, h)]
        a, g, b, h = tokens
        z, alpha = weighted_pair_sum(a, b, g, h, scorer, first_mask, second_mask, index)
        mean = pair_mean(a, b, g, h, first_mask, second_mask, index)
        (z.square().sum() + alpha.square().sum() + mean.square().sum()).backward()
        return [z, alpha, mean, scorer.grad, *(x.grad for x in tokens)]

    for exporting in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda exporting=exporting: exporting)
            for found, expected in zip(results(fill), results(0.0), strict=True):
                assert expected.isfinite().all()
                torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_pixels_of_an_image_that_nobody_has_reach_no_gradient():
    model, batch = tiny_model().train(), tiny_batch()
    labels, present = torch.tensor([0, 1, 2]), torch.tensor([True, False, True])
    batch["pixel_values"][1] = torch.nan  # that of the second question alone
    model(**batch, image_present=present, labels=labels).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
