"""Every loss on logits once more: as the papers write it, one number at a time, in Python's float64."""

import itertools
import math
import statistics
from collections.abc import Sequence


Rows = Sequence[Sequence[float]]


def log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    logsumexp = top + math.log(math.fsum(math.exp(z - top) for z in row))
    return [z - logsumexp for z in row]


def softmax(row: Sequence[float], temperature: float = 1.0) -> list[float]:
    return [math.exp(log_p) for log_p in log_softmax([z / temperature for z in row])]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def log_power_shares(row: Sequence[float], gamma: float) -> tuple[float, list[float]]:
    """Of the probabilities to the power `gamma`: their sum, and the logarithms of their shares."""
    powers = [gamma * log_p for log_p in log_softmax(row)]
    return math.fsum(map(math.exp, powers)), log_softmax(powers)


def wttm(student: Rows, teacher: Rows, gamma: float) -> float:
    """Zheng and Yang's."""
    losses = []
    for s, t in zip(student, teacher, strict=True):
        total, shares = log_power_shares(t, gamma)
        losses.append(total * kl(list(map(math.exp, shares)), softmax(s)))
    return mean(losses)


def cwd(student: Rows, teacher: Rows, temperature: float) -> float:
    """Shu et al.'s, for the pixels of one image."""
    columns = zip(zip(*student, strict=True), zip(*teacher, strict=True), strict=True)
    return temperature**2 * mean([kl(softmax(t, temperature), softmax(s, temperature)) for s, t in columns])


def ifvd(student: Rows, teacher: Rows, labels: Sequence[int]) -> float:
    """Wang et al.'s, for the pixels of one image."""

    def likeness(rows: Rows, label: int, row: Sequence[float]) -> float:
        of_class = [r for r, y in zip(rows, labels, strict=True) if y == label]
        prototype = [mean(column) for column in zip(*of_class, strict=True)]
        product = math.fsum(a * b for a, b in zip(row, prototype, strict=True))
        return product / (math.hypot(*row) * math.hypot(*prototype))

    pixels = zip(student, teacher, labels, strict=True)
    return mean((likeness(student, y, s) - likeness(teacher, y, t)) ** 2 for s, t, y in pixels)


def gkl(student: Rows, teacher: Rows, temperature: float, weights: Rows) -> tuple[float, float]:
    """Both terms of Cui et al. over all pairs of classes, without alpha and beta."""
    entropies, squares, products = [], [], []
    for s, t, w in zip(student, teacher, weights, strict=True):
        log_s = log_softmax([z / temperature for z in s])
        entropies.append(-math.fsum(p * z for p, z in zip(softmax(t, temperature), log_s, strict=True)))
        for i, j in itertools.product(range(len(s)), repeat=2):
            products.append(w[i] * w[j])
            squares.append(w[i] * w[j] * ((t[i] - t[j]) - (s[i] - s[j])) ** 2)
    return mean(entropies), math.fsum(squares) / math.fsum(products) / 4


def standardized(rows: Rows) -> list[list[float]]:
    """Sun et al.'s: by mean and sample deviation of each row."""
    return [[(z - mean(row)) / (statistics.stdev(row) + 1e-7) for z in row] for row in rows]


def shifted(rows: Rows, offsets: Sequence[float]) -> list[list[float]]:
    return [[z + offset for z, offset in zip(row, offsets, strict=True)] for row in rows]


def ldam(logits: Rows, labels: Sequence[int], class_counts, max_margin: float, scale: float, weights=None) -> float:
    """Cao et al.'s, the mean over the examples."""
    margins = [n**-0.25 for n in class_counts]
    margins = [max_margin * m / max(margins) for m in margins]
    rows = [[scale * z for z in row] for row in logits]
    for row, y in zip(rows, labels, strict=True):
        row[y] -= scale * margins[y]
    return cross_entropy(rows, labels, weights=weights)


def cross_entropy(logits: Rows, labels: Sequence[int], offsets=None, weights=None) -> float:
    """With `offsets` added to the logits of each class, and the weight of each example's class."""
    offsets, weights = offsets or [0.0] * len(logits[0]), weights or [1.0] * len(logits[0])
    shifted = [[z + offset for z, offset in zip(row, offsets, strict=True)] for row in logits]
    return mean(-weights[y] * log_softmax(row)[y] for row, y in zip(shifted, labels, strict=True))


