"""An S3 bucket on loopback for tests: as much of its API as obstore uses, in memory.

Checked once against the same calls to moto 5.2: both answered alike.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass
class Bucket:
    """url: what RT_STORAGE_URL says. environment: what else it takes. failing: answer 500 to everything."""

    endpoint: str
    url: str = "s3://bucket/some/prefix"
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)  # incomplete multipart uploads
    failing: bool = False
    asked: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def bucket() -> Iterator[Bucket]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Requests)
    server.daemon_threads = True
    made = Bucket(f"http://127.0.0.1:{server.server_port}")
    server.bucket = made  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def bucket(self) -> Bucket:
        return self.server.bucket  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _all(self) -> None:
        bucket = self.bucket
        bucket.asked += 1
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if bucket.failing:
            return self._answer(500)
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/bucket").removeprefix("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        etag = f'"{md5(body).hexdigest()}"'
        match self.command:
            case "PUT" if "uploadId" in query:
                bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
                return self._answer(200, etag=etag)
            case "PUT":
                bucket.objects[key] = body
                return self._answer(200, etag=etag)
            case "POST" if "uploads" in query:
                name = f"upload{bucket.asked}"
                bucket.uploads[name] = {}
                return self._answer(
                    200,
                    f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
                )
            case "POST" if "uploadId" in query:
                sent = bucket.uploads.pop(query["uploadId"])
                bucket.objects[key] = b"".join(sent[number] for number in sorted(sent))
                return self._answer(
                    200,
                    f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>".encode(),
                )
            case "POST" if "delete" in query:
                keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
                for name in keys:
                    bucket.objects.pop(name, None)
                gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in keys)
                return self._answer(200, f"<DeleteResult {NAMESPACE}>{gone}</DeleteResult>".encode())
            case "DELETE" if "uploadId" in query:
                bucket.uploads.pop(query["uploadId"], None)
                return self._answer(204)
            case "DELETE":
                bucket.objects.pop(key, None)
                return self._answer(204)
            case "GET" if not key:
                return self._answer(200, self._listed(query.get("prefix", "")))
            case "GET" | "HEAD" if key in bucket.objects:
                return self._object(bucket.objects[key])
        self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _object(self, data: bytes) -> None:
        described = {"etag": f'"{md5(data).hexdigest()}"', "last_modified": "Fri, 20 Nov 2026 12:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked is None:
            return self._answer(200, data, **described)
        start, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        described["content_range"] = f"bytes {start}-{last}/{len(data)}"
        self._answer(206, data[start : last + 1], **described)

    def _listed(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-20T12:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.bucket.objects.items())
            if key.startswith(prefix)
        )
        listed = f"<ListBucketResult {NAMESPACE}><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return listed.encode()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _all
