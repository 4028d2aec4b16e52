"""Sums over pairs: tiles of any size give what the whole [B, N_1, N_2, D] tensor gives, without ever holding it."""

import math
from itertools import pairwise

import pytest
import torch

from modeling_ume import pairs_ume
from modeling_ume.pairs_ume import all_pairs, pair_mean, weighted_pair_sum

BATCH, FIRST, SECOND, WIDTH, HEADS = 3, 4, 5, 6, 2


def make_inputs(dtype=torch.float64, batch=BATCH, first=FIRST, second=SECOND, width=WIDTH):
    a, g = (torch.randn(batch, first, width, dtype=dtype).requires_grad_() for _ in range(2))
    b, h = (torch.randn(batch, second, width, dtype=dtype).requires_grad_() for _ in range(2))
    scorer = torch.randn(HEADS, width, dtype=dtype).requires_grad_()
    first_mask, second_mask = torch.ones(batch, first, dtype=torch.bool), torch.ones(batch, second, dtype=torch.bool)
    first_mask[-1, 2:] = False  # shorter than those before it
    second_mask[1, :3] = False  # padded on the left
    return (a, b, g, h, scorer), (first_mask, second_mask)


def whole_sum(a, b, g, h, scorer, first_mask, second_mask):
    """The definition, every pair written out."""
    pairs = all_pairs(a, b, g, h)
    scores = torch.einsum("hd,bijd->bhij", scorer, pairs)
    mask = first_mask[:, None, :, None] & second_mask[:, None, None]
    alpha = scores.masked_fill(~mask, -torch.inf).flatten(2).softmax(-1).unflatten(-1, scores.shape[2:])
    return torch.einsum("bhij,bijd->bhd", alpha, pairs), alpha


def whole_mean(a, b, g, h, first_mask, second_mask):
    mask = (first_mask[:, :, None] & second_mask[:, None]).to(a.dtype)[..., None]
    return (all_pairs(a, b, g, h) * mask).sum((1, 2)) / mask.sum((1, 2))


@pytest.fixture(params=[(1, 1), (WIDTH * 6, 3), (WIDTH * SECOND * FIRST * 2, 1), (2**19, 16)], ids="tile={}".format)
def tile(request, monkeypatch):
    """A pair a tile, a few rows of a few columns, two examples, everything at once."""
    size, rows = request.param
    monkeypatch.setitem(pairs_ume._TILE, "cpu", size)
    monkeypatch.setattr(pairs_ume, "_ROWS", rows)


