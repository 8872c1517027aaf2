"""The machine-readable description of report/, an RO-Crate: report/ro-crate-metadata.json.

Stian Soiland-Reyes et al., "Packaging research artefacts with RO-Crate", Data Science 5, 2022.
"""

import json
import tomllib

from deepnet.records.reading import ROOT
from deepnet.records.table import committed_records
from deepnet.text import counted, listed

FILES = {  # in report/: what it is, and its media type
    "records.csv": ("One line per run; docs/data.md says what every column means", "text/csv"),
    "README.md": ("The figures, with what each is drawn from", "text/markdown"),
    "findings.md": ("What the figures show, and the verdict on every claim", "text/markdown"),
    "provenance.md": ("Which code and which machine made each record", "text/markdown"),
}


def crate_json() -> str:
    """The metadata of report/ as JSON-LD, which depends only on the records and pyproject.toml."""
    from rocrate.model import Person
    from rocrate.rocrate import ROCrate

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    records = committed_records()
    crate = ROCrate(version="1.1")  # of the specification, whatever the library's default is
    crate.name, crate.description = project["name"], project["description"]
    crate.license = f"https://spdx.org/licenses/{project['license']}"
    crate.root_dataset["version"] = project["version"]
    crate.datePublished = max(record.result.get("ended", "") for record in records)
    crate.creator = [crate.add(Person(crate, f"#author-{i}", a)) for i, a in enumerate(project["authors"], 1)]
    for file, (description, kind) in FILES.items():
        properties = {"name": file, "description": description, "encodingFormat": kind}
        crate.add_file(ROOT / "report" / file, file, properties=properties)
    for profile in dict.fromkeys(record.profile for record in records):
        runs = [record for record in records if record.profile == profile]
        data = sorted({str(record.settings["identity"]["dataset"]) for record in runs})
        description = f"{counted(len(runs), 'run')} of the profile {profile} on {listed(data)}"
        description += "; docs/records.md says what is in them"
        properties = {"name": f"Records of {profile}", "description": description}
        crate.add_dataset(ROOT / "report" / "records" / profile, f"records/{profile}", properties=properties)
    return json.dumps(crate.metadata.generate(), indent=2, ensure_ascii=False) + "\n"
