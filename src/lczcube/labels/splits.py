"""Splits of labels into folds that keep a polygon whole, and say so where they leak."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from lczcube.errors import ConfigError, LabelError
from lczcube.labels.origins import groups_near, is_by_rule
from lczcube.lcz import require_codes

Method = Literal["given", "block", "polygon", "city", "holdout", "random"]

METHODS: tuple[str, ...] = get_args(Method)

TRAINING = -1
"""In ``Split.folds``: a row that is never evaluated and always trained on."""

UNUSED = -2
"""In ``Split.folds``: a row that is neither trained on nor evaluated."""

_COLUMNS_OF = {"city": ("city",), "given": ("split",)}

_SORT_KEYS = ("city", "group", "patch_id", "y", "x", "lcz", "split")

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Roles:
    """What the publisher's splits are for, in a city.

    Attributes
    ----------
    donors : tuple of str
        Splits that are trained on.
    evaluate_on : tuple of str
        Splits that are scored. A split that is neither is not used.
    """

    donors: tuple[str, ...] = ("training",)
    evaluate_on: tuple[str, ...] = ("validation", "testing")


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows are trained on and which are evaluated, fold by fold.

    Attributes
    ----------
    method : str
        ``given``, ``block``, ``polygon``, ``city``, ``holdout`` or ``random``.
    folds : numpy.ndarray
        int32, shape (n,): the fold that evaluates the row, 0 … n_folds-1; -1 for a row that is
        never evaluated and always trained on; -2 for a row that is not used.
    n_folds : int
        Number of folds.
    seed : int
        What the shuffling was seeded with.
    warnings : tuple of str
        What a reader of the scores must know: leaks, and classes with too few groups.
    names : tuple of str
        One name a fold: the city left out, or the number of the fold.
    excluded : numpy.ndarray
        bool, shape (n_folds, n): rows near an evaluation row of the fold, not trained on then.
    """

    method: str
    folds: IntArray
    n_folds: int
    seed: int
    warnings: tuple[str, ...]
    names: tuple[str, ...]
    excluded: BoolArray

    @property
    def name(self) -> str:
        """The split in words, for a score: ``polygon, 5 folds, seed 0``."""
        if self.method in ("given", "holdout"):
            return self.method
        folds = f"{self.method}, {self.n_folds} folds"
        return folds if self.method == "city" else f"{folds}, seed {self.seed}"

    def train_test(self, fold: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Positions of the training rows and of the evaluation rows of a fold, ascending.

        Raises
        ------
        LabelError
            If the split has no such fold.
        """
        if not 0 <= fold < self.n_folds:
            raise LabelError(f"fold {fold}: the split has folds 0 to {self.n_folds - 1}.")
        test = self.folds == fold
        train = ~test & (self.folds != UNUSED) & ~self.excluded[fold]
        return np.flatnonzero(train), np.flatnonzero(test)


def split_labels(
    frame: pd.DataFrame,
    *,
    method: Method,
    folds: int = 5,
    seed: int = 0,
    block_m: float = 3200,
    buffer_m: float = 320,
    test_share: float = 0.3,
    roles: Mapping[str, Roles] | None = None,
    exclude_eval_m: float = 320,
) -> Split:
    """Folds of a label table or of samples.

    Parameters
    ----------
    frame : pandas.DataFrame or geopandas.GeoDataFrame
        One row a label or a sample, with ``lcz`` (1-17) and ``group`` (never split); ``city`` for
        ``city``, ``split`` for ``given``. ``block`` wants geometries in one CRS in metres, or the
        columns ``x``, ``y`` (centre, m) and ``size_m`` (side, m; 0 where absent) in each city's
        own CRS, compared within a city only.
    method : str
        ``polygon``: stratified folds of whole groups. ``block``: stratified folds of square
        blocks; a group belongs to the block of its mean centre; training rows near an evaluation
        row are left out. ``city``: one fold a city. ``given``: the publisher's; rows that
        ``roles`` evaluates are scored once, by a model of the rows of its donors. ``holdout``: a
        share of the groups of each class is held out once, the rest is trained on; another seed
        holds out others. ``random``: stratified folds of rows, which leaks and says so.
    folds : int
        Number of folds of ``polygon``, ``block`` and ``random``. Default 5.
    seed : int
        Seed of the shuffling, from 0.
    block_m : float
        Side of a block, m. Default 3200: ten cells.
    buffer_m : float
        A row whose square lies within this distance of an evaluation row's is not trained on in
        that fold, m. Default 320: one patch between the two.
    test_share : float
        Share of the groups of each class that ``holdout`` holds out, above 0 and below 1. Default
        0.3: the LCZ Generator's. At least one group of a class is held out and one trained on.
    roles : mapping of str to Roles, optional
        By city, for ``given``; any other city trains on ``training`` and is scored on
        ``validation`` and ``testing``.
    exclude_eval_m : float
        Of rows whose column ``origin`` says ``rule``: they train and are never evaluated, and a
        group of them within this distance of an evaluation row of its city does not train in that
        fold; with ``city``, none of a city that is left out does. Default 320. Their positions are
        wanted, as for ``block``, where it is ``buffer_m`` if that is more.

    Returns
    -------
    Split
        In the order of ``frame``'s rows, whatever that order is: rows are sorted by city, group,
        patch and position before they are split.

    Raises
    ------
    ConfigError
        If an option is illegal.
    LabelError
        If the labels cannot be split that way: columns or cities missing, fewer groups or blocks
        than folds, no rows to train on.
    """
    _require_options(method, folds, seed, block_m, buffer_m, test_share)
    if not exclude_eval_m >= 0:
        raise ConfigError(f"exclude_eval_m = {exclude_eval_m}: a distance is 0 m or more.")
    by_rule = is_by_rule(frame)
    labels = frame[~by_rule]
    _require_columns(labels, method)
    order = _canonical_order(labels)
    plan = _Plan(
        labels.iloc[order].reset_index(drop=True),
        *(folds, seed, block_m, buffer_m, test_share),
        roles=roles or {},
    )
    split = _in_order(_SPLITTERS[method](plan), order)
    if by_rule.any():
        far_m = max(exclude_eval_m, buffer_m) if method == "block" else exclude_eval_m
        split = _beside_rules(split, frame, by_rule, far_m)
    missing = tuple(_untrained_classes(split, frame["lcz"].to_numpy(np.uint8)))
    return dataclasses.replace(split, warnings=split.warnings + missing)


@dataclass(frozen=True, eq=False)
class _Plan:
    frame: pd.DataFrame
    folds: int
    seed: int
    block_m: float
    buffer_m: float
    test_share: float
    roles: Mapping[str, Roles]

    @property
    def lcz(self) -> npt.NDArray[np.uint8]:
        return np.asarray(self.frame["lcz"], dtype=np.uint8)

    @property
    def groups(self) -> npt.NDArray[np.object_]:
        return np.asarray(self.frame["group"], dtype=object)

    def split(
        self,
        method: Method,
        folds: npt.NDArray[np.integer[Any]],
        *,
        warnings: Iterable[str] = (),
        names: Iterable[str] | None = None,
        excluded: BoolArray | None = None,
    ) -> Split:
        numbers = folds.astype(np.int32)
        n_folds = int(numbers.max()) + 1
        return Split(
            method=method,
            folds=numbers,
            n_folds=n_folds,
            seed=self.seed,
            warnings=tuple(warnings),
            names=tuple(names or map(str, range(n_folds))),
            excluded=np.zeros((n_folds, numbers.size), bool) if excluded is None else excluded,
        )


def _require_options(
    method: str, folds: int, seed: int, block_m: float, buffer_m: float, test_share: float
) -> None:
    if method not in METHODS:
        raise ConfigError(f"split = {method!r} is unknown; use {', '.join(METHODS)}.")
    if folds < 2:
        raise ConfigError(f"folds = {folds}: a split has at least 2 folds.")
    if seed < 0:
        raise ConfigError(f"seed = {seed}: a seed is 0 or more.")
    if not block_m > 0:
        raise ConfigError(f"block_m = {block_m}: a block has a positive side, m.")
    if not buffer_m >= 0:
        raise ConfigError(f"buffer_m = {buffer_m}: a buffer is 0 m or more.")
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share = {test_share}: a share is above 0 and below 1; use 0.3.")


def _require_columns(frame: pd.DataFrame, method: str) -> None:
    wanted = ["lcz", "group", *_COLUMNS_OF.get(method, ())]
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise LabelError(f"rows have no column {', '.join(missing)}; split {method!r} needs it.")
    if frame.empty:
        raise LabelError("no rows to split; read labels that meet the grid.")
    codes = frame["lcz"].to_numpy()
    require_codes(codes)
    if (codes == 0).any():
        raise LabelError(f"{(codes == 0).sum()} rows hold LCZ code 0; split labelled rows only.")
    n_blank = int((frame["group"].isna() | (frame["group"] == "")).sum())
    if n_blank:
        raise LabelError(f"{n_blank} rows have no group; give each polygon or patch its own.")


def _canonical_order(frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    keys = [name for name in _SORT_KEYS if name in frame]
    table = pd.DataFrame({name: frame[name].to_numpy() for name in keys})
    if isinstance(frame, gpd.GeoDataFrame):
        edges = shapely.bounds(frame.geometry.to_numpy())
        table[["minx", "miny", "maxx", "maxy"]] = edges
    ordered = table.sort_values(list(table.columns), kind="stable")
    return np.asarray(ordered.index, dtype=np.intp)


def _split_polygons(plan: _Plan) -> Split:
    _require_enough(pd.unique(plan.groups).size, "groups (polygons)", plan.folds)
    folds = _stratified_group_folds(plan, plan.groups)
    return plan.split("polygon", folds, warnings=_rare_classes(plan, plan.groups, "groups"))


def _split_blocks(plan: _Plan) -> Split:
    squares, realms = _squares(plan.frame)
    blocks = _blocks(plan, squares, realms)
    what = f"blocks of {plan.block_m:g} m"
    _require_enough(pd.unique(blocks).size, what, plan.folds)
    folds = _stratified_group_folds(plan, blocks)
    excluded = _within_buffer(squares, realms, folds, plan.buffer_m)
    rare = _rare_classes(plan, blocks, what)
    split = plan.split("block", folds, warnings=rare, excluded=excluded)
    for fold in range(split.n_folds):
        if not split.train_test(fold)[0].size:
            raise LabelError(
                f"fold {fold} keeps no training row farther than buffer_m = {plan.buffer_m:g} from "
                "its evaluation rows; lower buffer_m, or use fewer folds."
            )
    return split


def _split_cities(plan: _Plan) -> Split:
    cities = plan.frame["city"].fillna("").to_numpy().astype(object)
    n_blank = int((cities == "").sum())
    if n_blank:
        raise LabelError(
            f"{n_blank} rows have no city; name the bbox of each city, or drop the rows outside."
        )
    names = sorted(set(cities))
    if len(names) < 2:
        raise LabelError(f"labels lie in {names[0]} only; to leave a city out takes two or more.")
    per_group = pd.Series(cities).groupby(plan.groups).nunique()
    spread = per_group.index[per_group > 1]
    if len(spread):
        raise LabelError(
            f"{len(spread)} groups, such as {spread[0]!r}, lie in several cities and would be "
            "split; give them one city, or a group a city."
        )
    folds = np.searchsorted(np.array(names, dtype=object), cities)
    return plan.split("city", folds, names=names)


def _split_given(plan: _Plan) -> Split:
    given = plan.frame["split"].fillna("").to_numpy().astype(object)
    donors, evaluated = rows_of_roles(plan.frame, plan.roles)
    for what, found in (("trained on", donors), ("scored", evaluated)):
        if not found.any():
            raise LabelError(
                f"no row is of a split that is {what}; rows have {_counted(given)}. Say per city "
                "which splits are its donors and evaluate_on, or use split polygon, block or city."
            )
    folds = np.where(evaluated, 0, np.where(donors, TRAINING, UNUSED))
    return plan.split("given", folds, warnings=_given_warnings(plan, given, folds))


def rows_of_roles(frame: pd.DataFrame, roles: Mapping[str, Roles]) -> tuple[BoolArray, BoolArray]:
    """Rows that are trained on, and rows that are scored, by the publisher's split and the city.

    Raises
    ------
    ConfigError
        If a city gives one split both roles.
    """
    given = frame["split"].fillna("").to_numpy().astype(str)
    cities = frame["city"].to_numpy().astype(str) if "city" in frame else np.full(len(frame), "")
    donors, evaluated = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    for city in np.unique(cities):
        own = roles.get(str(city), Roles())
        both = sorted({*own.donors} & {*own.evaluate_on})
        if both:
            raise ConfigError(
                f"city {str(city)!r} has split {both[0]!r} among its donors and in evaluate_on; "
                "what is trained on is not scored. Name it once."
            )
        donors |= (cities == city) & np.isin(given, own.donors)
        evaluated |= (cities == city) & np.isin(given, own.evaluate_on)
    return donors, evaluated


def _split_holdout(plan: _Plan) -> Split:
    groups = pd.Series(plan.groups)
    classes = pd.Series(plan.lcz).groupby(plan.groups).agg(lambda codes: codes.mode().iloc[0])
    rng = np.random.default_rng(plan.seed)
    held: list[Any] = []
    lone: list[str] = []
    for code, names in classes.groupby(classes).groups.items():
        n_held = min(max(1, round(plan.test_share * len(names))), len(names) - 1)
        held += list(rng.permutation(np.sort(names.to_numpy()))[:n_held])
        if len(names) == 1:
            lone.append(f"LCZ {code} has one group, which is trained on: it is never evaluated.")
    folds = np.where(groups.isin(held), 0, TRAINING)
    if not held:
        raise LabelError(
            "every class has one group: none can be held out whole. Draw more polygons a class."
        )
    return plan.split("holdout", folds, warnings=lone)


def _split_random(plan: _Plan) -> Split:
    from sklearn.model_selection import StratifiedKFold

    _require_enough(len(plan.frame), "rows", plan.folds)
    splitter = StratifiedKFold(plan.folds, shuffle=True, random_state=plan.seed)
    folds = _fold_numbers(splitter, plan, None)
    per_group = pd.Series(folds).groupby(plan.groups).nunique()
    leak = (
        f"random split leaks: {int((per_group > 1).sum())} of {len(per_group)} groups lie in "
        "training and evaluation at once, and patches that overlap or touch are not kept apart; "
        "scores are too high. Use split polygon, block or city."
    )
    return plan.split(
        "random", folds, warnings=(leak, *_rare_classes(plan, np.arange(len(folds)), "rows"))
    )


_SPLITTERS: dict[str, Callable[[_Plan], Split]] = {
    "given": _split_given,
    "block": _split_blocks,
    "polygon": _split_polygons,
    "city": _split_cities,
    "holdout": _split_holdout,
    "random": _split_random,
}


def _require_enough(n: int, what: str, folds: int) -> None:
    if n < folds:
        raise LabelError(f"labels hold {n} {what}, fewer than folds = {folds}; use fewer folds.")


def _stratified_group_folds(plan: _Plan, groups: npt.NDArray[np.object_]) -> npt.NDArray[np.int32]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(plan.folds, shuffle=True, random_state=plan.seed)
    return _fold_numbers(splitter, plan, groups)


def _fold_numbers(
    splitter: Any, plan: _Plan, groups: npt.NDArray[np.object_] | None
) -> npt.NDArray[np.int32]:
    lcz = plan.lcz
    if np.unique(lcz, return_counts=True)[1].max() < plan.folds:
        raise LabelError(f"every class has fewer rows than folds = {plan.folds}; use fewer folds.")
    folds = np.full(lcz.size, UNUSED, np.int32)
    with warnings.catch_warnings():
        # sklearn warns of classes with fewer rows than folds; Split.warnings names them.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, test) in enumerate(splitter.split(lcz, lcz, groups)):
            folds[test] = fold
    return folds


def _squares(frame: pd.DataFrame) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """Ground of each row, and the plane it lies in: one for geometries, one a city for x and y."""
    if isinstance(frame, gpd.GeoDataFrame):
        if frame.crs is None or not frame.crs.is_projected:
            raise LabelError(
                "distances are measured in metres and the geometries are not in a projected CRS; "
                "transform them (to_crs)."
            )
        return frame.geometry.to_numpy(), np.full(len(frame), "", dtype=object)
    if not {"x", "y"} <= set(frame.columns):
        raise LabelError(
            "split 'block', and rows by rule, need geometries in metres, or the columns x and y."
        )
    x, y = frame["x"].to_numpy(np.float64), frame["y"].to_numpy(np.float64)
    half = frame["size_m"].to_numpy(np.float64) / 2 if "size_m" in frame else 0.0
    cities = frame["city"] if "city" in frame else pd.Series("", index=frame.index)
    return shapely.box(x - half, y - half, x + half, y + half), cities.to_numpy().astype(object)


def _blocks(
    plan: _Plan, squares: npt.NDArray[np.object_], realms: npt.NDArray[np.object_]
) -> npt.NDArray[np.object_]:
    """Name of each row's block: the square that holds the mean centre of the row's group."""
    minx, miny, maxx, maxy = shapely.bounds(squares).T
    centres = pd.DataFrame({"x": (minx + maxx) / 2, "y": (miny + maxy) / 2})
    means = centres.groupby([realms, plan.groups]).transform("mean")
    index = np.floor(means.to_numpy() / plan.block_m).astype(np.int64)
    names = [f"{realm}/{x}/{y}" for realm, (x, y) in zip(realms, index, strict=True)]
    return np.array(names, dtype=object)


def _beside_rules(split: Split, frame: pd.DataFrame, by_rule: BoolArray, far_m: float) -> Split:
    """The split of the labels, with the rows by rule in training where they leak nothing."""
    folds = np.full(len(frame), TRAINING, np.int32)
    folds[~by_rule] = split.folds
    excluded = np.zeros((split.n_folds, len(frame)), bool)
    excluded[:, ~by_rule] = split.excluded
    squares, realms = _squares(_as_seen(frame, by_rule))
    groups = frame["group"].to_numpy().astype(object)
    for realm in pd.unique(realms[by_rule]):
        here = realms == realm
        rows = np.flatnonzero(here & by_rule)
        for fold in range(split.n_folds):
            test = squares[here & (folds == fold)]
            excluded[fold, rows] = groups_near(squares[rows], groups[rows], test, far_m)
    if split.method == "city":
        left_out = frame["city"].to_numpy() == np.array(split.names, dtype=object)[:, None]
        excluded |= left_out & by_rule
    n_used = by_rule.sum() - excluded[:, by_rule].sum(axis=1)
    told = (
        f"{by_rule.sum()} rows by rule are never evaluated; {n_used.min()} to {n_used.max()} of "
        f"them train a fold, the others are of a group within {far_m:g} m of what it evaluates"
        + (", or of the city left out." if split.method == "city" else ".")
    )
    return dataclasses.replace(
        split, folds=folds, excluded=excluded, warnings=(*split.warnings, told)
    )


def _as_seen(frame: pd.DataFrame, by_rule: BoolArray) -> pd.DataFrame:
    """The rows, those of pixels as wide as the cells of rules: what a model sees of them."""
    if isinstance(frame, gpd.GeoDataFrame) or "size_m" not in frame:
        return frame
    return frame.assign(size_m=frame["size_m"].clip(lower=frame["size_m"][by_rule].max()))


def _within_buffer(
    squares: npt.NDArray[np.object_],
    realms: npt.NDArray[np.object_],
    folds: npt.NDArray[np.int32],
    buffer_m: float,
) -> BoolArray:
    n_folds = int(folds.max()) + 1
    excluded = np.zeros((n_folds, folds.size), bool)
    for realm in pd.unique(realms):
        rows = np.flatnonzero(realms == realm)
        tree = shapely.STRtree(squares[rows])
        for fold in range(n_folds):
            test = rows[folds[rows] == fold]
            _, near = tree.query(squares[test], predicate="dwithin", distance=buffer_m)
            excluded[fold, rows[near]] = True
    excluded[folds, np.arange(folds.size)] = False
    return excluded


def _rare_classes(plan: _Plan, groups: npt.NDArray[Any], what: str) -> Iterator[str]:
    counts = pd.Series(groups).groupby(plan.lcz).nunique()
    for code, n in counts[counts < plan.folds].items():
        yield (
            f"LCZ {code} has {n} {what}, fewer than {plan.folds} folds: some folds are evaluated "
            "without it."
        )


def _given_warnings(
    plan: _Plan, given: npt.NDArray[np.object_], folds: npt.NDArray[np.integer[Any]]
) -> Iterator[str]:
    used = folds != UNUSED
    per_group = pd.Series(folds[used]).groupby(plan.groups[used]).nunique()
    n_split = int((per_group > 1).sum())
    if n_split:
        yield f"given split leaks: {n_split} groups lie in training and evaluation at once."
    if not used.all():
        yield f"given split leaves out {_counted(given[~used])}."


def _counted(given: npt.NDArray[np.object_]) -> str:
    values, counts = np.unique(given.astype(str), return_counts=True)
    return ", ".join(f"{v or 'no split'} ({n} rows)" for v, n in zip(values, counts, strict=True))


def _untrained_classes(split: Split, lcz: npt.NDArray[np.uint8]) -> Iterator[str]:
    for fold, name in enumerate(split.names):
        train, test = split.train_test(fold)
        untrained = np.setdiff1d(lcz[test], lcz[train])
        if untrained.size:
            listed = ", ".join(map(str, untrained))
            yield f"fold {name} evaluates LCZ {listed} without any training row of it."


def _in_order(split: Split, order: npt.NDArray[np.intp]) -> Split:
    folds, excluded = np.empty_like(split.folds), np.empty_like(split.excluded)
    folds[order] = split.folds
    excluded[:, order] = split.excluded
    return dataclasses.replace(split, folds=folds, excluded=excluded)
