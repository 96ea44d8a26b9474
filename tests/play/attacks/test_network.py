"""Attacks on the network. Two walls: a network namespace with nothing in it, and a filter that gives out Unix sockets only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

REACH_HOST = {
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)",
    "name": "import socket\nsocket.socket(socket.AF_INET).connect(('localhost', PORT))",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT/', timeout=2)",
    "IPv6": "import socket\nsocket.create_connection(('::1', PORT), 2)",
    "shell": "import subprocess\nsubprocess.run(['/bin/bash', '-c', 'echo x > /dev/tcp/127.0.0.1/PORT'], check=True)",
    "in a child": "import multiprocessing, socket\n"
    "with multiprocessing.get_context('fork').Pool(1) as pool: pool.apply(socket.create_connection, (('127.0.0.1', PORT), 2))",
}


def test_the_hosts_loopback_is_out_of_reach(attack_all, listener) -> None:
    for name, result in attack_all({name: source.replace("PORT", str(listener)) for name, source in REACH_HOST.items()}).items():
        assert result.reason == "exception", name
        assert "Permission denied" in result.stderr or "No such file" in result.stderr, name  # the filter; or no bash here


def test_only_unix_sockets_are_given_out(attack) -> None:
    """By number: internet, netlink, packet, crypto, Bluetooth, CAN, virtual machine and XDP sockets."""
    result = attack(
        "import socket\nfor family in range(0, 50):\n    try: socket.socket(family); print(family)\n"
        "    except OSError as e:\n        if e.errno != 13: print(family, e)"
    )
    assert result.stdout == "1\n"


def test_the_network_namespace_is_empty(attack) -> None:
    result = attack(
        "print(*[line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line])\n"
        "print(len(open('/proc/net/route').readlines()) < 2)"
    )
    assert result.stdout.split() == ["lo", "True"]


def test_names_are_not_resolved(attack) -> None:
    assert attack("import socket\nsocket.getaddrinfo('example.org', 80)").exception.startswith("socket.gaierror")


def test_unix_sockets_of_the_host_are_out_of_reach(attack, tmp_path: Path) -> None:
    """An abstract name belongs to the network namespace, a path to the file system: neither is the host's."""
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
        by_path.bind(str(path))
        path.chmod(0o777)
        by_name.bind("\0studio-attack-door")
        for server in (by_path, by_name):
            server.listen()
            server.settimeout(0.05)
        refused = attack("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0studio-attack-door')")
        missing = attack(f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(path)!r})")
        for server in (by_path, by_name):
            with pytest.raises(TimeoutError):
                server.accept()
    assert refused.exception.startswith("ConnectionRefusedError")
    assert missing.exception.startswith("FileNotFoundError")
