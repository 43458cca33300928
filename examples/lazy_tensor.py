"""Look at a lazy tensor: what a hook sees between two quantized layers, and what looking costs.

python examples/lazy_tensor.py
"""

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.quantization.quantize import LayerBits, convert_


def main() -> None:
    """Hook a layer of a quantized network, read its output, and compare the results."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1, bias=False),  # a bias before a normalization would not wait
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
    )
    convert_(model, {"0": LayerBits(4, 4), "3": LayerBits(4, 4)})
    images = torch.randn(4, 8, 12, 12)
    model(images)  # the first batch sets the ranges of the inputs
    model.eval()
    expected = model(images) + 0

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        waits = isinstance(output, kernels.LazyTensor) and output.block() is not None
        print(f"{type(layer).__name__}: waits for its reader: {waits}")
        # Reading computes the values, once, into memory that all who hold the tensor share.
        print(f"  mean {output.mean():.4f}, shape {tuple(output.shape)}, {output.dtype}")

    for layer in model:
        layer.register_forward_hook(look)
    seen = model(images) + 0
    print(f"looking changed nothing: {torch.equal(seen, expected)}")

    # A write is seen by whoever reads the tensor later, as with any other.
    model[2].register_forward_hook(lambda layer, inputs, output: output.zero_())
    written = model(images) + 0
    print(f"zeroing the ReLU's output changed the result: {not torch.equal(written, expected)}")


if __name__ == "__main__":
    main()
