"""`windlass pack`, `adopt` and `verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from windlass_cli.errors import UserError
from windlass_cli.packing import build, documents
from windlass_cli.packing.build import Conversion, Description, Packed
from windlass_cli.packing.folder import write_file
from windlass_cli.terminal import Progress, err, note, out, size
from windlass_contract import artifact
from windlass_contract.artifact import ArtifactError
from windlass_contract.manifest import MANIFEST_NAME

from . import options
from .packing_options import (
    DOCUMENT,
    KERAS,
    Classes,
    Decode,
    Decoding,
    Image,
    ImageName,
    Invert,
    Measure,
    Offset,
    Parity,
    ParityInputs,
    Resample,
    Resampling,
    Scale,
    Server,
    Tolerance,
    WarmUp,
)


def pack(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A SavedModel folder, or a .keras, .h5 or .tflite file.")
    ],
    model: Annotated[str, typer.Option(help="Name of the model.", callback=options.model_name, metavar="NAME")],
    version: Annotated[
        int, typer.Option(help="Number of the version; the highest one is served.", callback=options.version_number)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of models.")] = Path(
        "models"
    ),
    image: Image = None,
    image_input: ImageName = None,
    scale: Scale = "1",
    offset: Offset = "0",
    resampling: Resample = Resampling.BILINEAR,
    decoding: Decode = Decoding.FULL,
    invert: Invert = False,
    class_names: Classes = None,
    preprocess: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            rich_help_panel=KERAS,
            help="Put this function of yours, written with tf operations, in front of the model. Its parameters become "
            "the inputs that clients send: annotated as in 'image: tf.TensorSpec([None, 28, 28], tf.uint8)'.",
        ),
    ] = "",
    input_spec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE[SHAPE]",
            rich_help_panel=KERAS,
            help="Type and shape of an input, where neither model nor annotation says it: 'image=UINT8[-1,28,28]'.",
        ),
    ] = None,
    module: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py", rich_help_panel=KERAS, help="Python code with the model's own layers and functions."
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", rich_help_panel=KERAS, help="Run Python code that a .keras file carries (Lambda layers)."
        ),
    ] = False,
    warmup: WarmUp = "1",
    parity: Parity = True,
    parity_inputs: ParityInputs = None,
    tolerance: Tolerance = (1e-3, 1e-4),
    measure: Measure = True,
    modelversion: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=DOCUMENT, help="Write the document there; else to standard output."
        ),
    ] = None,
    server: Server = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=DOCUMENT,
            help="Acceptance samples: inputs with the answers that you expect. Copied beside the document.",
        ),
    ] = None,
    min_score: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=DOCUMENT,
            callback=options.percentage,
            help="How many of the samples must be answered right, e.g. 95%. Default: all.",
        ),
    ] = None,
) -> None:
    """Turn a model into a version: OUTPUT/NAME/VERSION/ with a manifest that lists every file with its sum.

    The version is tried in a fresh process as a replica will run it. Its digest names it from now on. The
    ModelVersion document that it prints (or writes, --modelversion) makes it live: put it in the operator's directory,
    or kubectl apply it.
    """
    if min_score and samples is None:
        raise typer.BadParameter("--min-score goes with --samples")
    if parity_inputs is not None and not parity:
        raise typer.BadParameter("--parity-inputs goes without --no-parity")
    description = Description(
        image=options.image_options(image, image_input, scale, offset, resampling.value, decoding.value, invert),
        classes=options.classes(class_names),
        warmup_batch_sizes=options.batch_sizes(warmup),
        parity=parity,
        parity_inputs=parity_inputs,
        rtol=tolerance[0],
        atol=tolerance[1],
        measure=measure,
    )
    conversion = Conversion(preprocess, options.input_specs(input_spec or []), module or [], allow_code)
    _refuse_missing_folder(modelversion)
    beside = _samples_beside(samples, modelversion)
    with Progress(f"packing {model} {version}") as progress:
        packed = build.pack(source, output, model, version, description, conversion, progress)
    _tell(packed)
    inputs = {name: list(signature.inputs) for name, signature in packed.manifest.signatures.items()}
    if samples is not None and samples.is_file():
        err.print(f"  samples  {documents.check_samples(samples, inputs)} fit its signature", markup=False)
    text = documents.model_version_text(
        server=server or documents.server_name(model),
        model=model,
        version=version,
        digest=packed.digest,
        samples=samples.name if samples else "",
        min_score=min_score or "",
    )
    if modelversion is None:
        out.print(text, markup=False, end="")
        return
    if beside is not None and samples is not None:
        # First: an operator that watches the folder takes up the document at once.
        write_file(beside, samples.read_text(encoding="utf-8"))
        err.print(f"  samples  {beside}", markup=False)
    write_file(modelversion, text)
    err.print(f"  document {modelversion}", markup=False)
    if samples is not None and not (modelversion.parent / samples.name).is_file():
        note(f"{samples} isn't here: it has to lie beside the document, where the operator reads it")
    out.print(packed.digest)


def adopt(
    tree: Annotated[
        Path,
        typer.Argument(metavar="TREE", help="Folder of models: MODEL/VERSION/; or one model's: VERSION/."),
    ],
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this model; may be repeated.")] = None,
    version: Annotated[
        list[int] | None, typer.Option(metavar="NUMBER", help="Only this version; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    image: Image = None,
    image_input: ImageName = None,
    scale: Scale = "1",
    offset: Offset = "0",
    resampling: Resample = Resampling.BILINEAR,
    decoding: Decode = Decoding.FULL,
    invert: Invert = False,
    class_names: Classes = None,
    warmup: WarmUp = "1",
    parity: Parity = True,
    parity_inputs: ParityInputs = None,
    tolerance: Tolerance = (1e-3, 1e-4),
    measure: Measure = True,
    server: Server = None,
    modelversions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=DOCUMENT,
            help="Write a document for each version there; else to standard output.",
        ),
    ] = None,
) -> None:
    """Write manifests for an existing TensorFlow Serving tree, in place.

    Only manifest.json and windlass/ are added to each version; its own files stay as they are, and TensorFlow Serving
    goes on serving them. Versions that have a manifest already are left alone.
    """
    description = Description(
        image=options.image_options(image, image_input, scale, offset, resampling.value, decoding.value, invert),
        classes=options.classes(class_names),
        warmup_batch_sizes=options.batch_sizes(warmup),
        parity=parity,
        parity_inputs=parity_inputs,
        rtol=tolerance[0],
        atol=tolerance[1],
        measure=measure,
    )
    found = _versions_in(tree, model or [], version or [])
    _refuse_missing_folder(None if modelversions is None else modelversions / "any")
    texts = []
    for name, number, folder in found:
        if (folder / MANIFEST_NAME).exists():
            err.print(f"{folder}: has a manifest already", markup=False)
            continue
        if build.version_format(folder) is None:
            note(f"{folder} is left out: it holds neither {build.SAVED_MODEL_FILE} nor {build.TFLITE_FILE}")
            continue
        try:
            options.model_name(name)
        except typer.BadParameter as error:
            note(f"{folder} is left out: no model can have its folder's name: {error}")
            continue
        if dry_run:
            out.print(f"would write {folder / MANIFEST_NAME} for model {name} version {number}", markup=False)
            continue
        with Progress(f"adopting {name} {number}") as progress:
            packed = build.adopt(folder, name, number, description, progress)
        _tell(packed)
        text = documents.model_version_text(
            server=server or documents.server_name(name), model=name, version=number, digest=packed.digest
        )
        if modelversions is None:
            texts.append(text)
        else:
            write_file(modelversions / f"{documents.object_name(name, number)}.yaml", text)
            out.print(packed.digest)
    if texts:
        out.print("---\n".join(texts), markup=False, end="")


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of one version.")],
    digest: Annotated[str | None, typer.Option(help="What the digest has to be (sha256:…).")] = None,
) -> None:
    """Check a version's folder against its manifest, every byte of it, and print its digest."""
    with Progress(f"verifying {folder}") as progress:
        progress.step("hashing its files")
        hashed = 0

        def advance(count: int) -> None:
            nonlocal hashed
            hashed += count
            progress.amount(size(hashed))

        try:
            manifest = artifact.read_manifest(folder).manifest
            found = artifact.verify(
                folder, model=manifest.model, version=manifest.version, digest=digest, progress=advance
            )
        except ArtifactError as error:
            raise UserError(f"{error.failure.reason}: {error}") from error
    place = folder.resolve()
    if (place.parent.name, place.name) != (manifest.model, str(manifest.version)):
        note(
            f"it is model {manifest.model} version {manifest.version}: a replica looks for it in "
            f"{manifest.model}/{manifest.version}, not in {place.parent.name}/{place.name}"
        )
    err.print(f"{len(manifest.files)} files, {size(hashed)}: as listed", markup=False)
    out.print(found.digest)


