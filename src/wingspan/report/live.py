"""The run as it is now, in a browser: a page on the loopback that asks for its content again every two seconds."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wingspan.errors import InputError
from wingspan.report import goodput, learning
from wingspan.report.page import pages
from wingspan.report.record import read_record
from wingspan.report.status import describe, rows
from wingspan.workspace import Run


def render_live(run: Run, template: str = "live.html") -> str:
    """The page, or only what changes of it (`now.html`)."""
    stages = [[stage, state, took, doing] for stage, state, took, _, _, doing in rows(describe(run))]
    return pages.get_template(template).render(
        run=run, record=read_record(run, unfinished=True), stages=stages, learning=learning, goodput=goodput
    )


def live_server(run: Run, port: int) -> ThreadingHTTPServer:
    """A server of the page, not yet serving; port 0 takes any free one. Raises InputError when the port is taken."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            template = {"/": "live.html", "/now": "now.html"}.get(self.path)
            body = render_live(run, template).encode() if template else b"there is nothing here"
            self.send_response(200 if template else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8" if template else "text/plain")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise InputError(f"port {port} cannot be opened: {error}", where="--port", remedy="Name another") from error
