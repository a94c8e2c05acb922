import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize
from torch.testing import assert_close

from methods._maps import attention, gram, squared_error

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(*shape, layout=torch.contiguous_format):
    return torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()


def with_itself(rows):
    return gram(rows, rows)


@pytest.fixture(params=LAYOUTS, ids=["contiguous", "channels_last"])
def layout(request):
    return request.param


def test_attention_is_the_normalised_energy_of_each_position(layout):
    features = maps(2, 3, 4, 4, layout=layout)
    for sample, found in zip(features, attention(features), strict=True):
        energy = torch.stack([(sample[:, y, x] ** 2).mean() for y in range(4) for x in range(4)])
        assert_close(found, energy / energy.norm())


def test_attention_of_a_map_of_zeros_is_zero_and_so_is_its_gradient():
    features = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attention(features).sum().backward()
    assert attention(features).count_nonzero() == features.grad.count_nonzero() == 0


def test_gram_is_the_inner_products_of_rows():
    rows, others = maps(2, 3, 7), maps(2, 5, 7)
    assert_close(gram(rows, others), (rows[:, :, None] * others[:, None]).sum(dim=3))


def test_squared_error_is_summed_for_each_channel(layout):
    features, wanted = maps(2, 3, 4, 5, layout=layout), maps(2, 3, 4, 5, layout=layout)
    expected = torch.stack([((features[:, c] - wanted[:, c]) ** 2).sum() for c in range(3)])
    assert_close(squared_error(features, wanted), expected)


def test_the_gradients_are_those_of_the_formulas(layout):
    first, second = maps(2, 3, 2, 4, layout=layout), maps(2, 5, 2, 4, layout=layout)
    wanted = maps(2, 3, 2, 4, layout=layout).detach()
    assert gradcheck(attention, first)
    assert gradcheck(lambda f: squared_error(f, wanted), first)
    assert gradcheck(lambda f, g: gram(f.flatten(2), g.flatten(2)), (first, second))
    assert gradcheck(lambda f: gram(f.flatten(2), second.detach().flatten(2)), first)


@pytest.mark.parametrize("rows", [lambda f: f.flatten(2), lambda f: f.flatten(2).mT], ids=["channels", "positions"])
def test_the_gradient_of_a_map_with_itself_is_that_of_both_sides(layout, rows):
    features = maps(2, 3, 2, 4, layout=layout)

    assert gradcheck(lambda f: with_itself(rows(f)), features)


@pytest.mark.parametrize(
    "term",
    [
        attention,
        lambda f: squared_error(f, torch.ones_like(f)),
        lambda f: gram(f.flatten(2), f.detach().flatten(2)),
        lambda f: with_itself(f.flatten(2)),
        lambda f: with_itself(f.flatten(2).mT),
    ],
    ids=["attention", "squared_error", "gram", "gram_of_channels", "gram_of_positions"],
)
def test_a_gradient_lies_in_memory_as_its_map_does(layout, term):
    features = maps(2, 3, 4, 5, layout=layout)
    (gradient,) = torch.autograd.grad(term(features).square().sum(), features)
    assert gradient.is_contiguous(memory_format=layout)


def test_no_gradient_is_differentiable_again():
    features = maps(2, 3, 4, 4)
    (gradient,) = torch.autograd.grad(attention(features).square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_attention_agrees_with_autograds_own_graph(layout):
    features = maps(2, 3, 4, 4, layout=layout)
    weights = torch.randn(2, 16, dtype=torch.float64)
    plain = normalize(features.square().mean(dim=1).flatten(1))
    expected = torch.autograd.grad((plain * weights).sum(), features)
    assert_close(torch.autograd.grad((attention(features) * weights).sum(), features), expected)


@pytest.mark.parametrize("term", [attention, lambda f: squared_error(f, torch.ones_like(f))])
def test_bfloat16_maps_are_summed_in_float32_and_get_gradients_of_their_own_kind(term, layout):
    features = maps(8, 300, 16, 16, layout=layout).detach().bfloat16().requires_grad_()
    found = term(features)
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert_close(found.double(), term(features.double()), rtol=1e-3, atol=0)
