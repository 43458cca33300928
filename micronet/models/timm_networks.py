"""Networks of timm, which are named ``timm:NAME``.

timm is an extra of this package, and is imported where one of its networks is asked for: that
takes seconds.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from micronet.data.preprocessing import Preprocessing
from micronet.models.custom import TIMM, on_default_device
from micronet.models.failures import failures_of, reason
from micronet.utils.errors import UserError, nearest


def is_timm(arch: object) -> bool:
    """Whether an architecture is one of timm's."""
    return isinstance(arch, str) and arch.startswith(TIMM)


def create(arch: str, num_classes: int, channels: int, *, pretrained: bool) -> nn.Module:
    """Build one of timm's networks, with random weights or with the published ones.

    Raises:
        UserError: timm is not installed, has no such network or no weights of it, or they cannot be
            fetched.
    """
    timm, name = _package(), _name(arch)
    options = {"num_classes": num_classes, "in_chans": channels}
    if pretrained:
        return _pretrained(arch, name, options)
    with failures_of(f"{arch} cannot be built"):
        return on_default_device(lambda: timm.create_model(name, **options))


def preprocessing(arch: str) -> Preprocessing:
    """Return how timm prepares the images of a network, its size included.

    Raises:
        UserError: timm is not installed, has no such network, or prepares images in a way that is
            not known here.
    """
    _package()
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    name = _name(arch)
    published = get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=published.to_dict() if published else {})
    _, height, width = config["input_size"]
    if height != width:
        raise UserError(f"{arch} takes images of {height}x{width}, but only square ones are read")
    if config["crop_mode"] not in ("center", "squash"):
        raise UserError(f"{arch} wants images cropped by {config['crop_mode']!r}, which is unknown")
    try:
        return Preprocessing(
            height,
            tuple(config["mean"]),
            tuple(config["std"]),
            config["interpolation"],
            config["crop_pct"],
            config["crop_mode"] == "squash",
        )
    except ValueError as error:
        raise UserError(f"the images of {arch} cannot be prepared: {error}") from None


def same_padding_layers() -> tuple[type[nn.Module], ...]:
    """Return timm's convolutions that only add "SAME" padding; none while timm is not in use."""
    return _layers("conv2d_same", "Conv2dSame")


def linear_layers() -> tuple[type[nn.Module], ...]:
    """Return timm's linear layers that compute as torch's; none while timm is not in use."""
    return _layers("linear", "Linear")


def activated_normalizations() -> tuple[type[nn.Module], ...]:
    """Return timm's batch normalization that ends in ``act(drop(x))``; none while not in use."""
    return _layers("norm_act", "BatchNormAct2d")


def _layers(module: str, name: str) -> tuple[type[nn.Module], ...]:
    found = sys.modules.get(f"timm.layers.{module}")
    return (getattr(found, name),) if found is not None else ()


def _package() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"networks named {TIMM}NAME need a package more: pip install micronet[timm]"
        ) from None
    return timm


def _name(arch: str) -> str:
    """Return timm's name of a network, with the tag of its weights where one is given.

    Raises:
        UserError: there is no such network, or no such tag.
    """
    from timm.models import get_pretrained_cfg, is_model, list_models

    name = arch.removeprefix(TIMM)
    stem = name.partition(".")[0]
    if not is_model(stem):
        known = [f"{TIMM}{each}" for each in list_models()]
        raise UserError(f"there is no architecture {arch!r}{nearest(TIMM + stem, known)}")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"there are no such weights as {arch!r}: {error}") from None
    return name


def _pretrained(arch: str, name: str, options: dict[str, int]) -> nn.Module:
    timm = _package()
    from huggingface_hub.utils import logging

    # It reports each of its attempts; what comes of them is said once.
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:
        # Its own, those of the hub and of three libraries of HTTP have no base in common.
        raise UserError(f"cannot fetch the published weights of {arch}: {reason(error)}") from None
    finally:
        logging.set_verbosity(before)
