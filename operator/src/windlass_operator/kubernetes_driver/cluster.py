"""What was seen last of the cluster: by lists, which are complete, and by watches, which are quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from windlass_operator.driving.samples import Samples
from windlass_operator.driving.view import ServerView
from windlass_operator.engine.interface import SeenModelVersion, SeenReplica, SeenTemplate

from .objects import Named, SeenDeployment, SeenObject, SeenPod

T = TypeVar("T", bound=Named)

UNTOLD = (
    "the Pods of Deployment {} aren't told their revision: upgrade chart windlass-server, or give them the variable "
    "WINDLASS_REVISION from metadata.annotations['windlass.dev/revision']"
)

SamplesOf = Callable[[SeenObject], Samples]


class Seen(Generic[T]):
    """The objects of one kind. Lists and watches overtake each other; the larger resource version is the newer."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], T] = {}
        self._gone: dict[tuple[str, str], int] = {}
        """Resource versions at which objects were deleted, until a later list."""

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def get(self, namespace: str, name: str) -> T | None:
        """One object."""
        return self._objects.get((namespace, name))

    def put(self, item: T) -> T | None:
        """Takes an object that is there, unless something newer is known; returns what it replaces."""
        before = self._objects.get(item.id)
        if item.version < self._gone.get(item.id, 0) or (before is not None and item.version <= before.version):
            return before
        self._objects[item.id] = item
        return before

    def drop(self, item: T) -> None:
        """Takes an object's deletion."""
        known = self._objects.get(item.id)
        if known is None or item.version >= known.version:
            self._objects.pop(item.id, None)
            self._gone[item.id] = item.version

    def replace(self, items: Iterable[T], at: int, namespace: str | None) -> None:
        """Takes a complete list, of one namespace or of all, that was made at resource version `at`."""
        listed = {item.id: item for item in items}
        for key, known in list(self._objects.items()):
            if (namespace is None or key[0] == namespace) and key not in listed and known.version <= at:
                del self._objects[key]
        for item in listed.values():
            self.put(item)
        self._gone = {key: version for key, version in self._gone.items() if version > at}

    def forget(self, namespace: str) -> None:
        """A namespace is gone, with all that was in it."""
        self._objects = {key: item for key, item in self._objects.items() if key[0] != namespace}


@dataclass
class Cluster:
    """All that was seen."""

    model_versions: Seen[SeenObject] = field(default_factory=Seen)
    pods: Seen[SeenPod] = field(default_factory=Seen)
    deployments: Seen[SeenDeployment] = field(default_factory=Seen)

    def servers(self) -> set[str]:
        """Keys of the servers that anything names: `<namespace>/<server>`."""
        named = (*self.model_versions, *self.pods, *self.deployments)
        return {f"{each.namespace}/{each.server}" for each in named if each.server}

    def forget(self, namespace: str) -> None:
        """A namespace is gone, with all that was in it."""
        for seen in (self.model_versions, self.pods, self.deployments):
            seen.forget(namespace)

    def namespaces(self) -> set[str]:
        """Namespaces with a server or a ModelVersion."""
        return {each.namespace for each in (*self.model_versions, *self.pods, *self.deployments)}

    def of_server(self, key: str) -> list[SeenObject]:
        """The ModelVersions of a server, by name."""
        namespace, _, server = key.partition("/")
        found = [each for each in self.model_versions if each.namespace == namespace and each.server == server]
        return sorted(found, key=lambda each: each.name)

    def grouped(self) -> Mapping[str, list[SeenObject]]:
        """The ModelVersions of each server."""
        groups: dict[str, list[SeenObject]] = {}
        for each in self.model_versions:
            groups.setdefault(f"{each.namespace}/{each.server}", []).append(each)
        return groups

    def absence(self, key: str) -> str:
        """Why no replica of a server is heard of, as far as the cluster shows it; empty: it doesn't."""
        namespace, _, server = key.partition("/")
        pods = [each for each in self.pods if each.namespace == namespace and each.server == server and not each.ended]
        wanted = [each for each in self.deployments if each.namespace == namespace and each.server == server]
        if pods:
            return (
                f"there are {len(pods)} Pods, and none has reported: look at their logs and their way to the operator"
            )
        if not wanted:
            return f"no Deployment and no Pod has the label windlass.dev/server: {server} in namespace {namespace}"
        names = ", ".join(each.name for each in wanted)
        if not any(each.wanted for each in wanted):
            return f"Deployment {names} is scaled to 0"
        return f"Deployment {names} has no Pod: kubectl describe says why"

    def deployments_of(self, key: str) -> list[SeenDeployment]:
        """The Deployments of a server, by name."""
        namespace, _, server = key.partition("/")
        found = [each for each in self.deployments if each.namespace == namespace and each.server == server]
        return sorted(found, key=_name)

    def template(self, key: str, forbidden: str) -> SeenTemplate:
        """What a server's Pods are made from. `forbidden`: why it can't be changed anyway."""
        found = self.deployments_of(key)
        if len(found) == 1:
            silent = "" if found[0].tells_revision else UNTOLD.format(found[0].name)
            return SeenTemplate(found[0].revision, forbidden or silent, found[0].image)
        server = key.partition("/")[2]
        names = ", ".join(each.name for each in found)
        problem = (
            f"more than one Deployment has the label windlass.dev/server: {server} ({names})"
            if found
            else f"no Deployment has the label windlass.dev/server: {server}"
        )
        return SeenTemplate("", forbidden or problem)

    def view(self, key: str, samples_of: SamplesOf, blind: str = "", no_restarts: str = "") -> ServerView:
        """What there is for a server. `blind`: why its namespace can't be seen now; `no_restarts`: why Pod templates
        can't be changed.
        """
        namespace, _, server = key.partition("/")
        seen, decisions, offered, problems = [], [], {}, [blind] if blind else []
        for each in self.of_server(key):
            decisions += [decision for decision in each.decisions if decision.server == server]
            if each.model_version is None:
                problems.append(f"ModelVersion {each.problem}")
                continue
            samples = samples_of(each)
            if samples.digest is not None:
                offered[samples.digest] = samples.data
            seen.append(SeenModelVersion(each.model_version, each.generation, samples.digest, samples.problem))
        unreadable = [each for each in self.model_versions if each.namespace == namespace and not each.server]
        problems += [f"ModelVersion {each.problem}" for each in unreadable]
        pods = sorted((pod for pod in self.pods if pod.namespace == namespace and pod.server == server), key=_name)
        return ServerView(
            model_versions=tuple(seen),
            # Annotations have no order of their own; by their times people find what they expect.
            decisions=tuple(sorted(decisions, key=lambda each: (each.at, each.id))),
            frozen="; ".join(problems)[:2000],
            samples=offered,
            template=self.template(key, no_restarts),
            replicas=tuple(SeenReplica(pod.name, pod.ready) for pod in pods if not pod.ended),
        )


def _name(item: Named) -> str:
    return item.name
