"""Fetches what no Python package carries - jars and Debian programs - once per user, without root."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SetupError, Unavailable
from tidegate.localfiles import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent
_FETCH_S = 600  # seconds for one download step
_PACKAGES = ("prometheus", "prometheus-alertmanager")
_SHARE = b"/usr/share/prometheus/alertmanager"
# Debian's Alertmanager reads its templates under /usr, which a user without root cannot write. The same
# number of bytes, read from the working folder, points its copy at the unpacked templates instead.
_SHARE_RELATIVE = b"./././././././././././alertmanager"


@dataclass(frozen=True)
class Tool:
    """A program outside the Python environments."""

    command: Path
    version: str
    directory: Path | None = None
    """The working folder it must run in, if any."""


def folder() -> Path:
    """The user's cache: $XDG_CACHE_HOME/tidegate or ~/.cache/tidegate."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"


def jars(name: str, beside: Path = _HERE) -> Path:
    """The folder with a Java program's jars, copied by Maven on first use.

    Args:
        name: kafka or hdfs; the versions stand in `<name>-pom.xml`.
        beside: the folder with that file.

    Raises:
        Unavailable: Maven could not fetch a jar.
    """
    pom = beside / f"{name}-pom.xml"
    target = _jar_folder(pom)
    with locked(folder() / f".{name}.lock"):
        if not target.exists():
            with _aside(target) as fresh:
                shutil.copy(pom, fresh / "pom.xml")
                goal = ("dependency:copy-dependencies", f"-DoutputDirectory={fresh}", "-DincludeScope=runtime")
                _fetch(("mvn", "-q", "-B", "-ntp", "-f", str(fresh / "pom.xml"), *goal), f"{name}'s jars")
    return target


def has_jars() -> bool:
    """Whether Maven has nothing left to fetch."""
    return all(_jar_folder(_HERE / f"{name}-pom.xml").exists() for name in ("kafka", "hdfs"))


def prometheus() -> Tool:
    """Prometheus, from PATH or from Debian's package."""
    return _from_path("prometheus") or _debian("prometheus", "prometheus")


def alertmanager() -> Tool:
    """Alertmanager, from PATH or from Debian's package with its template folder made relative."""
    on_path = _from_path("alertmanager") or _from_path("prometheus-alertmanager")
    if on_path:
        return on_path
    tool = _debian("prometheus-alertmanager", "alertmanager-relative")
    return Tool(tool.command, tool.version, _unpacked() / "usr" / "share" / "prometheus")


def _jar_folder(pom: Path) -> Path:
    return (
        folder() / "jars" / f"{pom.name.removesuffix('-pom.xml')}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    )


def _from_path(name: str) -> Tool | None:
    found = shutil.which(name)
    if not found:
        return None
    told = subprocess.run((found, "--version"), capture_output=True, text=True, timeout=10, check=False)
    words = (told.stdout + told.stderr).split()  # "prometheus, version 2.42.0 (branch: ..."
    return Tool(Path(found), words[words.index("version") + 1] if "version" in words else "unknown")


def _debian(package: str, binary: str) -> Tool:
    with locked(folder() / ".debian.lock"):
        root = _unpacked()
        if not root.exists():
            with _aside(root) as fresh:
                _unpack(fresh)
    version = (root / f"{package}.version").read_text(encoding="utf-8").strip()
    return Tool(root / "usr" / "bin" / binary, version)


def _unpacked() -> Path:
    return folder() / "debian" / "prometheus-2"  # the number grows when the unpacked layout changes


def _unpack(root: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SetupError(
            "prometheus and alertmanager are not on PATH and there is no apt-get to fetch them. "
            "Remedy: install both from https://prometheus.io/download and put them on PATH"
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-apt-") as work:
        downloaded = Path(work)
        if not _download(downloaded, ()):
            options = _private_lists()
            # One broken third-party source fails the update as a whole: what counts is the download.
            update = ("apt-get", *options, "update", "-qq")
            told = subprocess.run(update, capture_output=True, text=True, timeout=_FETCH_S, check=False).stderr
            if not _download(downloaded, options):
                raise Unavailable(
                    f"apt-get could not download {' and '.join(_PACKAGES)}: {told.strip()[-400:]}. "
                    "Remedy: check the network, "
                    "or install them: apt-get install " + " ".join(_PACKAGES)
                )
        for package in sorted(downloaded.glob("*.deb")):
            name, version, _ = package.name.split("_", 2)
            _fetch(("dpkg-deb", "-x", str(package), str(root)), package.name)
            (root / f"{name}.version").write_text(version.replace("%3a", ":").split("+")[0].split("-")[0])
    original = root / "usr" / "bin" / "prometheus-alertmanager"
    patched = original.with_name("alertmanager-relative")
    patched.write_bytes(original.read_bytes().replace(_SHARE, _SHARE_RELATIVE))
    patched.chmod(0o755)


def _download(into: Path, options: tuple[str, ...]) -> bool:
    command = ("apt-get", *options, "download", *_PACKAGES)
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    return done.returncode == 0 and len(list(into.glob("*.deb"))) == len(_PACKAGES)


def _private_lists() -> tuple[str, ...]:
    state = folder() / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    settings = (f"Dir::State::Lists={state}/lists", f"Dir::Cache={state}/cache", "APT::Sandbox::User=")
    return tuple(word for setting in settings for word in ("-o", setting))


def _fetch(command: tuple[str, ...], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{command[0]} did not fetch {what} within {_FETCH_S} s. Remedy: check the network and run again"
        ) from error
    if done.returncode:
        raise Unavailable(
            f"{command[0]} could not fetch {what}: {(done.stderr or done.stdout).strip()[-800:]}. "
            "Remedy: check the network and the mirror settings, then run again"
        )


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` only when everything in it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield fresh
        fresh.chmod(0o755)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
