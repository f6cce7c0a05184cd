"""Modules brought along from torch: meta-gradients through two inner steps at second order, against torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tasks._torchvision import import_torchvision
from tests.neo.nn.meta_gradients import assert_meta_gradients_agree, meta_gradient_by_torch, uneven


class Case(NamedTuple):
    id: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    loss: Callable[[Any], Any] = uneven
    examiner: Callable[[], nn.Module] | None = None  # where torch has no second derivative of its own


CASES: list[Case] = []


def add(id: str, build: Callable[[], nn.Module], inputs: Callable[[], tuple[Any, ...]], **more: Any) -> None:
    CASES.append(Case(id, build, inputs, **more))


def normal(*shape: int) -> Callable[[], tuple[torch.Tensor]]:
    return lambda: (torch.randn(shape, dtype=torch.float64),)


class After(nn.Module):
    """A layer with something nonlinear and learned before it, so that its own input moves with the inner steps."""

    def __init__(self, before: nn.Module, layer: nn.Module):
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, x: Any, *rest: Any) -> Any:
        return self.layer(torch.tanh(self.before(x)), *rest)


# --- convolutions and norms ----------------------------------------------------------------------------------

SPACE = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
for d in (1, 2, 3):
    conv, transpose = getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d")
    x = normal(2, 4, *SPACE[d])
    for options in (
        {"padding": 1},
        {"stride": 2, "groups": 2},
        {"dilation": 2, "padding": "same", "bias": False},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": 1, "padding_mode": "reflect"},
    ):
        name = "-".join(f"{key}={value}" for key, value in options.items())
        add(
            f"conv{d}d-{name}",
            lambda c=conv, o=options: nn.Sequential(c(4, 4, 3, **o), nn.Tanh(), c(4, 2, 1)),
            x,
        )
    for options in ({}, {"stride": 2, "output_padding": 1, "padding": 1}, {"groups": 2, "dilation": 2}):
        name = "-".join(f"{key}={value}" for key, value in options.items()) or "plain"
        add(
            f"conv_transpose{d}d-{name}",
            lambda c=transpose, o=options: nn.Sequential(c(4, 4, 3, **o), nn.Tanh(), c(4, 2, 1)),
            x,
        )
    batch, instance = getattr(nn, f"BatchNorm{d}d"), getattr(nn, f"InstanceNorm{d}d")
    around = lambda norm, d=d: After(getattr(nn, f"Conv{d}d")(4, 4, 1), norm)  # noqa: E731
    add(f"batch_norm{d}d", lambda n=batch, a=around: a(n(4)), x)
    add(f"batch_norm{d}d-eval", lambda n=batch, a=around: a(n(4)).eval(), x)
    add(
        f"batch_norm{d}d-plain", lambda n=batch, a=around: a(n(4, affine=False, track_running_stats=False)), x
    )
    add(f"instance_norm{d}d", lambda n=instance, a=around: a(n(4, affine=True)), x)
    add(f"instance_norm{d}d-eval", lambda n=instance, a=around: a(n(4, track_running_stats=True)).eval(), x)
    add(f"group_norm{d}d", lambda a=around: a(nn.GroupNorm(2, 4)), x)
add("layer_norm", lambda: After(nn.Linear(5, 6), nn.LayerNorm(6)), normal(4, 5))
add("layer_norm-2d", lambda: After(nn.Linear(5, 6), nn.LayerNorm((3, 6), bias=False)), normal(4, 3, 5))
add("rms_norm", lambda: After(nn.Linear(5, 6), nn.RMSNorm(6)), normal(4, 5))


# --- attention -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """nn.MultiheadAttention on queries, keys and values of its own."""

    def __init__(self, **options: Any):
        super().__init__()
        self.kdim, self.vdim = options.get("kdim", 8), options.get("vdim", 8)
        self.attend = nn.MultiheadAttention(8, 2, **options)
        self.key, self.value = nn.Linear(8, self.kdim), nn.Linear(8, self.vdim)

    def forward(self, x: Any, **masks: Any) -> Any:
        return self.attend(x, self.key(x), self.value(x), **masks)


class Masked(nn.Module):
    def __init__(self, layer: nn.Module, **masks: torch.Tensor):
        super().__init__()
        self.layer, self.masks = layer, masks

    def forward(self, *args: Any) -> Any:
        return self.layer(*args, **self.masks)


def padded(n: int, length: int) -> torch.Tensor:
    """(n, length) bool, True where a sequence is over: each ends a place before the one before it."""
    return torch.arange(length)[None, :] >= length - torch.arange(n)[:, None]


def above_diagonal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


sequence = normal(3, 5, 8)
add("multihead_attention", lambda: Attention(), sequence)
add("multihead_attention-batch_first", lambda: Attention(batch_first=True), sequence)
add("multihead_attention-other_sizes", lambda: Attention(kdim=3, vdim=5, batch_first=True), sequence)
add("multihead_attention-no_bias", lambda: Attention(bias=False), sequence)
add("multihead_attention-extra_places", lambda: Attention(add_bias_kv=True, add_zero_attn=True), sequence)
add("multihead_attention-unbatched", lambda: Attention(), normal(5, 8))
add("multihead_attention-eval", lambda: Attention(batch_first=True).eval(), sequence)
add(
    "multihead_attention-masks",
    lambda: Masked(Attention(batch_first=True), key_padding_mask=padded(3, 5), attn_mask=above_diagonal(5)),
    sequence,
)
add(
    "multihead_attention-float_mask",
    lambda: Masked(Attention(batch_first=True), attn_mask=torch.linspace(-1, 1, 25).reshape(5, 5).double()),
    sequence,
)
for options in (
    {},
    {"norm_first": True},
    {"activation": "gelu"},
    {"batch_first": True},
    {"bias": False},
):
    name = "-".join(f"{key}={value}" for key, value in options.items()) or "plain"
    add(
        f"transformer_encoder_layer-{name}",
        lambda o=options: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, **o),
        sequence,
    )
add(
    "transformer_encoder_layer-eval",
    lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval(),
    sequence,
)
add(
    "transformer_encoder_layer-masks",
    lambda: Masked(
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        src_mask=above_diagonal(5),
        src_key_padding_mask=padded(3, 5),
    ),
    sequence,
)
add(
    "transformer_decoder_layer",
    lambda: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0),
    lambda: (*normal(3, 5, 8)(), *normal(4, 5, 8)()),
)
add(
    "transformer_encoder",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
    ),
    sequence,
)


class DotProduct(nn.Module):
    """F.scaled_dot_product_attention of learned queries, keys and values."""

    def __init__(self, mask: torch.Tensor | None = None, **options: Any):
        super().__init__()
        self.project, self.mask, self.options = nn.Linear(8, 24), mask, options

    def forward(self, x: Any) -> Any:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.options)


add("scaled_dot_product_attention", lambda: DotProduct(), sequence)
add("scaled_dot_product_attention-causal", lambda: DotProduct(is_causal=True), sequence)
add("scaled_dot_product_attention-scale", lambda: DotProduct(scale=0.3), sequence)
add("scaled_dot_product_attention-bool_mask", lambda: DotProduct(~above_diagonal(5)), sequence)
add(
    "scaled_dot_product_attention-float_mask",
    lambda: DotProduct(torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5)),
    sequence,
)


# --- recurrent -----------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """A recurrent layer over sequences of unequal lengths."""

    def __init__(self, layer: nn.Module, lengths: list[int]):
        super().__init__()
        self.before, self.layer, self.lengths = nn.Linear(3, 3), layer, lengths

    def forward(self, x: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(self.before(x), self.lengths, enforce_sorted=False)
        out, last = self.layer(packed)
        return nn.utils.rnn.pad_packed_sequence(out)[0], last


def states(count: int, *sizes: int) -> Callable[[], tuple[Any, ...]]:
    """An input (time 3, batch 2, 3), and initial states (count, 2, size)."""

    def draw() -> tuple[Any, ...]:
        hx = tuple(torch.randn(count, 2, size, dtype=torch.float64) for size in sizes)
        return torch.randn(3, 2, 3, dtype=torch.float64), hx if len(hx) == 2 else hx[0]

    return draw


for kind in (nn.LSTM, nn.GRU, nn.RNN):
    label = kind.__name__.lower()
    for options in (
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True},
        {"bias": False, "num_layers": 2},
        *(({"proj_size": 2, "num_layers": 2, "bidirectional": True},) if kind is nn.LSTM else ()),
        *(({"nonlinearity": "relu"},) if kind is nn.RNN else ()),
    ):
        name = "-".join(f"{key}={value}" for key, value in options.items()) or "plain"
        add(f"{label}-{name}", lambda k=kind, o=options: k(3, 4, **o), normal(3, 2, 3))
    add(f"{label}-unbatched", lambda k=kind: k(3, 4), normal(3, 3))
    add(f"{label}-initial_state", lambda k=kind: k(3, 4, 2), states(2, *(4, 4) if kind is nn.LSTM else (4,)))
    add(f"{label}-packed", lambda k=kind: Packed(k(3, 4, 2, bidirectional=True), [2, 4, 1]), normal(4, 3, 3))
    cell = getattr(nn, f"{kind.__name__}Cell")
    add(f"{label}_cell", lambda c=cell: After(nn.Linear(3, 3), c(3, 4)), normal(2, 3))
add("lstm-projected_initial_state", lambda: nn.LSTM(3, 4, proj_size=2), states(1, 2, 4))


# --- tables --------------------------------------------------------------------------------------------------


def words() -> tuple[torch.Tensor]:
    return (torch.randint(6, (4, 3)),)


add("embedding", lambda: nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 3)), words)
add("embedding-padding", lambda: nn.Sequential(nn.Embedding(6, 4, padding_idx=2), nn.Linear(4, 3)), words)


class MeanOfRows(nn.Embedding):
    """What an EmbeddingBag gives, by rows that torch differentiates twice."""

    def forward(self, x: Any) -> Any:
        return super().forward(x).mean(1)


add(
    "embedding_bag",
    lambda: nn.Sequential(nn.EmbeddingBag(6, 4, mode="mean"), nn.Linear(4, 3)),
    words,
    examiner=lambda: nn.Sequential(MeanOfRows(6, 4), nn.Linear(4, 3)),
)
add("bilinear", lambda: nn.Bilinear(3, 4, 2), lambda: (*normal(5, 3)(), *normal(5, 4)()))


# --- losses --------------------------------------------------------------------------------------------------


class Loss(nn.Module):
    """A loss of a linear map's outputs, (5, 4), brought into the domain of the loss by `domain`."""

    def __init__(self, loss: Callable[..., Any], domain: Callable[[Any], Any] = lambda x: x, maps: int = 1):
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(3, 4) for _ in range(maps)])
        self.loss, self.domain = loss, domain

    def forward(self, x: Any, *targets: Any) -> Any:
        return self.loss(*[self.domain(layer(x)) for layer in self.maps], *targets)


