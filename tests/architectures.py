"""Train architectures of timm and torchvision by `pipeline` and by a plain loop, and compare the weights.

To be run by hand, since it needs timm, which the project does not:

    pip install --no-deps timm huggingface_hub safetensors pyyaml
    OMP_NUM_THREADS=1 python tests/architectures.py [--part 0/2] [NAME ...]

trains the architectures whose library, family or builder is one of the names, all unless any are given, which takes
one core some 15 minutes; with `--part 1/2` every second of them, so that two processes share them. What is done
already, as `outcomes.jsonl` in the folder `RUNS_DIR` has it, is passed over: remove the file to begin anew. From all
outcomes the table architectures.md is written at the end.

Each architecture, with random weights and without dropout, trains in float64 for two epochs on 64 random images three
times: all of it, its new head alone, and its new head alone with `fast=True`.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("RUNS_DIR", str(Path(tempfile.gettempdir()) / "architectures"))
os.environ["WANDB_MODE"] = "disabled"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from coreFunction import pipeline
from deepnet.data.datasets import epoch_batches
from deepnet.records.reading import runs_dir
from deepnet.seeds import seed_everything
from experimentTable import UsageError
from myModel import count_parameters, head_names, replace_head

CLASSES, IMAGES, BATCH, EPOCHS, LR = 7, 64, 16, 2, 0.01
CLOSE = 1e-8  # of the largest weight, where that is above 1
WAYS = {"all": "all learning", "head": "head alone", "fast": "head alone, `fast=True`"}
TABLE = Path(__file__).with_suffix(".md")

# family/builder: one builder of each family of timm, and the smaller ones of torchvision
TIMM = """
    byoanet/lambda_resnet26t byobnet/test_byobnet convnext/test_convnext cpubone/cpubone_nano
    cspnet/cs3darknet_focus_s davit/davit_tiny densenet/densenet121 dla/dla46_c dpn/dpn48b edgenext/edgenext_xx_small
    efficientnet/test_efficientnet efficientvim/efficientvim_m1 efficientvit_mit/efficientvit_b0
    fasternet/fasternet_t0 fastvit/fastvit_t8 ghostnet/ghostnet_050 hardcorenas/hardcorenas_a hgnet/hgnetv2_b0
    iformer/iformer_t inception_next/inception_next_atto lcnetv2/lcnetv2_small lowformer/lowformer_b0
    mambaout/test_mambaout metaformer/poolformer_s12 mobilenetv3/mobilenetv3_small_050 mobilevit/mobilevitv2_050
    naflexvit/naflexvit_base_patch16_gap nfnet/test_nfnet pvt_v2/pvt_v2_b0 rdnet/rdnet_tiny regnet/regnetx_002
    repghost/repghostnet_050 repvit/repvit_m0_9 resnest/resnest14d resnet/test_resnet resnetv2/resnetv2_18
    rexnet/rexnet_100 sequencer/sequencer2d_s shvit/shvit_s1 sknet/skresnet18 starnet/starnet_s050
    swiftformer/swiftformer_xs tiny_vit/tiny_vit_5m_224 vovnet/ese_vovnet19b_slim_dw
"""
TIMM_SIZED = """
    beit/beit_base_patch16_224 cait/cait_xxs24_224 coat/coat_lite_tiny convit/convit_tiny
    deit/deit_tiny_distilled_patch16_224 efficientformer_v2/efficientformerv2_s0 efficientvit_msra/efficientvit_m0
    eva/eva02_tiny_patch14_224 gcvit/gcvit_xxtiny levit/levit_128s maxxvit/test_maxvit mlp_mixer/gmlp_ti16_224
    mvitv2/mvitv2_tiny nest/nest_tiny pit/pit_ti_224 swin_transformer/swin_tiny_patch4_window7_224
    swin_transformer_v2/swinv2_tiny_window8_256 swin_transformer_v2_cr/swinv2_cr_tiny_224 tnt/tnt_s_patch16_224
    twins/twins_svt_small vision_transformer/test_vit vision_transformer_hybrid/vit_tiny_r_s16_p8_224
    vision_transformer_relpos/test_vit_relpos vision_transformer_sam/samvit_base_patch16_224 volo/volo_d1_224
    xcit/xcit_nano_12_p16_224
