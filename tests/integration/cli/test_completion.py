"""Completion in real shells at a real terminal, from the files that are installed, where shells find them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from imagebuilder.cli.main import piimg
from imagebuilder.system.loop import attached
from tests.support.checkout import TOP
from tests.support.terminal import Window, window

PIIMG = Path(sys.executable).with_name("piimg")
PROMPT = "ready>"
MANIFEST = TOP / "manifests" / "picluster.toml"

BASH = f"""
PS1='{PROMPT} '
bind 'set enable-bracketed-paste off'
bind 'set show-all-if-ambiguous on'
. /usr/share/bash-completion/bash_completion
"""
ZSH = f"""
PROMPT='{PROMPT} '
fpath=($SHARE/zsh/site-functions $fpath)
unsetopt list_ambiguous
autoload -U compinit
compinit -u -d $HOME/dump
"""
FISH = f"""
function fish_prompt; echo -n '{PROMPT} '; end
set -g fish_autosuggestion_enabled 0
set -g fish_greeting
"""
SHELLS = {
    "bash": (["bash", "--noprofile", "--rcfile", "{rc}", "-i"], BASH),
    "zsh": (["zsh", "-d", "-i"], ZSH),
    "fish": (["fish", "-i", "-C", "source {rc}"], FISH),
}


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The share folder, as `make install` lays it."""
    folder = tmp_path_factory.mktemp("share")
    subprocess.run([sys.executable, TOP / "scripts/make-share", folder], check=True)
    return folder


