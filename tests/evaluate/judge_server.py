"""A judge on loopback that answers as it is told to: well, late, in drips, with nonsense, with errors."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[dict[str, Any]], Any]


class JudgeServer:
    """`behaviour` gives the words for a request, or a number (an HTTP error), or bytes (the raw answer)."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.keys.append(self.headers.get("Authorization"))
                answer = server.behaviour(body) if self.path == "/v1/chat/completions" else 404
                # It may be so slow that the other side went away.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._send(answer)

            def _send(self, answer: Any) -> None:
                self.send_response(answer if isinstance(answer, int) else 200)
                if isinstance(answer, int) and 300 <= answer < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                if isinstance(answer, str):
                    document = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
                    self.wfile.write(json.dumps(document).encode())
                elif isinstance(answer, bytes):
                    self.wfile.write(answer)
                elif isinstance(answer, list):
                    for piece in answer:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(0.1)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def judging(behaviour: Behaviour) -> Iterator[JudgeServer]:
    """A running judge."""
    server = JudgeServer(behaviour)
    try:
        yield server
    finally:
        server.close()
