"""``python -m benchmarks.engine.peers.litert_profile MODEL RUNS``: LiteRT's own time by operator.

The wheel's Python has no profiler and no benchmark_model; its library has both the profiler and
the C functions for it (litert/c/litert_profiler.h). A compiled model with the runtime option
``enable_profiling`` reports each operator of XNNPACK. Prints one JSON line: for each run its
events, [node, name, microseconds].
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from pathlib import Path

_WARMUP = 5
_CPU = 1
# Of litert_profiler_event.h: operators of the interpreter, inside delegates, and of delegates.
_OPERATORS = (1 << 1, 1 << 2, 1 << 3)
_OPTIONS = (
    (b"runtime_options_string", b"enable_profiling = true\n"),
    (b"xnnpack", b"num_threads = 1\n"),
)


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType: an element type, and a layout of 68 bytes."""

    _fields_ = [("element", ctypes.c_int32), ("layout", ctypes.c_uint32 * 17)]


class _Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_size_t * 6),
        ("node", ctypes.c_uint64),
        ("metadata", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class Model:
    """A compiled model whose runs are profiled."""

    def __init__(self, path: str) -> None:
        """Load a model of one input and one output. Raises RuntimeError where LiteRT does."""
        spec = importlib.util.find_spec("ai_edge_litert")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("no ai_edge_litert")
        self._library = ctypes.CDLL(str(Path(spec.origin).with_name("libLiteRt.so")))
        self._kept: list[object] = []
        environment = self._made("CreateEnvironment", 0, None)
        model = self._made("CreateModelFromFile", environment, os.fsencode(path))
        options = self._options()
        self._compiled = self._made("CreateCompiledModel", environment, model, options)
        signature = self._made("GetModelSignature", model, ctypes.c_size_t(0))
        self._buffers = [self._buffer(environment, signature, kind) for kind in ("Input", "Output")]
        self._profiler = self._made("CompiledModelGetProfiler", self._compiled)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status != 0:
            raise RuntimeError(f"LiteRt{name} ends with status {status}")

    def _made(self, name: str, *arguments: object) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _options(self) -> ctypes.c_void_p:
        options = self._made("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, _CPU)
        freed = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda payload: None)
        self._kept.append(freed)
        for name, text in _OPTIONS:
            payload = ctypes.create_string_buffer(text)
            self._kept.append(payload)
            opaque = self._made("CreateOpaqueOptions", name, payload, freed)
            self._call("AddOpaqueOptions", options, opaque)
        return options

    def _buffer(self, environment: object, signature: object, kind: str) -> ctypes.c_void_p:
        first, type_ = ctypes.c_size_t(0), _TensorType()
        tensor = self._made(f"GetSignature{kind}TensorByIndex", signature, first)
        self._call("GetRankedTensorType", tensor, ctypes.byref(type_))
        wanted = f"GetCompiledModel{kind}BufferRequirements"
        needs = self._made(wanted, self._compiled, first, first)
        made = "CreateManagedTensorBufferFromRequirements"
        return self._made(made, environment, ctypes.byref(type_), needs)

    def run(self) -> list[tuple[int, str, float]]:
        """Run once; return node, name and microseconds of its operators."""
        one, (input_, output) = ctypes.c_size_t(1), self._buffers
        inputs, outputs = (ctypes.c_void_p * 1)(input_), (ctypes.c_void_p * 1)(output)
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        arguments = (ctypes.c_size_t(0), one, inputs, one, outputs)
        self._call("RunCompiledModel", self._compiled, *arguments)
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count.value, events)
        return [
            (int(event.node), event.tag.decode(), float(event.elapsed_us))
            for event in events
            if event.type in _OPERATORS
        ]


def main(arguments: list[str]) -> None:
    """Profile the model of the command line."""
    path, runs = arguments
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = Model(path)
    for _ in range(_WARMUP):
        model.run()
    print(json.dumps([model.run() for _ in range(int(runs))]), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
