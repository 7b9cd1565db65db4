"""A web server of a folder that knows ranges of bytes: ``python range_server.py FOLDER LOG``.

It runs in a process of its own: GDAL asks for bytes while it holds Python's lock.
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FilesByRange(BaseHTTPRequestHandler):
    """Serves ``/ANY/path`` as ``FOLDER/path``, and logs the bytes of each answer."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def _answer(self, *, with_body: bool) -> None:
        path = Path(sys.argv[1]) / self.path.lstrip("/").split("/", maxsplit=1)[-1]
        if not path.is_file():
            self._start(404, 0)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1 if asked and asked[2] else size, size)
        more = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if asked else {}
        self._start(206 if asked else 200, stop - start, **more)
        if with_body:
            with Path(sys.argv[2]).open("a") as log:
                log.write(f"{self.path} {stop - start}\n")
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start))

    def _start(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), FilesByRange) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
