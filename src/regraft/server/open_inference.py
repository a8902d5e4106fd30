"""The Open Inference Protocol, version 2, as KServe, Triton and OpenVINO Model Server speak it.

A model has one input, `image`, of type BYTES and shape (n,): files in any format that training takes. They
come in base64, or as they are behind the JSON, each after its length as four bytes, the lowest first (the
extension for binary data). Outputs are named in `describe_model`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.server.body import UploadedImage
from regraft.server.refusals import RequestRefused
from regraft.server.served_model import ServedModel

__all__ = ["describe_model", "make_response", "parse_request"]

HEADER_LENGTH = "inference-header-content-length"
PLATFORM = "regraft_openvino"


def describe_model(model: ServedModel) -> dict[str, Any]:
    """Return the metadata of a model."""
    units = len(model.bundle.outputs)
    familiar = [
        {"name": "familiarity", "datatype": "FP32", "shape": [-1]},
        {"name": "known", "datatype": "BOOL", "shape": [-1]},
    ]
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "values", "datatype": "FP32", "shape": [-1, units]},
            *(familiar if _has_familiarity(model) else []),
        ],
        "parameters": {"task": model.bundle.task, "outputs": model.bundle.outputs},
    }


def _has_familiarity(model: ServedModel) -> bool:
    uncertainty = model.bundle.uncertainty
    return uncertainty is not None and uncertainty.familiarity is not None


def parse_request(
    body: bytes, headers: Mapping[str, str], most: int
) -> tuple[list[UploadedImage], str, list[str]]:
    """Return the images of a request, its ID, and the names of the outputs it asks for; none for all.

    Args:
        body: JSON, and the files behind it where a header tells the length of the JSON.
        headers: those of the request, their names in lower case.
        most: images of one request.

    Raises:
        RequestRefused: the request is not one of the protocol.
    """
    stated = headers.get(HEADER_LENGTH, str(len(body)))
    length = int(stated) if stated.isdigit() else -1
    if not 0 < length <= len(body):
        raise RequestRefused(400, "bad_json", f"{HEADER_LENGTH}: expected 1 to {len(body)}")
    try:
        request = json.loads(body[:length])
        tensors, request_id = request["inputs"], request.get("id", "")
        names = [output["name"] for output in request.get("outputs", [])]
        tensor = next(tensor for tensor in tensors if tensor["name"] == "image")
        count, data = int(tensor["shape"][0]), tensor.get("data")
        is_sound = len(tensors) == 1 and tensor["datatype"] == "BYTES" and isinstance(request_id, str)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration, RecursionError):
        is_sound = False
    if not is_sound:
        raise RequestRefused(400, "bad_json", 'expected one input "image" of datatype BYTES, with its shape')
    files = _split_binary(body[length:]) if data is None else _decode_texts(data)
    if len(files) != count or not files:
        raise RequestRefused(
            400, "bad_json", f"expected as many files as the shape says, received {len(files)}"
        )
    if len(files) > most:
        raise RequestRefused(400, "too_many_images", f"expected at most {most} images in a request")
    return [UploadedImage(f"image {n}", file) for n, file in enumerate(files)], request_id, names


def _split_binary(data: bytes) -> list[bytes]:
    files, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data) or start + 4 > len(data):
            raise RequestRefused(400, "bad_json", "the binary data end within a file")
        files.append(data[start + 4 : end])
        start = end
    return files


def _decode_texts(texts: Any) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, TypeError, ValueError) as error:
        raise RequestRefused(400, "bad_json", "expected files in base64") from error


def make_response(
    model: ServedModel, rows: Sequence[Mapping[str, Any]], request_id: str, names: Sequence[str]
) -> dict[str, Any]:
    """Return the answers to all images as tensors.

    Args:
        model: the model that answered.
        rows: its answers.
        request_id: that of the request; "" for none.
        names: outputs to return; none for all.

    Raises:
        RequestRefused: there is no output of a name.
    """
    outputs, count = model.bundle.outputs, len(rows)
    tensors: dict[str, dict[str, Any]] = {
        "label": {"datatype": "BYTES", "data": [row["label"] for row in rows]},
        "values": {
            "datatype": "FP32",
            "shape": [count, len(outputs)],
            "data": [row["values"][name] for row in rows for name in outputs],
        },
    }
    if _has_familiarity(model):
        tensors["familiarity"] = {"datatype": "FP32", "data": [row["familiarity"] for row in rows]}
        tensors["known"] = {"datatype": "BOOL", "data": [row["known"] for row in rows]}
    if unknown := [name for name in names if name not in tensors]:
        raise RequestRefused(
            400, "bad_json", f"expected outputs {', '.join(tensors)}, received {unknown[0]!r:.60}"
        )
    return {
        "model_name": model.name,
        "model_version": model.version,
        **({"id": request_id} if request_id else {}),
        "outputs": [
            {"name": name, "shape": [count], **tensor}
            for name, tensor in tensors.items()
            if not names or name in names
        ],
    }
