"""The table of stages describes the rules and the functions that they call."""

import inspect
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from scrflow.pipeline.stages import STAGES

REPO = Path(__file__).resolve().parents[2]
TARGETS = {"all", "demo", "tables", "tables_demo", "tables_real"}  # rules that only ask for files


@pytest.fixture(scope="module")
def rules():
    from snakemake.api import ResourceSettings, SnakemakeApi

    with mock.patch.dict(os.environ), SnakemakeApi() as api:  # the Snakefile sets variables
        workflow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=REPO / "Snakefile", workdir=REPO)
        yield {rule.name: rule for rule in workflow._workflow.rules if rule.name not in TARGETS}


def test_every_rule_is_a_stage(rules):
    assert set(rules) == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_the_names_and_files_of_its_rule(rules, name):
    stage, rule = STAGES[name], rules[name]
    plain = {key: re.sub(r"\{(\w+),[^}]*\}", r"{\1}", value) for key, value in rule.output.items()}  # no constraints
    outputs = {key: pattern for key, pattern in plain.items() if key != "benchmark"}
    assert outputs == {key.rstrip("/"): pattern for key, pattern in stage.outputs.items()}
    assert set(rule.input.keys()) == {key.rstrip("/") for key in stage.inputs.split()}
    assert hasattr(rule.params, "config") == (stage.config is not None)


@pytest.mark.parametrize("name", STAGES)
def test_the_function_of_a_stage_gets_all_that_it_needs(rules, name):
    stage = STAGES[name]
    given = {key.rstrip("/") for key in (*stage.inputs.split(), *stage.outputs, "out", "threads")}
    given |= set(rules[name].params.keys())
    parameters = inspect.signature(stage.load()).parameters.values()
    assert {p.name for p in parameters if p.default is p.empty} <= given
