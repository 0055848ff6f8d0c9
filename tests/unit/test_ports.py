"""The ports of what listens a moment later."""

import socket

from r0.process.ports import PORTS, free_port


def test_a_port_is_free():
    port = free_port()
    assert port in PORTS
    with socket.socket() as listener:
        listener.bind(("", port))


def test_a_port_in_use_is_passed_over(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("random.sample", lambda population, k: [port, port, 29_999])
        assert free_port() == 29_999
