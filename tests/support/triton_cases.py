"""Arguments at the edges of the Triton kernels' tiles, and a process of its own for Python."""

import os
import subprocess
import sys
from itertools import cycle

import torch

import micronet_kernels as kernels
import norm_cases
from micronet_kernels import ops
from micronet_kernels.scheme import Scheme, code_bytes, code_group
from samples import (
    NAN,
    NOTHING,
    RANGES,
    SCHEMES,
    draw,
    draw_ends,
    draw_mask,
    draw_words,
    levels_for,
    special,
)
from triton_block_cases import (
    blocks_with,
    coding,
    convolutions,
    everywhere,
    factors,
    float_convolutions,
    gate,
    gradients_with,
    learned,
    linears,
    moments,
    own_dtype,
    values_of_convolutions,
)

SMALL = [1, 7, 8, 9, 997]
LEVELS = [2, 5, 16, 256]


def around(tile):
    return [tile - 1, tile, tile + 1]


def quantizers():
    """Each scheme with each number of levels, in turn, without end."""
    return cycle([(levels_for(s, n), int(s)) for n in LEVELS for s in SCHEMES])


# A program of activations takes 2048 elements.
def activations(rng, dtype, sizes):
    """Finite numbers of every kind, all bit patterns, and images in several memory orders."""
    for size in sizes or [*SMALL, *around(2048), 6151]:
        x = draw(rng, size, dtype=dtype)
        finite = special(dtype).nan_to_num(posinf=1.0, neginf=-1.0)
        x[: len(finite)] = finite[:size]
        yield x
        # Within a program, and where two of them have a part each.
        if size in (9, 2049):
            yield draw_words(rng, size, dtype=dtype)
    image = draw(rng, 2, 5, 7, 4, dtype=dtype)
    yield image.contiguous(memory_format=torch.channels_last)
    yield image.transpose(1, 3)
    yield draw(rng, 64, dtype=dtype)[1:]
    yield torch.full((33,), -0.0, dtype=dtype)
    yield draw(rng, dtype=dtype)


def state(rng, step):
    return torch.randn(2, generator=rng), torch.randn(2, generator=rng), torch.tensor([step])


def update_range(rng, dtype, sizes):
    for step, x in enumerate(activations(rng, dtype, sizes)):
        yield x, *state(rng, step), 0.9
    yield x, *torch.zeros(2, 2), torch.tensor([0]), 0.999


def move_range(rng, dtype, sizes):
    for step in (0, 1, 2, 3, 100, 99_999, 2**40):
        for decay in (0.0, 0.3, 0.99, 1 - 2**-24):
            yield draw_ends(rng), *state(rng, step), decay
    for ends in RANGES:
        yield torch.tensor(ends), *state(rng, 5), 0.99


def fake_quant_activation(rng, dtype, sizes, schemes=SCHEMES):
    choice = quantizers()
    for x in activations(rng, dtype, sizes):
        yield x, draw_ends(rng), *next(choice)
    for ends in [] if sizes else RANGES:
        for _ in schemes:
            yield draw_words(rng, 41, dtype=dtype), torch.tensor(ends), *next(choice)


def quantize_activation(rng, dtype, sizes):
    """One scheme for each range: every kernel makes its quantizer by the same lines."""
    return fake_quant_activation(rng, dtype, sizes, SCHEMES[:1])


def observed(rng, dtype, sizes):
    steps = cycle([0, 7])
    for x, ends, *rule in quantize_activation(rng, dtype, sizes):
        yield x, ends, torch.tensor([next(steps)]), *rule


def dequantize_activation(rng, dtype, sizes):
    choice = quantizers()
    for size in sizes or [0, *SMALL, *around(2048)]:
        for ends in [draw_ends(rng)] if sizes else [draw_ends(rng), *map(torch.tensor, RANGES)]:
            levels, scheme = next(choice)
            yield _packed(rng, size, levels), ends, size, levels, scheme, dtype
    # Not compiled: compiled kernels are looked through for what rounds, and here nothing does.
    for size in [] if sizes else SMALL:
        yield _packed(rng, size, 200), torch.tensor([0.1, -9.0]), size, 200, Scheme.LEARNED, dtype


def _packed(rng, size, levels):
    return torch.randint(256, (code_bytes(size, levels),), generator=rng, dtype=torch.uint8)


