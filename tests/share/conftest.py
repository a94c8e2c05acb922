import pytest

from tests.train.conftest import Bench, document


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a tiny suite that was trained with two seeds."""
    suite = Bench(
        tmp_path_factory.mktemp("trained"), document(pairs=[{"teacher": "resnet8", "student": "resnet8"}], seeds=2)
    )
    suite.run()
    return suite
