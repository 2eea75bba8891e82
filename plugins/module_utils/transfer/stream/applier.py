# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the spool to the receiving database, as long as it takes: connections that are lost are made again, what a person must mend is told."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from contextlib import closing

from .. import predecessor, session
from ..errors import TransferError
from .applying import Session, StoppedError, Timing, forgiven
from .config import Config
from .feed import Limits
from .figures import NAME, Figures
from .spool import Reader
from .start import APPLICATION, prepare
from .tracking import Tracker

__all__ = ["Timing", "run"]
_GARBAGE = 200_000
_SETTINGS = (
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET enable_seqscan = off",
    "SET enable_material = off",
)


def run(config: Config, stop: Callable[[], bool], timing: Timing | None = None, limits: Limits | None = None) -> None:
    """Apply until ``stop()``, which is asked several times a second. Lost connections are made again without end.

    Raises TransferError for what a person must mend, after noting it in the stream's row: conflict, definition_changed, new_table, key_missing,
    privilege, spool_gap, ...; the next run begins with the same change again.
    """
    timing = timing or Timing()
    config.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    figures = Figures(config.spool / NAME, config.direction, config.slot)
    figures.say("starting")
    pause = timing.first_pause
    thresholds = gc.get_threshold()
    # Nothing here goes round in circles: looking for that in millions of rows would take a fifth of the time.
    gc.set_threshold(_GARBAGE, *thresholds[1:])
    try:
        while not stop():
            began = time.monotonic()
            try:
                _attempt(config, stop, timing, limits or Limits(), figures)
            except (TransferError, session.psycopg.Error) as error:
                state = forgiven(error)
                if state is None:
                    raise
                if time.monotonic() - began > 2 * timing.longest_pause:
                    pause = timing.first_pause
                figures.reconnects += 1
                figures.say(state, error, final=True)
                _sleep(pause * random.uniform(0.7, 1.3), stop, figures)
                pause = min(pause * 2, timing.longest_pause)
        figures.say("stopped", final=True)
    except (TransferError, session.psycopg.Error) as error:
        figures.say("failed", error, final=True)
        if isinstance(error, TransferError):
            raise
        raise TransferError(
            f"applying to {config.receiving.describe()} failed: {str(error).strip()}",
            "Correct the cause and start the stream again; it goes on where it stands.",
            kind="receiver",
            sqlstate=error.sqlstate,
        ) from error
    finally:
        gc.set_threshold(*thresholds)


def _sleep(seconds: float, stop: Callable[[], bool], figures: Figures) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and (left := deadline - time.monotonic()) > 0:
        figures.beat()
        time.sleep(min(left, 0.1))


def _attempt(config: Config, stop: Callable[[], bool], timing: Timing, limits: Limits, figures: Figures) -> None:
    """One connection to the receiving database, until ``stop()``."""
    with closing(session.connect(config.receiving, application_name=predecessor.named(APPLICATION), replica=True)) as conn:
        begun = prepare(conn, config, stop, figures, timing.lock)
        if begun is None:
            return
        for setting in _SETTINGS:
            conn.execute(setting)
        tracker = Tracker(config, begun)
        reader = Reader(config.spool)
        try:
            Session(conn, config, stop, timing, limits, figures, tracker, reader).run()
        except StoppedError:
            return
        finally:
            reader.close()
            tracker.close()
