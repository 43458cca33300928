"""What the CUDA kernels must move and multiply, and the time that a chip takes for it at least."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.cuda.compiler import Kernel

THREADS = 256  # of a block, as in csrc/cuda/launch.h


@dataclass(frozen=True)
class Chip:
    """A multiprocessor's limits, and the rates of a whole chip; per second."""

    name: str
    processors: int
    hertz: float
    shared: int  # bytes of a multiprocessor for blocks, of which each takes 1 KiB more than it asks
    bytes: float
    int8_macs: float  # of tensor cores, dense

    @property
    def instructions(self) -> float:
        """Instructions of single threads: four warps a cycle and multiprocessor."""
        return self.processors * self.hertz * 4 * 32

    def blocks(self, kernel: Kernel) -> int:
        """Return the blocks of a kernel that a multiprocessor holds at once."""
        warps = THREADS // 32
        # Registers are given to a warp in units of 256.
        by_registers = 65536 // (warps * -(-kernel.registers * 32 // 256) * 256)
        return min(2048 // THREADS, by_registers, self.shared // (kernel.shared + 1024))


# The bytes of the H100 are a measured copy, of the A100 its data sheet's; products are the data
# sheets'.
CHIPS = {
    80: Chip("A100", 108, 1.41e9, 164 * 1024, 1.555e12, 312e12),
    90: Chip("H100", 132, 1.755e9, 228 * 1024, 3.0e12, 989e12),
}

SIZES = {
    "float": 4.0,
    "unsigned int": 4.0,
    "__half": 2.0,
    "__nv_bfloat16": 2.0,
    "unsigned short": 2.0,
    "unsigned char": 1.0,
}
BIT = 1 / 8
SUM = 2.0  # an integer sum of a block, int16 where its bound allows


# Accesses of 16 bytes of device memory, and of any size.
WIDE_LOAD, WIDE_STORE = r"LDG\S*\.128", r"STG\S*\.128"
LOAD, STORE, COUNT_BITS = r"LDG", r"STG", r"POPC"
# Each sum of a block is converted once, by the branch of its type.
CONVERT = r"I2FP?\S*\.[SU]16\b"


@dataclass(frozen=True)
class Cost:
    """The least bytes that an element takes, and the instruction of which each element has one."""

    element: str
    read: float
    written: float
    marker: str = ""
    each: float = 1.0  # elements of one such instruction

    @property
    def moved(self) -> float:
        """Bytes both ways."""
        return self.read + self.written


Rule = Callable[[Kernel], Cost]


def _size(kernel: Kernel, argument: int) -> float:
    return SIZES[kernel.arguments[argument]]


def _fixed(*facts: Any) -> Rule:
    return lambda _: Cost(*facts)


def _packets(argument: int, bits: float, written: float | None) -> Rule:
    """Return the cost of values of an argument's type, read 16 bytes at a time; None: as read."""

    def cost(kernel: Kernel) -> Cost:
        size = _size(kernel, argument)
        out = size if written is None else written
        return Cost("value", size + bits, out, WIDE_LOAD, 16 / size)

    return cost


def _words(reads: float, bits: float, writes: float, marker: str) -> Rule:
    """Return the cost of values of the first argument's type, moved one at a time."""

    def cost(kernel: Kernel) -> Cost:
        size = _size(kernel, 0)
        return Cost("value", reads * size + bits, writes * size, marker)

    return cost


def _code(kernel: Kernel) -> float:
    """Return the bytes of a code, whose bits are the first argument."""
    return int(kernel.arguments[0]) / 8


def _encoded(kernel: Kernel) -> Cost:
    size = _size(kernel, 1)
    return Cost("value", size, _code(kernel) + BIT, WIDE_LOAD, 16 / size)


def _codes_of_sums(kernel: Kernel) -> Cost:
    return Cost("sum", SUM, _code(kernel), CONVERT)


def _rounded(kernel: Kernel) -> Cost:
    size = _size(kernel, 1)
    return Cost("value", size, size + BIT, WIDE_LOAD, 16 / size)


def _round_rows(kernel: Kernel) -> Cost:
    size = _size(kernel, 1)
    return Cost("weight", size + BIT, _size(kernel, 2), WIDE_LOAD, 16 / size)


def _decoded(kernel: Kernel) -> Cost:
    size = _size(kernel, 1)
    return Cost("value", _code(kernel), size, WIDE_STORE, 16 / size)


def _mapped(kernel: Kernel) -> Cost:
    # The gradient that comes is of the type of the one that goes.
    size = _size(kernel, 3)
    return Cost("sum", SUM + size, size, CONVERT)


def _groups(kernel: Kernel) -> Cost:
    packed = 1 / int(kernel.arguments[0])
    packs = kernel.stem == "pack_groups"
    return Cost("code", 1.0 if packs else packed, packed if packs else 1.0)


def _write_mask(kernel: Kernel) -> Cost:
    return Cost("weight", _size(kernel, 0), BIT, LOAD)


# The kernels that stream over elements. Of codes in groups the loop has no instruction an element.
COSTS: dict[str, Rule] = {
    "fake_quant": _rounded,
    "fake_quant_observed": _rounded,
    "fake_quant_learned": _packets(1, BIT, None),
    "encode": _encoded,
    "decode": _decoded,
    "update_range": _packets(0, 0.0, 0.0),
    "count_elements": _packets(0, 0.0, 0.0),
    "select": _packets(0, BIT, None),
    "round_rows": _round_rows,
    "gradients": _words(2, BIT, 1, STORE),
    "compact": _words(1, BIT, 1, STORE),
    "expand": _words(1, BIT, 1, STORE),
    "count_digits": _words(1, 0.0, 0, LOAD),
    "count_ties": _words(1, 0.0, 0, LOAD),
    "write_mask": _write_mask,
    "pack_groups": _groups,
    "unpack_groups": _groups,
    "pack_flags": _fixed("flag", 1.0, BIT, WIDE_LOAD, 16.0),
    "unpack_flags": _fixed("flag", BIT, 1.0, WIDE_STORE, 16.0),
    "count_blocks": _fixed("bit", BIT, 0.0, COUNT_BITS, 32.0),
    "count_ones": _fixed("bit", BIT, 0.0, COUNT_BITS, 32.0),
    "block_values": _fixed("sum", SUM, 4.0, CONVERT),
    "block_codes": _codes_of_sums,
    "block_extremes": _fixed("sum", SUM, 0.0, CONVERT),
    "block_means": _fixed("sum", SUM, 0.0, CONVERT),
    "moments": _fixed("sum", SUM, 0.0, CONVERT),
    "block_gradient": _mapped,
    "gradient_sums": _fixed("sum", SUM + 4.0, 0.0, CONVERT),
    "step_sums": _fixed("sum", SUM + 4.0, 0.0, CONVERT),
    "gate_gradient": _fixed("sum", SUM + 4.0, 4.0, CONVERT),
}


def cost(kernel: Kernel) -> Cost | None:
    """Return what an element of a kernel takes; None where it does not stream over elements."""
    of = COSTS.get(kernel.stem)
    return None if of is None else of(kernel)


def instructions_of(kernel: Kernel, needed: Cost) -> float | None:
    """Return the instructions of an element in the loop over them; None where there is none.

    Every branch of the loop is counted, so it is a bound from above. Of several loops, for whole
    packets and for what is left, the shortest counts.
    """
    if not needed.marker:
        return None
    each = [
        len(loop) / (needed.each * loop.count(needed.marker))
        for loop in kernel.loops
        if loop.count(needed.marker) and (not needed.written or loop.count(STORE))
    ]
    return min(each, default=None)
