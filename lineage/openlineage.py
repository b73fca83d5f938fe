"""The events of runs as OpenLineage events (spec 2-0-2). Pure: what lies in objects is looked up by the caller.

A run of a flow and each attempt of a task are runs of OpenLineage, `Flow` and `Flow.step` their jobs; an attempt names
the flow's run as its parent. An artifact is a dataset `Flow/step/name` whose version is its digest: the tasks of a
foreach, and what a join reads of them, are one dataset. A reused task did not run and tells nothing.

The same log gives the same OpenLineage events, with the same run ids: (run id, event type) says which is which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from weft.lineage.code_units import units_of
from weft.lineage.ids import digest_to_text
from weft.lineage.schema import Event
from weft.lineage.version import VERSION

__all__ = [
    "NAMESPACE",
    "Document",
    "Lookup",
    "TableSchema",
    "Translation",
    "key_of",
    "run_id_of",
    "translate",
]

#: The namespace of jobs and artifacts where none is given.
NAMESPACE = "weft"

_SPEC = "https://openlineage.io/spec"
_PRODUCER = f"urn:weft:{VERSION}"
_RUN_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
#: The versions of the facets that are written.
_FACETS = {
    "DatasetVersionDatasetFacet": "1-0-1",
    "DocumentationJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1",
    "ExecutionParametersRunFacet": "1-0-0",
    "InputStatisticsInputDatasetFacet": "1-0-0",
    "JobTypeJobFacet": "2-0-4",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "ParentRunFacet": "1-2-0",
    "ProcessingEngineRunFacet": "1-1-1",
    "SchemaDatasetFacet": "1-2-0",
    "SourceCodeJobFacet": "1-0-1",
    "SourceCodeLocationJobFacet": "1-1-0",
    "TagsRunFacet": "1-0-0",
}
_HEAD = frozenset({"run_started", "code_saved", "parameter_set", "tag_added", "lease_renewed"})
_RUN_ENDS = {
    "run_succeeded": "COMPLETE",
    "run_failed": "FAIL",
    "run_cancelled": "ABORT",
    "run_lost": "ABORT",
}
_ATTEMPT_ENDS = {
    "attempt_succeeded": "COMPLETE",
    "attempt_caught": "COMPLETE",
    "attempt_failed": "FAIL",
    "attempt_cancelled": "ABORT",
}
_PARAMETERS = "_parameters"

Document = dict[str, Any]


class TableSchema(NamedTuple):
    """What the footer of a table says: its rows, and name and type of each column."""

    rows: int
    fields: tuple[tuple[str, str], ...]


class Lookup(NamedTuple):
    """What the events only name: the entry and texts of a code snapshot, and the schema of a saved table."""

    code: Callable[[bytes], tuple[str, dict[str, str]] | None]
    schema: Callable[[Event], TableSchema | None]


class _Attempt:
    __slots__ = ("reads", "saved", "started", "touched")

    def __init__(self) -> None:
        self.started: Event | None = None
        self.reads: list[Event] = []
        self.saved: list[Event] = []
        self.touched: list[Event] = []


class _Run:
    """One run as far as its events were told."""

    def __init__(self, started: Event) -> None:
        self.started = started
        self.payload: dict[str, Any] = started.payload or {}
        self.is_told = False
        self.tags: list[Event] = []
        self.parameters: list[Event] = []
        self.attempts: dict[tuple[str, str, int], _Attempt] = {}
        self.schemas: dict[bytes, TableSchema] = {}
        self.docs = {node["name"]: node.get("doc") for node in _steps(self.payload)}
        self.code: tuple[str, dict[str, str]] | None = None
        self.sources: dict[str, str] = {}


class Translation:
    """Takes the events of any number of runs one by one, each run's in their order, and gives what follows."""

    def __init__(self, lookup: Lookup, namespace: str = NAMESPACE) -> None:
        self._lookup = lookup
        self._namespace = namespace
        self._runs: dict[bytes, _Run] = {}

    def feed(self, event: Event) -> list[Document]:
        """The OpenLineage events that this one completes."""
        uid = event.run_uid
        if uid is None:
            return []
        if event.kind == "run_started":
            self._runs.setdefault(uid, _Run(event))
            return []
        run = self._runs.get(uid)
        if run is None:
            return []
        if event.kind in _HEAD or event.step == _PARAMETERS:
            self._keep_head(run, event)
            return []
        told = self._begin(run)
        if event.kind in _RUN_ENDS:
            told += self._end_run(run, event)
        elif event.task_id is not None and event.attempt is not None:
            told += self._of_attempt(run, event)
        return told

    def _keep_head(self, run: _Run, event: Event) -> None:
        if event.kind == "tag_added":
            run.tags.append(event)
        elif event.kind == "parameter_set" and (event.payload or {}).get("role") == "parameter":
            run.parameters.append(event)

    def _begin(self, run: _Run) -> list[Document]:
        """The start of the run, told once its parameters and tags are known."""
        if run.is_told:
            return []
        run.is_told = True
        if run.started.digest is not None:
            run.code = self._lookup.code(run.started.digest)
        if run.code is not None:
            run.sources = {unit.name: unit.text for unit in units_of(run.code[1]).values()}
        facets = {
            "processing_engine": _facet(
                "ProcessingEngineRunFacet",
                version=str(run.payload.get("weft", VERSION)),
                name="weft",
                openlineageAdapterVersion=VERSION,
            ),
            "executionParameters": _facet(
                "ExecutionParametersRunFacet",
                parameters=[
                    {"key": e.name or "", **({} if e.value is None else {"value": e.value})}
                    for e in run.parameters
                ],
            ),
            "tags": _facet("TagsRunFacet", tags=[_tag(e) for e in run.tags]),
        }
        return [
            self._document(run, "START", run.started, self._flow_run(run, facets), self._of_flow(run, True))
        ]

    def _end_run(self, run: _Run, event: Event) -> list[Document]:
        """The end of the run, and before it of attempts that nobody told the end of."""
        del self._runs[event.run_uid or b""]
        told = []
        for (step, task_id, attempt), found in run.attempts.items():
            if found.started is not None:
                open_run = self._attempt_run(run, step, task_id, attempt, {})
                told.append(self._document(run, "ABORT", event, open_run, self._of_step(run, step)))
        payload = event.payload or {}
        facets = {}
        if payload.get("error_message") or payload.get("error_type"):
            facets["errorMessage"] = _error(payload.get("error_type"), payload.get("error_message"), None)
        ended = self._flow_run(run, facets)
        told.append(self._document(run, _RUN_ENDS[event.kind], event, ended, self._of_flow(run)))
        return told

    def _of_attempt(self, run: _Run, event: Event) -> list[Document]:
        place = (event.step or "", event.task_id or "", event.attempt or 0)
        if event.kind in _ATTEMPT_ENDS:
            found = run.attempts.pop(place, None)
            # Of an end that is told twice the first counts.
            return [] if found is None or found.started is None else [self._end_attempt(run, event, found)]
        if event.kind == "attempt_started":
            run.attempts.setdefault(place, _Attempt()).started = event
            started = self._attempt_run(run, *place, {})
            return [self._document(run, "START", event, started, self._of_step(run, place[0], True))]
        attempt = run.attempts.get(place)
        if attempt is None:
            return []
        if event.kind == "artifact_saved":
            attempt.saved.append(event)
        elif event.kind == "artifact_used" and not event.is_absent and event.producer_step != _PARAMETERS:
            attempt.reads.append(event)
        elif event.kind == "external_used":
            attempt.touched.append(event)
        return []

    def _end_attempt(self, run: _Run, event: Event, attempt: _Attempt) -> Document:
        facets = {}
        payload = event.payload or {}
        if event.kind in ("attempt_failed", "attempt_caught"):
            facets["errorMessage"] = _error(event.type, payload.get("message"), payload.get("traceback"))
        ended = self._attempt_run(run, event.step or "", event.task_id or "", event.attempt or 0, facets)
        for saved in attempt.saved:
            schema = self._lookup.schema(saved)
            if schema is not None and saved.digest is not None:
                run.schemas[saved.digest] = schema
        document = self._document(
            run, _ATTEMPT_ENDS[event.kind], event, ended, self._of_step(run, event.step or "")
        )
        document["inputs"] = list(self._inputs(run, attempt))
        document["outputs"] = list(self._outputs(run, attempt))
        return document

    # Datasets

    def _inputs(self, run: _Run, attempt: _Attempt) -> Iterator[Document]:
        for name, reads in _by_name(
            attempt.reads, lambda e: f"{e.producer_flow}/{e.producer_step}/{e.name}"
        ).items():
            statistics = _facet("InputStatisticsInputDatasetFacet", fileCount=len(reads))
            yield self._dataset(
                run, self._namespace, name, reads, {"inputFacets": {"inputStatistics": statistics}}
            )
        yield from self._external(attempt, "read")

    def _outputs(self, run: _Run, attempt: _Attempt) -> Iterator[Document]:
        for name, saved in _by_name(attempt.saved, lambda e: f"{e.flow}/{e.step}/{e.name}").items():
            facts: Document = {"size": sum(e.size_bytes or 0 for e in saved), "fileCount": len(saved)}
            rows = [run.schemas[e.digest].rows for e in saved if e.digest in run.schemas]
            if rows:
                facts["rowCount"] = sum(rows)
            statistics = _facet("OutputStatisticsOutputDatasetFacet", **facts)
            yield self._dataset(
                run, self._namespace, name, saved, {"outputFacets": {"outputStatistics": statistics}}
            )
        yield from self._external(attempt, "write")

    def _dataset(
        self, run: _Run, namespace: str, name: str, events: Sequence[Event], more: Document
    ) -> Document:
        facets = {}
        digests = sorted({e.digest for e in events if e.digest is not None})
        if digests:
            version = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
            facets["version"] = _facet("DatasetVersionDatasetFacet", datasetVersion=digest_to_text(version))
        schema = next((run.schemas[digest] for digest in digests if digest in run.schemas), None)
        if schema is not None:
            fields = [{"name": column, "type": kind} for column, kind in schema.fields]
            facets["schema"] = _facet("SchemaDatasetFacet", fields=fields)
        return {"namespace": namespace, "name": name, "facets": facets, **more}

    def _external(self, attempt: _Attempt, direction: str) -> Iterator[Document]:
        mine = [e for e in attempt.touched if (e.payload or {}).get("direction") == direction]
        for uri, events in _by_name(mine, lambda e: e.name or "").items():
            namespace, name = _named(uri)
            facets = {}
            last = events[-1]
            if last.digest is not None:
                version = digest_to_text(last.digest)
                facets["version"] = _facet("DatasetVersionDatasetFacet", datasetVersion=version)
            document: Document = {"namespace": namespace, "name": name, "facets": facets}
            if last.size_bytes is not None:
                kind, key = ("Input", "input") if direction == "read" else ("Output", "output")
                statistics = _facet(f"{kind}Statistics{kind}DatasetFacet", size=last.size_bytes, fileCount=1)
                document[f"{key}Facets"] = {f"{key}Statistics": statistics}
            yield document

    # Runs and jobs

    def _flow_run(self, run: _Run, facets: Document) -> Document:
        return {"runId": run_id_of(run.started.run_uid or b""), "facets": facets}

    def _attempt_run(self, run: _Run, step: str, task_id: str, attempt: int, facets: Document) -> Document:
        uid = run.started.run_uid or b""
        parent = _facet(
            "ParentRunFacet",
            run={"runId": run_id_of(uid)},
            job={"namespace": self._namespace, "name": run.started.flow},
        )
        return {
            "runId": run_id_of(uid, f"{step}/{task_id}/{attempt}"),
            "facets": {"parent": parent, **facets},
        }

    def _of_flow(self, run: _Run, is_full: bool = False) -> Document:
        facets = {"jobType": _work_type("FLOW")}
        if is_full:
            doc = (run.payload.get("graph") or {}).get("doc")
            text = None if run.code is None else run.code[1].get(run.code[0])
            facets |= _source_facets(doc, text)
            git = run.payload.get("git") or {}
            if git.get("commit") and run.payload.get("script"):
                known = {"version": git["commit"], "branch": git.get("branch")}
                facets["sourceCodeLocation"] = _facet(
                    "SourceCodeLocationJobFacet",
                    type="git",
                    url=_file_uri(str(run.payload["script"])),
                    **{name: value for name, value in known.items() if value},
                )
        return {"namespace": self._namespace, "name": run.started.flow, "facets": facets}

    def _of_step(self, run: _Run, step: str, is_full: bool = False) -> Document:
        facets = {"jobType": _work_type("STEP")}
        if is_full:
            facets |= _source_facets(run.docs.get(step), run.sources.get(f"{run.started.flow}.{step}"))
        return {"namespace": self._namespace, "name": f"{run.started.flow}.{step}", "facets": facets}

    def _document(self, run: _Run, event_type: str, event: Event, ran: Document, job: Document) -> Document:
        return {
            "eventType": event_type,
            "eventTime": _instant(event.time_us),
            "producer": _PRODUCER,
            "schemaURL": _RUN_EVENT,
            "run": ran,
            "job": job,
            "inputs": [],
            "outputs": [],
        }


