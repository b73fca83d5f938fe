"""The command line of a flow: `python flow.py run | resume | check | show …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import click

from weft.cli.entry import run_to_exit
from weft.cli.invocation import Invocation, checked_graph, configs_given, existing_store, flow_command
from weft.cli.output import Output
from weft.lineage.description import STORE_FOLDER
from weft.lineage.ids import parse_pathspec
from weft.lineage.version import VERSION
from weft.runtime.config import configs_of, parameters_without_configs, settle
from weft.runtime.flow import FlowSpec
from weft.runtime.parameters import Parameter, parameters_of

__all__ = ["run_command_line"]


def run_command_line(flow_class: type[FlowSpec]) -> NoReturn:
    """Do what `sys.argv` says about a flow, and end the process."""
    run_to_exit(_group(flow_class), sys.argv[1:], flow_command())


def _group(flow_class: type[FlowSpec]) -> click.Group:
    @click.group(
        help=f"{flow_class.__name__}: {_first_line(flow_class)}\n\nWithout a command the flow is checked.",
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    @click.option(
        "--store",
        "store_url",
        metavar="URL",
        help=f"The store: a folder, or a URL such as s3://bucket/prefix; the nearest {STORE_FOLDER} if not given.",
    )
    @click.option("--quiet", is_flag=True, help="Show what tasks print and nothing else.")
    @click.option(
        "--with",
        "decorators",
        multiple=True,
        metavar="DECO",
        help="Add a decorator to every step: retry:times=2.",
    )
    @_config_options(flow_class)
    @click.pass_context
    def group(
        ctx: click.Context,
        /,
        store_url: str | None,
        quiet: bool,
        decorators: tuple[str, ...],
        config_files: tuple[tuple[str, str], ...] = (),
        config_values: tuple[tuple[str, str], ...] = (),
    ) -> int | None:
        ctx.obj = Invocation(flow_class, store_url, quiet, decorators, (config_files, config_values))
        if ctx.invoked_subcommand is None:
            status = _check_flow(ctx.obj)
            Output(sys.stderr).line(f"`{ctx.obj.command('run')}` runs it; `--help` lists the commands.")
            return status
        return None

    for command in (
        _run_command(flow_class),
        _resume_command(flow_class),
        _check,
        _show,
        _dump,
        _logs,
        _help,
        _version,
    ):
        group.add_command(command)
    return group


def _config_options(flow_class: type[FlowSpec]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that give configs, for a flow that has any."""
    configs = configs_of(flow_class).values()

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        if not configs:
            return command
        told = "; ".join(f"{c.name}: {c.help}" if c.help else c.name for c in configs)
        options = (
            click.option("--config", "config_files", nargs=2, multiple=True, metavar="NAME FILE", help=f"Read a config from FILE ({told})."),
            click.option("--config-value", "config_values", nargs=2, multiple=True, metavar="NAME JSON", help="Give a config as text."),
        )  # fmt: skip
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _first_line(flow_class: type[FlowSpec]) -> str:
    doc = (flow_class.__doc__ or "").strip()
    return doc.splitlines()[0] if doc and doc != (FlowSpec.__doc__ or "").strip() else "a flow"


# Checking


@click.command("check")
@click.pass_obj
def _check(call: Invocation) -> int:
    """Look for everything that would keep the flow from running."""
    return _check_flow(call)


def _check_flow(call: Invocation) -> int:
    """Say whether the flow can run. Raises: InvalidFlow naming the first thing to mend."""
    settle(call.flow_class, configs_given(call, {}))
    checked_graph(call)
    Output(sys.stderr).line(f"{call.flow_class.__name__} is ready to run.", "green")
    return 0


