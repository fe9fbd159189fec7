"""A fake hub for data sets: it answers the HTTP requests with which `datasets` finds and downloads files."""

import hashlib
import json
import re
from urllib.parse import unquote, urlsplit

from local_server import LocalServer, QuietHandler


class DataHub(LocalServer):
    """Serves one data set, `{revision: {path: content}}`. A revision's commit is the SHA-1 of its name."""

    def __init__(self, name: str, revisions: dict[str, dict[str, bytes]]):
        self.commits = {revision: hashlib.sha1(revision.encode()).hexdigest() for revision in revisions}
        self.files = revisions | {self.commits[revision]: files for revision, files in revisions.items()}
        hub = self

        class Handler(QuietHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, body = hub.reply_to(unquote(urlsplit(self.path).path), name)
                self.send_response(status)
                for key, value in (headers | {"content-length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_GET

        super().__init__(Handler)

    def reply_to(self, path: str, name: str) -> tuple[int, dict[str, str], bytes]:
        json_type = {"content-type": "application/json"}
        if match := re.fullmatch(rf"/datasets/{name}/resolve/([^/]+)/(.+)", path):
            revision, file = match.groups()
            if revision not in self.files:
                return 404, {"x-error-code": "RevisionNotFound"}, b""
            if file not in self.files[revision]:
                return 404, {"x-error-code": "EntryNotFound"}, b""
            commit = self.commits.get(revision, revision)
            headers = {"etag": f'"{hashlib.sha1(self.files[revision][file]).hexdigest()}"', "x-repo-commit": commit}
            return 200, headers, self.files[revision][file]
        if match := re.fullmatch(rf"/api/datasets/{name}(?:/(revision|tree|paths-info)/([^/]+)(?:/.*)?)?", path):
            kind, revision = match[1] or "revision", match[2] or "main"
            if revision not in self.files:
                return 404, {"x-error-code": "RevisionNotFound"}, b""
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.files[revision].items()
            ]
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            info = {"id": name, "sha": self.commits.get(revision, revision), "siblings": siblings, "tags": []}
            return 200, json_type, json.dumps(info if kind == "revision" else entries).encode()
        return 404, {"x-error-code": "RepoNotFound"}, b""
