"""The door from the shell: one function per verb, whose flags come from its signature."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from moleblend import __version__
from moleblend.cli.data_commands import data
from moleblend.cli.terminal import (
    SHOWN,
    Argument,
    call,
    check_out,
    parse,
    print_commands,
    progress,
    say,
)
from moleblend.parallel import Engine

if TYPE_CHECKING:
    from moleblend.prediction.screening import FileAccount

ViewsFlag = Literal["2d", "3d", "both"]
ErrorsFlag = Literal["keep", "skip", "raise"]


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: those of the process by default.

    Returns:
        0; 2 after one sentence on what is wrong with the input; 130 after Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given in ([], ["-h"], ["--help"]):
        print_commands("moleblend", _ABOUT)
        return 0
    if given == ["--version"]:
        print(__version__)
        return 0
    try:
        if given[0] not in COMMANDS:
            raise ValueError(f"there is no verb {given[0]!r}; {', '.join(COMMANDS)} exist")
        COMMANDS[given[0]](given[1:])
    except (ValueError, OSError, FloatingPointError, ChildProcessError) as error:
        SHOWN.print(
            f"moleblend: {_sentence(error)}",
            style="red",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return 2
    except KeyboardInterrupt:
        say("moleblend: stopped")
        return 130
    except SystemExit as end:  # tyro ends so after --help
        return int(end.code or 0)
    return 0


def _pretrain(arguments: list[str]) -> None:
    from moleblend.config import read_recipe
    from moleblend.pretraining.config import PretrainConfig
    from moleblend.pretraining.pretrain import pretrain
    from moleblend.reports.pretrain_report import write_pretrain_report

    @dataclass(frozen=True)
    class Run:
        """Pretrain a model: moleblend pretrain [RECIPE.toml] --data FILE --out DIR.

        A recipe is a TOML file with any of the fields below; flags come on top of it.

        Attributes:
            config: the run.
            resume: go on from the state saved in the run folder.
            dry_run: say what the run would take, after a few steps on its data; nothing is written.
        """

        config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
        resume: bool = False
        dry_run: bool = False

    recipe = PretrainConfig()
    if arguments and not arguments[0].startswith("-"):
        recipe = read_recipe(PretrainConfig, Path(arguments[0]))
        arguments = arguments[1:]
    run = parse(Run, "pretrain", arguments, default=Run(recipe))
    if run.dry_run:
        from moleblend.pretraining.dry_run import dry_run

        SHOWN.print(dry_run(run.config).table())
        return
    result = pretrain(run.config, resume=run.resume, console=SHOWN)
    if not result.is_first:
        return
    speed = f"{result.molecules_per_s:.0f} molecules/s, " if result.molecules_per_s else ""
    say(f"{speed}peak memory {result.peak_mb:.0f} MB")
    folder = Path(run.config.out)
    report = _report(lambda: write_pretrain_report(folder, folder / "report.html"))
    say(f"the model is {result.model}, {report}")


def _train(arguments: list[str]) -> None:
    from moleblend.evaluation.comparison import summarise
    from moleblend.finetuning.train import TrainConfig, train
    from moleblend.reports.train_report import write_train_report

    @dataclass(frozen=True)
    class Run:
        """Fine-tune a model: moleblend train DATA.

        Attributes:
            config: the run.
            resume: go on with the trials of a search that was stopped, or add some.
        """

        config: Annotated[TrainConfig, tyro.conf.arg(name="")]
        resume: bool = False

    run = parse(Run, "train", arguments)
    if "--log-scale" in arguments and not run.config.log_scale:
        raise ValueError("--log-scale needs the names of targets, none came")
    result = train(run.config, resume=run.resume, console=SHOWN)
    config = result.config
    _print_metrics("validation", result.validation)
    _print_metrics("test", result.test)
    for target, found in result.spread.get("test", {}).items():
        told = "  ".join(
            f"{name} {figure['mean']:.4g} ± {figure['sd']:.2g}"
            for name, figure in found.items()
            if not name.startswith("n") and figure["sd"] is not None
        )
        over = "folds" if config.folds else "seeds"
        say(f"test, mean and standard deviation over {len(result.runs)} {over}  {target}  {told}")
    _print_metrics("test, random forest", result.baseline.test)
    for verdict in summarise(result.comparisons):
        say(("note: " if verdict.is_baseline_better else "compared: ") + verdict.text)
    report = _report(lambda: write_train_report(result, config.folder / "report.html"))
    say(f"the model is {result.model}, {report}")


@dataclass(frozen=True)
class _Screening:
    """What `predict` and `embed` are told beside the files.

    Attributes:
        views: what of each molecule is used; by default what the model was trained to see.
        smiles: the SMILES column; found by name by default.
        errors: rows that cannot be used are kept with their reason, skipped, or end the run.
        engine: processes of this machine, or the workers of Ray (pip install 'moleblend[ray]').
        processes: 1 uses all cores by threads; several suit machines of many cores.
        address: of a Ray cluster; by default Ray is started on this machine.
        resume: go on where a run was stopped or killed.
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
    from moleblend.prediction.screening import predict_file

    def run(
        model: Annotated[Argument[Path], tyro.conf.arg(metavar="MODEL")],
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
        told: Annotated[_Screening, tyro.conf.arg(name="")] = _Screening(),
        confidence: float = CONFIDENCE,
    ) -> None:
        """Predict the targets of a fine-tuned model: every input row comes back, in order.

        Args:
            model: model file of `moleblend train`.
            source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
            out: csv, tsv or parquet file to write.
            told: how.
            confidence: of the intervals NAME_low to NAME_high and of the sets NAME_set.
        """
        check_out(out, source, (".csv", ".tsv", ".parquet"))
        _screen(partial(predict_file, confidence=confidence), model, source, out, told)

    call(run, "predict", arguments)


