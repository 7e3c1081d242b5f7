"""A chat endpoint for tests, over real HTTP: it misbehaves by script, and else repeats the last word."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Served:
    """A server that does what its script says, then answers the last word of the question."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.asked.append(body)
                step = served.script.pop(0) if served.script else 200
                if step == "late":
                    time.sleep(1.0)
                    step = 200
                said = "" if step == "empty" else body["messages"][-1]["content"].split()[-1]
                status = step if isinstance(step, int) else 200
                content = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
                text = b"not json" if step == "garbage" else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.spec = f"http://127.0.0.1:{self._server.server_port}/v1#parrot"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
