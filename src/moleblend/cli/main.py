"""The `moleblend` command: one function per command, whose signature defines the flags."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from moleblend.cli.data_commands import data
from moleblend.cli.terminal import (
    CONSOLE,
    Argument,
    call,
    check_out,
    parse,
    print_commands,
    progress,
    say,
    unknown_command,
)
from moleblend.config import PACKAGED
from moleblend.environment import VERSION
from moleblend.errors import MoleblendError, OutputError, SettingError
from moleblend.parallel import Engine

if TYPE_CHECKING:
    from moleblend.prediction.screening import FileAccount

ViewsFlag = Literal["2d", "3d", "both"]
ErrorsFlag = Literal["keep", "skip", "raise"]


NOTHING_USABLE = 1
"""Exit code after an output without a single usable row."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. With `--debug`, an error is printed with its traceback.

    Args:
        arguments: command-line arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 after a defect of the package, or if no row of the input could be used;
        2 after an error in the input or the
        arguments, or if the system does not allow something; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_debugged = "--debug" in arguments
    if is_debugged:
        arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments in ([], ["-h"], ["--help"]):
        print_commands("moleblend", _PURPOSES)
        return 0
    if arguments == ["--version"]:
        print(VERSION)
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise unknown_command(arguments[0], COMMANDS)
        COMMANDS[arguments[0]](arguments[1:])
    except (MoleblendError, OSError, MemoryError) as error:
        _print_error(_one_line(error), is_debugged)
        return 2
    except KeyboardInterrupt:
        say("moleblend: stopped")
        return 130
    except SystemExit as error:  # raised by tyro after --help or a wrong argument
        return int(error.code or 0)
    except Exception as error:  # noqa: BLE001 (the last place where a defect can be described)
        hint = "" if is_debugged else "; --debug shows where it happened"
        _print_error(f"{type(error).__name__}: {_one_line(error)}", is_debugged)
        _print_error(f"this is a defect of moleblend {VERSION}: {_REPORT}{hint}", False)
        return 1
    return 0


def _pretrain(arguments: list[str]) -> None:
    from moleblend.config import read_recipe
    from moleblend.pretraining.config import PretrainConfig

    @dataclass(frozen=True)
    class Run:
        """Pretrain a model: moleblend pretrain [RECIPE.toml] --data FILE --out DIR.

        A recipe is a TOML file with any of the fields below. Flags override it.

        Attributes:
            config: settings of the run.
            resume: continue from the state saved in the run folder.
            dry_run: estimate time and memory of the run with a few steps; nothing is written.
        """

        config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
        resume: bool = False
        dry_run: bool = False

    recipe = PretrainConfig()
    if arguments and not arguments[0].startswith("-"):
        recipe = read_recipe(PretrainConfig, Path(arguments[0]))
        arguments = arguments[1:]
    run = parse(Run, "pretrain", arguments, default=Run(recipe))
    from moleblend.pretraining.pretrain import pretrain
    from moleblend.reports.pretrain_report import write_pretrain_report

    if run.dry_run:
        from moleblend.pretraining.dry_run import dry_run

        CONSOLE.print(dry_run(run.config).table())
        return
    result = pretrain(run.config, resume=run.resume, console=CONSOLE)
    if not result.is_first:
        return
    speed = f"{result.molecules_per_s:.0f} molecules/s, " if result.molecules_per_s else ""
    say(f"{speed}peak memory {result.peak_mb:.0f} MB")
    folder = Path(run.config.out)
    report = _report(lambda: write_pretrain_report(folder, folder / "report.html"))
    say(f"model: {result.model}, {report}")


def _train(arguments: list[str]) -> None:
    from moleblend.finetuning.config import TrainConfig

    @dataclass(frozen=True)
    class Run:
        """Fine-tune a model: moleblend train DATA.

        Attributes:
            config: settings of the run.
            resume: continue an interrupted run, or the trials of a search; or add trials.
        """

        config: Annotated[TrainConfig, tyro.conf.arg(name="")]
        resume: bool = False

    run = parse(Run, "train", arguments)
    # These imports take seconds, which --help and wrong arguments do not need.
    from moleblend.evaluation.comparison import summarise
    from moleblend.finetuning.train import train
    from moleblend.finetuning.tree_members import describe_members
    from moleblend.reports.train_report import write_train_report

    if "--log-scale" in arguments and not run.config.log_scale:
        raise SettingError("--log-scale: got no value, expected names of targets")
    result = train(run.config, resume=run.resume, console=CONSOLE)
    config = result.config
    _print_metrics("validation", result.validation)
    _print_metrics("test", result.test)
    for target, metrics in result.statistics.get("test", {}).items():
        text = "  ".join(
            f"{name} {metric['mean']:.4g} ± {metric['std']:.2g}"
            for name, metric in metrics.items()
            if not name.startswith("n") and metric["std"] is not None
        )
        over = "folds" if config.folds else "seeds"
        say(f"test, mean and standard deviation over {len(result.runs)} {over}  {target}  {text}")
    for sentence in describe_members(result.targets, result.members):
        say(sentence)
    _print_metrics("test, random forest", result.baseline.forest.test)
    for summary in summarise(result.baseline.comparisons):
        say(("note: " if summary.is_baseline_better else "comparison: ") + summary.text)
    report = _report(lambda: write_train_report(result, config.folder / "report.html"))
    say(f"model: {result.model}, {report}")


