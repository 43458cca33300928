"""Fake quantization of weights: all of EfficientNet-B1 at once, layer by layer, and by torch."""

from benchmarks.harness import shapes
from benchmarks.harness.methods import Group
from benchmarks.harness.ours import backends
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.kernels import weights


def groups(device: str = "cpu") -> list[Group]:
    """Return one group: the whole network."""
    able = [
        name
        for name in backends("fake_quant_weights", device)
        if name in backends("fake_quant_per_channel", device)
    ]
    return [weights.group(shapes.weights(), device, able)]


@each_method(groups())
def bench_weights(benchmark, group, method):
    bench(benchmark, group, method)
