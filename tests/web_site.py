"""A web server that breaks off, refuses and changes its mind, for the tests of what is read from far away."""

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DATA = random.Random(0).randbytes(1_000_000)


class Site:
    """A web server with one file, `DATA`, and what is wrong with it."""

    def __init__(self) -> None:
        self.data = DATA
        self.headers: dict[str, str] = {}
        self.ranges = True
        self.says_length = True
        self.statuses: Iterator[int] = iter(())
        """Answers given before the file is."""
        self.cuts: Iterator[int] = iter(())
        """Bytes after which each connection breaks."""
        self.may_break: threading.Semaphore | None = None
        """What was read before a break is known where the break waits for it."""
        self.asked: list[tuple[str, str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may go at any time
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/set/part 1.jsonl".replace(" ", "%20")

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.command, request.path, wanted))
        status = next(self.statuses, 200) if "part" in request.path else 404
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        body = self.data[start:] if status == 200 else b"oops"
        request.send_response(206 if status == 200 and wanted and self.ranges else status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        if wanted and self.ranges:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.says_length or request.command == "HEAD":
            request.send_header("Content-Length", str(len(body)))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        if request.command == "HEAD":
            return
        cut = next(self.cuts, None) if status == 200 else None
        sent = body[:cut]
        if self.says_length:
            request.wfile.write(sent)
        else:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if cut is None else b""))
        if cut is not None:
            if self.may_break:
                request.wfile.flush()
                self.may_break.acquire(timeout=5)
            request.close_connection = True
