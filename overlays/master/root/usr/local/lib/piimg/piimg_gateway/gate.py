"""The kernel's side of the gateway: opens and closes it, keeps it so, finds out whether anybody passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from piimg_gateway import netlink, others, probe, rules
from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure
from piimg_gateway.forwarding import Forwarding
from piimg_gateway.kept import Kept

_CLOSED = probe.Outcome(None, reason="it is closed")
_NOT_TRIED = object()
_CARRIED = (
    "connections of the LAN go on, carried by a flowtable of somebody's (sudo nft list flowtables);"
    " this kernel ends them only with the flowtable"
)
_ROUNDS = 4  # of letting oneself through and trying again: there are three others that can be helped


class Gate:
    """``problem``: why it is not as it should be; empty when it is. ``outcome``: of the last probe."""

    def __init__(self, conf: Conf, kept: Kept) -> None:
        self.conf = conf
        self.is_open = False
        self.problem = ""
        self.outcome = _CLOSED
        self._kept = kept
        self._forwarding = Forwarding((self.conf.lan_interface, self.conf.uplink))
        self._forwarding.load(kept.read("found"))
        self._listed = ""  # our table as nft listed it when it was written
        self._verified = -1  # the generation of the rules in which it was looked at
        self._tried: object = None  # what the last probe depended on
        self._staying = True  # connections may stand that are not to
        self._added = True  # a run before may have added to the rules of others

    def settle(self, wanted: bool) -> None:
        """Have it open or closed, whatever happened since the last call; find out whether anybody passes.

        Never raises for what the kernel or the rules of others refuse: ``problem`` says it then, and it is
        closed rather than open. May be called again at once: what is right already costs next to nothing.
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
        """Have the next ``settle`` send a probe in any case."""
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
            # connections that began while the rules were away are not translated, and never will be
            self._forget(lambda one: one.answered_to == one.source)
        self._forwarding.set()
        self._kept.write("found", self._forwarding.saved())
        if self._circumstances() != self._tried:
            self._try()

    def _try(self) -> None:
        """Send a probe; where somebody known drops it, have it let through, and try again."""
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
            self._staying = True  # what began while the rules were away, too
        if self._staying:
            self._forget(lambda one: True)
        self._forwarding.restore()
        self._kept.write("found", "")
        self._tried = _NOT_TRIED
        self.outcome = _CLOSED
        if self._added:
            others.take_away()
            self._added = False

    def _forget(self, which: Callable[[netlink.Connection], bool]) -> None:
        """End tracked connections of the LAN. What a flowtable of somebody's carries passes no rule.

        Such a connection leaves the flowtable within a second of its being deleted.
        """
        lan = self.conf.networks()
        self._staying = bool(
            netlink.forget(one for one in netlink.connections() if one.crosses(lan) and which(one))
        )

    def _circumstances(self) -> object:
        """What a probe's outcome depends on, as far as it can be seen at no cost."""
        links = []
        for name in (self.conf.lan_interface, self.conf.uplink):
            for what in ("ifindex", "flags", "carrier"):
                try:
                    links.append((Path("/sys/class/net") / name / what).read_text())
                except OSError:
                    links.append("")
        legacy = others.legacy_rules() if others.legacy_in_use() else ""
        return netlink.generation(), links, probe.target(self.conf.uplink), legacy
