import pytest
import torch
from torch.testing import assert_close

from methods._adapters import Paraphraser, match, regressor, translator, unmappable


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 8, 8), (5, 4, 4)), ((3, 4, 4), (5, 8, 8)), ((3, 7, 7), (5, 5, 5))]
)
def test_a_regressor_halves_doubles_or_trims_a_map_to_the_teachers_shape(student, teacher):
    assert regressor(student, teacher)(torch.randn(2, *student)).shape == (2, *teacher)


def test_a_regressor_ends_in_a_relu_unless_told_otherwise():
    x = torch.randn(4, 3, 8, 8)
    assert regressor((3, 8, 8), (5, 8, 8))(x).min() == 0
    assert regressor((3, 8, 8), (5, 8, 8), relu=False)(x).min() < 0


def test_a_regressor_that_cannot_be_made_says_which_sizes_do_not_fit():
    assert unmappable((3, 4, 4), (5, 7, 7)) == "no regressor maps 4x4 to 7x7: it halves, doubles or trims a map"
    with pytest.raises(ValueError, match="4x4 to 7x7"):
        regressor((3, 4, 4), (5, 7, 7))


def test_match_pools_the_larger_map_whichever_side_it_is_on():
    large, small = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    pooled = large.reshape(2, 3, 4, 2, 4, 2).mean(dim=(3, 5))
    assert_close(match(large, small), (pooled, small))
    assert_close(match(small, large), (small, pooled))


def test_match_returns_maps_of_equal_size_as_they_are():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert match(a, b)[0] is a
    assert match(a, b)[1] is b


def test_paraphraser_and_translator_meet_at_half_the_teachers_channels():
    teacher, student = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 4, 4)
    paraphraser = Paraphraser(8)
    assert paraphraser.encoder(teacher).shape == translator(3, 8)(student).shape == (2, 4, 4, 4)
    assert paraphraser(teacher).shape == teacher.shape
