"""The bill of materials of a run: a CycloneDX 1.6 document that programs read.

It describes the model with its scores and limits, the network that it was made from, the data, the libraries
with their versions, and the files of the run folder with their digests. The format is specified in ECMA-424
and at https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.report.content import Report
from regraft.report.model_card import TASK_WORDS, list_limits
from regraft.report.render import make_visible

__all__ = ["BILL", "make_bill"]

BILL = "bom.cdx.json"
_MODEL, _BACKBONE, _DATA = "model", "backbone", "data"  # references inside the document


def make_bill(report: Report, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bill of materials of a run as JSON values.

    Args:
        report: the content of the run's report.
        manifest: the content of manifest.json, with the digests of all files so far.

    Example:
        make_bill(report, manifest)["metadata"]["component"]["modelCard"]
    """
    libraries = list(_list_libraries(manifest["versions"]))
    digest = manifest["files"].get("model.keras", manifest["data"]["digest"])
    parts = [_describe_backbone(manifest["backbone"]), _describe_data(report, manifest["data"]), *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'regraft:{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": manifest["created"],
            "tools": {"components": [_describe_tool(manifest["versions"])]},
            "component": _describe_model(report, manifest),
        },
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _describe_model(report: Report, manifest: Mapping[str, Any]) -> dict[str, Any]:
    files = manifest["files"]
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": _show(report.title),
        "version": files.get("model.keras", "")[:12],
        "description": f"A model for {TASK_WORDS[report.task][0]}.",
        "hashes": _list_hashes(files.get("model.keras")),
        "pedigree": {"ancestors": [{**_describe_backbone(manifest["backbone"]), "bom-ref": "ancestor"}]},
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": TASK_WORDS[report.task][0],
                "architectureFamily": "convolutional or attention network with a new head",
                "modelArchitecture": _show(manifest["backbone"]["name"]),
                "datasets": [{"ref": _DATA}],
                "inputs": [{"format": f"image, {manifest['pixels']['size']} pixels a side, RGB 0 to 255"}],
                "outputs": [{"format": _describe_answers(report)}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_list_metrics(report))},
            "considerations": {
                "users": ["People who score the model on their own images before they rely on it"],
                "useCases": [f"{TASK_WORDS[report.task][0]} on images like those of training"],
                "technicalLimitations": [_show(limit) for limit in list_limits(report)],
            },
        },
        "components": [
            {"type": "file", "bom-ref": f"file/{name}", "name": name, "hashes": _list_hashes(digest)}
            for name, digest in files.items()
        ],
        "properties": [
            _make_property("head", manifest["head"]),
            _make_property("parameters", f"{manifest['parameters']}"),
        ],
    }


def _describe_answers(report: Report) -> str:
    count = f"{len(report.outputs):,}"
    if report.task == "regression":
        return f"numbers, one for each of {count} targets"
    noun = "labels" if report.task == "multilabel" else "classes"
    return f"probabilities of {count} {noun}"


def _list_metrics(report: Report) -> Iterator[dict[str, Any]]:
    for part in report.parts:
        for name, score in part.scores.items():
            yield {
                "type": name,
                "value": f"{score.value:.6g}",
                "slice": part.name,
                "confidenceInterval": {"lowerBound": f"{score.low:.6g}", "upperBound": f"{score.high:.6g}"},
            }


def _describe_backbone(backbone: Mapping[str, Any]) -> dict[str, Any]:
    digest = re.search(r"\b[0-9a-f]{64}\b", backbone["weights"])
    return {
        "type": "machine-learning-model",
        "bom-ref": _BACKBONE,
        "name": _show(backbone["name"]),
        "description": _show(f"The pre-trained network. Weights: {backbone['weights']}"),
        "hashes": _list_hashes(digest and digest[0]),
        "properties": [_make_property("pixels", str(backbone["contract"]))],
    }


def _describe_data(report: Report, data: Mapping[str, Any]) -> dict[str, Any]:
    counts = {part.name: part.n for part in report.parts}
    return {
        "type": "data",
        "bom-ref": _DATA,
        "name": _show(data["root"]),
        "data": [{"type": "dataset", "name": _show(data["root"]), "contents": {"properties": []}}],
        "properties": [
            _make_property("digest", data["digest"]),
            _make_property("samples", str(data["images"])),
            *(_make_property(f"samples of {name}", str(count)) for name, count in counts.items()),
        ],
    }


def _list_libraries(versions: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a component for Python and each package."""
    for name, version in versions.items():
        if name == "python":
            yield {"type": "platform", "bom-ref": "python", "name": "Python", "version": version}
        elif name != "backend":
            url = f"pkg:pypi/{name}@{version}"
            yield {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _describe_tool(versions: Mapping[str, str]) -> dict[str, Any]:
    return {"type": "application", "name": "regraft", "version": versions.get("regraft", "unknown")}


def _list_hashes(digest: str | None) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}] if digest else []


def _make_property(name: str, value: str) -> dict[str, str]:
    return {"name": f"regraft:{name}", "value": _show(value)}


def _show(text: str) -> str:
    return str(make_visible(text))
