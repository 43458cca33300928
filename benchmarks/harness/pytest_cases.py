"""Groups of methods as cases of pytest-benchmark."""

from collections.abc import Callable

import pytest

from benchmarks.harness.methods import Group, Method, Unavailable, key, wait_for


def each_method(groups: list[Group]) -> Callable:
    """Return the decorator that runs a bench once for each method of each group."""
    cases = [
        pytest.param(group, method, id=f"{group.shape} {key(method)}")
        for group in groups
        for method in group.methods
    ]
    return pytest.mark.parametrize(("group", "method"), cases)


def bench(benchmark, group: Group, method: Method) -> None:
    """Time one method; those of a group that do the same thing are compared with each other."""
    try:
        step = method.prepare()
    except Unavailable as error:
        pytest.skip(str(error))
    wait = wait_for(group.device)

    def once() -> None:
        step()
        wait()

    like = method.against or method.label
    benchmark.group = f"{group.shape} {like}, {method.direction}, {method.dtype}"
    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:  # None under --benchmark-disable
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["GB_per_s"] = round(method.traffic * group.elements / seconds / 1e9, 2)
