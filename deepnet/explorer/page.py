"""The explorer's page: report/explorer.html, one file that asks for nothing from outside."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import vl_convert

from deepnet.explorer.charts import charts
from deepnet.explorer.curves import curves
from deepnet.explorer.multiverse import verdicts
from deepnet.records.files import atomic
from deepnet.records.reading import ROOT
from deepnet.records.table import committed_records

PAGE = ROOT / "report" / "explorer.html"
TEMPLATE, SCRIPT = (Path(__file__).with_name(name) for name in ("template.html", "page.js"))


def data() -> dict[str, Any]:
    """All that the page shows."""
    records = committed_records()
    return {"curves": curves(records), "claims": verdicts(records)}


def packed(value: Any) -> str:
    """`value` as JSON, compressed and in base64: what the page's `unpack` reads."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def build() -> str:
    """The whole page as HTML; the same records give the same bytes."""
    fields = {
        "vega": vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        "charts": json.dumps(charts(), separators=(",", ":")).replace("<", "\\u003c"),  # no end of a script in it
        "data": packed(data()),
        "script": SCRIPT.read_text("utf-8"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda field: fields[field[1]], TEMPLATE.read_text("utf-8"))


def write(path: Path = PAGE) -> Path:
    """Write the page and return its place. Raises UsageError where it cannot be written."""
    with atomic(path) as part:
        part.write_text(build(), "utf-8")
    return path
