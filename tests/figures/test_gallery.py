"""The committed gallery and table of runs are those of the records: `python -m deepnet.figures.gallery` makes them."""

import csv
import re
import subprocess
from io import StringIO

import pytest
from helpers import ROOT
from pictures import alike, picture

from deepnet.figures import gallery
from deepnet.figures.registry import FIGURES, FOLDER
from deepnet.records.table import records_csv

REMEDY = "run `python -m deepnet.figures.gallery` and look at what has changed"
MOST_BYTES = 12_000_000  # of all pictures together, so that a clone stays small


@pytest.fixture(autouse=True)
def no_evidence(monkeypatch, runs_dir):
    """Here the committed records are found, and no others."""
    monkeypatch.setenv("EVIDENCE", "1")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """All that the gallery shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
        yield gallery.drawn()


def test_the_page_shows_every_figure_as_the_records_have_it(figures):
    assert (ROOT / "report" / "README.md").read_text() == gallery.page(figures), REMEDY
    assert {number for number, _ in figures} == set(FIGURES)


def test_the_page_of_the_atlas_shows_what_has_records():
    figures = gallery.atlas_drawn()
    assert (ROOT / "report" / "atlas.md").read_text() == gallery.page(figures, gallery.ATLAS_HEAD), REMEDY
    there = {path.name for path in _tracked() if path.parent.name == "atlas"}
    assert there == {f"{number}.{kind}" for number, _ in figures for kind in ("png", "svg")}, REMEDY
    for (number, _), figure in figures.items():
        committed = (FOLDER / "atlas" / f"{number}.png").read_bytes()
        assert alike(picture(figure.png), picture(committed)), f"another figure {number}: {REMEDY}"


def test_the_pictures_are_those_of_the_records_and_small(figures):
    there = {(path.stem, path.parent.name, path.suffix) for path in _tracked() if path.parent.name != "atlas"}
    assert there == {(*shown, suffix) for shown in figures for suffix in (".png", ".svg")}, REMEDY
    for (number, profile), figure in figures.items():
        committed = (FOLDER / profile / f"{number}.png").read_bytes()
        assert alike(picture(figure.png), picture(committed)), f"another figure {number} ({profile}): {REMEDY}"
    lead = figures[gallery.LEAD, gallery.JUDGED[0]]
    assert alike(picture(lead.png), picture((FOLDER / "README.png").read_bytes())), REMEDY
    assert sum(path.stat().st_size for path in _tracked()) < MOST_BYTES


def _tracked():
    """The pictures that are committed in the profiles' folders."""
    listed = subprocess.run(["git", "ls-files", "report/figures"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if line.count("/") == 3]


def test_every_link_of_the_page_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "report" / "README.md").read_text())
    assert len(links) > 60 and all((ROOT / "report" / link).exists() for link in links)


def test_the_table_has_a_row_per_committed_run():
    text = records_csv()
    assert (ROOT / "report" / "records.csv").read_text() == text, REMEDY
    rows = list(csv.DictReader(StringIO(text)))
    assert len(rows) == len(list((ROOT / "report" / "records").glob("[cp]*/*/seed-*")))
    (row,) = (row for row in rows if (row["profile"], row["name"], row["seed"]) == ("paper", "MLP_33", "0"))
    assert (row["lr"], row["epochs"], row["status"], row["accuracy"]) == ("0.0001", "20", "finished", "0.1135")
    (dropout,) = (row for row in rows if (row["profile"], row["name"]) == ("paper", "dropout"))
    assert (dropout["trainable"], dropout["patience"]) == ("layer3+layer4+fc", "5")
