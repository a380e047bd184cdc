"""Vectors that lie as CLIP's do, run as a script by an interpreter with numpy: for `bench.search`.

What is known of CLIP's embeddings (ViT-B/32, 512 dimensions) and how it is made here:

- Pictures lie in a narrow cone: two unrelated ones have a cosine of about 0.5 (Liang et al. 2022, "Mind the Gap"). Half
  of a vector's squared length is one direction that all pictures share.
- Texts lie in another cone: a fitting pair has 0.25 to 0.35, an unrelated one 0.1 to 0.2, and no text is as near to a
  picture as pictures are to each other. Seven tenths of a text's squared length is a direction of the texts, which has
  a cosine of 0.25 with that of the pictures. A query by text comes from outside of what the index holds.
- What is left, the meaning, has a spectrum that falls as 1/k: few dimensions carry most of it.
- Clusters: 100 pictures in each on the mean, sizes by a power law (`cluster_shares`), clusters in 400 topics. Within a
  cluster pictures differ by sixteen attributes of 2048 that all clusters share, the first ones more than the last, and
  by a little noise in all directions: a low intrinsic dimension within the 512.
- Bursts: three in a hundred pictures are nearly another one of the same cluster.

What came of it is measured and said with the results (`facts`). Queries by picture are pictures that the collection has
not got. A query by text is of such a picture too: it has the cluster and the four strongest attributes, and as much
again of its own, half of it in the dimensions by which pictures differ, half in all. How much, is chosen so that a text
finds its own among 5,000 pictures of a million's world as often as CLIP's ViT-B/32 does on the 5,000 of MS COCO: first
for 31% of the texts, among the first ten for 67% (the model's zero-shot retrieval, measured by many).

Written: `vectors.copy`, in Postgres' binary COPY format (n int8, cluster int4, vector halfvec), which FAISS's side
reads too; `queries.json`, with the ten nearest pictures to each by comparing it with all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 512
TOPICS, ATTRIBUTES, OF_ONE, TOLD = 400, 2048, 16, 4
PICTURES_SHARED, TEXTS_SHARED, CONES_COSINE = 0.5, 0.7, 0.25
OF_ITS_OWN = 1.05
BURSTS = 0.03
PART = 50_000
NEAREST = 10
#: Which pictures pass a filter: those whose number leaves this rest. As `bench.search` fills the tables.
FILTERS = {"all": (1, 0), "third": (3, 0), "tenth": (10, 3), "album": (500, 7)}
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("n_bytes", ">i4"),
        ("n", ">i8"),
        ("cluster_bytes", ">i4"),
        ("cluster", ">i4"),
        ("vector_bytes", ">i4"),
        ("dimension", ">i2"),
        ("unused", ">i2"),
        ("vector", ">f2", (DIMENSION,)),
    ]
)

Array = Any


def cluster_shares(clusters: int) -> list[float]:
    """What part of the pictures is in each, the largest first: shares fall as 1/(rank + 10)."""
    weights = [1 / (rank + 10) for rank in range(1, clusters + 1)]
    return [weight / sum(weights) for weight in weights]


def unit(rows: Array) -> Array:
    """Each row at length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class World:
    """Where clusters, attributes and cones lie; makes pictures, and texts about them."""

    def __init__(self, pictures: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        clusters = max(50, pictures // 100)
        self._scale = (np.arange(1, DIMENSION + 1) ** -0.5).astype(np.float32)
        self.shares = np.array(cluster_shares(clusters))
        topics = self._meaning(TOPICS)
        self.topic_of = self.random.integers(0, TOPICS, clusters)
        self._centres = unit(0.6 * topics[self.topic_of] + 0.8 * self._meaning(clusters))
        self._attributes = self._meaning(ATTRIBUTES)
        self._attributes_of = np.stack([self.random.choice(ATTRIBUTES, OF_ONE, replace=False) for _ in range(clusters)])
        self._strengths = (np.arange(1, OF_ONE + 1) ** -0.5).astype(np.float32)
        self._strengths /= np.linalg.norm(self._strengths)
        cones = unit(self.random.standard_normal((2, DIMENSION)).astype(np.float32))
        aside = unit(cones[1] - (cones[1] @ cones[0]) * cones[0])
        self._of_pictures = cones[0]
        self._of_texts = CONES_COSINE * cones[0] + (1 - CONES_COSINE**2) ** 0.5 * aside

    def _meaning(self, n: int) -> Array:
        return unit(self.random.standard_normal((n, DIMENSION), dtype=np.float32) * self._scale)

    def pictures(self, n: int) -> tuple[Array, Array, Array]:
        """So many: vectors of length 1, their clusters, and how much they have of its attributes."""
        clusters = self.random.choice(len(self.shares), n, p=self.shares)
        have = self.random.standard_normal((n, OF_ONE), dtype=np.float32) * self._strengths
        meaning = self._around(clusters, have) + 0.4 * self._meaning(n)
        again = np.flatnonzero(self.random.random(n) < BURSTS)
        if n > 1:
            meaning[again] = meaning[again - 1] + 0.03 * self._meaning(len(again))
            clusters[again], have[again] = clusters[again - 1], have[again - 1]
        return self._in_cone(meaning, self._of_pictures, PICTURES_SHARED), clusters, have

    def texts(self, clusters: Array, have: Array) -> Array:
        """One about each picture."""
        told = np.where(np.arange(OF_ONE) < TOLD, have, 0)
        meaning = self._around(clusters, told) + OF_ITS_OWN * self._meaning(len(clusters))
        meaning += OF_ITS_OWN * unit(self.random.standard_normal(meaning.shape, dtype=np.float32))
        return self._in_cone(meaning, self._of_texts, TEXTS_SHARED)

    def _around(self, clusters: Array, have: Array) -> Array:
        weights = np.zeros((len(clusters), ATTRIBUTES), np.float32)
        np.put_along_axis(weights, self._attributes_of[clusters], have, axis=1)
        return 0.7 * self._centres[clusters] + 0.6 * (weights @ self._attributes)

    @staticmethod
    def _in_cone(meaning: Array, axis: Array, shared: float) -> Array:
        return unit(shared**0.5 * axis + (1 - shared) ** 0.5 * unit(meaning))


def write(world: World, n: int, path: Path) -> None:
    """The collection."""
    with path.open("wb") as file:
        file.write(HEADER)
        for first in range(0, n, PART):
            vectors, clusters, _ = world.pictures(min(PART, n - first))
            rows = np.zeros(len(vectors), ROW)
            rows["fields"], rows["n_bytes"], rows["cluster_bytes"] = 3, 8, 4
            rows["vector_bytes"], rows["dimension"] = 4 + 2 * DIMENSION, DIMENSION
            rows["n"], rows["cluster"], rows["vector"] = np.arange(first, first + len(vectors)), clusters, vectors
            file.write(rows.tobytes())
        file.write(TRAILER)


def read(path: Path, part: int = PART) -> Iterator[tuple[int, Array]]:
    """The collection: the number of the first row, and vectors of a part."""
    count = (path.stat().st_size - len(HEADER) - len(TRAILER)) // ROW.itemsize
    rows = np.memmap(path, ROW, "r", len(HEADER), (count,))
    for first in range(0, count, part):
        yield first, rows["vector"][first : first + part].astype(np.float32)


def nearest(path: Path, queries: Array) -> dict[str, tuple[Array, Array]]:
    """By filter: the numbers and cosines of the ten nearest to each query."""
    best = {
        name: (np.full((len(queries), NEAREST), -1), np.full((len(queries), NEAREST), -2, np.float32))
        for name in FILTERS
    }
    for first, vectors in read(path):
        cosines = queries @ unit(vectors).T
        numbers = np.arange(first, first + len(vectors))
        for name, (divisor, rest) in FILTERS.items():
            passing = np.flatnonzero(numbers % divisor == rest)
            ids = np.concatenate([best[name][0], np.broadcast_to(numbers[passing], (len(queries), len(passing)))], 1)
            values = np.concatenate([best[name][1], cosines[:, passing]], 1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :NEAREST]
            best[name] = (np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1))
    return best


def facts(world: World, pictures: Array, texts: Array, found: tuple[Array, Array], path: Path) -> dict[str, Any]:
    """What can be compared with CLIP's."""
    _, sample = next(read(path, 4000))
    sample = unit(sample)
    between = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    values = np.linalg.eigvalsh(np.cov(sample.T))
    # Levina and Bickel 2004: maximum likelihood from the distances to the nearest ten.
    distances = np.sqrt(np.maximum(2 - 2 * found[1][: len(pictures)], 1e-9))
    local = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]), axis=1)
    others, clusters, have = world.pictures(5000)
    cosines = world.texts(clusters, have) @ others.T
    ranks = (cosines > np.diag(cosines)[:, None]).sum(1)
    return {
        "clusters": len(world.shares),
        "largest_cluster": round(float(world.shares[0]), 4),
        "cosine_of_two_pictures": round(float(between.mean()), 3),
        "cosine_of_text_and_any_picture": round(float((texts @ sample.T).mean()), 3),
        "cosine_of_text_and_its_picture": round(float((texts * pictures).sum(1).mean()), 3),
        "cosine_of_text_and_its_tenth_hit": round(float(found[1][len(pictures) :, -1].mean()), 3),
        "cosine_of_picture_and_its_tenth_hit": round(float(found[1][: len(pictures), -1].mean()), 3),
        "text_finds_its_picture_first_of_5000": round(float((ranks < 1).mean()), 2),
        "text_finds_its_picture_in_ten_of_5000": round(float((ranks < 10).mean()), 2),
        "dimensions_by_participation_ratio": round(float(values.sum() ** 2 / (values**2).sum()), 1),
        "intrinsic_dimension_near_a_picture": round(float(np.median(local)), 1),
    }


def main() -> None:
    """The command: how many pictures, how many queries of each kind, the seed, the folder to write to."""
    n, queries, seed, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    world = World(n, seed)
    path = folder / "vectors.copy"
    write(world, n, path)
    pictures, clusters, have = world.pictures(queries)
    texts = world.texts(clusters, have)
    both = np.concatenate([pictures, texts])
    found = nearest(path, both)
    kinds = ["picture"] * queries + ["text"] * queries
    asked = [
        {
            "kind": kind,
            "cluster": int(cluster),
            "vector": [round(float(number), 7) for number in vector],
            "nearest": {name: [int(number) for number in ids[at]] for name, (ids, _) in found.items()},
        }
        for at, (kind, cluster, vector) in enumerate(zip(kinds, [*clusters, *clusters], both, strict=True))
    ]
    (folder / "queries.json").write_text(json.dumps(asked))
    print(json.dumps(facts(world, pictures, texts, found["all"], path)))


if __name__ == "__main__":
    main()
