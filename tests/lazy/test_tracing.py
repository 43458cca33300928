"""Whatever looks at a converted network finds ordinary operators, and the same numbers."""

import copy
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits

PRECISIONS = {
    "4/4": LayerBits(4, 4),
    "8/8": LayerBits(8, 8),
    "learned": LayerBits(4, 4, weight_step="learned", activation_step="learned"),
    "symmetric": LayerBits(8, 4, symmetric=True),
    "offset": LayerBits(4, 4, weight_step="learned", activation_step="learned", offset=True),
    "weights": LayerBits(4, None),
    "inputs": LayerBits(None, 4),
    "float": LayerBits(None, None),
}
SIZE = (4, 3, 6, 6)


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )


@pytest.fixture(params=PRECISIONS)
def network(request, rng):
    """A converted network that has seen a batch, one of its layers pruned, and images."""
    torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
    model = plain()
    bits = dict.fromkeys(architectures.layers(model), PRECISIONS[request.param])
    # One layer at least, or nothing is converted at all.
    bits["3"] = LayerBits(4, 4) if request.param == "float" else bits["3"]
    keep = torch.rand(model[3].weight.shape, generator=rng) < 0.7
    quantize.convert_(model, bits, {"3": kernels.pack_bits(keep)})
    x = torch.randn(SIZE, generator=rng)
    model(x)
    return model, x


def without_warnings(call):
    with warnings.catch_warnings():
        # torch announces the end of its older tracers, and warns of its own.
        warnings.simplefilter("ignore")
        return call()


def compiled(model, x):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)(x)


def onnx_values(model, x):
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17)
    exported = onnx.load_from_string(file.getvalue())
    assert {node.domain for node in exported.graph.node} == {""}
    run = ReferenceEvaluator(exported)
    return torch.from_numpy(np.asarray(run.run(None, {exported.graph.input[0].name: x.numpy()})[0]))


WAYS = {
    "compile": compiled,
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "export, not strict": lambda model, x: torch.export.export(model, (x,), strict=False).module()(
        x
    ),
    "fx": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "feature extractor": lambda model, x: create_feature_extractor(model, ["5"])(x)["5"],
    "jit": lambda model, x: torch.jit.trace(model, x)(x),
    "make_fx": lambda model, x: make_fx(model)(x)(x),
    "vmap": lambda model, x: vmap(lambda image: model(image[None])[0])(x),
    "onnx": onnx_values,
}


@torch.no_grad()
def is_near_a_tie(model, x):
    """Whether sums in another order may round an input of a layer to another code.

    They err by a few roundings of the largest value, which is 255 steps at the most.
    """
    found = []

    def look(layer, inputs, output):
        if layer.input_quantizer is not None:
            # Of the range that the call has moved, where it trains.
            steps = torch.as_tensor(inputs[0]) * layer.input_quantizer.scale
            found.append(float((steps - steps.floor() - 0.5).abs().min()) < 2**-13)

    same = copy.deepcopy(model)
    for at in (3, 5):
        if hasattr(same[at], "input_quantizer"):
            same[at].register_forward_hook(look)
    same(x)
    return any(found)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers(network, way, rng):
    """Sums of floats have another order: a few roundings of 1 + 144 products."""
    model, x = network
    model.eval()
    while is_near_a_tie(model, x):
        x = torch.randn(SIZE, generator=rng)
    with torch.no_grad():
        expected = model(x)
        found = without_warnings(lambda: WAYS[way](model, x))
    bound = 150 * 2**-24 * float(expected.abs().max() + 1) * 4
    assert float((found - expected).abs().max()) <= bound


@pytest.mark.parametrize("way", ["compile", "export", "fx"])
def test_training_moves_the_same_ranges(network, way, rng):
    model, x = network
    while is_near_a_tie(model, 2 * x):
        x = torch.randn(SIZE, generator=rng)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(2 * x)
        found = without_warnings(lambda: WAYS[way](twin, 2 * x))
    torch.testing.assert_close(found, expected)
    if way == "compile":
        for name, buffer in twin.named_buffers():
            if name.endswith(("range", "ema")):
                torch.testing.assert_close(buffer, model.get_buffer(name))


def test_what_is_traced_are_ordinary_operators(network):
    model, x = network
    graph = make_fx(model.eval())(x).graph
    targets = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    own = {target for target in targets if target.startswith("micronet.")}
    assert own <= {
        "micronet.fake_quant_per_tensor.default",
        "micronet.fake_quant_per_channel.default",
        "micronet.fake_quant_learned_step.default",
    }
    assert own and "aten.convolution.default" in targets


def test_fake_tensors_have_the_shapes(network):
    model, x = network
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == (4, 5)
    assert copy.deepcopy(model).to("meta")(x.to("meta")).shape == (4, 5)


def test_gradients_of_functorch(network):
    model, x = network
    model.eval()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters):
        return functional_call(model, (parameters, buffers), (x,)).square().sum()

    found = grad(loss)(parameters)
    model.zero_grad()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_forward_mode_is_refused(rng):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    quantize.convert_(model, {"0": LayerBits(4, 4)})
    x = torch.randn(SIZE, generator=rng)
    model(x)
    with pytest.raises(NotImplementedError, match="jvp"):
        without_warnings(lambda: jvp(model.eval(), (x,), (torch.ones_like(x),)))


def test_a_compiled_function_takes_a_lazy_tensor(network):
    model, x = network
    model.eval()  # Ranges stay, and with them codes.
    torch._dynamo.reset()
    function = torch.compile(lambda t: F.silu(t) * 2 + t.mean(), backend="aot_eager")
    found = []
    for call in (function, lambda t: F.silu(t) * 2 + t.mean()):
        model.zero_grad()
        y = without_warnings(lambda call=call: call(model[1](model[0](x))))
        y.square().sum().backward()
        found.append((y.detach(), model[0].weight.grad.clone()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_flop_counter_counts_every_layer(network):
    model, x = network

    def flops(net):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x)
        return counter.get_total_flops()

    assert flops(model) == flops(model.eval()) == flops(plain())
