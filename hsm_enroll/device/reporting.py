"""Writes what ``forward`` reports, for ``status`` and Prometheus; on a thread of its own, since a disk may be slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue
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
        on_recovery: called when one can be written again.
        on_damage: called with each file of a damaged outbox that was set aside; all of them are new at first.
        patience: seconds that :meth:`close` waits for the disk, at most twice.
    """

    def __init__(
        self,
        folder: Path,
        state: Callable[[], OutboxState],
        metrics_file: Path | None,
        *,
        on_trouble: Callable[[StateError], None],
        on_recovery: Callable[[], None],
        on_damage: Callable[[Path], None],
        patience: float = 5.0,
    ) -> None:
        self._folder = folder
        self._state = state
        self._metrics_file = metrics_file
        self._on_trouble = on_trouble
        self._on_recovery = on_recovery
        self._on_damage = on_damage
        self._patience = patience
        self._reports = SimpleQueue[tuple[ForwardReport, Future[None]] | None]()
        # A daemon, unlike an executor's: a disk that never answers must not keep the process.
        threading.Thread(target=self._work, name="hsm-enroll report", daemon=True).start()
        self._writing: Future[None] | None = None
        self._saved = ForwardReport()
        self._saved_at = self._looked_at = -BEAT_SECONDS
        self._damaged: set[Path] = set()
        self._trouble: str | None = None

    def write(self, report: ForwardReport) -> None:
        """Write a report, unless another one is being written: then it is left out, and the next one comes soon."""
        if self._writing is None or self._writing.done():
            self.settle()
            self._submit(report)

    def close(self, report: ForwardReport) -> None:
        """Write the last report, and return when that has been tried; without it, if the disk does not answer."""
        try:
            if self.settle(self._patience):
                self._submit(report)
                self.settle(self._patience)
        finally:
            self._reports.put(None)

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being written, and return whether that is so after ``timeout`` seconds."""
        if self._writing is None:
            return True
        if not wait([self._writing], timeout).done:
            return False
        self._writing.result()
        return True

    def _submit(self, report: ForwardReport) -> None:
        self._writing = Future()
        self._reports.put((report, self._writing))

    def _work(self) -> None:
        while (job := self._reports.get()) is not None:
            report, written = job
            try:
                self._write(report)
            except BaseException as error:  # noqa: BLE001 - for the thread that waits
                written.set_exception(error)
            else:
                written.set_result(None)

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
            was_troubled, self._trouble = self._trouble is not None, None
            if was_troubled:
                self._on_recovery()

    def _look(self, report: ForwardReport, now: float) -> None:
        state = self._state()
        self._looked_at = now
        for file in state.damaged_files:
            if file not in self._damaged:
                self._damaged.add(file)
                self._on_damage(file)
        if self._metrics_file is not None:
            metrics.write(self._metrics_file, metrics.text(report, state))
