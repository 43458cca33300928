"""A small network, recipes and an epoch, as a loop of somebody's own has them."""

import pytest
import torch


@pytest.fixture
def batches():
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, 3, 9, 9, generator=random), torch.randint(4, (6,), generator=random))
        for _ in range(4)
    ]
