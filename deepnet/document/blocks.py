"""The verdicts, tables and figures of the report, and the numbers of the original that ours stand beside."""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import product
from math import sqrt
from pathlib import Path

import numpy as np

import deepnet.claims
from deepnet.claims.evidence import Source
from deepnet.claims.intervals import Part
from deepnet.claims.ledger import RULES, check
from deepnet.claims.prices import price_list, priced
from deepnet.claims.robustness import robustness
from deepnet.claims.verdicts import OUTCOMES, VERDICTS, Verdict, after_holm, said
from deepnet.document.committed import Committed
from deepnet.document.numbers import at_epoch, in_words, joined, write
from deepnet.figures.registry import FIGURES, FOLDER
from deepnet.figures.sweep import SWEEP
from deepnet.records.reading import ROOT, Record
from deepnet.text import Table, ranges
from experimentTable import EXPERIMENTS, JUDGED, Experiment, UsageError, choose

CLAIMS = [name for name in RULES if not name.startswith("q") and not name.endswith("′")]  # of the original
RULES_FILE = Path(deepnet.claims.__file__).with_name("rules.md")
SEEN_BEFORE = ("q10a", "q10b", "q10d")  # questions that were asked when their records had been seen, as the text says
AMENDMENTS: tuple[str, ...] = ()  # rules whose line was changed, but for its meaning, after a record that they judge
BREAK = "\\\n"  # of a line within a paragraph
SEEN = {"": "three seeds or more", "few": "seen once or twice"}

# ---------------------------------------------------------------- verdicts


def _evidence(ev: Committed, profile: str) -> tuple[Source, list[dict]]:
    """The committed records and openings of a profile, as `check` takes them."""
    return cache(partial(ev.runs, profile=profile)), ev.openings(profile)


def judged(ev: Committed, claim: str, profile: str) -> Verdict:
    """The verdict on a claim from the committed records of a profile."""
    return ev.remembered((claim, profile), lambda: check(claim, profile, *_evidence(ev, profile)))


def _corrected(ev: Committed, profile: str) -> dict[str, Verdict]:
    """All verdicts of a profile, with what Holm's correction leaves of them."""
    every = (judged(ev, claim, profile) for claim in RULES)
    found = ev.remembered(("ledger", profile), lambda: after_holm([*every]), counts=False)
    return {verdict.id: verdict for verdict in found}


def _stands(ev: Committed, claim: str, profile: str) -> str:
    """In how many settings of the analysis the verdict stands."""
    found = ev.remembered((claim, profile, "settings"), lambda: robustness(claim, profile, *_evidence(ev, profile)))
    return f"; stands {found.text}".replace("stands not", "does not stand", 1) if found else ""


def _signed(text: str) -> str:
    """Minus signs in place of hyphens before numbers."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "−", text)


def _number(part: Part) -> str:
    """What a part of a claim measured: the effect, its interval and the number of seeds."""
    span = part.span.replace(": says nothing of another seed", "")  # which section 1.4 says once
    return _signed(f"{part.text}: {part.ours} {span}".rstrip()) + f", n = {len(part.seeds)}"


def _said(ev: Committed, name: str) -> str:
    """The verdict in each profile, with the number that decides it and how far it hangs on the rule's details."""
    lines = []
    for profile in JUDGED:
        verdict, stands = judged(ev, name, profile), _stands(ev, name, profile)
        parts = len(verdict.judged)
        which = f" (one part of {in_words(parts)})" if parts > 1 else ""
        number = f": {ev.mark(_number(verdict.deciding))}{which}{stands}" if verdict.deciding else ""
        lines.append(f"> `{profile}`, **{_corrected(ev, profile)[name].text}**{number}.")
    return BREAK.join(lines)


