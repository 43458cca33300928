"""Lightning's Trainer with the callback: the weights of a plain loop, resumed or not."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import plain_loops
from micronet.compression.one_shot import quantize_
from micronet.recipe.schema import (
    ActivationPrecision,
    OscillationSection,
    ProgressiveStage,
    WeightPrecision,
)
from micronet.utils.errors import UserError

pytest.importorskip("lightning")
import lightning.pytorch as pl

from micronet.integrations.lightning import CompressionCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(pl.LightningModule):
    def __init__(self, model=None, optimizers=1):
        super().__init__()
        self.model = model or plain_loops.network()
        self.optimizers_made = optimizers
        self.losses, self.validated = [], []

    def training_step(self, batch, number):
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, number):
        self.validated.append({n: t.clone() for n, t in self.model.state_dict().items()})

    test_step = validation_step

    def configure_optimizers(self):
        optimizer, schedule = plain_loops.optimizer_and_schedule(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Resumable:
    """Batches that Lightning continues with where a checkpoint left them."""

    def __init__(self):
        self.batches, self.next = list(plain_loops.loader()), 0

    def __iter__(self):
        start, self.next = self.next % len(self.batches), 0
        for place, batch in enumerate(self.batches[start:], start + 1):
            self.next = place
            yield batch

    def __len__(self):
        return len(self.batches)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def trainer(folder, callback, **options):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    checkpoints = pl.callbacks.ModelCheckpoint(folder, save_last=True, filename="{epoch}")
    options = {"max_epochs": plain_loops.EPOCHS, "accelerator": "cpu", **quiet, **options}
    return pl.Trainer(callbacks=[callback, checkpoints], default_root_dir=folder, **options)


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"autocast": torch.bfloat16}], ids=str)
def test_a_fit_has_the_weights_of_a_plain_loop(tmp_path, step, options):
    recipe, data = plain_loops.recipe(step), plain_loops.loader()
    plain, losses = plain_loops.train(plain_loops.network(), recipe, **options)
    module, callback = Classifier(), CompressionCallback(recipe)
    precision = "bf16-mixed" if "autocast" in options else "32-true"
    accumulate = options.get("accumulate", 1)
    fit = trainer(tmp_path, callback, accumulate_grad_batches=accumulate, precision=precision)
    fit.fit(module, data)
    plain_loops.assert_same_network(callback.compression, plain)
    plain_loops.assert_compressed(callback.compression)
    assert module.losses == losses and sum(losses[-8:]) < 0.65 * sum(losses[:8])


@pytest.mark.parametrize("epochs", [1, plain_loops.EPOCHS])
def test_masks_of_second_order_are_those_of_a_plain_loop(tmp_path, epochs):
    """Lightning computes gradients inside of the optimizer's step; resumed or not."""
    recipe, data = plain_loops.by_second_order(), plain_loops.loader()
    plain, _ = plain_loops.train(plain_loops.network(), recipe)
    callback = CompressionCallback(recipe)
    trainer(tmp_path, callback, max_epochs=epochs).fit(Classifier(), data)
    if epochs < plain_loops.EPOCHS:
        callback = CompressionCallback(recipe)
        trainer(tmp_path, callback).fit(Classifier(), data, ckpt_path=str(tmp_path / "last.ckpt"))
    plain_loops.assert_same_network(callback.compression, plain)
    plain_loops.assert_compressed(callback.compression)


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_resumed_fit_has_the_weights_of_an_undisturbed_one(tmp_path, step, epochs):
    recipe, data = plain_loops.recipe(step), plain_loops.loader()
    plain, _ = plain_loops.trained(step)
    first = trainer(tmp_path, CompressionCallback(recipe), max_epochs=epochs)
    first.fit(Classifier(), data)
    callback = CompressionCallback(recipe)
    trainer(tmp_path, callback).fit(Classifier(), data, ckpt_path=str(tmp_path / "last.ckpt"))
    plain_loops.assert_same_network(callback.compression, plain)


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_fit_with_frozen_weights_and_stages_of_bits_is_resumed(tmp_path, epochs):
    made, data = plain_loops.recipe(), plain_loops.loader()
    quantize = dataclasses.replace(
        made.quantize,
        oscillations=OscillationSection(momentum=0.1, freeze=(0.09, 0.03)),
        progressive=(ProgressiveStage(1, 8, 8), ProgressiveStage(2, 4, 4)),
    )
    recipe = dataclasses.replace(made, quantize=quantize)
    plain, _ = plain_loops.train(plain_loops.network(), recipe)
    first = trainer(tmp_path, CompressionCallback(recipe), max_epochs=epochs)
    first.fit(Classifier(), data)
    callback = CompressionCallback(recipe)
    trainer(tmp_path, callback).fit(Classifier(), data, ckpt_path=str(tmp_path / "last.ckpt"))
    plain_loops.assert_same_network(callback.compression, plain)
    known, expected = (c.oscillations.state() for c in (callback.compression, plain))
    assert known.keys() == expected.keys() and plain.oscillations.counts()["frozen"] > 0
    assert all(torch.equal(known[name], tensor) for name, tensor in expected.items())


