"""Every case of the policy corpus, judged by the corpus's own check.py."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

from tests.policy import corpus

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "policy-corpus"
CASES = CORPUS / "dev"
FAMILIES = ("acl", "grant", "nodeattrs", "policytest", "routes", "ssh", "sshtest")

#: Captures that cannot be met, and why.
UNMET = {
    "acl-k03": "three nodes were captured before the router's route was announced (its quirks): their peers",
    "ssh-e1": "the anonymiser renamed the domain in the policy but not in the service's answer",
}

pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="no policy corpus: expected ../shared/policy-corpus beside the repository"
)


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("policy_corpus_check", CORPUS / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", FAMILIES)
def test_every_capture_is_met_but_those_listed(check, family):
    options = argparse.Namespace(extra=True, fields=None, loose=False, strict=False, full_caps=False)
    wrong, met = [], []
    for case in check.load(str(CASES), [family]):
        got, error = check.call(corpus.run, case)
        found = error or check.diffs(case, got, options)
        if case["id"] in UNMET:
            met += [] if found else [case["id"]]
        elif found:
            wrong.append(f"{case['id']}: {found}")
    assert not wrong, "\n".join(wrong)
    assert not met, f"{met} are met now: take them off the list"


def test_no_family_is_forgotten(check):
    cases = list(check.load(str(CASES)))
    assert {case["family"] for case in cases} == set(FAMILIES)
    assert {case["id"] for case in cases} >= UNMET.keys()
