"""``micronet export``: from a run to a file and back, as users call it."""

import json
import shutil
from fractions import Fraction

import pytest
import torch

import micronet
import micronet.export
import micronet.score
from micronet.__main__ import main
from micronet.runs.folder import save
from packed_networks import assert_same, network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved network, and what was exported of it."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("export")
    model = network("efficientnet-micro", 32)
    save(model, out / "saved", image_size=32, classes=[f"c{i}" for i in range(10)])
    assert main(["export", str(out / "saved"), "--out", str(out / "packed")]) == 0
    return out


def run(capsys, *words):
    capsys.readouterr()
    code = main(["export", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_saved_network_is_exported_and_verified(folder, capsys, rng):
    packed, saved = folder / "packed", folder / "saved"
    again = micronet.load_packed(packed)
    assert_same(micronet.load(saved).model, again, torch.randn(2, 3, 32, 32, generator=rng))
    code, out, _ = run(capsys, packed, "--verify", "--against", saved)
    assert code == 0 and "bit for bit, on 4 images" in out and "are counted" in out
    config = json.loads((packed / "config.json").read_text())
    assert config["about"]["classes"][0] == "c0" and config["format"] == "micronet-packed"
    groups = config["quantization_config"]["config_groups"]
    assert groups["group_0"]["weights"]["num_bits"] in (3, 4)


def test_what_is_scored_is_what_is_stored(folder, capsys):
    code, out, _ = run(capsys, folder / "packed", "--inspect", "--json")
    plain = json.loads(out)
    assert code == 0
    size = (folder / "packed" / "model.safetensors").stat().st_size
    assert plain["file_bytes"] == size
    bits = plain["payload_bits"] + plain["rounding_bits"] + 8 * plain["header_bytes"]
    assert bits == 8 * size and sum(plain["tensor_bits"].values()) == plain["payload_bits"]
    assert micronet.score.main([str(folder / "packed"), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert 32 * Fraction(scored["storage"]) == plain["payload_bits"]
    code, out, _ = run(capsys, folder / "packed", "--inspect")
    assert code == 0 and f"{size} bytes" in out and "every node has one arithmetic" in out


def test_two_exports_are_the_same_bytes(folder, tmp_path, capsys):
    assert run(capsys, folder / "saved", "--out", tmp_path / "again")[0] == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "packed" / name).read_bytes()


def test_wrong_commands_are_one_sentence(folder, tmp_path, capsys):
    packed, saved = folder / "packed", folder / "saved"
    for words, message in (
        ([saved], "give one of --out DIR, --inspect and --verify"),
        ([saved, "--out", tmp_path / "a", "--inspect"], "give one of"),
        ([saved, "--out", tmp_path / "a", "--json"], "--json goes with --inspect"),
        ([packed, "--inspect", "--against", saved], "goes with --verify"),
        ([saved, "--inspect"], "have no key 'micronet_packed'"),
        ([tmp_path / "none", "--out", tmp_path / "a"], "there is no run or checkpoint"),
        ([packed, "--out", tmp_path / "a"], "is a packed network"),
        ([saved, "--out", saved], "is of something else: export elsewhere"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2 and message in err and err.count("\n") == 1, (words, err)
    assert not (tmp_path / "a").exists()


def test_another_network_is_not_verified(folder, tmp_path, capsys):
    torch.manual_seed(4)
    save(network("efficientnet-micro", 32), tmp_path / "other", image_size=32)
    code, _, err = run(capsys, folder / "packed", "--verify", "--against", tmp_path / "other")
    assert code == 2 and "gives other logits" in err


def test_a_damaged_file_is_not_verified(folder, tmp_path, capsys):
    shutil.copytree(folder / "packed", tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    code, _, err = run(capsys, tmp_path / "copy", "--verify")
    assert code == 2 and "SHA-256" in err


def test_load_says_which_function_reads_a_packed_network(folder):
    with pytest.raises(
        micronet.UserError,
        match=r"is a packed network, .*: micronet\.load_packed reads it; give the run",
    ):
        micronet.load(folder / "packed")
