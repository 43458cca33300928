"""Networks that are saved, and how tests look at what is read back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from micronet.runs.folder import save
from micronet.utils.errors import UserError

FILES = ["config.json", "model.safetensors"]


def compressed(model, *, step="range", epochs=1, images=(4, 3, 32, 32), **train_section):
    """A network that was pruned and quantized, after a few steps of training."""
    quantized = {"bits": 4, "step": step}
    recipe = micronet.Recipe.from_dict(
        {
            "train": {"epochs": epochs, **train_section},
            "prune": {
                "groups": [{"layers": ["*"], "final_sparsity": 0.5}],
                "method": "one-shot",
            },
            "quantize": {"weights": quantized, "activations": quantized},
        }
    )
    compression = micronet.compress(model, recipe)
    for _ in range(epochs):
        trained(compression, images)
    return compression


def trained(compression, images=(4, 3, 32, 32), steps=2):
    model = compression.model.train()
    compression.begin_epoch()
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.05, momentum=0.9)
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        F.cross_entropy(
            model(torch.randn(*images, generator=random)), torch.arange(images[0]) % 4
        ).backward()
        optimizer.step()
        compression.step()
    model.eval()


@torch.no_grad()
def logits(model, side=32):
    random = torch.Generator().manual_seed(7)
    return model.eval()(torch.randn(3, 3, side, side, generator=random))


class Own(nn.Module):
    """A network that nothing of ours makes: dense, depthwise and in float, with buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("limit", torch.tensor(torch.inf))

    def forward(self, x):
        x = F.relu(self.bn(self.first(x)))
        return self.fc(self.depthwise(x).mean((2, 3)).clamp(max=self.limit))


def own(seed=0):
    torch.manual_seed(seed)
    return Own()


def refused(match, network, where, **about):
    before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=match) as error:
        save(network, where, **about)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in where.rglob("*") if p.is_file()} == before