@click.command("show")
@click.pass_obj
def _show(call: Invocation) -> int:
    """Show the steps of the flow and where each goes on."""
    settle(call.flow_class, configs_given(call, {}), is_complete=False)
    graph = checked_graph(call)
    out = Output()
    out.line(f"{graph.name}  {graph.file}:{graph.line}", "bold")
    if graph.doc:
        out.line(graph.doc)
    for parameter in parameters_of(call.flow_class).values():
        out.line(f"  {parameter.option} <{parameter.type_name}>  {parameter.help or ''}".rstrip())
    for node in graph:
        arrow = f"  → {', '.join(node.out_steps)}" if node.out_steps else ""
        kind = {"foreach": f" for each of self.{node.foreach}", "switch": f" by self.{node.condition}"}.get(
            node.kind, ""
        )
        out.line()
        out.line(out.styled(node.name, "bold") + f" ({node.kind}){arrow}{kind}")
        if node.doc:
            out.line("  " + node.doc.replace("\n", "\n  "))
    return 0


@click.command("help")
@click.pass_context
def _help(ctx: click.Context) -> None:
    """Show this help."""
    assert ctx.parent is not None
    Output().line(ctx.parent.get_help())


@click.command("version")
def _version() -> None:
    """Show the version of weft."""
    Output().line(f"weft {VERSION}")


@click.command("logs")
@click.argument("path", metavar="RUN[/STEP[/TASK]]")
@click.option("--stdout", "stream", flag_value="stdout", help="Only what was printed to stdout.")
@click.option("--stderr", "stream", flag_value="stderr", help="Only what was printed to stderr.")
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Go on until the run has ended.")
@click.pass_obj
def _logs(call: Invocation, path: str, stream: str | None, is_followed: bool) -> int:
    """Show what tasks of this flow printed, as they printed it."""
    from weft.cli.console import show_console
    from weft.lineage.store import open_store

    with open_store(existing_store(call)) as store:
        show_console(
            store, parse_pathspec(f"{call.flow_class.__name__}/{path}"), stream, is_followed, Output()
        )
    return 0


@click.command("dump")
@click.argument("path", metavar="RUN[/STEP[/TASK]]")
@click.option("--private", "is_private", is_flag=True, help="Also artifacts whose names begin with _.")
@click.option(
    "--max-value-size",
    default=1000,
    show_default=True,
    help="Leave out values whose text is longer than this.",
)
@click.option("--include", default="", metavar="A,B", help="Only these artifacts.")
@click.option("--file", "file_name", metavar="FILE", help="Write all values to FILE as a pickle instead.")
@click.pass_obj
def _dump(
    call: Invocation, path: str, is_private: bool, max_value_size: int, include: str, file_name: str | None
) -> int:
    """Show the artifacts of tasks of this flow."""
    from weft.cli.dump import dump_artifacts
    from weft.lineage.store import open_store

    names = frozenset(name.strip() for name in include.split(",") if name.strip())
    pathspec = parse_pathspec(f"{call.flow_class.__name__}/{path}")
    with open_store(existing_store(call)) as store:
        dump_artifacts(store, pathspec, is_private, max_value_size, names, file_name)
    return 0