def test_a_weighted_sum_equals_the_whole_tensors_in_value_and_gradient(tile):
    inputs, masks = make_inputs()
    upstream = torch.randn(BATCH, HEADS, WIDTH, dtype=torch.float64)
    upstream_alpha = torch.randn(BATCH, HEADS, FIRST, SECOND, dtype=torch.float64)
    results = []
    for compute in (weighted_pair_sum, whole_sum):
        z, alpha = compute(*inputs, *masks)
        grads = torch.autograd.grad((z * upstream).sum() + (alpha * upstream_alpha).sum(), inputs)
        results.append((z, alpha, *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_a_mean_equals_the_whole_tensors_in_value_and_gradient(tile):
    inputs, masks = make_inputs()
    results = []
    for compute in (pair_mean, whole_mean):
        mean = compute(*inputs[:4], *masks)
        results.append((mean, *torch.autograd.grad(mean.square().sum(), inputs[:4])))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_examples_without_padding_have_the_sums_and_gradients_of_the_whole_tensors(tile):
    inputs, masks = make_inputs()
    masks = [torch.ones_like(mask) for mask in masks]
    results = []
    for sum_of, mean_of in ((weighted_pair_sum, pair_mean), (whole_sum, whole_mean)):
        (z, alpha), mean = sum_of(*inputs, *masks), mean_of(*inputs[:4], *masks)
        loss = z.square().sum() + alpha.square().sum() + mean.square().sum()
        results.append((z, alpha, mean, *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck(tile):
    inputs, masks = make_inputs()
    # Along random directions: by single numbers it takes minutes in tiles of one pair, and is done below in one size.
    assert torch.autograd.gradcheck(lambda *x: weighted_pair_sum(*x, *masks), inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *x: pair_mean(*x, *masks), inputs[:4], fast_mode=True)


def test_gradients_of_parts_and_shared_rows_pass_gradcheck():
    inputs, masks = make_inputs()
    index = torch.tensor([1, 1, 0])
    assert torch.autograd.gradcheck(lambda *x: weighted_pair_sum(*x, *masks, index, True), inputs)
    assert torch.autograd.gradcheck(lambda *x: pair_mean(*x, *masks, index), inputs[:4])


def of_parts(z):
    """What `parts` keeps of z [B, heads, D]: with the k-th weights the k-th part of the channels."""
    return torch.stack([z[:, k, k * WIDTH // HEADS + d] for k in range(HEADS) for d in range(WIDTH // HEADS)], dim=1)


def test_parts_are_the_parts_of_the_whole_sum_in_value_and_gradient(tile):
    inputs, masks = make_inputs()
    upstream = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    upstream_alpha = torch.randn(BATCH, HEADS, FIRST, SECOND, dtype=torch.float64)
    whole = whole_sum(*inputs, *masks)
    results = []
    for z, alpha in (weighted_pair_sum(*inputs, *masks, parts=True), (of_parts(whole[0]), whole[1])):
        grads = torch.autograd.grad((z * upstream).sum() + (alpha * upstream_alpha).sum(), inputs)
        results.append((z, alpha, *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_shared_rows_give_what_copies_of_them_give_in_value_and_gradient(tile):
    inputs, masks = make_inputs()
    index = torch.tensor([1, 1, 0])  # two examples with one row, and a row that none has
    for parts in (False, True):
        copied = [x.index_select(0, index) if i in (1, 3) else x for i, x in enumerate(inputs)]
        results = []
        for tokens, rows in ((inputs, index), (copied, None)):
            z, alpha = weighted_pair_sum(*tokens, *masks, index=rows, parts=parts)
            mean = pair_mean(*tokens[:4], *masks, index=rows)
            loss = z.square().sum() + alpha.square().sum() + mean.square().sum()
            results.append((z, alpha, mean, *torch.autograd.grad(loss, inputs)))
        torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_equal_inputs_give_equal_bits_also_where_rows_are_shared(tile):
    inputs, masks = make_inputs(torch.float32)
    index, results = torch.tensor([1, 1, 0]), []
    for _ in range(2):
        z, alpha = weighted_pair_sum(*inputs, *masks, index=index, parts=True)
        results.append((z, alpha, *torch.autograd.grad(z.square().sum(), inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_row_without_any_real_pair_is_zero_and_gives_no_gradient(tile):
    inputs, (first_mask, second_mask) = make_inputs()
    second_mask[2] = False
    z, alpha = weighted_pair_sum(*inputs, first_mask, second_mask)
    mean = pair_mean(*inputs[:4], first_mask, second_mask)
    for output in (z, alpha, mean):
        assert (output[2] == 0).all()
    for grad in torch.autograd.grad(z.sum() + mean.sum(), inputs[:4]):
        assert grad.isfinite().all()
        assert (grad[2] == 0).all()


def test_scores_of_any_size_stay_finite(tile):
    inputs, masks = make_inputs(torch.float32)
    scorer = (inputs[4] * 1000).detach()
    z, alpha = weighted_pair_sum(*inputs[:4], scorer, *masks)
    assert z.isfinite().all()
    torch.testing.assert_close(alpha.sum((2, 3)), torch.ones(BATCH, HEADS))


def test_the_gradient_of_the_scorer_keeps_its_precision_where_pairs_are_small(tile):
    """Softmax takes no notice of what all its gradients have in common, nor may what rounding leaves of that."""
    inputs, masks = make_inputs()
    upstream = torch.randn(BATCH, HEADS, FIRST, SECOND, dtype=torch.float64) + 1000
    results = []
    for dtype in (torch.float32, torch.float64):
        tokens = [1e-2 * x.detach().to(dtype) for x in inputs[:4]]
        scorer = inputs[4].detach().to(dtype).requires_grad_()
        _, alpha = weighted_pair_sum(*tokens, scorer, *masks)
        results.append(torch.autograd.grad((alpha * upstream.to(dtype)).sum(), scorer)[0].double())
    error = (results[0] - results[1]).abs().max() / results[1].abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_summed_in_float32(autocast):
    inputs, masks = make_inputs(torch.float32, first=30, second=200)
    rounded = [x.detach().bfloat16().requires_grad_() for x in inputs]
    expected = weighted_pair_sum(*(x.float() for x in rounded), *masks)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        z, alpha = weighted_pair_sum(*rounded, *masks)
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z, expected[0].bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(alpha, expected[1], rtol=0, atol=0)
    z.float().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in rounded)


def test_autocast_changes_no_bit_of_sums_and_gradients():
    """Long sums of half-precision numbers would; whoever calls backward inside of it is protected too."""
    inputs, masks = make_inputs(torch.float32)
    index, results = torch.tensor([1, 1, 0]), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            z, alpha = weighted_pair_sum(*inputs, *masks, index=index, parts=True)
            mean = pair_mean(*inputs[:4], *masks, index=index)
            loss = z.square().sum() + alpha.square().sum() + mean.square().sum()
            results.append((z, alpha, mean, *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 40, 300, 4000])
def test_tiles_hold_every_pair_once_and_no_more_than_they_may(size):
    width, generator = 3, torch.Generator().manual_seed(size)
    first, second = (torch.randint(0, 12, (40,), generator=generator) for _ in range(2))
    order = (first * second).argsort(stable=True)
    first, second = first[order].tolist(), second[order].tolist()
    tiles = pairs_ume._slices(first, second, width, size)
    seen = torch.zeros(40, 12, 12, dtype=torch.long)
    for s, r, c in tiles:
        seen[s, r, c] += 1
        examples, rows, columns = s.stop - s.start, r.stop - r.start, c.stop - c.start
        if examples > 1:
            elements, own = examples * rows * columns * width, range(s.start, s.stop)
            padding = elements - sum(first[i] * second[i] for i in own) * width
            assert elements <= size
            assert padding <= size // 16
            assert (rows, columns) == (max(first[i] for i in own), max(second[i] for i in own))
        elif rows > pairs_ume._ROWS or columns > 1:
            assert rows * columns * width <= size
    for i in range(40):
        assert (seen[i, : first[i], : second[i]] == 1).all()
    # No two that follow each other would have fitted into one.
    whole = [s for s, r, c in tiles if (r.start, c.start) == (0, 0)]
    for one, two in pairwise(whole):
        own = range(one.start, two.start + 1)
        shape = max(first[i] for i in own), max(second[i] for i in own)
        elements = len(own) * math.prod(shape) * width
        assert elements > size or elements - sum(first[i] * second[i] for i in own) * width > size // 16


def test_tiles_take_the_memory_of_the_largest_and_no_more(monkeypatch):
    monkeypatch.setitem(pairs_ume._TILE, "cpu", 4 * SECOND * WIDTH)
    (a, b, g, h, _), masks = make_inputs()
    tiles = pairs_ume._Tiles([x.detach() for x in (a, b, g, h)], masks, torch.arange(BATCH), torch.float64)
    sizes = [sigma.numel() for *_, sigma, _ in tiles]
    assert len(sizes) > 1
    assert tiles._memory[0].numel() == max(sizes)


def largest_allocation(compute, *tensors) -> int:
    with torch.profiler.profile(profile_memory=True) as profile:
        result = compute(*tensors)
        sum(x.sum() for x in (result if isinstance(result, tuple) else (result,))).backward()
    return max(event.cpu_memory_usage for event in profile.events())


def test_no_tensor_of_all_pairs_is_ever_allocated():
    inputs, masks = make_inputs(torch.float32, batch=2, first=32, second=400, width=256)
    all_pairs_bytes = 2 * 32 * 400 * 256 * 4
    assert largest_allocation(weighted_pair_sum, *inputs, *masks) < all_pairs_bytes / 4
    assert largest_allocation(pair_mean, *inputs[:4], *masks) < all_pairs_bytes / 4
    assert largest_allocation(whole_sum, *inputs, *masks) >= all_pairs_bytes  # the measure can fail


def test_compiled_without_a_graph_break_it_gives_the_same():
    inputs, masks = make_inputs(torch.float32)
    compiled = torch.compile(weighted_pair_sum, backend="aot_eager", fullgraph=True)
    results = []
    for compute in (compiled, weighted_pair_sum):
        z, alpha = compute(*inputs, *masks)
        results.append((z, alpha, *torch.autograd.grad(z.square().sum(), inputs)))
    torch.testing.assert_close(results[0], results[1])


def test_an_exported_graph_holds_only_operators_of_torch():
    class Sum(torch.nn.Module):
        def forward(self, *args):
            return (
                *(*weighted_pair_sum(*args[:7]), *weighted_pair_sum(*args, parts=True)),
                *(pair_mean(*args[:4], *args[5:7]), pair_mean(*args[:4], *args[5:])),
            )

    inputs, masks = make_inputs(torch.float32)
    args = (*(x.detach() for x in inputs), *masks, torch.tensor([1, 1, 0]))
    exported = torch.export.export(Sum(), args)
    assert not [n for n in exported.graph.nodes if n.op == "call_function" and "ume" in str(n.target)]
    for result, expected in zip(exported.module()(*args), Sum()(*args), strict=True):
        torch.testing.assert_close(result, expected)


def test_padding_on_the_right_costs_nothing(monkeypatch):
    """The tiles of short questions in a long batch hold the pairs of the short questions."""
    monkeypatch.setitem(pairs_ume._TILE, "cpu", 400 * SECOND * WIDTH)
    (a, b, g, h, _), (first_mask, second_mask) = make_inputs(batch=8, first=20)
    first_mask[:], second_mask[:] = False, True
    first_mask[:7, :2], first_mask[7] = True, True
    tokens, own = [x.detach() for x in (a, b, g, h)], torch.arange(8)
    tiles = pairs_ume._Tiles(tokens, (first_mask, second_mask), own, torch.float64)
    assert sum(sigma.numel() for *_, sigma, _ in tiles) == (7 * 2 + 20) * SECOND * WIDTH
