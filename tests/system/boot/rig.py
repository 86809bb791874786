"""Booting nodes of a cluster folder from a test, as `piimg boot` does it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagebuilder.base.cache import Cache
from imagebuilder.boot.expected import Expected, Surroundings, expect
from imagebuilder.boot.machine import Hardware
from imagebuilder.boot.network import Service
from imagebuilder.boot.run import Lab, lab
from imagebuilder.events import Silent
from imagebuilder.image.partitions import read_table
from imagebuilder.model import Release
from imagebuilder.plan import plan_node
from tests.support.cluster import Place
from tests.system.boot.conftest import CACHE


@contextmanager
def laboratory(
    place: Place,
    names: Sequence[str],
    hardware: Hardware | None = None,
    services: tuple[Service, ...] = (),
    cache: Cache = CACHE,
) -> Iterator[Lab]:
    """A place to boot the nodes called ``names`` in."""
    cluster, credentials = place.workspace.cluster, place.credentials()
    with lab(
        cluster,
        [cluster.node(name) for name in names],
        cache=cache,
        host_keys={name: pair.public for name, pair in credentials.host_keys.items()},
        identities=(place.workspace.keys().user_key_file,),
        reporter=Silent(),
        hardware=hardware,
        services=services,
    ) as made:
        yield made


def expected(place: Place, name: str, release: str, image: Path | None = None) -> Expected:
    """What a node should be once it is booted; ``image`` is its node image unless it is the built one."""
    cluster, credentials = place.workspace.cluster, place.credentials()
    plan = plan_node(cluster, cluster.node(name), Release(release), credentials, place.workspace.overlays)
    disk_id = read_table(image or place.build / f"{name}.img").disk_id
    return expect(cluster, plan, credentials, disk_id, Surroundings(gateway=True, internet=False))
