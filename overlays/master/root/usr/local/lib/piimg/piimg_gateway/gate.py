"""The state of the gateway in the kernel: open and close it, keep it so, probe whether packets pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from piimg_gateway import netlink, others, probe, rules
from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure
from piimg_gateway.forwarding import Forwarding
from piimg_gateway.forwarding6 import Forwarding6
from piimg_gateway.kept import Kept

_CLOSED = probe.Outcome(None, reason="it is closed")
_NOT_TRIED = object()
_CARRIED = (
    "connections of the LAN go on, carried by another program's flowtable (sudo nft list flowtables);"
    " this kernel ends them only with the flowtable"
)
_ROUNDS = 4  # probes at most: three known programs may drop packets, and are changed in turn


class Gate:
    """The gateway. ``problem``: why its state is wrong, or empty. ``outcome``: that of the last probe."""

    def __init__(self, conf: Conf, kept: Kept) -> None:
        self.conf = conf
        self.is_open = False
        self.problem = ""
        self.outcome = _CLOSED
        self._kept = kept
        self._forwarding = Forwarding((self.conf.lan_interface, self.conf.uplink))
        self._forwarding.load(kept.read("found"))
        self._forwarding6 = Forwarding6(self.conf.uplink)
        self._forwarding6.load(kept.read("found6"))
        self._listed = ""  # the gateway's table as nft listed it when it was written
        self._verified = -1  # the generation of the rules when the table was checked
        self._tried: object = None  # the inputs of the last probe
        self._staying = True  # connections may exist that must be closed
        self._added = True  # an earlier run may have added to the rules of other programs

    def settle(self, wanted: bool) -> None:
        """Open or close the gateway, whatever happened since the last call; probe whether packets pass.

        It does not raise when the kernel or the rules of other programs refuse: ``problem`` has the reason,
        and the gateway is closed if in doubt. It may be called often: a state that is right costs almost
        nothing.
        """
        try:
            if wanted:
                self._open()
            else:
                self._close()
            self.problem = _CARRIED if self._staying else ""
        except (Failure, OSError) as error:
            self.problem = str(error)
            if wanted:
                with contextlib.suppress(Failure, OSError):
                    self._close()

    def try_again(self) -> None:
        """Make the next ``settle`` send a probe in any case."""
        self._tried = None

    def _stands(self, wanted: bool) -> bool:
        generation = netlink.generation()
        if self._listed and self.is_open is wanted and generation and generation == self._verified:
            return True
        stands = bool(self._listed) and self.is_open is wanted and rules.listed() == self._listed
        self._verified = generation if stands else -1
        return stands

    def _write(self, wanted: bool) -> None:
        self._listed = ""
        self._listed = rules.write(self.conf, wanted)
        self.is_open = wanted

    def _open(self) -> None:
        if not self._stands(True):
            self._write(True)
            self._staying = True
        if self._staying:
            # connections from the time without the table have no address translation, and never get it
            self._forget(lambda tracked: tracked.answered_to == tracked.source)
        self._forwarding.set()
        self._kept.write("found", self._forwarding.saved())
        if self.conf.lan6:
            self._forwarding6.set()
            self._kept.write("found6", self._forwarding6.saved())
        if self._circumstances() != self._tried:
            self._try()

    def _try(self) -> None:
        """Send a probe; if a known program drops it, add a rule there, and try again."""
        for _ in range(_ROUNDS):
            self._tried = self._circumstances()
            try:
                self.outcome = probe.way_out(self.conf)
            except (Failure, OSError) as error:
                self.outcome = probe.Outcome(None, reason=str(error))
            table = self.outcome.table
            if self.outcome.passing is False and not table and others.legacy_in_use() and self.outcome.way:
                table = others.LEGACY_TABLE
                self.outcome = probe.Outcome(False, table, "FORWARD", self.outcome.way)
            if self.outcome.passing is not False or not table:
                return
            self._added = True
            if not others.let_through(self.conf, table):
                return

    def _close(self) -> None:
        if not self._stands(False):
            self._write(False)
            self._staying = True  # also connections from the time without the table
        if self._staying:
            self._forget(lambda tracked: True)
        self._forwarding.restore()
        self._kept.write("found", "")
        self._forwarding6.restore()
        self._kept.write("found6", "")
        self._tried = _NOT_TRIED
        self.outcome = _CLOSED
        if self._added:
            others.take_away()
            self._added = False

    def _forget(self, which: Callable[[netlink.Connection], bool]) -> None:
        """Delete tracked connections of the LAN. Connections in another program's flowtable bypass all rules.

        Such a connection leaves the flowtable within a second after it is deleted.
        """
        lan = self.conf.networks()
        self._staying = bool(netlink.forget(c for c in netlink.connections() if c.crosses(lan) and which(c)))

    def _circumstances(self) -> object:
        """The inputs of a probe, as far as they can be read cheaply."""
        links = []
        for name in (self.conf.lan_interface, self.conf.uplink):
            for what in ("ifindex", "flags", "carrier"):
                try:
                    links.append((Path("/sys/class/net") / name / what).read_text())
                except OSError:
                    links.append("")
        legacy = others.legacy_rules() if others.legacy_in_use() else ""
        return netlink.generation(), links, probe.target(self.conf.uplink), legacy
