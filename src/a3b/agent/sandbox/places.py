"""Which places of the machine commands see: what is hidden, and which toolchains below a home are shown after all.

All paths are resolved. Enter at `Places.of`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path

from a3b.errors import SandboxUnavailable
from a3b.files import read_text

MAX_LINKS = 4096  # looked at in one directory of programs
MAX_SOCKETS = 16_384  # lines of the kernel's list
PRIVATE = (Path("/tmp"), Path("/var/tmp"), Path("/dev"), Path("/proc"))  # of which commands have their own
SYSTEM = ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
          "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/tmp")  # fmt: skip
KERNEL = ("/dev", "/proc", "/sys", "/run")
SECRETS = """
    /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/sudoers /etc/sudoers.d /etc/security/opasswd
    /etc/ssl/private /etc/pki/tls/private /etc/letsencrypt /etc/kubernetes /etc/rancher /etc/docker /etc/wireguard
    /etc/openvpn /etc/ipsec.secrets /etc/ppp /etc/krb5.keytab /etc/netrc /etc/NetworkManager/system-connections
    /etc/wpa_supplicant /etc/cron.d /var/spool /var/mail /var/lib/docker /var/lib/kubelet /var/lib/containerd
    /var/lib/systemd /var/lib/NetworkManager /var/log/journal /var/backups
""".split()
SECRET_PATTERNS = ("/etc/ssh/ssh_host_*_key", "/mnt/?/Users", "/var/lib/*/.ssh", "/*/.ssh")
SHOWN_OF_RUN = ("/run/current-system", "/run/opengl-driver", "/run/wrappers")  # NixOS keeps its programs there
SECRET_VARIABLES = """
    XDG_RUNTIME_DIR GNUPGHOME AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE KUBECONFIG DOCKER_CONFIG
    GOOGLE_APPLICATION_CREDENTIALS CLOUDSDK_CONFIG AZURE_CONFIG_DIR HF_HOME HF_TOKEN_PATH NETRC PGPASSFILE
    XAUTHORITY ICEAUTHORITY SSH_AUTH_SOCK VAULT_CONFIG_PATH NPM_CONFIG_USERCONFIG PASSWORD_STORE_DIR
""".split()
INSTALLED = ("lib", "lib64", "libexec", "versions", "pyvenv.cfg", "toolchains", "installs")  # marks of a prefix
BROAD = ("", ".local", ".config", ".cache", ".local/share", ".local/state", "Library")  # of a home: never shown whole
RELATED = {  # what programs in a directory below a home need beside it
    ".cargo/bin": (".rustup/toolchains", ".rustup/settings.toml"),
    ".local/bin": (".local/lib",),
}
CREDENTIALS = """
    credentials credentials.toml credentials.json .npmrc .netrc .pypirc .yarnrc .yarnrc.yml .env auth.json token
    .git-credentials pip.conf uv.toml hosts.yml .ssh .gnupg .aws
""".split()


@dataclass(frozen=True)
class Places:
    """home: the directory behind which commands find their private one; hidden: directories and files in whose place
    commands find nothing; shown: what lies below them and is readable all the same; masked: files within `shown`."""

    home: Path
    hidden: tuple[Path, ...]
    shown: tuple[Path, ...]
    masked: tuple[Path, ...]

    @classmethod
    def of(
        cls, environment: Mapping[str, str], state: Path, roots: tuple[Path, ...], further: tuple[Path, ...] = ()
    ) -> Places:
        """state: A3B_HOME; roots: directories that commands may write, the workspace first; further: places that are
        hidden too."""
        home = Path(environment.get("HOME") or "/root").resolve()
        asked = [path for path in further if os.path.exists(path)]
        hidden = tuple(_outermost([*_hidden(environment, home, state.resolve()), *asked]))
        shown = tuple(_outermost(_shown(environment, home, hidden, roots)))
        return cls(home, hidden, shown, tuple(_credentials_in(shown)))

    def present(self) -> Places:
        """The same as the machine is now: programs have begun to listen, and files have gone, since it was looked
        through. What is not there cannot be mounted over, and need not be."""
        sockets = list(_sockets())
        hidden = _outermost([*filter(os.path.lexists, self.hidden), *sockets])
        shown = tuple(filter(os.path.exists, self.shown))
        seen = [path for path in sockets if any(path.is_relative_to(place) for place in shown)]
        masked = sorted({*filter(os.path.lexists, self.masked), *seen})
        return Places(self.home, tuple(hidden), shown, tuple(masked))


def own_code() -> tuple[Path, ...]:
    """What the running agent loads code from: its interpreter, its environment and its package."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable)))
    return (*(Path(prefix).resolve() for prefix in prefixes), Path(__file__).resolve().parents[2])


def check_workspace(workspace: Path, home: Path, state: Path) -> None:
    """Raises SandboxUnavailable for a directory that cannot be given to commands without giving them what is secret."""
    reason = ""
    if str(workspace) in SYSTEM or any(workspace.is_relative_to(place) for place in KERNEL):
        reason = "belongs to the system"
    elif home.is_relative_to(workspace):
        reason = f"contains the home directory {home}" if home != workspace else "is the home directory"
    elif state.is_relative_to(workspace) or workspace.is_relative_to(state):
        reason = f"and the state of a3b in {state} contain each other"
    if reason:
        raise SandboxUnavailable(
            f"no sandbox for {workspace}: it {reason}, and commands may write in the whole directory. "
            "Start in the directory of one project, or without a sandbox by --yolo"
        )