def _versions_in(tree: Path, models: list[str], versions: list[int]) -> list[tuple[str, int, Path]]:
    """Model, version and folder, in order. Raises `UserError`."""
    if not tree.is_dir():
        raise UserError(f"there is no folder {tree}")
    resolved = tree.resolve()
    folders = [resolved] if _numbered(resolved) else sorted(each for each in resolved.iterdir() if each.is_dir())
    found = [
        (folder.name, int(each.name), tree / each.relative_to(resolved) if each != resolved else tree)
        for folder in folders
        for each in sorted(_numbered(folder), key=lambda each: int(each.name))
        if (not models or folder.name in models) and (not versions or int(each.name) in versions)
    ]
    if not found:
        chosen = " that were asked for" if models or versions else ""
        raise UserError(f"{tree} holds no versions{chosen}; folders <model>/<version>/ are expected, with numbers")
    return found


def _numbered(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir() and each.name.isascii() and each.name.isdigit()]


def _refuse_missing_folder(file: Path | None) -> None:
    """Before the long work, not after it."""
    if file is not None and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{file.parent} is no folder that can be written; make it first")


def _samples_beside(samples: Path | None, document: Path | None) -> Path | None:
    """Where to copy the samples to, if they have to be copied. Raises `UserError`."""
    if samples is None or document is None or not samples.is_file():
        return None
    target = document.parent / samples.name
    if target.exists():
        if target.read_bytes() != samples.read_bytes():
            raise UserError(
                f"{target} is there already with other samples, and an earlier version may go by them; give the new "
                "ones another name"
            )
        return None
    return target


def _tell(packed: Packed) -> None:
    manifest = packed.manifest
    err.print(f"[green]✓[/] {packed.folder} is complete")
    for name, signature in sorted(manifest.signatures.items()):
        sides = (
            ", ".join(f"{key} {spec.datatype.value}{_shape(spec.shape)}" for key, spec in sorted(tensors.items()))
            for tensors in (signature.inputs, signature.outputs)
        )
        err.print(f"  {name}: " + " → ".join(sides), markup=False)
    facts = [f"{len(manifest.files)} files, {size(sum(entry.size for entry in manifest.files))}"]
    if manifest.parity:
        facts.append(f"parity samples: {', '.join(sample.signature for sample in manifest.parity)}")
    if manifest.memory_bytes is not None:
        facts.append(f"memory {size(manifest.memory_bytes)}")
    err.print(f"  {'; '.join(facts)}", markup=False)
    err.print(f"  digest   {packed.digest}", markup=False)
    for text in packed.notes:
        note(text)


def _shape(shape: list[int] | None) -> str:
    return "[…]" if shape is None else "[" + ",".join(str(each) for each in shape) + "]"
