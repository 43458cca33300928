"""An EfficientNet in each form whose training step is measured, all from the same initial weights.

Every form has a float stem, 4-bit weights and inputs elsewhere and a classifier of five levels, by
the recipe ``schedules/efficientnet_b1_qat.yaml``, where its method can express that; where a form
has other bits or steps, it has them in the layers whose input is quantized.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import MemoryEfficientSwish
from torch import Tensor, nn

import micronet_kernels as kernels
from benchmarks.harness.machine import ROOT
from benchmarks.harness.methods import Unavailable, reason
from benchmarks.qat import peers as qat_peers
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.recipe import reader
from micronet.training.optimizer import autocast

CLASSES = 1000
RECIPE = ROOT / "schedules" / "efficientnet_b1_qat.yaml"
PLAIN, SILU, OURS, RECOMPUTE = "plain", "plain-silu", "micronet", "micronet-recompute"
EIGHT, MIXED, SYMMETRIC = "micronet-8/8", "micronet-4/8", "micronet-8/8-symmetric"
LEARNED, OFFSET = "micronet-learned", "micronet-offset"
DEPTHWISE = "micronet-recompute-depthwise"
COMPILED_QAT = "compiled-qat"


@dataclass(frozen=True)
class Size:
    """A network and what it is trained on."""

    arch: str
    batch: int
    side: int
    device: str = "cpu"
    amp: str = "none"  # or bf16: the type that float layers compute in


class Training:
    """One step of training, on the same images every time; calling it returns the loss."""

    def __init__(
        self,
        network: nn.Module,
        size: Size,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        shape = (size.batch, 3, size.side, size.side)
        images = torch.randn(shape, generator=generator).to(size.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (size.batch,), generator=generator).to(size.device)
        self.network, self.around, self.amp = network, around, size.amp
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def loss(self) -> Tensor:
        """Run the forward pass."""
        with self.around(), autocast(self.images.device, self.amp):
            return F.cross_entropy(self.network(self.images), self.labels)

    def __call__(self) -> Tensor:
        """Run the forward and the backward pass and move the weights."""
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def network(arch: str, device: str = "cpu") -> nn.Module:
    """Return a network in training mode and channels last, without dropout or dropped blocks."""
    torch.manual_seed(0)
    found = architectures.create_model(arch, CLASSES)
    found._global_params = found._global_params._replace(drop_connect_rate=0.0, dropout_rate=0.0)
    found._dropout.p = 0.0
    return found.to(device, memory_format=torch.channels_last).train()


def precisions(model: nn.Module) -> dict[str, LayerBits]:
    """Return the precision of every layer under the recipe."""
    section = reader.load_recipe(RECIPE).quantize
    assert section is not None
    return quantize.plan(model, section, str(RECIPE))


def _with_silu(size: Size) -> nn.Module:
    """The network with torch's own SiLU, which is faster than the package's function in Python."""
    found = network(size.arch, size.device)
    for parent in list(found.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MemoryEfficientSwish):
                setattr(parent, name, nn.SiLU())
    return found


# The forms --------------------------------------------------------------------------------------


def _plain(size: Size) -> Training:
    return Training(network(size.arch, size.device), size)


def _plain_silu(size: Size) -> Training:
    return Training(_with_silu(size), size)


def _converted(size: Size, **changes: Any) -> nn.Module:
    found = network(size.arch, size.device)
    bits = {
        name: own if own.activation_bits is None else replace(own, **changes)
        for name, own in precisions(found).items()
    }
    quantize.convert_(found, bits)
    return found


def _ours_with(**changes: Any) -> Callable[[Size], Training]:
    return lambda size: Training(_converted(size, **changes), size)


def _ours(size: Size) -> Training:
    return Training(_converted(size), size)


def _recompute(size: Size) -> Training:
    return Training(_converted(size), size, kernels.recompute_in_backward)


def _recompute_depthwise(size: Size) -> Training:
    return Training(_converted(size), size, partial(kernels.recompute_in_backward, "depthwise"))


def _rounded(size: Size, sites: qat_peers.Sites) -> nn.Module:
    found = _with_silu(size)
    qat_peers.round_layers_(found, precisions(found), sites)
    return found


def _distiller(size: Size) -> Training:
    return Training(_rounded(size, qat_peers.DISTILLER), size)


def _torch_fused(size: Size) -> Training:
    return Training(_rounded(size, qat_peers.TORCH_FUSED), size)


def _torch_fx(size: Size) -> Training:
    found = _with_silu(size)
    image = torch.zeros(1, 3, size.side, size.side, device=size.device)
    return Training(qat_peers.by_fx(found, image, architectures.stem_name(found)), size)


def _compiled(size: Size) -> Training:
    return Training(torch.compile(_with_silu(size), dynamic=False), size)


def _compiled_qat(size: Size) -> Training:
    rounded = _rounded(size, qat_peers.STRAIGHT_THROUGH)
    return Training(torch.compile(rounded, dynamic=False), size)


@dataclass(frozen=True)
class Variant:
    """One form of the network."""

    what: str
    build: Callable[[Size], Training]
    compiled: bool = False


VARIANTS = {
    PLAIN: Variant("float32, eager, the network as the package makes it", _plain),
    SILU: Variant("float32, eager, with torch's own SiLU", _plain_silu),
    OURS: Variant("micronet.quantization.quantize.convert_", _ours),
    EIGHT: Variant("weights and inputs of 8 bits", _ours_with(weight_bits=8, activation_bits=8)),
    SYMMETRIC: Variant(
        "the same with symmetric weights",
        _ours_with(weight_bits=8, activation_bits=8, symmetric=True),
    ),
    MIXED: Variant("weights of 4 bits, inputs of 8", _ours_with(activation_bits=8)),
    LEARNED: Variant(
        "4 bits, learned steps of weights and inputs",
        _ours_with(weight_step="learned", activation_step="learned"),
    ),
    OFFSET: Variant(
        "the same with learned offsets of inputs",
        _ours_with(weight_step="learned", activation_step="learned", offset=True),
    ),
    RECOMPUTE: Variant("the first inside micronet_kernels.recompute_in_backward", _recompute),
    DEPTHWISE: Variant("the first, for depthwise convolutions alone", _recompute_depthwise),
    "distiller": Variant("Distiller's minimum, maximum, average, clamp, round", _distiller),
    "torch-fused": Variant(
        "torch.fused_moving_avg_obs_fake_quant, weights fake_quantize_per_channel_affine",
        _torch_fused,
    ),
    "torch-fx": Variant("torch.ao.quantization.quantize_fx.prepare_qat_fx", _torch_fx),
    "plain-compiled": Variant("float32, torch.compile", _compiled, compiled=True),
    COMPILED_QAT: Variant("straight-through rounding, torch.compile", _compiled_qat, compiled=True),
}


def build(name: str, size: Size) -> Training:
    """Build one form; a compiled one compiles in its first step. Raises Unavailable."""
    with warnings.catch_warnings():
        # torch announces the end of its own quantization; it is a peer until then.
        warnings.simplefilter("ignore", DeprecationWarning)
        return VARIANTS[name].build(size)


def compile_now(name: str, training: Training) -> None:
    """Run the first step of a compiled form. Raises Unavailable where inductor cannot compile."""
    if not VARIANTS[name].compiled:
        return
    try:
        training()
    except Exception as error:  # of whatever kind the compiler or the one it calls fails with
        raise Unavailable(f"inductor: {reason(error)}") from error
