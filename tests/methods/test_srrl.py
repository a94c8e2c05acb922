import pytest
from torch.nn.functional import batch_norm
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, shapes


def normed(x):
    return batch_norm(x, None, None, training=True)


@pytest.mark.parametrize(("form", "beta"), [("embedding", 1.0), ("embedding", 5.0), ("map", 1.0)])
def test_srrl_compares_embeddings_and_what_the_teachers_classifier_makes_of_them(student, teacher, batch, form, beta):
    distiller = build("srrl", form=form, beta=beta)
    weight = distiller.connector[0].weight.flatten(1)
    if form == "embedding":
        own = normed(student.embedding @ weight.T).relu()
    else:
        positions = student.final.flatten(2).transpose(1, 2) @ weight.T  # (B, H * W, D)
        own = normed(positions.flatten(0, 1)).relu().unflatten(0, positions.shape[:2]).mean(1)
    logits = own @ teacher.classifier.weight.T + teacher.classifier.bias
    expected = ((own - teacher.embedding) ** 2).mean() + beta * ((logits - teacher.logits) ** 2).mean()
    assert_close(distiller.loss(student, teacher, batch), expected)


def test_srrl_observes_its_two_parts(student, teacher, batch):
    distiller = build("srrl", beta=3.0)
    loss = distiller.loss(student, teacher, batch)
    feature, regression = distiller.observed()
    assert_close(feature + 3 * regression, loss.detach())


def test_srrl_needs_the_teachers_classifier_and_its_map_form_the_students_final_map():
    bare = shapes("bare", [(3, 8)], embedding=7)
    bare = type(bare)(bare.network, bare.stages, bare.preactivations, bare.embedding, bare.classes)
    inapplicable = build("srrl").inapplicable
    assert inapplicable(STUDENT, bare) == "bare has no linear classifier on its embedding"
    assert inapplicable(bare, TEACHER) is None
    assert inapplicable(bare, TEACHER, form="map") == "bare does not give the map whose mean is its embedding"
