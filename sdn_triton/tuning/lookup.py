"""Which configuration a kernel runs with: the user's tables, the shipped ones, those of the family, the heuristic.

The files are read once, at the first launch; afterwards a choice is a look-up in memory, and for a size met before a
single one. Nothing is timed, and nothing else is looked at: processes that find the same files on the same kind of GPU
choose alike, so that all ranks of a distributed job run the same kernels.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from sdn_triton.tuning.buckets import Bucket, bucket_of
from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.defaults import Work, default_config, has_pairs, tile_width
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.resources import why_not
from sdn_triton.tuning.tables import Table, TableError, read_table

ENVIRONMENT = "SDN_TRITON_TABLES"
"""Files and folders with the user's tables, separated as in PATH, instead of the user's cache folder."""
SHIPPED = Path(__file__).parent / "tables"

Choice = Callable[[str, Work, Target], KernelConfig]
Layer = tuple[str, Mapping[tuple[str, Bucket], KernelConfig]]


@dataclass(frozen=True)
class _Files:
    """What was read: the user's tables and the shipped ones, the first of each counting most."""

    users: tuple[Table, ...]
    shipped: tuple[Table, ...]
    named: frozenset[Path]
    """Files that the user named one by one: that one of them is for another GPU is worth a word."""


_lock = threading.RLock()
_files: _Files | None = None
_given: tuple[Path, ...] = ()
_origins: dict[tuple[str, KernelConfig], KernelConfig] = {}
_rejected: set[tuple[str, KernelConfig]] = set()
_warned: set[str] = set()


def config_for(kernel: str, work: Work, target: Target) -> KernelConfig:
    """The configuration that ``kernel`` runs ``work`` with on ``target``; its ``source`` says which layer has it.

    One from a table has passed the resource model for the target, and is fitted to the image: a tile of no more rows
    than there are, no more parts of a sum than there are tiles.

    Example:
        >>> from sdn_triton.tuning.configs import Target
        >>> config_for("fusion_forward", Work("bf16", 8, 1, 16384, 256, 256), Target("cuda", 90, 132)).source
        'heuristic'
    """
    return _choices[-1](kernel, work, target)


@lru_cache(maxsize=4096)
def from_tables(kernel: str, work: Work, target: Target) -> KernelConfig:
    """The configuration of the first table that has one, else the heuristic's."""
    key = kernel, bucket_of(work)
    for title, configs in _layers(target):
        entry = configs.get(key)
        if entry is None or (kernel, entry) in _rejected:
            continue
        config = _fitted(entry, kernel, work)
        if config.pairs and not (work.can_pair and has_pairs(kernel, work.arithmetic)):
            obstacle: str | None = "its channels cannot be read packed"
        else:
            obstacle = why_not(kernel, work.arithmetic, config, target)
        if obstacle is None:
            config = replace(config, source=title.format(entry.source))
            _origins[kernel, config] = entry
            return config
        _warn_once(f"{entry.source}: its configuration of {kernel} cannot run on {target}: {obstacle}")
    return default_config(kernel, work, target)


_choices: list[Choice] = [from_tables]
"""The last one counts."""


@contextmanager
def chosen_by(choose: Choice) -> Iterator[None]:
    """Take every configuration from ``choose`` for a while.

    That holds for the whole process: the backward pass looks configurations up in threads of autograd's own.
    """
    _choices.append(choose)
    try:
        yield
    finally:
        _choices.remove(choose)


def without_tables() -> AbstractContextManager[None]:
    """Take every configuration from the heuristic for a while, as if there were no tables.

    Example:
        >>> with without_tables():
        ...     config_for("fusion_forward", Work("bf16", 8, 1, 16384, 256, 256), Target("cuda", 90, 132)).source
        'heuristic'
    """
    return chosen_by(default_config)


