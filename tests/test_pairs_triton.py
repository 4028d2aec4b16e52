"""The fused kernels give what the tiles give; without a GPU they run under TRITON_INTERPRET=1."""

import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from modeling_ume import pairs_triton_ume, pairs_ume
from modeling_ume.pairs_ume import pair_mean, weighted_pair_sum

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
KERNELS = ("fused_weighted_sum", "fused_weighted_sum_backward", "fused_mean", "fused_mean_backward")
needs_kernels = pytest.mark.skipif(
    pairs_triton_ume.triton is None or not (CUDA or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs Triton and either a GPU or TRITON_INTERPRET=1",
)
# Batch, N_1, N_2, D, heads: D a power of two, two powers of two, neither; heads with and without filling up.
SHAPES = [(3, 3, 4, 8, 2), (2, 2, 5, 48, 1), (2, 3, 4, 21, 3), (2, 1, 2, 7, 8)]
if CUDA:
    SHAPES += [(4, 32, 577, 768, 1), (2, 17, 200, 300, 4), (1, 3, 40, 4096, 2)]


def make_inputs(batch=3, first=3, second=4, width=8, heads=2, dtype=torch.float32):
    a, g = (torch.randn(batch, first, width) for _ in range(2))
    b, h = (torch.randn(batch, second, width) for _ in range(2))
    scorer = torch.randn(heads, width) / width**0.5
    masks = torch.ones(batch, first, dtype=torch.bool), torch.ones(batch, second, dtype=torch.bool)
    masks[0][0, 1:] = False
    masks[1][-1, : second // 2] = False  # padded on the left
    inputs = [x.to(DEVICE, dtype).requires_grad_() for x in (a, b, g, h, scorer)]
    return inputs, [mask.to(DEVICE) for mask in masks]


def outputs_and_gradients(compute, inputs, masks):
    outputs = compute(*inputs, *masks)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(DEVICE) for x in outputs]
    loss = sum((x.double() * y).sum() for x, y in zip(outputs, upstream, strict=True))
    return *(x.detach() for x in outputs), *torch.autograd.grad(loss, inputs)


def by_tiles(compute, inputs, masks):
    """The same in float64, which the kernels leave to the tiles."""
    return outputs_and_gradients(compute, [x.detach().double().requires_grad_() for x in inputs], masks)


def assert_near(results, expected, tolerance):
    for result, right in zip(results, expected, strict=True):
        assert (result.double() - right).abs().max() <= tolerance * max(1, right.abs().max())


@pytest.fixture
def kernels(monkeypatch):
    """Kernels for every float32, bfloat16 or float16 tensor, and walks so short that small inputs need several."""
    monkeypatch.setattr(pairs_ume, "fits_kernels", lambda a, num_heads=1: a.dtype != torch.float64)
    monkeypatch.setattr(pairs_triton_ume, "_SHORTEST_WALK", 2)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_weighted_sum_of_the_kernels_equals_the_tiles_in_value_and_gradient(kernels, shape):
    inputs, masks = make_inputs(*shape)
    results = outputs_and_gradients(weighted_pair_sum, inputs, masks)
    assert_near(results, by_tiles(weighted_pair_sum, inputs, masks), 1e-5)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mean_of_the_kernels_equals_the_tiles_in_value_and_gradient(kernels, shape):
    inputs, masks = make_inputs(*shape)
    results = outputs_and_gradients(pair_mean, inputs[:4], masks)
    assert_near(results, by_tiles(pair_mean, inputs[:4], masks), 1e-5)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halved_inputs_are_read_as_they_are_and_summed_in_float32(kernels, dtype):
    inputs, masks = make_inputs(dtype=dtype)
    inputs[3] = inputs[3].detach().float().requires_grad_()  # under autocast the tokens themselves may stay float32
    inputs[4] = inputs[4].detach().float().requires_grad_()
    for compute, used in ((weighted_pair_sum, inputs), (pair_mean, inputs[:4])):
        results = outputs_and_gradients(compute, used, masks)
        assert results[0].dtype == dtype
        assert [x.dtype for x in results[-len(used) :]] == [x.dtype for x in used]
        assert_near(results, by_tiles(compute, used, masks), 2e-2)
    alpha = weighted_pair_sum(*inputs, *masks)[1]
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha.sum((2, 3)), torch.ones_like(alpha[:, :, 0, 0]))