@dataclass(frozen=True)
class _Screening:
    """Options of `predict` and `embed`.

    Attributes:
        views: what the model sees of each molecule. The default is that of its training.
        smiles: the SMILES column. By default it is detected by its name.
        errors: keep rows that cannot be used, with a reason; skip them; or raise an error.
        engine: worker processes of this machine, or Ray (pip install 'moleblend[ray]').
        processes: number of worker processes. 1 uses all cores with threads.
        address: address of a Ray cluster. By default Ray is started on this machine.
        resume: continue an interrupted run.
    """

    views: ViewsFlag | None = None
    smiles: str | None = None
    errors: ErrorsFlag = "keep"
    engine: Engine = "processes"
    processes: int = 1
    address: str | None = None
    resume: bool = False


def _predict(arguments: list[str]) -> None:
    from moleblend.evaluation.uncertainty import CONFIDENCE

    def run(
        model: Annotated[Argument[Path], tyro.conf.arg(metavar="MODEL")],
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
        options: Annotated[_Screening, tyro.conf.arg(name="")] = _Screening(),
        confidence: float = CONFIDENCE,
    ) -> None:
        """Predict the targets of a fine-tuned model. The output has all input rows, in order.

        Args:
            model: model file of `moleblend train`.
            source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
            out: csv, tsv or parquet file to write.
            options: options of the prediction.
            confidence: confidence of the intervals NAME_low to NAME_high and the sets NAME_set.
        """
        from moleblend.prediction.screening import predict_file

        check_out(out, source, (".csv", ".tsv", ".parquet"))
        _screen(partial(predict_file, confidence=confidence), model, source, out, options)

    call(run, "predict", arguments)


def _embed(arguments: list[str]) -> None:
    def run(
        files: Annotated[Argument[tuple[Path, ...]], tyro.conf.arg(metavar="[MODEL] IN OUT")],
        options: Annotated[_Screening, tyro.conf.arg(name="")] = _Screening(),
    ) -> None:
        """Write one vector per molecule: moleblend embed [MODEL] IN OUT.

        MODEL is a model file; the default is the packaged model. IN is a csv, tsv, smi, sdf (also
        .gz) or parquet file of molecules. OUT is a csv, tsv or parquet file to write, or an .npy
        file of the vectors (NaN where a row cannot be used), with the rows in OUT.rows.csv.

        Args:
            files: model file (optional), input and output.
            options: options of the embedding.
        """
        from moleblend.prediction.screening import embed_file

        if len(files) not in (2, 3):
            raise SettingError(f"got {len(files)} file names, expected [MODEL] IN OUT")
        *model, source, out = files
        check_out(out, source, (".npy", ".csv", ".tsv", ".parquet"))
        _screen(embed_file, model[0] if model else Path(PACKAGED), source, out, options)

    call(run, "embed", arguments)


def _screen(
    screen_file: "Callable[..., FileAccount]",
    model: Path,
    source: Path,
    out: Path,
    options: _Screening,
) -> None:
    with progress(f"reading {source}") as update:
        account = screen_file(
            model,
            source,
            out,
            views=options.views,
            smiles=options.smiles,
            errors=options.errors,
            engine=options.engine,
            n_processes=options.processes,
            address=options.address,
            resume=options.resume,
            on_progress=update,
        )
    _print_account(account, out)


