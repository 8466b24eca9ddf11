"""An S3 server on 127.0.0.1 that counts requests and can be told to fail."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pytest
from fsspec import get_filesystem_class
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["S3", "s3_server"]

Answer = tuple[str, list[tuple[str, str]], bytes]
"""Status line, headers, body."""


class S3(NamedTuple):
    """A bucket on a server."""

    server: _Server
    bucket: str

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}"

    def put(self, key: str, content: bytes) -> str:
        """Write an object past the server's faults; return its address."""
        self.server.client().put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"{self.address}/{key}"

    def put_many(self, keys: Iterable[str]) -> None:
        """Write empty objects without a request for each."""
        for key in keys:
            _backend().put_object(self.bucket, key, b"")

    def clear(self) -> None:
        """Delete every object."""
        _backend().buckets[self.bucket].keys.clear()

    def get(self, key: str) -> bytes:
        content: bytes = self.server.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def object_keys(self) -> list[str]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]


class _Server:
    """moto's application behind a gate: ``fault`` may answer a request in its place."""

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self.requests: Counter[tuple[str, str]] = Counter()
        """(method, path) → how often."""
        self.fault: Callable[[dict[str, Any]], Answer | None] = lambda _: None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("HTTP_X_TEST") != "setup":
            self.requests[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
            answer = self.fault(environ)
            if answer is not None:
                status, headers, body = answer
                start_response(status, headers)
                return [body]
        answered: Iterable[bytes] = self._application(environ, start_response)
        return answered

    def client(self) -> Any:
        client = boto3.client("s3")
        client.meta.events.register("before-send.s3", _mark)
        return client


def _backend() -> Any:
    return s3_backends["123456789012"]["aws"]  # moto's account


def _mark(request: Any, **_: Any) -> None:
    request.headers["X-Test"] = "setup"


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """Run a server; the environment names it, so that child processes find it as well."""
    application = _Server()
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_MAX_ATTEMPTS": "1",  # what is tried again is under test, and no test waits for botocore
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        get_filesystem_class("s3").clear_instance_cache()  # those of another server
        found = S3(application, "videos")
        application.client().create_bucket(Bucket=found.bucket)
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
