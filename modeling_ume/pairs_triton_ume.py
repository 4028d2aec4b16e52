"""The sums of pairs_ume.py as fused CUDA kernels: a pair lives in registers only.

A program owns one token and walks over the other sequence. Forward forms every pair once (a running softmax), backward
twice: once for the tokens of the first sequence, once for those of the second. No atomic operations: what is summed
over programs is written by part and summed in a fixed order, so that equal inputs give equal bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for CPUs come without it
    triton = None

# Programs that fill a large device; a walk is cut into several where tokens alone do not make as many.
_PROGRAMS = 4096
_SHORTEST_WALK = 32  # tokens; shorter walks would not repay reading their own token
_MAX_HEADS = 8
_MAX_REGISTERS = 8192  # numbers of [heads, D] that one program can keep


def fits_kernels(a: Tensor, num_heads: int = 1) -> bool:
    """Whether these kernels take pairs of tokens like `a` [B, N, D]; all else is for the tiles of pairs_ume.py."""
    return (
        triton is not None
        and a.is_cuda
        and a.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and 0 < num_heads <= _MAX_HEADS
        and 0 < a.shape[2] * _power_of_two(num_heads) <= _MAX_REGISTERS
        and torch.cuda.get_device_capability(a.device) >= (8, 0)
    )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _walks(num_programs: int, length: int) -> tuple[int, int]:
    """(number of walks over a sequence of `length`, tokens a walk)."""
    walks = max(1, min(-(-_PROGRAMS // max(1, num_programs)), length // _SHORTEST_WALK))
    return walks, -(-length // walks)


def _halves(width: int) -> dict[str, int]:
    """D as a power of two and a rest: blocks are powers of two, and 768 = 512 + 256 would waste a quarter of 1024."""
    left = 1 << (width.bit_length() - 1)
    return {"WIDTH": width, "LEFT": left, "RIGHT": _power_of_two(width - left) if width > left else 0}


def _tanh_by(a: Tensor) -> str:
    """How tanh is computed: in as few instructions as the dtype allows, since tanh is most of the kernels' work."""
    if not a.is_cuda or torch.version.hip:
        return "exp2"
    # The instruction tanh.approx errs by 2⁻¹¹, less than the rounding of bfloat16 (2⁻⁹) but more than that of float16.
    return "instruction" if a.dtype == torch.bfloat16 else "reciprocal"


def _flags(mask: Tensor) -> Tensor:
    return mask.contiguous().view(torch.uint8)


