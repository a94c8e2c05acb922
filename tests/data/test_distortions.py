import torch

from bench.data.distortions import CUT, GREY, distorted

IMAGES = torch.randint(0, GREY, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SEEDS = torch.arange(40)


def test_a_distorted_image_depends_on_its_seed_alone():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(distorted(IMAGES[order], SEEDS[order]), distorted(IMAGES, SEEDS)[order])


def test_two_seeds_distort_an_image_differently():
    twice = IMAGES[:1].expand(2, -1, -1, -1)
    one, other = distorted(twice, torch.tensor([1, 2]))
    assert not torch.equal(one, other)


def test_distortions_leave_images_and_the_default_generator_as_they_are():
    before, state = IMAGES.clone(), torch.get_rng_state()
    distorted(IMAGES, SEEDS)
    assert torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_grey_square_of_at_most_half_the_width_is_cut_out():
    found = distorted(IMAGES, SEEDS, operations=0)
    sides = []
    for before, after in zip(IMAGES, found, strict=True):
        cut = (after != before).any(dim=0)
        assert (after[:, cut] == GREY).all()
        sides += [cut.any(dim=1).sum().item(), cut.any(dim=0).sum().item()]
        assert cut.sum() == sides[-1] * sides[-2]
    assert 0.4 * CUT * 32 < max(sides) <= CUT * 32 + 1  # edges are rounded
    assert min(sides) < 4
