"""The table of stages describes the rules and the functions that they call."""

import inspect
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from scrflow.pipeline.stages import STAGES
from scrflow.storage.artifact import FORMS

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
def test_a_stage_traces_the_artifacts_of_its_rule(rules, name):
    stage, rule = STAGES[name], rules[name]
    plain = {re.sub(r"\{(\w+),[^}]*\}", r"{\1}", value) for value in rule.output}  # no constraints
    outputs = {path.removeprefix("results/{scene}/") for path in plain}
    artifacts = {path for path in outputs if path.endswith(FORMS)}
    assert artifacts <= set(stage.made.split()) <= outputs
    assert hasattr(rule.params, "config") == (stage.config is not None)


@pytest.mark.parametrize("name", STAGES)
def test_the_function_of_a_stage_gets_all_that_it_needs(rules, name):
    rule = rules[name]
    given = {"out", "threads", *rule.input.keys(), *rule.output.keys(), *rule.params.keys()}
    parameters = inspect.signature(STAGES[name].load()).parameters.values()
    assert {p.name for p in parameters if p.default is p.empty} <= given
