"""On a device every operator is as on the CPU. On CUDA's nothing waits, and graphs are captured."""

from itertools import product

import pytest
import torch

import conv_samples
import micronet_kernels as kernels
from devices import DEVICE, on_the_device
from micronet_kernels import dispatch
from micronet_kernels.scheme import Function, code_bytes
from samples import DTYPES, draw, draw_mask, fresh_state
from triton_cases import CASES, FREE_SUMS, OPS

OP = torch.ops.micronet
ENDS, LEARNED = torch.tensor([-1.0, 1.5]), torch.tensor([0.1, -9.0])
STEPS, ZERO = torch.tensor([0.1, 0.2, 0.05]), torch.tensor([0.0, -8.0, -15.0])
# Scale, shift and an absent operand of eight channels that change nothing.
UNIT_BLOCK = ((1.0, 8), (0.0, 8), (0.0, 0))
SIZES = [1, 7, 8, 9, 255, 257, 4095, 4097, 300_007]


# A build without nvcc has Triton's alone.
BACKENDS = [
    name
    for name in ("native", "triton")
    if "update_range_" in dispatch.TABLE[name].get(DEVICE.type, {})
]


@pytest.fixture(params=BACKENDS)
def device_backend(request):
    return request.param


@pytest.fixture
def as_on_the_cpu(device_backend, same):
    """Runs an operator on the CPU's reference and on the device, and compares."""

    def compare(function, *arguments):
        moved = [on_the_device(a) for a in arguments]
        with kernels.use_backend("reference"):
            expected = function(*arguments)
        with kernels.use_backend(device_backend):
            found = function(*moved)
        if not isinstance(expected, (tuple, list)):
            expected, found = [expected], [found]
        for ours, right in zip(found, expected, strict=True):
            same(ours.cpu(), right)

    return compare


@pytest.mark.device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_activations(as_on_the_cpu, rng, size, dtype):
    x, count = draw(rng, size).to(dtype), torch.ones(1, dtype=torch.int64)
    bits = draw_mask(rng, (size,))
    for levels, scheme in ((16, 0), (5, 1), (16, 2), (256, 0), (255, 3)):
        as_on_the_cpu(OP.fake_quant_per_tensor, x, ENDS, levels, scheme)
        for step in (count, count - 1):
            as_on_the_cpu(OP.fake_quant_per_tensor_observed, x, ENDS, step, levels, scheme)
        as_on_the_cpu(OP.quantize_per_tensor, x, ENDS, levels, scheme)
    for levels in (16, 256):
        codes = torch.randint(256, (code_bytes(size, levels),), generator=rng, dtype=torch.uint8)
        for ends, scheme in ((ENDS, 0), (LEARNED, 4)):
            as_on_the_cpu(OP.dequantize_per_tensor, codes, ends, size, levels, scheme, dtype)
    as_on_the_cpu(OP.fake_quant_per_tensor_backward, x, bits)

    def updated(x):
        state = [t.to(x.device) for t in fresh_state()]
        for _ in range(3):
            OP.update_range_(x, *state, 0.99)
        return state

    as_on_the_cpu(updated, x)


@pytest.mark.device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 1), (3, 9), (3, 25), (3, 1280), (3, 5000)])
def test_weights_and_learned_steps(as_on_the_cpu, rng, shape, dtype):
    w, grad, mask = draw(rng, *shape).to(dtype), draw(rng, *shape).to(dtype), draw_mask(rng, shape)
    for scheme, levels in product((0, 1, 2, 3), (16, 256)):
        as_on_the_cpu(OP.fake_quant_per_channel, w, mask, levels, scheme)
        as_on_the_cpu(OP.quantize_per_channel, w, mask, levels, scheme)
    as_on_the_cpu(lambda w, m: OP.fake_quant_weights([w, w], [m, m[:0]], [16, 5], 0), w, mask)
    as_on_the_cpu(lambda g, m: OP.mask_gradients([g, g], [m, m[:0]]), grad, mask)
    for step, zero in ((STEPS, ZERO), (STEPS[:1], ZERO[1:2])):
        backward = OP.fake_quant_learned_step_backward
        as_on_the_cpu(backward, grad, w, mask, step, zero, 16, 0.3)
        as_on_the_cpu(OP.fake_quant_learned_step, w, mask, step, zero, 16, 0.3)


