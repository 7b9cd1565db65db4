"""A small STAC API on localhost, in a process of its own: standard library alone.

    python tests/stac_api.py CATALOG METHOD

serves the items of a built catalog, a page an item, newest first, and filters by bboxes as some
servers do. It prints its URL. ``POST /control`` says what it does next: ``answers`` (statuses of
the next searches), ``retry_after`` (seconds), ``secret`` (put in the links to next pages).
``GET /asked`` lists the searches.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

FAR = ("0000", "9999")


class Api(BaseHTTPRequestHandler):
    """Answers from ``catalog``; a page holds one item."""

    catalog: Path
    method: str
    asked: list[dict[str, Any]] = []
    control: dict[str, Any] = {}

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        answers = {
            "/": self.landing,
            "/collections": self.collections,
            "/search": self.search,
            "/asked": lambda _: list(self.asked),
        }
        self.send(answers[url.path](query))

    def do_POST(self) -> None:
        values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            self.asked.clear()
            self.control.clear()
            self.control.update(values)
            self.send({})
        else:
            self.send(self.search(values))

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, values: Any, status: int = 200) -> None:
        if values is None:
            return
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status != 200 and "retry_after" in self.control:
            self.send_header("Retry-After", str(self.control["retry_after"]))
        self.end_headers()
        self.wfile.write(body)

    @property
    def root(self) -> str:
        return f"http://{self.headers['Host']}"

    def landing(self, _: dict[str, Any]) -> dict[str, Any]:
        conforms = ("core", "collections", "item-search")
        search = {"rel": "search", "type": "application/geo+json", "method": self.method}
        return {
            "type": "Catalog",
            "id": "small",
            "description": "A small API",
            "stac_version": "1.1.0",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{name}" for name in conforms],
            "links": [
                {"rel": "self", "href": self.root},
                {"rel": "root", "href": self.root},
                {"rel": "data", "href": f"{self.root}/collections"},
                search | {"href": f"{self.root}/search"},
            ],
        }

    def collections(self, _: dict[str, Any]) -> dict[str, Any]:
        found = [json.loads(path.read_text()) for path in self.catalog.glob("*/collection.json")]
        return {"collections": [c | {"links": []} for c in found], "links": []}

    def search(self, query: dict[str, Any]) -> dict[str, Any] | None:
        self.asked.append({"method": self.command, **query})
        status = self.control["answers"].pop(0) if self.control.get("answers") else 200
        if status != 200:
            self.send({"description": "busy"}, status)
            return None
        page = int(query.get("page", 0))
        found = sorted(self.found(query), key=lambda item: str(item["id"]), reverse=True)
        links = [self.next({**query, "page": page + 1})] if page + 1 < len(found) else []
        return {
            "type": "FeatureCollection",
            "features": found[page : page + 1],
            "links": links,
        }

    def next(self, query: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.root}/search"
        if self.method == "GET":
            if "secret" in self.control:
                query = query | {"token": self.control["secret"]}
            return {"rel": "next", "href": f"{href}?{urlencode(query)}"}
        return {"rel": "next", "href": href, "method": "POST", "body": query}

    def found(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = {key: _listed(query.get(key)) for key in ("collections", "ids", "bbox")}
        start, _, end = str(query.get("datetime", "../..")).partition("/")
        first, last = (FAR[0] if start == ".." else start), (FAR[1] if end == ".." else end)
        items = []
        for path in self.catalog.glob("*/items/*.json"):
            item = json.loads(path.read_text())
            times = item["properties"]
            if (
                (not wanted["collections"] or item["collection"] in wanted["collections"])
                and (not wanted["ids"] or item["id"] in wanted["ids"])
                and (not wanted["bbox"] or _meet([float(v) for v in wanted["bbox"]], item["bbox"]))
                and times["start_datetime"] <= (last or first)
                and times["end_datetime"] >= first
            ):
                items.append(_with_absolute_hrefs(item, path))
        return items


def _listed(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value or ())


def _meet(one: list[float], other: list[float]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _with_absolute_hrefs(item: dict[str, Any], path: Path) -> dict[str, Any]:
    for asset in item["assets"].values():
        asset["href"] = os.path.normpath(path.parent / asset["href"])
    return item | {"links": []}


if __name__ == "__main__":
    Api.catalog, Api.method = Path(sys.argv[1]), sys.argv[2]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
