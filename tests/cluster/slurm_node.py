"""A SLURM of one node on this machine, from Debian's packages. It starts in seconds; all that it has is in a folder.

The node claims more CPUs than the machine has, and a GPU that is a file, so that the profile's requests can be met as
they are. Memory is enforced by what SLURM measures of a job's processes (no cgroups, which a container may not have).
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = {
    "setpriv": "util-linux",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
CONFIG = """\
ClusterName=scrflow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
KillWait=30
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=32000 Gres=gpu:1 Feature=fast State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=2-0 DefaultTime=10 State=UP
"""


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if os.getuid() != 0:
        return "a SLURM node is started by root"
    packages = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=_PATH)})
    if packages:
        return f"not installed: {' '.join(packages)} (Debian's packages)"
    taken = [str(ETC / name) for name in FILES if (ETC / name).exists() and not _left_over(ETC / name)]
    return f"this machine has a SLURM of its own ({', '.join(taken)})" if taken else ""


def _left_over(link: Path) -> bool:
    """Whether a node of ours left it that was killed with its tests: a link to its folder, where no munged runs."""
    folder = link.resolve().parent
    pid = folder / "munged.pid"
    runs = pid.exists() and Path("/proc", pid.read_text().strip()).exists()
    return link.is_symlink() and not runs and ((folder / "munge.key").exists() or not folder.exists())


class SlurmNode:
    """munged, slurmctld and slurmd, as children of this process; ``environment`` is what its commands need.

    Its configuration is linked into /etc/slurm while it runs: Snakemake's plugin keeps SLURM_CONF from srun.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"PATH": _PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._links: list[Path] = []

    def start(self) -> None:
        """Return when the node takes jobs."""
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        controller_port, node_port = _free_ports(2)
        values = {"host": host, "folder": self.folder, "controller_port": controller_port, "node_port": node_port}
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        (self.folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")
        ETC.mkdir(exist_ok=True)
        for name in FILES:
            (ETC / name).unlink(missing_ok=True)  # a link that a killed run left
            (ETC / name).symlink_to(self.folder / name)
            self._links.append(ETC / name)
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        munge = {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
        }
        options = [f"--{option}={self.folder / name}" for option, name in munge.items()]
        # --force: the folder above may be open to others, as /tmp is
        self._start("munged", "--foreground", "--force", *options, f"--log-file={self.folder / 'munged.log'}")
        self._wait("the authentication", lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-N", host)
        self._wait("the node", lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False))

    def stop(self) -> None:
        """Cancel what runs, and end the three daemons, the youngest first."""
        if len(self._daemons) == 3:
            self.run("scancel", "--user=root", check=False)
            end = time.monotonic() + 300
            while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(300)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for link in self._links:
            link.unlink(missing_ok=True)

    def run(self, *command: str, check: bool = True) -> str:
        """Output of one of SLURM's commands."""
        env = {**os.environ, **self.environment}
        return subprocess.run(command, env=env, check=check, text=True, capture_output=True, timeout=300).stdout

    def queue(self, form: str = "%i|%T") -> list[list[str]]:
        """A row for each job or array task that there was, by squeue's format with ``|`` between."""
        rows = self.run("squeue", "--array", "--states=all", "--noheader", "--sort=i", f"--format={form}").splitlines()
        return [[value.strip() for value in row.split("|")] for row in rows]

    def _start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.log", "wb") as out:
            env = {**os.environ, **self.environment}
            # it ends with this process, however this one ends
            tied = ["setpriv", "--pdeathsig", "TERM", *command]
            self._daemons.append(subprocess.Popen(tied, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL))

    def _wait(self, what: str, condition) -> None:
        end = time.monotonic() + 300
        while not condition():
            dead = [daemon.args[3] for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))
                raise RuntimeError(f"{what} does not come up ({', '.join(dead) or 'no program'} has ended):\n{logs}")
            time.sleep(0.1)


# where Debian has the daemons; a user's path may lack it
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
