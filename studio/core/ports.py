"""Whether a server can listen on an address and a port, asked before anything costly is started."""

from __future__ import annotations

import socket

from studio.core.errors import SetupError

LAST_PORT = 65535


def check_port(host: str, port: int) -> None:
    """Nothing where `host` and `port` can be listened on; 0 is any free port. Raises SetupError saying why not."""
    if not 0 <= port <= LAST_PORT:
        raise SetupError(f"There is no port {port}.", f"Ports go from 1 to {LAST_PORT}; name one with --port.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (socket.gaierror, UnicodeError) as error:
            raise SetupError(f"{host} is no address that can be listened on.", "Name one of this machine's, such as 127.0.0.1.") from error
        except OSError as error:
            raise port_in_use(host, port, error.strerror or str(error)) from error


def port_in_use(host: str, port: int, reason: str) -> SetupError:
    other = port + 1 if port < LAST_PORT else port - 1
    return SetupError(f"Port {port} on {host} cannot be used: {reason}.", f"Name another, for example --port {other}.")
