"""Transformers' Trainer with the callback: the weights of a plain loop, resumed or not."""

import pytest
import torch

import plain_loops
from micronet.utils.errors import UserError

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import transformers

from micronet.integrations.transformers import CompressionCallback

# What other packages warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def network():
    """A ResNet of Transformers, the same weights each time."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=plain_loops.CLASSES,
    )
    return transformers.ResNetForImageClassification(config)


class Images(torch.utils.data.Dataset):
    """Dicts, as a network of Transformers is called with."""

    def __init__(self, count=8):
        self.data = plain_loops.data(count)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        image, label = self.data[place]
        return {"pixel_values": image, "labels": int(label)}


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(folder, callback, model=None, **options):
    options = {"num_train_epochs": plain_loops.EPOCHS, "save_strategy": "epoch", **options}
    args = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=plain_loops.BATCH,
        per_device_eval_batch_size=plain_loops.BATCH,
        learning_rate=0.003,
        weight_decay=0.1,
        max_grad_norm=0.0,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="steps",
        logging_steps=8,
        **options,
    )
    made = InOrder(
        model=model or network(),
        args=args,
        train_dataset=Images(),
        eval_dataset=Images(1),
        callbacks=[callback],
    )
    # The network takes any keyword and leaves the mean over an accumulated batch to the Trainer.
    made.model_accepts_loss_kwargs = False
    return made


def plain(recipe, accumulate=1):
    """The loop of ``plain_loops`` with the Trainer's optimizer, schedule and loss."""
    model = network()
    reference = trainer("unused", transformers.TrainerCallback(), model, save_strategy="no")
    steps = plain_loops.EPOCHS * 8 // accumulate

    def optimizer_and_schedule(parameters):
        reference.create_optimizer_and_scheduler(steps)
        return reference.optimizer, reference.lr_scheduler

    def loss(images, labels):
        return model(pixel_values=images, labels=labels).loss

    return plain_loops.train(model, recipe, accumulate, None, optimizer_and_schedule, loss)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_has_the_weights_of_a_plain_loop(tmp_path, step, accumulate):
    recipe = plain_loops.recipe(step)
    expected, losses = plain(recipe, accumulate)
    callback = CompressionCallback(recipe)
    own = trainer(tmp_path, callback, gradient_accumulation_steps=accumulate)
    own.train()
    plain_loops.assert_same_network(callback.compression, expected)
    plain_loops.assert_compressed(callback.compression, layers=7)
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


OFTEN = {"save_strategy": "steps", "save_steps": 4}


@pytest.fixture(scope="module", params=["range", "learned"])
def undisturbed(request, tmp_path_factory):
    """A recipe, what a plain loop makes by it, and the folder of a Trainer's checkpoints."""
    recipe, folder = plain_loops.recipe(request.param), tmp_path_factory.mktemp("undisturbed")
    trainer(folder, CompressionCallback(recipe), **OFTEN).train()
    return recipe, plain(recipe)[0], folder


@pytest.mark.parametrize("steps", [8, 12, 16, 24])
def test_resumed_training_has_the_weights_of_an_undisturbed_one(tmp_path, undisturbed, steps):
    recipe, expected, saved = undisturbed
    callback = CompressionCallback(recipe)
    again = trainer(tmp_path, callback, save_strategy="no")
    folder = callback.resume(again, saved / f"checkpoint-{steps}")
    again.train(resume_from_checkpoint=folder)
    plain_loops.assert_same_network(callback.compression, expected)


@pytest.mark.slow
def test_the_average_is_evaluated_and_the_trained_weights_are_stored(tmp_path):
    class Seen(transformers.TrainerCallback):
        def on_prediction_step(self, args, state, control, model, **kwargs):
            self.state = {n: t.clone() for n, t in model.state_dict().items()}

    recipe, seen = plain_loops.recipe(), Seen()
    callback = CompressionCallback(recipe)
    own = trainer(tmp_path, callback, eval_strategy="epoch")
    own.add_callback(seen)
    own.train()
    plain_loops.assert_same_network(callback.compression, plain(recipe)[0])
    for name, tensor in callback.compression.average.tensors.items():
        assert torch.equal(seen.state[name], tensor), name
    stored = transformers.trainer_utils.get_last_checkpoint(str(tmp_path))
    model = network()
    resumed = CompressionCallback(recipe)
    again = trainer(tmp_path, resumed, model)
    again.train(resume_from_checkpoint=resumed.resume(again))
    assert stored.endswith("-32")
    plain_loops.assert_same_network(resumed.compression, callback.compression)


def test_what_cannot_be_resumed_is_one_sentence(tmp_path):
    recipe = plain_loops.recipe()
    callback = CompressionCallback(recipe)
    first = trainer(tmp_path, callback)
    with pytest.raises(UserError, match=r"there is no checkpoint in .* to resume from"):
        callback.resume(first)
    first.train()
    again = trainer(tmp_path, CompressionCallback(recipe))
    with pytest.raises(UserError, match=r"is resumed by trainer\.train"):
        again.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-32/micronet_compression.pt").unlink()
    with pytest.raises(UserError, match="a run without this callback wrote it"):
        callback.resume(again)
