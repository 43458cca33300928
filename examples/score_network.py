"""Score a network as the 2019 MicroNet Challenge does: in float, pruned, and in 4 bits.

python examples/score_network.py --arch mobilenet_v2 --image-size 224
"""

import argparse

import torch

from micronet.models.architectures import create_model, layers
from micronet.quantization.quantize import LayerBits
from micronet.scoring.count import score_model


def main() -> None:
    """Print storage, operations and score for three plans; nothing is trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--sparsity", type=float, default=0.6)
    args = parser.parse_args()

    with torch.device("meta"):  # only the structure counts
        model = create_model(args.arch, num_classes=1000)
    zeros = dict.fromkeys(layers(model), args.sparsity)
    bits = dict.fromkeys(layers(model), LayerBits(4, 4))
    plans = {"float": ({}, {}), "pruned": ({}, zeros), "pruned, 4/4 bits": (bits, zeros)}
    for name, (of_bits, of_zeros) in plans.items():
        score = score_model(model, args.image_size, bits=of_bits, sparsities=of_zeros)
        print(
            f"{name:<18}{float(score.storage_bits) / 8e6:>8.2f} MB"
            f"{float(score.operations) / 1e6:>10.1f} million operations, "
            f"score {float(score.score):.4f}"
        )


if __name__ == "__main__":
    main()
