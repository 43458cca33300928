"""``python -m benchmarks.engine.worker JOB``: one engine in a process of its own, run when asked.

Standard output carries one JSON object a line: first what is ready, or why nothing is, then for
each line ``N`` of standard input the seconds of N runs, after one that is not timed, and the
processor's, of all threads together. Whatever the engine prints goes to standard error. Runs in
either environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from benchmarks.engine import settings
from benchmarks.engine.settings import Job, Setting

Step = Callable[[], object]


@dataclass(frozen=True)
class Loaded:
    """An engine that is ready, and its version."""

    step: Step
    version: str


# Ours -------------------------------------------------------------------------------------------


def _images(job: Job):
    """Return normalized images, [N, 3, side, side] in float32, the same every time."""
    import numpy as np

    setting = job.setting
    side = settings.NETWORKS[setting.network].side
    shape = (setting.batch, 3, side, side)
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


def _ours(job: Job) -> Loaded:
    import micronet
    from micronet.artifact import engine

    path = settings.packed(Path(job.folder), job.setting.network, job.bits)
    network, images = micronet.Engine(path, threads=job.setting.threads), _images(job)
    return Loaded(lambda: network(images), engine.instruction_set())


# Peers ------------------------------------------------------------------------------------------


def _model(job: Job) -> str:
    folder = Path(job.folder)
    path = settings.peer_model(folder, job.engine, job.setting)
    if not path.exists():
        note = settings.peer_note(folder, job.engine, job.setting.network)
        why = json.loads(note.read_text())["failure"] if note.exists() else f"no {path.name}"
        raise FileNotFoundError(f"its model was not made: {why}")
    return str(path)


def _litert(job: Job) -> Loaded:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(_model(job), num_threads=job.setting.threads)
    interpreter.allocate_tensors()
    (wanted,) = interpreter.get_input_details()
    codes = np.random.default_rng(2).integers(-128, 128, wanted["shape"], dtype=wanted["dtype"])
    interpreter.set_tensor(wanted["index"], codes)
    return Loaded(interpreter.invoke, _version(job))


def _openvino(job: Job) -> Loaded:
    import openvino

    images, core = _images(job), openvino.Core()
    model = core.read_model(_model(job))
    model.reshape(list(images.shape))
    chosen = {
        "INFERENCE_NUM_THREADS": job.setting.threads,
        "NUM_STREAMS": 1,
        # The cores are those of the benchmark's process.
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(model, "CPU", chosen).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))
    return Loaded(request.infer, _version(job))


def _onnxruntime(job: Job) -> Loaded:
    import onnxruntime

    images, options = _images(job), onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.setting.threads, 1
    options.add_free_dimension_override_by_name("batch", job.setting.batch)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(_model(job), options, providers=providers)
    return Loaded(lambda: session.run(None, {"images": images}), _version(job))


def _version(job: Job) -> str:
    import importlib.metadata

    return importlib.metadata.version(settings.PEERS[job.engine])


# torch in float32 -------------------------------------------------------------------------------


def _torch(job: Job) -> Loaded:
    import torch

    from benchmarks.engine import networks

    torch.set_num_threads(job.setting.threads)
    torch.set_grad_enabled(False)
    network = networks.float_network(settings.NETWORKS[job.setting.network])
    images = torch.from_numpy(_images(job))
    if job.engine != settings.TORCH:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if job.engine == settings.COMPILED:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        network = torch.compile(network)
    return Loaded(lambda: network(images), torch.__version__)


LOADERS = {
    settings.OURS: _ours,
    settings.LITERT: _litert,
    settings.OPENVINO: _openvino,
    settings.ONNXRUNTIME: _onnxruntime,
    **dict.fromkeys(settings.TORCHES, _torch),
}


def timed(step: Step, runs: int) -> dict[str, list[float]]:
    """Return the seconds of so many runs, after one that brings the caches back."""
    step()
    found: dict[str, list[float]] = {"seconds": [], "processor": []}
    for _ in range(runs):
        start, started = time.perf_counter(), time.process_time()
        step()
        found["seconds"].append(time.perf_counter() - start)
        found["processor"].append(time.process_time() - started)
    return found


def serve(job: Job, requests: TextIO, answers: TextIO) -> None:
    """Load the engine of a job, and run it as often as each line says until there is none."""

    def answer(**found: object) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        loaded = LOADERS[job.engine](job)
        # Compilers and allocators have done their work after a few runs.
        seconds = timed(loaded.step, 2)["seconds"][-1]
    except Exception as error:  # of whatever kind a package that lacks something fails with
        lines = str(error).strip().splitlines() or [""]
        return answer(missing=f"{type(error).__name__}: {lines[0][:200]}")
    answer(version=loaded.version, seconds=seconds)
    for line in requests:
        answer(**timed(loaded.step, int(line)))


def main(arguments: list[str]) -> None:
    """Serve the job of the command line."""
    plain = json.loads(arguments[0])
    job = Job(**{**plain, "setting": Setting(**plain["setting"])})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(job, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
