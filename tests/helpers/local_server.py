"""A web server in this process, the base of the tests' fake servers."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


class LocalServer(ThreadingHTTPServer):
    """Serves at `url` within a `with` block, on a free local port unless one is given."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0):
        super().__init__(("127.0.0.1", port), handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def handle_error(self, request, client_address):
        pass  # in some tests clients hang up

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stop()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
