"""How healthy a set of vectors is: spread, neighbours, retrieval; and a sentence where an encoder has collapsed.

Decisions
- Vectors are brought to unit length before anything is compared; a vector of zeros stays one and is like no other.
- What is not defined (one vector, one class, no text) is NaN, never an exception.
- Ties count against the encoder: one that gives all volumes the same vector finds nothing but by force.
- Chance stands beside recall and the majority beside neighbours, since both depend on the pool, not on the encoder.
"""

import math

import numpy as np

from index.spread import effective_rank, mean_cosine, unit_length
from training.metrics import balanced_accuracy

ALIKE = 0.99
"""mean cosine above which vectors are all alike. Random vectors of width 384 have 0 +- 0.05; encoders whose vectors lie in a
narrow cone (Ethayarajh, EMNLP 2019; Liang et al., NeurIPS 2022) still tell volumes apart at 0.9; from about 0.99 on, more
than 99 % of each vector's square is what all have in common."""
DIRECTIONS = 2.0
"""effective rank below which vectors vary in no more than one way: a line, or two lumps. It is an absolute bound, since an
archive of K kinds that are told apart and nothing more gives K - 1, and that is narrow, but no collapse."""
LEAST_VECTORS = 5
"""n vectors have a rank of n - 1 at most once centred: fewer than five could not be far enough from the bound."""
TIED = 1e-6
"""cosines that differ by less tie, since even a product of equal float32 vectors differs by its place in the matrix"""


def uniformity(vectors: np.ndarray, t: float = 2.0) -> float:
    """Log of the mean of exp(-t |x - y|^2) over all pairs of vectors (n, D) on the sphere: lower is more even, 0 all alike.

    Source: Wang and Isola, "Understanding contrastive representation learning", ICML 2020, section 4.1.
    """
    if len(vectors) < 2:
        return float("nan")
    unit = unit_length(vectors)
    first, second = np.triu_indices(len(unit), k=1)
    distance = np.maximum(2 - 2 * (unit @ unit.T)[first, second], 0)
    return float(np.log(np.exp(-t * distance).mean()))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance on the sphere of pairs that belong together, a (n, D) and b (n, D): 0 to 4, lower is closer.

    Pairs: a text and its volume, two views, two series of a study. Source: Wang and Isola, ICML 2020, section 4.1, alpha 2.
    """
    if not len(a):
        return float("nan")
    return float(((unit_length(a) - unit_length(b)) ** 2).sum(axis=1).mean())


def hits_at(similarity: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """(T,) bool: which texts have a relevant volume among their k most similar; similarity (T, N), relevant (T, N) bool.

    An irrelevant volume as similar as the best relevant one (within TIED) stands before it, and so does one of unknown (NaN)
    similarity. A text with no relevant volume is missed. Source: recall@k of image-text retrieval (Karpathy and Fei-Fei,
    CVPR 2015).
    """
    best = np.where(relevant & ~np.isnan(similarity), similarity, -np.inf).max(axis=1, initial=-np.inf)
    before = (~relevant & ~(similarity < best[:, None] - TIED)).sum(axis=1)
    return relevant.any(axis=1) & (before < k)


def recall_at(similarity: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Share of the texts of which `hits_at` holds; NaN without texts."""
    return float(hits_at(similarity, relevant, k).mean()) if len(similarity) else float("nan")


def chance_at(relevant: np.ndarray, k: int) -> float:
    """What `recall_at` is expected to be for volumes in random order; relevant (T, N) bool.

    Of N volumes R are relevant: 1 - C(N - R, k) / C(N, k), from the hypergeometric distribution, in whole numbers.
    """
    if not len(relevant):
        return float("nan")
    volumes = relevant.shape[1]
    k = min(k, volumes)
    ways = math.comb(volumes, k)
    counts, texts = np.unique(relevant.sum(axis=1), return_counts=True)
    hit = [(ways - math.comb(volumes - int(count), k)) / ways for count in counts]
    return float(np.average(hit, weights=texts))


def nearest_neighbours(vectors: np.ndarray, labels: np.ndarray, subjects: np.ndarray, k: int) -> tuple[float, float]:
    """Balanced accuracy of the vote of each vector's k nearest by cosine, and that of always naming the largest class.

    vectors (n, D); labels (n,), None where unknown; subjects (n,). Neighbours of the same subject are never asked. Left out
    are unknown labels and classes of a single subject, whom nobody else could name. Votes that tie go to the nearer side.
    NaN, NaN with fewer than two classes. Source: the kNN check of Wu et al., CVPR 2018, with leave-subject-out.
    """
    classes, code, kept = _shared_classes(labels, subjects)
    if len(classes) < 2:
        return float("nan"), float("nan")
    unit, who = unit_length(vectors)[kept], subjects[kept]
    cosine = np.where(who[:, None] == who[None], -np.inf, np.nan_to_num(unit @ unit.T))
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    closeness = (np.take_along_axis(cosine, near, axis=1) + 1) / 2
    asked = np.isfinite(closeness)
    weight = np.where(asked, 1 + np.where(asked, closeness, 0) / (2 * k), 0)  # all that is added is less than one vote
    votes = (weight[..., None] * (code[near][..., None] == np.arange(len(classes)))).sum(axis=1)
    largest = np.full(len(code), np.bincount(code).argmax())
    return float(balanced_accuracy(code, votes.argmax(axis=1))), float(balanced_accuracy(code, largest))


def collapse(vectors: np.ndarray) -> str:
    """A sentence saying how vectors (n, D) have collapsed, "" where they have not. Thresholds: see the top of this file.

    Names what is not finite, vectors that are all alike, and vectors that vary in fewer than two directions (dimensional
    collapse: Jing et al., ICLR 2022).
    """
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        return f"The encoder has collapsed: {bad} of {len(vectors)} vectors are not finite."
    if len(vectors) < 2:
        return ""
    rank, cosine = effective_rank(vectors), mean_cosine(vectors)
    if rank == 0:
        return f"The encoder has collapsed: all {len(vectors)} vectors are the same."
    if cosine > ALIKE:
        return f"The encoder has collapsed: its vectors are all alike, with a mean cosine of {cosine:.4f}."
    if rank < DIRECTIONS and min(len(vectors), vectors.shape[1] + 1) >= LEAST_VECTORS:
        return (
            f"The encoder has collapsed: its vectors vary in one direction only, with an effective rank of {rank:.2f}."
        )
    return ""


def _shared_classes(labels: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes of at least two subjects (C,), the rows of them (m,), and each such row's class as a number (m,)."""
    known = np.flatnonzero([label is not None for label in labels.tolist()])
    names, code = np.unique(labels[known].astype(str), return_inverse=True)
    people = [len(np.unique(subjects[known[code == number]])) for number in range(len(names))]
    kept = np.flatnonzero(np.array(people, dtype=int)[code] >= 2)
    classes, code = np.unique(code[kept], return_inverse=True)
    return names[classes], code, known[kept]
