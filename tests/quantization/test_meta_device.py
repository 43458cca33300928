"""Networks that leave the meta device: what a state dict gives back, and what it cannot."""

import copy

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from block_networks import images
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits

IMAGE = {"image_mean": (0.5, 0.4, 0.3), "image_std": (0.2, 0.3, 0.2)}
# Precision -> a buffer that is not saved, "" where all are.
PRECISIONS = {
    LayerBits(4, 4): "",
    LayerBits(4, 4, weight_step="learned", activation_step="learned"): "weight_zero_point",
}


def network(bits):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), bits))
    return model


@pytest.mark.parametrize(("bits", "unsaved"), PRECISIONS.items(), ids=["range", "learned"])
def test_a_network_without_memory_gets_it_from_a_state_dict_or_is_refused(bits, unsaved, rng):
    trained, x = network(bits), images(rng, (2, 3, 8, 8))
    trained.train()(x)
    empty = copy.deepcopy(trained).to("meta")
    if unsaved:
        with pytest.raises(RuntimeError, match=rf"no state dict holds.*unwritten: {unsaved};"):
            empty.to_empty(device="cpu")
        return
    empty.to_empty(device="cpu").load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(empty.eval()(x), trained.eval()(x))


def test_a_mask_is_not_lost(rng):
    model = network(LayerBits(4, 4))
    mask = torch.rand(model[0].weight.shape, generator=rng) > 0.5
    model[0].mask = kernels.pack_bits(mask)
    with pytest.raises(RuntimeError, match=r"QuantizedConv2d has buffers.*unwritten: mask;"):
        model.to("meta").to_empty(device="cpu")


def test_factors_of_an_image_are_not_lost():
    bits = LayerBits(4, 8, activation_step="image", **IMAGE)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    quantize.convert_(model, {"0": bits})
    with pytest.raises(RuntimeError, match=r"no state dict holds.*(factors|deviation)"):
        model.to("meta").to_empty(device="cpu")


def test_moving_with_memory_and_back_to_the_meta_device_is_as_ever(rng):
    model, x = network(LayerBits(4, 4, weight_step="learned")), images(rng, (2, 3, 8, 8))
    model.train()(x)
    with torch.no_grad():
        before = model.eval()(x)
        assert torch.equal(model.double().float().to("cpu")(x), before)
    assert all(p.is_meta for p in model.to("meta").to("meta").parameters())
