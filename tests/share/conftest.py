import pytest

from tests.few import short_or_whole
from tests.train.conftest import Bench, document


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a tiny suite that was trained with two seeds, on so many images that teacher and student differ."""
    data = {"name": "digits", "resize": 32, "train_per_class": short_or_whole(3, 5)}
    pairs = [{"teacher": "resnet8", "student": "resnet8"}]
    suite = Bench(tmp_path_factory.mktemp("trained"), document(data=data, pairs=pairs, seeds=2))
    suite.run()
    return suite
