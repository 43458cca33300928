"""Fake quantization of activations: our backends beside torch's own operators."""

from benchmarks.harness import shapes
from benchmarks.harness.methods import Group
from benchmarks.harness.ours import backends
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.kernels import activation

OPERATORS = ("update_range_", "fake_quant_per_tensor_observed", "quantize_per_tensor")


def groups(device: str = "cpu") -> list[Group]:
    """Return one group for each shape of EfficientNet-B1 that is timed."""
    able = backends("fake_quant_per_tensor", device)
    able = [name for name in able if all(name in backends(op, device) for op in OPERATORS)]

    def methods(shape):
        own = [m for backend in able for m in activation.our_methods(shape, device, backend)]
        return own + activation.torch_methods(shape, device)

    return [activation.group(shape, device, methods(shape)) for shape in shapes.TIMED]


@each_method(groups())
def bench_fake_quant(benchmark, group, method):
    bench(benchmark, group, method)
