"""Receive what `--notify URL` sends: `python examples/receive_notifications.py 8080`.

Needs `pip install standardwebhooks`, and CARS_NOTIFY_SECRET as the workers have it. For them and for the client that
submits, CARS_NOTIFY_HOSTS must list this server, such as `127.0.0.1:8080`; then
`cars submit photos/ --notify http://127.0.0.1:8080/`.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["CARS_NOTIFY_SECRET"])
seen = set()  # a real receiver stores them where they outlive it: the same one may come again a day later


class Receiver(BaseHTTPRequestHandler):
    """One request each."""

    def do_POST(self):
        """Verify it, and print what became of the job the first time."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            told = webhook.verify(body, headers)  # of the exact bytes, before anything else is done with them
        except WebhookVerificationError:
            self.send_error(401)
            return
        if headers["webhook-id"] not in seen:
            seen.add(headers["webhook-id"])
            job = told["data"]
            print(f"job {job['id']} is {job['state']}: {job['ok']} of {job['total']} images", flush=True)
        self.send_response(204)  # within ten seconds; whatever takes longer is for another thread or queue
        self.end_headers()

    def log_message(self, *_):
        """Leave stderr alone."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
