"""Up, down, status, versions, env."""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from windlass_lab import engine, images, packages, tools
from windlass_lab.behind import report as versions_report
from windlass_lab.choice import choose
from windlass_lab.cluster import DEFAULT_WORKERS, Cluster, check_name
from windlass_lab.errors import CommandError, LabError
from windlass_lab.extras import Extras, names
from windlass_lab.home import SOCKET, Home, Mode, State, duration
from windlass_lab.node_image import NodeImage
from windlass_lab.steps import Step, table, take
from windlass_lab.versions import Versions, load


def say(text: str) -> None:
    """A line for people, on standard error: standard output is for what scripts read."""
    sys.stderr.write(text + "\n")


class Lab:
    """One lab: its folder, its versions, and what stands."""

    def __init__(self) -> None:
        self.home = Home.of_environment()
        self.versions: Versions = load()
        self.state = State.read(self.home)
        self.mode: Mode = self.state.mode or "built"

    def cluster(self) -> Cluster:
        """The lab's cluster, reached through its own commands."""
        return Cluster(self.home, self.versions, self.state, self.environment())

    def environment(self) -> dict[str, str]:
        """What a command needs to reach the lab."""
        return self.home.environment(self.mode)

    # --- up --------------------------------------------------------------------------------------------------

    def build_tools(self) -> None:
        """Builds the commands of a `built` lab and starts nothing: it may be done while another lab stands."""
        if self.state.mode == "system":
            raise LabError("the lab stands as system, which builds no commands; run `make lab-down` first")
        say(f"lab: the commands of a built one; folder {self.home.path}")
        os.environ.update(self.home.environment("built"))
        self._announce_installs()
        self.home.make()
        took = take(self._tool_steps(), self.home, self.state)
        say(f"the commands are built ({duration(took)}); `make lab` starts what they are for")

    def up(self, workers: int | None, extras: list[str], *, dry: bool) -> None:
        """Brings everything up, and these extras; `dry` only says what it would do."""
        choice = choose(self.home, self.versions, self.state)
        check_name(self.state)
        say(f"lab: {choice.mode} ({choice.why}); folder {self.home.path}")
        self.mode = choice.mode
        os.environ.update(self.environment())
        machines = self._machines_engine() if self.mode == "system" else None
        # somebody else's engine at the socket is found before anything is built
        own = None if machines else engine.own(self.home)
        steps = [*self._steps(machines, workers), *Extras(self.home, self.versions, self.mode).steps(extras)]
        self._announce(machines, own, workers)
        if dry:
            return
        if machines is None and own is None:
            engine.check_root()  # rather than after 20 minutes of building
        self.home.make()
        before = dict(self.state.seconds)
        took = take(steps, self.home, self.state)
        fresh = {name: seconds for name, seconds in self.state.seconds.items() if before.get(name) != seconds}
        if len(fresh) > 1:
            say("\nwhat took how long:\n" + table(fresh))
        say(f'the lab stands ({duration(took)}). For your shell:  eval "$(make -s lab-env)"')

    def _machines_engine(self) -> engine.Engine:
        """The engine of a `system` lab. Raises `LabError` when none answers, or another than the lab stands on."""
        found = engine.ask(self.environment())
        if found is None:
            raise LabError("no Docker Engine answers any more; start it (`make lab-down` needs it as well)")
        if self.state.engine_id not in ("", found.id):
            raise LabError(
                f"the lab stands on another Docker Engine ({self.state.engine_name!r}) than the one that answers "
                f"({found.name!r}); switch your docker context back, or run `make lab-down` there first"
            )
        return found

    def _steps(self, machines: engine.Engine | None, workers: int | None) -> list[Step]:
        """All steps, on the machine's engine or else on one that the lab builds."""
        if machines is not None:
            self.cluster().check_not_foreign()  # before anything is pulled
            pulled = images.pull([self.versions.python, self.versions.node], self.environment(), self.home)
            return [*pulled, self._noted(self.cluster().step(workers), machines)]
        return [
            *self._tool_steps(),
            self._noted(engine.step(self.home, self.state)),
            *self._image_steps(),
            self.cluster().step(workers),
        ]

    def _image_steps(self) -> list[Step]:
        """The images of a built lab, the nodes' last."""
        node = NodeImage(self.home, self.versions, tools.Go(self.home, self.versions))
        return [*images.steps(self.home, self.versions), node.step()]

    def _noted(self, step: Step, machines: engine.Engine | None = None) -> Step:
        """The step, noting first that a lab stands: before it nothing was made that `down` would have to take away.

        So who is refused before (no root, no such image) may choose the other mode at once.
        """

        def act() -> None:
            self.state.mode = self.mode
            if machines is not None:
                self.state.engine_id, self.state.engine_name = machines.id, machines.name
            self.state.write(self.home)
            step.act()

        return Step(step.name, step.done, act)

    def _tool_steps(self) -> list[Step]:
        """What of a built lab needs no engine."""
        go = tools.Go(self.home, self.versions)
        return [
            packages.step(self.home, go.command() is not None),
            Step("Go", lambda: go.command() is not None, go.fetch),
            *(tools.step(family, self.home, go) for family in tools.families(self.versions)),
        ]

    def _announce(self, machines: engine.Engine | None, own: engine.Engine | None, workers: int | None) -> None:
        """What is about to happen to the machine, before it happens."""
        if machines is not None:
            say(f"  uses the Docker Engine {machines.name!r} and docker, kind, kubectl and helm from the PATH")
            if self.state.mode is None:
                say(f"  will pull {self.versions.python} and {self.versions.node}")
            self._announce_cluster(workers, look=True)
            return
        to_build = self._announce_installs()
        if own is None and engine.daemon(self.home) is None:
            say(
                f"  will start a Docker Engine at {SOCKET} with its data in {self.home.engine_data}; "
                "its networks and firewall rules are Docker's usual ones"
            )
        if own and (engine.is_outdated(own, self.home) or any(family.module == "engine" for family in to_build)):
            say("  will restart the lab's Docker Engine, which stops all its containers: its commands changed")
        look = own is not None and engine.works(self.home)
        self._announce_cluster(workers, look=look, rebuilt=bool(to_build))

    def _announce_cluster(self, workers: int | None, *, look: bool, rebuilt: bool = False) -> None:
        """What becomes of the cluster. `look`: an engine can be asked; `rebuilt`: what goes into its nodes will be."""
        cluster = self.cluster()
        count = cluster.size(workers)
        if not self.state.nodes or (look and not cluster.is_ours()):
            say(f"  will create a kind cluster with {count} workers")
            return
        why = cluster.outdated(workers, look=look)
        if not why and self.mode == "built":
            rebuilt = rebuilt or (look and any(not step.done() for step in self._image_steps()))
            why = "its node image is made anew" if rebuilt else ""
        if why:
            say(f"  will delete the kind cluster {cluster.name!r} and create it anew with {count} workers: {why}")
        elif not look:
            say("  will start the cluster's nodes again, or create it anew should their image have changed")

    def _announce_installs(self) -> list[tools.Family]:
        """The Debian packages and commands that a built lab lacks yet. Returns the latter."""
        go = tools.Go(self.home, self.versions)
        lacking = packages.missing(go.command() is not None)
        if lacking:
            say(f"  will install Debian packages: {' '.join(lacking)}")
        to_build = [family for family in tools.families(self.versions) if not tools.step(family, self.home, go).done()]
        if to_build:
            titles = ", ".join(family.title for family in to_build)
            say(f"  will build from Go modules into {self.home.path}: {titles}")
            say("  (about 20 minutes on two cores the first time; some 15 GB in all with Go's caches)")
        return to_build

    # --- down, status ----------------------------------------------------------------------------------------

    def down(self) -> None:
        """Takes the cluster away and stops the lab's own engine. What was built and pulled stays."""
        if self.state.mode is None:
            say("no lab stands here")
            return
        os.environ.update(self.environment())
        if self._started_nothing():
            say("the lab's engine never ran, so there is nothing to take away")
        else:
            self._take_away()
        self.state.mode = None
        self.state.engine_id = self.state.engine_name = ""
        self.state.cluster, self.state.workers, self.state.nodes = "", 0, {}
        self.state.write(self.home)
        say(f"down. What was built stays in {self.home.path}; remove that folder to be rid of it")

    def _started_nothing(self) -> bool:
        """Whether a built lab didn't get as far as its engine, so that another's at the socket is no concern of it."""
        state = self.state
        known = state.engine_id or state.cluster or state.nodes
        return self.mode == "built" and not known and engine.daemon(self.home) is None

    def _take_away(self) -> None:
        if self.mode == "built" and engine.own(self.home) is None and engine.daemon(self.home) is None:
            say("the engine isn't running; starting it once to take its containers down with it")
            engine.start(self.home)
        cluster = self.cluster()
        if cluster.nodes():
            cluster.delete()
            say(f"kind cluster {cluster.name} deleted")
        if self.mode == "built" and engine.stop(self.home):
            say("Docker Engine stopped")

    def status(self) -> bool:
        """Says what stands. Returns whether all of it does."""
        if self.state.mode is None:
            say(f"no lab stands (folder {self.home.path}); `make lab` starts one")
            return False
        os.environ.update(self.environment())
        found = engine.ask(self.environment())
        engine_well = found is not None and found.id == self.state.engine_id
        say(f"lab: {self.mode}; folder {self.home.path}")
        if found is None:
            say("  engine:  none answers")
            return False
        whose = "" if engine_well else ": not the one of the lab"
        say(f"  engine:  Docker Engine {found.version}, {found.name!r}{whose}")
        if not engine_well:
            return False
        cluster = self.cluster()
        if not cluster.is_ours():
            say(f"  cluster: no {cluster.name!r} of this lab")
            return False
        if not cluster.answers():
            say(f"  cluster: {cluster.name} with {self.state.workers} workers; its API server doesn't answer")
            return False
        lacking = cluster.unready()
        how = f"not ready: {', '.join(lacking)}" if lacking else "ready"
        say(f"  cluster: {cluster.name}, Kubernetes {self.versions.kubernetes}, {self.state.workers} workers: {how}")
        return not lacking

    def print_environment(self) -> None:
        """Lines for a shell to evaluate."""
        for name, value in self.environment().items():
            text = f"{shlex.quote(str(self.home.bin))}:$PATH" if name == "PATH" else shlex.quote(value)
            sys.stdout.write(f"export {name}={text}\n")


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """Lets one `up` or `down` work on a lab at a time. Raises `LabError` when another does."""
    home.path.mkdir(parents=True, exist_ok=True)
    with (home.path / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another `make lab` or `make lab-down` is at work on {home.path}; wait for it") from error
        os.set_inheritable(lock.fileno(), False)
        yield


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 1 when it couldn't or the lab isn't well, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="windlass_lab", description="A real Docker Engine and a real kind cluster for Windlass' tests."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up; what is done is skipped, what was interrupted goes on")
    up.add_argument(
        "--workers",
        type=int,
        choices=range(6),
        help=f"nodes beside the control plane (default: as it stands, else {DEFAULT_WORKERS})",
    )
    up.add_argument(
        "--extras",
        nargs="*",
        default=[],
        metavar="NAME",
        help="also what only some tests need: all, or names (default: none; the tests make it when they need it)",
    )
    up.add_argument("--dry-run", action="store_true", help="only say what it would do")
    commands.add_parser("tools", help="only build the commands of a built lab; starts nothing")
    commands.add_parser("down", help="delete the cluster, stop the lab's engine; what was built stays")
    commands.add_parser("status", help="what stands; exit code 0 when all does")
    commands.add_parser("versions", help="the versions, and what is behind")
    commands.add_parser("env", help='lines for a shell: eval "$(… env)"')
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    try:
        return _carry_out(parsed)
    except CommandError as error:
        say(f"lab: {error}")
        return 1
    except LabError as error:
        say(f"lab: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"lab: interrupted after {duration(time.monotonic() - began)}; run it again and it goes on where it was")
        return 130


def _carry_out(parsed: argparse.Namespace) -> int:
    lab = Lab()
    match parsed.command:
        case "up":
            with alone(lab.home):
                wanted = names(lab.versions) if parsed.extras == ["all"] else parsed.extras
                Lab().up(parsed.workers, wanted, dry=parsed.dry_run)
        case "tools":
            with alone(lab.home):
                Lab().build_tools()
        case "down":
            with alone(lab.home):
                Lab().down()
        case "status":
            return 0 if lab.status() else 1
        case "versions":
            sys.stdout.write(versions_report(lab.home, lab.versions))
        case "env":
            lab.print_environment()
    return 0
