"""What the operators keep between forward and backward: a bit an element, or what was there."""

import pytest
import torch

import micronet_kernels as kernels
from samples import DTYPES, draw, draw_mask, layouts

ENDS, STEP = torch.tensor([-1.0, 1.0]), torch.tensor([1])

# Each gives the output of one operator for activations.
ACTIVATION_OPS = {
    "fake_quant_per_tensor": lambda x: kernels.fake_quant_per_tensor(x, ENDS, 16),
    "fake_quant_per_tensor_observed": lambda x: kernels.fake_quant_per_tensor_observed(
        x, ENDS, STEP, 16
    )[0],
}


def saved_by(run):
    """The memory kept for backward, by address and size, and the output."""
    saved = {}

    def keep(t):
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = run()
    return saved, output


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 8, 9, 1001, 65_536])
@pytest.mark.parametrize("name", ACTIVATION_OPS)
def test_an_activation_keeps_one_bit_an_element(backend, rng, name, size, dtype):
    x = draw(rng, size, dtype=dtype).requires_grad_()
    saved, y = saved_by(lambda: ACTIVATION_OPS[name](x))
    assert sum(saved.values()) == -(-size // 8)
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", ACTIVATION_OPS)
def test_layouts_keep_no_more(backend, rng, name):
    for x in layouts(rng).values():
        if x.numel():
            x = x.detach().requires_grad_()
            saved, _ = saved_by(lambda x=x: ACTIVATION_OPS[name](x))
            assert sum(saved.values()) == -(-x.numel() // 8)


@pytest.mark.parametrize("name", ACTIVATION_OPS)
def test_nothing_is_kept_without_a_gradient(backend, rng, name):
    x = draw(rng, 65)
    assert not saved_by(lambda: ACTIVATION_OPS[name](x))[0]
    with torch.no_grad():
        assert not saved_by(lambda: ACTIVATION_OPS[name](x.requires_grad_()))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_keep_their_masks_and_no_copy(backend, rng, dtype):
    weights = [draw(rng, *shape, dtype=dtype).requires_grad_() for shape in ((5, 9), (7, 65))]
    masks = [draw_mask(rng, w.shape) for w in weights]
    saved, _ = saved_by(lambda: kernels.fake_quant_per_channel(weights[0], 16, masks[0]))
    assert set(saved) == {masks[0].data_ptr()}
    saved, _ = saved_by(lambda: kernels.fake_quant_weights(weights, [16, 5], masks))
    assert set(saved) == {mask.data_ptr() for mask in masks}
    saved, _ = saved_by(lambda: kernels.fake_quant_weights(weights, [16, 5], [None, None]))
    assert not sum(saved.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_learned_steps_keep_their_inputs_and_no_copy(backend, rng, dtype):
    x = draw(rng, 5, 9, dtype=dtype).requires_grad_()
    step = torch.full((5,), 0.25).requires_grad_()
    zero, mask = torch.full((5,), -8.0), draw_mask(rng, (5, 9))
    saved, y = saved_by(lambda: kernels.fake_quant_learned_step(x, step, zero, 16, mask))
    assert set(saved) == {t.data_ptr() for t in (x, step, zero, mask)}
    assert y.data_ptr() not in saved


@pytest.mark.parametrize("name", ACTIVATION_OPS)
def test_the_input_may_be_freed_or_changed_before_the_backward_pass(backend, rng, name):
    stored = draw(rng, 65)
    x = stored.clone().requires_grad_()
    y = ACTIVATION_OPS[name](x)
    with torch.no_grad():
        x.zero_()
    y.sum().backward()
    assert torch.equal(x.grad, ((stored >= -1) & (stored <= 1)).float())
