"""The row-by-seed model of one column: intervals, and Dunnett's tests against a row.

Model:     value[row, seed] = mean[row] + effect[seed] + noise; each row has a noise variance of its own.
Variances: a row's weighted residual sum of squares divided by its degrees of freedom, which are n - 1 minus the
           leverages of the seeds' effects (Horn, Horn and Duncan, JASA 70, 1975). A few seeds estimate it poorly, so
           the rows' variances are shrunk towards a common one, the more the less they differ (Smyth, SAGMB 3, 2004).
           A reference keeps its own variance if that is larger, since it is in every comparison of a family.
           A row whose variance is larger than chance allows keeps its own, with its few degrees of freedom: a
           preliminary F-test against the other rows (Bancroft, Annals of Mathematical Statistics 15, 1944) with the
           tail probability of Phipson et al. (AOAS 10, 2016). Rows that are far noisier have no part in the common
           variance either.
Contrasts: differences of two rows' means on the seeds that both have, with Student's t.
Families:  all rows against one reference. An adjusted p-value is the probability that any p of the family is as small
           by chance (Dunnett, JASA 50, 1955, if all rows have the same variance).
Best:      the rows that no other row is above, tested in one direction: with 95 % probability the row that is best in
           truth is among them (Gupta, Technometrics 7, 1965).
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

LEVEL = 0.95  # of intervals; tests are at 1 - LEVEL
POWER = 0.8  # with which the smallest detectable difference is found
MIN_SEEDS = 3  # of an interval: the tables show the values of two seeds themselves
ROUNDS = 5  # of weighting rows by their variances and estimating these again
FLOOR = 1e-5  # of the median variance: what is smaller counts as this when variances are compared
# Level of the F-test by which a row keeps its own variance. With a higher one, less is found where rows are equally
# noisy; with a lower one, intervals are too narrow where they are not: see docs/statistics.md.
KEEPS_OWN = 0.15
FAR = 0.02  # level of the F-test by which a row has no part in the common variance
EQUAL = 1e-9  # differences below it are due to rounding
TINY = 1e-18  # in place of a variance or a number of degrees of freedom that is 0, in a denominator
POINTS = 32  # of each numerical integral

Values = Mapping[str, Mapping[int, float]]  # by row and seed


@dataclass(frozen=True)
class Contrast:
    """A row minus a reference: its mean over the `n` seeds that both have, in the values' unit.

    `error` is the standard error; `p` is two-sided, `p_adjusted` its value in a family. What the data cannot tell is
    None: all of these without two seeds or without a spread, and the interval below `MIN_SEEDS`.
    """

    n: int
    value: float
    error: float | None = None
    df: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None


def student_contrast(n: int, value: float, error: float, df: float) -> Contrast:
    """Return a contrast with Student's t interval and p-value, from its standard error and degrees of freedom."""
    reach = error * float(special.stdtrit(df, (1 + LEVEL) / 2))
    p = 2 * float(special.stdtr(df, -abs(value) / error))
    return Contrast(n, value, error, df, (value - reach, value + reach), p)


