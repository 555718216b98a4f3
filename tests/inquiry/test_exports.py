"""Lineages in the forms of others, each checked with its official tool where that is installed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusion.inquiry.exports import EXPORTS
from fusion.lineage.reference import find_family
from tests.adopted import HUB
from tests.inquiry.finished import Project
from tests.lineage.published_size import published_families


@pytest.fixture(params=["run", "package"])
def exported(request: pytest.FixtureRequest, finished: Project) -> Any:
    """A function that gives the text of an export: of records in a project, and of a package's lineage.json alone."""
    if request.param == "run":
        family, root = find_family("checkpoints/tiny/stage2", finished.root), finished.root
    else:
        family, root = published_families()[0], Path("/nowhere")
    return lambda kind: EXPORTS[kind](family, root)


def test_equal_lineages_give_equal_texts(exported: Any):
    for kind in EXPORTS:
        assert exported(kind) == exported(kind)


def test_slsa_is_an_in_toto_statement(exported: Any):
    statement = json.loads(exported("slsa"))
    proto = pytest.importorskip("in_toto_attestation.v1.statement", reason="in-toto-attestation is not installed")
    provenance = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1.statement_pb2 import Statement

    parsed = proto.Statement.copy_from_pb(ParseDict(statement, Statement()))
    parsed.validate()
    ParseDict(statement["predicate"], provenance.Provenance())
    names = {one["name"] for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert any(name.startswith("record:train_stage1@") for name in names)
    assert any(name.startswith("source:fusion/") for name in names)
    assert all(re.fullmatch("[0-9a-f]{64}", one["digest"]["sha256"]) for one in statement["subject"])


def test_the_ml_bom_passes_the_strict_validator(exported: Any):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion

    text = exported("cyclonedx")
    fault = validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None, fault
    document = json.loads(text)
    assert document["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]


def test_openlineage_events_are_those_of_its_client(exported: Any):
    client = pytest.importorskip("openlineage.client.event_v2", reason="openlineage-python is not installed")
    for line in exported("openlineage").splitlines():
        event = json.loads(line)
        run, job = client.Run(event["run"]["runId"]), client.Job(event["job"]["namespace"], event["job"]["name"])
        made = client.RunEvent(
            eventTime=event["eventTime"], run=run, job=job, eventType=client.RunState[event["eventType"]],
            inputs=[client.InputDataset(one["namespace"], one["name"]) for one in event["inputs"]],
            outputs=[client.OutputDataset(one["namespace"], one["name"]) for one in event["outputs"]],
            producer=event["producer"],
        )  # fmt: skip
        assert made.schemaURL.rpartition("/")[2] == event["schemaURL"].rpartition("/")[2]


def test_prov_can_be_read_and_leads_from_the_checkpoint_to_the_sources(exported: Any):
    model = pytest.importorskip("prov.model", reason="prov is not installed")
    text = exported("prov")
    document = model.ProvDocument.deserialize(content=text, format="json")
    assert len(list(document.get_records(model.ProvActivity))) == len(json.loads(text)["activity"])
    assert list(document.get_records(model.ProvGeneration)) and list(document.get_records(model.ProvUsage))


def test_the_eu_draft_says_that_it_is_one_and_lists_every_source():
    text = EXPORTS["eu-summary"](published_families()[0], Path("/nowhere"))
    assert "no legal advice" in text and text.count("to be filled in") > 8
    rows = [line for line in text.splitlines() if line.count("|") == 6 and "---" not in line and "source |" not in line]
    assert len(rows) == 79
    assert "MMathCoT" in text and "GPL-3.0 (declared)" in text


@pytest.fixture(scope="module")
def continued(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with a checkpoint made elsewhere in the place of stage 1."""
    project = finished.copy(tmp_path_factory.mktemp("continued") / "copy")
    project.adopt(b"weights")
    return project


def test_the_ml_bom_names_the_adopted_checkpoint_with_its_licences(continued: Project):
    text = EXPORTS["cyclonedx"](find_family("checkpoints/tiny/stage2", continued.root), continued.root)
    document = json.loads(text)
    (adopted,) = (one for one in document["components"] if one["name"] == HUB["repo"])
    assert adopted["type"] == "machine-learning-model" and adopted["version"] == HUB["revision"]
    assert [one["license"] for one in adopted["licenses"]] == [
        {"id": "MIT", "acknowledgement": "declared"},
        {"name": "Llama 3.1 Community License Agreement", "acknowledgement": "concluded"},
    ]
    assert [one["name"] for one in adopted["components"]] == ["model.safetensors"]
    assert adopted["bom-ref"] in document["dependencies"][0]["dependsOn"]
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion

    fault = validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None, fault


def test_the_eu_draft_asks_for_the_data_of_the_adopted_checkpoint(continued: Project):
    text = EXPORTS["eu-summary"](find_family("checkpoints/tiny/stage2", continued.root), continued.root)
    (line,) = (line for line in text.splitlines() if HUB["repo"] in line)
    assert f"org/open at commit {HUB['revision']}" in line and "trained elsewhere" in line and "mit (declared)" in line
    assert "**to be filled in**, from its publisher" in line
    own = EXPORTS["eu-summary"](published_families()[0], Path("/nowhere"))
    assert "trained elsewhere" not in own


def test_the_other_forms_tell_of_the_adoption_as_of_any_run(continued: Project):
    family = find_family("checkpoints/tiny/stage2", continued.root)
    for kind in ("slsa", "prov", "openlineage"):
        assert "adopt@tiny-stage1" in EXPORTS[kind](family, continued.root), kind
