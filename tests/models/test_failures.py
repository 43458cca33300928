"""What a network's output must be, and its errors as one line."""

import pytest
import torch

from micronet.models.failures import failures_of, logits_of, reason
from micronet.utils.errors import UserError


def test_what_is_logits():
    one = torch.rand(7)
    assert logits_of(one, 1, "net", 7).shape == (1, 7)
    assert logits_of(one.bfloat16()[None], 1, "net").shape == (1, 7)
    for output in (one, one[None].expand(3, 7), one[None, None], one[None].bool()):
        with pytest.raises(UserError, match="net returned a tensor of"):
            logits_of(output, 2, "net")


def test_reasons_are_one_line():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    assert reason(Mute()) == "Mute"
    assert reason(KeyError("a\n b")) == "KeyError: 'a\\n b'"
    assert reason(RuntimeError("a\n\n b")) == "RuntimeError: a b"
    assert len(reason(RuntimeError("x" * 5000))) < 400
    with pytest.raises(UserError, match="it broke: ValueError: x!"), failures_of("it broke", "!"):
        raise ValueError("x")
    with pytest.raises(KeyboardInterrupt), failures_of("it broke"):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=r"^as it is$"), failures_of("it broke"):
        raise UserError("as it is")