"""  # built for one size, which they are told
TORCHVISION = """
    alexnet/alexnet convnext/convnext_tiny densenet/densenet121 efficientnet/efficientnet_b0
    efficientnet/efficientnet_b1 efficientnet/efficientnet_b2 efficientnet/efficientnet_v2_s googlenet/googlenet
    inception/inception_v3 mnasnet/mnasnet0_5 mnasnet/mnasnet0_75 mnasnet/mnasnet1_0 mnasnet/mnasnet1_3
    mobilenet/mobilenet_v2 mobilenet/mobilenet_v3_large mobilenet/mobilenet_v3_small regnet/regnet_x_400mf
    regnet/regnet_x_800mf regnet/regnet_y_400mf regnet/regnet_y_800mf resnet/resnet18 resnet/resnet34 resnet/resnet50
    resnext/resnext50_32x4d shufflenet/shufflenet_v2_x0_5 shufflenet/shufflenet_v2_x1_0 shufflenet/shufflenet_v2_x1_5
    shufflenet/shufflenet_v2_x2_0 squeezenet/squeezenet1_0 squeezenet/squeezenet1_1 swin/swin_t swin/swin_v2_t
    vgg/vgg11_bn vit/vit_b_32
"""
SIZED = {word.partition("/")[2] for word in TIMM_SIZED.split()}
PIXELS = {"eva02_tiny_patch14_224": 28, "alexnet": 63, "inception_v3": 75}  # others: 32
# What makes them smaller, or is needed.
OPTIONS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "cait_xxs24_224": {"depth": 2},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2},
    "davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8)},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "sequencer2d_s": {"layers": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "swinv2_tiny_window8_256": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "swinv2_cr_tiny_224": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "tnt_s_patch16_224": {"depth": 2},
    "twins_svt_small": {"depths": (1, 1, 1, 1)},
    "vit_tiny_r_s16_p8_224": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3, "global_attn_indexes": (1,)},
    "xcit_nano_12_p16_224": {"depth": 2},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_b_32": {"image_size": 32},
}
ARCHITECTURES = sorted([
    *(("timm", *word.split("/")) for word in (TIMM + TIMM_SIZED).split()),
    *(("torchvision", *word.split("/")) for word in TORCHVISION.split()),
])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--part", default="0/1", metavar="I/N")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    warnings.filterwarnings("ignore")
    outcomes = runs_dir() / "outcomes.jsonl"
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    for library, family, builder in ARCHITECTURES[part::parts]:
        key = f"{library}.{builder}"
        wanted = not asked.names or {library, family, builder} & set(asked.names)
        if not wanted or key in read(outcomes):
            continue
        try:
            outcome = {"key": key} | compare(library, builder)
        except Exception as error:  # the next ones are tried all the same
            print(f"{key} | WRONG: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        print(*outcome.values(), sep=" | ", flush=True)
        with outcomes.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
    TABLE.write_text(table(read(outcomes)))


def read(outcomes: Path) -> dict[str, dict]:
    lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    return {outcome["key"]: outcome for outcome in map(json.loads, lines)}


# ---------------------------------------------------------------- models and data


def build(library: str, builder: str, classes: int = CLASSES) -> nn.Module:
    """The architecture with random weights, without dropout and stochastic depth."""
    torch.manual_seed(0)
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    sized = {"img_size": pixels_of(builder)} if builder in SIZED else {}
    model = create(builder, num_classes=classes, **sized, **OPTIONS.get(builder, {}))
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout", "attention_dropout", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def with_new_head(library: str, builder: str) -> tuple[nn.Module, list[str], str]:
    """The architecture with a new head, the children that hold it, and the layers replaced, or why none was."""
    model = build(library, builder, classes=11)
    try:
        layers = head_names(model)
        return replace_head(model, CLASSES), sorted({name.partition(".")[0] for name in layers}), ", ".join(layers)
    except UsageError as error:
        model = build(library, builder)
        last = [name for name, child in model.named_children() if any(True for _ in child.parameters())][-1:]
        return model, last, f"refused: {error}"


def pixels_of(builder: str) -> int:
    return PIXELS.get(builder, 32)


def pictures(pixels: int, images: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(images, 3, pixels, pixels, generator=generator), torch.arange(images) % CLASSES)


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in what a model gives."""
    if isinstance(output, Tensor):
        yield output
    elif output is not None:
        for part in output:
            yield from tensors(part)


def check_scores(model: nn.Module, inputs: Tensor) -> None:
    """Assert that every output of a copy of the model has one score for each class, in evaluation and in training."""
    for training in (False, True):
        shapes = [tuple(output.shape) for output in tensors(copy.deepcopy(model).train(training)(inputs))]
        assert set(shapes) == {(len(inputs), CLASSES)}, shapes


# ---------------------------------------------------------------- the comparison


def compare(library: str, builder: str) -> dict:
    """How many parameters the architecture has, which layers `replace_head` replaces, and the outcome of each way."""
    model, learning, layers = with_new_head(library, builder)
    check_scores(model, pictures(pixels_of(builder), 4, 0).tensors[0])
    outcome = {"parameters": count_parameters(model), "layers": layers}
    for way in WAYS:
        if way == "all":
            outcome[way] = outcome_of(builder, build(library, builder), None, way)
        else:
            outcome[way] = outcome_of(builder, with_new_head(library, builder)[0], learning, way)
    return outcome