def with_targets(*targets: Callable[[], torch.Tensor]) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(5, 3, dtype=torch.float64), *(target() for target in targets))


def numbers() -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64)


def positive() -> torch.Tensor:
    return torch.rand(5, 4, dtype=torch.float64) + 0.5


def labels() -> torch.Tensor:
    return torch.randint(4, (5,))


def signs(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(2, shape).double() * 2 - 1


def bits() -> torch.Tensor:
    return torch.randint(2, (5, 4)).double()


def probabilities() -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64).softmax(1)


def label_sets() -> torch.Tensor:
    return torch.tensor([[0, 2, -1, -1], [3, -1, 0, 1], [1, 2, 3, -1], [-1, 0, 0, 0], [2, -1, -1, -1]])


def log_softmax(x: Any) -> Any:
    return F.log_softmax(x, -1)


def log_paths(x: Any) -> Any:
    return F.log_softmax(x.unflatten(0, (5, 1)), -1)


def soft_distance(a: Any, b: Any) -> Any:
    return ((a - b) ** 2).sum(-1)


class_weights = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
LOSSES: list[tuple[str, Callable[..., Any], tuple[Callable[[], torch.Tensor], ...], dict[str, Any]]] = [
    ("binary_cross_entropy", F.binary_cross_entropy, (probabilities,), {"domain": torch.sigmoid}),
    ("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, (bits,), {}),
    ("cosine_embedding_loss", F.cosine_embedding_loss, (signs(5),), {"maps": 2}),
    ("cross_entropy", F.cross_entropy, (labels,), {}),
    (
        "cross_entropy-smoothed",
        lambda x, y: F.cross_entropy(x, y, weight=class_weights, label_smoothing=0.1),
        (labels,),
        {},
    ),
    ("cross_entropy-probabilities", F.cross_entropy, (probabilities,), {}),
    (
        "ctc_loss",
        lambda x: F.ctc_loss(x, torch.tensor([[1, 3, 3]]), torch.tensor([5]), torch.tensor([3])),
        (),
        {"domain": log_paths},
    ),
    ("gaussian_nll_loss", F.gaussian_nll_loss, (numbers, positive), {}),
    (
        "gaussian_nll_loss-learned_variance",
        lambda x, v, y: F.gaussian_nll_loss(x, y, F.softplus(v) + 0.1, full=True),
        (numbers,),
        {"maps": 2},
    ),
    ("hinge_embedding_loss", F.hinge_embedding_loss, (signs(5, 4),), {}),
    ("huber_loss", lambda x, y: F.huber_loss(x, y, delta=0.7), (numbers,), {}),
    ("kl_div", lambda x, y: F.kl_div(x, y, reduction="batchmean"), (probabilities,), {"domain": log_softmax}),
    ("l1_loss", F.l1_loss, (numbers,), {"domain": torch.tanh}),
    (
        "margin_ranking_loss",
        lambda a, b, y: F.margin_ranking_loss(a, b, y, 0.3),
        (signs(5, 4),),
        {"maps": 2, "domain": torch.tanh},
    ),
    ("mse_loss", F.mse_loss, (numbers,), {}),
    ("multi_margin_loss", F.multi_margin_loss, (labels,), {"domain": torch.tanh}),
    ("multi_margin_loss-squared", lambda x, y: F.multi_margin_loss(x, y, p=2, weight=class_weights), (labels,), {}),
    ("multilabel_margin_loss", F.multilabel_margin_loss, (label_sets,), {"domain": torch.tanh}),
    ("multilabel_soft_margin_loss", F.multilabel_soft_margin_loss, (bits,), {}),
    ("nll_loss", lambda x, y: F.nll_loss(x, y, class_weights), (labels,), {"domain": log_softmax}),
    ("poisson_nll_loss", lambda x, y: F.poisson_nll_loss(x, y, full=True), (positive,), {}),
    (
        "poisson_nll_loss-rate",
        lambda x, y: F.poisson_nll_loss(x, y, log_input=False),
        (positive,),
        {"domain": F.softplus},
    ),
    ("smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, beta=0.7), (numbers,), {}),
    ("soft_margin_loss", F.soft_margin_loss, (signs(5, 4),), {}),
    ("triplet_margin_loss", F.triplet_margin_loss, (), {"maps": 3}),
    ("triplet_margin_loss-swapped", lambda a, p, n: F.triplet_margin_loss(a, p, n, swap=True), (), {"maps": 3}),
    (
        "triplet_margin_with_distance_loss",
        lambda a, p, n: F.triplet_margin_with_distance_loss(a, p, n, distance_function=soft_distance),
        (),
        {"maps": 3},
    ),
]  # fmt: skip


# Torch has no second derivative of these; written out, it has.
def multi_margin(x: Any, y: Any, p: int = 1, weight: Any = None) -> Any:
    own = F.one_hot(y, 4).bool()
    away = (1 - x[own][:, None] + x).clamp(min=0) ** p
    away = away if weight is None else away * weight[y][:, None]
    return (away.masked_fill(own, 0).sum(1) / 4).mean()


def multilabel_margin(x: Any, sets: Any) -> Any:
    total = 0.0
    for row, labels in zip(x, sets.tolist(), strict=True):
        labels = labels[: [*labels, -1].index(-1)]
        others = [i for i in range(4) if i not in labels]
        total = total + sum((1 - row[j] + row[i]).clamp(min=0) for j in labels for i in others)
    return total / x.numel()


def ctc(log_p: Any) -> Any:
    """The sum over all alignments of 1 3 3 with the frames, Graves et al. 2006, equations 6 to 8, in probabilities."""
    path = [0, 1, 0, 3, 0, 3, 0]
    p = log_p[:, 0, :].exp()
    alpha = [p[0, 0], p[0, 1], *[torch.zeros((), dtype=p.dtype)] * 5]
    for frame in p[1:]:
        alpha = [
            frame[path[s]]
            * (
                alpha[s]
                + (alpha[s - 1] if s >= 1 else 0)
                + (alpha[s - 2] if s >= 2 and path[s] and path[s] != path[s - 2] else 0)
            )
            for s in range(7)
        ]
    return -torch.log(alpha[-1] + alpha[-2]) / 3  # by the length of the target, as reduction="mean" has it


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "ctc_loss": ctc,
    "multi_margin_loss": multi_margin,
    "multi_margin_loss-squared": lambda x, y: multi_margin(x, y, 2, class_weights),
    "multilabel_margin_loss": multilabel_margin,
}
for name, loss, targets, options in LOSSES:
    other = WRITTEN_OUT.get(name)
    add(
        f"loss-{name}",
        lambda f=loss, o=options: Loss(f, **o),
        with_targets(*targets),
        loss=lambda out: out,
        examiner=other and (lambda f=other, o=options: Loss(f, **o)),
    )


def test_every_loss_of_torch_is_examined():
    """Functions of torch.nn.functional that are called losses, and those torch calls by another name."""
    theirs = {name for name in dir(F) if name.endswith("_loss")}
    theirs |= {"cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"}
    assert theirs == {name.partition("-")[0] for name, *_ in LOSSES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_meta_gradient_equals_double_backward(case: Case):
    torch.manual_seed(0)
    module = case.build().double()
    examiner = None
    if case.examiner is not None:
        examiner = case.examiner().double()
        examiner.load_state_dict(module.state_dict())
    assert_meta_gradients_agree(module, case.inputs(), case.inputs(), case.loss, examiner=examiner)


def test_second_order_is_not_lost_on_either_side():
    """What the tests above compare differs from first-order MAML by far more than their tolerance."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    support, query = normal(5, 3)(), normal(5, 3)()
    _, exact = meta_gradient_by_torch(module, support, query)
    theta = dict(module.named_parameters())
    for _ in range(2):
        value = uneven(torch.func.functional_call(module, theta, support))
        gradients = torch.autograd.grad(value, list(theta.values()))
        theta = {
            n: (p - 0.05 * g).detach().requires_grad_()
            for (n, p), g in zip(theta.items(), gradients, strict=True)
        }
    first = torch.autograd.grad(
        uneven(torch.func.functional_call(module, theta, query)), list(theta.values())
    )
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(exact.values(), first, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("buffers", ["batch", "frozen"])
def test_meta_gradient_of_torchvision_resnet18_equals_double_backward(buffers: str | None):
    torch.manual_seed(0)
    module = import_torchvision().models.resnet18(num_classes=3).double()
    module.train(buffers != "frozen")
    images = [torch.randn(3, 3, 33, 33, dtype=torch.float64) for _ in range(2)]
    labels = torch.tensor([0, 1, 2])
    assert_meta_gradients_agree(
        module, (images[0],), (images[1],), lambda scores: F.cross_entropy(scores, labels), buffers
    )
