"""What a replica finds in packed versions, by its own code: `python replica_side.py FOLDER…` prints JSON by folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def look(folder: Path) -> dict[str, Any]:
    import numpy as np

    from windlass_contract.artifact import verify
    from windlass_contract.manifest import ModelFormat
    from windlass_server.hosting.parity import read_parity
    from windlass_server.runtimes import RUNTIME_OF, import_runtime
    from windlass_server.runtimes.runtime import check_inputs

    manifest = verify(folder, model=folder.parent.name, version=int(folder.name)).manifest
    runtime = import_runtime(RUNTIME_OF[ModelFormat(manifest.format)]).load(folder)
    parity = []
    for samples in manifest.parity:
        signature = runtime.signatures[samples.signature]
        arrays = read_parity((folder / samples.path).read_bytes(), signature)
        check_inputs(signature, arrays.inputs)
        answer = runtime.run(samples.signature, arrays.inputs, sorted(arrays.outputs))
        for name, expected in arrays.outputs.items():
            if expected.dtype.kind in "Ob":
                assert np.array_equal(answer[name], expected)
            else:
                wide = [np.asarray(each, dtype=np.float64) for each in (answer[name], expected)]
                assert np.allclose(*wide, samples.rtol, samples.atol, equal_nan=True)
        parity.append(samples.signature)
    return {
        "signatures": {name: signature.to_dict() for name, signature in runtime.signatures.items()},
        "declared": {name: signature.to_dict() for name, signature in manifest.signatures.items()},
        "equal": dict(runtime.signatures) == manifest.signatures,
        "parity": parity,
    }


def main() -> None:
    runtimes = __import__("windlass_server.runtimes", fromlist=["import_runtime"])
    for name in ("tensorflow", "litert"):
        runtimes.import_runtime(name).start(1)
    print("\n" + json.dumps({folder: look(Path(folder)) for folder in sys.argv[1:]}))


if __name__ == "__main__":
    main()
