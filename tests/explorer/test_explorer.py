"""The explorer's page: it holds what the records say, asks for nothing from outside, and works in a browser."""

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import ROOT

from deepnet.claims.evidence import Setting
from deepnet.claims.ledger import RULES, check, evidence_of
from deepnet.claims.verdicts import said
from deepnet.explorer import page
from deepnet.records.reading import find_record
from deepnet.records.table import committed_records
from experimentTable import JUDGED, TABLE

MOST_BYTES = 3_000_000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def html() -> str:
    return page.build()


@pytest.fixture(scope="module")
def data(html) -> dict:
    """What the page reads, taken from the page."""
    text = re.search(r'id="data">([^<]*)<', html)[1]
    return json.loads(gzip.decompress(base64.b64decode(text)))


# ---------------------------------------------------------------- the file


def test_second_build_has_the_same_bytes(html):
    assert page.build() == html


def test_it_is_small(html):
    assert len(html.encode()) < MOST_BYTES


def test_it_asks_for_nothing_from_outside(html):
    class Addresses(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.found += [value for key, value in attributes if key in ("src", "href", "action", "srcset", "poster")]

    parser = Addresses()
    parser.feed(html)
    assert [address for address in parser.found if not address.startswith(("#", "data:"))] == []
    own = page.TEMPLATE.read_text() + page.SCRIPT.read_text() + json.dumps(page.charts())
    assert re.findall(r"https?:|//\w+\.\w+/|@import|\bfetch\(|XMLHttpRequest|\bimport\(|\"url\"", own) == []


def test_write(tmp_path, monkeypatch, html):
    monkeypatch.setattr(page, "build", lambda: html)
    assert page.write(tmp_path / "explorer.html").read_text("utf-8") == html


def test_an_argument_is_refused():
    command = [sys.executable, "-m", "deepnet.explorer", "--open"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "deepnet.explorer: takes no arguments, got --open\n")


# ---------------------------------------------------------------- the curves


def test_every_row_of_every_record_is_there(data):
    curves: dict[tuple, list[dict]] = {}
    for curve in data["curves"]:
        curves.setdefault((curve["profile"], curve["run"].split(" ")[0], curve["seed"]), []).append(curve)
    records = [record for record in committed_records() if record.rows]
    assert curves.keys() == {(record.profile, record.name, record.seed) for record in records}
    for record in records:
        found = curves[record.profile, record.name, record.seed]
        rows = [
            {curve["axis"]: x}
            | {metric: values[i] for metric, values in (curve["columns"] | curve["layers"]).items()}
            | dict(zip(named(curve), curve["run"].split(" ")[1:], strict=True))
            for curve in found
            for i, x in enumerate(curve["x"])
        ]
        kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
        assert kept == [
            {key: value for key, value in row.items() if value is not None and key != "pair"} for row in record.rows
        ]


def named(curve: dict) -> tuple[str, ...]:
    return {"epoch": (), "C": ("classifier",), "block": ("plain", "residual")}[curve["axis"]]


def test_where_a_curve_comes_from(data):
    for curve in data["curves"]:
        name = curve["run"].split(" ")[0]
        assert re.fullmatch("[0-9a-f]{40}", curve["commit"])
        command = f"python run.py verify {name} --profile {curve['profile']} --seeds {curve['seed']}"
        assert curve["verify"] == (command if name in TABLE else "")


# ---------------------------------------------------------------- the claims


@pytest.mark.parametrize("profile", JUDGED)
def test_every_verdict_is_the_rule_s_own(data, profile):
    records, openings = evidence_of(profile)
    entries = [entry for entry in data["claims"] if entry["profile"] == profile]
    assert [entry["claim"] for entry in entries] == list(RULES)
    for entry in entries:
        registered = check(entry["claim"], profile)
        assert (entry["said"], entry["rule"]) == (registered.text, registered.rule)
        assert Setting(**entry["settings"][0]) == Setting()
        assert len({json.dumps(setting) for setting in entry["settings"]}) == len(entry["settings"])
        for i, setting in enumerate(entry["settings"]):
            verdict = check(entry["claim"], profile, records, openings, Setting(**setting))
            assert entry["verdicts"][i] == verdict.verdict
            parts = {part.text: part for part in verdict.parts}
            for text, judged, effect, low, high in (cells[i] for cells in entry["parts"]):
                assert judged == parts[text].verdict
                numbers = (parts[text].effect, *(parts[text].interval or (None, None)))
                assert [effect, low, high] == [None if n is None else pytest.approx(n, rel=1e-4) for n in numbers]


def test_a_verdict_in_another_setting_is_there(data):
    """So that the test above compares more than registered verdicts, and some of them differ."""
    several = [entry for entry in data["claims"] if len(entry["settings"]) > 1]
    assert len(several) > 30 and any(len(set(entry["verdicts"])) > 1 for entry in several)
    kinds = {
        key for entry in several for s in entry["settings"] for key, value in s.items() if value != REGISTERED[key]
    }
    assert kinds == {"epochs", "margin", "level", "without"}


REGISTERED = asdict(Setting())


def test_own_runs_are_left_out(data, monkeypatch, runs_dir):
    """The page is one of the committed records, whatever else has been trained."""
    own = find_record("MLP_33", "paper")
    shutil.copytree(own.path, runs_dir / "paper" / "MLP_33" / "seed-77")
    for file in ("settings.json", "rows.jsonl"):
        (runs_dir / "paper" / "MLP_33" / "seed-77" / file).write_text("damaged")
    assert page.data()["claims"] == data["claims"]


# ---------------------------------------------------------------- in a browser

# An error, wherever it comes from, is kept; the steps run once the page is ready.
BEFORE = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message)));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...what) => errors.push(what.join(" "));
</script>"""
AFTER = """<script type="module">
const wait = () => new Promise(resolve => setTimeout(resolve, 50));
for (let i = 0; i < 400 && !document.documentElement.dataset.ready; i++) await wait();
const get = id => document.getElementById(id);
const set = async (id, value, kind = "change") => {
  get(id).value = value;
  get(id).dispatchEvent(new Event(kind, { bubbles: true }));
  for (let i = 0; i < 6; i++) await wait();
};
const found = {};
STEPS
const controls = [...document.querySelectorAll("select, input, button")];
found.unnamed = controls.filter(control => !control.labels?.length && !control.textContent.trim());
found.unreachable = controls.filter(control => control.tabIndex < 0);
found.undescribed = [...document.querySelectorAll(".chart:not([aria-label])")];
for (const key of ["unnamed", "unreachable", "undescribed"]) found[key] = found[key].map(control => control.outerHTML);
const requests = performance.getEntriesByType("resource").map(entry => entry.name);
found.requests = requests.filter(name => !name.startsWith("data:"));
found.width = innerWidth;
found.sideways = document.documentElement.scrollWidth - innerWidth;
found.ready = document.documentElement.dataset.ready;
found.errors = errors;
parent.postMessage(JSON.stringify(found), "*");
</script>"""
# A frame can be narrower than Chromium's windows.
FRAME = """<iframe src="explorer.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe><pre id="found"></pre>
<script>onmessage = event => { document.getElementById("found").textContent = event.data; };</script>"""


def opened(html: str, folder: Path, width: int, steps: str = "") -> dict:
    """Open the page from the disk, take the steps, and return what they and the checks found."""
    file, frame = folder / "explorer.html", folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    page_itself, _, end = html.rpartition("</body>")
    started = page_itself.replace("<head>", f"<head>{BEFORE}", 1)
    file.write_text(f"{started}{AFTER.replace('STEPS', steps)}</body>{end}", "utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000", "--virtual-time-budget=60000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    text = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr[-2000:]
    found = json.loads(unescape(text[1]))
    assert found.pop("errors") == []
    assert found.pop("ready") == "yes"
    assert found.pop("requests") == []
    assert [found.pop("unnamed"), found.pop("unreachable"), found.pop("undescribed")] == [[], [], []]
    return found


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_the_disk_without_a_sideways_scroll(html, tmp_path, width):
    found = opened(html, tmp_path, width)
    assert found["width"] == width
    assert found["sideways"] <= 0


@needs_chromium
def test_choosing_runs_and_layers(html, tmp_path):
    steps = """
    const lines = () => document.querySelectorAll("#curves-of .mark-line path[aria-roledescription]").length;
    found.lines = lines();
    const point = document.querySelector("#curves-of .mark-symbol.role-mark path");
    const { x, y } = point.getBoundingClientRect();
    point.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: x + 5, clientY: y + 5 }));
    await wait();
    found.told = document.getElementById("vg-tooltip-element")?.textContent;
    await set("profile", "cpu");
    await set("metric", "test_loss");
    await set("run", "MLP_13");
    found.cpu = lines();
    get("log-y").click();
    await wait();
    found.table = get("table").rows.length;
    found.command = get("table").querySelector("code").textContent;
    await set("run", "timing_3 MLP_4 MLP_res_5");
    found.none = get("curves-of").textContent;
    await set("metric", "plain_seconds");
    found.timed = lines();
    await set("epoch", "5", "input");
    found.epoch = get("epoch-shown").value;
    found.points = document.querySelectorAll("#layers .mark-symbol path").length;
    """
    found = opened(html, tmp_path, 1280, steps)
    assert re.fullmatch(
        r"runMLP_4profilepaperseed0epoch\d+value[\d.]+commit[0-9a-f]{9}verify"
        r"python run.py verify MLP_4 --profile paper --seeds 0", found["told"]
    )  # fmt: skip
    seeds = {record.seed for record in committed_records() if (record.profile, record.name) == ("cpu", "MLP_13")}
    assert (found["lines"], found["cpu"], found["table"]) == (2 * 4 * 5, len(seeds), len(seeds) + 1)
    assert found["command"] == "python run.py verify MLP_13 --profile cpu --seeds 0"
    assert found["none"] == "None of the chosen runs has such a metric; choose others."
    assert (found["timed"], found["epoch"], found["points"]) == (1, "5", 33)


@needs_chromium
def test_a_verdict_in_another_setting_says_so(html, data, tmp_path):
    steps = """
    const read = () => ({ shown: !get("played").hidden, played: get("played").textContent,
      registered: get("registered").textContent });
    found.first = read();
    await set("set-level", "0.99");
    found.second = read();
    await set("set-without", "2");
    found.third = { ...read(), level: get("set-level").value };
    found.columns = document.querySelectorAll("#choices .mark-rect path").length;
    get("reset").click();
    await wait();
    found.last = read();
    await set("judged-in", "cpu");
    await set("claim", "5h");
    found.unjudged = { ...read(), all: get("multiverse").hidden };
    """
    found = opened(html, tmp_path, 390, steps)
    entry = next(entry for entry in data["claims"] if (entry["claim"], entry["profile"]) == ("3a", "paper"))

    def verdict(**changed):
        return entry["verdicts"][entry["settings"].index(REGISTERED | changed)]

    registered = f"{entry['said']}, profile paper"
    assert found["first"] == found["last"] == {"shown": False, "played": "", "registered": registered}
    for key, changed in (("second", {"level": 0.99}), ("third", {"without": 2})):
        assert found[key]["shown"] and found[key]["registered"] == registered
        says = f"Not the registered verdict. In another setting: {said('3a', verdict(**changed))}"
        assert (
            found[key]["played"].startswith(says)
            and f"Only the registered one counts: {entry['said']}." in found[key]["played"]
        )
    assert found["third"]["level"] == "0.95"
    assert found["columns"] == 4 * len(entry["settings"])
    assert found["unjudged"]["registered"].startswith("no evidence") and found["unjudged"]["all"]
