"""`diagnose` on broken and healthy networks, beside torchmortem where that is installed.

    python benchmarks/diagnose.py [--held-out | --torchvision] [--torchmortem] [--quick] [--write] [WORD ...]

Without --write a table is printed; with it, what was run takes its place in benchmarks/results/diagnose.md.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.broken_nets import CASES, Case
from deepnet.diagnosis.diagnosing import diagnose
from deepnet.diagnosis.sample import read_sample
from deepnet.diagnosis.setup import maker
from deepnet.text import Table, counted

OUTCOMES = Path(__file__).parent / "results" / "diagnose.json"
PAGE = OUTCOMES.with_suffix(".md")
CURES = 2  # that are tried of each case
MORTEM_STEPS = 100
# What torchmortem's detectors and categories say, in our codes: generous, since one of theirs may mean several of ours.
MEANS = {
    "gradient_flow": {"vanishing", "exploding", "saturating-activation", "detached", "frozen"},
    "dead_units": {"dead-units"},
    "saturation": {"saturating-activation"},
    "update_ratio": {"learning-rate-high", "learning-rate-low", "eps", "vanishing"},
    "weight_norm": {"weight-decay", "exploding", "frozen"},
    "loss_dynamics": {"learning-rate-high"},
    "rank_collapse": {"vanishing", "constant-weights"},
    "gradient_noise": set(),
}
PARTS = {"main": "Set while the rules were written", "held": "Held out", "library": "Models of libraries, untrained"}
NOTES = {
    "held": (
        "They were first run when rules and thresholds stood. Rules have been changed since, after these results had "
        "been seen: for the models of libraries, as told below, and for models and losses that readers tried by hand."
    ),
    "library": (
        "Each takes the first steps only, without cures: that no cause was found does not show that it learns. "
        "Earlier rules called EfficientNet ill, since `exploding` began at twice ln(classes) and then at three times, "
        "and `dropout` at noise of four times the mean square; GoogLeNet, since `detached` did not know of auxiliary "
        "heads; and SqueezeNet, since `dropout` compared noise with the variance across items and not with the mean "
        "square."
    ),
}


def build(case: Case) -> nn.Module:
    torch.manual_seed(case.seed)
    return case.model()


def part_of(case: Case) -> str:
    return "held" if case.held_out else "main"


def outcome_of(case: Case, cures: bool) -> dict[str, Any]:
    """What `diagnose` says of a case."""
    found = diagnose(build(case), case.data(), **({"cures": cures * CURES} | case.options))
    return {
        "name": case.name, "part": part_of(case), "causes": case.causes,
        "found": [finding.code for finding in found.causes], "healthy": found.healthy,
        "curable": case.curable and bool(case.causes),
        "tried": [[trial.name, trial.helped] for trial in found.trials[1:]],
    }  # fmt: skip


def torchmortem_says(case: Case) -> list[str] | str:
    """The findings of torchmortem that are at least warnings, by detector, after a training of `MORTEM_STEPS`."""
    try:
        from torchmortem import Autopsy
    except ImportError:
        return "not installed"
    model = build(case)
    options = dict(case.options)
    optimizer = maker(model, options.get("optimizer"), options.get("lr"), options.get("eps"))(model, {})
    sample = read_sample(model, case.data())
    warnings.filterwarnings("ignore")
    begin = time.monotonic()
    try:
        with Autopsy(model, optimizer=optimizer) as autopsy:
            for step, (inputs, targets) in enumerate(sample.batches(32)):
                if step == MORTEM_STEPS or (step >= 60 and time.monotonic() - begin > 60):
                    break
                loss = cross_entropy(inputs.given_to(model), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                autopsy.step(loss=loss.item())
        report = autopsy.get_report()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"[:60]
    findings = report.findings if report else []
    return sorted({f"{f.detector}" for f in findings if f.severity.name in ("WARNING", "CRITICAL")})


# ---------------------------------------------------------------- models of libraries

LIBRARY = (
    "timm.test_vit", "timm.test_resnet", "timm.test_convnext", "timm.test_efficientnet", "timm.resnet10t",
    "torchvision.squeezenet1_1", "torchvision.shufflenet_v2_x1_0", "torchvision.mobilenet_v2",
    "torchvision.resnet18", "torchvision.regnet_y_400mf", "torchvision.efficientnet_b0", "torchvision.densenet121",
    "torchvision.googlenet", "torchvision.swin_t", "torchvision.convnext_tiny",
)  # fmt: skip


def library_outcome(name: str) -> dict[str, Any]:
    """What `diagnose` says of an untrained model of torchvision or timm on CIFAR-10's images."""
    import torchvision

    from deepnet.data.sets import load_images

    torch.manual_seed(0)
    library, _, builder = name.partition(".")
    if library == "timm":
        import timm

        sized: dict[str, Any] = {"img_size": 32} if "vit" in builder else {}
        model = timm.create_model(builder, num_classes=10, **sized)
    else:
        options = {"init_weights": True} if builder == "googlenet" else {}
        model = torchvision.models.get_model(builder, num_classes=10, **options)
    images = load_images("cifar10", "train", "sample", 64 if builder == "googlenet" else 32)
    begin = time.process_time()
    found = diagnose(model.train(), images, cures=False)
    return {
        "name": name, "part": "library", "causes": [], "found": [finding.code for finding in found.causes],
        "seconds": round(time.process_time() - begin, 1), "healthy": not found.causes,  # some learn later
        "curable": False, "tried": [],
        "losses": [round(found.measurements.first_loss, 3), round(found.measurements.last_loss, 3)],
    }  # fmt: skip