@dataclass(frozen=True)
class Model:
    """The rows of a column with the noise variance of each; see `fit`."""

    values: Values
    variances: Mapping[str, float]  # after shrinking, or the row's own
    variances_as_reference: Mapping[str, float]  # the same, but at least the row's own
    dfs: Mapping[str, float]  # degrees of freedom of these variances
    noisy: Collection[str]  # the rows that keep their own variance
    residual_variance: float  # of all rows together
    residual_df: float
    prior_df: float  # degrees of freedom by which the common variance counts; infinite if the variances are alike

    def contrast(self, row: str, reference: str) -> Contrast | None:
        """Return the difference of two rows; None if they have no seed in common."""
        own, base = self.values[row], self.values[reference]
        differences = [own[seed] - base[seed] for seed in own if seed in base]
        n = len(differences)
        if n == 0:
            return None
        contrast = Contrast(n, float(np.mean(differences)))
        variance = (self.variances[row] + self.variances_as_reference[reference]) / n
        if n == 1 or variance == 0.0 or np.ptp(differences) < EQUAL:
            return contrast
        contrast = student_contrast(n, contrast.value, math.sqrt(variance), min(self.dfs[row], self.dfs[reference]))
        return contrast if n >= MIN_SEEDS else replace(contrast, interval=None)

    def family(self, rows: Iterable[str], reference: str) -> dict[str, Contrast]:
        """Return the contrasts of rows with one reference, with p-values adjusted for their number."""
        contrasts = self._contrasts(rows, reference)
        tested = {row: one for row, one in contrasts.items() if one.p is not None}
        adjusted = self._any_as_small([one.p for one in tested.values() if one.p is not None], tested, reference)
        return contrasts | {
            row: replace(one, p_adjusted=float(p)) for (row, one), p in zip(tested.items(), adjusted, strict=True)
        }

    def may_be_best(self, rows: Iterable[str]) -> set[str]:
        """Return the rows that no other of them is above at 5 %; none if nothing separates rows with two seeds."""
        rivals = [row for row in rows if len(self.values[row]) > 1]
        return {row for row in rivals if not self._is_beaten(row, [other for other in rivals if other != row])}

    def _is_beaten(self, row: str, others: Sequence[str]) -> bool:
        contrasts = self._contrasts(others, row)
        if any(one.error is None and one.value > EQUAL for one in contrasts.values()):
            return True  # above it on every seed by the same amount
        above = {other: one for other, one in contrasts.items() if one.p is not None}
        p = min((one.p / 2 for one in above.values() if one.p is not None and one.value > 0), default=1.0)
        return bool(above) and bool(self._any_as_small([p], above, row, two_sided=False)[0] < 1 - LEVEL)

    def detectable(self, rows: Iterable[str], reference: str) -> float | None:
        """Return the true difference from the reference that the family's test finds with a probability of `POWER`.

        For the row with the median standard error; None if nothing can be tested.
        """
        tested = {row: one for row, one in self._contrasts(rows, reference).items() if one.error is not None}
        if not tested:
            return None
        median = sorted(tested, key=lambda row: tested[row].error or 0.0)[len(tested) // 2]
        error, df = tested[median].error, tested[median].df
        assert error is not None
        assert df is not None

        def excess(exponent: float) -> float:
            return float(self._any_as_small([10**exponent], tested, reference)[0]) - (1 - LEVEL)

        critical = -float(special.stdtrit(df, 10 ** optimize.brentq(excess, -12, math.log10(1 - LEVEL)) / 2))
        # An ordinary row keeps its own variance with the probability KEEPS_OWN, and is then hardly ever found. This
        # makes no difference if the row or the reference keeps its own anyway. Two rows have the same variance.
        may_keep_own = len(self.values) > 2 and not {median, reference} & set(self.noisy)
        power = POWER / (1 - KEEPS_OWN) if may_keep_own else POWER
        # by the noncentral t; the probability of finding a difference of the wrong sign is negligible
        shift = optimize.brentq(lambda c: 1 - special.nctdtr(df, c, critical) - power, 0.0, 4 * critical + 10)
        return float(shift * error)

    def _contrasts(self, rows: Iterable[str], reference: str) -> dict[str, Contrast]:
        contrasts = {row: self.contrast(row, reference) for row in rows if row != reference}
        return {row: one for row, one in contrasts.items() if one is not None}

    def _any_as_small(
        self, p: Sequence[float], contrasts: Mapping[str, Contrast], reference: str, two_sided: bool = True
    ) -> np.ndarray:
        base = self.variances_as_reference[reference]
        # below 1, since what the reference does not share is a denominator
        shared = [min(base / (base + self.variances[row]), 1 - EQUAL) for row in contrasts]
        dfs = [one.df for one in contrasts.values() if one.df is not None]
        # degrees of freedom are equal if the variance is pooled; that of a noisy reference is in all comparisons
        return any_as_small(p, shared, dfs, two_sided, is_pooled=reference in self.noisy or len(set(dfs)) == 1)


def any_as_small(
    p: Sequence[float], shared: Sequence[float], dfs: Sequence[float], two_sided: bool = True, is_pooled: bool = True
) -> np.ndarray:
    """Return, for each p, the probability that any comparison of a family without differences has a p as small.

    Args:
        p: of single comparisons with one reference, by Student's t.
        shared: for each comparison, the share of its variance that is the reference's, between 0 and 1. Two comparisons
            correlate by the root of the product of their shares.
        dfs: for each comparison, the degrees of freedom of its variance.
        two_sided: whether the p-values are.
        is_pooled: whether all comparisons have one estimate of the variance in common. Otherwise each has its own.
    """
    if not len(p):
        return np.empty(0)
    degrees, share = np.asarray(dfs, dtype=float), np.asarray(shared, dtype=float)
    # over the quantiles of an estimated deviation, most points at small ones, where a large t comes from
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    roots = (nodes + 1) / 2
    masses_of_scale = weights / 2 * 4 * roots**3
    scale = np.sqrt(2 * special.gammaincinv(degrees / 2, roots[:, None] ** 4) / degrees)
    normal, masses = np.polynomial.hermite_e.hermegauss(POINTS)  # over the reference's error
    critical = -special.stdtrit(degrees, np.asarray(p)[:, None] / (2 if two_sided else 1))
    # axes: p, deviation, reference's error, comparison
    bound = critical[:, None, None] * scale[:, None]
    centre = np.sqrt(share) * normal[:, None]
    inside = special.ndtr((bound - centre) / np.sqrt(1 - share))
    if two_sided:
        inside -= special.ndtr((-bound - centre) / np.sqrt(1 - share))
    if is_pooled:
        none_as_small = np.einsum("psec,s->pe", inside.prod(axis=-1, keepdims=True), masses_of_scale)
    else:
        none_as_small = np.einsum("psec,s->pec", inside, masses_of_scale).prod(axis=-1)
    probability = 1 - none_as_small @ (masses / masses.sum())
    return np.asarray(np.clip(probability, p, 1.0))


def fit(values: Values) -> Model:
    """Return the model of a column's rows; rows may lack seeds."""
    seeds = list(dict.fromkeys(seed for of_row in values.values() for seed in of_row))
    table = np.array([[of_row.get(seed, np.nan) for seed in seeds] for of_row in values.values()], dtype=float)
    present = ~np.isnan(table)
    n = present.sum(axis=1)
    means = np.where(present, table, 0.0).sum(axis=1) / np.maximum(n, 1)
    centred = np.where(present, table - means[:, None], 0.0)
    effects = present[:, :, None] * (np.eye(len(seeds)) - present[:, None, :] / np.maximum(n, 1)[:, None, None])
    varies = (np.abs(centred) > EQUAL).any(axis=1)
    varies |= varies.sum() < 2  # beside others, a row of equal values, such as a collapsed one, tells nothing of noise
    variances, as_reference, degrees = np.zeros((3, len(table)))
    noisy = np.zeros(len(table), dtype=bool)
    weights = varies.astype(float)
    prior_df = np.asarray(math.inf)
    for _ in range(ROUNDS):
        gram = np.linalg.pinv(np.einsum("r,rsk,rsl->kl", weights, effects, effects), rcond=1e-9, hermitian=True)
        of_seed = gram @ np.einsum("r,rsk,rs->k", weights, effects, centred)
        squares = np.where(varies, ((centred - effects @ of_seed) ** 2).sum(axis=1), 0.0)
        leverages = weights * np.einsum("rsk,kl,rsl->r", effects, gram, effects)
        dfs = np.where(varies, np.maximum(n - 1 - leverages, 0.0), 0.0)
        used = dfs > EQUAL
        if squares[used].sum() < EQUAL**2:  # no spread but that of the seeds
            variances = as_reference = np.zeros(len(table))
            break
        own = squares[used] / dfs[used]
        counted = ~far_noisier(own, dfs[used])
        prior_df, prior = common_variance(own, dfs[used], counted)
        variances, degrees = np.full(len(table), prior), np.minimum(dfs + prior_df, dfs[used][counted].sum())
        variances[used] = np.where(counted, shrunk(own, dfs[used], prior, prior_df), own)
        weights = varies / np.maximum(variances, TINY)
    else:  # there is a spread in every round
        noisy[used] = ~counted | (chance_of(own, dfs[used], counted) < KEEPS_OWN)
        as_reference = variances.copy()
        as_reference[used] = np.maximum(variances[used], own)
    variances, degrees = np.where(noisy, as_reference, variances), np.where(noisy, dfs, degrees)
    total = float(dfs.sum())
    return Model(
        values=values,
        variances=dict(zip(values, variances.tolist(), strict=True)),
        variances_as_reference=dict(zip(values, as_reference.tolist(), strict=True)),
        dfs=dict(zip(values, degrees.tolist(), strict=True)),
        noisy={row for row, is_noisy in zip(values, noisy, strict=True) if is_noisy},
        residual_variance=float(squares.sum()) / total if total > EQUAL else 0.0,
        residual_df=total,
        prior_df=float(prior_df),
    )


def far_noisier(own: np.ndarray, dfs: np.ndarray) -> np.ndarray:
    """Return which of R rows are far noisier than the others, at most half of them: (R,), from (R,) variances and dfs.

    From just above the median upwards, each variance is compared with all smaller ones together, by an F-test at the
    level `FAR` / R. The first one that exceeds them is far noisier, and so are all larger ones: several rows cannot
    hide each other. In about one of forty tables of equally noisy rows, a row is taken for far noisier.
    """
    order = np.argsort(own)
    squares, degrees = (own * dfs)[order], dfs[order]
    below, below_df = squares.cumsum() - squares, degrees.cumsum() - degrees
    is_far = np.zeros(len(own), dtype=bool)
    for place in range(max((len(own) + 1) // 2, 2), len(own)):
        ratio = own[order[place]] * below_df[place] / max(below[place], TINY)
        if special.fdtrc(degrees[place], below_df[place], ratio) < FAR / len(own):
            is_far[order[place:]] = True
            break
    return is_far


def chance_of(own: np.ndarray, dfs: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return how probable a variance this large is in a row as noisy as the other `counted` ones: (R,)."""
    others = counted & ~np.eye(len(own), dtype=bool)
    prior_df, prior = common_variance(own, dfs, others)
    others_df = np.maximum(np.minimum(prior_df, others @ dfs), TINY)
    return np.asarray(special.fdtrc(dfs, others_df, own / np.maximum(prior, TINY)))


def shrunk(own: np.ndarray, dfs: np.ndarray, prior: np.ndarray, prior_df: np.ndarray) -> np.ndarray:
    """Return variances shrunk towards a common one, which counts with `prior_df` degrees of freedom."""
    if np.isinf(prior_df):
        return np.full_like(own, prior)
    return (prior_df * prior + dfs * own) / (prior_df + dfs)


def common_variance(own: np.ndarray, dfs: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the degrees of freedom with which the common variance of some rows counts, and that variance.

    Both are from Smyth's moments of the logarithms. Where the variances differ by no more than chance, or come from
    fewer than three rows, the degrees are infinite, and the common variance is the pooled one.

    Args:
        own: (R,) variances of the rows, in the values' unit squared.
        dfs: (R,) their degrees of freedom.
        counted: (..., R) which rows count; several choices of rows can be asked at once.

    Returns:
        Two arrays of shape (...).
    """
    n = counted.sum(axis=-1)
    pooled = counted @ (own * dfs) / np.maximum(counted @ dfs, TINY)
    logs = np.log(np.maximum(own, FLOOR * np.median(own)))
    logs += np.log(dfs / 2) - special.digamma(dfs / 2)
    mean = counted @ logs / np.maximum(n, 1)
    spread = (counted * (logs - mean[..., None]) ** 2).sum(axis=-1) / np.maximum(n - 1, 1)
    beyond_chance = spread - counted @ special.polygamma(1, dfs / 2) / np.maximum(n, 1)
    differ = (n >= 3) & (beyond_chance > EQUAL)
    half = inverse_trigamma(np.where(differ, beyond_chance, 1.0))
    return (
        np.where(differ, 2 * half, math.inf),
        np.where(differ, np.exp(mean + special.digamma(half) - np.log(half)), pooled),
    )


def inverse_trigamma(values: np.ndarray) -> np.ndarray:
    """Return where the trigamma function has these values, from 1e-9 to 1e4: by Newton's method for 1 / trigamma.

    The appendix of Smyth (2004) has the method.
    """
    found = 0.5 + 1 / values
    for _ in range(10):  # converges from one side, and quadratically
        trigamma = special.polygamma(1, found)
        found += trigamma * (1 - trigamma / values) / special.polygamma(2, found)
    return np.asarray(found)
