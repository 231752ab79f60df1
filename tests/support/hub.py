"""A hub in this process: what `huggingface_hub` asks to upload a folder and to fetch a revision, of one repository."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@contextmanager
def running_hub():
    """Its address and its state: files by revision, and the paths that were asked for."""
    state = {"revisions": {}, "asked": [], "repositories": {}}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, content, status=200, **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self):
            path, body = unquote(self.path).partition("?")[0], self.body()
            state["asked"].append(path)
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                state["repositories"][name] = asked.get("private") or asked.get("visibility") == "private"  # by version
                self.answer({"url": f"{address}/{name}", "name": name, "id": "1"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif "/commit/" in path:
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
                }
                revision = hashlib.sha1(body).hexdigest()
                state["revisions"][revision] = files
                self.answer({"commitOid": revision, "commitUrl": f"{address}/me/net/commit/{revision}", "success": True})
            else:
                self.answer({"error": "unknown"}, 404)

        def do_GET(self):
            path = unquote(self.path).partition("?")[0]
            state["asked"].append(path)
            parts = path.strip("/").split("/")
            if path == "/api/whoami-v2":
                self.answer({"name": "me", "type": "user", "auth": {}})
            elif "revision" in parts and parts[-1] in state["revisions"]:
                files = [{"rfilename": name} for name in state["revisions"][parts[-1]]]
                self.answer({"id": "me/net", "sha": parts[-1], "siblings": files, "tags": [], "private": False})
            elif "tree" in parts and parts[5] in state["revisions"]:
                files = state["revisions"][parts[5]].items()
                self.answer([{"type": "file", "path": name, "size": len(content), "oid": "0"} for name, content in files])
            elif "resolve" in parts and (content := state["revisions"].get(parts[3], {}).get(parts[4])) is not None:
                self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=parts[3])
            else:
                self.answer({"error": "not found"}, 404, X_Error_Code="RevisionNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, state
    finally:
        server.shutdown()
        server.server_close()
