"""From the source to one text: each `{{expression}}` in it is replaced by what the committed records say."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from deepnet.document import blocks, numbers
from deepnet.document.committed import Committed
from deepnet.records.files import first_line
from deepnet.records.reading import ROOT
from experimentTable import UsageError, choose

SOURCES = sorted((Path(__file__).parent / "text").glob("*.md"))
EXPRESSION = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)
MARK = re.compile(r'\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(#n\d+ "[^"]*"\)')
FIGURE = re.compile(r'!\[(?P<caption>.*)\]\((?P<file>\S+)\.svg\)\{width=\d+% alt="(?P<alt>.*)"\}')


def source() -> str:
    """The text of the report, chapter by chapter, with its expressions."""
    return "\n".join(path.read_text("utf-8") for path in SOURCES)


def sentence(text: str, place: int) -> str:
    """The sentence of the source that stands at `place`, on one line."""
    begin = max(text.rfind(end, 0, place) + len(end) for end in ("\n\n", ". "))
    end = min(found for mark in ("\n\n", ". ") if (found := text.find(mark, place)) >= 0 or (found := len(text)))
    return " ".join(text[begin:end].split())


def evaluate(ev: Committed, expression: str) -> str:
    """What an expression says: a number carries its mark, a table, figure or claim has marks of its own.

    Raises UsageError for an unknown expression, and where a record that it needs is missing.
    Example: `evaluate(Committed(), "accuracy MLP_4 in=cpu")`.
    """
    words = shlex.split(expression)
    options = dict(word.split("=", 1) for word in words if "=" in word)
    for option in options:
        choose("option", option, numbers.OPTIONS)
    known = numbers.FUNCTIONS | blocks.FUNCTIONS | blocks.BLOCKS
    function, *arguments = (word for word in words if "=" not in word)
    try:
        made = known[choose("expression", function, known)](ev, *arguments, **options)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{{{{{expression}}}}} cannot be computed: {first_line(error)}") from error
    return made if function in blocks.BLOCKS else ev.mark(made)


@dataclass(frozen=True)
class Rendered:
    """The report with its numbers: `text` in pandoc's Markdown, each number linked to its line in the appendix."""

    text: str
    appendix: tuple[str, ...]

    @property
    def title(self) -> str:
        """The first line, a heading of level 1."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def markdown(self) -> str:
        """For GitHub: numbers without links, figures as pictures with their captions below."""
        text = MARK.sub(r"\1", self.text)
        text = FIGURE.sub(r"![\g<alt>](\g<file>.png)\n\n<sub>\g<caption></sub>", text)
        return re.sub(r"^: (.+)$", r"<sub>\1</sub>", text, flags=re.MULTILINE)

    @property
    def sha256(self) -> str:
        """A digest of all that PDF and page are made of: text, appendix, their styles, and the figures."""
        files = [ROOT / "report" / f"{found['file']}.svg" for found in FIGURE.finditer(self.text)]
        files += [Path(__file__).with_name(name) for name in ("page.css", "page.typ")]
        parts = [self.text, *self.appendix, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def render(ev: Committed | None = None, text: str | None = None) -> Rendered:
    """The report from the committed records.

    text: of the source; None reads it. Raises UsageError, in one line that names the sentence and what is missing.
    """
    ev, text = ev or Committed(), source() if text is None else text

    def replaced(found: re.Match) -> str:
        try:
            return evaluate(ev, found[1])
        except UsageError as error:
            raise UsageError(f"the report is not built: {error}; needed by “{sentence(text, found.start())}”") from None

    made = EXPRESSION.sub(replaced, text)
    return Rendered(made, tuple(ev.appendix()))
