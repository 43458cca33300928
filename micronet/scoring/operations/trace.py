"""What the walk knows while the network runs: which tensors are the image's, and who is at work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from micronet.scoring.operations import tensor_axes
from micronet.scoring.operations.records import Op
from micronet.scoring.operations.tensor_axes import Axes, Run

# Images of the batch that is walked. A prime, larger than most numbers of channels, so that work
# that mixes images is no multiple of it; more than one, so that no squeeze removes the batch.
IMAGES = 251


class UncountedError(ValueError):
    """An operation that no rule counts."""


@dataclass
class Frame:
    """One call of a module, and how many reorderings it has done."""

    name: str
    module: nn.Module
    permutations: int = 0


@dataclass
class Trace:
    """Facts about the tensors of one forward pass.

    Attributes:
        model: the network, its parameters and buffers on the meta device.
        only_products: record products with weights alone, and let everything else pass.
        ops: the records; None where a later operation took one back.
        frames: the modules that are being called, outermost first.
        function: the function of torch that is being called, None outside any.
        operator: the operator that was dispatched last.
        used: parameters and buffers that the image has met.
    """

    model: nn.Module = field(repr=False)
    only_products: bool = False
    ops: list[Op | None] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    function: Any = None
    operator: str = ""
    used: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        # A tensor is kept so that no other takes its identity, or its storage's.
        self._kept: dict[int, Tensor] = {}
        self._axes: dict[int, Axes] = {}
        # What stands at each position of an axis that was written to: another's position.
        self._written: dict[int, dict[int, tuple[int, int]]] = {}
        self._of_image: set[int] = set()
        self._sources: dict[int, frozenset[str]] = {}
        # Outputs of layers by identity, how often each is read, and what normalizes which.
        self.outputs: dict[int, str] = {}
        self.reads: Counter[int] = Counter()
        self.normalized: dict[int, int] = {}
        # Sigmoids by identity: their input's identity and version, and their record's place.
        self.sigmoids: dict[int, tuple[int, int, int]] = {}
        for named in (self.model.named_parameters, self.model.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                self._add_sources(tensor, frozenset([name]))

    @property
    def where(self) -> str:
        """Name of the module at work."""
        return self.frames[-1].name if self.frames else ""

    @property
    def task(self) -> str:
        """The subject of a sentence about what is being done."""
        module = self.frames[-1].module if self.frames else self.model
        is_torchs = type(module).__module__.startswith("torch.nn.modules")
        if is_torchs and not any(module.children()):
            return f"module {self.where!r} ({type(module).__name__})"
        name = getattr(self.function, "__name__", self.operator)
        return f"module {self.where!r} calls {name}, which"

    def each(self, count: int) -> int:
        """Return one image's part of a number of elements of the whole batch.

        Raises:
            UncountedError: the images have no equal parts.
        """
        if count % IMAGES:
            raise UncountedError(f"{self.task} mixes the images of a batch")
        return count // IMAGES

    def next_permutation(self) -> int:
        """Return how many reorderings this call of a module has done, and count one more."""
        frame = self.frames[-1]
        frame.permutations += 1
        return frame.permutations - 1

    def keep(self, tensor: Tensor) -> int:
        """Return the identity of a tensor, which no other will have."""
        self._kept[id(tensor)] = tensor
        return id(tensor)

    def is_of_image(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the network's input."""
        return _storage(tensor) in self._of_image

    def sources(self, tensor: Tensor) -> frozenset[str]:
        """Return the parameters and buffers that a tensor is made of."""
        return self._sources.get(_storage(tensor), frozenset())

    def note_results(self, inputs: list[Tensor], results: list[Tensor], of_image: bool) -> None:
        """Note what an operator's results depend on."""
        names = frozenset().union(*(self.sources(t) for t in inputs))
        for result in results:
            if of_image:
                self.add_image(result)
            elif names:
                self._add_sources(result, names)

    def add_image(self, tensor: Tensor) -> None:
        """Note that a tensor depends on the network's input."""
        self._of_image.add(_storage(tensor))
        self.keep(tensor)

    def _add_sources(self, tensor: Tensor, names: frozenset[str]) -> None:
        key = _storage(tensor)
        self._sources[key] = self._sources.get(key, frozenset()) | names
        self.keep(tensor)

    def axes(self, tensor: Tensor) -> Axes:
        """Return the axes of a tensor, new ones where nothing is known of them."""
        key = self.keep(tensor)
        if key not in self._axes:
            self._axes[key] = tensor_axes.of_shape(tensor.shape)
        return self._axes[key]

    def set_axes(self, results: Iterable[Tensor], axes: Iterable[Axes]) -> None:
        """Note the axes of an operator's results."""
        for result, found in zip(results, axes, strict=False):
            self._axes[self.keep(result)] = found

    def writes_in_order(self, target: Run, source: Run) -> bool:
        """Note a write of one run to another; return whether the source's order is kept."""
        if target.axis == source.axis:
            return False
        written = self._written.setdefault(target.axis, {})
        for i in range(target.size):
            position = source.start + i % source.size * source.step
            written[target.start + i] = (source.axis, position)
        return tensor_axes.in_order(
            [p for _, (a, p) in sorted(written.items()) if a == source.axis]
        )

    def layer_of(self, weight: Tensor, numel: int) -> tuple[str, nn.Module | None]:
        """Return the name of a layer by its weights, and its module if that is what runs.

        Args:
            weight: the tensor that the layer multiplies by.
            numel: how many weights it holds, those that are repeated counting once.

        Raises:
            UncountedError: the weights are no parameters and no buffers.
        """
        sources = self.sources(weight)
        if not sources:
            raise UncountedError(f"{self.task} has weights that are no parameter and no buffer")
        for frame in reversed(self.frames):
            prefix = f"{frame.name}." if frame.name else ""
            if _is_layer_of(frame.module, numel) and any(s.startswith(prefix) for s in sources):
                return frame.name, frame.module
        return self._owner(sources, numel), None

    def _owner(self, sources: frozenset[str], numel: int) -> str:
        """Return the layer that all of the weights belong to, or their own name."""
        names = [name for name in self._entries() if name in sources]
        for name in names:
            owner, _, entry = name.rpartition(".")
            if entry == "weight" and _is_layer_of(self.modules[owner], numel):
                return owner
        return names[0]

    def _entries(self) -> Iterator[str]:
        for named in (self.model.named_parameters, self.model.named_buffers):
            yield from (name for name, _ in named(remove_duplicate=False))

    def normalization(self, *tensors: Tensor | None) -> tuple[str, tuple[str, ...]]:
        """Return the name of a batch normalization, and its parameters that its module has not.

        Args:
            tensors: weight, bias and running mean of it.
        """
        names = [n for t in tensors if t is not None for n in sorted(self.sources(t))]
        for name in names:
            owner = name.rpartition(".")[0]
            if isinstance(self.modules[owner], _BatchNorm):
                return owner, tuple(n for n in names if n.rpartition(".")[0] != owner)
        return (names[0] if names else self.where), tuple(dict.fromkeys(names))


def _is_layer_of(module: nn.Module, numel: int) -> bool:
    """Whether a module is a layer of so many weights."""
    return isinstance(module, (_ConvNd, nn.Linear)) and module.weight.numel() == numel


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
