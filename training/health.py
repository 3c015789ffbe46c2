"""How healthy a set of vectors is: spread, neighbours, retrieval; and a sentence where an encoder has collapsed.

Decisions
- Vectors are brought to unit length before anything is compared; a vector of zeros stays one and is like no other.
- What is not defined (one vector, one class, no text) is NaN, never an exception.
- Ties count against the encoder: one that gives all volumes the same vector finds nothing but by force.
- Chance stands beside recall and the majority beside neighbours, since both depend on the pool, not on the encoder.
"""

import math

import numpy as np

from index.quality import NEIGHBOURS, occurrences, skewness
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
SAME = 1e-5
"""share of the vectors' norm below which their spread is the rounding of float32"""
TIED = 1e-6
"""cosines that differ by less tie, since even a product of equal float32 vectors differs by its place in the matrix"""


def effective_rank(vectors: np.ndarray) -> float:
    """Number of directions in which vectors (n, D) vary: exp of the entropy of their normalised singular values.

    From 1 to min(n - 1, D); the vectors are centred first, so that an offset common to all is no direction. 0 where all are
    the same. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; as a sign of collapse: Garrido et al., ICML 2023.
    """
    given = np.asarray(vectors, dtype=np.float64)
    if not len(given) or not np.isfinite(given).all():
        return float("nan")
    centred = given - given.mean(axis=0)
    if np.linalg.norm(centred) <= SAME * np.linalg.norm(given):
        return 0.0
    values = np.linalg.svd(centred, compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


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


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows of vectors (n, D).

    Source: Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019, as anisotropy.
    """
    if len(vectors) < 2:
        return float("nan")
    unit = unit_length(vectors)
    total = unit.sum(axis=0)
    return float((total @ total - (unit * unit).sum()) / (len(unit) * (len(unit) - 1)))


def hubness(vectors: np.ndarray, k: int = NEIGHBOURS) -> float:
    """How unevenly vectors (n, D) are each other's neighbours: skewness of how often each is among the k nearest of another.

    0 where all are as often, and about 0 for random vectors of few numbers; above 1, a few (hubs) are near to very many. NaN
    with fewer than k + 2. Source: Radovanovic, Nanopoulos and Ivanovic, "Hubs in space", JMLR 11 (2010), section 2.
    """
    if len(vectors) < k + 2 or not np.isfinite(vectors).all():
        return float("nan")
    return skewness(occurrences(unit_length(vectors), k))


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


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) brought to length 1, float64; zeros stay zeros."""
    given = np.asarray(vectors, dtype=np.float64)
    return given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-12)


def _shared_classes(labels: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes of at least two subjects (C,), the rows of them (m,), and each such row's class as a number (m,)."""
    known = np.flatnonzero([label is not None for label in labels.tolist()])
    names, code = np.unique(labels[known].astype(str), return_inverse=True)
    people = [len(np.unique(subjects[known[code == number]])) for number in range(len(names))]
    kept = np.flatnonzero(np.array(people, dtype=int)[code] >= 2)
    classes, code = np.unique(code[kept], return_inverse=True)
    return names[classes], code, known[kept]