def claim(ev: Committed, name: str) -> str:
    """`{{claim 3a}}`: a claim or question with its verdicts, and those by the rule that was added beside its own."""
    rule, added = RULES[choose("claim", name, RULES)], RULES.get(f"{name}′")
    sentence = rule.sentence.removeprefix("(").replace(")", ":", rule.sentence.startswith("("))
    kind, end = ("Question", f"* Rule: {rule.text}.") if name.startswith("q") else ("Claim", ".*")
    lines = [f"> **{kind} {name}.** *{sentence[0].upper()}{sentence[1:]}{end}", _said(ev, name)]
    if added:
        lines += [f"> **{added.id}**, added later: {added.text}.", _said(ev, added.id)]
    return BREAK.join(lines)


def _part(ev: Committed, claim: str, place: str, options: dict[str, str]) -> Part:
    parts = [part for part in judged(ev, claim, options.get("in", "paper")).parts if part.seeds]
    if not parts:
        raise UsageError(f"there is no record for claim {claim}")
    return parts[int(place) - 1]


def effect(ev: Committed, claim: str, place: str, **options: str) -> str:
    """`{{effect 3f 3}}`: the effect of a claim's part, counted from 1 among those that were measured."""
    return _signed(_part(ev, claim, place, options).ours)


def span(ev: Committed, claim: str, place: str, **options: str) -> str:
    """`{{span 3f 3}}`: the interval of a claim's part, with its level."""
    return _signed(_part(ev, claim, place, options).span)


def count(ev: Committed, verdict: str, **options: str) -> str:
    """`{{count holds}}`: how many claims have a verdict; `{{count many}}`: one over three seeds or more."""
    found = [judged(ev, name, options.get("in", "paper")) for name in CLAIMS]
    if verdict == "many":
        return in_words(sum(v.verdict in OUTCOMES and not v.seen for v in found))
    return in_words(sum(v.verdict == verdict for v in found))


def verdicts(ev: Committed) -> Table:
    """Which claims and questions have which verdict, those judged over at least three seeds apart from the others."""
    kinds = [*product(OUTCOMES, SEEN), *product(VERDICTS[3:], [""])]
    found = [[judged(ev, name, profile) for name in RULES] for profile in JUDGED]
    rows = []
    for kind in kinds:
        names = [[v.id for v in of if (v.verdict, "few" * bool(v.seen)) == kind] for of in found]
        cells = [f"**{len(ids)}**: {', '.join(ids)}" if ids else "none" for ids in names]
        words = " or ".join(dict.fromkeys(said(claim, kind[0]) for claim in ("3a", "q1")))
        rows.append([f"{words}, {SEEN[kind[1]]}" if kind[0] in OUTCOMES else words, *cells])
    return Table(["verdict", *(f"`{profile}`" for profile in JUDGED)], rows)


# ---------------------------------------------------------------- tables


def _spread(records: Sequence[Record], curve: str, digits: int) -> str:
    """A quantity at the final epoch: mean ± standard deviation over the seeds; a dash where it was not recorded."""
    found = [at_epoch(curve, record) for record in records if curve == "accuracy" or "last_epoch" in record.result]
    return write(found, digits, "spread" if len(found) > 1 else "mean") if found else "–"


def _row(ev: Committed, exp: Experiment) -> list[str]:
    """What a run ended at in both profiles."""
    cells = []
    for profile in JUDGED:
        records = ev.runs(exp.name, profile)
        epochs = ranges({record.result["last_epoch"] for record in records if "last_epoch" in record.result})
        numbers = [_spread(records, "loss", 3), _spread(records, "accuracy", 3), epochs]
        cells += [f"{len(records) or '–'}", *(cell or "–" for cell in numbers)]
    return cells


