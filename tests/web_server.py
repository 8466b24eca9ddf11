"""A web server on 127.0.0.1 that gives parts of files and can be told to fail."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Web", "web_server"]


@dataclass
class Web:
    """What a server has, by path, and how often it was asked; ``status`` is its answer to everything else."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    status: int = 404
    says_size: bool = True

    def put(self, path: str, content: bytes) -> str:
        """Serve a file; return its address."""
        self.files[path] = content
        return f"{self.address}{path}"


@contextlib.contextmanager
def web_server() -> Iterator[Web]:
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            web.requests[self.path] += 1
            content = web.files.get(self.path)
            if content is None:
                self.send_error(web.status)
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            last = min(int(asked[2]) if asked and asked[2] else len(content), len(content) - 1)
            body = content[first : last + 1]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            if web.says_size:
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