def translate(events: Iterable[Event], lookup: Lookup, namespace: str = NAMESPACE) -> Iterator[Document]:
    """The OpenLineage events of whole runs, whose events come in the order of the log."""
    told = list(events)
    translation = Translation(lookup, namespace)
    fences = {
        (e.run_uid, payload["writer"]): payload["last_seq"]
        for e in told
        if e.kind == "run_lost" and "writer" in (payload := e.payload or {})
    }
    for event in told:
        last_seq = fences.get((event.run_uid, event.writer.hex())) if fences else None
        if last_seq is None or event.seq <= last_seq:
            yield from translation.feed(event)


def key_of(document: Document) -> tuple[str, str]:
    """What tells an OpenLineage event from all others: run id and event type."""
    return document["run"]["runId"], document["eventType"]


def run_id_of(run_uid: bytes, attempt: str | None = None) -> str:
    """The UUID of a run, or of an attempt `step/task/number` of it: version 8, made from the run's own id."""
    data = run_uid.rjust(16, b"\0")[:16]
    if attempt is not None:
        data = hashlib.sha256(data + attempt.encode()).digest()[:16]
    number = int.from_bytes(data, "big")
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _facet(name: str, /, **fields: Any) -> Document:
    url = f"{_SPEC}/facets/{_FACETS[name]}/{name}.json#/$defs/{name}"
    return {"_producer": _PRODUCER, "_schemaURL": url, **fields}