def weights(rng, dtype, sizes, several=(6, 33)):
    """Rows with zeros, equal numbers, all pruned, NaN and infinity; masks that cut bytes."""
    for size in sizes or [1, 9, *around(32), *around(1024)]:
        for channels in several if size == 9 else several[:1]:
            w = draw(rng, channels, size, dtype=dtype)
            w[:1], w[2:3], w[5:6] = 0.0, 0.7, -1.5
            mask = torch.rand(channels, size, generator=rng) < 0.6
            mask[3:4] = False
            yield w, kernels.pack_bits(mask)
            w = w.clone()
            w[1:4] = draw_words(rng, *w[1:4].shape, dtype=dtype)
            w[4:5, -1] = NAN
            yield w, NOTHING
    yield draw(rng, 5, dtype=dtype), draw_mask(rng, (5,))
    yield draw(rng, 4, 3, 3, 3, dtype=dtype), draw_mask(rng, (4, 3, 3, 3))


def fake_quant_weight(rng, dtype, sizes):
    choice = quantizers()
    for w, mask in weights(rng, dtype, sizes):
        yield w, mask, *next(choice)


def weight_lists(rng, dtype, sizes):
    found = list(weights(rng, dtype, sizes or [9, 33, 1025], several=[6]))
    rules = [levels for (levels, _), _ in zip(quantizers(), found, strict=False)]
    yield [w for w, _ in found], [mask for _, mask in found], [max(n, 3) for n in rules], 2


def gradient_lists(rng, dtype, sizes):
    for grads, masks, _, _ in weight_lists(rng, dtype, sizes):
        yield grads, masks


def selections(rng, dtype, sizes):
    for x in activations(rng, dtype, sizes):
        yield x, draw_mask(rng, x.shape)
    yield torch.ones(0, dtype=dtype), NOTHING


