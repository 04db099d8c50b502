"""Qdrant's own engine (qdrant-edge-py) behind the requests of Qdrant's REST interface that the back end makes. For tests: the server
itself is in no package registry. Anything unknown is refused, so that a wrong request is noticed.

usage: qdrant_bridge.py ENGINE_FOLDER DATA_FOLDER PORT API_KEY"""

import http.server
import json
import os
import sys
import threading
import urllib.parse

sys.path.insert(0, sys.argv[1])
import qdrant_edge as q  # noqa: E402

DATA, PORT, KEY = sys.argv[2], int(sys.argv[3]), sys.argv[4]
NAMED = os.path.join(DATA, "collections")
LOCK = threading.Lock()
SHARDS = {}


class Wrong(Exception):
    pass


def shard(name):
    if name not in SHARDS:
        path = os.path.join(NAMED, name)
        if not os.path.exists(os.path.join(path, "made")):
            return None
        SHARDS[name] = q.EdgeShard.load(os.path.join(path, "shard"))
    return SHARDS[name]


def only(given, required, optional=()):
    if not set(required) <= set(given) <= set(required) | set(optional):
        raise Wrong(f"fields {sorted(given)}, want {sorted(required)}")
    return given


def create(name, body):
    only(body, ["vectors"], ["on_disk_payload"])
    if body["vectors"] != {}:
        raise Wrong("vectors")
    path = os.path.join(NAMED, name, "shard")
    os.makedirs(path, exist_ok=True)
    # The engine wants one kind of vector at least; no point has any.
    config = q.EdgeConfig(sparse_vectors={"none": q.EdgeSparseVectorParams()}, on_disk_payload=body["on_disk_payload"])
    SHARDS[name] = q.EdgeShard.create(path, config)
    SHARDS[name].flush()
    open(os.path.join(NAMED, name, "made"), "w").close()
    return True


def index(one, body):
    only(body, ["field_name", "field_schema"])
    if body["field_schema"] != "keyword":
        raise Wrong("field_schema")
    one.update(q.UpdateOperation.create_field_index(body["field_name"], q.PayloadSchemaType.Keyword))
    return {"status": "completed"}


def upsert(one, body):
    points = only(body, ["points"])["points"]
    for point in points:
        only(point, ["id", "vector", "payload"])
        if point["vector"] != {}:
            raise Wrong("vector")
    one.update(q.UpdateOperation.upsert_points([q.Point(p["id"], {}, p["payload"]) for p in points]))
    return {"status": "completed"}


def record(found):
    return {"id": str(found.id), "payload": found.payload}


def retrieve(one, body):
    only(body, ["ids", "with_payload", "with_vector"])
    return [record(found) for found in one.retrieve(body["ids"], body["with_payload"], body["with_vector"])]


def scroll(one, body):
    only(body, ["filter", "limit", "with_payload", "with_vector"], ["offset"])
    conditions = [
        q.FieldCondition(only(c, ["key", "match"])["key"], match=q.MatchValue(only(c["match"], ["value"])["value"]))
        for c in only(body["filter"], ["must"])["must"]
    ]
    request = q.ScrollRequest(
        offset=body.get("offset"), limit=body["limit"], filter=q.Filter(must=conditions),
        with_payload=body["with_payload"], with_vector=body["with_vector"],
    )
    found, following = one.scroll(request)
    return {"points": [record(each) for each in found], "next_page_offset": None if following is None else str(following)}


def delete(one, body):
    one.update(q.UpdateOperation.delete_points(only(body, ["points"])["points"]))
    return {"status": "completed"}


ROUTES = {
    ("PUT", "index"): (index, {"wait": ["true"]}, True),
    ("PUT", "points"): (upsert, {"wait": ["true"], "ordering": ["strong"]}, True),
    ("POST", "points"): (retrieve, {}, False),
    ("POST", "points/scroll"): (scroll, {}, False),
    ("POST", "points/delete"): (delete, {"wait": ["true"], "ordering": ["strong"]}, True),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status, result):
        body = json.dumps({"result": result, "status": "ok" if status == 200 else {"error": str(result)}, "time": 0.0}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        text = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.headers.get("api-key") != KEY:
            return self.answer(401, "Must provide an API key or an Authorization bearer token")
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.split("/", 3)
        if len(parts) < 3 or parts[1] != "collections":
            return self.answer(404, "no such path")
        name, rest = parts[2], parts[3] if len(parts) > 3 else ""
        with LOCK:
            try:
                one = shard(name)
                if rest == "":
                    if self.command == "GET":
                        return self.answer(200, {}) if one else self.answer(404, f"Collection `{name}` doesn't exist!")
                    return self.answer(200, create(name, json.loads(text)))
                work, query, writes = ROUTES[self.command, rest]
                if urllib.parse.parse_qs(url.query) != query:
                    raise Wrong("query")
                result = work(one, json.loads(text))
                if writes:
                    # What is acknowledged must outlive `kill -9`; the server has its log for that.
                    one.flush()
                return self.answer(200, result)
            except Exception as error:  # noqa: BLE001
                return self.answer(400, f"{type(error).__name__}: {error}")

    do_GET = do_PUT = do_POST = serve

    def log_message(self, *_):
        pass


os.makedirs(NAMED, exist_ok=True)
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.daemon_threads = True
server.serve_forever()