def fused_weighted_sum(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, scorer: Tensor, first_mask: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """z [B, heads, D] and α [B, heads, N_1, N_2], both in float32; arguments as in `weighted_pair_sum`."""
    (batch, num_first, width), num_second, num_heads = a.shape, b.shape[1], len(scorer)
    a, b, g, h, scorer = (x.contiguous() for x in (a, b, g, h, scorer))
    first_mask, second_mask = _flags(first_mask), _flags(second_mask)
    walks, per_walk = _walks(batch * num_first, num_second)
    z, alpha, highest, total, sums = (
        torch.empty(shape, dtype=torch.float32, device=a.device)
        for shape in (
            (batch, num_heads, width),
            (batch, num_heads, num_first, num_second),
            (batch, walks * num_first, num_heads),
            (batch, walks * num_first, num_heads),
            (batch, walks * num_first, num_heads, width),
        )
    )
    if not alpha.numel():
        return z.zero_(), alpha
    with torch.cuda.device_of(a):
        _weighted_kernel[(batch * walks * num_first,)](
            *(a, b, g, h, scorer, first_mask, second_mask, alpha, highest, total, sums),
            *(num_first, num_second, walks, per_walk),
            HEADS=num_heads,
            **_halves(width),
            TANH=_tanh_by(a),
            num_warps=_warps((4 + 2 * num_heads) * width),
            enable_fp_fusion=True,
        )
        blocks = -(-width // 128)
        parts = blocks + -(-num_first * num_second // 1024)
        _normalise_kernel[(batch * num_heads * parts,)](
            *(alpha, highest, total, sums, first_mask, second_mask, z, num_first, num_second, walks, parts),
            HEADS=num_heads,
            WIDTH=width,
            BLOCKS=blocks,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return z, alpha


def fused_weighted_sum_backward(
    grad_z: Tensor,
    grad_alpha: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, b, g, h and scorer, each in its own dtype."""
    (batch, num_first, width), num_second, num_heads = a.shape, b.shape[1], len(scorer)
    if not alpha.numel():
        return tuple(torch.zeros_like(x) for x in (a, b, g, h, scorer))
    dtypes = [x.dtype for x in (a, b, g, h, scorer)]
    a, b, g, h, scorer, grad_z, grad_alpha = (x.contiguous() for x in (a, b, g, h, scorer, grad_z, grad_alpha))
    first_mask, second_mask = _flags(first_mask), _flags(second_mask)
    # Softmax: ds = α (dα' − Σ α dα'), where dα' = dz·c + dα, so that the sum is dz·z + Σ α dα without a pass.
    mean = (grad_z * z).sum(-1) + (alpha * grad_alpha).sum((2, 3))  # [B, heads]
    walks, per_walk = _walks(batch * num_first, num_second)
    grad_a, grad_g = (_parts(batch, walks, num_first, width, dtypes[i], a.device) for i in (0, 2))
    grad_score = torch.empty_like(alpha)
    grad_scorer = a.new_empty(batch * walks * num_first, num_heads, width, dtype=torch.float32)
    with torch.cuda.device_of(a):
        _first_backward_kernel[(batch * walks * num_first,)](
            *(grad_z, grad_alpha, a, b, g, h, scorer, first_mask, second_mask, alpha, mean),
            *(grad_score, grad_a, grad_g, grad_scorer, num_first, num_second, walks, per_walk),
            HEADS=num_heads,
            **_halves(width),
            TANH=_tanh_by(a),
            num_warps=_warps((3 + 6 * num_heads) * width),
            enable_fp_fusion=True,
        )
        grad_b, grad_h = _token_gradients(
            *(b, h, a, g, second_mask, first_mask, grad_z), _tanh_by(a), scores=(alpha, grad_score, scorer)
        )
    return (
        *(_whole(grad_a, dtypes[0]), grad_b, _whole(grad_g, dtypes[2]), grad_h),
        grad_scorer.sum(0).to(dtypes[4]),
    )


def fused_mean(a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor) -> Tensor:
    """Σ_ij first_share_i second_share_j c_ij, [B, D] in float32; a token whose share is 0 is not looked at."""
    (batch, num_first, width), num_second = a.shape, b.shape[1]
    a, b, g, h, first_share, second_share = (x.contiguous() for x in (a, b, g, h, first_share, second_share))
    columns = min(256, _power_of_two(width))
    blocks = -(-width // columns)
    walks, per_walk = _walks(batch * blocks * num_first, num_second)
    sums = a.new_empty(batch, walks * num_first, width, dtype=torch.float32)
    if sums.numel():
        with torch.cuda.device_of(a):
            _mean_kernel[(batch * walks * num_first, blocks)](
                *(a, b, g, h, first_share, second_share, sums, num_first, num_second, walks, per_walk),
                WIDTH=width,
                COLUMNS=columns,
                TANH=_tanh_by(a),
                num_warps=1,
                enable_fp_fusion=True,
            )
    return sums.sum(1)


def fused_mean_backward(
    grad_z: Tensor, a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, b, g and h, each in its own dtype."""
    if not a.numel() or not b.numel():
        return tuple(torch.zeros_like(x) for x in (a, b, g, h))
    tanh = _tanh_by(a)
    a, b, g, h, first_share, second_share, grad_z = (
        x.contiguous() for x in (a, b, g, h, first_share, second_share, grad_z)
    )
    with torch.cuda.device_of(a):
        grad_a, grad_g = _token_gradients(a, g, b, h, first_share, second_share, grad_z, tanh)
        grad_b, grad_h = _token_gradients(b, h, a, g, second_share, first_share, grad_z, tanh)
    return grad_a, grad_b, grad_g, grad_h


def _token_gradients(
    added: Tensor,
    multiplied: Tensor,
    others_added: Tensor,
    others_multiplied: Tensor,
    share: Tensor,
    others_share: Tensor,
    grad_z: Tensor,
    tanh: str,
    scores: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Gradients of what one sequence adds to its pairs (a or b) and multiplies them by (g or h): pairs are symmetric in
    the two sequences. `scores`: (α, ds, u), where the sequence is the second; without it a pair weighs the product of
    its shares.
    """
    (batch, length, width), num_others = added.shape, others_added.shape[1]
    columns = min(256, _power_of_two(width))
    blocks = -(-width // columns)
    walks, per_walk = _walks(batch * blocks * length, num_others)
    grads = [_parts(batch, walks, length, width, x.dtype, x.device) for x in (added, multiplied)]
    num_heads = grad_z.shape[1] if scores else 1
    _tokens_backward_kernel[(batch * walks * length, blocks)](
        *(added, multiplied, others_added, others_multiplied, share, others_share, grad_z),
        *(scores or (grad_z, grad_z, grad_z)),
        *(*grads, length, num_others, walks, per_walk),
        HEADS=num_heads,
        SCORED=scores is not None,
        WIDTH=width,
        COLUMNS=columns,
        TANH=tanh,
        num_warps=1,
        enable_fp_fusion=True,
    )
    return tuple(_whole(grad, x.dtype) for grad, x in zip(grads, (added, multiplied), strict=True))


def _parts(batch: int, walks: int, length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for a gradient: itself, or its part of each walk in float32."""
    return torch.empty(batch, walks, length, width, dtype=dtype if walks == 1 else torch.float32, device=device)


def _whole(parts: Tensor, dtype: torch.dtype) -> Tensor:
    return parts.squeeze(1) if parts.shape[1] == 1 else parts.sum(1).to(dtype)


def _warps(numbers: int) -> int:
    """Warps whose registers hold as many numbers: of the 255 of a thread some 50 go to addresses and scalars."""
    return min(16, _power_of_two(-(-numbers // (32 * 208))))


if triton is not None:
    # Lengths change from batch to batch: a kernel compiled anew for each of them would cost more than it saves.
    _jit = triton.jit(
        do_not_specialize=["num_first", "num_second", "walks", "per_walk", "parts", "length", "num_others"]
    )

    @triton.jit
    def _tanh(x, BY: tl.constexpr):
        """tanh x = 2 / (1 + e^−2x) − 1, to 1e-6; by "instruction" to 2⁻¹¹."""
        if BY == "instruction":
            y = tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
            )
        elif BY == "reciprocal":  # as below without the steps for subnormal numbers, which make up half of it
            y = tl.inline_asm_elementwise(
                """{
                .reg .f32 t;
                mul.f32 t, $1, 0fC038AA3B;
                ex2.approx.ftz.f32 t, t;
                add.f32 t, t, 0f3F800000;
                rcp.approx.ftz.f32 t, t;
                fma.rn.f32 $0, t, 0f40000000, 0fBF800000;
                }""",
                "=f,f",
                [x],
                dtype=tl.float32,
                is_pure=True,
                pack=1,
            )
        else:
            y = 2.0 / (1.0 + tl.exp2(x * -2.8853900817779268)) - 1.0  # −2x / ln 2
        return y

    @triton.jit
    def _row(pointer, row, columns, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
        """One token, [columns]; zero beyond D unless WHOLE promises that no column is."""
        if WHOLE:
            values = tl.load(pointer + row * WIDTH + columns)
        else:
            values = tl.load(pointer + row * WIDTH + columns, mask=columns < WIDTH, other=0.0)
        return values.to(tl.float32)

    @triton.jit
    def _store_row(pointer, row, columns, values, WIDTH: tl.constexpr):
        tl.store(pointer + row * WIDTH + columns, values, mask=columns < WIDTH)

    @triton.jit
    def _per_head(pointer, row, columns, HEADS: tl.constexpr, WIDTH: tl.constexpr):
        """A row of a [rows, heads, D] tensor, [HEADS up to a power of two, columns]; zero beyond the heads and D."""
        heads = tl.arange(0, triton.next_power_of_2(HEADS))[:, None]
        mask = (heads < HEADS) & (columns < WIDTH)[None, :]
        return tl.load(pointer + (row * HEADS + heads) * WIDTH + columns[None, :], mask=mask, other=0.0).to(tl.float32)

    @triton.jit
    def _store_per_head(pointer, row, columns, values, HEADS: tl.constexpr, WIDTH: tl.constexpr):
        heads = tl.arange(0, triton.next_power_of_2(HEADS))[:, None]
        mask = (heads < HEADS) & (columns < WIDTH)[None, :]
        tl.store(pointer + (row * HEADS + heads) * WIDTH + columns[None, :], values, mask=mask)

    @_jit
    def _weighted_kernel(
        a,
        b,
        g,
        h,
        scorer,
        first_mask,
        second_mask,
        scores,
        highest,
        total,
        sums,
        num_first,
        num_second,
        walks,
        per_walk,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        LEFT: tl.constexpr,
        RIGHT: tl.constexpr,
        TANH: tl.constexpr,
    ):
        """Scores of one token i with the tokens j of a walk, and the pairs' sum, weighted relative to the highest."""
        program = tl.program_id(0).to(tl.int64)  # (example · walks + walk) · N_1 + i
        i = program % num_first
        walk = (program // num_first % walks).to(tl.int32)
        example = program // num_first // walks
        own = example * num_first + i
        heads = tl.arange(0, triton.next_power_of_2(HEADS))
        left = tl.max_contiguous(tl.arange(0, LEFT), 4)
        a1 = _row(a, own, left, WIDTH, True)
        g1 = _row(g, own, left, WIDTH, True)
        u1 = _per_head(scorer, 0, left, HEADS, WIDTH)
        z1 = tl.zeros_like(u1)
        if RIGHT:
            right = tl.max_contiguous(LEFT + tl.arange(0, RIGHT), 4)
            a2 = _row(a, own, right, WIDTH, LEFT + RIGHT == WIDTH)
            g2 = _row(g, own, right, WIDTH, LEFT + RIGHT == WIDTH)
            u2 = _per_head(scorer, 0, right, HEADS, WIDTH)
            z2 = tl.zeros_like(u2)
        top = tl.full([triton.next_power_of_2(HEADS)], float("-inf"), tl.float32)
        sum_ = tl.zeros_like(top)
        start = walk * per_walk
        end = tl.minimum(start + per_walk, num_second)
        end = tl.where(tl.load(first_mask + own) != 0, end, start)  # padding is never looked at, whatever it holds
        for j in range(start, end):
            other = example * num_second + j
            if tl.load(second_mask + other) != 0:
                c1 = _tanh(a1 + _row(b, other, left, WIDTH, True) + g1 * _row(h, other, left, WIDTH, True), TANH)
                score = tl.sum(u1 * c1[None, :], 1)  # [heads]
                if RIGHT:
                    c2 = _tanh(
                        a2
                        + _row(b, other, right, WIDTH, LEFT + RIGHT == WIDTH)
                        + g2 * _row(h, other, right, WIDTH, LEFT + RIGHT == WIDTH),
                        TANH,
                    )
                    score += tl.sum(u2 * c2[None, :], 1)
                tl.store(scores + ((example * HEADS + heads) * num_first + i) * num_second + j, score, heads < HEADS)
                new = tl.maximum(top, score)
                keep = tl.exp(top - new)
                weight = tl.exp(score - new)
                sum_ = sum_ * keep + weight
                z1 = z1 * keep[:, None] + weight[:, None] * c1[None, :]
                if RIGHT:
                    z2 = z2 * keep[:, None] + weight[:, None] * c2[None, :]
                top = new
        tl.store(highest + program * HEADS + heads, top, mask=heads < HEADS)
        tl.store(total + program * HEADS + heads, sum_, mask=heads < HEADS)
        _store_per_head(sums, program, left, z1, HEADS, WIDTH)
        if RIGHT:
            _store_per_head(sums, program, right, z2, HEADS, WIDTH)

    @_jit
    def _normalise_kernel(
        alpha,
        highest,
        total,
        sums,
        first_mask,
        second_mask,
        z,
        num_first,
        num_second,
        walks,
        parts,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        BLOCKS: tl.constexpr,
    ):
        """What the walks found, put together: z by blocks of columns, and scores → α in place."""
        program = tl.program_id(0)
        part = program % parts
        row = (program // parts).to(tl.int64)  # example · heads + head
        example = row // HEADS
        head = row % HEADS
        count = walks * num_first
        offset = example * count * HEADS + head
        top = tl.full([256], float("-inf"), tl.float32)
        sum_ = tl.zeros([256], tl.float32)
        for k in range(0, count, 256):
            ks = k + tl.arange(0, 256)
            theirs = tl.load(highest + offset + ks * HEADS, mask=ks < count, other=float("-inf"))
            new = tl.maximum(top, theirs)
            shift = tl.maximum(new, -3e38)
            sum_ = sum_ * tl.exp(top - shift) + tl.exp(theirs - shift) * tl.load(
                total + offset + ks * HEADS, mask=ks < count, other=0.0
            )
            top = new
        shift = tl.maximum(tl.max(top, 0), -3e38)
        whole = tl.sum(sum_ * tl.exp(top - shift), 0)
        whole = tl.where(whole == 0.0, 1.0, whole)  # an example without any real pair stays zero
        if part < BLOCKS:
            columns = part * 128 + tl.arange(0, 128)
            result = tl.zeros([128], tl.float32)
            for k in range(0, count, 16):
                ks = k + tl.arange(0, 16)
                theirs = tl.load(highest + offset + ks * HEADS, mask=ks < count, other=float("-inf"))
                inside = (ks < count)[:, None] & (columns < WIDTH)[None, :]
                places = (offset + ks * HEADS)[:, None] * WIDTH + columns[None, :]
                values = tl.load(sums + places, mask=inside, other=0.0)
                result += tl.sum(tl.exp(theirs - shift)[:, None] * values, 0)
            tl.store(z + row * WIDTH + columns, result / whole, mask=columns < WIDTH)
        else:
            places = (part - BLOCKS) * 1024 + tl.arange(0, 1024)
            inside = places < num_first * num_second
            first = tl.load(first_mask + example * num_first + places // num_second, mask=inside, other=0)
            second = tl.load(second_mask + example * num_second + places % num_second, mask=inside, other=0)
            pointers = alpha + row * num_first * num_second + places
            score = tl.load(pointers, mask=inside, other=0.0)
            real = (first != 0) & (second != 0)
            tl.store(pointers, tl.where(real, tl.exp(score - shift) / whole, 0.0), mask=inside)

    @_jit
    def _first_backward_kernel(
        grad_z,
        grad_alpha,
        a,
        b,
        g,
        h,
        scorer,
        first_mask,
        second_mask,
        alpha,
        mean,
        grad_score,
        grad_a,
        grad_g,
        grad_scorer,
        num_first,
        num_second,
        walks,
        per_walk,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        LEFT: tl.constexpr,
        RIGHT: tl.constexpr,
        TANH: tl.constexpr,
    ):
        """ds of one token i with the tokens j of a walk, and what they give to the gradients of a_i, g_i and u."""
        program = tl.program_id(0).to(tl.int64)  # (example · walks + walk) · N_1 + i
        i = program % num_first
        walk = (program // num_first % walks).to(tl.int32)
        example = program // num_first // walks
        own = example * num_first + i
        heads = tl.arange(0, triton.next_power_of_2(HEADS))
        left = tl.max_contiguous(tl.arange(0, LEFT), 4)
        a1 = _row(a, own, left, WIDTH, True)
        g1 = _row(g, own, left, WIDTH, True)
        u1 = _per_head(scorer, 0, left, HEADS, WIDTH)
        dz1 = _per_head(grad_z, example, left, HEADS, WIDTH)
        da1 = tl.zeros_like(a1)
        dg1 = tl.zeros_like(a1)
        du1 = tl.zeros_like(u1)
        if RIGHT:
            right = tl.max_contiguous(LEFT + tl.arange(0, RIGHT), 4)
            a2 = _row(a, own, right, WIDTH, LEFT + RIGHT == WIDTH)
            g2 = _row(g, own, right, WIDTH, LEFT + RIGHT == WIDTH)
            u2 = _per_head(scorer, 0, right, HEADS, WIDTH)
            dz2 = _per_head(grad_z, example, right, HEADS, WIDTH)
            da2 = tl.zeros_like(a2)
            dg2 = tl.zeros_like(a2)
            du2 = tl.zeros_like(u2)
        centre = tl.load(mean + example * HEADS + heads, mask=heads < HEADS, other=0.0)
        start = walk * per_walk
        end = tl.minimum(start + per_walk, num_second)
        end = tl.where(tl.load(first_mask + own) != 0, end, start)
        for j in range(start, end):
            other = example * num_second + j
            if tl.load(second_mask + other) != 0:
                h1 = _row(h, other, left, WIDTH, True)
                c1 = _tanh(a1 + _row(b, other, left, WIDTH, True) + g1 * h1, TANH)
                ds = tl.sum(dz1 * c1[None, :], 1)  # [heads]
                if RIGHT:
                    h2 = _row(h, other, right, WIDTH, LEFT + RIGHT == WIDTH)
                    c2 = _tanh(a2 + _row(b, other, right, WIDTH, LEFT + RIGHT == WIDTH) + g2 * h2, TANH)
                    ds += tl.sum(dz2 * c2[None, :], 1)
                place = ((example * HEADS + heads) * num_first + i) * num_second + j
                weight = tl.load(alpha + place, mask=heads < HEADS, other=0.0)
                ds = weight * (ds + tl.load(grad_alpha + place, mask=heads < HEADS, other=0.0) - centre)
                tl.store(grad_score + place, ds, mask=heads < HEADS)
                # dc = Σ_k α_k dz_k + ds_k u_k, and dc (1 − c²) is the gradient of the sum inside tanh.
                dx1 = tl.sum(weight[:, None] * dz1 + ds[:, None] * u1, 0) * (1.0 - c1 * c1)
                da1 += dx1
                dg1 += dx1 * h1
                du1 += ds[:, None] * c1[None, :]
                if RIGHT:
                    dx2 = tl.sum(weight[:, None] * dz2 + ds[:, None] * u2, 0) * (1.0 - c2 * c2)
                    da2 += dx2
                    dg2 += dx2 * h2
                    du2 += ds[:, None] * c2[None, :]
        _store_row(grad_a, program, left, da1, WIDTH)
        _store_row(grad_g, program, left, dg1, WIDTH)
        _store_per_head(grad_scorer, program, left, du1, HEADS, WIDTH)
        if RIGHT:
            _store_row(grad_a, program, right, da2, WIDTH)
            _store_row(grad_g, program, right, dg2, WIDTH)
            _store_per_head(grad_scorer, program, right, du2, HEADS, WIDTH)

    @_jit
    def _tokens_backward_kernel(
        added,
        multiplied,
        others_added,
        others_multiplied,
        share,
        others_share,
        grad_z,
        alpha,
        grad_score,
        scorer,
        grad_added,
        grad_multiplied,
        length,
        num_others,
        walks,
        per_walk,
        HEADS: tl.constexpr,
        SCORED: tl.constexpr,
        WIDTH: tl.constexpr,
        COLUMNS: tl.constexpr,
        TANH: tl.constexpr,
    ):
        """Gradients of one token in a block of columns, over a walk along the other sequence."""
        program = tl.program_id(0).to(tl.int64)  # (example · walks + walk) · length + token
        token = program % length
        walk = (program // length % walks).to(tl.int32)
        example = program // length // walks
        own = example * length + token
        columns = tl.max_contiguous(tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), 4)
        WHOLE: tl.constexpr = WIDTH % COLUMNS == 0
        heads = tl.arange(0, triton.next_power_of_2(HEADS))
        added_ = _row(added, own, columns, WIDTH, WHOLE)
        multiplied_ = _row(multiplied, own, columns, WIDTH, WHOLE)
        dz = _per_head(grad_z, example, columns, HEADS, WIDTH)
        if SCORED:
            u = _per_head(scorer, 0, columns, HEADS, WIDTH)
        d_added = tl.zeros_like(added_)
        d_multiplied = tl.zeros_like(added_)
        own_share = tl.load(share + own).to(tl.float32)
        start = walk * per_walk
        end = tl.minimum(start + per_walk, num_others)
        end = tl.where(own_share != 0.0, end, start)
        for j in range(start, end):
            other = example * num_others + j
            other_share = tl.load(others_share + other).to(tl.float32)
            if other_share != 0.0:
                factor = _row(others_multiplied, other, columns, WIDTH, WHOLE)
                c = _tanh(added_ + _row(others_added, other, columns, WIDTH, WHOLE) + multiplied_ * factor, TANH)
                if SCORED:
                    place = ((example * HEADS + heads) * num_others + j) * length + token
                    weight = tl.load(alpha + place, mask=heads < HEADS, other=0.0)
                    ds = tl.load(grad_score + place, mask=heads < HEADS, other=0.0)
                    dc = tl.sum(weight[:, None] * dz + ds[:, None] * u, 0)
                else:
                    dc = tl.sum(own_share * other_share * dz, 0)
                dx = dc * (1.0 - c * c)
                d_added += dx
                d_multiplied += dx * factor
        _store_row(grad_added, program, columns, d_added, WIDTH)
        _store_row(grad_multiplied, program, columns, d_multiplied, WIDTH)

    @_jit
    def _mean_kernel(
        a,
        b,
        g,
        h,
        first_share,
        second_share,
        sums,
        num_first,
        num_second,
        walks,
        per_walk,
        WIDTH: tl.constexpr,
        COLUMNS: tl.constexpr,
        TANH: tl.constexpr,
    ):
        """What one token i with the tokens j of a walk gives to a block of columns of the mean."""
        program = tl.program_id(0).to(tl.int64)  # (example · walks + walk) · N_1 + i
        i = program % num_first
        walk = (program // num_first % walks).to(tl.int32)
        example = program // num_first // walks
        own = example * num_first + i
        columns = tl.max_contiguous(tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), 4)
        WHOLE: tl.constexpr = WIDTH % COLUMNS == 0
        a_ = _row(a, own, columns, WIDTH, WHOLE)
        g_ = _row(g, own, columns, WIDTH, WHOLE)
        sum_ = tl.zeros_like(a_)
        own_share = tl.load(first_share + own)
        start = walk * per_walk
        end = tl.minimum(start + per_walk, num_second)
        end = tl.where(own_share != 0.0, end, start)
        for j in range(start, end):
            other = example * num_second + j
            share = tl.load(second_share + other)
            if share != 0.0:
                summand = _row(b, other, columns, WIDTH, WHOLE)
                sum_ += share * _tanh(a_ + summand + g_ * _row(h, other, columns, WIDTH, WHOLE), TANH)
        _store_row(sums, program, columns, own_share * sum_, WIDTH)
