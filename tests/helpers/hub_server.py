"""A fake hub for uploads: it answers the requests with which huggingface_hub creates repositories and commits files."""

import base64
import json

from local_server import LocalServer, QuietHandler


class HubServer(LocalServer):
    """Keeps repositories in memory as {id: {path: content}} and refuses requests without the token `token`.

    `made` has the requests that create repositories, and `tokens` the authorization headers.
    """

    def __init__(self, token: str):
        self.token, self.files, self.made, self.tokens = token, {}, [], set()
        hub = self

        class Handler(QuietHandler):
            def do_GET(self):
                self.answer(b"")

            def do_POST(self):
                self.answer(self.rfile.read(int(self.headers["content-length"])))

            def answer(self, body: bytes) -> None:
                hub.tokens.add(self.headers.get("authorization"))
                allowed = self.headers.get("authorization") == f"Bearer {hub.token}"
                status, found = hub.reply_to(self.path, body) if allowed else (401, {"error": "who are you?"})
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(Handler)

    def reply_to(self, path: str, body: bytes) -> tuple[int, dict | list]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.made.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            new = name not in self.files
            self.files.setdefault(name, {})
            return (200 if new else 409), {"url": f"{self.url}/{name}", "id": name}
        if path == "/api/validate-yaml":  # a README's front matter
            return 200, {"errors": [], "warnings": []}
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {"files": [f | {"uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in path:
            self.commit(name, body)
            return 200, {"commitUrl": f"{self.url}/{name}/commit/0", "commitOid": "0", "success": True}
        if "/tree/" in path:
            return 200, [{"type": "file", "path": p, "size": 1, "oid": "0"} for p in self.files[name]]
        siblings = [{"rfilename": file} for file in self.files[name]]
        return 200, {"id": name, "sha": "0", "private": True, "siblings": siblings, "tags": [], "downloads": 0}

    def commit(self, name: str, body: bytes) -> None:
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del self.files[name][value["path"]]