def runs(ev: Committed, wanted: Iterable[Experiment], *fields: str) -> Table:
    """What runs ended at, a row each, with the fields of the table of experiments that tell them apart."""
    head = [what for profile in JUDGED for what in (f"`{profile}`: n", "loss", "accuracy", "epochs")]
    rows = []
    for exp in wanted:
        values = [getattr(exp, field) for field in fields]
        settings = ["–" if exp.kind == "baseline" else f"{v:g}" if isinstance(v, float) else f"{v}" for v in values]
        rows.append([exp.name.replace("_", "\\_"), *settings, *_row(ev, exp)])
    return Table(["run", *({"lr": "rate", "batch_size": "batch"}.get(field, field) for field in fields), *head], rows)


def _of(chapter: int, ablations: bool = False) -> list[Experiment]:
    """The trainings of a chapter, the classical baseline among them."""
    rows = [row for row in EXPERIMENTS.values() if row.kind in ("training", "baseline") and row.chapter == chapter]
    rows = [row for row in rows if row.family != "ablation_bf16"]  # whose means stand with question q7
    return [row for row in rows if row.family.startswith("ablation") == ablations]


def cost(ev: Committed) -> Table:
    """What the records took: how many, and hours of training, by profile and machine."""
    rows = []
    for profile in JUDGED:
        machines: dict[str, list[Record]] = {}
        for record in ev.runs("*", profile):
            by = record.settings["provenance"]
            machines.setdefault(by["processor"] if by["device"] == "cpu" else by["device"], []).append(record)
        for machine, of in sorted(machines.items()):
            hours = sum(record.result.get("train_seconds") or 0 for record in of) / 3600
            rows.append([profile, machine, f"{len(of)}", f"{hours:.1f}"])
    return Table(["profile", "machine", "records", "hours of training"], rows)


def defects(ev: Committed) -> Table:
    """What the defects of the original program come to in both profiles."""
    return price_list(*JUDGED, of=lambda profile: priced(profile, *_evidence(ev, profile)))


# table -> its number, what makes it, its caption
TABLES: dict[str, tuple[int, Callable[[Committed], Table], str]] = {
    "verdicts": (1, verdicts, "The verdicts, by how many trainings they rest on"),
    "chapter3": (
        2, lambda ev: runs(ev, _of(3)),
        "The MLPs on MNIST: number n of seeds, training loss and test accuracy at the final epoch (mean ± standard "
        "deviation), and epochs trained",
    ),
    "ablations": (3, lambda ev: runs(ev, _of(3, True) + _of(4, True)), "The ablations, as Table 2"),
    "chapter4": (4, lambda ev: runs(ev, _of(4)), "The CNNs on CIFAR-10, as Table 2"),
    "chapter5": (
        5, lambda ev: runs(ev, _of(5), "optimizer", "lr", "batch_size"),
        "ResNet-18, as Table 2, but for validation accuracy on CIFAR-100 in all runs after train\\_resnet. fine\\_tune"
        "\\_1\\_lr repeats fine\\_tune\\_1, and sweep\\_8 repeats sweep\\_3",
    ),
    "defects": (
        6, defects,
        "Defects of the original program, and what each comes to in our records: mean and 95 % interval, over the "
        "seeds or, of a single seed, over the images",
    ),
    "cost": (7, cost, "What the committed records took"),
}  # fmt: skip


def table(ev: Committed, name: str) -> str:
    """`{{table chapter3}}`: a table with its number and caption."""
    number, made, caption = TABLES[choose("table", name, TABLES)]
    return f"{_signed(str(made(ev)))}\n\n: {ev.mark(f'**Table {number}.**')} {caption}."


# ---------------------------------------------------------------- figures


def figure(ev: Committed, number: str, **options: str) -> str:
    """`{{figure 3.1}}`: a committed figure with its caption; `width`: percent of the text's."""
    entry, profile = FIGURES[choose("figure", number, FIGURES)], options.get("in", "paper")
    file = FOLDER / profile / f"{number}.svg"
    if not file.exists():
        raise UsageError(f"there is no figure {number} in {file.parent.relative_to(ROOT)}")
    for run in entry.runs:
        ev.runs(run, profile)
    place, alt = file.relative_to(ROOT / "report").as_posix(), entry.alt or entry.caption
    caption = f"{ev.mark(f'**Figure {number}.**')} {entry.caption.replace('_', chr(92) + '_')} (`{profile}`)."
    return f'![{caption}]({place}){{width={options.get("width", "64")}% alt="{alt}"}}'