# Running


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `run` and `resume` share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = (
        click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag for the run; may be given again."),
        click.option("--max-workers", type=click.IntRange(1), default=cores, show_default=True, help="Attempts at once."),
        click.option("--max-num-splits", type=click.IntRange(1), default=100_000, show_default=True, help="Largest foreach."),
        click.option("--max-log-size", type=click.IntRange(0), default=10, show_default=True, help="MB kept of each stream of an attempt."),
        click.option("--with", "decorators", multiple=True, metavar="DECO", help="Add a decorator to every step."),
        click.option("--namespace", metavar="NAME", help="What `current.namespace` says."),
        click.option("--run-id-file", metavar="FILE", help="Write the run's id there before the first task starts."),
        click.option("--isolation", type=click.Choice(["auto", "fork", "spawn", "inline"]), default="auto", show_default=True,
                     help="How attempts are kept apart: a fork, a fresh interpreter, or not (for breakpoint())."),
        click.option("--keep-going", is_flag=True, help="After a failure still run what does not depend on it."),
        click.option("--openlineage", metavar="FILE", help="Add OpenLineage events to FILE as they happen; else $WEFT_OPENLINEAGE."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _reuse_options(parameters: Iterable[Parameter]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that only `run` has; a flow's parameter of the same name comes first."""
    options = {
        "reuse": click.option("--reuse/--no-reuse", default=None, help="Let finished tasks of earlier runs stand in where code and reads are the same: for all steps, or also not for those with @cache."),
        "trust": click.option("--trust", is_flag=True, help="Reuse tasks of other users and other stores, too; loading their pickles can run any code."),
    }  # fmt: skip
    taken = {
        word for p in parameters for word in (p.attribute, p.option.removeprefix("--").replace("-", "_"))
    }

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, option in reversed(options.items()):
            if not taken & {name, f"no_{name}"}:
                command = option(command)
        return command

    return add


def _run_command(flow_class: type[FlowSpec]) -> click.Command:
    parameters = parameters_without_configs(flow_class)

    @click.command("run", epilog="Parameters can be set by WEFT_RUN_<NAME>, too.")
    @_reuse_options(parameters.values())
    @_config_options(flow_class)
    @_run_options
    @click.pass_obj
    def command(call: Invocation, /, **options: Any) -> int:
        """Run the flow from its start."""
        from weft.cli.run import run_flow

        given = {p.name: options.pop(p.attribute) for p in parameters.values()}
        return run_flow(call, options, {name: value for name, value in given.items() if value is not None})

    for parameter in parameters.values():
        command.params.append(_option_of(parameter))
    return command


def _option_of(parameter: Parameter) -> click.Option:
    """The option of a parameter. Its text is converted by the runtime, which knows all types."""
    help_text = parameter.help or ""
    if parameter.required and parameter.default is None:
        help_text += "  [required]"
    elif parameter.show_default and parameter.default is not None and not callable(parameter.default):
        help_text += f"  [default: {parameter.default}]"
    return click.Option(
        [parameter.option, parameter.attribute], metavar=f"<{parameter.type_name}>", help=help_text.strip()
    )


def _resume_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that only `resume` has."""
    options = (
        click.option("--from", "--origin-run-id", "origin", metavar="RUN", help="The run to go on from, anybody's; your newest one if not given."),
        click.option("--from-task", metavar="PATHSPEC", help="Run this task again, and after it what then reads other values."),
        click.option("--changed", is_flag=True, help="Run again what new code, parameters or files affect, and only that."),
        click.option("--plan", "is_plan", is_flag=True, help="Only show what would become of each task, and why."),
        click.option("--json", "is_json", is_flag=True, help="Give the plan as JSON."),
        click.option("--trust", is_flag=True, help="Load pickles of other users and other stores; loading one can run any code."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _resume_command(flow_class: type[FlowSpec]) -> click.Command:
    parameters = parameters_without_configs(flow_class)

    @click.command("resume")
    @click.argument("step", required=False)
    @_config_options(flow_class)
    @_resume_options
    @_run_options
    @click.pass_obj
    def command(call: Invocation, /, step: str | None, **options: Any) -> int:
        """Go on where an earlier run ended: what succeeded is reused, the rest runs.

        With STEP that step and everything after it run again. With parameters what reads them runs again,
        and after it what then reads other values.

        \b
        Examples:
          python flow.py resume
          python flow.py resume train --plan
          python flow.py resume --changed
          python flow.py resume --lr 0.1 --from MyFlow/17
        """
        from weft.cli.resume import resume_flow

        given = {p.name: options.pop(p.attribute) for p in changeable}
        return resume_flow(call, options, step, {name: v for name, v in given.items() if v is not None})

    # A parameter that is called as an option of `resume` itself keeps its value here.
    taken = {word for option in command.params for word in (*option.opts, option.name)}
    changeable = [p for p in parameters.values() if p.option not in taken and p.attribute not in taken]
    for parameter in changeable:
        option = _option_of(parameter)
        option.help = parameter.help
        command.params.append(option)
    return command
