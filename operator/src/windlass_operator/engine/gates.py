"""Signature compatibility: what clients of the committed version send and get has to stay possible."""

from __future__ import annotations

from collections.abc import Mapping

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.manifest import Signature, TensorSpec, TensorSpecs

Signatures = Mapping[str, Signature]


def signature_change(old: Signatures, new: Signatures) -> Failure | None:
    """The verdict on a candidate with signatures `new` where `old` are served; None: no client breaks.

    New signatures and new outputs break nobody. All inputs of a signature are required, so a new one does.
    """
    changes = [change[:250] for name in sorted(old) for change in _signature_changes(name, old[name], new.get(name))]
    if not changes:
        return None
    shown = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
    return Failure(
        gate=Gate.SIGNATURE,
        reason=Reason.SIGNATURE_CHANGED,
        message=f"clients of the committed version would break: {shown}. If that is meant, set "
        "spec.verify.signatureChange to Allow and clear the quarantine",
    )


def _signature_changes(name: str, old: Signature, new: Signature | None) -> list[str]:
    if new is None:
        return [f"signature {name} is gone"]
    changes = []
    if old.method != new.method:
        changes.append(f"signature {name} is {new.method}, was {old.method}")
    changes += _tensor_changes(f"signature {name}, input", old.inputs, new.inputs, sent=True)
    changes += [f"signature {name}, input {extra} is new" for extra in sorted(set(new.inputs) - set(old.inputs))]
    return changes + _tensor_changes(f"signature {name}, output", old.outputs, new.outputs, sent=False)


def _tensor_changes(where: str, old: TensorSpecs, new: TensorSpecs, *, sent: bool) -> list[str]:
    changes = []
    for name in sorted(old):
        if name not in new:
            changes.append(f"{where} {name} is gone")
        elif old[name].datatype is not new[name].datatype:
            changes.append(f"{where} {name} is {new[name].datatype}, was {old[name].datatype}")
        elif not _shape_fits(old[name], new[name], sent=sent):
            changes.append(f"{where} {name} has shape {_show(new[name])}, had {_show(old[name])}")
    return changes


def _shape_fits(old: TensorSpec, new: TensorSpec, *, sent: bool) -> bool:
    """Whether every shape that was accepted still is (sent), or what comes now can be what came before (got).

    What a model answers is often not known beforehand (-1): only a known size that differs breaks a client.
    """
    if new.shape is None or (old.shape is None and not sent):
        return True
    if old.shape is None or len(old.shape) != len(new.shape):
        return False
    return all(
        now in {-1, before} or (before == -1 and not sent) for before, now in zip(old.shape, new.shape, strict=True)
    )


def _show(spec: TensorSpec) -> str:
    return "of any rank" if spec.shape is None else str(spec.shape)
