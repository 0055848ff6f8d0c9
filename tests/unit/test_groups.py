"""The tests of a file share what they set up: pytest-xdist runs them in one process (conftest.py)."""

import pytest


def test_a_test_is_of_its_files_group(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests are not distributed by group in this run")
    assert request.node.nodeid.endswith("@test_groups")