@contextmanager
def shell(name: str, share: Path, folder: Path) -> Iterator[Window]:
    """A shell in ``folder``, at a terminal of its own, that knows piimg by ``share``."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    with tempfile.TemporaryDirectory() as home, window(100, 30) as (seen, side):
        argv, settings = SHELLS[name]
        rc = Path(home) / (".zshrc" if name == "zsh" else "rc")
        rc.write_text(settings)
        # Else fish fills it, from all manual pages there are, while the folder is taken away.
        Path(home, ".local/share/fish/generated_completions").mkdir(parents=True)
        env = {
            "PATH": f"{PIIMG.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "ZDOTDIR": home,
            "SHARE": str(share),
            "XDG_DATA_DIRS": f"{share}:/usr/share",
            "XDG_CONFIG_HOME": home,
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
        }
        words = ["setsid", "--ctty", *(word.format(rc=rc) for word in argv)]
        with subprocess.Popen(words, stdin=side, stdout=side, stderr=side, env=env, cwd=folder) as running:
            try:
                seen.wait_for(lambda lines: PROMPT in lines[-1])
                yield seen
            finally:
                running.kill()


def type_in(seen: Window, text: str) -> None:
    os.write(seen.main, text.encode())


def clear(seen: Window) -> None:
    """Delete the line (Ctrl-U). Ctrl-C would be lost in a shell that still ends what a Tab began."""
    type_in(seen, "\x15")
    seen.wait_for(lambda lines: any(line.rstrip() == PROMPT for line in lines))


def completed(seen: Window, begun: str, whole: str) -> None:
    """Type ``begun`` and Tab, and see the line become ``whole``; then clear it."""
    type_in(seen, begun)
    seen.wait_for(lambda lines: any(f"{PROMPT} {begun}".rstrip() in line for line in lines))
    type_in(seen, "\t")
    seen.wait_for(lambda lines: any(line.rstrip() == f"{PROMPT} {whole}" for line in lines))
    clear(seen)


def offered(seen: Window, begun: str, wanted: set[str]) -> str:
    """Type ``begun`` and Tab, and see all of ``wanted``; gives what is on the screen, and clears it."""
    type_in(seen, f"{begun}\t")
    lines = seen.wait_for(lambda lines: wanted <= set(re.split(r"\s+", " ".join(lines))))
    clear(seen)
    return "\n".join(lines)


@pytest.mark.parametrize("name", SHELLS)
def test_commands_options_nodes_and_bases(name: str, share: Path, tmp_path: Path) -> None:
    shutil.copy(MANIFEST, tmp_path / "cluster.toml")
    with shell(name, share, tmp_path) as seen:
        completed(seen, "piimg bui", "piimg build")
        completed(seen, "piimg build --out", "piimg build --output")
        completed(seen, "piimg plan --node mas", "piimg plan --node master")
        completed(seen, "piimg build -n worker1 --node mas", "piimg build -n worker1 --node master")
        completed(seen, "piimg fetch raspios-bullseye-armh", "piimg fetch raspios-bullseye-armhf-lite")
        offered(seen, "piimg flash --node work", {f"worker{number}" for number in range(1, 6)})
        offered(seen, "piimg doctor ", {"build", "flash", "boot"})
        completed(seen, "piimg statu", "piimg status")
        completed(
            seen,
            "piimg status --base raspios-bullseye-armh",
            "piimg status --base raspios-bullseye-armhf-lite",
        )
        completed(seen, "piimg verify --al", "piimg verify --all")


@pytest.mark.parametrize("name", SHELLS)
def test_a_manifest_named_before_the_command_is_the_one_that_counts(
    name: str, share: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text('[[node]]\nname = "onlyone"\n')  # many errors, and one name
    with shell(name, share, tmp_path) as seen:
        completed(
            seen, "piimg --manifest other.toml plan -n on", "piimg --manifest other.toml plan -n onlyone"
        )


def test_behind_sudo(share: Path, tmp_path: Path) -> None:
    """Writing a card wants root, so that is where it is needed most. bash-completion hands the rest on."""
    shutil.copy(MANIFEST, tmp_path / "cluster.toml")
    with shell("bash", share, tmp_path) as seen:
        completed(seen, "sudo piimg flash --node mas", "sudo piimg flash --node master")


def answer(*words: str, folder: Path) -> list[str]:
    """What piimg answers a shell for the last of ``words``, and that it complains of nothing."""
    env = {**os.environ, "_PIIMG_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": shlex.join(["piimg", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run([PIIMG], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_cards_that_may_be_written(tmp_path: Path) -> None:
    """With --virtual, loop devices that have a file; not this machine's own disk."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    file = tmp_path / "card"
    file.touch()
    os.truncate(file, 64 << 20)
    with attached(file, direct_io=True) as device:
        for words in (["flash", "--virtual"], ["flash", "--virtual", "--node", "master"]):
            assert f"plain,{device}" in answer(*words, "/dev/", folder=tmp_path)
        assert answer("flash", "--virtual", str(device), str(device), folder=tmp_path) != [f"plain,{device}"]
        assert f"plain,{device}" not in answer("flash", "/dev/", folder=tmp_path)
        offered = answer("flash", "--virtual", "/dev/", folder=tmp_path)
        assert all(line.startswith("plain,/dev/loop") for line in offered)
    assert f"plain,{device}" not in answer("flash", "--virtual", "/dev/", folder=tmp_path)
    assert answer("inspect", "bui", folder=tmp_path) == ["file,bui"]


def test_where_there_is_nothing_to_offer_nothing_is_said(tmp_path: Path) -> None:
    """No manifest, one that is no TOML, one whose nodes have no names, a folder; a damaged catalogue."""
    assert answer("plan", "--node", "", folder=tmp_path) == []
    for text in ("[[node]\n", "node = 3\n", "[[node]]\nname = 7\n", "[[node]]\n", ""):
        (tmp_path / "cluster.toml").write_text(text)
        assert answer("plan", "--node", "", folder=tmp_path) == []
    assert answer("--manifest", "/", "plan", "--node", "", folder=tmp_path) == []
    (tmp_path / "images.toml").write_text("no = toml = at all")
    assert answer("fetch", "rasp", folder=tmp_path) == ["file,rasp"]


def test_every_option_for_a_node_offers_the_nodes(tmp_path: Path) -> None:
    shutil.copy(MANIFEST, tmp_path / "cluster.toml")
    with click.Context(piimg) as context:
        commands = {name: piimg.get_command(context, name) for name in piimg.list_commands(context)}
    takers = [
        name for name, one in commands.items() if one and any("--node" in each.opts for each in one.params)
    ]
    assert {"plan", "build", "boot", "flash", "verify"} <= set(takers)
    for name in takers:
        assert answer(name, "--node", "mas", folder=tmp_path) == ["plain,master"]
