"""A Slurm of one machine for the tests: installed, configured, started and ended, without systemd.

    python tests/slurm/daemons.py install # with apt, what is missing
    python tests/slurm/daemons.py start   # installs too, and prints SLURM_CONF=..., which the tests need
    python tests/slurm/daemons.py stop
    python tests/slurm/daemons.py test    # all of that, and the tests in between; arguments are pytest's

Needs root, and apt where Slurm is not installed. It has a munge and ports of its own, so that a Slurm
that runs on the machine is not disturbed. All it writes is in one folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: On a path that only root can write to, as munge demands, and short, as it holds a socket.
FOLDER = Path("/run/skdist-slurm")

#: Where the daemons are: not everybody's search path has it.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]

START_SECONDS = 30.0

CONFIGURATION = """
ClusterName=skdist
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=65536 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""


def install() -> None:
    """Install what is missing."""
    if all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "munged")):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], check=True, stdout=sys.stderr, timeout=300, env=environment)


def start(folder: Path) -> None:
    """Start the daemons; return when the node takes jobs."""
    install()
    stop(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    ports = free_ports(2)
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, controller_port=ports[0], node_port=ports[1])
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    os.environ["SLURM_CONF"] = str(configuration)
    places = {"key-file": key, "socket": folder / "munge.socket"} | {
        f"{kind}-file": folder / f"munge.{kind}" for kind in ("log", "pid", "seed")
    }
    spawn(folder, "munged", "--foreground", *(f"--{name}={path}" for name, path in places.items()))
    wait_for(lambda: places["socket"].exists(), folder, "munged")
    spawn(folder, "slurmctld", "-D")
    wait_for(lambda: answers("scontrol", "ping") is not None, folder, "slurmctld")
    spawn(folder, "slurmd", "-D", "-N", host)
    wait_for(lambda: "idle" in (answers("sinfo", "-h", "-o", "%T") or ""), folder, "slurmd")
    print(f"SLURM_CONF={configuration}")


def test(folder: Path, arguments: list[str]) -> int:
    """Run the tests on daemons of their own; return what pytest returns."""
    try:
        start(folder)
        return subprocess.run([sys.executable, "-m", "pytest", "tests/slurm", *arguments]).returncode
    finally:
        stop(folder)


def stop(folder: Path) -> None:
    """Cancel all jobs, end the daemons that `start` started, and remove the folder."""
    if (folder / "slurm.conf").exists():
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        answers("scancel", "--user=root")
        deadline = time.monotonic() + 10
        while answers("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
    for file in sorted(folder.glob("*.started"), reverse=True):
        end(int(file.read_text()), file.stem)
    shutil.rmtree(folder, ignore_errors=True)


def spawn(folder: Path, *command: str) -> None:
    """Start a daemon in a session of its own and note its process."""
    with open(folder / f"{command[0]}.out", "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    (folder / f"{command[0]}.started").write_text(str(process.pid))


def end(pid: int, name: str) -> None:
    """End a process, if it still is the one that was started."""
    for sign, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        while runs(pid, name) and time.monotonic() < deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
            time.sleep(0.1)


def runs(pid: int, name: str) -> bool:
    """Whether a process runs a program."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return Path(words[0].decode()).name.startswith(name)


def answers(*command: str) -> str | None:
    """Return what a command prints, None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def wait_for(condition: Callable[[], bool], folder: Path, name: str) -> None:
    """Wait until a daemon is up; say what it printed where it is not."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            said = "\n".join(
                file.read_text(errors="replace")
                for file in (folder / f"{name}.out", folder / f"{name}.log")
                if file.exists()
            )
            raise SystemExit(f"{name} is not up after {START_SECONDS:g} s:\n{said}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["install", "start", "stop", "test"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options, others = parser.parse_known_args()
    if options.action == "test":
        sys.exit(test(options.folder, others or ["-m", "slurm and not long"]))
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.action == "install":
        install()
    else:
        {"start": start, "stop": stop}[options.action](options.folder)