def _embed(arguments: list[str]) -> None:
    from moleblend.model.checkpoint import PACKAGED
    from moleblend.prediction.screening import embed_file

    def run(
        files: Annotated[Argument[tuple[Path, ...]], tyro.conf.arg(metavar="[MODEL] IN OUT")],
        told: Annotated[_Screening, tyro.conf.arg(name="")] = _Screening(),
    ) -> None:
        """Write one vector per molecule: moleblend embed [MODEL] IN OUT.

        MODEL is a model file; left out, it is the one that comes with the package. IN is a csv,
        tsv, smi, sdf (also .gz) or parquet file of molecules. OUT is a csv, tsv or parquet file to
        write, or .npy: the vectors alone (NaN where a row cannot be used), with the rows in
        OUT.rows.csv.

        Args:
            files: the model, if it is another than the packaged one, the input and the output.
            told: how.
        """
        if len(files) not in (2, 3):
            raise ValueError(f"embed takes [MODEL] IN OUT, but {len(files)} names came")
        *model, source, out = files
        check_out(out, source, (".npy", ".csv", ".tsv", ".parquet"))
        _screen(embed_file, model[0] if model else Path(PACKAGED), source, out, told)

    call(run, "embed", arguments)


def _screen(
    answer: "Callable[..., FileAccount]", model: Path, source: Path, out: Path, told: _Screening
) -> None:
    with progress(f"reading {source}") as tell:
        account = answer(
            model,
            source,
            out,
            views=told.views,
            smiles=told.smiles,
            errors=told.errors,
            engine=told.engine,
            n_processes=told.processes,
            address=told.address,
            resume=told.resume,
            on_progress=tell,
        )
    _print_account(account, out)


