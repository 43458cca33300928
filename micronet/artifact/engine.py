"""Packed networks without torch: the engine's C API with arrays of numpy. See docs/engine.md."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import operator
import os
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from micronet.utils.errors import UserError

_API_VERSION = 1
_LIBRARY = "libmicronet_engine.so"
_ERROR_SIZE = 1024
_CHANNELS_FIRST, _CHANNELS_LAST = 0, 1


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the engine, which lies beside the kernels.

    Raises:
        UserError: it is not built, or built of another version.
    """
    # The package is found, not imported: importing it loads torch.
    spec = importlib.util.find_spec("micronet_kernels")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [path for folder in folders if (path := Path(folder, _LIBRARY)).is_file()]
    if not found:
        raise UserError(f"the engine is not built: no {_LIBRARY} is beside micronet_kernels")
    library = ctypes.CDLL(str(found[0]))
    if library.micronet_api_version() != _API_VERSION:
        raise UserError(f"{found[0]} is of another version than this package")
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    """State the types of the functions of micronet.h."""
    handle, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    whole, shape = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    floats, real = ctypes.c_void_p, ctypes.POINTER(ctypes.c_double)
    for name, result, *arguments in (
        ("open", handle, text, ctypes.c_int, text, size),
        ("open_bytes", handle, text, size, ctypes.c_int, text, size),
        ("close", None, handle),
        ("input_shape", None, handle, shape),
        ("output_shape", ctypes.c_int, handle, shape),
        ("run", ctypes.c_int, handle, floats, whole, floats, text, size),
        ("run_pixels", ctypes.c_int, handle, floats, whole, ctypes.c_int, floats, text, size),
        ("arena_bytes", whole, handle, whole),
        ("class_count", whole, handle),
        ("class_name", text, handle, whole),
        ("start_profile", None, handle),
        ("step_count", whole, handle),
        ("step", text, handle, whole, real),
        ("instruction_set", text),
        ("choose_instruction_set", ctypes.c_int, text),
    ):
        function = getattr(library, f"micronet_{name}")
        function.restype, function.argtypes = result, arguments


def instruction_set() -> str:
    """Return the name of the instruction set whose loops run."""
    return str(_library().micronet_instruction_set().decode())


def choose_instruction_set(name: str) -> None:
    """Run the loops of another instruction set from now on, in all engines.

    Raises:
        UserError: this machine has none of that name.
    """
    if _library().micronet_choose_instruction_set(name.encode()):
        raise UserError(f"this machine has no instruction set {name!r}")


