"""What code written for torch asks of a tensor: each question is answered as a torch.Tensor answers it."""

import pytest
import torch

import neo

FLOAT, WHOLE = torch.rand(2, 3), torch.arange(6).reshape(2, 3)
KINDS = pytest.mark.parametrize(
    "tensor", [FLOAT, WHOLE, FLOAT > 0.5, FLOAT.T], ids=["float", "int", "bool", "strided"]
)

METHODS = {
    "nelement": (), "ndimension": (), "get_device": (), "data_ptr": (), "const_data_ptr": (), "storage_offset": (),
    "dim_order": (), "is_shared": (), "is_pinned": (), "is_signed": (), "is_conj": (), "is_neg": (), "is_inference": (),
    "is_contiguous": (), "type": (), "is_same_size": (torch.zeros(2, 3),), "element_size": (), "dim": (), "numel": (),
    "size": (), "stride": (), "is_floating_point": (), "is_complex": (), "__len__": (),
    "is_set_to": (torch.zeros(2, 3),),
}  # fmt: skip
ATTRIBUTES = [
    "is_cpu",
    "is_cuda",
    "is_ipu",
    "is_maia",
    "is_meta",
    "is_mkldnn",
    "is_mps",
    "is_mtia",
    "is_nested",
    "is_quantized",
    "is_sparse",
    "is_sparse_csr",
    "is_vulkan",
    "is_xla",
    "is_xpu",
    "layout",
    "itemsize",
    "nbytes",
    "name",
    "_version",
    "shape",
    "dtype",
    "device",
    "ndim",
    "requires_grad",
]


@KINDS
@pytest.mark.parametrize("method", METHODS)
def test_method_answers_as_torchs(method, tensor):
    args = METHODS[method]
    found = getattr(neo.LiteTensor(tensor), method)(*args)
    expected = getattr(tensor, method)(*args)
    assert type(found) is type(expected)
    assert found == expected


@KINDS
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attribute_answers_as_torchs(attribute, tensor):
    assert getattr(neo.LiteTensor(tensor), attribute) == getattr(tensor, attribute)


@KINDS
def test_type_casts_where_a_kind_is_named(tensor):
    x = neo.LiteTensor(tensor)
    for kind in (torch.float64, "torch.DoubleTensor", torch.int32, "torch.IntTensor"):
        assert torch.equal(x.type(kind).data, tensor.type(kind))
        assert x.type(kind).dtype is tensor.type(kind).dtype
    assert torch.equal(
        neo.grad(lambda x: x.type(torch.float64).sum(), argnums=0)(neo.LiteTensor(FLOAT)).data,
        torch.ones(2, 3),
    )


