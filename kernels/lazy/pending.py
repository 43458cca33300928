"""A tensor whose memory is filled when it is first needed, and which nobody can tell from others.

It has a shape, strides, an edge in the graph of autograd and a version, as any tensor, but no
memory. Every operation that reaches the dispatcher, from Python or from C++, reads, writes or
shares one piece of memory, which is computed at the first of them. What goes around the dispatcher
finds a data pointer that raises.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only


class Source(Protocol):
    """What the values of a tensor are computed from."""

    def values(self) -> Tensor:
        """The values, float32, in the strides of the tensor."""


class Cell:
    """The one memory of a tensor and of all that are detached from it.

    Attributes:
        source: what the values come from; None once they were written, or somebody may write them.
        is_owner: whether the memory is known to be nobody else's.
    """

    def __init__(self, source: Source) -> None:
        self.source: Source | None = source
        self.is_owner = False
        self._memory: Tensor | None = None
        self._lock = threading.Lock()

    def read(self) -> Tensor:
        """Return the memory, computed at the first call."""
        with self._lock:
            if self._memory is None:
                assert self.source is not None
                self._memory = _computed(self.source)
            return self._memory

    def open(self, may_be_borrowed: bool) -> Tensor:
        """Return the memory for a write, or for an alias through which others may write."""
        memory = self.read()
        if may_be_borrowed and not self.is_owner:
            memory = memory.clone()
        self._memory, self.source, self.is_owner = memory, None, True
        return memory

    def replace(self, source: Source) -> None:
        """Take other values, while nobody has an alias of the memory."""
        self._memory, self.source = None, source

    def take(self, memory: Tensor) -> None:
        """Take a memory that is there already."""
        self._memory, self.source, self.is_owner = memory, None, True


_KEYS = torch._C._TorchDispatchModeKey
_RECORDERS = (_KEYS.FAKE, _KEYS.PROXY, _KEYS.FUNCTIONAL)

# The types that no stranger has a say in.
_OURS: set[type] = {Tensor, nn.Parameter}


def is_recorded() -> bool:
    """Whether a mode is on that records operations on fake tensors rather than computes."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    return any(torch._C._get_dispatch_mode(key) is not None for key in _RECORDERS)


def _unrecorded() -> AbstractContextManager[Any]:
    """Leave what there is already out of what is being recorded."""
    return _disable_current_modes() if is_recorded() else nullcontext()


def _computed(source: Source) -> Tensor:
    with torch.no_grad(), _unrecorded():
        return source.values()


class PendingTensor(Tensor):
    """A float32 tensor that waits for its first reader."""

    _cell: Cell

    # Whether what a source computes may be memory of others.
    _MAY_BORROW = False

    def __init_subclass__(cls) -> None:
        _OURS.add(cls)

    @classmethod
    def _make(
        cls, size: torch.Size, strides: tuple[int, ...], device: torch.device, cell: Cell
    ) -> Any:
        new = Tensor._make_wrapper_subclass(
            cls, size, strides=strides, dtype=torch.float32, device=device
        )
        torch._C._set_throw_on_mutable_data_ptr(new)
        new._cell = cell
        return new

    def memory(self) -> Tensor:
        """Return the one memory of the values, as a plain tensor without a gradient."""
        return self._cell.read()

    def plain(self) -> Tensor:
        """Return the values as an ordinary tensor of its own memory, with this one's gradient."""
        return _alias(self).clone()

    def _open(self) -> Tensor:
        return self._cell.open(self._MAY_BORROW)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _COPIES:
            return func(_alias(args[0]), *args[1:], **kwargs)
        if func in _OF_MEMORY or not _OURS.issuperset(types):
            # What takes the memory itself, and a stranger's tensor, see ordinary tensors.
            args, kwargs = tree_map_only(PendingTensor, _handed_over, (args, kwargs))
            return func(*args, **kwargs)
        if func == _SET_DATA and isinstance(args[0], PendingTensor):
            return args[0]._take_data(args[1])
        if func in _OF_AUTOGRAD:
            # Without a guard, since hooks and checkpoints are the user's own code.
            return _OF_AUTOGRAD[func](*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def _take_data(self, data: Tensor) -> None:
        kept = self.shape, torch.float32, self.device
        if (data.shape, data.dtype, data.device) != kept:
            raise RuntimeError(
                f"the data of a tensor of shape {list(self.shape)} that waits for its reader on "
                f"{self.device} cannot be replaced by {data.dtype} of shape {list(data.shape)} on "
                f"{data.device}"
            )
        self._cell.take(data._open() if isinstance(data, PendingTensor) else data.detach())
        _follow_geometry(self)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach_.default:
            # Autograd has cut the edge already; nothing is read.
            return args[0]
        if func is torch.ops.aten.detach.default:
            (x,) = args
            with torch._C.DisableTorchFunctionSubclass():
                return type(x)._make(x.shape, x.stride(), x.device, x._cell)
        for x in _opened_by(func, args, kwargs):
            x._open()
        owners: dict[int, PendingTensor] = {}

        def read(x: PendingTensor) -> Tensor:
            memory = x.memory()
            owners[id(memory)] = x
            return memory

        args, kwargs = tree_map_only(PendingTensor, read, (args, kwargs))
        result = func(*args, **kwargs)
        if func._schema.is_mutable:
            for owner in owners.values():
                _follow_geometry(owner)
        # An operation in place returns what it was given.
        return tree_map_only(Tensor, lambda t: owners.get(id(t), t), result)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        # What torch.compile takes apart: from there on the values are the tensor.
        self.opened = self._open()
        return ["opened"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, meta: None, size: Any, strides: Any) -> Tensor:
        return inner["opened"]


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: PendingTensor) -> Tensor:
        return x.memory().detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def _handed_over(x: PendingTensor) -> Tensor:
    """An ordinary tensor over the memory of x."""
    x._open()
    with _unrecorded():
        return _alias(x)


