"""Ask a server started by `regraft serve`. This needs none of the packages that serving needs."""

from __future__ import annotations

import http.client
import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from regraft.data.images.rejections import Rejection
from regraft.data.samples import ImageFile, RejectedFile
from regraft.errors import EnvironmentFault, UsageError, describe_os_error
from regraft.inference.inputs import list_samples, name_sample, open_samples
from regraft.inference.predictions import Prediction
from regraft.system.console import SILENT
from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE, check_coverage

__all__ = ["Client"]

AT_A_TIME = 4  # requests under way: enough to keep a server with a few processors busy
RETRY_SECONDS = 60.0  # for which a server that is overloaded or not ready is asked again
SECONDS = 60.0  # for one answer


class Client:
    """A client of a server that `regraft serve` started. Its `predict` is that of `Bundle`.

    Threads may share it.

    Args:
        url: where the server is, such as http://127.0.0.1:8000.
        token: the server's secret; "" for none.
        model: name of the model; None for the server's first one.

    Raises:
        UsageError: the URL is none of HTTP.

    Example:
        client = Client("http://127.0.0.1:8000")
        for prediction in client.predict(["dress.jpg", "photos"]):
            print(prediction.label)
    """

    def __init__(self, url: str, *, token: str = "", model: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"Expected the address of a server, such as http://127.0.0.1:8000. Received: {url}."
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._parts, self._model = parts, model
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._local = threading.local()

    def list_models(self) -> list[dict[str, Any]]:
        """Return name, version, task and outputs of each model of the server.

        Raises:
            EnvironmentFault: no server answers.
            UsageError: the server expects another token.
        """
        status, answer = self._request("GET", "/models")
        if status != 200:
            raise self._make_error(answer)
        return list(answer)

    def predict(
        self, images: Any, *, scale: float = 1.0, coverage: float = DEFAULT_COVERAGE
    ) -> Iterator[Prediction | RejectedFile]:
        """Predict samples in order; several are under way at a time.

        Args:
            images, scale, coverage: as for `Bundle.predict`.

        Raises:
            UsageError, DataError: see `Bundle.predict`; or the server has no such model.
            EnvironmentFault: no server answers, or it stays overloaded.
        """
        check_coverage(coverage)
        samples = list_samples(images, self._find_model()["images_per_sample"], SILENT)
        names = {"model": self._model} if self._model else {}
        path = f"/predict?{urlencode({'coverage': coverage, **names}, quote_via=quote)}"
        return self._predict(samples, path, scale)

    def _find_model(self) -> dict[str, Any]:
        models = self.list_models()
        if not models:
            raise EnvironmentFault(f"The server at {self.url} is still loading its models.")
        for model in models:
            if self._model in (None, model["model"]):
                return model
        names = ", ".join(str(model["model"]) for model in models)
        raise UsageError(f"Expected one of the server's models: {names}. Received: {self._model}.")

    def _predict(
        self, samples: Sequence[Any], path: str, scale: float
    ) -> Iterator[Prediction | RejectedFile]:
        with open_samples(samples, scale=scale) as verdicts, ThreadPoolExecutor(AT_A_TIME) as threads:
            under_way: deque[Future[Prediction | RejectedFile]] = deque()
            for sample, verdict in zip(samples, verdicts, strict=True):
                under_way.append(threads.submit(self._ask, name_sample(sample), verdict, path))
                if len(under_way) > 2 * AT_A_TIME:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def _ask(self, name: str, verdict: list[ImageFile] | Rejection, path: str) -> Prediction | RejectedFile:
        """Return the answer to one sample; wait while the server is overloaded."""
        if isinstance(verdict, Rejection):
            return RejectedFile(name, verdict.code, verdict.detail)
        try:
            files = [Path(file.path).read_bytes() for file in verdict]
        except OSError as error:
            return RejectedFile(name, "unreadable", describe_os_error(error))
        content_type, body = _encode_form(files)
        end = time.monotonic() + RETRY_SECONDS
        while True:
            status, answer = self._request("POST", path, body, {"Content-Type": content_type})
            if status != 503 or time.monotonic() > end:
                break
            time.sleep(0.5)
        if status == 200:
            return _restore_prediction(answer, name)
        if status in (413, 422):
            return RejectedFile(name, *_read_reason(answer))
        raise self._make_error(answer)

    def _make_error(self, answer: Any) -> UsageError | EnvironmentFault:
        code, message = _read_reason(answer)
        if code == "unauthorized":
            return UsageError(f"The server at {self.url} expects another token. Give its --token-file.")
        if not code:
            return EnvironmentFault(f"What answers at {self.url} is no server of regraft.")
        return EnvironmentFault(f"The server at {self.url} refused: {code} ({message}).")

    def _request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return status and content of an answer, on a connection that each thread keeps open."""
        for attempt in range(2):
            connection = self._get_connection()
            try:
                connection.request(method, self._parts.path.rstrip("/") + path, body or None,
                                   {**self._headers, **(headers or {})})  # fmt: skip
                response = connection.getresponse()
                content = response.read()
                return response.status, json.loads(content or b"null")
            except ValueError:
                return response.status, None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                is_stale = isinstance(error, http.client.RemoteDisconnected | ConnectionError)
                if attempt or not is_stale or isinstance(error, ConnectionRefusedError):
                    reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
                    raise EnvironmentFault(
                        f"No server answers at {self.url}: {reason}. Start one: regraft serve RUN"
                    ) from error
        raise AssertionError

    def _get_connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            kind = (
                http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            )
            connection = self._local.connection = kind(self._parts.netloc, timeout=SECONDS)
        return connection


def _read_reason(answer: Any) -> tuple[str, str]:
    """Return code and message of a refusal; empty ones if it is none of regraft."""
    error = answer.get("error") if isinstance(answer, dict) else None
    fields = error if isinstance(error, dict) else {}
    return str(fields.get("code", "")), str(fields.get("message", ""))


def _encode_form(files: Sequence[bytes]) -> tuple[str, bytes]:
    """Return the content type and the body of a request with the files of one sample."""
    if len(files) == 1:
        return "application/octet-stream", files[0]
    boundary = secrets.token_hex(16)
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="image"; filename="%d"\r\n\r\n%s\r\n'
        % (boundary.encode(), number, file)
        for number, file in enumerate(files)
    ]
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()


def _restore_prediction(row: dict[str, Any], name: str) -> Prediction:
    """Return the prediction that a row was made of; see `inference.predictions.make_row`."""
    interval = {
        target: (-math.inf if low is None else low, math.inf if high is None else high)
        for target, (low, high) in row["interval"].items()
    }
    return Prediction(
        name,
        row["task"],
        tuple(row["labels"]),
        row["values"],
        set=tuple(row["set"]),
        interval=interval,
        familiarity=row["familiarity"],
        known=row["known"],
        undecided=row["undecided"],
    )
