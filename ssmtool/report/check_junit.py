"""A check as JUnit XML: a suite per model, a case per rule and layer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ssmtool.report.check_facts import WORDS
from ssmtool.shown import printable
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, CheckedModel, Finding


def check_junit(check: Check, strict: bool = False) -> str:
    """XML that CI servers read. Warnings are passed cases with output, or failures where they count."""
    counts = check.counts
    failures = counts["error"] + (counts["warning"] if strict else 0)
    whole = ElementTree.Element(
        "testsuites",
        {"name": "ssmtool check", "tests": str(len(check.findings)), "failures": str(failures), "errors": "0"},
    )
    for checked in check.models:
        whole.append(_suite(checked, strict))
    ElementTree.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def _suite(checked: CheckedModel, strict: bool) -> ElementTree.Element:
    failing = ("error", "warning") if strict else ("error",)
    name = printable(str(checked.model.checkpoint.path))
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": name,
            "tests": str(len(checked.findings)),
            "failures": str(sum(finding.status in failing for finding in checked.findings)),
            "errors": "0",
            "skipped": str(sum(finding.status == "skipped" for finding in checked.findings)),
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", {"name": "ssmtool", "value": __version__})
    for finding in checked.findings:
        suite.append(_case(finding, name, finding.status in failing))
    return suite


def _case(finding: Finding, model: str, failed: bool) -> ElementTree.Element:
    layer = printable(finding.layer) or "(model)"
    case = ElementTree.Element(
        "testcase", {"classname": f"{model}.{layer}", "name": f"{finding.entry.rule}: {finding.title}"}
    )
    message = f"{layer}: {finding.title}: {printable(finding.message)}"
    if failed:
        element = ElementTree.SubElement(case, "failure", {"type": finding.identifier, "message": message})
        element.text = f"{message}\nPolicy: {finding.entry.origin.text}"
    elif finding.status == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": printable(finding.message)})
    elif finding.status == "warning":
        ElementTree.SubElement(case, "system-out").text = f"{WORDS[finding.status]}: {message}"
    return case
