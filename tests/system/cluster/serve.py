"""A web server for one request, on standard input: QEMU starts it for each connection."""

import socket
import sys
from http.server import SimpleHTTPRequestHandler
from socketserver import BaseServer
from typing import cast


class Once(SimpleHTTPRequestHandler):
    """Answers without a word of its own: standard error is the connection too."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    with socket.socket(fileno=0) as connection:
        Once(connection, ("a node", 0), cast(BaseServer, None), directory=sys.argv[1])
