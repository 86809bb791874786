"""`piimg boot`: start node images in emulation and compare them with the manifest."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster import ClusterProof, prove_cluster
from imagebuilder.boot.expected import Expected, Surroundings, expect
from imagebuilder.boot.login import LOST
from imagebuilder.boot.machine import Kind, can_kvm
from imagebuilder.boot.run import Guest, Proof, boards, bring_up, guest, lab, node_disk, prove_all
from imagebuilder.builder import prepared_folder
from imagebuilder.cli.console import attach
from imagebuilder.cli.format import duration
from imagebuilder.cli.keys import usable_keys
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.report_file import ReportFile
from imagebuilder.cli.report_file import chosen as chosen_file
from imagebuilder.cli.secrets import gather, ssh_folder
from imagebuilder.cli.session import Session, chosen_nodes
from imagebuilder.cli.sources import image_sources, prepared_nodes
from imagebuilder.cli.tables import table
from imagebuilder.errors import NodeError, PiimgError, UsageError
from imagebuilder.events import Message
from imagebuilder.image.build import write_image
from imagebuilder.image.partitions import read_table
from imagebuilder.image.results import Results, read_document
from imagebuilder.keys.credentials import public_host_keys
from imagebuilder.keys.store import KeyStore
from imagebuilder.model import Credentials, Node, Release
from imagebuilder.pages.boot_report import boot_page
from imagebuilder.plan import plan_node
from imagebuilder.reading import SMALL, check_regular, read_regular
from imagebuilder.requirements.host import Lack, this_host
from imagebuilder.requirements.uses import USES, missing_programs
from imagebuilder.system.cleanup import free_leftovers
from imagebuilder.system.scratch import scratch_folder

_FAILED = 1  # exit code
_POWER_OFF = 30.0  # seconds a node may take to switch itself off


def boot(
    context: click.Context,
    nodes: tuple[str, ...],
    every: bool,
    machine: Kind,
    shell: bool,
    console: bool,
    keep: bool,
    base: str | None,
    new_keys: bool,
    images: Path | None,
    identity: Path | None,
    report: str | None,
    as_json: bool,
) -> None:
    """Run ``piimg boot``, called as ``usage/boot.py`` says."""
    session: Session = context.obj
    chosen = chosen_nodes(session.cluster, nodes, every)
    _agree(chosen, shell, console, keep, as_json)
    if report is not None and (shell or console):
        raise UsageError(
            f"{'--shell' if shell else '--console'} checks nothing, so there is no report", "omit --report"
        )
    page = None if report is None else chosen_file(report, as_json)
    _check_programs(session.workspace.images)
    chosen = _wired(session, chosen, every)
    if identity:
        _check_identity(identity)
    if images is None:
        keys = usable_keys(session, new_keys)
    else:
        keys = session.workspace.keys()
        public_host_keys(session.cluster, keys)  # the images have them: none are made
    credentials = gather(session.workspace, keys, session.reporter)
    host_keys = public_host_keys(session.cluster, keys)
    identities = (identity,) if identity else _identities(keys, credentials)
    _note_kvm(session, machine)
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(_whole_images(session, chosen, base, images, keys))
        releases = [_release(result.json) for result in results]
        place = stack.enter_context(
            lab(
                session.cluster,
                chosen,
                cache=Cache(default_folder()),
                host_keys=host_keys,
                identities=identities,
                reporter=session.reporter,
                hardware=boards(machine, len(chosen)),
            )
        )
        guests = [
            stack.enter_context(guest(place, node, node_disk(place, node, result.image)))
            for node, result in zip(chosen, results, strict=True)
        ]
        if console:
            _console(session, guests[0])
        elif shell:
            _shell(session, guests[0])
        else:
            expected = {
                node.name: _expected(session, node, release, credentials, result.image)
                for node, release, result in zip(chosen, releases, results, strict=True)
            }
            if every:
                proof = prove_cluster(place, guests, expected)
            else:
                proof = ClusterProof(tuple(prove_all(place, guests, expected)), ())
            session.settle()
            if as_json:
                echo_json(_document(machine, proof))
            else:
                echo(_table(proof), err=page is not None and page.is_stdout)
            if page is not None:
                _save_page(page, boot_page(session.cluster, machine, proof, datetime.now(UTC)))
            if keep:
                _keep(guests)
            if not proof.good:
                context.exit(_FAILED)


def _check_programs(folder: Path) -> None:
    """Raise PiimgError when QEMU or another program is not installed: before nodes are prepared."""
    for finding in missing_programs(USES["boot"], this_host(folder)):
        if isinstance(finding, Lack):
            raise PiimgError(f"piimg boot needs programs that are {finding.what}", finding.fix)


@contextlib.contextmanager
def _whole_images(
    session: Session, nodes: Sequence[Node], base: str | None, images: Path | None, keys: KeyStore
) -> Iterator[list[Results]]:
    """Node images to start: those in the folder ``images``, else written from prepared nodes."""
    names = [node.name for node in nodes]
    if images is not None:
        image_sources(session, names, images)  # built, and whole
        free_leftovers()
        yield [Results(images, name) for name in names]
        return
    with (
        prepared_nodes(session, names, base, keys=keys) as prepared,
        scratch_folder(prepared_folder(session.cluster)) as folder,
    ):
        yield [write_image(node, folder).results for node in prepared]


def _release(document: Path) -> Release:
    """The release that a node image was built for. Raises PiimgError when its record does not name it."""
    try:
        return Release(read_document(document)["release"])
    except (KeyError, ValueError):
        hint = f"piimg build --node {document.stem}"
        raise PiimgError(f"{document} is not the result of a build", hint) from None


def _agree(chosen: Sequence[Node], shell: bool, console: bool, keep: bool, as_json: bool) -> None:
    asked = [name for name, given in (("--shell", shell), ("--console", console), ("--keep", keep)) if given]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} exclude each other", "use one of them")
    if (shell or console) and len(chosen) > 1:
        raise UsageError(f"{asked[0]} is for one node", "name it with --node NAME")
    if (shell or console) and as_json:
        raise UsageError(f"{asked[0]} checks nothing, so there is no JSON", "omit --json")
    if console and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "--console needs a terminal", "without --console, a failed boot shows the last lines"
        )


def _wired(session: Session, chosen: list[Node], every: bool) -> list[Node]:
    """The nodes that can be booted. The others are left out of ``--all``, and refused by name."""
    gateway = session.cluster.gateway
    reasons = {
        node.name: "it is on the LAN by Wi-Fi"
        if node.lan_wifi
        else "its uplink is a VLAN"
        if gateway and gateway.node == node.name and "." in gateway.uplink
        else ""
        for node in chosen
    }
    wired = [node for node in chosen if not reasons[node.name]]
    for name, reason in reasons.items():
        if reason and (not every or not wired):
            raise UsageError(
                f"{name} cannot be booted in emulation: {reason}", "piimg plan shows what it gets"
            )
        if reason:
            session.reporter.emit(Message("warning", f"not booted: {reason}, which is not emulated", name))
    return wired


def _check_identity(file: Path) -> None:
    """Raise UsageError unless the file is regular: ssh would wait for a pipe."""
    try:
        check_regular(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "name your private SSH key") from error


def _identities(keys: KeyStore, credentials: Credentials) -> tuple[Path, ...]:
    """The private keys that log in: the cluster's own, or those whose public halves are among the user's."""
    wanted = {" ".join(line.split()[:2]) for line in credentials.authorized_keys}
    publics = [keys.user_key_file.with_name(f"{keys.user_key_file.name}.pub")]
    publics += sorted(ssh_folder().glob("*.pub"))
    found = []
    for public in publics:
        private = public.with_suffix("")
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if " ".join(read_regular(public, SMALL).decode().split()[:2]) in wanted and private.is_file():
                found.append(private)
    if not found and not os.environ.get("SSH_AUTH_SOCK"):
        raise UsageError(
            "none of your private keys belongs to the keys that may log in to the nodes",
            "name it with --identity FILE, or start an ssh-agent that has it",
        )
    return tuple(found)


def _note_kvm(session: Session, machine: Kind) -> None:
    if machine == "virt" and os.uname().machine == "aarch64" and not can_kvm():
        session.reporter.emit(
            Message(
                "info",
                "/dev/kvm cannot be used, so the nodes run in emulation, which is slower; "
                "to use it, join the group kvm: sudo adduser $USER kvm",
            )
        )


def _expected(
    session: Session, node: Node, release: Release, credentials: Credentials, image: Path
) -> Expected:
    plan = plan_node(session.cluster, node, release, credentials, session.workspace.overlays)
    # The gateway's address always answers: the gateway itself, or its stand-in.
    around = Surroundings(gateway=True, internet=False)
    return expect(session.cluster, plan, credentials, read_table(image).disk_id, around)


def _console(session: Session, board: Guest) -> None:
    session.reporter.say(f"{board.node.name}: Ctrl-] leaves the console and ends the node")
    session.settle()
    board.machine.power_on()
    attach(board.machine)
    if not board.machine.is_on:
        board.machine.check()  # says why


def _shell(session: Session, board: Guest) -> None:
    bring_up(board, session.reporter)
    session.settle()
    if board.login.shell() == LOST:  # also when the user switches the node off
        try:
            board.machine.wait_off(_POWER_OFF)
        except PiimgError as error:
            message = f"{board.node.name}: the login failed, or its connection was lost"
            raise PiimgError(message, error.hint) from error


def _save_page(page: ReportFile, text: str) -> None:
    """Save the page. A failure, such as a full disk, is only a warning: the results are printed."""
    try:
        page.write(text.encode())
    except BrokenPipeError:
        pass  # its reader, such as head, has what it wanted
    except OSError as error:
        echo(f"warning: the report could not be saved to {page.name}: {error.strerror}", err=True)


def _keep(guests: Sequence[Guest]) -> None:
    """Print how to log in, and wait for Ctrl-C."""
    for board in guests:
        if board.machine.is_on:
            echo(" ".join(_quoted(word) for word in board.login.command()), err=True)
    echo("running until Ctrl-C", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _table(proof: ClusterProof) -> str:
    """A row for each check, a column for each node; below the table errors and notes."""
    columns = [{outcome.check: outcome for outcome in node.outcomes} for node in proof.nodes]
    abouts = {outcome.check: outcome.about for node in proof.nodes for outcome in node.outcomes}
    rows = [
        [check, *(_cell(column.get(check)) for column in columns), about] for check, about in abouts.items()
    ]
    seen = any(outcome.seen for node in proof.nodes for outcome in node.outcomes)
    lines = [table(["CHECK", *(node.node for node in proof.nodes), "ABOUT"], rows)] if seen else []
    if proof.together:
        rows = [[outcome.check, _cell(outcome), outcome.about] for outcome in proof.together]
        lines += ["", table(["CHECK", "all", "ABOUT"], rows)]
    lines += [""] if lines else []
    for node in proof.nodes:
        lines += _remarks(node.node, node.outcomes)
        if node.trouble is not None:
            lines += [_named(node.node, node.trouble), *node.trouble.hint.splitlines()]
        took = "" if node.seconds is None else f", first login after {duration(node.seconds)}"
        lines.append(f"{node.node}: {'good' if node.good else 'NOT as it should be'}{took}")
    if proof.together:
        lines += _remarks("all", proof.together)
        good = all(outcome.good for outcome in proof.together)
        lines.append(f"all together: {'good' if good else 'NOT as they should be'}")
    return "\n".join(lines)


def _named(node: str, error: PiimgError) -> str:
    """The message of an error with the name of its node."""
    return error.message if isinstance(error, NodeError) else f"{node}: {error.message}"


def _remarks(subject: str, outcomes: Sequence[CheckResult]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.wrong:
            yield f"{subject}: {outcome.check}: {outcome.wrong}"
        elif outcome.remark and outcome.seen:
            yield f"{subject}: {outcome.check}: note: {outcome.remark}"


def _cell(outcome: CheckResult | None) -> str:
    if outcome is None or not outcome.seen:
        return "-"
    return "BAD" if outcome.wrong else "good"


def _document(machine: Kind, proof: ClusterProof) -> Mapping[str, object]:
    return {
        "format": 1,
        "machine": machine,
        "good": proof.good,
        "nodes": [_node_document(node) for node in proof.nodes],
        "cluster": [_outcome_document(outcome) for outcome in proof.together],
    }


def _node_document(proof: Proof) -> Mapping[str, object]:
    return {
        "node": proof.node,
        "good": proof.good,
        "seconds": None if proof.seconds is None else round(proof.seconds, 1),
        "memory": proof.memory,
        "error": None if proof.trouble is None else proof.trouble.message,
        "hint": None if proof.trouble is None else proof.trouble.hint,
        "checks": [_outcome_document(outcome) for outcome in proof.outcomes],
    }


def _outcome_document(outcome: CheckResult) -> Mapping[str, object]:
    return {
        "check": outcome.check,
        "about": outcome.about,
        "good": outcome.good if outcome.seen else None,
        "wrong": outcome.wrong,
        "remark": outcome.remark,
    }