def outcome_of(builder: str, model: nn.Module, children: list[str] | None, way: str) -> str:
    """Train the model by `pipeline` and a copy by the plain loop: how far apart they end, or why it was refused."""
    plain, name, pixels = copy.deepcopy(model), f"{builder}-{way}", pixels_of(builder)
    data, evaluation = pictures(pixels, IMAGES, 1), pictures(pixels, BATCH, 2)
    order = [torch.arange(IMAGES).split(BATCH)] * EPOCHS
    train_set: Any = DataLoader(data, BATCH)
    if way == "fast":  # tensors in memory, since a frozen front is computed once for them alone
        train_set = data
        order = [epoch_batches(IMAGES, BATCH, seed_everything(0, epoch)) for epoch in range(1, EPOCHS + 1)]
    try:
        record = pipeline(
            model, train_set, evaluation, name=name, lr=LR, optimizer="SGD", epochs=EPOCHS, batch_size=BATCH,
            trainable=children, precision="fp64", fast=way == "fast",
        )  # fmt: skip
    except UsageError as error:
        assert "\n" not in str(error), "the refusal takes several lines"
        assert not list(runs_dir().glob(f"*/{name}")), "something was written before the refusal"
        assert same(model.state_dict(), plain.state_dict()), "a refused model was changed"
        return f"refused: {error}"
    assert record.finished, record.result
    plain.double()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    train_plainly(plain, data, order, children)
    found, wanted = model.state_dict(), plain.state_dict()
    frozen = {key for key in before if children and key.partition(".")[0] not in children}
    assert same(*({key: state[key] for key in frozen} for state in (found, before))), "what is frozen has moved"
    assert not same(found, before), "nothing has learned"
    apart = max(distance(found[key], wanted[key]) for key in wanted)
    assert apart < CLOSE, f"{apart:.1e} apart"
    return f"{apart:.0e}" if apart else "0"


def train_plainly(model: nn.Module, data: TensorDataset, order: list, children: list[str] | None) -> None:
    """Train these children, or all of the model, on the batches at the indices in `order`; the others evaluate."""
    model.train()
    if children is not None:
        model.requires_grad_(False)
        for name, child in model.named_children():
            child.requires_grad_(name in children).train(name in children)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], LR)
    for indices in (indices for epoch in order for indices in epoch):
        images, labels = data[indices]
        optimizer.zero_grad()
        cross_entropy(model(images.double()), labels).backward()
        optimizer.step()


def same(state: dict, other: dict) -> bool:
    """Whether two state dicts are equal to the bit."""
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference between two tensors, divided by the largest number of the second where that is above 1."""
    if not wanted.numel() or torch.equal(found, wanted):
        return 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


# ---------------------------------------------------------------- the table


def table(outcomes: dict[str, dict]) -> str:
    """All outcomes as Markdown."""
    done = [(*row, outcomes[f"{row[0]}.{row[2]}"]) for row in ARCHITECTURES if f"{row[0]}.{row[2]}" in outcomes]
    refused = {way: sum(outcome[way].startswith("refused") for *_, outcome in done) for way in WAYS}
    counts = [f"{says}: {len(done) - refused[way]} trained, {refused[way]} refused" for way, says in WAYS.items()]
    lines = [
        f"# {len(done)} architectures beside a plain loop",
        "",
        f"Written by `{Path(__file__).name}` on {date.today()} with torch {torch.__version__}, torchvision "
        f"{torchvision.__version__} and timm {timm.__version__}, in float64 on a CPU, with random weights, {EPOCHS} "
        "epochs "
        f"on {IMAGES} images.",
        "",
        f"{'; '.join(counts)}. A number is how far the weights are from the plain loop's at most, relative to a "
        "tensor's largest number where that is above 1 (0: equal to the bit). Wherever the head alone learned, "
        "everything "
        "frozen stayed as it was to the bit; whatever was refused was refused before anything was written. Every "
        "output of "
        f"each model has {CLASSES} scores after `replace_head`, in evaluation and in training; a model that it "
        "refuses was "
        "built with so many, and its last child with parameters learned.",
        "",
        f"| family | library | builder | parameters | layers replaced | {' | '.join(WAYS.values())} |",
        "|---|---|---|--:|---|---|---|---|",
    ]  # fmt: skip
    for library, family, builder, outcome in done:
        cells = [family, library, builder, f"{outcome['parameters']:,}", outcome["layers"], *map(outcome.get, WAYS)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