# ---------------------------------------------------------------- the page


def row(outcome: dict[str, Any]) -> list[str]:
    """An outcome as a row of its part's table."""
    found = ", ".join(outcome["found"]) or ("no cause" if outcome["part"] == "library" else "healthy")
    if outcome["part"] == "library":
        first, last = outcome["losses"]
        return [outcome["name"], found, f"{first:.3f}", f"{last:.3f}", f"{outcome['seconds']:.1f}"]
    tried = outcome["tried"]
    came_of_first = {True: "helped", False: "did not help", None: "could not be tried"}
    others = ", ".join(name for name, helped in tried[1:] if helped)
    theirs = outcome.get("torchmortem", "not run")
    return [
        outcome["name"], " or ".join(outcome["causes"]) or "healthy", found, "yes" if is_right(outcome) else "no",
        f"{tried[0][0]}: {came_of_first[tried[0][1]]}" if tried else "–", others or "–",
        theirs if isinstance(theirs, str) else ", ".join(theirs) or "nothing",
    ]  # fmt: skip


def is_right(outcome: dict[str, Any]) -> bool:
    """Whether the first cause is one that was expected, or a healthy network was called healthy."""
    if not outcome["causes"]:
        return bool(outcome["healthy"])
    return bool(outcome["found"]) and outcome["found"][0] in outcome["causes"]


def summary(outcomes: list[dict[str, Any]]) -> str:
    """How many causes were named right, how many first cures helped, and how many healthy networks were called ill."""
    broken = [o for o in outcomes if o["causes"]]
    healthy = [o for o in outcomes if not o["causes"]]
    curable = [o for o in broken if o["curable"]]
    helped = sum(bool(o["tried"]) and o["tried"][0][1] is True for o in curable)
    said = [o for o in broken if isinstance(o.get("torchmortem"), list)]
    named = sum(any(MEANS.get(d, set()) & {*o["causes"]} for d in o["torchmortem"]) for o in said)
    alarms = [bool(o["torchmortem"]) for o in healthy if isinstance(o.get("torchmortem"), list)]
    parts = []
    if broken:
        parts += [
            f"Cause named first: {sum(map(is_right, broken))} of {len(broken)}.",
            f"First cure helped: {helped} of {len(curable)} that a change could cure.",
        ]
    parts.append(f"Healthy called ill: {sum(not is_right(o) for o in healthy)} of {len(healthy)}.")
    if broken and said:
        parts.append(
            f"torchmortem warns of something that could mean the cause in {named} of {len(said)} cases that it could "
            f"train, and warns of {sum(alarms)} of the {len(alarms)} healthy networks that it was run on."
        )
    return " ".join(parts)


def page(outcomes: list[dict[str, Any]]) -> str:
    """All outcomes as Markdown."""
    judged = ("case", "cause", "found, most likely first", "right", "first cure", "also helped", "torchmortem")
    heads = {"library": ("model", "found", "first loss", "last loss", "CPU seconds")}
    lines = [
        "# `diagnose` on networks that do not learn",
        "",
        f"Written by `benchmarks/diagnose.py` with {torch_is()}.",
    ]
    for part, title in PARTS.items():
        chosen = [outcome for outcome in outcomes if outcome["part"] == part and "found" in outcome]
        if chosen:
            table = Table(heads.get(part, judged), [row(outcome) for outcome in chosen])
            lines += ["", f"## {title}", "", " ".join([summary(chosen), NOTES.get(part, "")]).strip(), "", str(table)]
    return "\n".join(lines) + "\n"


def torch_is() -> str:
    return f"torch {torch.__version__.partition('+')[0]} on {counted(torch.get_num_threads(), 'thread')} of a CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="cases whose name holds one of these (default: all)")
    parser.add_argument("--held-out", action="store_true", help="the held-out cases in place of the others")
    parser.add_argument("--torchvision", action="store_true", help="models of torchvision and timm in their place")
    parser.add_argument(
        "--torchmortem", action="store_true", help="torchmortem in place of diagnose, beside whose outcomes it is put"
    )
    parser.add_argument("--quick", action="store_true", help="without cures")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if case.held_out == asked.held_out]
    jobs = [(name, None) for name in LIBRARY] if asked.torchvision else [(case.name, case) for case in cases]
    outcomes: list[dict[str, Any]] = []
    for name, case in jobs:
        if asked.words and not any(word.lower() in name.lower() for word in asked.words):
            continue
        try:
            if asked.torchmortem and case:
                outcome = {"part": part_of(case), "name": name, "torchmortem": torchmortem_says(case)}
            else:
                outcome = outcome_of(case, not asked.quick) if case else library_outcome(name)
        except Exception as error:  # the next ones are run all the same, and the table lacks this one
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        print(" | ".join(row(outcome)) if "found" in outcome else json.dumps(outcome), flush=True)
        if asked.write:
            write(outcome)
        outcomes.append(outcome)
    if not asked.torchmortem:
        print(summary(outcomes))


def write(outcome: dict[str, Any]) -> None:
    """Put an outcome in the place of an earlier one of its name, and make the page anew."""
    written = json.loads(OUTCOMES.read_text()) if OUTCOMES.exists() else []
    kept = {(o["part"], o["name"]): o for o in written}
    key = outcome["part"], outcome["name"]
    kept[key] = kept.get(key, {}) | outcome
    order = {case.name: number for number, case in enumerate(CASES)}
    made = sorted(kept.values(), key=lambda o: order.get(o["name"], len(order)))
    OUTCOMES.write_text(json.dumps(made, indent=1) + "\n")
    PAGE.write_text(page(made))


if __name__ == "__main__":
    main()