def use_table(path: str | os.PathLike[str] | None) -> None:
    """Look up configurations in this table, or in all tables of this folder, before any other; None forgets them.

    The file is read now and never again. One that cannot be used is said in a warning and passed over, as every
    table. The environment variable ``SDN_TRITON_TABLES`` does the same for a whole process.

    Example:
        >>> use_table("h100.json")  # doctest: +SKIP
        >>> use_table(None)
    """
    global _given
    with _lock:
        _given = () if path is None else (Path(path).expanduser(), *_given)
        _forget()
        _read_files()


def has_tables(target: Target) -> bool:
    """Whether any table, the user's or a shipped one, may serve this GPU.

    Example:
        >>> has_tables(Target("cuda", 1, 1))
        False
    """
    return any(configs for _, configs in _layers(target))


def user_folder() -> Path:
    """Where ``sdn-triton tune`` writes tables and where they are looked for unless the environment says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sdn_triton" / "tables"


def reject(kernel: str, config: KernelConfig) -> bool:
    """Pass over the table entry that ``config`` came from, from now on; False if it came from no table."""
    with _lock:
        entry = _origins.get((kernel, config))
        if entry is None:
            return False
        _rejected.add((kernel, entry))
        from_tables.cache_clear()
        return True


def _forget() -> None:
    """Read everything anew at the next look-up."""
    global _files
    with _lock:
        _files = None
        _origins.clear()
        _rejected.clear()
        _warned.clear()
        _layers.cache_clear()
        from_tables.cache_clear()


@lru_cache(maxsize=64)
def _layers(target: Target) -> tuple[Layer, ...]:
    """The tables that may serve a GPU, in the order in which they are asked."""
    files = _read_files()
    own = [("user's table {}", table) for table in files.users]
    shipped = [("shipped table {}", table) for table in files.shipped]
    exact = [(title, table) for title, table in (*own, *shipped) if table.is_for(target)]
    family = [
        (f"same family, {table.device_name}: {title}", table)
        for title, table in (*own, *shipped)
        if not table.is_for(target) and table.is_in_family_of(target)
    ]
    for table in files.users:
        if table.path in files.named and not table.is_for(target):
            _warn_once(
                f"{table.path}: it is for {table.device_name} ({_describe(table.target)}), not for {_describe(target)}"
            )
    return tuple((title, table.configs) for title, table in (*exact, *family))


def _describe(target: Target) -> str:
    return f"{target} with {target.multiprocessors} multiprocessors"


def _fitted(config: KernelConfig, kernel: str, work: Work) -> KernelConfig:
    """The configuration of a bucket for one of its sizes."""
    config = replace(config, block_w=tile_width(config.block_p, work.rows, work.columns, wanted=config.block_w))
    if not KERNELS[kernel].is_split:
        return config
    tiles = work.images * -(-work.rows // config.block_h) * -(-work.columns // config.block_w)
    return replace(config, splits=max(1, min(config.splits, tiles)))


def _read_files() -> _Files:
    """All tables; the only place that touches files, once."""
    global _files
    with _lock:
        if _files is None:
            variable = os.environ.get(ENVIRONMENT)
            named = [*_given, *(Path(part).expanduser() for part in (variable or "").split(os.pathsep) if part)]
            folders = [path for path in named if os.path.isdir(path)]
            if variable is None and os.path.isdir(user_folder()):
                folders.append(user_folder())
                named.append(user_folder())
            files = frozenset(path for path in named if path not in folders)
            _files = _Files(_tables(named, folders), _tables([SHIPPED], [SHIPPED]), files)
        return _files


def _tables(paths: Sequence[Path], folders: Sequence[Path]) -> tuple[Table, ...]:
    tables = []
    for path in paths:
        for file in sorted(path.glob("*.json")) if path in folders else [path]:
            try:
                tables.append(read_table(file))
            except TableError as error:
                _warn_once(f"{file}: {error}")
    return tuple(tables)


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"sdn_triton leaves a table out: {reason}", RuntimeWarning, stacklevel=3)
