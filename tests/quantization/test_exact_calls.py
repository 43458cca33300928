"""What a call of a quantized network leaves alone, and what lies around or inside of one."""

import contextlib
import copy
import io
import threading

import pytest
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

import micronet
from mean_networks import SHAPE, Body, Means, images_of, in_lanes, means_network, quantized
from micronet.quantization.evaluation import exact_functions
from packed_networks import FOUR, bits_of, compressed


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test leaves a mode behind."""
    yield
    assert _get_current_function_mode_stack() == []


# Of so many numbers torch's order gives another mean.
TELLING = torch.full((1, 1, 1, 4096), 0.1) + torch.linspace(0, 1, 4096)


def test_outside_of_a_call_functions_are_torchs_own(rng):
    torchs = TELLING.mean((2, 3))
    model = quantized(lambda *_: TELLING.mean((2, 3)))
    with torch.no_grad():
        stated = model(images_of(rng))
    assert torch.equal(stated, in_lanes(TELLING)[..., 0]) and not torch.equal(stated, torchs)
    assert torch.equal(TELLING.mean((2, 3)), torchs)
    assert torch.equal(model.forward(images_of(rng)), torchs)
    assert torch.equal(model.train()(images_of(rng)), torchs)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_does_not_end_leaves_functions_as_they_were(error, rng):
    torchs, images = TELLING.mean((2, 3)), images_of(rng)

    def stop(*_):
        raise error("stopped")

    model = quantized(lambda *_: TELLING.mean((2, 3)))
    stated = model(images)
    model.do, before = stop, model.do
    with pytest.raises(error, match=r"stopped"):
        model(images)
    # Hooks hear of no interrupt, and the mode of that call answers no more.
    assert len(_get_current_function_mode_stack()) == (error is KeyboardInterrupt)
    assert torch.equal(TELLING.mean((2, 3)), torchs)
    model.do = before
    assert torch.equal(model(images), stated)
    assert torch.equal(TELLING.mean((2, 3)), torchs)


def test_two_threads_do_not_meet(rng):
    inside, done = threading.Event(), threading.Event()
    found = {}

    def wait(*_):
        inside.set()
        assert done.wait(60)
        return TELLING.mean((2, 3))

    model, images = quantized(wait), images_of(rng)
    torchs = TELLING.mean((2, 3))
    worker = threading.Thread(target=lambda: found.update(stated=model(images)))
    worker.start()
    assert inside.wait(60)
    found["here"] = TELLING.mean((2, 3))
    done.set()
    worker.join()
    assert torch.equal(found["here"], torchs)
    assert torch.equal(found["stated"], in_lanes(TELLING)[..., 0])


def test_networks_in_networks(rng):
    """Each ends its own call; the outer one goes on, and a network may call itself."""
    kept = []
    inner = quantized(lambda y, _: y.mean((2, 3)))
    outer = quantized(lambda _, x: (kept.append(inner(x)), TELLING.mean((2, 3)))[1])
    images = images_of(rng)
    with torch.no_grad():
        assert torch.equal(outer(images), in_lanes(TELLING)[..., 0])
        deep = quantized(lambda _, x: (len(x) > 1 and deep(x[1:]), TELLING.mean((2, 3)))[1])
        assert torch.equal(deep(images), in_lanes(TELLING)[..., 0])


def test_hooks_that_watch_a_call_lie_around_or_inside(rng):
    """Modes that hooks of others begin and end in the order of the hooks, not of a stack."""

    class Watch(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen += 1
            return func(*args, **(kwargs or {}))

    for first in (True, False):
        watch, model = Watch(), Body(lambda *_: TELLING.mean((2, 3)))
        if not first:
            model = compressed(model, SHAPE, {"conv": FOUR}, sparsity=0)
        model.register_forward_pre_hook(lambda *_, w=watch: w.__enter__() and None)
        model.register_forward_hook(lambda *_, w=watch: w.__exit__(None, None, None))
        if first:
            model = compressed(model, SHAPE, {"conv": FOUR}, sparsity=0)
        assert torch.equal(model(images_of(rng)), in_lanes(TELLING)[..., 0])
        assert watch.seen and _get_current_function_mode_stack() == []


def test_copies_and_pickles_are_exact_too(rng):
    model = compressed(Means(), SHAPE, {"stem": FOUR, "mix": FOUR})
    images = images_of(rng)
    again = io.BytesIO()
    torch.save(model, again)
    again.seek(0)
    stored = torch.load(again, weights_only=False)
    # Numbers of hooks begin anew in a process that reads a network.
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            handle = stored.register_forward_pre_hook(lambda *_: None)
            stack.callback(handle.remove)
        with torch.no_grad():
            wanted = bits_of(model(images))
            for net in (copy.deepcopy(model), stored, model._replicate_for_data_parallel()):
                assert torch.equal(bits_of(net(images)), wanted)
    micronet.quantize_(model, weights=4, activations=4)
    assert list(model._forward_pre_hooks).count(exact_functions._KEY) == 1


def test_statistics_are_re_estimated_in_the_arithmetic_of_evaluation(rng):
    """That of any number of threads."""
    model, batches = means_network(rng).train(), [images_of(rng), images_of(rng)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            again = copy.deepcopy(model)
            micronet.reestimate_(again, batches)
            statistics = again.norm.running_mean, again.norm.running_var
            with torch.no_grad():
                found.append([*statistics, again.eval()(batches[0])])
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(found[0][0], model.norm.running_mean)
    for one, other in zip(*found, strict=True):
        assert torch.equal(bits_of(one), bits_of(other))


@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_compiled_networks_are_torchs_own(part, rng):
    model, images = means_network(rng), images_of(rng)
    with torch.no_grad():
        wanted = model(images)
        if part:
            model.squeeze = torch.compile(model.squeeze, backend="eager")
            found = model(images)
        else:
            found = torch.compile(model, backend="eager")(images)
        torch._dynamo.reset()
    assert (found - wanted).norm() <= 0.1 * wanted.norm()


def test_exported_and_traced_networks_are_torchs_own(rng):
    model, images = means_network(rng), images_of(rng)
    with torch.no_grad():
        wanted = model(images)
        program = torch.export.export(model, (images,))
        names = {str(node.target) for node in program.graph.nodes}
        assert any("mean" in name for name in names)
        assert not any("block" in name for name in names)
        assert (program.module()(images) - wanted).norm() <= 0.1 * wanted.norm()
