"""Writes what ``forward`` reports, for ``status`` and Prometheus; on a thread of its own, since a disk may be slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.device import metrics
from hsm_enroll.errors import StateError
from hsm_enroll.store.forwarder import BEAT_SECONDS, ForwardReport

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import OutboxState

_LOOK_SECONDS = 5.0  # between two looks at the outbox without a metrics file


class Reporter:
    """Writes reports, and notices outboxes that were damaged.

    Args:
        folder: the state folder.
        state: returns the state of the outbox.
        metrics_file: see ``metrics``; None is no file.
        on_trouble: called when a report cannot be written, once for each reason in a row.
        on_damage: called with each file of a damaged outbox that was set aside; all of them are new at first.
    """

    def __init__(
        self,
        folder: Path,
        state: Callable[[], OutboxState],
        metrics_file: Path | None,
        *,
        on_trouble: Callable[[StateError], None],
        on_damage: Callable[[Path], None],
    ) -> None:
        self._folder = folder
        self._state = state
        self._metrics_file = metrics_file
        self._on_trouble = on_trouble
        self._on_damage = on_damage
        self._thread = ThreadPoolExecutor(1, "hsm-enroll report")
        self._writing: Future[None] | None = None
        self._saved = ForwardReport()
        self._saved_at = self._looked_at = -BEAT_SECONDS
        self._damaged: set[Path] = set()
        self._trouble: str | None = None

    def write(self, report: ForwardReport) -> None:
        """Write a report, unless another one is being written: then it is left out, and the next one comes soon."""
        if self._writing is None or self._writing.done():
            self.settle()
            self._writing = self._thread.submit(self._write, report)

    def close(self, report: ForwardReport) -> None:
        """Write the last report, and return when that has been tried."""
        self.settle()
        self._writing = self._thread.submit(self._write, report)
        self.settle()
        self._thread.shutdown()

    def settle(self) -> None:
        """Return when nothing is being written."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, report: ForwardReport) -> None:
        now = time.monotonic()
        try:
            if report != self._saved or now >= self._saved_at + BEAT_SECONDS:
                report.save(self._folder)
                self._saved, self._saved_at = report, now
            if self._metrics_file is not None or now >= self._looked_at + _LOOK_SECONDS:
                self._look(report, now)
        except StateError as error:
            if self._trouble != error.message:
                self._trouble = error.message
                self._on_trouble(error)
        else:
            self._trouble = None

    def _look(self, report: ForwardReport, now: float) -> None:
        state = self._state()
        self._looked_at = now
        for file in state.damaged_files:
            if file not in self._damaged:
                self._damaged.add(file)
                self._on_damage(file)
        if self._metrics_file is not None:
            metrics.write(self._metrics_file, metrics.text(report, state))
