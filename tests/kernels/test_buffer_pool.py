"""Large outputs come from a pool of buffers, and are tensors like any other."""

import gc
import io
import threading

import pytest
import torch

import micronet_kernels as kernels
from samples import DTYPES, HUGE, draw

ENDS = torch.tensor([-1.0, 1.5])


LIMIT = 1 << 30


@pytest.fixture
def pool():
    """The extension, its pool empty and with room for all that a test makes."""
    from micronet_kernels import _C

    gc.collect()
    _C.set_kept_buffer_limit(0)
    _C.set_kept_buffer_limit(LIMIT)
    assert _C.kept_buffer_bytes() == 0
    with kernels.use_backend("native"):
        yield _C
    _C.set_kept_buffer_limit(LIMIT)


def values(x):
    return kernels.fake_quant_per_tensor(x, ENDS, 16)


def test_a_buffer_is_kept_and_used_again(pool, rng):
    x = draw(rng, HUGE)
    y = values(x)
    address, expected = y.data_ptr(), y.clone()
    del y
    kept = pool.kept_buffer_bytes()
    assert HUGE * 4 <= kept < HUGE * 4 * 1.25
    y = values(x)
    assert y.data_ptr() == address and pool.kept_buffer_bytes() < kept
    assert torch.equal(y, expected)


def test_outputs_that_are_alive_share_nothing(pool, rng):
    inputs = [draw(rng, HUGE) for _ in range(4)]
    expected = [values(x).clone() for x in inputs]
    alive = [values(x) for x in inputs]
    for y, right in zip(alive, expected, strict=True):
        assert torch.equal(y, right)
    assert len({y.data_ptr() for y in alive}) == len(alive)


def test_a_view_keeps_the_buffer_of_what_it_views(pool, rng):
    x = draw(rng, HUGE)
    y = values(x)
    view, expected = y[-1000:], y[-1000:].clone()
    del y
    others = [values(-x) for _ in range(3)]
    assert torch.equal(view, expected) and len(others) == 3


def test_no_more_than_the_limit_is_kept(pool, rng):
    x = draw(rng, HUGE)
    pool.set_kept_buffer_limit(20 << 20)
    several = [values(x) for _ in range(5)]
    del several
    assert 0 < pool.kept_buffer_bytes() <= 20 << 20
    pool.set_kept_buffer_limit(0)
    assert pool.kept_buffer_bytes() == 0
    values(x)
    assert pool.kept_buffer_bytes() == 0


def test_an_output_may_be_freed_by_another_thread(pool, rng):
    outputs = [values(draw(rng, HUGE))]
    thread = threading.Thread(target=outputs.clear)
    thread.start()
    thread.join()
    assert pool.kept_buffer_bytes() >= HUGE * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_tensors_like_any_other(pool, rng, dtype):
    """Changed in place, differentiated, seen by NumPy, saved, moved to shared memory."""
    x = draw(rng, HUGE, dtype=dtype).requires_grad_()
    y = values(x)
    y.mul_(2).sum().backward()
    assert set(x.grad.unique().tolist()) <= {0.0, 2.0}
    y = values(x.detach())
    expected = y.clone()
    assert y.data_ptr() % 64 == 0 and y.is_contiguous()
    assert torch.equal(torch.from_numpy(y.float().numpy()), expected.float())
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    assert torch.equal(torch.load(file), expected)
    assert torch.equal(y.share_memory_(), expected)
