"""The store at which processes meet listens on the interface that it is given, and nowhere else."""

import psutil
import pytest

from r0.process.store import hosted_store, joined_store


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_store_listens_on_one_interface_and_others_can_join(host):
    store = hosted_store(host, 0, 30.0, world=2)
    mine = psutil.Process().net_connections("tcp")
    assert {one.laddr.ip for one in mine if one.laddr.port == store.port and one.status == psutil.CONN_LISTEN} == {host}
    joined_store(host, store.port, 30.0, world=2).set("key", "value")
    assert store.get("key") == b"value"
