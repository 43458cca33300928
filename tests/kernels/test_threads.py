"""The operators run on torch's own threads: one runtime, as many threads as torch was told."""

import subprocess
import sys

import pytest
import torch

import micronet_kernels as kernels
from samples import BIG, draw, draw_mask, fresh_state

OP = torch.ops.micronet

# Every operator that is worth a thread, on a tensor large enough for several.
ALL_OPS = """
import torch
import micronet_kernels as kernels

def run_all():
    x, ends, step = torch.randn(1_200_000), torch.tensor([-1.0, 1.0]), torch.tensor([1])
    w = x.view(1000, 1200)
    with kernels.use_backend("native"):
        kernels.fake_quant_per_tensor(x, ends, 16)
        _, found = kernels.fake_quant_per_tensor_observed(x, ends, step, 16)
        kernels.update_range_(x, torch.zeros(2), torch.zeros(2), step, 0.9)
        codes, inside, _ = kernels.quantize_per_tensor(x, ends, 16)
        kernels.dequantize_per_tensor(codes, ends, x.numel(), 16)
        mask = kernels.smallest_magnitude_mask(w, 400_000)
        kernels.fake_quant_weights([w, w], [16, 5], [mask, None])
        codes, _, _ = kernels.quantize_per_channel(w, 16, mask)
        kernels.unpack_codes(kernels.pack_codes(codes, 16), x.numel(), 16)
        kernels.pack_bits(kernels.unpack_bits(mask, x.numel()))
        kernels.count_nonzero_per_channel(w)
        kernels.compact_by_bits(codes, mask, 800_000)
        torch.ops.micronet.mask_gradients([w], [mask])
        step, zero = torch.full((1000,), 0.2), torch.full((1000,), -8.0)
        kernels.fake_quant_learned_step(w, step, zero, 16, mask)
        torch.ops.micronet.fake_quant_learned_step_backward(w, w, mask, step, zero, 16, 1.0)

def tasks():
    import os
    return len(os.listdir("/proc/self/task"))
"""

# A torch operator of the same size first, so that torch has started what it starts.
ONE_AND_TWO = """
for threads in (1, 2):
    torch.set_num_threads(threads)
    before = tasks()
    torch.randn(1_200_000).mul(2).sum()
    started = tasks()
    run_all()
    print(before, started, tasks())
with open("/proc/self/maps") as maps:
    files = {line.split()[-1] for line in maps if "/" in line}
print(*sorted(f for f in files if any(n in f for n in ("libgomp", "libiomp", "libomp"))))
"""


@pytest.fixture(scope="module")
def answers():
    """What a new process says: its threads with one and with two of torch's, then its runtimes."""
    done = subprocess.run(
        [sys.executable, "-c", ALL_OPS + ONE_AND_TWO], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_one_openmp_runtime_is_in_the_process(answers):
    runtimes = answers[2]
    assert len(runtimes) == 1, f"{runtimes} each have threads of their own"


@pytest.mark.parametrize("threads", [1, 2])
def test_no_thread_is_started_beyond_those_of_torch(answers, threads):
    before, started, after = map(int, answers[threads - 1])
    assert after == started
    if threads == 1:
        assert after == before, "torch was told to use one thread"


def everything(x, w, mask, ends):
    """The answers of every operator that shares its work among threads."""
    state = fresh_state()
    OP.update_range_(x, *state, 0.9)
    step, zero = torch.full((w.shape[0],), 0.2), torch.full((w.shape[0],), -8.0)
    codes, inside, found = OP.quantize_per_tensor(x, ends, 16, 0)
    whole, scale, zeros = OP.quantize_per_channel(w, mask, 16, 0)
    packed = OP.pack_codes(whole.view(torch.uint8), 16)
    flags = OP.unpack_bits(inside, x.numel())
    return [
        *state,
        *(codes, inside, found, whole, scale, zeros, packed, flags),
        *OP.fake_quant_per_tensor(x, ends, 16, 0),
        *OP.fake_quant_per_tensor_observed(x, ends, torch.tensor([0]), 16, 0),
        OP.fake_quant_per_tensor_backward(x, inside),
        OP.dequantize_per_tensor(codes, ends, x.numel(), 16, 0, torch.float32),
        *OP.fake_quant_per_channel(w, mask, 5, 0),
        *OP.fake_quant_weights([w, w], [mask, mask[:0]], [16, 5], 0),
        *OP.mask_gradients([w, w], [mask, mask[:0]]),
        OP.fake_quant_learned_step(w, mask, step, zero, 16, 1.0),
        *OP.fake_quant_learned_step_backward(w, w, mask, step, zero, 16, 1.0),
        *OP.fake_quant_learned_step_backward(w, w, mask, step[:1], zero[:1], 16, 1.0),
        OP.unpack_codes(packed, w.numel(), 16),
        OP.pack_bits(flags),
        OP.count_bits(mask, w.numel()),
        OP.count_nonzero(w),
        OP.count_nonzero_per_channel(w),
        OP.smallest_magnitude_mask(w, w.numel() // 3),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(native, rng, same, dtype):
    x, ends = draw(rng, BIG, dtype=dtype), torch.tensor([-1.0, 2.0])
    w = draw(rng, 151, 1999, dtype=dtype)
    mask = draw_mask(rng, w.shape)
    before = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(everything(x, w, mask, ends))
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        for ours, expected in zip(other, answers[0], strict=True):
            same(ours, expected)


def test_operators_may_be_called_from_many_threads_at_once(native, rng, same):
    """Nothing is shared between calls; Python's lock is free while a kernel runs."""
    from concurrent.futures import ThreadPoolExecutor

    ends = torch.tensor([-1.0, 2.0])
    inputs = [draw(rng, 65_537) for _ in range(8)]
    expected = [kernels.fake_quant_per_tensor(x, ends, 16) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: kernels.fake_quant_per_tensor(x, ends, 16), inputs))
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs)