def _batch_of(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"


def _checked(threads: int) -> int:
    """Return a number of threads that fits what the library takes, which holds it to its limits."""
    try:
        number = operator.index(threads)
    except TypeError:
        number = -1
    if not -1 < number < 1 << 31:
        raise UserError(f"{threads!r} threads are not 1 to 256")
    return number


class Engine:
    """A packed network that runs without torch, with the logits of its evaluation, bit for bit.

    Attributes:
        input_shape: of one image, (C, H, W).
        output_shape: of the output of one image.
        classes: names of the classes, empty where the file has none.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        """Open a packed file, or the ``model.safetensors`` of a folder, and check all of it.

        Args:
            path: of the file or folder.
            threads: that a run is shared by, the caller's among them.

        Raises:
            UserError: the file is none or is damaged, ``threads`` is not 1 to 256, or the engine is
                not built.
        """
        name = os.fsencode(path)
        if b"\0" in name:
            raise UserError(f"{path!r} is no path: it has a null character")
        self._open("open", name, _checked(threads))

    @classmethod
    def from_bytes(cls, content: bytes | bytearray | memoryview, threads: int = 1) -> Engine:
        """Return the network of a packed file's content; as the constructor otherwise."""
        content, engine = bytes(memoryview(content)), cls.__new__(cls)
        engine._open("open_bytes", content, len(content), _checked(threads))
        return engine

    def _open(self, way: str, *arguments: object) -> None:
        self._api = _library()
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        handle = getattr(self._api, f"micronet_{way}")(*arguments, error, _ERROR_SIZE)
        if not handle:
            raise UserError(error.value.decode(errors="replace"))
        self._handle: int = handle
        self._in_use = threading.Lock()
        sizes = (ctypes.c_int64 * 4)()
        self._api.micronet_input_shape(handle, sizes)
        self.input_shape: tuple[int, ...] = tuple(sizes[:3])
        axes = self._api.micronet_output_shape(handle, sizes)
        self.output_shape: tuple[int, ...] = tuple(sizes[:axes])
        count = self._api.micronet_class_count(handle)
        names = [self._api.micronet_class_name(handle, i) for i in range(count)]
        self.classes: tuple[str, ...] = tuple(name.decode(errors="replace") for name in names)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the network's output for a batch.

        Calls from several threads wait for each other: the memory of a run is the engine's. Threads
        that are to run at one time open an engine each.

        Args:
            images: (N, C, H, W), N up to 65536, normalized as in training; converted to float32.

        Returns:
            (N, ...), float32.

        Raises:
            UserError: ``images`` have another shape, or a value that is not finite.
        """
        x = np.ascontiguousarray(images, np.float32)
        if x.shape[1:] != self.input_shape or x.ndim != 4:
            raise UserError(f"images of shape {x.shape} are not {_batch_of(self.input_shape)}")
        return self._run(self._api.micronet_run, x)

    def run_pixels(
        self, pixels: NDArray[np.uint8], channels_last: bool | None = None
    ) -> NDArray[np.float32]:
        """Return the network's output for images as bytes, normalized as the file says.

        The output is that of images which the library's own preprocessing normalized.

        Args:
            pixels: uint8, (N, C, H, W) or (N, H, W, C).
            channels_last: which of the two; None where only one of them fits.

        Returns:
            (N, ...), float32.

        Raises:
            UserError: ``pixels`` are no bytes or have another shape, both orders fit, or the file
                does not say how pixels are normalized.
        """
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8:
            raise UserError(f"pixels are {pixels.dtype}, but must be uint8")
        channels, *size = self.input_shape
        shapes = {False: self.input_shape, True: (*size, channels)}
        fits = [last for last, shape in shapes.items() if pixels.shape[1:] == shape]
        if channels_last is not None:
            fits = [last for last in fits if last == channels_last]
        if len(fits) != 1 or pixels.ndim != 4:
            wanted = " or ".join(map(_batch_of, shapes.values()))
            problem = "are both" if fits else "are not"
            raise UserError(f"pixels of shape {pixels.shape} {problem} {wanted}")
        layout = _CHANNELS_LAST if fits[0] else _CHANNELS_FIRST
        return self._run(self._api.micronet_run_pixels, np.ascontiguousarray(pixels), layout)

    def _run(self, function: Any, x: NDArray[Any], *layout: int) -> NDArray[np.float32]:
        found = np.empty((len(x), *self.output_shape), np.float32)
        if len(x) == 0:
            return found
        error, count = ctypes.create_string_buffer(_ERROR_SIZE), len(x)
        ends = found.ctypes.data, error, _ERROR_SIZE
        # The interpreter lets other threads go on while the library runs.
        with self._in_use:
            failed = function(self._handle, x.ctypes.data, count, *layout, *ends)
        if failed:
            raise UserError(error.value.decode(errors="replace"))
        return found

    def arena_bytes(self, batch: int) -> int:
        """Return the bytes that the signals of a batch take, without weights."""
        return int(self._api.micronet_arena_bytes(self._handle, batch))

    def start_profile(self) -> None:
        """Add up the time of each step of the runs from now on."""
        with self._in_use:
            self._api.micronet_start_profile(self._handle)

    def profile(self) -> list[tuple[str, float]]:
        """Return the title and the seconds of each step since ``start_profile``."""
        seconds, found = ctypes.c_double(), []
        with self._in_use:
            for index in range(self._api.micronet_step_count(self._handle)):
                title = self._api.micronet_step(self._handle, index, ctypes.byref(seconds))
                found.append((title.decode(errors="replace"), seconds.value))
        return found

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: the network's memory is that of one engine.

        Raises:
            TypeError: always.
        """
        raise TypeError("an Engine cannot be copied or pickled: open its file again")

    def __del__(self) -> None:
        """Free the network's memory."""
        if hasattr(self, "_handle"):
            self._api.micronet_close(self._handle)
