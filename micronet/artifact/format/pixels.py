"""How a file that reads grey values says its images are normalized: in one way, and in float32."""

from __future__ import annotations

from micronet.artifact.format.document import About, Document
from micronet.artifact.format.nodes import Node, Pixels
from micronet.quantization.images.moments import are_same
from micronet.quantization.quantizers.images import moments_problem
from micronet.utils.errors import UserError


def completed(about: About, nodes: tuple[Node, ...]) -> About:
    """Return what is known of a network, with the normalization that its nodes know."""
    found = [node for node in nodes if isinstance(node, Pixels)]
    if about.mean is not None or about.std is not None or not found:
        return about
    return About(about.arch, about.classes, found[0].mean, found[0].std)


def check(document: Document, where: str) -> None:
    """Hold the nodes of grey values to the normalization that the document tells.

    Args:
        document: whose parts have their types.
        where: it comes from, for messages.

    Raises:
        UserError: a normalization tells no 256 grey values apart, or two are not the same.
    """
    about = document.about
    for index, node in enumerate(document.nodes):
        if not isinstance(node, Pixels):
            continue
        if problem := moments_problem(node.mean, node.std):
            raise UserError(f"{where}: nodes[{index}] (pixels): {problem}")
        if about.mean is None or about.std is None:
            raise UserError(f"{where}: about lacks the mean and std of nodes[{index}] (pixels)")
        if not are_same((node.mean, node.std), (about.mean, about.std)):
            raise UserError(
                f"{where}: nodes[{index}] (pixels) has mean {list(node.mean)} and std "
                f"{list(node.std)}, but about {list(about.mean)} and {list(about.std)}"
            )
