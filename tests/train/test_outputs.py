"""What is kept of a classifier's answers, against values made another way."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bench.data.images import ResidentImages, Split
from bench.data.views import ViewTransform
from bench.models import shapes
from bench.models.reusing import Reusing
from bench.spec import DataSpec, NetworkSpec
from bench.train import outputs as module
from bench.train.evaluation import evaluated
from bench.train.networks import build_network
from bench.train.outputs import MAX_COMPARED, Moments, gram, grams, outputs
from tests.train.conftest import cell

CPU = torch.device("cpu")
DATA = DataSpec(
    name="digits", classes=10, channels=1, size=(32, 32), mean=(0.3,), std=(0.4,), augment="none", train_per_class=None
)


@pytest.fixture(scope="module")
def split():
    images = torch.randint(0, 256, (300, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(ResidentImages(images, CPU), torch.arange(300) % 10)


@pytest.fixture(scope="module")
def network():
    return build_network(NetworkSpec(network="resnet8"), DATA, 0).eval()


@pytest.fixture(scope="module")
def answered(network, split):
    return outputs(network, split, DATA, CPU)


@pytest.fixture(scope="module")
def features(network, split):
    """Return the features of all images at once."""
    with torch.no_grad():
        return network.features(ViewTransform(DATA, CPU)(split.images.images))


def test_the_correlation_is_numpys_over_all_images(answered, features):
    expected = np.corrcoef(features.logits.double().numpy(), rowvar=False)
    assert answered["correlation"].dtype == torch.float32
    np.testing.assert_allclose(answered["correlation"], expected, atol=1e-5)


def test_a_constant_logit_has_correlation_0_and_the_others_keep_theirs():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 1000
    logits[:, 1] = 0.1
    moments = Moments(logits[0])
    for part in logits.split(20):
        moments.add(part)
    expected = np.corrcoef(logits[:, [0, 2]].double().numpy(), rowvar=False)
    found = moments.correlation().numpy()
    assert not found[1].any()
    assert not found[:, 1].any()
    np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], expected, rtol=1e-9)


def test_embeddings_are_those_of_the_first_images(network, answered, features):
    assert answered["embedding"].shape == features.embedding.shape
    assert answered["embedding"].dtype == torch.float16
    np.testing.assert_allclose(answered["embedding"], features.embedding, rtol=2e-3, atol=1e-4)


def test_a_student_with_its_teachers_classifier_has_its_own_stages_and_that_classifiers_embedding_and_logits(split):
    own, teacher = (build_network(NetworkSpec(network=name), DATA, 0).eval() for name in ("resnet8", "wrn_16_2"))
    of_student, of_teacher = (shapes(one, name, 1, 32, 32) for one, name in ((own, "resnet8"), (teacher, "wrn_16_2")))
    simkd = Reusing(own, of_student, of_teacher, 2)
    simkd.take(teacher.linear_classifier())
    kept, of_own = (outputs(network, split, DATA, CPU) for network in (simkd, own))
    with torch.no_grad():
        images = ViewTransform(DATA, CPU)(split.images.images)
        embedding = simkd.eval().projector(own.features(images).final).mean(dim=(2, 3))
        logits = teacher.linear_classifier().weight @ embedding.T + teacher.linear_classifier().bias[:, None]
    grams_of = [{k: v for k, v in one.items() if k.startswith("gram")} for one in (kept, of_own)]
    assert len(grams_of[0]) == len(of_own) - 3 == 4
    assert all(map(torch.equal, grams_of[0].values(), grams_of[1].values()))  # CKA: no stage is behind the projector
    np.testing.assert_allclose(kept["embedding"], embedding, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(kept["correlation"], np.corrcoef(logits.double().numpy()), atol=1e-5)


def test_the_labels_are_those_of_the_embeddings_images(answered, split):
    assert answered["labels"].dtype == torch.int16
    assert answered["labels"].tolist() == split.targets.tolist()


def test_images_without_labels_have_embeddings_alone(network, answered, split):
    found = outputs(network, Split(split.images, None), DATA, CPU)
    assert answered.keys() - found.keys() == {"labels"}


def test_no_more_embeddings_are_kept_than_a_figure_draws(network, split):
    found = outputs(network, split, DATA, CPU, max_embedded=270)
    assert len(found["embedding"]) == len(found["labels"]) == 270


def test_every_stage_has_a_gram_matrix_of_the_first_images(answered, features):
    shapes = {name: tuple(value.shape) for name, value in answered.items() if name.startswith("gram")}
    assert shapes == {f"gram{i}": (MAX_COMPARED, MAX_COMPARED) for i in range(len(features.stages))}


def test_linear_cka_of_two_gram_matrices_is_that_of_the_maps(answered, features):
    def cka(a: np.ndarray, b: np.ndarray) -> float:  # Kornblith et al. 2019, equation 4: by features, not by samples
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        cross, own, others = (np.linalg.norm(x.T @ y) for x, y in ((a, b), (a, a), (b, b)))
        return cross**2 / (own * others)

    maps = [features.stages[i][:MAX_COMPARED, :, ::2, ::2].flatten(1).double() for i in (1, 3)]  # D x D products
    expected = cka(*(one.numpy() for one in maps))
    A, B = (gram(one).numpy() for one in maps)
    assert (A * B).sum() / (np.linalg.norm(A) * np.linalg.norm(B)) == pytest.approx(expected, rel=1e-9)
    whole = gram(features.stages[3][:MAX_COMPARED])
    np.testing.assert_allclose(answered["gram3"], whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def test_equal_networks_give_equal_bits(network, answered, split):
    again = outputs(network, split, DATA, CPU)
    assert all(torch.equal(value, again[name]) for name, value in answered.items())


def test_after_an_evaluation_only_the_images_of_gram_matrices_are_run_again(monkeypatch, network, split):
    (known,) = evaluated([network], split, DATA, CPU, keeps_logits=True, embedded=20)
    seen, run = [], network.features
    monkeypatch.setattr(network, "features", lambda images: seen.append(len(images)) or run(images))
    expected = outputs(network, split, DATA, CPU, max_embedded=20)
    assert sum(seen) == 300 + 2 * MAX_COMPARED  # once more for the number of values in each map
    seen.clear()
    found = outputs(network, split, DATA, CPU, max_embedded=20, known=known)
    assert sum(seen) == 2 * MAX_COMPARED
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


def test_every_run_that_trains_leaves_its_outputs(tiny):
    plan, store = tiny.plan(), tiny.store()
    for run in plan.runs.values():
        found = load_file(store.folder(run.id) / "outputs.safetensors")
        assert found["correlation"].shape == (10, 10)
        np.testing.assert_allclose(np.diag(found["correlation"]), 1, atol=1e-6)


def test_a_checkpoint_leaves_its_outputs_and_several_teachers_together_none(bench, tmp_path):
    torch.save(
        build_network(NetworkSpec(network="resnet14"), DATA.model_copy(update={"channels": 3}), 0).state_dict(),
        tmp_path / "teacher.pth",
    )
    checkpoint = {"network": "resnet14", "checkpoint": str(tmp_path / "teacher.pth")}
    plan, store, _ = bench(pairs=[{"teachers": [checkpoint, "resnet8"], "student": "resnet8"}]).run(only=["teacher"])
    done = [run for run in plan.runs.values() if store.record(run.id) is not None]
    assert {run.checkpoint is not None for run in done} == {True, False}
    assert [run for run in done if run.is_ensemble]
    for run in done:
        assert (store.folder(run.id) / "outputs.safetensors").exists() is not run.is_ensemble


def test_a_run_whose_outputs_cannot_be_made_has_its_record_which_says_why_they_are_missing(bench, monkeypatch):
    asked = []

    def second_does_not_fit(*arguments, **options):
        asked.append(arguments)
        if len(asked) == 2:  # the teacher's came before
            raise torch.OutOfMemoryError("no memory is left\nwhere it was asked for")
        return outputs(*arguments, **options)

    monkeypatch.setattr(module, "outputs", second_does_not_fit)
    plan, store, _ = bench().run()
    runs = {label: cell(plan, label).runs[0].id for label in ("teacher", "none", "KD")}
    said = {label: store.record(run_id).get("outputs") for label, run_id in runs.items()}
    (label,) = [label for label, reason in said.items() if reason]
    assert said[label] == "left out: OutOfMemoryError: no memory is left"
    files = {label: (store.folder(run_id) / "outputs.safetensors").exists() for label, run_id in runs.items()}
    assert files == {one: one != label for one in runs}


def test_maps_that_are_multiplied_part_by_part_give_the_gram_matrix_of_the_whole(features):
    stages, asked = [stage[:20] for stage in features.stages], []

    def maps():
        asked.append(len(asked))
        yield from zip(*(stage.split(7) for stage in stages), strict=True)

    found = grams(maps, held=20_000, part=10_000)
    assert len(asked) > 2  # the widths of the maps, and several times two parts
    for one, whole in zip(found, map(gram, stages), strict=True):
        np.testing.assert_allclose(one, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_outputs_do_not_depend_on_the_size_of_the_batches_or_the_number_of_passes(
    network, split, answered, monkeypatch
):
    seen, run = [], network.features
    monkeypatch.setattr(network, "features", lambda images: seen.append(len(images)) or run(images))
    found = outputs(network, split, DATA, CPU, batch_size=7, held=20_000)
    assert sum(seen) > 300 + 2 * MAX_COMPARED  # several passes for the maps
    assert found.keys() == answered.keys()
    for name, value in answered.items():
        scale = float(value.abs().max())
        np.testing.assert_allclose(found[name], value, rtol=2e-3 if name == "embedding" else 1e-4, atol=1e-5 * scale)
