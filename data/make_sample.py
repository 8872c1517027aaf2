"""Make the embedded sample anew from the complete sets: `DATA_DIR=... python data/make_sample.py`.

DATA_DIR must hold the sets as parquet shards, whose encoded images are copied as they are. The sample is stratified
(in proportion to the classes): of each class the first images in canonical order, which is as good as random.

    MNIST     4,000 train and 1,000 test images
    CIFAR-10  3,000 train and 1,000 test images
    CIFAR-100 40 train, 10 validation and 5 test images a class, all of them from the train set: trying things out
              never opens the real test set
"""

import argparse
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepnet.data.sets import canonical_order, checked, fingerprint, first_of_each_class
from deepnet.data.sources import SAMPLE, LocalCopy, in_data_dir, read_table
from experimentTable import UsageError

MOST_BYTES = 1_800_000  # of images in one file; git and its hosts like small ones
COUNTS = {  # part of the sample -> (part of the complete set, images)
    "mnist": {"train": ("train", 4_000), "test": ("test", 1_000)},
    "cifar10": {"train": ("train", 3_000), "test": ("test", 1_000)},
    "cifar100": {"train": ("train", 5_000), "test": ("train", 500)},
}


def stratified(copy: LocalCopy, part: str, count: int) -> tuple[np.ndarray, pa.Table]:
    """`count` images of `part` in canonical order, decoded and as they stand in the shards."""
    if copy.shards is None:
        raise UsageError(f"{copy.folder} holds no parquet shards; set DATA_DIR to a folder that does")
    rows = copy.read(part)
    order = canonical_order(rows)
    checked(rows[order], copy.name, "complete", part, str(copy.folder))
    chosen = order[first_of_each_class(rows[order, 0], count)]
    return rows[chosen], pa.concat_tables([read_table(shard) for shard in copy.shards[part]]).take(chosen)


def write_shards(table: pa.Table, folder: Path, part: str) -> None:
    """`table` as shards with Hugging Face's names, each below MOST_BYTES or so."""
    image = "image" if "image" in table.column_names else "img"
    total = -(-sum(len(cell["bytes"]) for cell in table[image].to_pylist()) // MOST_BYTES)
    edges = np.arange(total + 1) * len(table) // total
    for i, (start, stop) in enumerate(pairwise(edges)):
        path = folder / f"{part}-{i:05d}-of-{total:05d}.parquet"
        pq.write_table(table.slice(start, stop - start), path, compression="none", use_dictionary=False)


def make(name: str, folder: Path) -> None:
    """Write the sample of one set into `folder`, in place of what is there; print each part's fingerprint."""
    copy = in_data_dir(name)
    if copy is None:
        raise UsageError(f"set DATA_DIR to a folder that holds {name} as train-*.parquet and test-*.parquet")
    pools: Counter[str] = Counter()
    for origin, count in COUNTS[name].values():
        pools[origin] += count
    cut = {origin: stratified(copy, origin, count) for origin, count in pools.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    for part, (origin, count) in COUNTS[name].items():
        rows, table = cut[origin]
        chosen = first_of_each_class(rows[:, 0], count)
        rest = np.setdiff1d(np.arange(len(rows)), chosen)
        write_shards(table.take(chosen), folder, part)
        print(name, part, len(chosen), fingerprint(rows[chosen]))
        cut[origin] = rows[rest], table.take(rest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLE, help="where to write it (default: %(default)s)")
    folder = parser.parse_args().folder
    try:
        for name in COUNTS:
            make(name, folder / name)
    except UsageError as error:
        sys.exit(str(error))
