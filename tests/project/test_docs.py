"""README and guides say what is there: code that runs, commands, links, files, messages, environment variables."""

import ast
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT

import run

README, GUIDES = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "deepnet" / "README.md", *sorted(GUIDES.glob("*.md"))]
MOST_WORDS = 1200  # of the README, which is one page
BLOCK = re.compile(r"(<!-- not run: [^\n]* -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
OURS = {path.stem for path in ROOT.glob("*.py")} | {"deepnet"}
NOT_HERE = {"dask_jobqueue"}  # installed where there is a cluster
MADE_UP = {"out.ipynb"}  # a file of the reader's own
READ_BY_TORCH = {"OMP_NUM_THREADS"}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """The page's blocks in this language, and whether each is to be run."""
    return [(code, not marked) for marked, kind, code in BLOCK.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


# ---------------------------------------------------------------- code and commands


def imported(code: str) -> Iterator[tuple[str, str | None]]:
    """(module, name) for each import; of a whole module the name is None."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_the_code_imports_is_there(page):
    for code, _ in blocks(page, "python"):
        for module, name in imported(code):
            if module.partition(".")[0] in OURS:
                assert name is None or hasattr(importlib.import_module(module), name), f"{module} has no {name}"
            else:
                assert module in NOT_HERE or find_spec(module), f"{module} is not installed"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(to_run for _, to_run in blocks(page, "python"))], ids=named
)
def test_the_code_runs(page, tiny, monkeypatch):
    """A page's blocks one after the other, as in a notebook; runs of the sample take two steps."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    if "to_frame" in page.read_text():
        pytest.importorskip("pandas")
    names: dict = {"__name__": "guide"}
    for code, to_run in blocks(page, "python"):
        if to_run:
            exec(compile(code, named(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_command_is_one_of_the_command_line_s(page):
    said = (
        "\n".join(code for code, _ in blocks(page, ""))
        + "\n"
        + "\n".join(re.findall(r"`([^`\n]+)`", " ".join(prose(page).split())))
    )
    for line in re.findall(r"python run\.py (?!-)([^\n]+)", said):
        words = shlex.split(line.replace("...", ""), comments=True)
        run.parser().parse_args(words)
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|\s)make (\w+)\b", said, re.MULTILINE)) - {"PYTHON", "PROFILE"} <= made


# ---------------------------------------------------------------- links, files, messages


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in a link, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "report").glob("*.md")], ids=named)
def test_links_lead_to_existing_files(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_file_that_is_named_is_there(page):
    files = set(re.findall(r"`([\w./-]+\.(?:py|md|txt|ipynb|toml|cff))`", prose(page)))
    assert [
        file for file in sorted(files - MADE_UP) if not ((ROOT / file).exists() or (page.parent / file).exists())
    ] == []


def test_every_guide_is_in_the_index():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (GUIDES / "README.md").read_text()))
    assert linked == {page.name for page in GUIDES.glob("*.md")} - {"README.md"}


def test_the_readme_is_one_page():
    assert len(README.read_text().split()) <= MOST_WORDS


@functools.cache
def written() -> str:
    """What strings in the code and the Makefile say, with `...` for what is filled in."""
    said = [(ROOT / "Makefile").read_text()]
    for path in [*ROOT.glob("*.py"), *(ROOT / "deepnet").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return "\n".join(said)


def test_a_message_of_the_troubleshooting_page_is_the_code_s():
    cells = re.findall(r"^\| ([^|]*) \|", (GUIDES / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r'"([^"]+)"', cell)]
    assert len(messages) > 15
    assert [message for message in messages if message not in written()] == []


# ---------------------------------------------------------------- environment variables


def _is_environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def variables(tree: ast.AST) -> Iterator[str]:
    """The names of the environment variables that a module reads or sets."""
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.Subscript) and _is_environ(node.value):
            found = [node.slice]
        elif isinstance(node, ast.AugAssign) and _is_environ(node.target):
            found = [key for part in ast.walk(node.value) if isinstance(part, ast.Dict) for key in part.keys]
        elif isinstance(node, ast.Call):
            read = (
                isinstance(node.func, ast.Attribute)
                and _is_environ(node.func.value)
                and node.func.attr in ("get", "setdefault", "pop")
            )
            switch = isinstance(node.func, ast.Name) and node.func.id == "switched_on"
            found = node.args[:1] if read or switch else []
        yield from (name.value for name in found if isinstance(name, ast.Constant) and isinstance(name.value, str))


def test_the_table_of_environment_variables_is_the_code_s():
    """All of the package's own are in it, and none that is nobody's; of the tests' own, those that are meant to be
    set.
    """
    package, tests = (
        {name for folder in folders for path in ROOT.glob(folder) for name in variables(ast.parse(path.read_text()))}
        for folders in (("*.py", "deepnet/**/*.py", "benchmarks/*.py"), ("tests/**/*.py",))
    )
    table = re.findall(r"^\| `(\w+)` \|", (GUIDES / "environment.md").read_text(), re.MULTILINE)
    assert len(table) == len(set(table)) and {"DATA_DIR", "FAST", "PROFILE"} <= package
    assert package - {*table} == set(), "read by the code and not in docs/environment.md"
    assert {*table} - package - tests - READ_BY_TORCH == set(), "in docs/environment.md and read by no code"


@pytest.mark.parametrize(
    "code", ['os.environ["A"]', 'os.environ.get("A")', 'os.environ |= {"A": "1"}', 'switched_on("A")']
)
def test_a_variable_is_seen_however_it_is_read(code):
    assert list(variables(ast.parse(code))) == ["A"]


# ---------------------------------------------------------------- the reference


@pytest.mark.skipif(find_spec("pdoc") is None, reason="pdoc is not installed")
def test_the_reference_is_built_from_the_docstrings(tmp_path):
    import pdoc

    targets = re.search(r"^DOCUMENTED := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pdoc.pdoc(*targets[1].split(), output_directory=tmp_path)
    assert "Train any model on any map-style data set" in (tmp_path / "coreFunction.html").read_text()
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert {f"{name.replace('.', '/')}.html" for name in targets[1].split()} <= made


# ---------------------------------------------------------------- the citation


def test_the_citation_is_of_this_version():
    cited, project = ((ROOT / file).read_text() for file in ("CITATION.cff", "pyproject.toml"))
    version, licence, title = (
        re.search(rf"^{key}: (.+)$", cited, re.MULTILINE)[1] for key in ("version", "license", "title")
    )
    assert all(
        f'\n{key} = "{value}"\n' in project
        for key, value in (("version", version), ("license", licence), ("name", title))
    )
