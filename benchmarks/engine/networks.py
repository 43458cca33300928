"""``python -m benchmarks.engine.networks FOLDER NETWORK...``: ours, packed, and theirs in float32.

Weights are random and stand for trained ones, whose time is the same; statistics of batch
normalization are those of one random batch. Writes packed networks, the same networks in float32
as ONNX files, and what is known of each, as ``networks.json``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn

import micronet
import micronet_kernels as kernels
from benchmarks.engine import settings
from benchmarks.engine.settings import B1, Network
from micronet.artifact import accounting
from micronet.artifact.reader import Packed
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization.quantize import convert_
from micronet.scoring.count import score_subject
from micronet.scoring.network.plan_files import load_plan

PLAN = "efficientnet_b1_plan"
BATCH = 8


def float_network(network: Network) -> nn.Module:
    """Return a network in float32 as its users have it, in evaluation mode."""
    torch.manual_seed(0)
    if network.name.startswith("efficientnet"):
        found = EfficientNet.from_name(network.name, image_size=network.side)
        _take_silu(found)
    elif hasattr(torchvision.models, network.name):
        found = getattr(torchvision.models, network.name)()
    else:
        found = architectures.create_model(network.name, network.classes)
    return settle(found, network.side)


def _take_silu(model: nn.Module) -> None:
    """Replace the package's swish by torch's own, which is faster."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if "Swish" in type(child).__name__:
                setattr(parent, name, nn.SiLU())


def settle(model: nn.Module, side: int) -> nn.Module:
    """Set statistics and ranges by one random batch; return the network in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn((BATCH, 3, side, side), generator=generator))
    return model.eval()


def compressed(network: Network, bits: str) -> nn.Module:
    """Return a network of ours: B1 by the schedules of 2019, others dense and by the defaults."""
    torch.manual_seed(0)
    model = architectures.create_model(network.name, network.classes)
    if network.name == B1:
        _by_plan(model)
    else:
        weights, activations = (int(count) for count in bits.split("/"))
        micronet.quantize_(model, weights=weights, activations=activations)
    return settle(model, network.side)


def _by_plan(model: nn.Module) -> None:
    sparsities, bits = load_plan(PLAN).targets(model)
    assert bits is not None
    layers, masks = architectures.layers(model), {}
    with torch.no_grad():
        for name, sparsity in sparsities.items():
            weight = layers[name].weight
            pruned = prune.pruned_weights(weight.numel(), sparsity)
            masks[name] = kernels.smallest_magnitude_mask(weight, pruned)
            weight.mul_(kernels.unpack_bits(masks[name], weight.numel()).view(weight.shape))
    convert_(model, bits, masks)


def multiply_adds(model: nn.Module, side: int) -> dict[str, int]:
    """Return the multiply-adds for one image of each layer, zeros among them, in order of use."""
    found: dict[str, int] = {}

    def count(name: str, layer: nn.Module, output: torch.Tensor) -> None:
        positions = output[0].numel() // len(layer.weight)
        found[name] = found.get(name, 0) + layer.weight.numel() * positions

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: count(name, layer, output))
        for name, layer in architectures.layers(model).items()
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found


def export_onnx(model: nn.Module, network: Network, path: Path) -> None:
    """Write a float network; its first axis is named ``batch``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = torch.zeros(1, 3, network.side, network.side)
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        # The exporter that needs no further package is announced to end.
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), dynamo=False, opset_version=17, **names)


def sizes(packed: Packed) -> dict[str, float]:
    """Return the bits of the tensors, those that the challenge counts, and the file's bytes."""
    account = accounting.account(packed)
    scored = score_subject(accounting.subject(packed)).storage_bits
    return {
        "payload_bits": account.payload,
        "scored_bits": int(scored) if scored.denominator == 1 else float(scored),
        "file_bytes": account.file_bytes,
    }


def make(folder: Path, network: Network) -> dict[str, object]:
    """Write the files of one network; return what is known of it."""
    model = float_network(network)
    macs = multiply_adds(model, network.side)
    export_onnx(model, network, settings.float_model(folder, network.name))
    found = {}
    for bits in network.forms:
        ours = compressed(network, bits)
        target = settings.packed(folder, network.name, bits)
        target.mkdir(parents=True, exist_ok=True)
        packed = micronet.export(ours, target, image_size=network.side, arch=network.name)
        found[bits] = sizes(packed)
    return {"multiply_adds": macs, "forms": found}


def main(arguments: list[str]) -> None:
    """Make what the command line names."""
    folder, names = Path(arguments[0]), arguments[1:]
    made = {name: make(folder, settings.NETWORKS[name]) for name in names}
    (folder / "networks.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
