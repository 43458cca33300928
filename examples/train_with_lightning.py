"""Prune and train in 4 bits in PyTorch Lightning, by a callback of its Trainer.

python examples/train_with_lightning.py
"""

import argparse

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import micronet
from micronet.integrations.lightning import CompressionCallback

RECIPE = {
    "prune": {"end_epoch": 2, "groups": [{"layers": ["*"], "final_sparsity": 0.5}]},
    "quantize": {"start_epoch": 1, "weights": {"bits": 4}, "activations": {"bits": 4}},
}


class Classifier(pl.LightningModule):
    """Any LightningModule: it does not know that its network is compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.model = micronet.create_model("efficientnet-micro", num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    """Train, evaluate on what was trained on, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/lightning")
    args = parser.parse_args()

    torch.manual_seed(0)
    digits = micronet.open_data("digits", image_size=16, batch_size=64, seed=0)
    batches = zip(*digits.train(0), strict=True)
    data = TensorDataset(*(torch.cat(tensors) for tensors in batches))
    callback = CompressionCallback(micronet.Recipe.from_dict(RECIPE))
    trainer = pl.Trainer(
        max_epochs=args.epochs, callbacks=[callback], logger=False, enable_checkpointing=False
    )
    module = Classifier()
    trainer.fit(module, DataLoader(data, batch_size=64, shuffle=True))
    result = micronet.evaluate(module.model, [tuple(data.tensors)])
    print(f"{result.correct} of {result.total} images are right")
    print(callback.compression.report())
    micronet.save(callback.compression, args.out, image_size=16)


if __name__ == "__main__":
    main()
