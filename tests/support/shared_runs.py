"""Runs that many tests start from, trained once for all workers of pytest."""

import fcntl
import functools
import os
from contextlib import contextmanager

import pytest
import yaml

SMALL = ["--image-size", "8", "--batch-size", "250", "--threads", "1"]
# An epoch of SMALL has five steps.
THREE_STEPS = ["--image-size", "8", "--batch-size", "400", "--threads", "1"]


def shared_folder(tmp_path_factory):
    """The folder of temporary files that is the same for all workers of pytest."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def fitted_run(tmp_path_factory, arch="resnet20"):
    """A network after two short epochs on small digits; tests read it and leave it as it is."""
    from micronet.train import main  # tests of kernels alone do not need the trainer

    folder = shared_folder(tmp_path_factory) / "shared-runs"
    folder.mkdir(exist_ok=True)
    out, done = folder / arch, folder / f"{arch}.done"
    with open(folder / f"{arch}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            arguments = ["fit", "--arch", arch, "--epochs", "2", "--lr", "0.1"]
            assert main([*arguments, "--out", str(out), *SMALL]) == 0
            done.touch()
    return out


@contextmanager
def resnet8_by_name():
    """A CIFAR ResNet of one block a stage can be named as any other network."""
    from micronet.models import architectures
    from micronet.models.small import networks
    from micronet.models.small.cifar_resnet import CifarResNet

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "resnet8", functools.partial(CifarResNet, 8))
        architectures.architectures.cache_clear()
        yield
    architectures.architectures.cache_clear()


def qat_command(fitted, folder, recipe, options=SMALL):
    """The words of a ``qat`` of that run by a recipe, which is written into a folder."""
    schedule = folder / "recipe.yaml"
    schedule.write_text(yaml.safe_dump(recipe))
    return ["qat", "--from", str(fitted), "--schedule", str(schedule), *options]
