"""A fake hub for models: it answers the requests with which huggingface_hub resolves revisions and fetches files."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

from local_server import LocalServer, QuietHandler


class ModelHub(LocalServer):
    """Serves {repository: {revision: (commit, folder)}}. `fetched` has the names of the files that were sent."""

    def __init__(self, repositories: dict[str, dict[str, tuple[str, Path]]]):
        self.repositories, self.fetched = repositories, set()
        hub = self

        class Handler(QuietHandler):
            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                status, body, headers = hub.reply_to(unquote(urlparse(self.path).path))
                self.send_response(status)
                for name, value in (headers | {"content-length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        super().__init__(Handler)

    def reply_to(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        for name, revisions in self.repositories.items():
            for revision, (commit, folder) in revisions.items():
                if path == f"/api/models/{name}/revision/{revision}":
                    info = {"id": name, "sha": commit, "siblings": [], "private": False, "tags": [], "downloads": 0}
                    return 200, json.dumps(info).encode(), {"content-type": "application/json"}
                if path.startswith(f"/api/models/{name}/tree/{commit}"):
                    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                    tree = [
                        {"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size}
                        | {"oid": f"{commit[:8]}{i:032}"}
                        for i, file in enumerate(files)
                    ]
                    return 200, json.dumps(tree).encode(), {"content-type": "application/json"}
                start = f"/{name}/resolve/{commit}/"
                if path.startswith(start):
                    file = path.removeprefix(start)
                    if not (folder / file).is_file():
                        return 404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": commit}
                    self.fetched.add(file)
                    headers = {"etag": f'"{commit[:8]}{abs(hash(file)):032}"', "x-repo-commit": commit}
                    return 200, (folder / file).read_bytes(), headers
        return 404, b"{}", {"x-error-code": "RevisionNotFound"}
