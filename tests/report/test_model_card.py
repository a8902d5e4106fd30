"""The model card and the bill of materials: readable by the hub, valid by the schema, harmless."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_build import OUTPUTS, outcome

from regraft.report.bill_of_materials import make_bill
from regraft.report.build import make_report, score_parts
from regraft.report.content import Report
from regraft.report.model_card import list_limits, make_model_card

DIGEST = "0123456789abcdef" * 4
MANIFEST: dict[str, Any] = {
    "format": 2,
    "created": "2030-01-02T03:04:05+00:00",
    "pixels": {"size": 32, "range": "RGB 0..255, float32", "resize": "the whole image to a square"},
    "backbone": {"name": "small", "weights": f"file sha256 {DIGEST}", "contract": "raw"},
    "head": "ridge regression",
    "data": {"root": "photos", "digest": "00" * 16, "images": 150},
    "parameters": 4321,
    "files": {"model.keras": DIGEST, "selftest.npz": DIGEST[::-1]},
    "versions": {"python": "3.11.7", "backend": "openvino", "regraft": "0.1.0", "keras": "3.15.1"},
}
HOSTILE = ("<script>alert(1)</script>", "a|b", "*x* `y` _z_ \udcff", "last\n# heading\n---\u2028")


def make_card(task: str) -> tuple[Report, str]:
    made = outcome(task)
    report = make_report(made, score_parts(made), Path("runs/one"))
    return report, make_model_card(report, MANIFEST)


def read_header(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    header: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return header


def render_markdown(card: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1])


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_card_says_what_the_report_says(task: str) -> None:
    report, card = make_card(task)
    header, page = read_header(card), render_markdown(card)
    assert header["library_name"] == "keras"
    assert header["pipeline_tag"] == ("other" if task == "regression" else "image-classification")
    (model,) = header["model-index"]
    for result, part in zip(model["results"], report.parts, strict=True):
        values = [metric["value"] for metric in result["metrics"]]
        assert values == [round(score.value, 6) for score in part.scores.values()]
        assert (result["dataset"]["split"], result["dataset"]["revision"]) == (part.name, "00" * 16)
    for text in (*OUTPUTS[task], *dict(report.summary).values(), *list_limits(report), "0" * 32):
        assert text in page, text
    assert page.count("<td") > 10


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_hub_reads_the_scores(task: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    report, card = make_card(task)
    results = hub.ModelCard(card).data.eval_results
    assert len(results) == sum(len(part.scores) for part in report.parts)
    assert {result.dataset_name for result in results} == {"photos"}
    first = next(iter(report.parts[0].scores.values()))
    assert results[0].metric_value == pytest.approx(first.value, abs=1e-6)


def test_names_are_text_whatever_they_hold() -> None:
    made = outcome("multiclass")
    made = replace(made, catalog=replace(made.catalog, outputs=HOSTILE[:3]))
    report = make_report(made, score_parts(made), Path(f"runs/{HOSTILE[3]}"))
    data = {**MANIFEST["data"], "root": HOSTILE[3]}
    card = make_model_card(report, {**MANIFEST, "data": data})
    card.encode()
    assert read_header(card)["model-index"][0]["name"].splitlines() == HOSTILE[3].splitlines()
    page = render_markdown(card)
    assert "<script" not in page
    assert not re.search("<(em|code)>[xyz]<", page)
    assert len(re.findall("<h1>", page)) == 1
    rows = re.findall("<tr>(.*?)</tr>", page, re.DOTALL)
    (row,) = [row for row in rows if "a|b" in row]
    assert row.count("<td") == 4


def test_limits_name_small_and_weak_classes_unfit_probabilities_and_a_missing_test() -> None:
    made = outcome("multiclass", skill=1.0, parts=("validation",))
    samples = [sample for sample in made.catalog.samples if sample.part != "train" or sample.target]
    made = replace(made, catalog=replace(made.catalog, samples=tuple(samples)))
    limits = " ".join(list_limits(make_report(made, score_parts(made), Path("one"))))
    assert "There was no test part: the 40 validation images also chose the model" in limits
    assert "1 of 3 classes have fewer than 20 training images: cat (0)." in limits or "cat (0)" in limits
    assert "Answered worst: " in limits


def test_a_run_without_scores_says_that_nothing_is_known() -> None:
    made = outcome("binary", parts=())
    report = make_report(made, [], Path("one"))
    card = make_model_card(report, MANIFEST)
    assert "nothing is known about how good the model is" in card
    assert "model-index" not in read_header(card)


@pytest.mark.parametrize("task", OUTPUTS)
def test_python_of_the_card_is_python(task: str) -> None:
    for code in re.findall("```python\n(.*?)```", make_card(task)[1], re.DOTALL):
        ast.parse(code)


# --- the bill of materials


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_bill_is_valid_by_the_official_schema(task: str) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    made = outcome(task)
    bill = make_bill(make_report(made, score_parts(made), Path("runs/one")), MANIFEST)
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None
    bill["metadata"]["component"]["modelCard"]["surprise"] = 1
    assert validator.validate_str(json.dumps(bill)) is not None  # the validator looks at the card


def test_the_bill_names_model_backbone_data_libraries_and_files() -> None:
    made = outcome("multiclass")
    report = make_report(made, score_parts(made), Path("runs/one"))
    bill = make_bill(report, MANIFEST)
    model = bill["metadata"]["component"]
    assert [(file["name"], file["hashes"][0]["content"]) for file in model["components"]] == [
        *MANIFEST["files"].items()
    ]
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert set(parts) == {"backbone", "data", "python", "pkg:pypi/regraft@0.1.0", "pkg:pypi/keras@3.15.1"}
    assert bill["dependencies"][0] == {"ref": "model", "dependsOn": list(parts)}
    assert parts["backbone"]["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert {"name": "regraft:digest", "value": "00" * 16} in parts["data"]["properties"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    top1 = report.parts[0].scores["top1"]
    assert float(metrics[0]["value"]) == pytest.approx(top1.value, rel=1e-5)
    assert float(metrics[0]["confidenceInterval"]["lowerBound"]) == pytest.approx(top1.low, rel=1e-5)
    assert bill == make_bill(report, MANIFEST)  # a function of the run
