"""The stages in order of worth, their limits, and the figures of the RESULT line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage: a module of ``benchmarks.gpu.stages``, done in a process of its own."""

    letter: str
    module: str
    title: str
    limit: float  # seconds
    figures: tuple[str, ...] = ()  # of the RESULT line


STAGES = (
    Stage("a", "device_tests", "The tests that need a device", 150, ("tests_failed",)),
    Stage(
        "b",
        "operators",
        "Fake quantization, masks, packing",
        70,
        ("fake_quant_share_of_copy",),
    ),
    Stage("c", "convolutions", "Convolutions of codes, layer by layer", 50),
    Stage(
        "d",
        "training_step",
        "A training step",
        150,
        ("qat_step_vs_plain_bf16", "qat_memory_vs_plain_bf16"),
    ),
    Stage("e", "bit_identity", "The same bits as the CPU", 60, ("bit_identical",)),
    Stage("f", "cifar10", "The CIFAR-10 recipes", 120, ("cifar10_qat_top1",)),
    Stage("g", "profile", "The costliest kernels", 90),
)
FIGURES = tuple(figure for stage in STAGES for figure in stage.figures)
BUILD_LIMIT, TOTAL_LIMIT = 150, 480


def chosen(letters: str) -> tuple[Stage, ...]:
    """Return the stages of a list of letters such as ``a,c``, in the table's order; all of ''.

    Raises ValueError for a letter that no stage has.
    """
    wanted = [letter.strip() for letter in letters.split(",")] if letters else []
    for letter in wanted:
        if letter not in {stage.letter for stage in STAGES}:
            known = ", ".join(stage.letter for stage in STAGES)
            raise ValueError(f"there is no stage {letter!r}; there are {known}")
    return tuple(stage for stage in STAGES if not wanted or stage.letter in wanted)
