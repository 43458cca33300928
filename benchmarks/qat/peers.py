"""What else a user could take to train a network in 4 bits, on the layers of a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.harness import ours, peers
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.ours import DECAY, Function
from benchmarks.qat import sites as qat_sites
from micronet.models import architectures
from micronet.quantization.precision import LayerBits


@dataclass(frozen=True)
class Sites:
    """How a method rounds: each function makes what rounds one tensor.

    It takes the number of levels and the name of the device.
    """

    of_input: Callable[[int, str], Function]
    of_weight: Callable[[int, str], Function]


class Rounded(nn.Module):
    """A layer that computes with its rounded weight and, where given, its rounded input."""

    def __init__(
        self, layer: nn.Module, of_input: Function | None, of_weight: Function | None
    ) -> None:
        super().__init__()
        self.layer, self.of_input, self.of_weight = layer, of_input, of_weight

    def forward(self, x: Tensor) -> Tensor:
        """Call the layer."""
        if self.of_input is not None:
            x = self.of_input(x)
        if self.of_weight is None:
            return self.layer(x)
        return functional_call(self.layer, {"weight": self.of_weight(self.layer.weight)}, (x,))


def round_layers_(network: nn.Module, bits: Mapping[str, LayerBits], sites: Sites) -> None:
    """Wrap every layer that `bits` quantizes."""
    for name, layer in architectures.layers(network).items():
        inputs, weights = bits[name].activation_levels, bits[name].weight_levels
        if bits[name].is_float:
            continue
        device = layer.weight.device.type
        rounded = Rounded(
            layer,
            None if inputs is None else sites.of_input(inputs, device),
            None if weights is None else sites.of_weight(weights, device),
        )
        _replace(network, name, rounded)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def _of_sixteen(make: Callable[[str], Function], levels: int, device: str) -> Function:
    """A peer whose number of levels is fixed; it takes as long with fewer.

    Of what torch.autocast made bfloat16 it gets floats: torch's operator takes nothing else.
    """
    assert levels <= ours.LEVELS
    function = make(device)
    return lambda x: function(x.float())


# torch.ao's operators ---------------------------------------------------------------------------


def _torch_weight(levels: int, device: str) -> Function:
    """Rounding with a range for each output channel, found anew in each step."""

    def function(w: Tensor) -> Tensor:
        with torch.no_grad():
            lowest, highest = _extremes(w)
            scale = (highest - lowest).div_(levels - 1).clamp_(min=torch.finfo(w.dtype).tiny)
            zero = torch.round(-lowest / scale).to(torch.int32)
        return torch.fake_quantize_per_channel_affine(w, scale, zero, 0, 0, levels - 1)

    return function


def _extremes(w: Tensor) -> tuple[Tensor, Tensor]:
    lowest, highest = torch.aminmax(w.flatten(1), dim=1)
    return lowest.clamp(max=0), highest.clamp(min=0)


# Straight through, in operations for a compiler -------------------------------------------------


class StraightThrough(nn.Module):
    """Rounds images to the bias-corrected moving average of their range; clipped gradient."""

    ema: Tensor
    count: Tensor

    def __init__(self, levels: int, device: str) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("ema", torch.zeros(2, device=device))
        self.register_buffer("count", torch.zeros(1, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Move the range, then round."""
        with torch.no_grad():
            self.count.add_(1)
            self.ema.lerp_(torch.stack(torch.aminmax(x)).float(), 1 - DECAY)
            ends = self.ema / (1 - DECAY**self.count)
            lowest, highest = ends[0].clamp(max=0), ends[1].clamp(min=0)
        return _round_straight_through(x, lowest, highest, self.levels)


def _round_straight_through(x: Tensor, lowest: Tensor, highest: Tensor, levels: int) -> Tensor:
    with torch.no_grad():
        scale = (levels - 1) / (highest - lowest).clamp(min=torch.finfo(x.dtype).tiny)
        zero = torch.round(scale * lowest)
    clipped = torch.clamp(x, lowest, highest)
    rounded = (torch.round(scale * clipped - zero) + zero) / scale
    return clipped + (rounded - clipped).detach()


def _straight_through_weight(levels: int, device: str) -> Function:
    def function(w: Tensor) -> Tensor:
        with torch.no_grad():
            shape = (-1, *[1] * (w.dim() - 1))
            lowest, highest = (end.view(shape) for end in _extremes(w))
        return _round_straight_through(w, lowest, highest, levels)

    return function


DISTILLER = Sites(partial(_of_sixteen, peers.distiller), partial(_of_sixteen, peers.distiller))
TORCH_FUSED = Sites(partial(_of_sixteen, peers.torch_fused), _torch_weight)
STRAIGHT_THROUGH = Sites(StraightThrough, _straight_through_weight)


# torch FX ---------------------------------------------------------------------------------------


def by_fx(network: nn.Module, image: Tensor, stem: str) -> nn.Module:
    """Return the network as torch FX prepares it: 4/4 bits where it thinks fit, a float stem.

    Raises Unavailable where this torch has no quantize_fx.
    """
    try:
        from torch.ao.quantization import QConfigMapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx
    except ImportError as error:
        raise Unavailable(f"this torch has no quantize_fx: {error}") from None
    _pad_by_numbers_(network, image)
    mapping = QConfigMapping().set_global(_qconfig()).set_module_name(stem, None)
    mapping.set_object_type(torch.sigmoid, None)  # its range is fixed, and FX has none for 4 bits
    return prepare_qat_fx(network, mapping, (image,)).to(memory_format=torch.channels_last)


def _qconfig() -> Any:
    from torch.ao.quantization import (
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        QConfig,
    )

    activation = FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=ours.LEVELS - 1,
        dtype=torch.quint8,
        averaging_constant=1 - DECAY,
    )
    weight = FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver,
        quant_min=-ours.LEVELS // 2,
        quant_max=ours.LEVELS // 2 - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return QConfig(activation=activation, weight=weight)


def _pad_by_numbers_(network: nn.Module, image: Tensor) -> None:
    """Give convolutions that pad by the size of their input the padding of this one: FX traces
    no sizes."""
    for name, site in qat_sites.sites(network, image).items():
        source = network.get_submodule(name)
        if isinstance(source, (Conv2dDynamicSamePadding, Conv2dStaticSamePadding)):
            _replace(network, name, _ordinary(source, site))


def _ordinary(source: nn.Conv2d, site: qat_sites.Site) -> nn.Module:
    top, left, bottom, right = site.padding
    is_even = (top, left) == (bottom, right)
    layer = nn.Conv2d(
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        site.stride,
        (top, left) if is_even else 0,
        groups=site.groups,
        bias=source.bias is not None,
        device="meta",
    )
    layer.weight, layer.bias = source.weight, source.bias
    return layer if is_even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), layer)
