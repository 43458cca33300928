"""``python -m micronet.train schedule FILE --arch A``: what a schedule would do, untrained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from micronet.compression import features
from micronet.compression.plan import check_steps
from micronet.models import architectures, shared_layers
from micronet.models.meta_device import meta_device
from micronet.pruning import prune
from micronet.pruning.patterns import outputs_first_shape
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe, load_recipe, recipe_to_dict
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.scoring.network import plan_files
from micronet.training.optimizer import learning_rate


def preview(path: str, arch: str, num_classes: int, plan: str | None = None) -> str:
    """Return what a schedule does to an architecture: by layer, then by epoch, then its notes.

    A plan file's sparsities and bits stand in for the schedule's, where one is given.

    Raises:
        UserError: the file, the architecture, or a name in the file is wrong.
    """
    recipe = load_recipe(path)
    if plan:
        recipe = plan_files.applied(plan, recipe)
    with meta_device():
        model = architectures.create_model(arch, num_classes)
    groups = prune.layer_groups(model, recipe.prune, recipe.path) if recipe.prune else {}
    bits = quantize.plan(model, recipe.quantize, recipe.path) if recipe.quantize else {}
    if recipe.quantize is not None:
        check_steps(recipe, bits.values())
    if recipe.distill is not None:
        features.resolve(model, recipe.distill, recipe.path)
    parts = [
        f"{path} for {arch}: {', '.join(recipe_to_dict(recipe))}",
        table(_layer_rows(model, groups, bits)),
    ]
    if rows := list(_epoch_rows(model, recipe, groups)):
        parts.append(table([_epoch_head(recipe), *rows]))
    if recipe.notes:
        parts.append("\n".join(["Differs from Distiller:", *(f"- {n}" for n in recipe.notes)]))
    return "\n\n".join(parts)


def _layer_rows(
    model: nn.Module, groups: dict[str, PruneGroup], bits: dict[str, LayerBits]
) -> Iterable[Sequence[str]]:
    yield "layer", "weights", "target", "structure", "epochs", "W bits", "A bits"
    names, owners = shared_layers.all_names(model), shared_layers.owners(model)
    for name, layer in architectures.layers(model).items():
        group, precision = groups.get(owners[name]), bits.get(name, LayerBits(None, None))
        yield (
            shared_layers.label(names[name]),
            f"{layer.weight.numel():,}",
            target_text(group) if group else "-",
            group.structure if group else "-",
            _own_epochs(group) if group else "-",
            *(_bits(b) for b in (precision.weight_bits, precision.activation_bits)),
        )


def target_text(group: PruneGroup) -> str:
    """Return a group's target as text: ``60 %``, ``|w| <= 0.1`` or ``0.5 deviations``."""
    if group.threshold is not None:
        return f"|w| <= {group.threshold:g}"
    if group.sensitivity is not None:
        return f"{group.sensitivity:g} deviations"
    together = " together" if group.scope == "group" else ""
    ranked = f" by {group.criterion}" if group.criterion != PruneGroup.criterion else ""
    return f"{100 * prune.final_sparsity(group):g} %{together}{ranked}"


def _own_epochs(group: PruneGroup) -> str:
    own = (group.start_epoch, group.end_epoch, group.frequency)
    if own == (None, None, None):
        return "all"
    return ":".join("" if value is None else str(value) for value in own)


def _bits(bits: float | None) -> str:
    return "float" if bits is None else f"{bits:g}"


def _epoch_head(recipe: Recipe) -> list[str]:
    groups = recipe.prune.groups if recipe.prune else ()
    columns = [f"group {i}" for i in range(len(groups))]
    return ["epoch", "lr", *columns, *(["sparsity"] if groups else []), "precision", "loss"]


def _epoch_rows(
    model: nn.Module, recipe: Recipe, groups: dict[str, PruneGroup]
) -> Iterable[list[str]]:
    train, section = recipe.train, recipe.prune
    if train is None:
        return
    now = ["-"] * (len(section.groups) if section else 0)
    pruned: dict[str, int] = {}
    layers = architectures.layers(model)
    total = sum(layers[owner].weight.numel() for owner in shared_layers.holders(model))
    for epoch in range(train.epochs):
        if section:
            _fire(section, groups, layers, epoch, now, pruned)
        overall = [f"{100 * sum(pruned.values()) / total:.2f} %"] if section else []
        rate = f"{learning_rate(train, epoch):.3g}"
        yield [str(epoch + 1), rate, *now, *overall, *_precision_and_loss(recipe, epoch)]


def _fire(
    section: PruneSection,
    groups: dict[str, PruneGroup],
    layers: dict[str, architectures.Layer],
    epoch: int,
    now: list[str],
    pruned: dict[str, int],
) -> None:
    """Bring the text of each group and the pruned weights of each layer to an epoch's targets."""
    for index, group in enumerate(section.groups):
        if epoch in prune.firing_epochs(section, group):
            now[index] = _reached(section, group, epoch)
    for name, group in groups.items():
        if epoch in prune.firing_epochs(section, group) and not _by_weights(group):
            share = prune.target_sparsity(section, group, epoch)
            pruned[name] = prune.pruned_of(outputs_first_shape(layers[name]), group, share)


def _by_weights(group: PruneGroup) -> bool:
    return group.threshold is not None or group.sensitivity is not None


def _reached(section: PruneSection, group: PruneGroup, epoch: int) -> str:
    if _by_weights(group):
        return target_text(group)
    return f"{100 * prune.target_sparsity(section, group, epoch):.2f} %"


def _precision_and_loss(recipe: Recipe, epoch: int) -> tuple[str, str]:
    quantized = recipe.quantize is not None and epoch >= recipe.quantize.start_epoch
    distils = recipe.distill is not None and epoch >= recipe.distill.start_epoch
    return _precision(recipe, epoch) if quantized else "float", "distilled" if distils else "labels"


def _precision(recipe: Recipe, epoch: int) -> str:
    """Return the fewest bits of weights and inputs that a stage allows, as ``8/5 bits``."""
    stages = [s for s in recipe.quantize.progressive if s.epoch <= epoch] if recipe.quantize else []
    if not stages:
        return "quantized"
    given = ([s.weights for s in stages], [s.activations for s in stages])
    known = ([bits for bits in bits_of if bits is not None] for bits_of in given)
    return "/".join(f"{bits[-1]:g}" if bits else "-" for bits in known) + " bits"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as text: the first column to the left, the others to the right."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        others = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *others]))
    return "\n".join(lines)
