"""Tiles of the Triton kernels: timed once, kept in a file that may be anything."""

import json
import stat

import pytest

tuning = pytest.importorskip("micronet_kernels.backends.triton.tuning")
from micronet_kernels.backends.triton.tiles import DEPTHWISE_TILES, PRODUCT_TILES  # noqa: E402

SHAPE = (2, 16, 8, 8)


class Clock:
    """A timer that takes the seconds of each tile from a table, and counts what it timed."""

    def __init__(self, fastest, refused=()):
        self.fastest, self.refused, self.timed, self.running = fastest, refused, 0, None

    def run(self, tile):
        if tile in self.refused:
            raise tuning.OutOfResources(1, 0, "shared memory")
        self.running = tile

    def __call__(self, run):
        run()
        self.timed += 1
        return 1.0 if self.running == self.fastest else 2.0

    def choose(self, device="a chip", kernel="product", tiles=PRODUCT_TILES, shape=SHAPE):
        return tuning.choose(kernel, shape, tiles, self.run, device, self)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONET_CACHE", str(tmp_path / "cache"))
    new_process(monkeypatch)
    return tmp_path / "cache" / "triton_tiles.json"


def new_process(monkeypatch):
    monkeypatch.setattr(tuning, "_chosen", {})


def test_without_a_device_nothing_is_timed_or_written(cache):
    clock = Clock(PRODUCT_TILES[2])
    assert clock.choose(device=None) == PRODUCT_TILES[0]
    assert clock.timed == 0 and not cache.exists()


def test_is_timed_once_and_kept_for_other_processes(cache, monkeypatch):
    clock = Clock(PRODUCT_TILES[2])
    assert [clock.choose() for _ in range(2)] == [PRODUCT_TILES[2]] * 2
    assert clock.timed == len(PRODUCT_TILES)
    new_process(monkeypatch)
    later = Clock(PRODUCT_TILES[1])
    assert later.choose() == PRODUCT_TILES[2] and later.timed == 0


def test_each_device_kernel_and_shape_has_its_own(cache, monkeypatch):
    Clock(PRODUCT_TILES[1]).choose()
    Clock(PRODUCT_TILES[2]).choose(device="another")
    Clock(DEPTHWISE_TILES[3]).choose(kernel="depthwise", tiles=DEPTHWISE_TILES)
    Clock(PRODUCT_TILES[4]).choose(shape=(1, 2, 3))
    new_process(monkeypatch)
    none = Clock(None)
    assert none.choose() == PRODUCT_TILES[1]
    assert none.choose(device="another") == PRODUCT_TILES[2]
    assert none.choose(kernel="depthwise", tiles=DEPTHWISE_TILES) == DEPTHWISE_TILES[3]
    assert none.choose(shape=(1, 2, 3)) == PRODUCT_TILES[4]
    assert none.timed == 0
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_tile_too_large_for_the_device_is_passed_over():
    assert Clock(PRODUCT_TILES[1], refused=PRODUCT_TILES[::2]).choose() == PRODUCT_TILES[1]
    clock = Clock(None, refused=PRODUCT_TILES)
    assert clock.choose(shape=(1,)) == PRODUCT_TILES[0]


FOREIGN = {
    "empty": "",
    "cut off": '{"triton": "',
    "not text": b"\xff\xfe\x00",
    "a list": "[1, 2]",
    "of another triton": json.dumps({"triton": "0.1", "choices": {"a chip": {}}}),
    "without choices": json.dumps({"triton": tuning.triton.__version__, "choices": 3}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_damaged_or_foreign_file_is_written_anew(cache, monkeypatch, name):
    text = FOREIGN[name]
    cache.parent.mkdir()
    cache.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert Clock(PRODUCT_TILES[3]).choose() == PRODUCT_TILES[3]
    new_process(monkeypatch)
    assert Clock(None).choose() == PRODUCT_TILES[3]


@pytest.mark.parametrize("kept", [None, 7, [], {"pixels": 7}, {"product": 3}, {"product": {}}])
def test_choices_that_are_none_are_timed_again(cache, kept):
    shape = "x".join(map(str, SHAPE))
    cache.parent.mkdir()
    for choices in ({"a chip": kept}, {"a chip": {"product": {shape: kept}}}):
        tuning._chosen.clear()
        cache.write_text(json.dumps({"triton": tuning.triton.__version__, "choices": choices}))
        clock = Clock(PRODUCT_TILES[1])
        assert clock.choose() == PRODUCT_TILES[1] and clock.timed == len(PRODUCT_TILES)


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    blocked.chmod(stat.S_IRUSR)
    monkeypatch.setenv("MICRONET_CACHE", str(blocked))
    clock = Clock(PRODUCT_TILES[2])
    assert [clock.choose() for _ in range(2)] == [PRODUCT_TILES[2]] * 2
    assert clock.timed == len(PRODUCT_TILES)


def test_only_cuda_devices_are_timed_and_none_where_it_is_turned_off(monkeypatch):
    assert tuning.device_name(tuning.torch.device("cpu")) is None
    monkeypatch.setenv("MICRONET_TUNE", "0")
    assert tuning.device_name(tuning.torch.device("cuda")) is None
