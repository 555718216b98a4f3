"""Serves the reports so that the page can link to them: read only, nothing else, and closed like the server itself."""

import base64
import functools
import hmac
import http.server
import threading
from http import HTTPStatus
from pathlib import Path

from flows.worktree import FOLDER

FOLDERS = ("reports", f"{FOLDER}/reports")
"""Of the project, and of the working tree of scheduled runs."""
REALM = 'Basic realm="reports"'


class _Reports(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of files below the project's folders of reports."""

    def __init__(self, *arguments: object, secret: str, directory: str) -> None:
        self._secret = secret
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self._allowed():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._allowed():
            super().do_HEAD()

    def _allowed(self) -> bool:
        if not self._known():
            return False
        path = Path(self.translate_path(self.path)).resolve()
        if any(path.is_relative_to((Path(self.directory) / folder).resolve()) for folder in FOLDERS):
            return True
        self.send_error(HTTPStatus.NOT_FOUND)
        return False

    def _known(self) -> bool:
        expected = "Basic " + base64.b64encode(self._secret.encode()).decode("ascii")
        given = self.headers.get("Authorization", "")
        if not self._secret or hmac.compare_digest(given.encode(), expected.encode()):
            return True
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", REALM)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what is read is nobody's business."""


def serve_reports(project: Path, host: str, port: int, secret: str) -> str:
    """Serves them from a thread of this process; the address. With a secret, `user:password` has to be given."""
    handler = functools.partial(_Reports, secret=secret, directory=str(project))
    server = http.server.ThreadingHTTPServer((host, port), handler)
    threading.Thread(target=server.serve_forever, name="reports", daemon=True).start()
    return f"http://{host}:{server.server_address[1]}"