def _alias(x: PendingTensor) -> Tensor:
    return _Plain.apply(x) if x.requires_grad else x.memory()


def _opened_by(func: Any, args: Any, kwargs: Any) -> Iterator[PendingTensor]:
    """The tensors whose memory an operator writes or hands out."""
    for position, name in _aliased(func):
        x = args[position] if position < len(args) else kwargs.get(name)
        for one in x if isinstance(x, (list, tuple)) else (x,):
            if isinstance(one, PendingTensor):
                yield one


@functools.cache
def _aliased(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments whose memory an operator writes or hands out."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None
    )


def _follow_geometry(x: PendingTensor) -> None:
    """Give x the shape that an operation in place gave its memory."""
    memory = x.memory()
    if memory.shape == x.shape and memory.stride() == x.stride():
        return
    try:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            x.as_strided_(memory.shape, memory.stride(), 0)
    except RuntimeError:
        raise RuntimeError(
            f"a tensor of shape {list(x.shape)} that waited for its reader cannot take the shape "
            f"{list(memory.shape)} in place: give the operation a tensor of its own"
        ) from None


def _grad(
    outputs: Any, inputs: Any, *args: Any, materialize_grads: bool = False, **kwargs: Any
) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad, whose gradients are numbers and not what is to be done yet."""
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    edges = [_edge(x) if isinstance(x, PendingTensor) and x.requires_grad else x for x in inputs]
    if materialize_grads:
        kwargs["allow_unused"] = True
    found = torch.autograd.grad(_aliases(outputs), edges, *args, **kwargs)
    numbers = [g._open() if isinstance(g, PendingTensor) else g for g in found]
    if materialize_grads:
        pairs = zip(numbers, inputs, strict=True)
        numbers = [torch.zeros_like(x) if g is None else g for g, x in pairs]
    return tuple(numbers)


def _edge(x: PendingTensor) -> GradientEdge:
    # torch's own way to it takes a view, which would open the memory.
    with torch.enable_grad():
        node = x.grad_fn or _Plain.apply(x).grad_fn.next_functions[0][0]
    return GradientEdge(node, x.output_nr)


def _backward(tensors: Any, grads: Any = None, *args: Any, **kwargs: Any) -> None:
    """torch.autograd.backward; Tensor.backward has the same parameters but for their names."""
    grads = kwargs.pop("gradient", kwargs.pop("grad_tensors", grads))
    inputs = kwargs.get("inputs")
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs or ()
    if any(isinstance(x, PendingTensor) for x in inputs):
        with torch._C.DisableTorchFunctionSubclass():
            return torch.autograd.backward(tensors, grads, *args, **kwargs)
    torch.autograd.backward(_aliases(tensors), grads, *args, **kwargs)


def _aliases(tensors: Any) -> Any:
    # Also inside another backward pass, as a checkpoint's, which builds no graph of its own.
    with torch.enable_grad():
        return tree_map_only(PendingTensor, _alias, tensors)


_OF_AUTOGRAD: dict[Any, Callable[..., Any]] = {
    torch.autograd.grad: _grad,
    torch.autograd.backward: _backward,
    Tensor.backward: _backward,
}

_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]

# Functions that copy the memory without the dispatcher.
_COPIES: set[Any] = {
    getattr(Tensor, name) for name in ("__deepcopy__", "__format__", "__repr__", "tolist")
}

# Functions of the memory rather than of the values, which never reach the dispatcher.
_OF_MEMORY: set[Any] = {
    getattr(Tensor, name)
    for name in (
        "__array__",
        "__dlpack__",
        "__dlpack_device__",
        "__reduce_ex__",
        "apply_",
        "data_ptr",
        "is_shared",
        "map_",
        "numpy",
        "share_memory_",
        "storage",
        "untyped_storage",
        "_typed_storage",
    )
} | {Tensor.data.__get__}  # type: ignore[attr-defined]
