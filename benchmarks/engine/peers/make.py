"""``python -m benchmarks.engine.peers.make ENGINE FOLDER NETWORK``: the int8 model of one peer.

Post-training quantization as each peer's own documentation has it, of weights and activations, on
random images: what values they have does not change the time of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.engine import settings
from benchmarks.engine.settings import Network, Setting

CALIBRATION = 16


def images(network: Network, batch: int = 1) -> Iterator[np.ndarray]:
    """Yield normalized images, [N, 3, side, side]."""
    generator = np.random.default_rng(0)
    shape = (batch, 3, network.side, network.side)
    for _ in range(CALIBRATION // batch):
        yield generator.standard_normal(shape, dtype=np.float32)


def onnxruntime(folder: Path, network: Network) -> None:
    """Static quantization: QDQ, activations unsigned, weights signed and per channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = images(network)

        def get_next(self):
            found = next(self.images, None)
            return None if found is None else {"images": found}

    source = settings.float_model(folder, network.name)
    target = settings.peer_model(folder, settings.ONNXRUNTIME, Setting(network.name, 1, 1))
    prepared = source.with_suffix(".prepared.onnx")
    shape_inference.quant_pre_process(str(source), str(prepared))
    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    prepared.unlink()


def openvino(folder: Path, network: Network) -> None:
    """Post-training quantization of NNCF, its defaults."""
    import nncf
    import openvino

    model = openvino.convert_model(str(settings.float_model(folder, network.name)))
    dataset = nncf.Dataset(list(images(network)))
    quantized = nncf.quantize(model, dataset, subset_size=CALIBRATION)
    target = settings.peer_model(folder, settings.OPENVINO, Setting(network.name, 1, 1))
    openvino.save_model(quantized, target)


def litert(folder: Path, network: Network) -> None:
    """Full integer quantization of TensorFlow's converter, int8 in and out, for each batch."""
    from benchmarks.engine.peers import keras_networks

    model = keras_networks.build(network)
    for threads, batch in settings.SHAPES:
        content = keras_networks.quantized(model, network, batch, images(network, batch))
        setting = Setting(network.name, threads, batch)
        settings.peer_model(folder, settings.LITERT, setting).write_bytes(content)


MAKERS = {
    settings.LITERT: litert,
    settings.OPENVINO: openvino,
    settings.ONNXRUNTIME: onnxruntime,
}


def main(arguments: list[str]) -> None:
    """Make the model that the command line names."""
    engine, folder, name = arguments
    MAKERS[engine](Path(folder), settings.NETWORKS[name])


if __name__ == "__main__":
    main(sys.argv[1:])