def learned_steps(rng, dtype, sizes):
    for levels, (x, mask) in zip(cycle(LEVELS), selections(rng, dtype, sizes), strict=False):
        step = torch.rand(1, generator=rng) + 0.05
        yield x, mask, step, torch.tensor([-float(levels // 2)]), levels, 0.3
    for w, mask in weights(rng, dtype, sizes or [9, 2049], several=[4]):
        step = torch.rand(len(w), generator=rng) + 0.05
        yield w, mask, step, torch.randint(-9, 1, (len(w),), generator=rng).float(), 16, 1.7
    for step in [] if sizes else [-0.5, 0.0, 1e-40, 3e38, NAN]:
        yield (
            draw_words(rng, 41, dtype=dtype),
            NOTHING,
            torch.tensor([step]),
            torch.zeros(1),
            5,
            1.0,
        )


def learned_step_gradients(rng, dtype, sizes):
    largest = sizes[-1] if sizes else 6151
    for arguments in learned_steps(rng, dtype, sizes):
        x = arguments[0]
        if x.numel() in (0, 1, 41, 280, largest) or x.dim() == 2:
            yield torch.empty_like(x).copy_(draw(rng, *x.shape, dtype=dtype)), *arguments
    for size in [] if sizes else around(4096):
        x, grad = (draw(rng, size, dtype=dtype) for _ in range(2))
        yield grad, x, NOTHING, torch.tensor([0.3]), torch.zeros(1), 16, 0.1


def codes(rng, dtype, sizes):
    for levels in [*LEVELS, 3, 6, 11, 17]:
        group, _ = code_group(levels)
        for size in sizes or [0, 1, 7, 8, 997, *around(1024 * group)]:
            yield torch.randint(levels, (size,), generator=rng, dtype=torch.uint8), levels


def packed_codes(rng, dtype, sizes):
    for found, levels in codes(rng, dtype, sizes):
        yield kernels.pack_codes(found, levels), found.numel(), levels


def flags(rng, dtype, sizes):
    for size in sizes or [0, *SMALL, *around(4096), 9001]:
        for share in (0.0, 0.5, 1.1):
            yield (torch.rand(size, generator=rng) < share,)


def bits(rng, dtype, sizes):
    for (found,) in flags(rng, dtype, sizes):
        # What lies beyond the last flag is not read.
        yield kernels.pack_bits(found) | kernels.pack_bits(found) << 7, found.numel()


def compactions(rng, dtype, sizes):
    for (found,) in flags(rng, dtype, sizes):
        for values in (
            draw_words(rng, found.numel(), dtype=dtype),
            torch.randint(-128, 128, found.shape, generator=rng).to(torch.int8),
        ):
            yield values, kernels.pack_bits(found), int(found.sum())


def expansions(rng, dtype, sizes):
    for values, found, count in compactions(rng, dtype, sizes):
        yield values[:count].contiguous(), found, values.numel()


def sparse(rng, dtype, sizes):
    for size in sizes or [*SMALL, *around(4096)]:
        w = draw_words(rng, size, dtype=dtype)
        w[torch.rand(size, generator=rng) < 0.5] = 0.0
        w[::7] = -0.0
        yield (torch.stack([w, w.flip(0)]),)
    yield (torch.tensor([0.0, NAN, -0.0, 1e-40], dtype=torch.float32).to(dtype),)
    yield (torch.ones(0, 3, dtype=dtype),)
    yield (torch.ones(3, 0, dtype=dtype),)


def rankings(rng, dtype, sizes):
    for size in sizes or [0, 1, 9, *around(4096), 9001]:
        for w in (
            draw(rng, size, dtype=dtype),
            draw_words(rng, size, dtype=dtype).nan_to_num(nan=0.5),
            (torch.randint(-3, 4, (size,), generator=rng) / 4).to(dtype),
        ):
            yield w, size // 3
        for k in {0, size}:
            yield w, k


# Operators that have kernels for the CPU alone.
ON_CPU_ALONE = ["depthwise_gradient", "block_gradient_kept", "norm_gradient_"]
# Operator -> its arguments for a dtype, at sizes of the operator's own or at those that are given.
OPS = [op for op in ops.OPS if op not in ON_CPU_ALONE]
# Sums in float64 whose order is free.
FREE_SUMS = ["channel_moments", "block_gradient_sums", "block_step_sums"]

CASES = {
    "update_range_": update_range,
    "move_range_": move_range,
    "fake_quant_per_tensor": fake_quant_activation,
    "fake_quant_per_tensor_observed": observed,
    "fake_quant_per_tensor_backward": selections,
    "quantize_per_tensor": quantize_activation,
    "dequantize_per_tensor": dequantize_activation,
    "fake_quant_per_channel": fake_quant_weight,
    "fake_quant_weights": weight_lists,
    "quantize_per_channel": fake_quant_weight,
    "mask_gradient": selections,
    "mask_gradients": gradient_lists,
    "fake_quant_learned_step": learned_steps,
    "fake_quant_learned_step_backward": learned_step_gradients,
    "pack_codes": codes,
    "unpack_codes": packed_codes,
    "pack_bits": flags,
    "unpack_bits": bits,
    "count_bits": bits,
    "compact_by_bits": compactions,
    "expand_by_bits": expansions,
    "count_nonzero": sparse,
    "count_nonzero_per_channel": sparse,
    "smallest_magnitude_mask": rankings,
    "quant_conv2d": convolutions,
    "quant_conv2d_values": values_of_convolutions,
    "channel_moments": moments,
    "block_extremes": blocks_with("block_extremes", gate),
    "block_values": blocks_with("block_values", gate),
    "block_codes": blocks_with("block_codes", gate, coding),
    "block_means": blocks_with("block_means"),
    "block_gradient_sums": gradients_with("block_gradient_sums", coding, gate),
    "block_gradient": gradients_with("block_gradient", everywhere, factors, own_dtype),
    "block_gate_gradient": gradients_with("block_gate_gradient", gate, coding),
    "block_step_sums": gradients_with("block_step_sums", gate, learned),
    "conv2d_deterministic": float_convolutions,
    "linear_deterministic": linears,
    **norm_cases.CASES,
}

WITHOUT_FLOATS = [
    "move_range_",
    "pack_codes",
    "unpack_codes",
    "pack_bits",
    "unpack_bits",
    "count_bits",
    "conv2d_deterministic",
    "linear_deterministic",
    *norm_cases.CASES,
]


def run_python(arguments, **environment):
    """Runs Python on this checkout; its output, or a failure that shows it."""
    paths = os.pathsep.join(str(p) for p in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