def test_a_fit_is_resumed_within_an_epoch(tmp_path):
    recipe = plain_loops.recipe("learned")
    plain, _ = plain_loops.trained("learned")
    within = pl.callbacks.ModelCheckpoint(tmp_path, filename="within", every_n_train_steps=12)
    first = trainer(tmp_path, CompressionCallback(recipe), max_epochs=2)
    first.callbacks.append(within)
    first.fit(Classifier(), Resumable())
    callback = CompressionCallback(recipe)
    again = trainer(tmp_path, callback)
    again.fit(Classifier(), Resumable(), ckpt_path=str(tmp_path / "within.ckpt"))
    plain_loops.assert_same_network(callback.compression, plain)


def test_validation_and_tests_see_the_average(tmp_path):
    recipe, data = plain_loops.recipe(), plain_loops.loader()
    plain, _ = plain_loops.trained()
    module, callback = Classifier(), CompressionCallback(recipe)
    fit = trainer(tmp_path, callback)
    fit.fit(module, data, plain_loops.loader(1))
    plain_loops.assert_same_network(callback.compression, plain)
    for seen in (module.validated[-1], seen_in_test(tmp_path, recipe, data)):
        for name, tensor in plain.average.tensors.items():
            assert torch.equal(seen[name], tensor), name


def seen_in_test(folder, recipe, data):
    """The network that a new Trainer tests, from a checkpoint alone."""
    module = Classifier()
    new = trainer(folder, CompressionCallback(recipe))
    new.test(module, plain_loops.loader(1), str(folder / "last.ckpt"))
    return module.validated[-1]


def test_a_network_that_is_quantized_already_is_trained_on(tmp_path):
    model = plain_loops.network()
    quantize_(model, WeightPrecision(4, step="learned"), ActivationPrecision(4, step="learned"))
    before = model[3].weight_step.detach().clone()
    callback = CompressionCallback(plain_loops.recipe("learned"))
    fit = trainer(tmp_path, callback)
    fit.fit(Classifier(model), plain_loops.loader())
    assert not torch.equal(model[3].weight_step, before)
    decays = [group["weight_decay"] for group in fit.optimizers[0].param_groups]
    sizes = [len(group["params"]) for group in fit.optimizers[0].param_groups]
    assert decays == [0.1, 0.0] and sizes == [8, 6]


def test_a_second_fit_goes_on_where_the_first_ended(tmp_path):
    recipe, data = plain_loops.recipe("learned"), plain_loops.loader()
    module, callback = Classifier(), CompressionCallback(recipe)
    fit = trainer(tmp_path, callback, max_epochs=2)
    fit.fit(module, data)
    fit.fit_loop.max_epochs = plain_loops.EPOCHS
    fit.fit(module, data)
    plain_loops.assert_compressed(callback.compression)
    assert callback.compression.num_updates == plain_loops.EPOCHS * len(data)
    trainer(tmp_path, callback, max_epochs=1).fit(module, data)
    assert callback.compression.num_updates == len(data)
    plain_loops.assert_compressed(callback.compression)


def test_an_unclear_network_is_one_sentence(tmp_path):
    class Two(Classifier):
        def __init__(self):
            super().__init__()
            self.teacher = plain_loops.network()

    data = plain_loops.loader()
    recipe = plain_loops.recipe()
    with pytest.raises(UserError, match="Two has layers in 'model', 'teacher': give"):
        trainer(tmp_path, CompressionCallback(recipe)).fit(Two(), data)
    with pytest.raises(UserError, match="network='pupil' is no module of Two"):
        trainer(tmp_path, CompressionCallback(recipe, network="pupil")).fit(Two(), data)
    module, callback = Two(), CompressionCallback(recipe, network="model")
    trainer(tmp_path, callback).fit(module, data)
    plain_loops.assert_compressed(callback.compression)
    assert type(module.teacher[0]) is torch.nn.Conv2d


def test_an_interrupted_fit_leaves_the_network_its_own_weights(tmp_path):
    class Failing(Classifier):
        def validation_step(self, batch, number):
            super().validation_step(batch, number)
            if self.trainer.current_epoch:
                raise RuntimeError("the disk is full")

    module, callback = Failing(), CompressionCallback(plain_loops.recipe())
    data = plain_loops.loader()
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer(tmp_path, callback).fit(module, data, plain_loops.loader(1))
    own = module.model.state_dict()
    assert any(not torch.equal(own[n], t) for n, t in module.validated[-1].items())
    assert "on_load_checkpoint" not in vars(module)
