"""A packed network gives the logits of the network that it is of, bit for bit."""

import pytest
import torch
from torch import nn

import micronet
from devices import DEVICE
from micronet.artifact import accounting, reader
from micronet.models import architectures
from micronet.scoring.count import score_subject
from micronet.scoring.network.plan_files import load_plan
from packed_by_hand import integer_network
from packed_networks import (
    CLASSIFIER,
    FOUR,
    LEARNED,
    PRECISIONS,
    Everything,
    assert_same,
    batches_for,
    bits_of,
    compressed,
    content_of,
    network,
    packed,
    read,
)


def check(model, shape, rng):
    """Pack, read again, compare logits and what is stored with what is scored."""
    file = read(content_of(packed(model, shape)))
    again = reader.network_of(file)
    assert_same(model, again, *batches_for(rng, shape))
    own = micronet.score(model, shape[1], shape[0])
    scored = score_subject(accounting.subject(file))
    assert accounting.differences(file, scored) == []
    account = accounting.account(file)
    assert scored.storage_bits == account.payload == own.storage_bits + account.factors
    assert scored.operations == own.operations
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet20", 32),
        ("mobilenetv2_cifar", 32),
        ("efficientnet-micro", 32),
        ("efficientnet-b0 of half its depth", 48),
        ("timm:mobilenetv3_small_100", 48),
        ("resnet10", 48),
    ],
)
def test_networks(arch, size, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    check(network(arch, size), (3, size, size), rng)


@pytest.mark.slow
def test_efficientnet_b1_by_the_schedule_of_2019(rng):
    plan = load_plan("efficientnet_b1_plan")
    model = micronet.create_model("efficientnet-b1", num_classes=1000)
    sparsities, bits = plan.targets(model)
    model = compressed(model, (3, 64, 64), bits, sparsity=sum(sparsities.values()) / len(bits))
    file = packed(model, (3, 64, 64))
    assert_same(model, reader.network_of(file), torch.randn(2, 3, 64, 64, generator=rng))
    account = accounting.account(file)
    assert accounting.differences(file) == []
    own = micronet.score(model, 64)
    # Thirty-two factors of the stem's normalization, which the rules take into its float weights.
    assert account.factors == 32 * 32 and account.payload == own.storage_bits + account.factors


@pytest.mark.parametrize("bits", PRECISIONS, ids=str)
def test_every_kind_of_node_at_every_precision(bits, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = Everything()
    names = list(architectures.layers(model))
    chosen = dict.fromkeys(names, bits)
    check(compressed(model, (3, 13, 13), chosen, sparsity=0.5), (3, 13, 13), rng)


def test_layers_without_products_and_with_all_of_them(rng):
    model = nn.Sequential(nn.Conv2d(3, 20, 3, bias=False), nn.ReLU(), nn.Conv2d(20, 4, 1))
    model = compressed(model, (3, 8, 8), {"0": FOUR, "2": FOUR}, sparsity=0)
    with torch.no_grad():
        model[2].weight.zero_()
        model[0].weight[3].zero_()
    check(model, (3, 8, 8), rng)


@pytest.mark.parametrize("block", ["1x4", "16x1", "4x4", "1x16", "2x1"])
def test_blocks(block, rng):
    rows, columns = map(int, block.split("x"))
    model = nn.Sequential(nn.Conv2d(18, 37, 3, padding=1), nn.ReLU(), nn.Conv2d(37, 21, 1))
    model = compressed(model, (18, 9, 9), {"0": FOUR, "2": FOUR}, sparsity=0)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            w = layer.weight.movedim(1, -1).reshape(len(layer.weight), -1)
            keep = torch.rand(-(-w.shape[0] // rows), -(-w.shape[1] // columns), generator=rng)
            wide = (keep < 0.3).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            w = w * wide[: w.shape[0], : w.shape[1]]
            outputs, inputs, *kernel = layer.weight.shape
            layer.weight.copy_(w.view(outputs, *kernel, inputs).movedim(-1, 1))
    file = check(model, (18, 9, 9), rng)
    assert any(layer.block is not None for layer in file.document.layers.values())


class Tied(nn.Module):
    """Two layers of one weight, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.two.weight = self.one.weight
        self.head = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = self.two(torch.relu(self.one(x)))
        return self.head(x) + x


def test_shared_weights_are_stored_once(rng):
    model = compressed(Tied(), (6, 7, 7), {"one": FOUR, "two": FOUR, "head": FOUR}, sparsity=0)
    file = check(model, (6, 7, 7), rng)
    assert file.document.layers["two"].weight_of == "one"
    assert "two.weight_packed" not in file.contents.tensors


def test_what_is_not_finite_reaches_the_logits_of_its_image_alone(rng):
    model = network("mobilenetv2_cifar", 32)
    again = reader.network_of(packed(model, (3, 32, 32)))
    images = torch.randn(3, 3, 32, 32, generator=rng)
    images[1, 2, 5, 5] = torch.nan
    assert_same(model, again, images)
    with torch.no_grad():
        logits = again(images)
    assert logits[1].isnan().all() and logits[::2].isfinite().all()


def test_a_network_that_trains_is_packed_as_it_evaluates_and_is_not_changed(rng):
    model = network("efficientnet-micro", 16).train()
    model.get_submodule("_blocks.0").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    file = packed(model, (3, 16, 16))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert_same(model.eval(), reader.network_of(file), torch.randn(2, 3, 16, 16, generator=rng))


def test_a_packed_network_stays_in_evaluation_mode_and_copies_nothing_of_floats(rng):
    model = network("efficientnet-micro", 32)
    again = reader.network_of(packed(model, (3, 32, 32)))
    images = torch.randn(2, 3, 32, 32, generator=rng)
    with torch.no_grad():
        before = again(images)
        again.train()
        assert torch.equal(bits_of(before), bits_of(again(images)))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(micronet.UserError, match=r"takes images of \[3, 32, 32\], not \[3, 33, 3"):
        again(torch.zeros(1, 3, 33, 33))


def test_quantizers_that_no_layer_owns_move_with_the_network(rng):
    again = reader.network_of(read(integer_network(rng)))
    assert set(again._quantizers) == {"image", "gamma", "last"}
    again.to("meta")
    places = [b.device.type for q in again._quantizers.values() for b in q.buffers()]
    places += [b.device.type for b in again.buffers()] + [p.device.type for p in again.parameters()]
    assert len(places) > 6 and set(places) == {"meta"}


@pytest.mark.device
@pytest.mark.parametrize("arch", ["resnet20", "mobilenetv2_cifar", "efficientnet-micro", "by hand"])
def test_a_device_gives_the_same_bits(arch, rng):
    size = 6 if arch == "by hand" else 32
    if arch == "by hand":
        again = reader.network_of(read(integer_network(rng)))
    else:
        again = reader.network_of(packed(network(arch, size), (3, size, size)))
    batches = batches_for(rng, (3, size, size))
    with torch.no_grad():
        wanted = [again(images) for images in batches]
        again.to(DEVICE)
        for images, logits in zip(batches, wanted, strict=True):
            assert torch.equal(bits_of(again(images.to(DEVICE)).cpu()), bits_of(logits))


def test_a_trace_of_a_packed_network_computes_its_values(rng):
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(45, 4))
    bits = {"0": FOUR, "2": LEARNED, "4": CLASSIFIER}
    model = compressed(model, (3, 7, 7), bits)
    again = reader.network_of(packed(model, (3, 7, 7)))
    images = torch.randn(2, 3, 7, 7, generator=rng)
    exported = torch.export.export(again, (images,)).module()
    with torch.no_grad():
        wanted, found = again(images), exported(images)
    # Codes of the second layer may differ where a float sum lies half a step between two of them.
    steps = float(again.get_submodule("2").input_quantizer.scale.reciprocal())
    assert (wanted - found).abs().max() <= steps * 8 * 45
