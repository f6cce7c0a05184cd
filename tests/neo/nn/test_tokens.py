"""The encoder of tokens: a mean of embeddings, torch's transformer blocks, and padding that takes part in nothing."""

from __future__ import annotations

import pytest
import torch

import neo
from neo.nn import TokenEncoder

X = torch.tensor([[3, 5, 2, 0, 0], [4, 1, 0, 0, 0], [2, 2, 3, 4, 5]])


def drawn(model: TokenEncoder) -> dict[str, torch.Tensor]:
    return {name: one.data for name, one in model.init(seed=0, dtype=torch.float64).items()}


def test_mean_of_embeddings_leaves_padding_out():
    model = TokenEncoder(vocabulary=6, ways=3, size=4, hidden=5)
    params = drawn(model)
    assert not params["embedding.weight"][:2].any()
    vectors = params["embedding.weight"]
    mean = torch.stack(
        [vectors[[3, 5, 2]].mean(0), vectors[[4, 1]].mean(0), vectors[[2, 2, 3, 4, 5]].mean(0)]
    )
    hidden = (mean @ params["hidden.weight"].T + params["hidden.bias"]).relu()
    torch.testing.assert_close(model(params, X), hidden @ params["head.weight"].T + params["head.bias"])
    features = TokenEncoder(vocabulary=6, ways=None, size=4, hidden=5)
    torch.testing.assert_close(features(params, X), hidden)


def test_blocks_are_those_of_torch():
    model = TokenEncoder(vocabulary=6, ways=2, length=5, size=8, hidden=6, blocks=2, heads=2)
    params = drawn(model)
    y = params["embedding.weight"][X] + params["places.weight"]
    for i in range(2):
        layer = torch.nn.TransformerEncoderLayer(
            8, 2, 6, dropout=0.0, batch_first=True, norm_first=True
        ).double()
        named = {
            name: params[f"block{i}.{name.replace('self_attn', 'attention')}"] for name in layer.state_dict()
        }
        layer.load_state_dict(named)
        with torch.no_grad():
            y = layer.train()(y, src_key_padding_mask=X == 0)
    mean = torch.stack([row[own].mean(0) for row, own in zip(y, X > 0, strict=True)])
    hidden = (mean @ params["hidden.weight"].T + params["hidden.bias"]).relu()
    torch.testing.assert_close(model(params, X), hidden @ params["head.weight"].T + params["head.bias"])
    wider = torch.cat([X[:2, :4], X[:2, :1] * 0], 1)
    torch.testing.assert_close(model(params, X[:2, :4]), model(params, wider))


@pytest.mark.parametrize("blocks", [0, 1])
def test_second_order(blocks):
    model = TokenEncoder(vocabulary=6, ways=2, length=5, size=4, hidden=3, blocks=blocks, heads=2)
    params = {name: neo.LiteTensor(value) for name, value in drawn(model).items()}
    names = ["embedding.weight", "hidden.weight", *(["block0.attention.in_proj_weight"] if blocks else [])]

    def loss(*chosen):
        return (model({**params, **dict(zip(names, chosen, strict=True))}, X) ** 2).sum()

    neo.autograd.session.gradcheck(loss, tuple(params[name] for name in names), order=2)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be at least 1 and blocks at least 0"):
        TokenEncoder(vocabulary=0, ways=2)
    model = TokenEncoder(vocabulary=6, ways=2, length=3, size=4, blocks=1)
    with pytest.raises(ValueError, match="rows have 5 places, and length=3"):
        model(drawn(model), X)
