import pytest
import torch
from torch import nn

from models.layers.lstm import LSTM
from models.registry import MODELS, build


def test_it_is_pytorchs_in_full_precision_also_under_autocast():
    torch.manual_seed(0)
    ours, x = LSTM(5, 3, batch_first=True), torch.randn(2, 4, 5)
    pytorchs = nn.LSTM(5, 3, batch_first=True)
    pytorchs.load_state_dict(ours.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = ours(x.bfloat16())
    assert out.dtype == torch.float32
    assert torch.equal(out, pytorchs(x.bfloat16().float())[0])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts_in_mixed_precision(name):
    torch.manual_seed(0)
    model = build(name, {}, {"visual": 7, "audio": 6, "text": 8}, outputs=1).eval()
    inputs = torch.randn(2, 9, 7), torch.randn(2, 9, 6), torch.randn(2, 9, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(*inputs)
    assert torch.allclose(mixed.float(), model(*inputs), atol=0.05)