def _export(arguments: list[str]) -> None:
    from moleblend.prediction.export import export

    def run(
        model: Annotated[Argument[Path], tyro.conf.arg(metavar="MODEL")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT")],
        views: ViewsFlag | None = None,
    ) -> None:
        """Write a model as a graph for other programs.

        Args:
            model: model file.
            out: .pt2 for torch, or .onnx (pip install 'moleblend[export]').
            views: what of each molecule is shown; by default what the model was trained to see.
        """
        say(f"the graph is {export(model, out, views)}")

    call(run, "export", arguments)


def _explain(arguments: list[str]) -> None:
    from moleblend.data.formats import read_pieces
    from moleblend.prediction.explanation import MOST_TARGETS, as_learnt, choose_targets, explain
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
        """Show why a model predicts what it does: a page, and OUT.csv with a row for each atom.

        Args:
            model: model file of `moleblend train`.
            source: csv, tsv, smi, sdf (also .gz) or parquet file of molecules.
            out: the page to write.
            target: those to explain; all by default, where there are at most four.
            n: rows that are explained, the first ones of the file.
            views: what of each molecule is used; by default what the model was trained to see.
            smiles: the SMILES column; found by name by default.
        """
        check_out(out, source, (".html",))
        atoms = out.with_suffix(".csv")
        if atoms.resolve() == source.resolve():
            raise ValueError(
                f"{atoms}: the atoms of {out} would overwrite the input; give the page another name"
            )
        predictor = Predictor(model)
        known, places = predictor.model.config.targets, choose_targets(predictor, target)
        chosen = [as_learnt(known[place]) for place in places]
        if len(chosen) > MOST_TARGETS and not target:
            raise ValueError(
                f"{model}: it has {len(chosen)} targets: --target names those to explain"
            )
        pieces = read_pieces(source, n)
        table = next(pieces)
        with progress(f"explaining {source}") as tell:
            found = explain(
                predictor, table, targets=target, views=views, smiles=smiles, on_progress=tell
            )
        has_more = next(pieces, None) is not None
        scores = predictor.score_domain([one.row for one in found], views)
        explained = Explained(model, table, tuple(chosen), found, has_more, scores)
        write_explanation_report(explained, out)
        write_atom_table(explained, atoms)
        told = f", the first of {source} (--n)" if has_more else ""
        say(f"rows explained: {len(found):,}{told}; the page is {out}, the atoms are in {atoms}")

    call(run, "explain", arguments)


def _convert(arguments: list[str]) -> None:
    from moleblend.model import checkpoint

    def run(
        source: Annotated[Argument[Path], tyro.conf.arg(name="in", metavar="IN")],
        out: Annotated[Argument[Path], tyro.conf.arg(metavar="OUT.safetensors")],
    ) -> None:
        """Turn published weights into a model file.

        Args:
            source: checkpoint of MoleBLEND or Transformer-M as downloaded; no code in it is run.
            out: the .safetensors file to write.
        """
        model = checkpoint.convert(source, out)
        n_parameters = checkpoint.count_parameters(model)
        say(f"{n_parameters:,} parameters are in {out}")

    call(run, "convert", arguments)


def _demo(arguments: list[str]) -> None:
    from moleblend.demo import demo

    def run(out: Path = Path("demo"), smiles: str | None = None) -> None:
        """See the whole method work on 2,000 QM9 molecules, in a few minutes.

        Args:
            out: folder for the runs and the report.
            smiles: a molecule to predict at the end; asked for at a terminal.
        """
        demo(out, smiles, console=SHOWN)

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
"""The verbs, in the order in which a newcomer meets them."""

_ABOUT = {
    "demo": "see the whole method work on embedded molecules",
    "data": "fetch, check, clean, split and store molecules",
    "pretrain": "pretrain a model by blending views",
    "train": "fine-tune a model on measured molecules",
    "predict": "predict properties of molecules",
    "explain": "show why a model predicts what it does",
    "embed": "write one vector per molecule",
    "export": "write a model as a graph for torch or ONNX",
    "convert": "turn published weights into a model file",
}


def _sentence(error: Exception) -> str:
    """Say in one line what an error says."""
    if isinstance(error, OSError) and error.strerror:  # raised by the system, not by us
        return f"{error.filename or 'output'}: {error.strerror}"
    return " ".join(str(error).split())


def _report(write: Callable[[], Path]) -> str:
    """Write a report where figures can be drawn; without them the run is no failure."""
    from moleblend.reports.html_page import require_matplotlib

    try:
        require_matplotlib()
    except ValueError as missing:
        return f"no report is written: {missing}"
    return f"the report {write()}"


def _print_metrics(part: str, metrics: dict[str, dict[str, float | None]]) -> None:
    for target, found in metrics.items():
        told = "  ".join(
            f"{name} {'undefined' if value is None else f'{value:.4g}'}"
            for name, value in found.items()
        )
        say(f"{part}  {target}  {told}")


def _print_account(account: "FileAccount", out: Path) -> None:
    for note in account.notes:
        say(note)
    if account.n_resumed:
        say(f"{account.n_resumed:,} rows were there from before")
    told = ", ".join(f"{count:,} {status}" for status, count in account.statuses.items())
    say(f"{account.n_rows:,} rows written to {out}" + (f": {told}" if told else ""))


if __name__ == "__main__":
    sys.exit(main())
