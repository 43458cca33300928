"""Zeros that rounding makes are stored as cheaply as those that pruning makes."""

import torch
from torch import nn

from micronet.quantization.quantize import LayerBits, convert_
from micronet.scoring.network import layer_facts


def test_blocks_that_round_to_zero_may_be_masked():
    model = nn.Sequential(nn.Conv2d(16, 32, 1))
    with torch.no_grad():
        # Nothing is pruned, but half of the blocks are far smaller than a step.
        model[0].weight.uniform_(0.5, 1.0)
        model[0].weight[:, :8] *= 1e-4
    convert_(model, {"0": LayerBits(4, 4)})
    facts = layer_facts.actual("0", model[0], LayerBits(4, 4), "test")
    assert facts.kept == 512 and facts.nonzero == 256
    layout = facts.layout(32)
    # Blocks of sixteen by eight: two of four are kept, and each has a bit.
    assert (layout.name, layout.values, layout.mask_bits) == ("16x8 block mask", 256, 4)