def _work_type(kind: str) -> Document:
    return _facet("JobTypeJobFacet", processingType="BATCH", integration="WEFT", jobType=kind)


def _source_facets(doc: str | None, text: str | None) -> Document:
    facets = {}
    if doc:
        facets["documentation"] = _facet("DocumentationJobFacet", description=doc)
    if text:
        facets["sourceCode"] = _facet("SourceCodeJobFacet", language="python", sourceCode=text)
    return facets


def _error(kind: str | None, message: str | None, traceback: str | None) -> Document:
    text = ": ".join(part for part in (kind, message) if part) or "it failed without a word"
    more = {"stackTrace": traceback} if traceback else {}
    return _facet("ErrorMessageRunFacet", message=text, programmingLanguage="PYTHON", **more)


def _tag(event: Event) -> Document:
    kind = (event.payload or {}).get("kind")
    key, colon, value = (event.name or "").partition(":")
    if kind != "system" or not colon:
        key, value = event.name or "", "true"
    return {"key": key, "value": value, "source": "USER" if kind == "user" else "WEFT"}


def _by_name(events: Iterable[Event], name: Callable[[Event], str]) -> dict[str, list[Event]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(name(event), []).append(event)
    return groups


def _steps(payload: dict[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = (payload.get("graph") or {}).get("steps") or []
    return steps


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name of a dataset outside, by OpenLineage's naming: `file` and its path, `s3://bucket` and the key."""
    scheme, colon, rest = uri.partition("://")
    if not colon or scheme == "file":
        return "file", rest if colon else uri
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority}", path if slash and path else "/"


def _file_uri(path: str) -> str:
    from urllib.parse import quote

    return f"file://{quote(path)}"


def _instant(time_us: int) -> str:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
