"""A loop of thirty lines and the command line give the same weights, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

import micronet
from image_folders import make_folder
from micronet.runs import checkpoint
from micronet.train import main

RECIPE = {
    "train": {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.002,
        "lr_schedule": "cosine",
        "optimizer": "adamw",
        "betas": [0.9, 0.99],
        "weight_decay": 0.05,
        "decay_vectors": False,
        "label_smoothing": 0.1,
        "seed": 5,
    },
    "prune": {"end_epoch": 3, "groups": [{"layers": ["*_conv*"], "final_sparsity": 0.6}]},
    "quantize": {"start_epoch": 1, "weights": {"bits": 4}, "activations": {"bits": 4}},
}
LEARNED = {"weights": {"bits": 4, "step": "learned"}, "activations": {"bits": 4, "step": "learned"}}


def plain_loop(arch, weights, folder, schedule):
    """What a user writes who has a loop of their own."""
    recipe = micronet.Recipe.load(schedule)
    train = recipe.train
    data = micronet.open_data(
        str(folder),
        image_size=32,
        batch_size=train.batch_size,
        seed=train.seed,
        preprocessing=micronet.preprocessing(arch),
    )
    model = micronet.create_model(arch, data.num_classes)
    micronet.load_weights(model, str(weights))
    model.to(memory_format=torch.channels_last)
    compression = micronet.compress(model, recipe, steps_per_epoch=data.steps_per_epoch)
    groups = compression.parameter_groups()
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas)
    for epoch in range(train.epochs):
        compression.begin_epoch(epoch, optimizer)
        model.train()
        for images, labels in data.train(epoch):
            rate = micronet.learning_rate(train, compression.progress)
            micronet.set_learning_rate(optimizer, rate)
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=train.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            compression.step()
    return model, compression


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch,steps",
    [
        ("efficientnet-micro", {}),
        ("efficientnet-micro", LEARNED),
        ("timm:mobilenetv3_small_050", {}),
    ],
)
def test_a_plain_loop_and_the_command_line_agree(arch, steps, tmp_path):
    folder = make_folder(tmp_path / "images", 40, count=8)
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(micronet.create_model(arch, 2).state_dict(), weights)
    pattern = "*conv*" if arch.startswith("timm:") else "*_conv*"
    pruned = RECIPE["prune"]["groups"][0] | {"layers": [pattern]}
    recipe = RECIPE | {"quantize": RECIPE["quantize"] | steps}
    recipe["prune"] = RECIPE["prune"] | {"groups": [pruned]}
    schedule = tmp_path / "recipe.yaml"
    schedule.write_text(yaml.safe_dump(recipe))
    model, compression = plain_loop(arch, weights, folder, schedule)
    command = ["qat", "--arch", arch, "--weights", str(weights)]
    command += ["--data", str(folder), "--image-size", "32", "--schedule", str(schedule)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    found = checkpoint.load(tmp_path / "run" / "last.safetensors")
    state, masks = model.state_dict(), compression.masks.bits
    assert (
        found.group("model").keys() == state.keys() and found.group("mask").keys() == masks.keys()
    )
    for name, tensor in found.group("model").items():
        assert torch.equal(tensor, state[name]), name
    for name, bits in found.group("mask").items():
        assert torch.equal(bits, masks[name]), name
    assert compression.report().sparsity == pytest.approx(0.6, abs=0.01)
