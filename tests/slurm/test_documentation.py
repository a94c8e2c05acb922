"""The blocks of the page about clusters, with a tiny suite in place of the paper's."""

import pytest
import yaml

from tests.docs.blocks import ROOT, blocks
from tests.docs.pages import copy_project, run_page
from tests.docs.test_blocks import ON_A_CLUSTER
from tests.train.conftest import document


@pytest.mark.slurm
def test_the_commands_of_the_page_about_clusters_run_on_one(cluster, tmp_path):
    copy_project(tmp_path / "project")
    suite = tmp_path / "project" / "suites" / "cifar100_similar_arch.yaml"
    suite.write_text(yaml.safe_dump(document()), encoding="utf-8")
    page = list(blocks(ROOT / "docs" / "how-to" / "slurm.md"))
    status, log = run_page(tmp_path / "project", page, ON_A_CLUSTER, [], cluster.env)
    assert status == 0, log
    assert "1 task(s)" in log
