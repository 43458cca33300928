"""A network whose weights are all different, for files to hold."""

import pytest
import torch

from micronet.models import architectures


@pytest.fixture(scope="module")
def source():
    model = architectures.create_model("resnet20", 10)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.fill_(7)
    return model.eval()