def _hidden(environment: Mapping[str, str], home: Path, state: Path) -> Iterator[Path]:
    yield home
    for place in ("/root", "/home", "/run", "/var/run", *SECRETS, *(n for p in SECRET_PATTERNS for n in glob(p))):
        if os.path.lexists(place):
            yield Path(place).resolve()
    if os.path.exists(state):
        yield state
    for name in SECRET_VARIABLES:
        path = Path(environment.get(name, ""))
        if path.is_absolute() and str(path.resolve()) not in SYSTEM and os.path.exists(path):
            yield path.resolve()
    yield from _other_homes()


def _sockets() -> Iterator[Path]:
    """Sockets that programs of this machine listen on. A namespace of the network does not keep commands from them, nor
    does a mount that is read-only."""
    with suppress(OSError), open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        for line in islice(file, MAX_SOCKETS):
            fields = line.rstrip("\n").split(maxsplit=7)  # the last is the path, as it was given
            if len(fields) == 8 and fields[7].startswith("/"):
                path = Path(fields[7]).resolve()
                if not any(path.is_relative_to(place) for place in PRIVATE) and path.is_socket():
                    yield path


def _other_homes() -> Iterator[Path]:
    """Homes of people, of which /etc/passwd may put some elsewhere than in /home."""
    with suppress(OSError, UnicodeDecodeError):
        for line in read_text("/etc/passwd").splitlines():
            fields = line.split(":")
            if len(fields) == 7 and fields[2].isdigit() and 1000 <= int(fields[2]) < 65534:
                path = Path(fields[5])
                if path.is_absolute() and os.path.isdir(path) and str(path.resolve()) not in SYSTEM:
                    yield path.resolve()


def _shown(
    environment: Mapping[str, str], home: Path, hidden: tuple[Path, ...], roots: tuple[Path, ...]
) -> Iterator[Path]:
    workspace = roots[0]
    programs = [Path(part) for part in environment.get("PATH", "").split(":") if part.startswith("/")]
    programs += [workspace / name / "bin" for name in (".venv", "venv", "env")]
    found = list(own_code())
    for directory in programs:
        if any(path.is_relative_to(root) for path in (directory, directory.resolve()) for root in roots):
            found += _environment_of(directory)
        else:
            found += [directory, *_link_targets(directory)]
    for place in found:
        place = place.resolve()
        below = any(place.is_relative_to(cover) for cover in (*hidden, *PRIVATE))
        if below and os.path.exists(place) and not place.is_relative_to(workspace):
            yield from (path for path in _prefix(place, home) if not workspace.is_relative_to(path))
    for place in map(Path, SHOWN_OF_RUN):
        if os.path.exists(place):
            yield place


def _environment_of(directory: Path) -> Iterator[Path]:
    """Of an environment that commands may write: itself, if it is one, and the Python that it links to. Whoever wrote
    it made its links, and must not choose what of a home is shown by them."""
    real = directory.resolve()
    if real.name == "bin" and (real.parent / "pyvenv.cfg").is_file():
        yield real
    for name in ("python", "python3"):
        target = (real / name).resolve()
        if target.parent.name == "bin" and any(target.parent.parent.glob("lib/*/os.py")):
            yield target.parent


def _link_targets(directory: Path) -> Iterator[Path]:
    """Where links in a directory of programs lead: `~/.local/bin/tool` to the tool's own environment."""
    with suppress(OSError), os.scandir(directory) as entries:
        for _, entry in zip(range(MAX_LINKS), entries, strict=False):
            if entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                if target.parent != directory:
                    yield target.parent if target.parent.name in ("bin", "shims") else target


def _prefix(place: Path, home: Path) -> list[Path]:
    """What has to be readable so that programs in `place` run: where it looks like one, the whole installation."""
    inside = str(place.relative_to(home)) if place.is_relative_to(home) else None
    related = [home / name for name in RELATED.get(inside or "", ()) if os.path.exists(home / name)]
    parent = place.parent
    is_broad = parent == home or (parent.is_relative_to(home) and str(parent.relative_to(home)) in BROAD)
    if (
        place.name in ("bin", "shims", ".bin")
        and not is_broad
        and any(os.path.exists(parent / mark) for mark in INSTALLED)
    ):
        return [parent, *related]
    if inside is not None and inside.removeprefix(".") in BROAD:
        return related
    return [place, *related]


def _credentials_in(shown: Iterable[Path]) -> Iterator[Path]:
    for place in shown:
        for directory in (place, *(Path(entry) for entry in glob(f"{place}/*/") if not entry.endswith("/bin/"))):
            for name in CREDENTIALS:
                if os.path.lexists(directory / name) and not (directory / name).is_symlink():
                    yield directory / name


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lie below another."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def open_places(places: Places) -> list[Path]:
    """The largest directories and files that contain nothing hidden or masked: for rules that can only allow.

    What a user cannot read anyhow is not hidden from him by leaving out the directory above it."""
    hidden = [path for path in places.hidden if os.access(path, os.R_OK)]
    found = list(_without(Path("/"), hidden))
    for place in places.shown:
        found += _without(place, list(places.masked))
    return found


def _without(place: Path, covers: list[Path]) -> Iterator[Path]:
    if place in covers:
        return
    if not any(cover.is_relative_to(place) for cover in covers):
        yield place
        return
    with suppress(OSError):
        for child in place.iterdir():
            if not child.is_symlink():
                yield from _without(child, covers)