@pytest.mark.device
@pytest.mark.parametrize("size", SIZES)
def test_bits_codes_and_selection(as_on_the_cpu, rng, size):
    w, bits = draw(rng, size).round(decimals=1), draw_mask(rng, (size,))
    ones = int(kernels.count_bits(bits, size))
    as_on_the_cpu(lambda w: OP.smallest_magnitude_mask(w, size // 3), w)
    as_on_the_cpu(lambda b: OP.count_bits(b, size), bits)
    as_on_the_cpu(lambda b: OP.pack_bits(OP.unpack_bits(b, size)), bits)
    as_on_the_cpu(lambda w, b: OP.compact_by_bits(w, b, ones), w, bits)
    as_on_the_cpu(lambda k, b: OP.expand_by_bits(k, b, size), w[:ones].contiguous(), bits)
    as_on_the_cpu(OP.count_nonzero, w)
    for levels in (2, 3, 5, 16, 17, 256):
        codes = torch.randint(0, levels, (size,), generator=rng, dtype=torch.uint8)
        as_on_the_cpu(OP.pack_codes, codes, levels)
        as_on_the_cpu(OP.unpack_codes, OP.pack_codes(codes, levels), size, levels)


@pytest.mark.device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_operator(device_backend, same, rng, op, dtype):
    """Its outputs, and what it writes into its arguments."""
    for arguments in CASES[op](rng, dtype, None):
        moved = [on_the_device(a) for a in arguments]
        with kernels.use_backend("reference"):
            expected = outputs(op, arguments)
        with kernels.use_backend(device_backend):
            found = outputs(op, moved)
        for ours, right in zip(found, expected, strict=True):
            if op in FREE_SUMS and right.dtype == torch.float64:
                torch.testing.assert_close(ours.cpu(), right, rtol=1e-10, atol=1e-7, equal_nan=True)
            else:
                same(ours.cpu(), right)


def outputs(op, arguments):
    """Calls an operator and lists the tensors that it returns and those that it was given."""
    found = getattr(OP, op)(*arguments)
    if isinstance(found, torch.Tensor):
        found = [found]
    lists = [a if isinstance(a, list) else [a] for a in arguments]
    return [*(found or ()), *(a for given in lists for a in given if isinstance(a, torch.Tensor))]


# Below 2^-40 both functions are affine, from 128 on constants or the identity.
EXPONENTS = range(127 - 40, 127 + 7)


@pytest.mark.gpu
@pytest.mark.parametrize("function", [Function.SWISH, Function.SIGMOID], ids=str)
def test_functions_of_every_number(device_backend, function):
    """Values and slopes: kernels divide in steps of their own."""
    scale, shift, nothing = (torch.full((8,), v, device="cuda")[:n] for v, n in UNIT_BLOCK)
    k = torch.tensor([[1.0], [0.0], [0.0]], device="cuda").expand(3, 8).contiguous()
    mantissas = torch.arange(2**23, dtype=torch.int32, device="cuda")
    for exponent in EXPONENTS:
        words = mantissas | exponent << 23
        z = torch.stack([words.view(torch.float32), -words.view(torch.float32)])
        acc = z.view(2, -1, 1, 8).permute(0, 3, 1, 2)
        affine = acc, scale, shift, int(function)
        found = []
        for name in (device_backend, "reference"):
            with kernels.use_backend(name):
                ones = torch.ones_like(acc)
                everywhere = nothing, 2, 0
                slopes = OP.block_gradient(ones, *affine, *everywhere, nothing, k, ones.dtype)
                found.append((OP.block_values(*affine, nothing), slopes))
        for ours, right in zip(*found, strict=True):
            assert torch.equal(ours.view(torch.int32), right.view(torch.int32)), exponent


@pytest.mark.device
@pytest.mark.parametrize("levels,weight_levels", [(16, 16), (256, 16), (256, 256)])
def test_sums_of_whole_numbers(device_backend, rng, levels, weight_levels):
    """The same integers from whatever algorithm the device's library takes."""
    x = torch.randint(0, levels, (4, 64, 14, 14), generator=rng).float()
    w = torch.randint(
        -weight_levels // 2, weight_levels // 2, (32, 64, 3, 3), generator=rng
    ).float()
    scales = torch.rand((), generator=rng) + 0.5, torch.rand(32, generator=rng) + 0.5
    call = kernels.ConvCall(levels, weight_levels, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    operands = x / scales[0], scales[0], w / scales[1][:, None, None, None], scales[1]
    expected = kernels.conv2d_of_integers(*operands, None, call).plain()
    with kernels.use_backend(device_backend):
        found = kernels.conv2d_of_integers(*(t.to(DEVICE) for t in operands), None, call).plain()
    assert torch.equal(found.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("op", [op for op in conv_samples.SAMPLES if op in OPS])
def test_convolutions_and_blocks_do_not_wait(device_backend, op):
    for case in conv_samples.SAMPLES[op](torch.float32):
        arguments = [on_the_device(a) for a in case]
        with kernels.use_backend(device_backend):
            getattr(OP, op)(*arguments)
            torch.cuda.set_sync_debug_mode("error")
            try:
                getattr(OP, op)(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def training_step(x, w, state, grad):
    kernels.update_range_(x.detach(), *state, 0.99)
    y = kernels.fake_quant_per_tensor(x, state[1], 16)
    w_hat = kernels.fake_quant_weights([w], [16], [None])[0]
    return torch.autograd.grad([y, w_hat], [x, w], [grad, torch.ones_like(w)])


@pytest.fixture
def operands(rng):
    x, grad = draw(rng, 4, 8, 16, 16).cuda().requires_grad_(), draw(rng, 4, 8, 16, 16).cuda()
    return x, draw(rng, 6, 40).cuda().requires_grad_(), [t.cuda() for t in fresh_state()], grad


@pytest.mark.gpu
def test_nothing_waits_for_the_device(device_backend, operands):
    with kernels.use_backend(device_backend):
        training_step(*operands)
        torch.cuda.set_sync_debug_mode("error")
        try:
            training_step(*operands)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_graph_can_be_captured(device_backend, operands):
    x, w, state, grad = operands
    with kernels.use_backend(device_backend):
        training_step(*operands)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = training_step(*operands)
        for tensor in state:
            tensor.zero_()
        for _ in range(3):
            graph.replay()
        expected_state = [t.cuda() for t in fresh_state()]
        for _ in range(3):
            expected = training_step(x, w, expected_state, grad)
    for ours, right in zip([*state, *captured], [*expected_state, *expected], strict=True):
        assert torch.equal(ours, right)
