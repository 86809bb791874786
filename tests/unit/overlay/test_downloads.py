"""Downloads of a layer: URL and digest, also by templates."""

from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.software import Download
from tests.unit.overlay.making import merged, write


def test_a_download_may_have_its_url_and_digest_from_the_manifest(tmp_path: Path) -> None:
    digest = "0" * 64
    toml = """
        [[downloads]]
        url = "https://e.org/{{ 'v1+k3s1' | urlencode }}/{{ node.name }}"
        sha256 = "{{ '0' * 64 }}"
        path = "root/usr/bin/x"
    """
    (entry,) = merged(write(tmp_path / "mine", {"layer.toml": toml}))
    assert entry.download == Download("https://e.org/v1%2Bk3s1/master", digest)


def test_a_download_may_be_chosen_by_statements(tmp_path: Path) -> None:
    toml = f"""
        [[downloads]]
        url = "https://e.org/{{% if node.is_gateway %}}server{{% else %}}agent{{% endif %}}"
        sha256 = "{{% if node.is_gateway %}}{"0" * 64}{{% else %}}{"1" * 64}{{% endif %}}"
        path = "root/usr/bin/x"
    """
    folder = write(tmp_path / "mine", {"layer.toml": toml})
    (server,), (agent,) = (merged(folder, node=name) for name in ("master", "worker1"))
    assert server.download == Download("https://e.org/server", "0" * 64)
    assert agent.download == Download("https://e.org/agent", "1" * 64)


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ("", "correct the template"),
        ('[vars.place]\nabout = "where it is"', "correct it in [vars] of the manifest"),
    ],
)
def test_a_wrong_url_is_corrected_where_it_is_from(variables: str, hint: str, tmp_path: Path) -> None:
    toml = f'{variables}\n[[downloads]]\nurl = "{{{{ node.name }}}}"\nsha256 = "{"0" * 64}"\npath = "root/x"'
    with pytest.raises(UsageError, match="'master' is not a URL") as error:
        merged(write(tmp_path / "mine", {"layer.toml": toml}))
    assert error.value.hint == hint
