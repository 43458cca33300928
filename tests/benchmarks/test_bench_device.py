"""The comparison of the emulated device with the CPU: its table, and what it answers."""

import json

import pytest
import torch

from benchmarks.gpu import emulated

pytestmark = pytest.mark.emulated

RUN = ["--networks", "efficientnet-micro", "--count", "3"]


def test_no_bit_differs_and_the_table_says_so(tmp_path, capsys):
    assert emulated.main([*RUN, "--results", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "emulated_bits.json").read_text())
    assert [row["what"] for row in record["rows"]] == ["logits", "codes", "sums"]
    assert record["rows"][0]["values"] == 30 and {row["differ"] for row in record["rows"]} == {0}
    values = sum(row["values"] for row in record["rows"])
    assert (
        values > 10_000 and f'RESULT {{"values": {values}, "differ": 0}}' in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--count", "0"], "--count is 0, but must be at least 1"),
        (["--images", "nowhere"], "--images 'nowhere' is not there"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        emulated.main(arguments)
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


def test_a_bit_that_differs_is_told(tmp_path, monkeypatch, capsys):
    """A kernel that errs by one ulp on the device."""
    from micronet_kernels import dispatch

    table = dispatch.TABLE["native"]["emulated"]
    right = table["block_means"]

    def wrong(*arguments):
        means = right(*arguments)
        return torch.nextafter(means, means.new_tensor(9.0))

    monkeypatch.setitem(table, "block_means", wrong)
    dispatch._resolved.clear()
    try:
        assert emulated.main([*RUN, "--results", str(tmp_path)]) == 1
    finally:
        dispatch._resolved.clear()
    logits, *_ = json.loads((tmp_path / "emulated_bits.json").read_text())["rows"]
    assert logits["differ"] > 0 and '"differ": 0' not in capsys.readouterr().out