def class_balanced_weights(class_counts: Sequence[int], beta: float) -> list[float]:
    weights = [(1 - beta) / (1 - beta**n) for n in class_counts]
    return [len(class_counts) * w / sum(weights) for w in weights]


def deferred_weights(class_counts: Sequence[int], beta: float) -> list[float]:
    """The same with a mean of 1 over the training examples."""
    weights = class_balanced_weights(class_counts, beta)
    over_all = sum(n * w for n, w in zip(class_counts, weights, strict=True)) / sum(class_counts)
    return [w / over_all for w in weights]


def log_prior(class_counts: Sequence[int]) -> list[float]:
    return [math.log(n / sum(class_counts)) for n in class_counts]


def kd(student: Rows, teacher: Rows, temperature: float, log_prior=None, class_weights=None) -> float:
    """With a teacher whose class prior is divided out, or whose probabilities are weighed by class."""
    log_prior = log_prior or [0.0] * len(student[0])
    class_weights = class_weights or [1.0] * len(student[0])
    total = []
    for s, t in zip(student, teacher, strict=True):
        t = softmax([z - prior for z, prior in zip(t, log_prior, strict=True)], temperature)
        t = [p * w for p, w in zip(t, class_weights, strict=True)]
        total.append(kl([p / math.fsum(t) for p in t], softmax(s, temperature)))
    return temperature**2 * mean(total)


def dkd(student: Rows, teacher: Rows, labels: Sequence[int], temperature: float) -> tuple[float, float]:
    """TCKD and NCKD of Zhao et al."""
    target, others = [], []
    for s, t, y in zip(student, teacher, labels, strict=True):
        s, t = softmax(s, temperature), softmax(t, temperature)
        target.append(kl([t[y], math.fsum(t[:y] + t[y + 1 :])], [s[y], math.fsum(s[:y] + s[y + 1 :])]))
        s, t = s[:y] + s[y + 1 :], t[:y] + t[y + 1 :]
        others.append(kl([p / math.fsum(t) for p in t], [p / math.fsum(s) for p in s]))
    return temperature**2 * mean(target), temperature**2 * mean(others)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's, with the 1e-8 of DIST's authors in the denominator."""
    x, y = [a - mean(x) for a in x], [b - mean(y) for b in y]
    norms = math.sqrt(math.fsum(a * a for a in x)) * math.sqrt(math.fsum(b * b for b in y))
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / (norms + 1e-8)


def dist(student: Rows, teacher: Rows, temperature: float) -> tuple[float, float]:
    """The inter-class and the intra-class term of Huang et al."""
    s, t = ([softmax(row, temperature) for row in rows] for rows in (student, teacher))
    inter = 1 - mean(map(correlation, s, t))
    intra = 1 - mean(map(correlation, zip(*s, strict=True), zip(*t, strict=True)))
    return temperature**2 * inter, temperature**2 * intra


def ltkd(student: Rows, teacher: Rows, group_of_class, temperature, rebalance=True, reweight=True):
    """Both terms of Eq. 14, without alpha and beta: Eq. 3, 4, 6, 7 and 9 to 13 as they stand in the paper."""
    members = [[c for c, g in enumerate(group_of_class) if g == group] for group in range(max(group_of_class) + 1)]
    p_s, p_t = ([softmax(row, temperature) for row in rows] for rows in (student, teacher))
    mass = [math.fsum(row[c] for row in p_t for c in group) for group in members]
    average = mean(mass)  # Eq. 9
    scale = [average / m for m in mass]  # Eq. 10
    cross, within = [], []
    for s, t in zip(p_s, p_t, strict=True):
        group_s, group_t = ([math.fsum(p[c] for c in group) for group in members] for p in (s, t))  # Eq. 3
        target = [f * p for f, p in zip(scale, group_t, strict=True)] if rebalance else group_t
        cross.append(kl([p / math.fsum(target) for p in target], group_s))  # Eq. 11, Eq. 6
        for group, mass_s, mass_t in zip(members, group_s, group_t, strict=True):
            divergence = kl([t[c] / mass_t for c in group], [s[c] / mass_s for c in group])  # Eq. 4, Eq. 7
            within.append(divergence if reweight else mass_t * divergence)  # Eq. 13, Eq. 12
    return temperature**2 * mean(cross), temperature**2 * math.fsum(within) / len(student)
