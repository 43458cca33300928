"""Policies for one image and mixes of a batch: by their key alone, and as they should be."""

import pytest
import torch
import yaml

from image_folders import assert_same, make_folder, open_folder
from micronet.compression.compression import Compression
from micronet.data.augmentation import changed, mixed, policy
from micronet.recipe.schema import AugmentSection
from micronet.train import main
from micronet.utils.errors import UserError

POLICIES = ["randaugment", "autoaugment-imagenet", "autoaugment-cifar10"]


def with_policy(data, name):
    data.parts["train"][0].policy = policy(AugmentSection(policy=name), data.name)
    return data


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("side", [32, 96])
def test_policies_change_images_by_seed_epoch_and_sample_alone(name, side, tmp_path):
    root = make_folder(tmp_path / "data", side)
    plain = open_folder(root)
    one = with_policy(open_folder(root), name)
    torch.manual_seed(1)
    first = list(one.train(0))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    # Other batches, other workers: the same images.
    other = with_policy(open_folder(root, batch_size=20, workers=0 if side == 32 else 2), name)
    assert_same(first, other.train(0))
    again = with_policy(open_folder(root), name)
    assert_same(first, again.train(0))
    torch.manual_seed(1)
    list(again.train(0))
    assert torch.equal(torch.get_rng_state(), state), "torch's own stream was drawn from"
    same = [torch.equal(a, b) for (a, _), (b, _) in zip(first, plain.train(0), strict=True)]
    assert not all(same)
    assert not torch.equal(first[0][0], next(one.train(1))[0])


def test_validation_is_left_alone(tmp_path):
    root = make_folder(tmp_path / "data", 32)
    assert_same(
        open_folder(root).validation(), with_policy(open_folder(root), POLICIES[0]).validation()
    )


def test_the_challenge_forbids_one_policy_on_one_data_set():
    section = AugmentSection(policy="autoaugment-cifar10")
    with pytest.raises(UserError, match="forbids"):
        policy(section, "cifar100")
    assert policy(section, "cifar10") is not None
    assert policy(AugmentSection(), "cifar100") is None


def test_mixup_is_the_formula():
    images, labels = torch.randn(6, 3, 4, 4), torch.randint(5, (6,))
    new, shares = mixed(images, labels, 5, AugmentSection(mixup=0.4), seed=3)
    hot = torch.nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    # One share for the whole batch, of each sample and its neighbor.
    part = (new[0] - images[-1]).flatten() @ (images[0] - images[-1]).flatten()
    share = float(part / (images[0] - images[-1]).pow(2).sum())
    torch.testing.assert_close(new, share * images + (1 - share) * images.roll(1, 0))
    torch.testing.assert_close(shares, share * hot + (1 - share) * hot.roll(1, 0))


def test_cutmix_shares_are_those_of_the_pixels():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
    labels = torch.arange(4)
    for seed in range(20):
        new, shares = mixed(images, labels, 4, AugmentSection(cutmix=1.0), seed)
        for sample in range(4):
            kept = float((new[sample] == sample).float().mean())
            assert float(shares[sample, sample]) == pytest.approx(kept, abs=1e-6)


def test_mixes_follow_their_seed_and_leave_torchs_stream():
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    section = AugmentSection(mixup=0.2, cutmix=1.0)
    before = torch.get_rng_state()
    found = [mixed(images, labels, 4, section, seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    alone, share = mixed(images[:1], labels[:1], 4, section, 0)
    assert torch.equal(alone, images[:1]) and share.tolist() == [[1, 0, 0, 0]]
    assert mixed(images, labels, 4, AugmentSection(), 0)[1] is labels


def test_trains_on_what_was_mixed(tmp_path, monkeypatch):
    seen, real = [], Compression.distillation_loss

    def watched(self, logits, taught, labels):
        seen.append(labels)
        return real(self, logits, taught, labels)

    monkeypatch.setattr(Compression, "distillation_loss", watched)
    path = tmp_path / "recipe.yaml"
    augment = {"policy": "randaugment", "mixup": 0.2, "cutmix": 1.0}
    path.write_text(yaml.safe_dump({"train": {"epochs": 1}, "augment": augment}))
    fit = ["fit", "--arch", "resnet20", "--schedule", str(path), "--out", str(tmp_path / "run")]
    assert main([*fit, "--image-size", "8", "--batch-size", "250", "--threads", "1"]) == 0
    assert seen and all(labels.shape == (250, 10) for labels in seen)
    torch.testing.assert_close(torch.cat(seen).sum(1), torch.ones(250 * len(seen)))


@pytest.mark.parametrize(
    "text,part",
    [
        ("augment: {policy: rand}", "augment.policy 'rand'"),
        ("augment: {magnitude: 31}", "augment.magnitude 31"),
        ("augment: {mixup: -1}", "augment.mixup -1"),
        ("augment: {cutmix: .inf}", "augment.cutmix inf"),
    ],
)
def test_mistakes(text, part, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(text)
    fit = ["fit", "--arch", "resnet20", "--schedule", str(tmp_path / "r.yaml")]
    assert main([*fit, "--out", str(tmp_path / "run")]) == 2
    assert part in capsys.readouterr().err


def test_changed_keeps_the_shape_of_pixels():
    pixels = torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8)
    found = changed(policy(AugmentSection(policy="randaugment"), "x"), pixels, 1, 2, 3)
    assert found.shape == pixels.shape and found.dtype == torch.uint8
