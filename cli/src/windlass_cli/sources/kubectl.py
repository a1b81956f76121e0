"""The user's own `kubectl`: it knows kubeconfigs, contexts and every way to log in."""

from __future__ import annotations

import subprocess

from windlass_cli.errors import UserError

SECONDS = 30.0
"""For one answer of `kubectl`."""
_MAX_SAID = 2000
MISSING = "kubectl isn't on the PATH; --namespace needs it to talk to the cluster"


def kubectl(namespace: str, *arguments: str, given: str | None = None, seconds: float = SECONDS) -> str:
    """What it prints. `given`: its standard input; `seconds`: it may take. Raises `UserError` with its own words."""
    result = run(namespace, *arguments, given=given, seconds=seconds)
    if result.returncode:
        raise UserError(f"kubectl {' '.join(arguments[:2])}: {result.stderr.strip()[:_MAX_SAID]}")
    return result.stdout


def run(
    namespace: str, *arguments: str, given: str | None = None, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """The same, whatever its exit code. Raises `UserError` when it can't be run, or doesn't end in time."""
    command = ["kubectl", "--namespace", namespace, *arguments]
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    try:
        return subprocess.run(  # noqa: S603 - the user's own kubectl
            command, capture_output=True, text=True, timeout=seconds, check=False, **source
        )
    except FileNotFoundError:
        raise UserError(MISSING) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"kubectl {' '.join(arguments[:2])} didn't end within {seconds:g} s") from None