# ---------------------------------------------------------------- the original's numbers, and the rules


def original(ev: Committed, claim: str, place: str = "1") -> str:
    """`{{original 5a}}`: a number that the original report gives in a claim, or of a run of its search, `sweep_3`."""
    if claim.startswith("sweep_"):
        return f"{SWEEP[int(claim.removeprefix('sweep_'))][0]:.3f}"
    return re.findall(r"\d*\.\d+", RULES[choose("claim", claim, RULES)].report)[int(place) - 1]


def beside_original(ev: Committed, at: str, **options: str) -> str:
    """`{{beside_original last}}`: by how many points our accuracy lies above the original's at its twelve settings.

    As mean ± standard error; `rates=high`: at the seven rates above 1e-3.
    """
    rows = [(EXPERIMENTS[f"sweep_{k}"], accuracy) for k, (accuracy, _) in SWEEP.items()]
    rows = [(exp, accuracy) for exp, accuracy in rows if exp.lr > 1e-3 or options.get("rates") != "high"]
    found = [100 * (at_epoch("accuracy", r, at) - theirs) for exp, theirs in rows for r in ev.needed(exp.name, "paper")]
    return f"{write(found, 1, 'mean')} ± {np.std(found, ddof=1) / sqrt(len(found)):.1f}"


def rules_sha256(ev: Committed) -> str:
    """`{{rules_sha256}}`: the digest of the file of rules."""
    return f"`{hashlib.sha256(RULES_FILE.read_bytes()).hexdigest()}`"


def amendments(ev: Committed) -> str:
    """`{{amendments}}`: the rules that were added, or whose line was changed, after a record that they judge."""
    return joined([*AMENDMENTS, *(name for name in RULES if name.endswith("′"))])


def count_rules(ev: Committed, what: str) -> str:
    """`{{count_rules claims}}`: how many claims, or `questions` of our own, there are."""
    questions = [name for name in RULES if name.startswith("q")]
    return f"{len(CLAIMS if what == 'claims' else questions)}"


def experiments(ev: Committed, what: str) -> str:
    """`{{experiments trainings}}`: how many trainings of the original, or `ablations` of ours, the table has."""
    rows = [row for row in EXPERIMENTS.values() if row.kind == "training"]
    return f"{sum(row.family.startswith('ablation') == (what == 'ablations') for row in rows)}"


def layout(ev: Committed, name: str) -> str:
    """`{{layout CNN_10}}`: a list of widths as it stands at the head of myModel.py, which is not imported."""
    text = (ROOT / "myModel.py").read_text("utf-8")
    found = re.search(rf"^{name}(?:: Layout)? = (\[.*?\])(?:  # .*)?$", text, re.M | re.S)
    if found is None:
        raise UsageError(f"there is no list of widths {name} in myModel.py")
    return f"`{' '.join(found[1].split()).replace('[ ', '[').replace(', ]', ']')}`"


def version(ev: Committed) -> str:
    """`{{version}}`: the package's version."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def records(ev: Committed, profile: str) -> str:
    """`{{records paper}}`: how many finished records of a profile are committed."""
    return f"{len(ev.runs('*', profile))}"


BLOCKS: dict[str, Callable[..., str]] = {
    "claim": claim, "table": table, "figure": figure, "amendments": amendments, "layout": layout,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., str]] = {
    "effect": effect, "span": span, "count": count, "original": original, "beside_original": beside_original,
    "rules_sha256": rules_sha256, "count_rules": count_rules, "experiments": experiments, "records": records,
    "version": version,
}  # fmt: skip
