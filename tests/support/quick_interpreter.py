"""Triton's interpreter without what it finds anew at each operation, which is most of its time."""

import math
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest import mock

import triton.language as tl
from triton.runtime import interpreter


@contextmanager
def quick_interpreter():
    """Find what never changes once: the language's names, types of NumPy, what a shape tells."""
    options = interpreter.interpreter_builder.options
    # Each sum and product of integers is computed twice, for an assertion of the device that is
    # made in debug mode alone.
    quick = interpreter.InterpreterOptions(sanitize_overflow=options.debug)
    replaced = [
        (interpreter, "_patch_lang", lambda fn: interpreter._LangPatchScope()),
        (interpreter, "_get_np_dtype", _quick_dtype(interpreter._get_np_dtype)),
        (interpreter.interpreter_builder, "options", quick),
        (tl.block_type, "__init__", _quick_block(tl.block_type.__init__)),
        (tl.tensor, "__init__", _begin_tensor),
        (tl.core.tuple, "__eq__", _quick_equal(tl.core.tuple.__eq__)),
    ]
    with ExitStack() as stack:
        # The interpreter looks through its language for what to replace at each call of a
        # function. Here all of it is replaced before the first one.
        stack.callback(interpreter._patch_lang(_sees_both_languages()).restore)
        for place, name, value in replaced:
            stack.enter_context(mock.patch.object(place, name, value))
        yield


def _sees_both_languages():
    """A function among whose globals are the two modules that the interpreter changes."""
    return eval("lambda: None", {"tl": tl, "core": tl.core})


def _quick_dtype(get_np_dtype):
    of_numbers = cache(get_np_dtype)

    def quick(dtype):
        element = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        # Types of pointers have no hash.
        return (get_np_dtype if isinstance(element, tl.pointer_type) else of_numbers)(element)

    return quick


def _quick_block(begin):
    @cache
    def of(sizes):
        block = object.__new__(tl.block_type)
        begin(block, tl.float32, list(sizes))
        return block.shape, block.numel, str(block.shape)

    def quick(self, element_ty, shape):
        sizes = tuple([s.value if isinstance(s, tl.constexpr) else s for s in shape])
        self.element_ty = element_ty
        self.shape, self.numel, text = of(sizes)
        self.name = f"<{text}, {element_ty}>"

    return quick


def _quick_equal(equal):
    return lambda self, other: tl.constexpr(True) if self is other else equal(self, other)


@cache
def _constants(sizes):
    return tl.constexpr(math.prod(sizes)), tl.core.tuple([tl.constexpr(s) for s in sizes])


def _begin_tensor(self, handle, type):
    """As in Triton, but that tensors of one shape share its constants."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _constants(tuple(type.shape) if type.is_block() else ())
