"""A network's layers as a packed file stores them: the numbers that evaluation computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.artifact.format.document import FLOAT, INTEGER, SCALED, Layer
from micronet.artifact.format.packing import Weights, pack, to_bits
from micronet.artifact.format.tensors import INPUT, one_by_one
from micronet.artifact.quantizers import scale_and_zero_points
from micronet.artifact.recording.steps import Notes
from micronet.quantization.deterministic_layers import ExactConv2d
from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.layers import QuantizedLayer
from micronet.scoring.network.layer_facts import LayerFacts

_FLOAT_BITS = 32

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """What a layer did in an evaluation.

    Attributes:
        name: of the layer.
        module: the layer.
        size: of one image's input.
        scale, shift: [O] or None, by which its sums become values.
        is_normalized: whether a normalization is in these.
    """

    name: str
    module: nn.Module
    size: torch.Size
    scale: Tensor | None
    shift: Tensor | None
    is_normalized: bool = False


def stored(
    call: Call, facts: LayerFacts, owner: str | None, notes: Notes, packing: str
) -> tuple[Layer, Arrays, int | None]:
    """Return a layer, its tensors by name, and the levels of its input.

    Args:
        call: the layer's, of an evaluation.
        facts: as it is scored.
        owner: the layer that stores its weights, None where it does.
        notes: of the evaluation, for messages.
        packing: of the weights, one of ``PACKINGS``.

    Raises:
        UserError: it computes in a way that the format has not.
    """
    module, name = call.module, call.name
    weights, scale = _weights(call, notes)
    sums = _sums(module)
    if isinstance(module, ImageConv2d) and sums != INTEGER:
        raise notes.refusal(f"sums of layer {name!r} over grey values need more than 32 bits")
    fields, arrays = pack(weights, facts.layout(_FLOAT_BITS), packing)
    if owner is not None:
        fields, arrays = fields | {"weight_of": owner}, {}
    if scale is not None and weights.levels is not None and weights.zero_point is not None:
        bits = to_bits(weights.zero_point, one_by_one(weights.levels), weights.levels)
        arrays |= {"weight_scale": _floats(scale), "weight_zero_point": bits}
    shift: Any = _shift(module)
    if call.is_normalized:
        shift = call.shift
        if sums == FLOAT:
            if getattr(module, "bias", None) is not None:
                raise notes.refusal(f"layer {name!r} sums floats, with a bias and a normalization")
            assert call.scale is not None
            arrays["norm_scale"] = _floats(call.scale)
    if shift is not None:
        arrays["bias"] = _floats(shift)
    layer = Layer(
        shape=tuple(weights.values.shape),
        sums=sums,
        bias="bias" in arrays,
        norm_scale="norm_scale" in arrays,
        **_geometry(call, notes),
        **fields,
    )
    named = {f"{name}.{end}": array for end, array in arrays.items()}
    return layer, named | _of_input(call, notes), _input_levels(module)


@torch.no_grad()
def _shift(module: nn.Module) -> Tensor | None:
    """Return what is added behind a layer: its bias, or what the images' mean leaves of it."""
    shift: Any = module.shift() if isinstance(module, ExactConv2d) else module.bias
    return shift


def _floats(values: Tensor) -> NDArray[Any]:
    return values.detach().float().cpu().contiguous().numpy()


def _sums(module: nn.Module) -> str:
    if not isinstance(module, QuantizedLayer):
        return FLOAT
    if module.is_exact:
        return INTEGER
    is_linear = isinstance(module, nn.Linear)
    return SCALED if is_linear and module.bits.scales_sums else FLOAT


@torch.no_grad()
def _weights(call: Call, notes: Notes) -> tuple[Weights, Tensor | None]:
    """Return the weights, and by what their sums are multiplied or, of float sums, S itself."""
    module = call.module
    if not isinstance(module, QuantizedLayer) or module.bits.weight_bits is None:
        floats: Any = module.weight
        return Weights(None, floats.detach().float().cpu().contiguous(), None, None), None
    values, scale = module.quantized_weight().detach(), module.weight_scale().detach()
    wide = scale.view(-1, *(1,) * (values.dim() - 1))
    integers = torch.round(values * wide)
    levels = module.weight_levels
    zero = _zero_point(module)
    codes = integers + zero.view(wide.shape)
    same = torch.equal(integers / wide, values) and bool(torch.isfinite(scale).all())
    if not same or not 0 <= float(codes.min()) <= float(codes.max()) < levels:
        raise notes.refusal(f"the weights of layer {call.name!r} are no {levels} levels of scales")
    weights = Weights(codes.to(torch.uint8).contiguous(), integers + 0.0, zero, levels)
    return weights, _factor(call, scale)


def _zero_point(module: QuantizedLayer) -> Tensor:
    """Return the code of 0 of each channel: its quantizer's own."""
    if module.weight_step is not None:
        return 0.0 - module.weight_zero_point
    levels, scheme = module.weight_levels, module.bits.weight_scheme
    mask = module.weight_mask
    return 0.0 - kernels.quantize_per_channel(module.scaled_weight(), levels, mask, scheme)[2]


def _factor(call: Call, scale: Tensor) -> Tensor:
    """Return by what sums are multiplied: the evaluation's own number, a normalization in it."""
    module = call.module
    assert isinstance(module, QuantizedLayer)
    if _sums(module) == FLOAT:
        return scale
    if call.scale is not None:
        return call.scale
    if _sums(module) == SCALED:
        return torch.ones_like(scale) / scale
    assert module.input_quantizer is not None
    return torch.ones_like(scale) / (module.input_quantizer.scale * scale)


def _geometry(call: Call, notes: Notes) -> dict[str, Any]:
    module = call.module
    if not isinstance(module, ExactConv2d):
        if len(call.size) != 1:
            raise notes.refusal(f"linear layer {call.name!r} is called with {list(call.size)}")
        return {}
    if module.padding_mode != "zeros":
        raise notes.refusal(f"layer {call.name!r} pads with {module.padding_mode!r}, not zeros")
    stride, padding, dilation, groups = module.geometry(call.size[-2:])
    if isinstance(module, ImageConv2d):
        padding = module.border(call.size[-2:])
    numbers = {"stride": stride, "padding": padding, "dilation": dilation}
    return {key: tuple(map(int, value)) for key, value in numbers.items()} | {"groups": groups}


def _input_levels(module: nn.Module) -> int | None:
    quantizer = getattr(module, "input_quantizer", None)
    return None if quantizer is None else quantizer.levels


def _of_input(call: Call, notes: Notes) -> Arrays:
    """Return the scale and the zero points of a layer's input."""
    module = call.module
    quantizer = getattr(module, "input_quantizer", None)
    if quantizer is None:
        return {}
    scale, zeros = scale_and_zero_points(quantizer)
    if (
        not bool(torch.isfinite(scale).all())
        or not 0 <= min(zeros) <= max(zeros) < quantizer.levels
    ):
        raise notes.refusal(f"the input of layer {call.name!r} has no finite scale")
    packed = to_bits(torch.tensor(zeros), one_by_one(quantizer.levels), quantizer.levels)
    prefix = f"{call.name}{INPUT}"
    return {f"{prefix}_scale": np.asarray(_floats(scale)), f"{prefix}_zero_point": packed}
