"""A web server of this process, for the servers that tests stand in for."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


class LocalServer(ThreadingHTTPServer):
    """Serves at `url`, on a free port of this machine unless one is given, within a `with` block."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0):
        super().__init__(("127.0.0.1", port), handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of some tests

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stop()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
