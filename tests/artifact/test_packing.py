"""Codes in groups: the same network in fewer bits than the official rules count."""

import json

import pytest
import torch
from torch import nn

import micronet
import micronet.export
from micronet.__main__ import main
from micronet.artifact import accounting, reader, writer
from micronet.artifact.engine import Engine
from micronet.artifact.format.document import About
from micronet.quantization.quantize import LayerBits
from micronet.runs.folder import save
from micronet.scoring.count import score_subject
from packed_networks import FOUR, assert_same, compressed, content_of, network, packed, read

SHAPE = (3, 9, 9)


@pytest.mark.parametrize("sparsity", [0, 0.6])
def test_groups_are_read_back_and_scored_as_whole_bits(rng, sparsity):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 3), nn.Flatten())
    model.append(nn.Linear(175, 4))
    bits = {"0": LayerBits(2.4, 4), "2": LayerBits(3.5, 3.2), "4": LayerBits(4, None)}
    model = compressed(model, SHAPE, bits, sparsity=sparsity)
    whole = packed(model, SHAPE)
    radix = read(content_of(writer.pack_network(model, SHAPE, About("test"), "radix")))
    layers = radix.document.layers
    assert [layers[name].packing for name in "024"] == [(3, 7), (2, 7), (1, 4)]
    images = torch.randn(3, *SHAPE, generator=rng)
    assert_same(model, reader.network_of(radix), images)
    with torch.no_grad():
        assert (Engine.from_bytes(content_of(radix))(images.numpy()) == model(images).numpy()).all()
    saved = [3 * n - -(-n // 3) * 7 for n in (layers["0"].values,)]
    saved += [4 * n - -(-n // 2) * 7 for n in (layers["2"].values,)]
    account = accounting.account(radix)
    assert account.saved == sum(saved) > 0
    assert account.payload == accounting.account(whole).payload - account.saved
    assert account.payload + account.rounding + account.header == 8 * len(content_of(radix))
    assert accounting.differences(radix) == []
    scores = [score_subject(accounting.subject(file)) for file in (whole, radix)]
    assert scores[0].storage_bits == scores[1].storage_bits == account.payload + account.saved


def test_shared_weights_share_their_groups(rng):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.relu(self.one(x)))

    five = LayerBits(2.4, 4)
    model = compressed(Tied(), SHAPE, {"one": five, "two": five}, sparsity=0)
    file = writer.pack_network(model, SHAPE, About("test"), "radix")
    assert file.document.layers["two"].packing == (3, 7)
    assert_same(model, reader.network_of(file), torch.randn(2, *SHAPE, generator=rng))


def test_the_command_packs_in_groups(tmp_path, capsys):
    torch.manual_seed(3)
    save(network("efficientnet-micro", 32), tmp_path / "saved", image_size=32)
    assert (
        main(
            ["export", str(tmp_path / "saved"), "--out", str(tmp_path / "p"), "--packing", "radix"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "; codes in groups save" in said and "that codes in groups save" in said
    assert (
        main(["export", str(tmp_path / "p"), "--verify", "--against", str(tmp_path / "saved")]) == 0
    )
    capsys.readouterr()
    assert main(["export", str(tmp_path / "p"), "--inspect", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["saved_bits"] > 0
    assert plain["document"]["layers"]["_fc"]["packing"] == [3, 7]
    assert main(["export", str(tmp_path / "p"), "--verify", "--packing", "radix"]) == 2
    assert "--packing radix goes with --out" in capsys.readouterr().err


def test_a_packing_that_there_is_not(tmp_path):
    model = compressed(nn.Sequential(nn.Conv2d(3, 4, 3)), SHAPE, {"0": FOUR})
    with pytest.raises(micronet.UserError, match="packing is 'dense', but must be 'whole' or 'rad"):
        micronet.export(model, tmp_path, image_size=9, packing="dense")
