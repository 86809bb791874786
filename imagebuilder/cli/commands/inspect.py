"""`piimg inspect`: show the content of an image or a card."""

from pathlib import Path

from imagebuilder.cli.format import size
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.device.existing import unfinished_on
from imagebuilder.errors import PiimgError
from imagebuilder.image.base.examine import examine
from imagebuilder.image.base.findings import Finding
from imagebuilder.image.inspect import Inspection, inspect_image
from imagebuilder.text import printable


def inspect(subject: Path, as_json: bool) -> None:
    """Run ``piimg inspect``, called as ``usage/inspect.py`` says."""
    found = _inspected(subject)
    findings = _findings(subject, found)
    if as_json:
        listed = None if findings is None else [finding.document() for finding in findings]
        echo_json({**found.document(), "findings": listed})
    else:
        _print(found)
        _print_findings(findings)


def _inspected(subject: Path) -> Inspection:
    """The inspection; a PiimgError that says so for a card whose writing was interrupted."""
    try:
        return inspect_image(subject)
    except PiimgError as error:
        if isinstance(error.__cause__, OSError) or not subject.is_block_device():
            raise
        unfinished = unfinished_on(subject)
        if unfinished is None:
            raise
        what = unfinished.named() or "an image"
        raise PiimgError(
            f"{subject} holds nothing complete: the writing of {what} to it was interrupted",
            f"write it again: sudo piimg flash {subject}"
            + (f" --node {unfinished.node}" if unfinished.node else " --image FILE"),
        ) from error


def _findings(subject: Path, found: Inspection) -> tuple[Finding, ...] | None:
    """Findings about a base image; None for a node image or a card."""
    if found.identity or not subject.is_file():
        return None
    return examine(subject).findings


def _print_findings(findings: tuple[Finding, ...] | None) -> None:
    if findings is None:
        return
    echo("  as a base image:" if findings else "  as a base image: no problems")
    for finding in findings:
        echo(f"    {finding.weight.value:<8} {finding.name}: {finding.sentence}")
        echo(f"             {finding.remedy}")


def _print(found: Inspection) -> None:
    echo(f"{found.path}: {size(found.table.size)}, disk id {found.table.disk_id}")
    for partition in found.table.slices:
        kind, length = f"type {partition.type:02x}", size(partition.size)
        echo(f"  partition {partition.number}: {kind}, {length} at {partition.start}")
    echo(f"  release:   {found.release or 'not Raspberry Pi OS'}")
    identity = found.identity
    if identity:
        echo(f"  node:      {_shown(identity.get('node'))} of {_shown(identity.get('cluster'))}")
        echo(f"  manifest:  {_shown(identity.get('manifest'))[:16]}…")
    else:
        echo("  node:      none")
    if not found.firstboot:
        echo("  first boot: no results yet")
        return
    echo("  first boot:")
    scripts = found.firstboot.get("scripts")
    for script in scripts if isinstance(scripts, list) else []:
        if isinstance(script, dict):
            name, status, attempts, seconds = (
                _shown(script.get(key)) for key in ("name", "status", "attempts", "seconds")
            )
            echo(f"    {name:<24} {status:<8} attempts {attempts}, {seconds} s")


def _shown(value: object) -> str:
    """Text from a card, made printable: it is not trusted."""
    return printable(str(value), 64)
