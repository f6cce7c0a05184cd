"""In-place work in code written for torch, against torch itself: values, first and second derivatives (rule 12)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import neo
from neo.autograd.torch_code import torch_code
from neo.errors import InPlaceError
from tests.helpers.torch_pairs import assert_same_as_torch, by_neo, by_torch

X = torch.tensor([[0.4, -1.3, 2.2, 0.7], [1.1, -0.2, -0.9, 1.7], [0.3, 0.8, -1.6, -0.5]], dtype=torch.float64)


def relu_used_again(x):
    h = x * 2
    y = F.relu(h, inplace=True)
    return h + y


def augmented(x):
    h = x.sin()
    k = h
    h += 1
    k *= x
    h -= 0.5 * x
    h /= 3
    h **= 2
    return h * k


def base_of_a_view(x):
    h = x * 1
    row = h[1]
    row.mul_(x[0])
    return h * row


def view_of_a_base(x):
    h = x * 1
    column, flat = h[:, 1], h.view(-1)
    h.add_(x.exp())
    return (column * flat[::4]).sum() + flat.sum() * column[0]


def siblings(x):
    h = x.cos()
    a, b, c = h[:2], h[1:], h.t()
    del h
    a.mul_(b.clone())
    c[2:].add_(1)
    return a.sum() * b.pow(2).sum() + (c * x.t()).sum()


def chain_of_views(x):
    h = x * 3
    v = h.view(2, 6).transpose(0, 1)[1:5].unsqueeze(0)
    v.copy_(v * 2)
    h[0, 0] = x.sum()
    return (h * v.sum()).sum()


def preallocated(x):
    out = torch.empty(2, 4, dtype=x.dtype) if isinstance(x, torch.Tensor) else x.new_empty(2, 4)
    out[0] = x[0] * x[1]
    out[1, :2] = x[2, 2:]
    out[1, 2:] = 7.0
    return out * out


def masked(x):
    h = x * 1
    h[h > 1] = 0.25
    h.masked_fill_(x < -1, 2.0)
    h[torch.tensor([0, 2])] = x[:2] * 3
    return h.pow(3)


def by_places(x):
    h = x * x
    h.index_add_(0, torch.tensor([0, 0, 2]), x)
    h.scatter_(1, torch.tensor([[0], [3], [1]]), x[:, :1] * 5)
    h.index_fill_(1, torch.tensor([2]), 0.5)
    return h * x


def filled(x):
    h, k = x * 1, x * 2
    h[0].fill_(x[1, 1])
    h[1].zero_()
    k.fill_diagonal_(0.0)
    return h * k


def changed_in_no_grad(x):
    h = x * 2
    with torch.no_grad():
        h.clamp_(-1, 1)
        h[0].mul_(3)
    return h * x


def changed_through_detach(x):
    h = x * 2
    d = h.detach()
    d.mul_(0.5)
    return h * x + d


def argument_changed_in_no_grad(x):
    if isinstance(x, torch.Tensor):  # which the caller needs as it was
        x = x * 1
    with torch.no_grad():
        x.mul_(0.5)
    return x.sin() * x


def becomes_a_view_of_itself(x):
    h = x * 2
    k = h
    h.t_()
    h.unsqueeze_(0)
    k.squeeze_(0)
    return h @ x


def out_of_no_grad(x):
    h = x * 2
    with torch.no_grad():
        norm = x.new_empty(3)
        torch.linalg.vector_norm(x.detach(), dim=1, out=norm)
        scale = torch.zeros_like(norm)
        torch.add(norm, 1, out=scale)
    return h * scale[:, None]


def activations(x):
    h = F.hardtanh(x * 2, -1.5, 1.5, inplace=True)
    k = F.leaky_relu(h, 0.1, inplace=True)
    return h * k + F.silu(x * 2, inplace=True) + F.elu_(x * 3) + torch.sigmoid_(x * 4)


def counted(x):
    count = (
        torch.zeros(3, dtype=torch.long) if isinstance(x, torch.Tensor) else x.new_zeros(3, dtype=torch.long)
    )
    count += (x > 0).sum(1)
    count[0] -= 1
    return x * count[:, None]


def split_and_written(x):
    h = x * 1
    for part in (h[:, :2], h.narrow(1, 2, 2)):
        part.mul_(part.sum().exp())
    h.select(0, 0).add_(h[-1].clone())
    return h


def copy_keeps_apart(x):
    h, k = x * 1, x * 2
    h.copy_(k)
    k.mul_(3)
    h[0] += 1
    return h * k


CASES = [
    relu_used_again,
    augmented,
    base_of_a_view,
    view_of_a_base,
    siblings,
    chain_of_views,
    preallocated,
    masked,
    by_places,
    filled,
    changed_in_no_grad,
    changed_through_detach,
    argument_changed_in_no_grad,
    becomes_a_view_of_itself,
    out_of_no_grad,
    activations,
    counted,
    split_and_written,
    copy_keeps_apart,
]


def in_torch_code(fn):
    def run(x):
        with torch_code():
            return fn(neo.autograd._aliases.shallow_copy(x))

    return run


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_in_place_work_gives_torchs_values_and_derivatives(fn):
    assert_same_as_torch(by_neo(in_torch_code(fn), X), by_torch(fn, X))


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_in_place_work_under_checkpoint_gives_the_same(fn):
    assert_same_as_torch(by_neo(neo.checkpoint(in_torch_code(fn)), X), by_torch(fn, X))


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_tensors_of_the_caller_stay_as_they_are(fn):
    x = neo.LiteTensor(X.clone())
    version = x.data._version
    in_torch_code(fn)(x)
    assert x.data._version == version
    assert torch.equal(x.data, X)


# --- what torch.autograd refuses, and is right all the same --------------------------------------------------


def saved_and_changed(x):
    h = x.tanh()
    k = h * h
    h.mul_(2)
    return k + h


def multiple_views(x):
    h = x * 1
    for part in h.chunk(2, dim=1):
        part.mul_(part.sum())
    first, *_, last = h.unbind(0)
    first.add_(last)
    return h


@pytest.mark.parametrize("fn", [saved_and_changed, multiple_views], ids=lambda fn: fn.__name__)
def test_what_torch_saves_and_loses_is_still_differentiated(fn):
    assert neo.gradcheck(in_torch_code(fn), (neo.LiteTensor(X),), order=2)


# --- programs made at random ---------------------------------------------------------------------------------

VIEWS = [
    lambda t: t[1:],
    lambda t: t[:, ::2] if t.ndim > 1 else t[::2],
    lambda t: t.transpose(0, -1),
    lambda t: t.unsqueeze(0),
    lambda t: t.flatten() if t.is_contiguous() else t,
    lambda t: t[-1],
    lambda t: t.detach(),
]
PURE = [lambda t: t * 2, torch.sin, lambda t: t * t.sum(), torch.exp]
WRITES = [
    lambda t, u: t.mul_(0.5),
    lambda t, u: t.add_(u.sum()),
    lambda t, u: t.fill_(0.3),
    lambda t, u: t.copy_(u.sum().expand(t.shape)),
    lambda t, u: t.sin_(),
    lambda t, u: t.__setitem__(0, u.mean()),
    lambda t, u: t.clamp_(-0.5, 0.8),
    lambda t, u: t.__setitem__(Ellipsis, u.max()),
]

steps = st.lists(
    st.tuples(
        st.sampled_from(["view", "pure", "write", "write", "frozen write"]),
        st.integers(0, 7),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=2,
    max_size=9,
)


def program(steps):
    def run(x):
        pool = [x * 1]
        for kind, op, first, second in steps:
            t, u = pool[first % len(pool)], pool[second % len(pool)]
            if kind == "view" and t.ndim and t.shape[0] > 1:
                pool.append(VIEWS[op % len(VIEWS)](t))
            elif kind == "pure":
                pool.append(PURE[op % len(PURE)](t))
            elif kind == "write" and t.ndim:
                WRITES[op % len(WRITES)](t, u)
            elif kind == "frozen write" and t.ndim:
                with torch.no_grad():
                    WRITES[op % len(WRITES)](t, u)
        return sum((i + 1.0) * (t * 0.3).sin().sum() for i, t in enumerate(pool))

    return run


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps)
def test_any_program_of_views_and_writes_gives_torchs_values_and_derivatives(steps):
    run = program(steps)
    with torch.no_grad():
        value = run(X.clone())
    found = by_neo(in_torch_code(run), X)
    torch.testing.assert_close(found[0], value, rtol=1e-12, atol=1e-12)
    try:
        expected = by_torch(run, X)
    except (
        RuntimeError
    ):  # torch refuses what it has saved and was then told to change: only the value is known
        return
    assert_same_as_torch(found, expected)


# --- where LiteTensors are values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    {
        "method": lambda x: x.add_(1),
        "item": lambda x: x.__setitem__(0, 1.0),
        "inplace=True": lambda x: F.relu(x, inplace=True),
        "torch.nn": lambda x: torch.nn.ReLU(inplace=True)(x),
        "function": torch.relu_,
        "out=": lambda x: torch.add(x, x, out=x),
        "init": torch.nn.init.zeros_,
        "clip": lambda x: torch.nn.init.trunc_normal_(x),
    }.items(),
    ids=lambda item: item[0],
)
def test_users_own_tensors_are_values(write):
    x = neo.LiteTensor(X.clone())
    with pytest.raises(InPlaceError):
        write[1](x)
    with pytest.raises(InPlaceError):
        neo.grad(lambda x: write[1](x).sum(), argnums=0)(x)
    assert torch.equal(x.data, X)


def test_users_augmented_assignment_rebinds():
    x = neo.LiteTensor(X)
    y = x
    y += 1
    assert y is not x
    assert torch.equal(x.data, X)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda h: h.add_(torch.ones(2, 3, 4)), "doesn't match the broadcast shape"),
        (lambda h: (h > 0).add_(0.5), "can't be cast"),
        (lambda h: h[0].expand(3, 4).add_(1), "single memory location"),
        (lambda h: h.resize_(2), "resize_"),
        (lambda h: torch.add(h, 1, out=h), "don't support automatic differentiation"),
    ],
)
def test_what_torch_refuses_is_refused(write, words):
    def fn(x):
        h = x * 1
        write(h)
        return h.sum()

    with pytest.raises((RuntimeError, TypeError), match=words):
        neo.grad(in_torch_code(fn), argnums=0)(neo.LiteTensor(X))


def test_value_written_into_a_loss_of_torchs_own():
    """torch's own files work in place on tensors that they made: here on a clone of the variance, under no_grad."""
    target = torch.zeros_like(X)

    def loss(x):
        return F.gaussian_nll_loss(x, target, x[:, :1] ** 2, eps=0.5)

    assert_same_as_torch(by_neo(loss, X), by_torch(loss, X))


# --- inside vmap ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch runs an op in a loop, rightly
@pytest.mark.parametrize("fn", [fn for fn in CASES if fn is not masked], ids=lambda fn: fn.__name__)
def test_in_place_work_inside_vmap_is_that_of_each_example(fn):
    """`masked` has a result of another size for each example."""
    rows = torch.stack([X, X * 0.5, -X])
    run = neo.grad(lambda x: in_torch_code(fn)(x).sum(), argnums=0)
    expected = torch.stack([run(neo.LiteTensor(row)).data for row in rows])
    torch.testing.assert_close(neo.vmap(run)(neo.LiteTensor(rows)).data, expected)
    total = neo.grad(lambda rows: neo.vmap(in_torch_code(fn))(rows).sum(), argnums=0)
    torch.testing.assert_close(total(neo.LiteTensor(rows)).data, expected)


def test_views_of_what_is_one_for_all_examples_are_refused_as_in_torch():
    def fn(x):
        out = neo.zeros(3, 4, dtype=X.dtype)
        with torch_code():
            out[0].copy_(x[0])
        return out.sum()

    with pytest.raises(InPlaceError, match="inside vmap"):
        neo.vmap(fn)(neo.LiteTensor(torch.stack([X, X])))
