"""As much of a Weights & Biases server as a run needs to go online, on a port of this machine."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Server", "serve"]

BUCKET = {
    "id": "bucket",
    "name": "run",
    "displayName": "run",
    "config": "{}",
    "historyLineCount": 0,
    "project": {"id": "project", "name": "neo", "entity": {"id": "entity", "name": "somebody"}},
}
ANSWERS = {  # by what a query asks for
    "upsertBucket": {},
    "viewer": {
        "id": "viewer",
        "entity": "somebody",
        "username": "somebody",
        "flags": "{}",
        "teams": {"edges": []},
    },
    "createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": []},
    "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None},
}


class Server:
    """url: of the server; configs: those of the runs that came. stop() makes it hang up, and it is never back."""

    def __init__(self) -> None:
        self.configs: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._stopped = False
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._http.shutdown()
            self._http.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if self._stopped:
            raise ConnectionAbortedError
        try:
            asked = json.loads(body)
        except ValueError:
            return {}
        if path.endswith("file_stream"):
            lines = asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.history += [json.loads(line) for line in lines]
            return {}
        query = asked.get("query", "")
        if "upsertBucket" in query and asked["variables"].get("config"):
            self.configs.append(json.loads(asked["variables"]["config"]))
        answers = {name: answer for name, answer in ANSWERS.items() if name in query}
        if "upsertBucket" in answers:
            bucket = {**BUCKET, "name": asked["variables"].get("name", "run")}
            answers["upsertBucket"] = {"bucket": bucket, "inserted": True}
        return {"data": answers}


class _Handler(BaseHTTPRequestHandler):
    server_of: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        try:
            answer = json.dumps(self.server_of.answer(self.path, body)).encode()
        except ConnectionAbortedError:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()