def _export(arguments: list[str]) -> None:
    def run(
        model: Annotated[Argument[Path], tyro.conf.arg(metavar="MODEL")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
        views: ViewsFlag | None = None,
    ) -> None:
        """Export a model as a computation graph for other programs.

        Args:
            model: model file.
            out: .pt2 for torch, or .onnx (pip install 'moleblend[export]').
            views: what the model sees of each molecule. The default is that of its training.
        """
        from moleblend.prediction.export import export

        say(f"exported to {export(model, out, views)}")

    call(run, "export", arguments)


def _explain(arguments: list[str]) -> None:
    from moleblend.data.formats import read_pieces
    from moleblend.prediction.explanation import (
        MOST_TARGETS,
        choose_targets,
        explain,
        explained_target,
    )
    from moleblend.prediction.predictor import Predictor
    from moleblend.reports.explanation_report import (
        Explained,
        write_atom_table,
        write_explanation_report,
    )

    def run(
        model: Annotated[Argument[Path], tyro.conf.arg(metavar="MODEL")],
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.html")],
        target: tuple[str, ...] = (),
        n: int = 50,
        views: ViewsFlag | None = None,
        smiles: str | None = None,
    ) -> None:
        """Explain predictions: write a page, and OUT.csv with one row per atom.

        Args:
            model: model file of `moleblend train`.
            source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
            out: the page to write.
            target: targets to explain. The default is all, if there are at most four.
            n: number of rows to explain, from the start of the file.
            views: what the model sees of each molecule. The default is that of its training.
            smiles: the SMILES column. By default it is detected by its name.
        """
        atoms = out.with_suffix(".csv")
        if atoms.resolve() == source.resolve():
            raise OutputError(
                f"{atoms}: the atom table of {out} would overwrite the input; use another name"
            )
        check_out(out, source, (".html",), beside=[atoms])
        predictor = Predictor(model)
        known, places = predictor.model.config.targets, choose_targets(predictor, target)
        chosen = [explained_target(known[place]) for place in places]
        if len(chosen) > MOST_TARGETS and not target:
            raise SettingError(
                f"{model}: the model has {len(chosen)} targets, expected at most {MOST_TARGETS}; "
                "choose some with --target"
            )
        pieces = read_pieces(source, n)
        table = next(pieces)
        with progress(f"explaining {source}") as update:
            explanations = explain(
                predictor, table, targets=target, views=views, smiles=smiles, on_progress=update
            )
        has_more = next(pieces, None) is not None
        scores = predictor.score_domain([one.row for one in explanations], views)
        explained = Explained(model, table, tuple(chosen), explanations, has_more, scores)
        write_explanation_report(explained, out)
        write_atom_table(explained, atoms)
        first = f", the first of {source} (--n)" if has_more else ""
        say(f"rows explained: {len(explanations):,}{first}; page: {out}, atom table: {atoms}")

    call(run, "explain", arguments)


def _convert(arguments: list[str]) -> None:
    from moleblend.model import checkpoint

    def run(
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.safetensors")],
    ) -> None:
        """Convert published weights to a model file.

        Args:
            source: downloaded checkpoint of MoleBLEND or Transformer-M; no code in it is run.
            out: the .safetensors file to write.
        """
        model = checkpoint.convert(source, out)
        n_parameters = checkpoint.count_parameters(model)
        say(f"{n_parameters:,} parameters written to {out}")

    call(run, "convert", arguments)


def _demo(arguments: list[str]) -> None:
    from moleblend.demo import demo

    def run(out: Path = Path("demo"), smiles: str | None = None) -> None:
        """Run the method end to end on 2,000 QM9 molecules, in a few minutes.

        Args:
            out: folder for the runs and the report.
            smiles: molecule to predict at the end. At a terminal the default is to ask for it.
        """
        demo(out, smiles, console=CONSOLE)

    call(run, "demo", arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "data": data,
    "pretrain": _pretrain,
    "train": _train,
    "predict": _predict,
    "explain": _explain,
    "embed": _embed,
    "export": _export,
    "convert": _convert,
}
"""The commands, in the order in which a new user needs them."""

_PURPOSES = {
    "demo": "run the method end to end on included molecules",
    "data": "fetch, check, clean, split and store molecules",
    "pretrain": "pretrain a model by blending views",
    "train": "fine-tune a model on measured molecules",
    "predict": "predict properties of molecules",
    "explain": "explain predictions by atom contributions",
    "embed": "write one vector per molecule",
    "export": "export a model for torch or ONNX",
    "convert": "convert published weights to a model file",
}


_REPORT = "please report it in the issue tracker of the project, with the command and this message"


def _print_error(text: str, with_traceback: bool) -> None:
    """Print one line, after the traceback of the current exception if it is asked for."""
    if with_traceback:
        CONSOLE.print_exception()
    line = f"moleblend: {text}"
    CONSOLE.print(line, style="red", soft_wrap=True, highlight=False, markup=False)


def _one_line(error: Exception) -> str:
    """Format an error in one line."""
    if isinstance(error, OSError) and error.strerror:  # raised by the operating system
        return f"{error.filename or 'output'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; use smaller batches, a smaller model or fewer processes"
    return " ".join(str(error).split())


def _report(write: Callable[[], Path]) -> str:
    """Write a report, if matplotlib is installed."""
    from moleblend.reports.plots import require_matplotlib

    try:
        require_matplotlib()
    except ValueError as missing:
        return f"no report was written: {missing}"
    return f"report: {write()}"


def _print_metrics(title: str, metrics: dict[str, dict[str, float | None]]) -> None:
    for target, of_target in metrics.items():
        text = "  ".join(
            f"{name} {'undefined' if value is None else f'{value:.4g}'}"
            for name, value in of_target.items()
        )
        say(f"{title}  {target}  {text}")


def _print_account(account: "FileAccount", out: Path) -> None:
    for note in account.notes:
        say(note)
    if account.n_resumed:
        say(f"{account.n_resumed:,} rows were written by the interrupted run")
    counts = ", ".join(f"{count:,} {status}" for status, count in account.statuses.items())
    say(f"{account.n_rows:,} rows written to {out}" + (f": {counts}" if counts else ""))
    if account.n_rows and not {"ok", "ok_2d_only"} & account.statuses.keys():
        say(f"moleblend: no row could be used; the column 'reason' of {out} says why")
        raise SystemExit(NOTHING_USABLE)


if __name__ == "__main__":
    sys.exit(main())
