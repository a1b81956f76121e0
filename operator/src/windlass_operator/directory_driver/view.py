"""What the directory means for each server: what a pass over a server looks at besides the record and the reports."""

from __future__ import annotations

from windlass_contract.decision import Decision
from windlass_operator.driving.samples import Samples
from windlass_operator.driving.view import ServerView
from windlass_operator.engine.interface import SeenModelVersion

from .catalogue import Catalogue
from .samples import SamplesReader


def view_of(server: str, catalogue: Catalogue, decisions: tuple[Decision, ...], reader: SamplesReader) -> ServerView:
    """The view of one server. Reads samples files: it blocks."""
    seen = []
    offered: dict[str, bytes] = {}
    for _, remembered in catalogue.model_versions(server):
        samples: Samples = reader.read(remembered.model_version.spec.verify.samples)
        if samples.digest is not None:
            offered[samples.digest] = samples.data
        seen.append(SeenModelVersion(remembered.model_version, remembered.generation, samples.digest, samples.problem))
    # The files have no order of their own; by their times people find what they expect, and it is the same each time.
    ordered = sorted(
        (each.spec for each in decisions if each.spec.server == server), key=lambda each: (each.at, each.id)
    )
    return ServerView(tuple(seen), tuple(ordered), catalogue.frozen(server), offered)
