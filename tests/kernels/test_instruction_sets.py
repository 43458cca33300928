"""The native kernels of the CPU run on the machine's best instruction set, or on the one named."""

import pytest
import torch

import micronet_kernels as kernels
from forked import run_forked
from samples import draw

NAMES = ["baseline", "avx2", "avx512", "avx512vnni", "avx512amx", "neon", "neondot"]
# What names the set in a process, where MICRONET_CPU is read when the extension is loaded.
ASKED = """
import os
{change}
from micronet_kernels import _C
print(_C.instruction_set())
"""
UNSET = ASKED.format(change='os.environ.pop("MICRONET_CPU", None)')


@pytest.fixture
def extension():
    from micronet_kernels import _C

    before = _C.instruction_set()
    yield _C
    _C.use_instruction_set(before)


@pytest.fixture(scope="module")
def chosen_by(tmp_path_factory):
    """What a new process answers, by the value that MICRONET_CPU has in it."""
    named = {
        n: ASKED.format(change=f'os.environ["MICRONET_CPU"] = {n!r}') for n in (*NAMES, "sse9")
    }
    return run_forked(tmp_path_factory.mktemp("processes"), {"unset": UNSET, **named})


def test_the_machine_has_the_baseline_first_and_what_its_processor_names(extension):
    sets = extension.instruction_sets()
    assert sets[0] == "baseline" and sets == [name for name in NAMES if name in sets]
    with open("/proc/cpuinfo") as info:
        flags = next((line.split(":")[1].split() for line in info if line.startswith("flags")), [])
    assert ("avx2" in sets) == {"avx2", "fma", "bmi2", "f16c"}.issubset(flags)
    needed = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"}
    assert ("avx512" in sets) == needed.issubset(flags)
    assert ("avx512vnni" in sets) == {*needed, "avx512_vnni"}.issubset(flags)
    # A kernel may have tiles and not grant them.
    if "avx512amx" in sets:
        assert {*needed, "avx512_vnni", "amx_tile", "amx_int8"}.issubset(flags)


def test_the_best_is_chosen_where_none_is_named(extension, chosen_by):
    done = chosen_by["unset"]
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == extension.instruction_sets()[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_is_obeyed(extension, chosen_by, name):
    done = chosen_by[name]
    if name in extension.instruction_sets():
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == name
    else:
        assert_refused(done, name, extension)


def test_an_unknown_name_in_the_environment_is_refused_in_one_sentence(extension, chosen_by):
    assert_refused(chosen_by["sse9"], "sse9", extension)


def assert_refused(done, name, extension):
    assert done.returncode != 0 and not done.stdout
    sentence = done.stderr.strip().splitlines()[-1]
    assert name in sentence
    assert all(choice in sentence for choice in extension.instruction_sets())


def test_a_set_is_chosen_in_process(extension):
    for name in extension.instruction_sets():
        extension.use_instruction_set(name)
        assert extension.instruction_set() == name


@pytest.mark.parametrize("name", ["", "sse9", "AVX2"])
def test_an_unknown_name_changes_nothing(extension, name):
    before = extension.instruction_set()
    with pytest.raises(ValueError) as refused:
        extension.use_instruction_set(name)
    assert all(choice in str(refused.value) for choice in extension.instruction_sets())
    assert name in str(refused.value)
    assert extension.instruction_set() == before


def test_all_sets_agree_on_a_network_input(extension, rng, same):
    """The sets against each other; against the reference, every test of an operator holds them."""
    x = draw(rng, 2, 32, 56, 57)
    answers = []
    for name in extension.instruction_sets():
        extension.use_instruction_set(name)
        with kernels.use_backend("native"):
            answers.append(kernels.fake_quant_per_tensor(x, torch.tensor([-1.0, 2.0]), 16))
    for answer in answers[1:]:
        same(answer, answers[0])