@needs_kernels
def test_a_row_without_any_real_pair_is_zero_and_gives_no_gradient(kernels):
    inputs, masks = make_inputs()
    masks[1][1] = False
    z, alpha, *grads = outputs_and_gradients(weighted_pair_sum, inputs, masks)
    mean, *mean_grads = outputs_and_gradients(pair_mean, inputs[:4], masks)
    for x in (z, alpha, mean, *grads[:4], *mean_grads):
        assert (x[1] == 0).all()
    assert all(x.isfinite().all() for x in (*grads, *mean_grads))


@needs_kernels
def test_what_padding_holds_changes_no_bit_even_if_it_is_no_number(kernels):
    inputs, masks = make_inputs()
    results = []
    for padding in (0.0, torch.nan):
        filled = [
            x.detach().masked_fill(~masks[i % 2][..., None], padding).requires_grad_()
            for i, x in enumerate(inputs[:4])
        ]
        results.append(
            outputs_and_gradients(weighted_pair_sum, [*filled, inputs[4]], masks)
            + outputs_and_gradients(pair_mean, filled, masks)
        )
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@needs_kernels
def test_equal_inputs_give_equal_bits(kernels):
    inputs, masks = make_inputs(*SHAPES[-1])
    for compute, used in ((weighted_pair_sum, inputs), (pair_mean, inputs[:4])):
        first, second = (outputs_and_gradients(compute, used, masks) for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@needs_kernels
def test_transposed_inputs_and_huge_scores_are_right(kernels):
    inputs, masks = make_inputs()
    inputs = [x.detach().transpose(-2, -1).contiguous().transpose(-2, -1).requires_grad_() for x in inputs]
    with torch.no_grad():
        inputs[4] *= 1000
    assert_near(weighted_pair_sum(*inputs, *masks), by_tiles(weighted_pair_sum, inputs, masks)[:2], 1e-3)


@needs_kernels
def test_sequences_and_batches_of_no_tokens_give_zeros(kernels):
    for batch, first, second in ((2, 0, 3), (2, 3, 0), (0, 2, 3)):
        shapes = [(batch, n, 8) for n in (first, second, first, second)] + [(2, 8)]
        inputs = [torch.randn(shape, device=DEVICE).requires_grad_() for shape in shapes]
        masks = [torch.ones(batch, n, dtype=torch.bool, device=DEVICE) for n in (first, second)]
        for compute, used in ((weighted_pair_sum, inputs), (pair_mean, inputs[:4])):
            results = outputs_and_gradients(compute, used, masks)
            assert results[0].shape == ((batch, 2, 8) if compute is weighted_pair_sum else (batch, 8))
            assert not any(x.any() for x in results)


@needs_kernels
def test_the_tanh_of_the_kernels_is_right_to_a_millionth(kernels):
    x = torch.cat([torch.linspace(-12, 12, 250), torch.tensor([0.0, 1e-4, 50.0, -50.0, 1e30, -1e30])]).to(DEVICE)
    zeros = torch.zeros(1, 1, 256, device=DEVICE)
    mask = torch.ones(1, 1, dtype=torch.bool, device=DEVICE)
    torch.testing.assert_close(
        pair_mean(x.view(1, 1, 256), zeros, zeros, zeros, mask, mask)[0], x.tanh(), rtol=0, atol=1e-6
    )


@needs_kernels
@pytest.mark.skipif(not CUDA, reason="measures the memory of a GPU")
def test_on_a_gpu_the_kernels_are_used_and_hold_no_tensor_of_all_pairs():
    inputs, masks = make_inputs(8, 32, 577, 768, 1)
    assert pairs_ume.fits_kernels(inputs[0])
    assert not pairs_ume.fits_kernels(inputs[0].double())
    weighted_pair_sum(*inputs, *masks)[0].sum().backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    weighted_pair_sum(*inputs, *masks)[0].sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 8 * 32 * 577 * 768 * 4 / 2


def test_tensors_on_a_cpu_are_summed_by_tiles(monkeypatch):
    for name in KERNELS:
        monkeypatch.setattr(pairs_ume, name, lambda *args: pytest.fail("a kernel was called"))
    a, b, g, h, scorer = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(5))
    mask = torch.ones(2, 3, dtype=torch.bool)
    weighted_pair_sum(a, b, g, h, scorer[0], mask, mask)[0].sum().backward()
    pair_mean(a, b, g, h, mask, mask).sum().backward()


