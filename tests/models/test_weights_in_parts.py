"""Weights that a file holds in parts: pruned, normalized or parametrized."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from weight_files import assert_refused, assert_same, loaded, small, starting


def of_layers(change):
    def apply(net):
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                change(module)

    return apply


def prune_all(net):
    of_layers(lambda m: prune.l1_unstructured(m, "weight", 0.5))(net)
    prune.random_unstructured(net[6], "bias", 0.4)


def scalar_norm(module):
    weight_norm(module, dim=None)


PARTS = {
    "pruned": prune_all,
    "structured": of_layers(lambda m: prune.ln_structured(m, "weight", 0.5, n=2, dim=0)),
    "weight_norm": of_layers(weight_norm),
    "weight_norm of inputs": of_layers(lambda m: weight_norm(m, dim=1)),
    "weight_norm of all": of_layers(scalar_norm),
    "weight_norm, parametrized": of_layers(parametrizations.weight_norm),
    "weight_norm of inputs, parametrized": of_layers(
        lambda m: parametrizations.weight_norm(m, dim=1)
    ),
    "spectral_norm": of_layers(spectral_norm),
    "spectral_norm, parametrized": of_layers(parametrizations.spectral_norm),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("start", ["", "module."])
@pytest.mark.parametrize("kind", PARTS)
def test_weights_in_parts_are_what_torch_computes_of_them(kind, start, tmp_path):
    net = small()
    PARTS[kind](net)
    net.eval()
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(image)
    torch.save({"state_dict": starting(start, net.state_dict())}, tmp_path / "w.pth")
    plain = loaded(tmp_path / "w.pth", small())
    with torch.no_grad():
        answer = plain(image)
    assert torch.equal(answer, expected)
    zeros = int((plain[0].weight == 0).sum())
    assert zeros == (108 if kind in ("pruned", "structured") else 0)


def test_a_parametrization_of_no_known_kind_is_named(tmp_path):
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight + 1

    net = small()
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert_refused(
        tmp_path / "w.pth",
        "'0.weight' is absent there",
        "'0.parametrizations.weight.original'",
        network=small(),
    )


def test_a_network_that_has_parts_itself_keeps_them(tmp_path):
    net, other = small(), small()
    for each in (net, other):
        prune.l1_unstructured(each[0], "weight", 0.5)
    with torch.no_grad():
        net[0].weight_orig.add_(1)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth", other), net.state_dict())
