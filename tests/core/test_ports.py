"""A port that cannot be listened on is refused in a sentence, whatever the reason."""

from __future__ import annotations

import socket

import pytest

from studio.core.errors import SetupError
from studio.core.ports import check_port


@pytest.mark.parametrize(
    ("host", "port", "named"),
    [
        ("127.0.0.1", 99999, "no port 99999"),
        ("127.0.0.1", -1, "no port -1"),
        ("999.1.1.1", 7860, "999.1.1.1 is no address"),
        ("a..b", 7860, "a..b is no address"),
        ("8.8.8.8", 7860, "Port 7860 on 8.8.8.8 cannot be used"),
    ],
)
def test_what_cannot_be_listened_on_is_named(host, port, named):
    with pytest.raises(SetupError, match=named):
        check_port(host, port)


def test_a_port_in_use_is_refused_and_a_free_one_is_not():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match="already in use"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    check_port("127.0.0.1", 0)
