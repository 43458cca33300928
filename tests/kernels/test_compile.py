"""torch.compile takes every public function whole, and changes no bit of it."""

import pytest
import torch

import micronet_kernels as kernels
from samples import DTYPES, draw, draw_mask

ENDS = torch.tensor([-0.5, 0.75])
# Not operators on tensors.
NOT_COMPILED = {
    "register_flop_formulas",
    "Scheme",
    # Blocks decide while they run what they compute.
    "ConvCall",
    "LazyTensor",
    "Learned",
    "PendingTensor",
    "QuantizedInput",
    "QuantizedWeights",
    "batch_norm",
    "extremes",
    "is_channels_last",
    "is_eager",
    "is_finite",
    "position_means",
    "quantize_input",
    "quantize_input_by_step",
    "conv2d_of_integers",
    "conv2d_of_nonfinite",
    "conv2d_of_stored",
    "scale_of_range",
    "scaled_sums",
    "with_gradient_of",
    "RECOMPUTED",
    "recompute_in_backward",
    # Of evaluation, in float32 only; tests/test_exact_evaluation.py.
    "conv2d_deterministic",
    "linear_deterministic",
    "hardsigmoid",
    "hardswish",
    "sigmoid",
    "swish",
    "available_backends",
    "bits_of_levels",
    "fits_32_bits",
    "levels_of_bits",
    "use_backend",
    "kept_output_bytes",
    "limit_kept_outputs",
}
FIVES = torch.tensor([0, 1, 2, 3, 4, 4, 3, 2], dtype=torch.uint8)
HALF = torch.tensor([0b1010_1010], dtype=torch.uint8)


def _observed_and_moved(x, ends, ema, moved, step):
    y, found = kernels.fake_quant_per_tensor_observed(x, ends, step, 16)
    kernels.move_range_(found.detach(), ema, moved, step, 0.9)
    return y, found


def _updated(x, ema, moved, step):
    kernels.update_range_(x, ema, moved, step, 0.9)
    return x * 2


def _state():
    return [torch.zeros(2), torch.zeros(2), torch.tensor([3])]


# Public function -> a function of fresh arguments, and those arguments for a generator and dtype.
CASES = {
    "update_range_": (_updated, lambda r, d: [draw(r, 65, dtype=d), *_state()]),
    "move_range_": (
        lambda found, *state: kernels.move_range_(found, *state, 0.9),
        lambda r, d: [draw(r, 2), *_state()],
    ),
    "fake_quant_per_tensor": (
        lambda x: kernels.fake_quant_per_tensor(x * 1.5, ENDS, 16) * 2,
        lambda r, d: [draw(r, 2, 3, 4, 5, dtype=d).requires_grad_()],
    ),
    "fake_quant_per_tensor_observed": (
        _observed_and_moved,
        lambda r, d: [draw(r, 65, dtype=d).requires_grad_(), ENDS.clone(), *_state()],
    ),
    "quantize_per_tensor": (
        lambda x: kernels.quantize_per_tensor(x, ENDS, 16),
        lambda r, d: [draw(r, 65, dtype=d)],
    ),
    "dequantize_per_tensor": (
        lambda codes: kernels.dequantize_per_tensor(codes, ENDS, 15, 16),
        lambda r, d: [FIVES],
    ),
    "fake_quant_per_channel": (
        lambda w, mask: kernels.fake_quant_per_channel(w, 16, mask),
        lambda r, d: [draw(r, 5, 9, dtype=d).requires_grad_(), draw_mask(r, (45,))],
    ),
    "fake_quant_weights": (
        lambda v, w, mask: kernels.fake_quant_weights([v, w], [16, 5], [mask, None]),
        lambda r, d: [
            draw(r, 5, 9, dtype=d).requires_grad_(),
            draw(r, 3, 7, dtype=d).requires_grad_(),
            draw_mask(r, (45,)),
        ],
    ),
    "quantize_per_channel": (
        lambda w: kernels.quantize_per_channel(w, 16, scheme=kernels.Scheme.DISTILLER_SYMMETRIC),
        lambda r, d: [draw(r, 5, 9, dtype=d)],
    ),
    "fake_quant_learned_step": (
        lambda x, step, mask: kernels.fake_quant_learned_step(
            x, step, torch.full_like(step, -8.0), 16, mask, 0.5
        ),
        lambda r, d: [
            draw(r, 5, 9, dtype=d).requires_grad_(),
            torch.full((5,), 0.25).requires_grad_(),
            draw_mask(r, (45,)),
        ],
    ),
    "pack_codes": (lambda codes: kernels.pack_codes(codes, 5), lambda r, d: [FIVES]),
    "unpack_codes": (lambda packed: kernels.unpack_codes(packed, 15, 16), lambda r, d: [FIVES]),
    "pack_bits": (lambda x: kernels.pack_bits(x > 0), lambda r, d: [draw(r, 65, dtype=d)]),
    "unpack_bits": (lambda bits: kernels.unpack_bits(bits, 61), lambda r, d: [FIVES]),
    "count_bits": (lambda bits: kernels.count_bits(bits, 61), lambda r, d: [FIVES]),
    "compact_by_bits": (
        lambda x: kernels.compact_by_bits(x, HALF, 4),
        lambda r, d: [draw(r, 8, dtype=d)],
    ),
    "expand_by_bits": (
        lambda x: kernels.expand_by_bits(x, HALF, 8),
        lambda r, d: [draw(r, 4, dtype=d)],
    ),
    "count_nonzero": (kernels.count_nonzero, lambda r, d: [draw(r, 5, 9, dtype=d)]),
    "count_nonzero_per_channel": (
        kernels.count_nonzero_per_channel,
        lambda r, d: [draw(r, 5, 9, dtype=d)],
    ),
    "smallest_magnitude_mask": (
        lambda w: kernels.smallest_magnitude_mask(w, 20),
        lambda r, d: [draw(r, 5, 9, dtype=d)],
    ),
}


