"""A module of networks that one test alone can import, and a run of a network of few layers."""

import functools

import pytest

from micronet.models import architectures
from micronet.models.small import networks
from micronet.models.small.cifar_resnet import CifarResNet
from shared_runs import fitted_run
from trial_networks import SOURCE
from user_modules import importable


@pytest.fixture
def nets(tmp_path, monkeypatch, request):
    """The name of a module with the networks above, importable in this test alone."""
    with importable(SOURCE, tmp_path, monkeypatch, request) as name:
        yield name


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """As `fitted`, of one block a stage: a step takes a third of the time.

    The network has its name, resnet8, in the module that asks for it alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "resnet8", functools.partial(CifarResNet, 8))
        architectures.architectures.cache_clear()
        yield fitted_run(tmp_path_factory, "resnet8")
    architectures.architectures.cache_clear()
