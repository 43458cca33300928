"""The methods that fake-quantize an activation, forward and backward, ours and the peers'."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import micronet_kernels as kernels
from benchmarks.harness import ours, peers
from benchmarks.harness.methods import BOTH, FORWARD, Group, Method, train_step
from benchmarks.harness.shapes import Shape, text
from benchmarks.harness.timing import Step

EXACT, FROZEN, LAST_STEP, CODES = "exact range", "frozen range", "last step's range", "codes"
TORCH_FUSED, TORCH_TENSOR, TORCH_CHANNEL = "torch fused", "torch per tensor", "torch per channel"
DISTILLER, IN_PLACE, PASSED_ON = "Distiller, eager", "eager in-place", "in-place, grad passed on"
COMPILED, COMPILED_APART, TORCHAO = "torch.compile", "torch.compile, two passes", "torchao"

# A bit an element, written forward and read backward.
BITS = 1 / 8
_SIZES = {"float32": 4, "bfloat16": 2}


def traffic(dtype: str, reads_forward: int) -> float:
    """Return the least bytes an element, forward and backward; to look for the range first is
    one more read of x."""
    size = _SIZES[dtype]
    forward = (reads_forward + 1) * size + BITS
    return forward + 2 * size + BITS


@functools.lru_cache(maxsize=4)
def inputs(shape: Shape, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """Return the input and the incoming gradient that all methods of a group share."""
    generator = torch.Generator(device).manual_seed(0)
    x, grad = (
        torch.randn(shape, generator=generator, device=device).to(getattr(torch, dtype))
        for _ in range(2)
    )
    return x.requires_grad_(), grad


def _both(
    make: Callable[[str], ours.Function], shape: Shape, dtype: str, device: str
) -> Callable[[], Step]:
    return lambda: train_step(make(device), *inputs(shape, dtype, device))


def our_methods(shape: Shape, device: str, backend: str) -> list[Method]:
    """Return what an activation may pass through in training, and the codes that are stored."""

    def method(label: str, op: str, make, reads: int, dtype: str = "float32") -> Method:
        prepare = _both(make, shape, dtype, device)
        least = traffic(dtype, reads)
        return Method(
            label, op, BOTH, dtype, backend, least, lambda: ours.on(backend, prepare()), EXACT
        )

    def codes() -> Step:
        x, ends = inputs(shape, "float32", device)[0], torch.tensor([ours.LO, ours.HI])
        ends = ends.to(device)
        return ours.on(backend, lambda: kernels.quantize_per_tensor(x, ends, ours.LEVELS))

    exact = "update_range_, fake_quant_per_tensor"
    observed = "fake_quant_per_tensor_observed, move_range_"
    return [
        method(EXACT, exact, ours.exact, 2),
        method(FROZEN, "fake_quant_per_tensor", ours.frozen, 1),
        method(LAST_STEP, observed, ours.last_step, 1),
        Method(CODES, "quantize_per_tensor", FORWARD, "float32", backend, 4 + 1 / 2 + BITS, codes),
        method(EXACT, exact, ours.exact, 2, "bfloat16"),
    ]


def torch_methods(shape: Shape, device: str) -> list[Method]:
    """Return torch's own operators."""

    def method(label: str, op: str, make, reads: int, dtype: str = "float32") -> Method:
        prepare = _both(make, shape, dtype, device)
        return Method(label, op, BOTH, dtype, "torch", traffic(dtype, reads), prepare, EXACT)

    def per_channel(device: str) -> ours.Function:
        return peers.torch_per_channel(shape[1], device)

    fused = "torch.fused_moving_avg_obs_fake_quant"
    tensor = "torch.fake_quantize_per_tensor_affine"
    channel = "torch.fake_quantize_per_channel_affine"
    return [
        method(TORCH_FUSED, fused, peers.torch_fused, 2),
        method(TORCH_TENSOR, tensor, peers.torch_per_tensor, 1),
        method(TORCH_CHANNEL, channel, per_channel, 1),
        method(TORCH_TENSOR, tensor, peers.torch_per_tensor, 1, "bfloat16"),
    ]


def other_methods(shape: Shape, device: str, with_compiled: bool) -> list[Method]:
    """Return what users write in eager operations, compile, or take from torchao."""

    def method(label: str, op: str, backend: str, least: float, prepare) -> Method:
        return Method(label, op, BOTH, "float32", backend, least, prepare, EXACT)

    def passed_on() -> Step:
        x, grad = inputs(shape, "float32", device)
        function = peers.in_place(device)
        return lambda: torch.autograd.grad(function(x), x, grad)

    def compiled(make) -> Callable[[], Step]:
        def prepare() -> Step:
            x, grad = inputs(shape, "float32", device)
            return train_step(make(x, grad), x, grad)

        return prepare

    def simple(make) -> Callable[[], Step]:
        return _both(make, shape, "float32", device)

    seen, known = traffic("float32", 2), traffic("float32", 1)
    unmasked = known - 2 * BITS
    chain = "min, max, clamp, mul, sub, round, add, div"
    in_place = "clone, mul_, sub_, round_, clamp_, add_, div_"
    torchao = "torchao IntxFakeQuantizer, per channel"
    found = [
        method(DISTILLER, chain, "torch", seen, simple(peers.distiller)),
        method(IN_PLACE, in_place, "torch", unmasked, simple(peers.in_place)),
        method(PASSED_ON, in_place, "torch", unmasked, passed_on),
        method(TORCHAO, torchao, "torchao", seen, simple(peers.torchao_per_channel)),
    ]
    if with_compiled:
        op = "observer and rounding, compiled"
        found += [
            method(COMPILED, op, "inductor", seen, compiled(peers.compiled)),
            method(COMPILED_APART, op, "inductor", seen, compiled(peers.compiled_apart)),
        ]
    return found


def group(shape: Shape, device: str, methods: list[Method]) -> Group:
    """Return the methods as a group that is timed on tensors of this shape."""
    return Group(text(shape), torch.Size(shape).numel(), methods, device)