def test_new_gives_a_torch_tensor_to_be_written_into():
    x = neo.LiteTensor(FLOAT.double())
    for made in (x.new(2, 3), x.new((2, 3)), x.new(torch.Size([2, 3])), x.new(), x.new([1.0, 2.0]), x.new(x)):
        assert type(made) is torch.Tensor
        assert made.dtype is torch.float64
    assert x.new(2, 3).shape == (2, 3)
    assert x.new((2, 3)).tolist() == FLOAT.double().new((2, 3)).tolist()
    assert x.new(torch.Size([2, 3])).shape == (2, 3)
    assert x.new([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert torch.equal(x.new(x), x.data)


def test_truth_of_all_and_any_is_asked():
    x = neo.LiteTensor(torch.tensor([True, False]))
    assert not torch._is_all_true(x)
    assert torch._is_any_true(x)
    assert torch.is_nonzero(neo.LiteTensor(2.0))


def test_shifts_are_torchs():
    x = neo.LiteTensor(WHOLE)
    for found, expected in (
        (x << 2, WHOLE << 2), (x >> 1, WHOLE >> 1), (x << x, WHOLE << WHOLE), (1 << x, 1 << WHOLE),
        (64 >> x, 64 >> WHOLE),
        (WHOLE << x, WHOLE << WHOLE), (torch.bitwise_left_shift(x, 1), WHOLE << 1),
    ):  # fmt: skip
        assert isinstance(found, neo.LiteTensor)
        assert torch.equal(found.data, expected)
    with pytest.raises(NotImplementedError, match="not implemented for 'Float'"):
        neo.LiteTensor(FLOAT) << 1


def test_python_asks_a_tensor_as_it_does_torchs():
    x = neo.LiteTensor(WHOLE)
    assert 3 in x
    assert 7 not in x
    assert torch.equal(reversed(x).data, torch.tensor([[3, 4, 5], [0, 1, 2]]))
    assert complex(neo.LiteTensor(2.0)) == 2 + 0j
    assert torch.equal(
        neo.grad(lambda x: (reversed(x)[0] ** 2).sum(), argnums=0)(neo.LiteTensor([1.0, 3.0])).data,
        torch.tensor([0.0, 6.0]),
    )


@pytest.mark.parametrize("name", ["max", "min", "maximum", "minimum", "fmax", "fmin"])
@pytest.mark.parametrize(
    ("a", "b"),
    [(FLOAT > 0.5, FLOAT > 0.7), (WHOLE, WHOLE.flip(0)), (WHOLE, FLOAT)],
    ids=["bool", "int", "mixed"],
)
def test_larger_and_smaller_of_what_has_no_derivative(name, a, b):
    found = getattr(torch, name)(neo.LiteTensor(a), neo.LiteTensor(b))
    assert torch.equal(found.data, getattr(torch, name)(a, b))


@pytest.mark.parametrize("whole", [WHOLE % 3, (WHOLE % 3).float()], ids=["int", "float"])
def test_different_entries_are_torchs(whole):
    x = neo.LiteTensor(whole)
    assert torch.equal(x.unique().data, whole.unique())
    for found, expected in zip(
        torch.unique(x, True, True, True), torch.unique(whole, True, True, True), strict=True
    ):
        assert torch.equal(found.data, expected)
    assert torch.equal(torch.unique(x, dim=0).data, torch.unique(whole, dim=0))
    assert torch.equal(torch.unique_consecutive(x).data, torch.unique_consecutive(whole))
    assert torch.equal(torch.gcd(x.long(), neo.LiteTensor(WHOLE)).data, torch.gcd(whole.long(), WHOLE))


@pytest.mark.parametrize(
    ("name", "fn"),
    [
        ("unique", torch.unique),
        ("unique_consecutive", torch.unique_consecutive),
        ("histc", lambda x: torch.histc(x, 4, 0.0, 1.0)),
        ("nextafter", lambda x: torch.nextafter(x, x + 1)),
        ("gammainc", lambda x: torch.special.gammainc(x, torch.ones(3))),
        ("igammac", lambda x: torch.igammac(x, torch.ones(3))),
        ("_standard_gamma_grad", lambda x: torch._standard_gamma_grad(x, torch.ones(3))),
    ],
)
def test_what_has_no_derivative_is_refused_by_name_where_one_is_asked_for(name, fn):
    x = neo.LiteTensor([0.2, 0.5, 0.7])
    assert torch.equal(fn(x).data, fn(x.data))
    with pytest.raises(NotImplementedError, match=r"derivative.* is not implemented, in torch neither"):
        neo.grad(lambda x: fn(x).sum(), argnums=0)(x)
    constant = neo.grad(lambda x: fn(x.detach()).sum() + x.sum(), argnums=0)(x)
    assert torch.equal(constant.data, torch.ones(3))


@pytest.mark.parametrize("fn", [torch.special.gammainc, torch.special.gammaincc, torch.igamma, torch.igammac])
def test_incomplete_gamma_functions_are_differentiated_by_their_place(fn):
    a = torch.tensor([0.5, 2.0, 3.5], dtype=torch.float64)
    neo.gradcheck(lambda x: fn(a, x), (neo.LiteTensor([0.3, 1.7, 4.0], dtype=torch.float64),))


def test_adjoint_and_dense_form_of_a_real_tensor():
    x = neo.LiteTensor(FLOAT)
    assert torch.equal(torch.adjoint(x).data, FLOAT.T)
    assert x.to_dense() is x
