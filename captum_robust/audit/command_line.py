"""The command line: ``captum-robust audit``, ``demo`` and ``compare``.

It stands on argparse of the standard library: three commands with plain options need no more, and
an audit should not fail to install for a parser.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, Subset

from captum_robust import __version__, outputs, zoo
from captum_robust.audit.comparison import compare
from captum_robust.audit.report import AuditReport
from captum_robust.audit.run import audit
from captum_robust.audit.settings import BUDGETS, WHOLE
from captum_robust.audit.sources import (
    Normalized,
    UsageError,
    check_normalisation,
    described,
    image_folder,
    load_model,
    table,
)

_WRONG_CALL, _TOO_MUCH_LOST = 2, 1

# A first impression within a minute, with a curve.
_DEMO = replace(BUDGETS["quick"], evaluations=12, copies=100, sizes=(0.5, WHOLE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 where ``compare`` finds too large a loss, 2 after a wrong call."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    options.repeated_by = shlex.join(["captum-robust", *given])
    try:
        return options.command(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"captum-robust: {message}\n")
        return _WRONG_CALL
    except KeyboardInterrupt:
        sys.stderr.write("captum-robust: stopped. With --resume FOLDER it goes on from there.\n")
        return 130


def _audit(options: argparse.Namespace) -> int:
    _check_targets(options)
    channels = None if options.images is None else options.channels
    check_normalisation(options.mean, options.std, channels)
    device = _device(options.device)
    model = load_model(options.model, options.checkpoint)
    if options.mean is not None:
        model = Normalized(model, options.mean, options.std)
    model = model.eval().to(device)
    names: list[str] | None = None
    if options.images is not None:
        data, _ = image_folder(options.images, options.size, options.channels)
    else:
        if options.target is None:
            raise UsageError("--target: name the column of the table that is predicted.")
        data, names = table(options.table, options.target)
    if options.limit is not None:
        data = Subset(data, range(min(options.limit, len(data))))  # type: ignore[arg-type]
    loader = DataLoader(data, batch_size=options.batch_size)
    _check_fit(model, loader, device)
    report = audit(
        model, options.explanations, loader, eps=options.eps, k=options.k, output=_output(options),
        input_range=(0.0, 1.0) if options.images is not None else None,
        budget="quick" if options.quick else options.budget, certify=not options.no_certificates,
        seed=options.seed, folder=options.resume, feature_names=names,
        show_progress=not options.quiet,
    )  # fmt: skip
    return _finish(report, options)


def _demo(options: argparse.Namespace) -> int:
    _check_targets(options)
    images, labels = zoo.fashion_mnist_sample(options.examples)
    loader = [(images, labels)]
    report = audit(
        zoo.fashion_mnist_cnn(), None, loader, eps=0.05, budget=_DEMO,
        show_progress=not options.quiet,
    )  # fmt: skip
    return _finish(report, options)


def _compare(options: argparse.Namespace) -> int:
    found = compare(_read(options, "before"), _read(options, "after"))
    sys.stdout.write("\n".join(found.lines()) + "\n")
    return _TOO_MUCH_LOST if found.worst_loss() > options.tolerance else 0


def _finish(report: AuditReport, options: argparse.Namespace) -> int:
    if int(os.environ.get("RANK", "0")) > 0:
        return 0  # one of the processes writes the report
    about = {"command": options.repeated_by, **report.circumstances}
    report = replace(report, circumstances=about)
    report.to_html(options.out, title=options.title)
    if options.json is not None:
        report.to_json(options.json)
    for sentence in report.summary():
        sys.stdout.write(sentence + "\n")
    sys.stdout.write(f"The report: {options.out}\n")
    if options.json is not None:
        sys.stdout.write(f"Its numbers: {options.json}\n")
    return 0


def _read(options: argparse.Namespace, name: str) -> AuditReport:
    path = getattr(options, name)
    try:
        return AuditReport.from_json(path)
    except OSError as error:
        raise UsageError(f"{name.upper()}: {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{name.upper()}: {error}") from error


def _check_targets(options: argparse.Namespace) -> None:
    """Refuse now what could not be written in the end."""
    if options.json is not None and Path(options.json).resolve() == Path(options.out).resolve():
        raise UsageError(f"--json: {options.json} is the file of --out. Name another one.")
    for option, out in (("--out", options.out), ("--json", options.json)):
        if out is None:
            continue
        target = Path(out).resolve()
        if not target.parent.is_dir():
            raise UsageError(f"{option}: there is no folder {target.parent}.")
        if target.is_dir():
            raise UsageError(f"{option}: {out} is a folder. Name a file in it.")
        try:  # permission bits say too little: some folders take no files at all
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        except OSError as error:
            raise UsageError(
                f"{option}: the folder {target.parent} cannot be written to: {error.strerror}."
            ) from error


def _check_fit(model: torch.nn.Module, loader: Any, device: torch.device) -> None:
    """Run the model once, so that inputs of a wrong shape are one line."""
    batch = next(iter(loader))
    inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
    try:
        with torch.no_grad():
            model(inputs[:1].to(device))
    except Exception as error:  # whatever a user's own model raises
        raise UsageError(
            f"the model cannot take inputs of shape {tuple(inputs[:1].shape)}: {described(error)}. "
            "For images see --size, --channels."
        ) from error


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: {name} cannot be used: {described(error)}.") from error
    return device


def _output(options: argparse.Namespace) -> outputs.Outputs | None:
    kinds = {"binary": outputs.Binary, "multilabel": outputs.MultiLabel}
    if options.output == "regression":
        if options.tolerance is None:
            raise UsageError("--tolerance: how far may a predicted value move? Give a number.")
        return outputs.Regression(options.tolerance)
    return kinds[options.output]() if options.output in kinds else None


def _fraction(text: str) -> float:
    try:
        value = float(Fraction(text))
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number such as 0.03 or 8/255"
        ) from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(Fraction(part)) for part in text.split(",")]
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0.5,0.5,0.5") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of the commands are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the options are listed, and end with 2."""
        text = " ".join(message.split()).rstrip(".")
        self.exit(_WRONG_CALL, f"captum-robust: {text}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="captum-robust", description="Can the explanations of a model be trusted?"
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = _Parser(add_help=False)
    shared.add_argument("--out", default="audit.html", help="the report (audit.html)")
    shared.add_argument("--json", help="also write the numbers, for compare")
    shared.add_argument("--title", default="Audit of explanations", help="heading of the report")
    shared.add_argument("--quiet", action="store_true", help="show no progress")

    demo = commands.add_parser(
        "demo", parents=[shared], help="audit a small network that travels with the package"
    )
    demo.add_argument("--examples", type=_count, default=6, help="number of images (6)")
    demo.set_defaults(command=_demo)

    own = commands.add_parser("audit", parents=[shared], help="audit a model of yours")
    own.set_defaults(command=_audit)
    _model_options(own)
    _work_options(own)

    two = commands.add_parser("compare", help="put two audits beside each other")
    two.add_argument("before", help="JSON of the first audit")
    two.add_argument("after", help="JSON of the second audit")
    two.add_argument(
        "--tolerance", type=_share, default=0.05,
        help="exit with 1 where an explanation keeps less than before by more than this (0.05)",
    )  # fmt: skip
    two.set_defaults(command=_compare)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", required=True, help="MODULE:FUNCTION, torchvision:NAME or timm:NAME"
    )
    model.add_argument("--checkpoint", help="weights: safetensors, or a state dict of torch.save")
    model.add_argument(
        "--mean", type=_numbers, help="mean of the normalisation, such as 0.5,0.5,0.5"
    )
    model.add_argument("--std", type=_numbers, help="standard deviation of the normalisation")
    model.add_argument(
        "--output", choices=["classes", "binary", "multilabel", "regression"], default="classes",
        help="what the outputs mean (classes)",
    )  # fmt: skip
    model.add_argument("--tolerance", type=_fraction, help="for regression: allowed change")
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images",
        metavar="FOLDER",
        help="images, or a folder for each class, in the order of their names",
    )
    source.add_argument("--table", metavar="CSV", help="rows of numbers with a line of names")
    data.add_argument("--target", metavar="COLUMN", help="what the table's model predicts")
    data.add_argument(
        "--size", type=_count, default=224, help="images are scaled and cropped to it (224)"
    )
    data.add_argument("--channels", type=int, choices=[1, 3], default=3, help="grey or colour (3)")
    data.add_argument("--limit", type=_count, help="number of examples (all)")


def _work_options(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument(
        "--eps", type=_fraction, required=True, help="largest change of an input, such as 8/255"
    )
    work.add_argument(
        "--explanations", type=_names, metavar="NAMES",
        help='some of these, separated by commas (all): "gradient", "integrated gradients", "LRP", '
        '"guided backpropagation", "SmoothGrad", "beta-smoothed gradient"',
    )  # fmt: skip
    work.add_argument("--k", type=_count, help="how many most relevant features are compared")
    work.add_argument("--budget", choices=list(BUDGETS), default="standard", help="how much work")
    work.add_argument("--quick", action="store_true", help="the same as --budget quick")
    work.add_argument("--no-certificates", action="store_true", help="leave certificates out")
    work.add_argument("--batch-size", type=_count, default=8, help="examples at once (8)")
    work.add_argument("--device", help="cpu, cuda, cuda:1, mps (a GPU where there is one)")
    work.add_argument("--seed", type=int, default=0, help="of all randomness (0)")
    work.add_argument(
        "--resume", metavar="FOLDER", help="keep finished batches here, and go on from them"
    )
