"""An object store in tests: a real S3 server on loopback, and a way to it that throttles and breaks."""

import http.client
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from capt import remote

BUCKET = "photographs"
_LOOPBACK = "127.0.0.1"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Disturb = Callable[[str, str, int], str | None]
"""Asked for each request by method, path and number; answers `throttle`, `cut` or nothing."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Give the address of a server that speaks S3."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second, and few tests need it

    server = ThreadedMotoServer(ip_address=_LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Give the URI of an empty folder in an object store, found by the variables that AWS's own tools read."""
    point_to(s3_server, monkeypatch)
    connection = http.client.HTTPConnection(s3_server)
    connection.request(
        "PUT", f"/{BUCKET}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/x/us-east-1/s3/aws4_request"}
    )
    connection.getresponse().read()
    connection.close()
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0]}"


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 be found at an address from now on."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    remote._open.cache_clear()  # the next URI opens its file system anew, with the variables of now


@contextmanager
def disturbed(address: str, disturb: Disturb) -> Iterator[str]:
    """Give the address of a way to a server that refuses some requests and cuts some answers in two."""
    count, lock = 0, threading.Lock()

    class Way(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            nonlocal count
            body = _body(self)
            with lock:
                count += 1
                answer = disturb(self.command, self.path, count)
            if answer == "throttle":
                self._answer(503, "Slow Down", [("Content-Type", "application/xml")], _SLOW_DOWN)
                return
            server = http.client.HTTPConnection(address)
            server.request(self.command, self.path, body, _kept(self.headers.items()))
            found = server.getresponse()
            content = b"" if self.command == "HEAD" else found.read()
            headers = [
                pair
                for pair in found.getheaders()
                if pair[0].lower() not in {"content-length", "connection", "transfer-encoding"}
            ]
            length = found.getheader("Content-Length") if self.command == "HEAD" else None
            server.close()
            if answer == "cut":
                self.send_response(found.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self._answer(found.status, found.reason, headers, content, length)

        def _answer(
            self, status: int, reason: str, headers: list[tuple[str, str]], content: bytes, length: str | None = None
        ) -> None:
            self.send_response(status, reason)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - http.server asks for these names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((_LOOPBACK, 0), Way)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{_LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """Read what was sent, also in chunks."""
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass
    return b"".join(parts)


def _kept(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers
        if name.lower() not in {"transfer-encoding", "content-length", "connection", "expect"}
    }
