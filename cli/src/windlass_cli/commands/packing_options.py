"""The options that `windlass pack` and `windlass adopt` share, by the panel of `--help` that they stand in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options

IMAGES = "Images and classes (POST /predict)"
TRIAL = "Proof: parity samples, warm-up, memory"
KERAS = "Keras models and preprocessing"
DOCUMENT = "The ModelVersion document"


class Resampling(StrEnum):
    """As in the manifest."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    BOX = "box"


class Decoding(StrEnum):
    """As in the manifest."""

    FULL = "full"
    SCALED = "scaled"


Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="WIDTHxHEIGHTxCHANNELS",
        rich_help_panel=IMAGES,
        help="POST /predict takes an image file, resized to this. The tensor is pixel * scale + offset.",
    ),
]
ImageName = Annotated[
    str | None,
    typer.Option(rich_help_panel=IMAGES, metavar="NAME", help="Input that takes the image, where several could."),
]
Scale = Annotated[str, typer.Option(rich_help_panel=IMAGES, metavar="NUMBER", help="Number or fraction, e.g. 1/255.")]
Offset = Annotated[str, typer.Option(rich_help_panel=IMAGES, metavar="NUMBER", help="Added after scaling, e.g. -1.")]
Resample = Annotated[Resampling, typer.Option(rich_help_panel=IMAGES, help="As the training resized.")]
Decode = Annotated[
    Decoding,
    typer.Option(
        rich_help_panel=IMAGES,
        help="scaled: a JPEG larger than twice the input is decoded at a fraction of its size. Faster, and answers "
        "differ a little from those to images decoded as in training.",
    ),
]
Invert = Annotated[bool, typer.Option("--invert", rich_help_panel=IMAGES, help="Dark on light: 255 - pixel, first.")]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        rich_help_panel=IMAGES,
        metavar="FILE|a,b,c",
        help="Names of the classes in the order of the scores: a file (a line each, or a JSON list), or the names.",
    ),
]
WarmUp = Annotated[
    str,
    typer.Option(
        "--warmup",
        metavar="SIZES",
        rich_help_panel=TRIAL,
        help="Batch sizes that a replica runs before the version may answer.",
    ),
]
Parity = Annotated[
    bool,
    typer.Option(
        "--parity/--no-parity",
        rich_help_panel=TRIAL,
        help="Keep inputs with the answers they have here; a replica must give the same ones before it serves.",
    ),
]
ParityInputs = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=TRIAL,
        metavar="FILE",
        help="Inputs for that, of real data: .npy (one input) or .npz (arrays named as the inputs). Else made up.",
    ),
]
Tolerance = Annotated[
    tuple[float, float],
    typer.Option(rich_help_panel=TRIAL, metavar="RTOL ATOL", help="How far those answers may be off, as np.allclose."),
]
Measure = Annotated[
    bool,
    typer.Option("--measure/--no-measure", rich_help_panel=TRIAL, help="Measure the memory that it takes loaded."),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DOCUMENT,
        callback=options.server_name,
        help="The server (Deployment, Compose service, …) that will serve it. Default: named like the model.",
    ),
]