@pytest.mark.parametrize("compute", [weighted_pair_sum, pair_mean])
def test_where_the_kernels_fit_they_are_called_forward_and_backward(monkeypatch, compute):
    class Called(Exception):
        pass

    def call(*args):
        raise Called

    for name in KERNELS:
        monkeypatch.setattr(pairs_ume, name, call)
    monkeypatch.setattr(pairs_ume, "_kernels_agree", lambda *args: True)
    inputs = [torch.randn(2, 3, 4, requires_grad=True) for _ in range(4)]
    if compute is weighted_pair_sum:
        inputs.append(torch.randn(2, 4))
    mask = torch.ones(2, 3, dtype=torch.bool)
    output = compute(*inputs, mask, mask)  # by tiles
    monkeypatch.setattr(pairs_ume, "fits_kernels", lambda *args: True)
    with pytest.raises(Called):
        compute(*inputs, mask, mask)
    with pytest.raises(Called):
        (output[0] if isinstance(output, tuple) else output).sum().backward()


@pytest.mark.parametrize(
    ("shape", "num_heads", "dtype", "capability", "fits"),
    [
        ((2, 3, 768), 1, torch.float32, (9, 0), True),
        ((2, 3, 1024), 8, torch.bfloat16, (8, 0), True),
        ((2, 3, 768), 1, torch.float64, (9, 0), False),
        ((2, 3, 768), 9, torch.float32, (9, 0), False),
        ((2, 3, 16384), 1, torch.float32, (9, 0), False),
        ((2, 3, 768), 1, torch.float32, (7, 0), False),
    ],
)
def test_kernels_fit_dtypes_heads_widths_and_devices_they_were_written_for(
    monkeypatch, shape, num_heads, dtype, capability, fits
):
    monkeypatch.setattr(pairs_triton_ume, "triton", object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tensor = SimpleNamespace(is_cuda=True, dtype=dtype, shape=shape, device="cuda:0")
    assert pairs_triton_ume.fits_kernels(tensor, num_heads) is fits


def test_without_triton_the_file_loads_and_no_kernel_fits(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # what makes `import triton` raise ImportError
    spec = importlib.util.spec_from_file_location("pairs_without_triton", pairs_triton_ume.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.fits_kernels(SimpleNamespace(is_cuda=True, dtype=torch.float32, shape=(2, 3, 8), device="cuda"))


def from_tiles(name):
    """What the kernel of this name should give, computed with tiles."""
    right = getattr(pairs_ume, name.replace("fused", "_tiled"))

    def compute(*args):
        own = torch.arange(len(args[0]))
        if "mean" in name:
            return right(*args, own)
        if "backward" in name:
            return right(*args[:-2], own, False, *args[-2:])
        return right(*args, own, False)

    return compute


@pytest.fixture
def without_kernels(monkeypatch):
    """Puts something in the place of the kernels, which then fit everything."""

    def put(stand_in):
        for name in KERNELS:
            monkeypatch.setattr(pairs_ume, name, stand_in(name))
        monkeypatch.setattr(pairs_ume, "fits_kernels", lambda *args: True)
        pairs_ume._kernels_agree.cache_clear()

    yield put
    pairs_ume._kernels_agree.cache_clear()


FAULTS = {"wrong": "they differ", "nan": r"they differ .*nan", "raises": "they failed with RuntimeError: no such"}


@pytest.mark.parametrize("fault", FAULTS)
def test_kernels_that_are_wrong_on_a_device_are_told_and_never_used(without_kernels, fault):
    def broken(name):
        right = from_tiles(name)

        def compute(*args):
            if fault == "raises":
                raise RuntimeError("no such instruction")
            outputs = right(*args)
            factor = torch.nan if fault == "nan" else 1.2
            return tuple(x * factor for x in outputs) if isinstance(outputs, tuple) else outputs * factor

        return compute

    inputs, mask = [torch.randn(2, 3, 4) for _ in range(4)], torch.ones(2, 3, dtype=torch.bool)
    expected = pair_mean(*inputs, mask, mask)
    without_kernels(broken)
    with pytest.warns(UserWarning, match=f"fused kernels for pairs of tokens are not used on cpu.*{FAULTS[fault]}"):
        torch.testing.assert_close(pair_mean(*inputs, mask, mask), expected, rtol=0, atol=0)
    torch.testing.assert_close(pair_mean(*inputs, mask, mask), expected, rtol=0, atol=0)  # told once


def test_kernels_that_are_right_on_a_device_are_used_without_a_word(without_kernels, recwarn):
    used = []
    without_kernels(lambda name: lambda *args: used.append(name) or from_tiles(name)(*args))
    inputs, mask = [torch.randn(2, 3, 4) for _ in range(4)], torch.ones(2, 3, dtype=torch.bool)
    for _ in range(2):
        pair_mean(*inputs, mask, mask)
    assert used == [*KERNELS, "fused_mean", "fused_mean"]
    assert not recwarn
