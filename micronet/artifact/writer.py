"""From a network to a packed file: recorded, folded, stored, and held to what it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from micronet.artifact.format import container, pixels
from micronet.artifact.format.document import About, Document, Layer
from micronet.artifact.format.nodes import KINDS, Input, Node, Pixels, Quantize
from micronet.artifact.format.packing import PACKINGS, WHOLE
from micronet.artifact.format.tensors import INPUT
from micronet.artifact.reader import Packed, from_content, network_of
from micronet.artifact.recording.recorder import record, sample_images
from micronet.artifact.recording.steps import Notes, Step
from micronet.artifact.stored_layers import Call, stored
from micronet.models.shared_layers import owners
from micronet.quantization import quantize
from micronet.quantization.faults import require_sound
from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.images.moments import check_moments
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.scored_network import describe_network
from micronet.scoring.rules.official import OFFICIAL
from micronet.utils.errors import UserError
from micronet.utils.modes import evaluation_mode

# Seeds of images other than the recorded ones, and by what they are multiplied.
_CHECKS = ((1, 1.0), (2, 4.0))
_IMAGES_EACH = 2
CHECKED = _IMAGES_EACH * len(_CHECKS)


def pack_network(
    model: nn.Module, shape: tuple[int, int, int], about: About, packing: str = WHOLE
) -> Packed:
    """Return a network as a packed file that is not written yet.

    Args:
        model: on the CPU.
        shape: of an image, [C, H, W].
        about: what is known of it.
        packing: one of ``PACKINGS``.

    Raises:
        UserError: nothing in the network is quantized, a quantizer has seen no data, or it computes
            with what the format has no node for.
    """
    name = about.arch or type(model).__name__
    if packing not in PACKINGS:
        raise UserError(f"packing is {packing!r}, but must be {' or '.join(map(repr, PACKINGS))}")
    _check(model, name, about)
    # Quantizers that are asked for their ends in training would follow what they are asked with.
    with evaluation_mode(model):
        steps, output = record(model, shape, name)
        notes = Notes(sample_images(shape, 1, 0), name)
        folded, output = _folded(steps, output, notes)
        made = _Maker(model, shape, notes, packing).make(folded, output, about)
    if not _is_quantized(made.document):
        raise UserError(f"{name} cannot be exported: nothing that its output reads is quantized")
    content = container.to_bytes(made.document.to_plain(), made.tensors)
    packed = from_content(content, Path(f"{name}.safetensors"))
    logits, classes = check_like(packed, model, name), about.classes
    if classes is not None and len(logits) == 2 and logits[1] != len(classes):
        raise UserError(f"{name} has {logits[1]} logits, but {len(classes)} classes are named")
    return packed


def _check(model: nn.Module, name: str, about: About) -> None:
    precision = quantize.precision_of(model)
    if not precision:
        raise UserError(f"{name} cannot be exported: nothing in it is quantized")
    if about.mean is not None and about.std is not None:
        check_moments(precision, (about.mean, about.std), name)
    if uninitialized := quantize.uninitialized(model):
        raise UserError(f"{name}: quantizer {uninitialized[0]!r} has never seen data")
    require_sound(model, f"{name} cannot be exported: ")
    for parameter, value in model.named_parameters():
        if value.device.type != "cpu":
            place = f"{parameter!r} is on {value.device}"
            raise UserError(f"{name} cannot be exported: {place}; move it to the CPU by cpu()")


def _is_quantized(document: Document) -> bool:
    """Whether a layer has codes for its weights or for its input."""
    layers = document.layers.values()
    return any(layer.levels is not None for layer in layers) or any(
        isinstance(node, Quantize | Pixels) for node in document.nodes
    )


@torch.no_grad()
def check_like(packed: Packed, model: nn.Module, name: str) -> torch.Size:
    """Hold a packed file to the network it is of; return the shape of an image's logits, [1, ...].

    Raises:
        UserError: an image has other logits.
    """
    again = network_of(packed)
    with evaluation_mode(model):
        for seed, factor in _CHECKS:
            images = sample_images(packed.document.input, _IMAGES_EACH, seed) * factor
            # One alone too: a network may do something else with it.
            for batch in (images, images[:1]):
                wanted, found = model(batch), again(batch)
                same = wanted.shape == found.shape and torch.equal(
                    wanted.nan_to_num(nan=1e38), found.nan_to_num(nan=1e38)
                )
                if not same:
                    raise UserError(f"{name}: the packed graph gives other logits than the network")
    return found.shape


@dataclass(frozen=True)
class _Made:
    document: Document
    tensors: dict[str, NDArray[Any]]


def _folded(steps: list[Step], output: int, notes: Notes) -> tuple[list[Step], int]:
    """Return steps without normalizations, which their layers take in, nor what nothing reads."""
    reads = Counter(i for step in steps for i in step.inputs) + Counter([output])
    calls = Counter(step.facts["name"] for step in steps if step.kind == "layer")
    becomes: dict[int, int] = {}
    kept: list[Step] = []
    used = _used(steps, output)
    for index, step in enumerate(steps):
        if index not in used:
            continue
        inputs = tuple(becomes[i] for i in step.inputs)
        if step.kind == "norm":
            (before,) = step.inputs
            layer = kept[becomes[before]]
            alone = reads[before] == 1 and layer.kind == "layer" and calls[layer.facts["name"]] == 1
            if not alone:
                raise notes.refusal("a normalization reads what is read elsewhere too")
            layer.facts |= {k: step.facts[k] for k in ("scale", "shift")} | {"is_normalized": True}
            becomes[index] = becomes[before]
            continue
        becomes[index] = len(kept)
        kept.append(Step(step.kind, inputs, step.shape, dict(step.facts)))
    return kept, becomes[output]


def _used(steps: list[Step], output: int) -> set[int]:
    found = {0, output}
    for index in range(len(steps) - 1, -1, -1):
        if index in found:
            found |= set(steps[index].inputs)
    return found


class _Maker:
    """Makes a document and its tensors of steps."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, int, int], notes: Notes, packing: str
    ) -> None:
        self._shape, self._notes, self._packing = shape, notes, packing
        self._owners = owners(model)
        self._facts: Mapping[str, LayerFacts] = describe_network(
            model,
            shape[1],
            shape[0],
            bits=quantize.precision_of(model),
            sparsities=None,
            rules=OFFICIAL,
        ).layers
        self._layers: dict[str, Layer] = {}
        self._tensors: dict[str, NDArray[Any]] = {}
        self._nodes: list[Node] = []
        # The node that quantizes the input of each layer and step.
        self._quantized: dict[tuple[str, int], int] = {}

    def make(self, steps: Sequence[Step], output: int, about: About) -> _Made:
        """Return what a packed file says, and its tensors."""
        place: dict[int, int] = {}
        for index, step in enumerate(steps):
            inputs = tuple(place[i] for i in step.inputs)
            place[index] = self._add(step, inputs)
        layers = dict(sorted(self._layers.items()))
        nodes = tuple(self._nodes)
        about = pixels.completed(about, nodes)
        document = Document(self._shape, nodes, place[output], layers, about)
        return _Made(document, self._tensors)

    def _add(self, step: Step, inputs: tuple[int, ...]) -> int:
        if step.kind == "input":
            return self._append(Input())
        if step.kind == "layer":
            return self._add_layer(Call(**step.facts), inputs)
        return self._append(KINDS[step.kind](inputs=inputs, **step.facts))

    def _append(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _add_layer(self, call: Call, inputs: tuple[int, ...]) -> int:
        name = call.name
        owner = self._owners[name] if self._owners[name] != name else None
        facts, notes = self._facts[name], self._notes
        layer, tensors, levels = stored(call, facts, owner, notes, self._packing)
        if self._layers.setdefault(name, layer) != layer:
            raise self._notes.refusal(f"layer {name!r} is called with images of two sizes")
        self._tensors |= tensors
        if levels is not None:
            inputs = (self._codes(call, inputs[0], levels),)
        kind = "conv" if len(layer.shape) == 4 else "linear"
        return self._append(KINDS[kind](inputs=inputs, layer=name))

    def _codes(self, call: Call, source: int, levels: int) -> int:
        name = call.name
        if any(layer == name and s != source for layer, s in self._quantized):
            # Each node of codes has a name of its own, and tensors of that name.
            raise self._notes.refusal(f"layer {name!r} of quantized input is called twice")
        key = name, source
        if key not in self._quantized:
            self._quantized[key] = self._append(self._quantizer(call, source, levels))
        return self._quantized[key]

    def _quantizer(self, call: Call, source: int, levels: int) -> Node:
        name, module = f"{call.name}{INPUT}", call.module
        if not isinstance(module, ImageConv2d):
            return Quantize((source,), name, levels)
        mean, std = module.bits.image_mean, module.bits.image_std
        assert mean is not None and std is not None
        if source != 0:
            raise self._notes.refusal(f"layer {call.name!r} reads grey values of no image")
        return Pixels((source,), name, mean, std)
