#!/usr/bin/python3
"""A program in place of k3s for a test without the internet: no Kubernetes, but how nodes find each other.

It takes those flags of `k3s server` and `k3s agent` that the layer uses (k3s-io/k3s, pkg/cli/cmds), and no
others. It records how it was started. The server answers on port 6443 to those with the token, without TLS.
An agent connects until it is taken, and then writes the file that k3s writes.
"""

import argparse
import http.client
import http.server
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

PORT = 6443
RECORD = Path("/run/k3s-stand-in.json")
IMAGES = Path("/var/lib/rancher/k3s/agent/images")
KUBELET = Path("/var/lib/rancher/k3s/agent/kubelet.kubeconfig")
joined: list[str] = []


def main() -> int:
    words = sys.argv[1:]
    if Path(sys.argv[0]).name == "kubectl":
        words = ["kubectl", *words]
    if words == ["--version"]:
        print("k3s version v0.0.0+stand-in")
        return 0
    if words == ["kubectl", "get", "--raw", "/readyz"] or words == ["kubectl", "get", "nodes"]:
        status, said = ask("127.0.0.1", "/readyz" if "--raw" in words else "/nodes", token="")
        print(said)
        return int(status != 200)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, flags in (("server", ("--agent-token-file",)), ("agent", ("--server", "--token-file"))):
        command = commands.add_parser(name, allow_abbrev=False)
        for flag in (*flags, "--node-name", "--node-ip", "--flannel-iface"):
            command.add_argument(flag, required=True)
    given = parser.parse_args(words)
    file = Path(given.agent_token_file if given.command == "server" else given.token_file)
    token = file.read_text().strip()
    record(given.node_ip, given.flannel_iface, file)
    if given.command == "server":
        serve(given.node_name, token)
    server = urlsplit(given.server)
    join(server.hostname or "", server.port or 0, given.node_name, token)
    signal.pause()
    return 1


def record(address: str, interface: str, token: Path) -> None:
    """Write down how the program was started, and what is on the node."""
    info = token.stat()
    RECORD.write_text(
        json.dumps(
            {
                "words": sys.argv[1:],
                "environment": dict(os.environ),
                "token": [oct(info.st_mode & 0o7777), info.st_uid, info.st_gid],
                "images": {file.name: file.read_text() for file in IMAGES.iterdir()},
                "interface": Path(f"/sys/class/net/{interface}").exists(),
                "address": is_here(address),
            }
        )
    )


def is_here(address: str) -> bool:
    """Whether ``address`` is the node's own: only then can it be bound."""
    with socket.socket() as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


def ask(host: str, path: str, token: str, port: int = PORT) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("GET", path, headers={"Authorization": token})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def serve(name: str, token: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            local = self.client_address[0] == "127.0.0.1"
            if self.path == "/readyz":
                self.answer(200, "ok")
            elif self.path == "/nodes" and local:
                self.answer(200, "\n".join([name, *joined]))
            elif self.headers["Authorization"] == token:
                joined.append(f"{self.path.rpartition('/')[2]} {self.client_address[0]}")
                self.answer(200, "joined")
            else:
                self.answer(401, "unauthorized")

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    http.server.ThreadingHTTPServer(("", PORT), Handler).serve_forever()


def join(host: str, port: int, name: str, token: str) -> None:
    """Connect until the server takes the token. Raises SystemExit when it refuses it."""
    while True:
        try:
            status, said = ask(host, f"/join/{name}", token, port)
        except OSError as error:
            print(f"no answer: {error}", flush=True)
            time.sleep(0.5)
            continue
        if status != 200:
            sys.exit(f"refused: {said}")
        KUBELET.write_text(said)
        return


sys.exit(main())
