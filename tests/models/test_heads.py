import torch

from bench.models import build, shapes
from bench.models.heads import FineTuned, Frozen, Probe, Segmenter, pooled_size


def backbone():
    torch.manual_seed(0)
    network = build("resnet8", num_classes=7)
    return network, shapes(network, "resnet8", 3, 32, 32)


IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_stage_is_averaged_to_the_largest_grid_that_keeps_within_the_values():
    assert pooled_size((16, 32, 32), 9000) == (23, 23)  # 16 * 23 * 23 = 8464, 16 * 24 * 24 = 9216
    assert pooled_size((64, 8, 8), 9000) == (8, 8)  # all of it
    assert pooled_size((4, 6, 40), 600) == (6, 12)
    assert pooled_size((512, 4, 4), 100) == (1, 1)  # no less than one cell


def test_a_probe_of_a_stage_reads_the_averages_of_its_cells():
    network, found = backbone()
    probe = Probe(Frozen(network), found, num_classes=3, stage=2, most_values=32 * 16)
    maps = network.features(IMAGES).stages[2]  # (5, 32, 16, 16), averaged to 4x4 cells of 4x4
    cells = maps.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(probe(IMAGES), probe.classifier(cells))


def test_a_probe_trains_and_stores_its_classifier_alone():
    network, found = backbone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe = Probe(Frozen(network), found, num_classes=3).train()
    assert list(probe.state_dict()) == ["classifier.weight", "classifier.bias"]
    optimizer = torch.optim.SGD(probe.parameters(), lr=1.0)
    probe(IMAGES).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_probes_of_one_network_share_a_forward_pass_of_a_batch():
    network, found = backbone()
    frozen, passes = Frozen(network), []
    network.register_forward_hook(lambda *_: None)
    network.conv1.register_forward_hook(lambda *_: passes.append(1))
    probes = [Probe(frozen, found, 3, stage, 1000) for stage in (0, 1, 2, 3)]
    for images in (IMAGES, IMAGES.flip(0)):
        logits = [probe(images) for probe in probes]
    assert len(passes) == 2
    torch.testing.assert_close(logits[3], Probe.forward(probes[3], IMAGES.flip(0).clone()))


def test_fine_tuning_begins_with_the_networks_features_and_trains_all_of_it():
    network, found = backbone()
    tuned = FineTuned(network, found, num_classes=3).train()
    features = tuned.features(IMAGES)
    assert features.logits.shape == (5, 3)
    torch.testing.assert_close(features.logits, tuned.classifier(features.embedding))
    features.logits.square().sum().backward()
    assert network.conv1.weight.grad.abs().sum() > 0
    assert network.fc.weight.grad is None  # its own classifier has no part in it


def test_segmentation_scores_every_pixel_from_the_last_three_stages():
    network, found = backbone()
    segmenter = Segmenter(network, found, num_classes=4).eval()
    images = torch.cat([IMAGES, IMAGES], dim=3)  # 32 high, 64 wide
    assert segmenter(images).shape == (5, 4, 32, 64)
    scores = [score.in_channels for score in segmenter.scores]
    assert scores == [stage[0] for stage in found.stages[1:]]
    constant = torch.zeros_like(images)
    torch.nn.init.zeros_(segmenter.scores[0].weight)
    torch.nn.init.zeros_(segmenter.scores[1].weight)
    wanted = segmenter.scores[2](network.features(constant).stages[3])
    wanted = wanted + sum(score.bias for score in segmenter.scores[:2])[:, None, None]
    centre = segmenter(constant)[:, :, 14:18, 30:34].mean(dim=(2, 3))
    torch.testing.assert_close(centre, wanted[:, :, 3:5, 7:9].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)