def _outputs_and_gradients(run, arguments):
    """What a call returns, what it leaves in its arguments, and the gradients to them."""
    arguments = [a.detach().clone().requires_grad_(a.requires_grad) for a in arguments]
    output = run(*arguments)
    outputs = (
        [] if output is None else list(output) if isinstance(output, tuple | list) else [output]
    )
    wanted = [a for a in arguments if a.requires_grad]
    found = [*outputs, *arguments]
    if wanted:
        loss = sum((o.float() ** 2).sum() for o in outputs if o.requires_grad)
        found += torch.autograd.grad(loss, wanted)
    return [t.detach() for t in found]


def _check(name, rng, dtype, same, backend):
    run, make = CASES[name]
    arguments = make(rng, dtype)
    expected = _outputs_and_gradients(run, arguments)
    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True)
    for ours, eager in zip(_outputs_and_gradients(compiled, arguments), expected, strict=True):
        same(ours, eager)


def test_no_public_function_is_forgotten():
    assert set(CASES) == set(kernels.__all__) - NOT_COMPILED


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("name", CASES)
def test_compiled_whole_it_gives_the_same_bits(rng, same, name, dtype):
    _check(name, rng, dtype, same, "aot_eager")


def test_one_compilation_serves_other_sizes(rng, same):
    def run(x):
        return kernels.fake_quant_per_tensor(x, ENDS, 16)

    torch._dynamo.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (64, 65, 997):
        x = draw(rng, size)
        same(compiled(x), run(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its other parts
def test_inductor_calls_the_operator_as_it_is(rng, same):
    run = torch.compile(
        lambda x: kernels.fake_quant_per_tensor(x, ENDS, 16), backend="inductor", fullgraph=True
    )
    for x in (draw(rng, 2, 3, 4, 5), draw(rng, 2, 3, 4, 5).to(memory_format=torch.channels_last)):
        arguments = [x.requires_grad_()]
        eager = _outputs_and_gradients(
            lambda x: kernels.fake_quant_per_tensor(x, ENDS, 16), arguments
        )
        torch._dynamo.reset()
        for ours, expected in zip(_outputs_and_gradients(run, arguments), eager, strict=True):
            same(ours, expected)
