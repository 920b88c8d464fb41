"""Files of an object store: s3://BUCKET/KEY, read as urllib's responses are, so that scrflow.storage.transfer
resumes them too.

Who may read, where the store is and which region it has is told as boto3 has it everywhere: AWS_ACCESS_KEY_ID and the
like, ~/.aws, AWS_ENDPOINT_URL for a store that is not Amazon's. boto3 is only needed for such addresses.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from scrflow.core.errors import ScrflowError


@dataclass(frozen=True)
class Response:
    """What scrflow.storage.transfer asks of a response."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def read(self, size: int) -> bytes:
        return self.body.read(size)

    def close(self) -> None:
        self.body.close()


def open_s3(request: urllib.request.Request, timeout: float) -> Response:
    """The object of an address, from the byte of the header Range on. HTTPError for what the store refuses, OSError for
    a store that cannot be reached, ScrflowError without boto3 or without credentials."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            NoRegionError,
            PartialCredentialsError,
        )
    except ImportError:
        raise ScrflowError(
            f"{request.full_url}: addresses s3:// need boto3: make storage-plugins (docs/reproducibility.md)"
        ) from None
    parts = urlsplit(request.full_url)
    options = {"Bucket": parts.netloc, "Key": unquote(parts.path).removeprefix("/")}
    if request.has_header("Range"):
        options["Range"] = request.get_header("Range")
    try:
        retries = {"max_attempts": 1}  # scrflow.storage.transfer tries again by itself
        client = boto3.client("s3", config=Config(connect_timeout=timeout, read_timeout=timeout, retries=retries))
        found = client.get_object(**options)
    except ClientError as error:
        code = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        message = error.response["Error"].get("Message") or error.response["Error"].get("Code", "")
        raise urllib.error.HTTPError(request.full_url, code, message, None, None) from None
    except (NoCredentialsError, NoRegionError, PartialCredentialsError) as error:
        raise ScrflowError(
            f"{request.full_url}: {error} (boto3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws)"
        ) from None
    except BotoCoreError as error:
        raise OSError(str(error)) from None
    length = {"Content-Length": str(found["ContentLength"])}
    return Response(found["ResponseMetadata"]["HTTPStatusCode"], length, _Body(found["Body"]))


@dataclass(frozen=True)
class _Body:
    """botocore's stream; its errors of the connection as OSError."""

    stream: Any

    def read(self, size: int) -> bytes:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            return self.stream.read(size)
        except (BotoCoreError, HTTPError) as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        self.stream.close()
