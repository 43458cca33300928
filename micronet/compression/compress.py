"""The way from a recipe to what carries it out on a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from micronet.compression.compression import Compression
from micronet.compression.plan import resolve
from micronet.data.preprocessing import Statistics
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.quantization import quantize, weight_uses
from micronet.recipe.reader import Recipe, checked
from micronet.utils.errors import UserError


def compress(
    model: nn.Module,
    recipe: Recipe,
    *,
    steps_per_epoch: int | None = None,
    example_inputs: Any = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Compression:
    """Hold a recipe to a network, and return what carries it out inside of your training loop.

    The network itself changes, its modules and parameters staying the same objects. It may be one
    that was compressed before: what was pruned stays pruned.

    Args:
        model: any network. What DataParallel puts around one is looked through.
        recipe: ``prune``, ``quantize`` and ``distill`` say what happens when; of ``train``, the
            average of weights, label smoothing, what decays, the rate of learned steps and the
            number of batches of ``Compression.reestimate_`` count here.
        steps_per_epoch: number of ``Compression.step`` in an epoch, for ``Compression.progress``.
        example_inputs: a tuple of arguments, or a dict of keywords, with which the network can be
            called. Where they are given it is called once in evaluation mode, to hold it to using
            its weights through its layers; else the first call of training does.
        mean: of each channel of the pixels in [0, 1], by which images are normalized. A layer whose
            input has the step of an ``image`` needs it.
        std: the standard deviation that goes with it.

    Raises:
        UserError: the recipe names what the network does not have, or a layer cannot be pruned or
            quantized as it says.
    """
    recipe = checked(recipe)
    model = _plain(model, recipe)
    if steps_per_epoch is not None and not steps_per_epoch > 0:
        raise UserError(f"steps_per_epoch {steps_per_epoch} is no number of steps")
    masks = prune.Masks.of(model)
    masks.check(model)
    bits = quantize.precision_of(model)
    plan = resolve(model, recipe, bits, moments=_moments(mean, std))
    if example_inputs is not None:
        weight_uses.check_uses(model, plan.rounded, lambda: _called(model, example_inputs))
    made = Compression(model, plan, recipe.train, masks, bits, steps_per_epoch=steps_per_epoch)
    made.watches_uses, made.recipe = example_inputs is None, recipe
    return made


def _moments(mean: Sequence[float] | None, std: Sequence[float] | None) -> Statistics | None:
    """Return the normalization of images as numbers; tensors and arrays give theirs."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("compress takes mean and std together")
    try:
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)
    except (TypeError, ValueError):
        raise UserError(
            f"mean and std are lists of a number for each channel, not {mean!r} and {std!r}"
        ) from None


def _plain(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Return a network without what stands around it."""
    if not isinstance(model, nn.Module):
        raise UserError(f"compress takes a torch network, not {type(model).__name__}")
    inner = custom.innermost(model)
    if recipe.quantize is not None and inner is not model and custom.is_compiled(model):
        raise UserError(
            "a network that torch.compile has compiled cannot be quantized: its layers compute in "
            "kernels of their own, which torch.compile does not see into"
        )
    custom.check_layers("compress was given", inner)
    architectures.stem_name(inner)
    return inner


def _called(model: nn.Module, inputs: Any) -> object:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
