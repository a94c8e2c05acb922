"""Mixed and varied images: mixup and cutmix against timm's, RandAugment and random erasing."""

from dataclasses import replace

import pytest
import torch
from timm.data.mixup import mixup_target
from torch.testing import assert_close

from bench.data.distortions import erased, randaugmented
from bench.data.mixing import Mix, draw_mix
from bench.schedule import Recipe
from tests.data.test_batches import a_spec, training_data

RECIPE = Recipe(mixup=0.8, cutmix=1.0, randaugment=9.0, randaugment_std=0.5, random_erasing=0.5)


def images(n: int, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_mixup_is_the_weighted_mean_of_image_and_partner():
    found = images(5)
    assert_close(Mix(0.3).images(found), 0.3 * found + 0.7 * found.flip(0))


def test_the_labels_are_those_of_timm():
    targets = torch.tensor([3, 0, 2, 2])
    assert_close(Mix(0.3).labels(targets, 4), mixup_target(targets, 4, lam=0.3))


def test_cutmix_takes_a_box_from_the_partner():
    found = images(4)
    mixed = Mix(0.75, (2, 6, 0, 4)).images(found)
    assert torch.equal(mixed[:, :, 2:6, :4], found.flip(0)[:, :, 2:6, :4])
    mixed[:, :, 2:6, :4] = found[:, :, 2:6, :4]
    assert torch.equal(mixed, found)


def test_the_share_of_a_cut_image_is_the_area_that_is_left_of_it():
    for seed in range(50):
        mix = draw_mix(Recipe(cutmix=1.0), (8, 12), seed)
        assert mix.box is not None
        kept = torch.ones(8, 12)
        top, bottom, left, right = mix.box
        kept[top:bottom, left:right] = 0
        assert mix.share == pytest.approx(kept.mean().item())


def test_with_both_about_half_of_the_batches_are_cut():
    cut = sum(draw_mix(RECIPE, (8, 8), seed).box is not None for seed in range(1000))
    assert 430 < cut < 570  # 4.4 standard deviations


def test_the_shares_of_mixup_have_their_beta_distribution():
    from scipy.stats import beta, kstest

    shares = [draw_mix(Recipe(mixup=0.8), (8, 8), seed).share for seed in range(500)]
    assert kstest(shares, beta(0.8, 0.8).cdf).pvalue > 0.01


@pytest.fixture
def data():
    return replace(training_data(50, a_spec(size=(16, 16))), recipe=RECIPE)


def test_a_mixed_batch_has_soft_labels_and_the_class_of_the_largest_share(data):
    for batch in data.epoch(0, 1, 1, 16):
        assert_close(batch.soft_targets.sum(dim=1), torch.ones(len(batch.images)))
        assert_close(batch.soft_targets.gather(1, batch.targets[:, None])[:, 0], batch.soft_targets.amax(dim=1))


def test_a_resumed_epoch_has_the_same_images(data):
    whole = list(data.epoch(3, 1, 2, 16))[2:]
    for one, other in zip(whole, data.epoch(3, 1, 2, 16, first=2), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.soft_targets, other.soft_targets)


def test_batches_and_epochs_are_varied_differently(data):
    (first, second, *_), (other, *_) = (list(data.epoch(0, 1, epoch, 16)) for epoch in (1, 2))
    shares = {batch.soft_targets[batch.soft_targets > 0].min().item() for batch in (first, second, other)}
    assert len(shares) == 3


def test_a_teacher_sees_the_students_image_in_its_own_normalisation():
    spec = a_spec(size=(16, 16))
    teacher = spec.model_copy(update={"mean": (0.5,) * 3, "std": (0.25,) * 3})
    data = replace(training_data(20, spec, teacher), recipe=Recipe(mixup=0.8, randaugment=9.0))
    batch = next(data.epoch(0, 1, 1, 16))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (spec.mean, spec.std))
    assert_close(batch.teacher_images * 0.25 + 0.5, batch.images * std + mean, rtol=0, atol=1e-5)


def test_an_image_is_varied_by_its_own_seed_alone():
    stored = (255 * images(6, 16)).to(torch.uint8)
    seeds = torch.arange(6)
    whole = randaugmented(stored, seeds, 9.0, 0.5)
    assert torch.equal(whole[4:], randaugmented(stored[4:], seeds[4:], 9.0, 0.5))
    assert (whole != stored).flatten(1).any(dim=1).sum() >= 4
    assert torch.equal(erased(images(6), seeds, 1.0)[2:], erased(images(6)[2:], seeds[2:], 1.0))


def test_a_third_at_most_of_an_image_is_erased_with_the_chance_that_is_asked_for():
    plain = torch.full((400, 1, 16, 16), 9.0)
    changed = (erased(plain, torch.arange(400), 0.25) != plain).flatten(1).double().mean(dim=1)
    assert 66 < (changed > 0).sum() < 134  # 4 standard deviations around 100
    assert changed.max() <= 0.36  # sides are rounded
