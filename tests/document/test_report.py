"""The report that is cited: fresh, built twice alike, complete, and without a number that no record or rule gives."""

import re
from pathlib import Path

import pytest
from helpers import ROOT, refused
from pypdf import PdfReader
from rule_history import first_records, git, last_changes

from deepnet.claims.ledger import RULES
from deepnet.document import rendering
from deepnet.document.__main__ import page, pdf
from deepnet.document.blocks import AMENDMENTS, CLAIMS, SEEN_BEFORE, judged
from deepnet.document.committed import Committed
from deepnet.document.rendering import EXPRESSION, evaluate, render, source
from deepnet.figures.registry import FIGURES
from deepnet.records.reading import Record
from experimentTable import EXPERIMENTS, JUDGED

REPORT = ROOT / "report"
REMEDY = "`make report` builds it anew"
TRAININGS = [r.name for r in EXPERIMENTS.values() if r.kind == "training" and not r.family.startswith("ablation")]
# Digits that the text may hold without an expression: names, places in a text, dates, and constants of the method.
DEPTH = r"\b(?:4|5|13|15|16|23|33|35|55|56|96)\b"
NOT_MEASURED = (
    r"`[^`]*`", r"\]\([^)]*\)", r"\[\d+\]", "SHA-256",  # code, addresses and references
    "(?:25|28) November 2026", "June 2025", "report of 2025",
    # constants of the method
    "60,000 training and 10,000 test images", "50,000 and 10,000 of", "45,000 and 5,000 images", "5,000 images",
    "10,000 training images", "of 256 images", "28 × 28", "32 × 32", "128 × 128", "8 × 8", "4 × 4", "3 × 3",
    "(?:32|64|128) pixels", "512 pooled", "50 principal", "784 inputs through 1024 and 256",
    "up to 1024 and 2048 units", "layers of 64 units",
    "batches of 128", "momentum of 0\\.9", "from 13 to 53 layers", "√6", "Figure A\\.[13]",
    "(?:for|at most|its) 20 epochs", "100 epochs where its rivals had 20",
    "1e-(?:30|16|3|4|5|8|9)",
    "5e-[34]", "9[05] %", "90, 95 or 99 %", "seeds 0 to 4", "about 1.4 points", "margin of 2", "ln 10",
    "0 is chance and 1 is no error", "below 0", "exactly 0",
    # the original's slips, as it has them
    "has 1,000", "runs 3 and 8", "54 modules", "factor is 50", "from 32 to 256 where its table also has 16",
    "0.0093 and 0.0096", "is 0.1, where",
    # places in a text, and names
    r"(?:[Cc]hapters?|[Ss]ections?|[Ff]igures?|[Tt]ables?) \d(?:\.\d+b?)?(?:(?:, | and | to )\d(?:\.\d+b?)?)*",
    r"#+ \d(?:\.\d)?", r"\b\d[a-k]\b", r"q\d+(?: to q\d+)?", r"Rule \d[a-k]′",
    r"\w+_\d+\w*", "ResNet-18", "CIFAR-100?", "H200", r"layer\d", r"float\d\d", r"[bf][fp]\d\d", "L2",
    rf"{DEPTH}(?: layers)?(?=,? (?:to|and|beside|than|{DEPTH})\b)", rf"{DEPTH} layers",
    rf"(?:than|and|of|for|to) {DEPTH}(?= is| in| only|,|\.| \()",
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> rendering.Rendered:
    return render()


@pytest.fixture(scope="module")
def pdf_text() -> str:
    return " ".join(" ".join(p.extract_text() for p in PdfReader(REPORT / "report.pdf").pages).split())


def test_the_committed_markdown_is_what_records_and_source_say(report):
    assert (REPORT / "report.md").read_text("utf-8") == report.markdown, REMEDY


def test_the_committed_pdf_was_made_of_these_sources(report):
    keywords = PdfReader(REPORT / "report.pdf").metadata["/Keywords"]
    assert keywords == report.sha256, REMEDY


def test_two_builds_are_equal(report):
    again = render()
    assert again == report
    assert pdf(again) == pdf(report)
    assert page(again) == page(report)


def test_the_page_needs_no_other_file(report):
    made = page(report)
    elsewhere = r"data:|#|https://(?:arxiv|doi|proceedings|www)\.|\.\./|provenance|findings|atlas"
    assert not re.findall(rf"""(?:src|href)=["'](?!{elsewhere})[^"']*""", made)
    assert "@import" not in made and "<script" not in made and "<link" not in made
    assert 'title="python run.py verify MLP_33 --profile paper --seeds 0-4 (131b5b2)"' in made


def test_runs_figures_and_claims_of_the_original_are_in_the_pdf(pdf_text):
    ours = ("1.1", "3.7", "4.5", "4.6", "5.9")
    originals = [number for number in FIGURES if number[-1].isdigit() and number not in ours]
    assert (len(TRAININGS), len(originals), len(CLAIMS)) == (43, 23, 24)
    assert [name for name in TRAININGS if not re.search(rf"\b{name}\b", pdf_text)] == []
    assert [number for number in originals if f"Figure {number}." not in pdf_text] == []
    elsewhere = ("q9", "q10", "q11")  # the text leads to the findings for these
    here = [name for name in RULES if not name.startswith(elsewhere)]
    assert [name for name in here if not re.search(rf"(?:Claim|Question) {name}\.|{name}, added later", pdf_text)] == []


def test_every_number_in_the_text_comes_from_an_expression():
    text = " ".join(EXPRESSION.sub("", source().partition("## References")[0]).split())
    for pattern in NOT_MEASURED:
        text = re.sub(pattern, "", text)
    found = [text[max(0, m.start() - 30) : m.end() + 15] for m in re.finditer(r"\d+", text)]
    assert found == [], "write the number as an expression, or enter the constant above"


# ---------------------------------------------------------------- a record that is missing


def needs() -> dict[Path, str]:
    """Record -> the expression of the source that is computed from it and from the fewest others."""
    found: dict[Path, tuple[int, str]] = {}
    ev = Committed()
    for expression in EXPRESSION.findall(source()):
        before = len(ev.traces)
        evaluate(ev, expression)
        for trace in ev.traces[before:]:
            for record in trace.records:
                found[record.path] = min(found.get(record.path, (999, "")), (len(trace.records), expression))
    return {path: expression for path, (_, expression) in found.items()}


def test_a_missing_record_stops_the_build_and_is_named():
    every = needs()
    assert len(every) > 200
    for path, expression in every.items():
        text = f"Before it.\n\nThis needs {{{{{expression}}}}} and says so. After it."
        record, ev = Record(path), Committed(without=path)
        said = f"{record.name} (profile {record.profile}, seed {record.seed})"
        line = refused(lambda ev=ev, text=text: render(ev, text), said)
        assert line.endswith(f"needed by “This needs {{{{{' '.join(expression.split())}}}}} and says so”")


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("accuracy MLP_99", "no record of MLP_99"),
        ("acuracy MLP_4", "unknown expression 'acuracy'"),
        ("points accuracy MLP_33 MLP_4", "MLP_33 does not lie above MLP_4"),
        ("accuracy MLP_4 as=median", "unknown form 'median'"),
        ("accuracy MLP_4 sed=0", "unknown option 'sed'"),
        ("accuracy MLP_4 seed=99", "a seed that is not there"),
        ("accuracy", "asked of no run"),
        ("points accuracy MLP_4", "cannot be computed"),
        ("figure 9.9", "unknown figure"),
    ],
)
def test_an_expression_that_says_nothing_is_refused_in_one_line(expression, said):
    refused(lambda: render(text=f"A sentence with {{{{{expression}}}}}."), said)


# ---------------------------------------------------------------- the age of the rules


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository").strip() == "true",
    reason="there is no complete git history here",
)
def test_each_rule_is_older_than_the_first_record_that_it_judges():
    changed, first = last_changes(), first_records()
    assert changed.keys() >= RULES.keys()
    late = set()
    for claim in RULES:
        for profile in JUDGED:
            ev = Committed()
            judged_on = {seed for part in judged(ev, claim, profile).parts for seed in part.seeds}
            ev.mark("")
            dates = [first[r.profile, r.name, r.seed] for r in ev.traces[0].records if r.seed in judged_on]
            if dates and changed[claim] > min(dates):
                late.add(claim)
    assert late <= {*AMENDMENTS, *SEEN_BEFORE, *(name for name in RULES if name.endswith("′"))}
    said = re.findall(r"\d+ November 2026", source())
    for claim in late:
        assert f"{int(changed[claim][8:10])} November 2026" in said, f"the method does not date {claim}"
