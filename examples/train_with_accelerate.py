"""Train in 4 bits in a loop of Hugging Face Accelerate, on one device or several.

python examples/train_with_accelerate.py
torchrun --nproc-per-node 2 examples/train_with_accelerate.py
"""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import micronet

RECIPE = {
    "prune": {"end_epoch": 2, "groups": [{"layers": ["*"], "final_sparsity": 0.5}]},
    "quantize": {"start_epoch": 1, "weights": {"bits": 4}, "activations": {"bits": 4}},
}


def digits() -> TensorDataset:
    """Return images (3, 16, 16) of handwritten digits and their labels."""
    data = micronet.open_data("digits", image_size=16, batch_size=64, seed=0)
    batches = list(data.train(0))
    return TensorDataset(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))


def main() -> None:
    """Train, evaluate on what was trained on, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/accelerate")
    args = parser.parse_args()

    torch.manual_seed(0)
    # Without a GPU, Accelerate takes several processes for one unless it is told.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    data = digits()
    batches = DataLoader(data, batch_size=64, shuffle=True)
    model = micronet.create_model("efficientnet-micro", num_classes=10)
    compression = micronet.compress(model, micronet.Recipe.from_dict(RECIPE))
    optimizer = torch.optim.AdamW(compression.parameter_groups(weight_decay=0.01), lr=3e-3)
    total = args.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total)
    wrapped, optimizer, batches, schedule = accelerator.prepare(model, optimizer, batches, schedule)
    for epoch in range(args.epochs):
        # Where a recipe has learned steps, the optimizer takes them, and its schedule moves them.
        compression.begin_epoch(epoch, optimizer, [schedule])
        wrapped.train()
        for images, labels in batches:
            with accelerator.autocast():
                loss = F.cross_entropy(wrapped(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                compression.step()
            schedule.step()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")
    # Each process evaluates its part; the counts are those of all.
    parts = accelerator.num_processes
    part = [tensor.tensor_split(parts)[accelerator.process_index] for tensor in data.tensors]
    result = micronet.evaluate(model, [tuple(part)])
    accelerator.print(f"{result.correct} of {result.total} images are right")
    accelerator.print(compression.report())
    if accelerator.is_main_process:
        micronet.save(compression, args.out, image_size=16)
    accelerator.end_training()


if __name__ == "__main__":
    main()
