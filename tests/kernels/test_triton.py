"""The Triton kernels against the reference: on a GPU, and without one in Triton's interpreter."""

import importlib
import os
from itertools import product

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from micronet_kernels import dispatch
from micronet_kernels.backends import triton as backend
from micronet_kernels.backends.reference.learned_step import ordered_sum
from micronet_kernels.backends.triton.tiles import DEPTHWISE_TILES, PRODUCT_TILES
from samples import DTYPES, HUGE, NAN, draw, draw_ends
from triton_cases import CASES, FREE_SUMS, OPS, WITHOUT_FLOATS, state

# Kernels are interpreted or compiled as the variable says when they are defined, so that each of
# the two needs a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
on_device = pytest.mark.parametrize(
    "device", ["cpu" if INTERPRETED else pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture(autouse=True)
def silent_interpreter():
    """The interpreter computes in NumPy, which warns of every infinity and NaN."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    """One that does once what it would do at each operation of a kernel."""
    if not INTERPRETED:
        yield
        return
    from quick_interpreter import quick_interpreter

    with quick_interpreter():
        yield


def moved(value, device):
    """A copy of a tensor, or of each in a list, on the device."""
    if isinstance(value, list | tuple):
        return [moved(v, device) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    # With all of its memory, so that gaps and misaligned starts stay.
    whole = value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0)
    copy = whole.to(device, copy=True)
    return copy.as_strided(value.shape, value.stride(), value.storage_offset())


def answer(name, op, arguments, device):
    """What backend `name` returns, and leaves in the arguments where it writes, on the CPU."""
    arguments = moved(arguments, device)
    with kernels.use_backend(name):
        found = getattr(torch.ops.micronet, op).default(*arguments)
    found = found if isinstance(found, list | tuple) else [found]
    written = arguments if op.endswith("_") else []
    return moved([t for t in (*found, *written) if isinstance(t, torch.Tensor)], "cpu")


def check(same, op, arguments, device):
    expected = answer("reference", op, arguments, "cpu")
    for ours, theirs in zip(answer("triton", op, arguments, device), expected, strict=True):
        try:
            if op in FREE_SUMS:
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-7, equal_nan=True)
            else:
                same(ours, theirs)
        except AssertionError as error:
            error.add_note(f"{op}{arguments}")
            raise


FLOATS = [op for op in OPS if op not in WITHOUT_FLOATS]
# Kernels differ in the two types of two bytes by how they load and store alone: a size within a
# tile and one beyond it show that. Between the two, a few arguments do where that takes seconds.
FEW_SIZES, FEW = [9, 2049], 4


def cases(op, rng, dtype):
    """Arguments; of float32 at sizes of the operator's own, at all edges of its tiles."""
    if dtype.itemsize == 4:
        return CASES[op](rng, dtype, None)
    found = list(CASES[op](rng, dtype, FEW_SIZES))
    # Some of the first and of the last, whose numbers of levels differ.
    few = INTERPRETED and dtype == torch.bfloat16
    return found[:: max(len(found) // FEW, 1)] if few else found


@on_device
@pytest.mark.parametrize(
    ("op", "dtype"),
    [*product(FLOATS, DTYPES), *product(WITHOUT_FLOATS, [torch.float32])],
    ids=str,
)
def test_matches_the_reference(same, rng, op, dtype, device):
    for arguments in cases(op, rng, dtype):
        check(same, op, arguments, device)


@on_device
def test_programs_that_take_several_tiles(same, rng, device, monkeypatch):
    size = HUGE
    if INTERPRETED:
        size = 9001
        for stem in ("moving_range", "mask_selection"):
            module = importlib.import_module(f"{backend.__name__}.{stem}")
            monkeypatch.setattr(module, "MOST_PROGRAMS", 2)
    x, ends = draw(rng, size), draw_ends(rng)
    check(same, "update_range_", (x, *state(rng, 2), 0.9), device)
    check(same, "quantize_per_tensor", (x, ends, 16, 0), device)
    check(same, "smallest_magnitude_mask", (x, size // 3), device)
    for step in (0, 7):
        step = torch.tensor([step])
        check(same, "fake_quant_per_tensor_observed", (x, ends, step, 16, 0), device)


# The tiles of each kernel; weights and groups of a convolution over six channels that takes it.
TILED = {
    "PRODUCT_TILES": (PRODUCT_TILES, (4, 3, 3, 3), 2),
    "DEPTHWISE_TILES": (DEPTHWISE_TILES, (6, 1, 3, 3), 6),
}


@on_device
@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("table", TILED)
def test_every_tile_gives_the_same_integers(same, rng, device, monkeypatch, table, number):
    tiles, size, groups = TILED[table]
    module = importlib.import_module(f"{backend.__name__}.quant_conv")
    monkeypatch.setattr(module, table, (tiles[number],))
    codes = torch.randint(256, (2 * 6 * 7 * 5 // 2,), dtype=torch.uint8, generator=rng)
    weights, nothing = draw(rng, *size), torch.empty(0, dtype=torch.uint8)
    geometry = ([2, 6, 7, 5], [2, 1], [1, 0, 1, 1], [1, 1], groups)
    check(
        same,
        "quant_conv2d",
        (codes, draw_ends(rng), 16, 0, weights, nothing, 16, 0, torch.empty(0), *geometry),
        device,
    )


@on_device
def test_sums_of_sums_keep_the_order(same, rng, device):
    learned_step = importlib.import_module(f"{backend.__name__}.learned_step")
    for count in (2, 255, 256, 257, 4096, 4097, 9001):
        rows = draw(rng, 2, count)
        found = learned_step._sum_rows(rows.to(device), 0.3).flatten()
        same(found.cpu(), ordered_sum(rows) * torch.tensor(0.3))


REFUSED = {
    "smallest_magnitude_mask": lambda: (torch.tensor([1.0, NAN, 2.0]), 1),
    "compact_by_bits": lambda: (torch.ones(9), torch.tensor([3, 1], dtype=torch.uint8), 4),
    "expand_by_bits": lambda: (torch.ones(2), torch.tensor([3, 1], dtype=torch.uint8), 9),
}


@on_device
@pytest.mark.parametrize("op", REFUSED)
def test_refuses_in_the_words_of_the_reference(op, device):
    sentences = []
    for name in ("reference", "triton"):
        with pytest.raises(ValueError) as refusal:
            answer(name, op, REFUSED[op](), device)
        sentences.append(str(refusal.value))
    assert sentences[0] == sentences[1]


@on_device
def test_gradients_go_through_the_kernels(same, rng, device):
    x, grad, step = draw(rng, 3, 5, 7), draw(rng, 3, 5, 7), torch.tensor([0.2])
    found = []
    for name in ("reference", "triton"):
        leaves = [t.to(device).detach().requires_grad_() for t in (x, step)]
        with kernels.use_backend(name):
            zero = torch.zeros(1, device=device)
            y = kernels.fake_quant_learned_step(*leaves, zero, 16)
            y = y + kernels.fake_quant_per_tensor(leaves[0], zero.new_tensor([-1.0, 1.0]), 16)
            y.backward(grad.to(device))
        found.append([leaf.grad.cpu() for leaf in leaves])
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["fake_quant_per_tensor", "update_range_", "fake_quant_weights"])
def test_training_never_waits_for_the_device(rng, op):
    for arguments in CASES[op](rng, torch.float32, [997]):
        arguments = moved(arguments, "cuda")
        with kernels.use_backend("triton"):
            getattr(torch.ops.micronet, op).default(*arguments)
            torch.cuda.set_sync_debug_mode("error")
            try:
                getattr(torch.ops.micronet, op).default(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.interpreter
def test_the_interpreter_is_never_chosen():
    for op in OPS:
        assert "triton" in dispatch.available(op, "cpu")
        assert dispatch._choose(op, "cpu") is not backend.TABLE["cpu"][op]
