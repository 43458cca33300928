"""The peers of the benchmarks compute what ours do, so that their times may be compared."""

import pytest
import torch
import torch._inductor.config

import micronet_kernels as kernels
from benchmarks.harness import methods, ours, peers
from benchmarks.kernels import activation, weights

SHAPE = (16, 64, 4)


def _forward_and_backward(function):
    x, grad = activation.inputs(SHAPE, "float32", "cpu")
    y = function(x)
    y.backward(grad)
    found, x.grad = x.grad, None
    return y.detach(), found


def _agree(ours_of, peers_of):
    """Values to rounding but for a few that lie at a tie or an end, and the same gradient there."""
    (y, grad), (expected, expected_grad) = ours_of, peers_of
    near = (y - expected).abs() <= 8 * torch.finfo(torch.float32).eps * expected.abs().max()
    assert near.float().mean() > 0.99
    assert (grad == expected_grad).float().mean() > 0.99


@pytest.mark.parametrize("peer", ["torch_fused", "distiller", "observer_and_rounding"])
def test_peers_that_move_a_range_compute_what_ours_does(peer):
    function, other = ours.exact("cpu"), getattr(peers, peer)("cpu")
    for _ in range(3):
        _agree(_forward_and_backward(function), _forward_and_backward(other))


def test_peers_with_a_known_range_compute_what_ours_does():
    expected = _forward_and_backward(ours.frozen("cpu"))
    _agree(expected, _forward_and_backward(peers.torch_per_tensor("cpu")))
    _agree(expected, _forward_and_backward(peers.torch_per_channel(SHAPE[1], "cpu")))
    values, grad = _forward_and_backward(peers.in_place("cpu"))
    _agree((expected[0], grad), (values, activation.inputs(SHAPE, "float32", "cpu")[1]))


def test_peers_of_weights_compute_what_ours_does():
    given = weights.inputs(((8, 3, 3, 3), (5, 40)), "cpu")
    function = kernels.fake_quant_weights(given.weights, [16, 16], given.bits)
    for peer in (
        peers.weights_given(given.weights, given.floats),
        peers.weights_found(given.floats),
    ):
        for w, expected in zip(function, peer(given.weights), strict=True):
            _agree((w, given.grads[0]), (expected, given.grads[0]))


def test_every_method_runs_and_leaves_no_gradient(monkeypatch):
    group = activation.group(
        SHAPE,
        "cpu",
        [
            *activation.our_methods(SHAPE, "cpu", "reference"),
            *activation.torch_methods(SHAPE, "cpu"),
            *activation.other_methods(SHAPE, "cpu", with_compiled=False),
        ],
    )
    rows = methods.measure(group, rounds=2, warmup=1)
    assert all(row.ms is not None or row.note for row in rows)
    assert activation.inputs(SHAPE, "float32", "cpu")[0].grad is None
    rows = methods.measure(weights.group(((3, 5), (2, 4, 1, 1)), "cpu", ["reference"]), 2, 0)
    assert [row.label for row in rows if row.ratio == 1] == [weights.TOGETHER] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its other parts
@pytest.mark.parametrize("peer", ["compiled", "compiled_apart"])
def test_compiled_peers_compute_what_ours_does(peer):
    # To learn which vectors it may write, the compiler would build a program for each kind, and
    # load it in a process that imports torch; the same loops without them are what is asked here.
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        function = getattr(peers, peer)(*activation.inputs(SHAPE, "float32", "cpu"))
    other = ours.exact("cpu")
    _forward_and_backward(other)
    with torch._dynamo.config.patch(error_on_recompile=True):
        _agree(_forward_and_backward(other), _forward_and_backward(function))


def test_what_the_compiler_refuses_is_unavailable(monkeypatch):
    def refuse(function, **_):
        def call(x):
            raise RuntimeError("\n  no compiler\n more")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(methods.Unavailable, match=r"^inductor: RuntimeError: no compiler$"):
        peers.compiled(*activation.inputs(SHAPE, "float32", "cpu"))


def test_saved_memory(backend):
    assert ours.saved_bytes_per_element(backend.split()[0], 1 << 12) == 0.125
