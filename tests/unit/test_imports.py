"""Which room may import which. Every import counts: at the top of a file, inside a function, and for types only."""

from collections.abc import Iterable, Iterator

import grimp
import pytest

# Libraries that are imported in these modules and packages alone.
ONLY_IN = {
    "vllm": (
        "r0.actors.rollout.vllm_engine",
        "r0.actors.rollout.vllm_patches",
        "r0.actors.rollout.vllm_start",
        "r0.actors.sync.vllm_sync",
        "r0.actors.sync.vllm_transfer",
    ),
    "deepspeed": (
        "r0.actors.learner.zero",
        "r0.actors.sync.weights",  # gathers the weights that ZeRO-3 has split
        "r0.supervised.training",
        "r0.tools.native",  # builds DeepSpeed's native part
    ),
}

Graph = grimp.ImportGraph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return grimp.build_graph("r0", include_external_packages=True, cache_dir=None)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def shown(graph: Graph, imports: Iterable[tuple[str, str]]) -> str:
    """Each import with its place and its line."""
    lines = []
    for importer, imported in imports:
        for detail in graph.get_import_details(importer=importer, imported=imported):
            lines.append(f"{importer}:{detail['line_number']}: {detail['line_contents']}")
    return "\n".join(lines)


def chain(graph: Graph, importer: str, imported: str) -> str:
    """The imports by which ``importer`` comes to know ``imported``, by itself or through others; empty if it does not."""
    if imported not in graph.modules:
        return ""
    found = sorted(graph.find_shortest_chains(importer, imported, as_packages=True), key=len)
    return shown(graph, zip(found[0], found[0][1:], strict=False)) if found else ""


def circles(successors: dict[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """Sets of names that all reach each other."""
    reach: dict[str, set[str]] = {}
    for name in successors:
        waiting, seen = [name], set()
        while waiting:
            for successor in successors[waiting.pop()] - seen:
                seen.add(successor)
                waiting.append(successor)
        reach[name] = seen
    yield from sorted({tuple(sorted(b for b in reach[a] if a in reach[b])) for a in reach if a in reach[a]})


def siblings(graph: Graph, package: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The imports between the modules and packages directly in ``package``, by the pair of them."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for child in graph.find_children(package):
        for importer in (child, *graph.find_descendants(child)):
            for imported in graph.find_modules_directly_imported_by(importer):
                other = next((one for one in graph.find_children(package) if is_in(imported, one)), child)
                if other != child:
                    found.setdefault((child, other), []).append((importer, imported))
    return found


def circles_in(graph: Graph) -> Iterator[tuple[tuple[str, ...], str]]:
    """Circles of modules or packages that lie side by side, with the imports that make them."""
    for package in sorted(name for name in graph.modules if is_in(name, "r0") and graph.find_children(name)):
        arrows = siblings(graph, package)
        successors = {child: {to for come, to in arrows if come == child} for child in graph.find_children(package)}
        for circle in circles(successors):
            made_by = [one for pair, imports in sorted(arrows.items()) if set(pair) <= set(circle) for one in imports]
            yield circle, shown(graph, made_by)


def test_no_modules_or_packages_import_each_other_in_a_circle(graph):
    found = dict(circles_in(graph))
    assert not found, "\n".join(f"{' <-> '.join(circle)}\n{imports}" for circle, imports in found.items())


@pytest.mark.parametrize("room", ["r0.text", "r0.data", "r0.rewards", "r0.algos"])
def test_no_room_without_actors_knows_them(graph, room):
    assert not (found := chain(graph, room, "r0.actors")), found


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_rewards_know_no_tokenizer(graph, library):
    assert not (found := chain(graph, "r0.rewards", library)), found


def test_algos_know_nothing_of_r0_but_records_and_errors(graph):
    known = ("r0.algos", "r0.records", "r0.errors")
    found = [
        (importer, imported)
        for importer in graph.find_descendants("r0.algos")
        for imported in graph.find_modules_directly_imported_by(importer)
        if is_in(imported, "r0") and not any(is_in(imported, one) for one in known)
    ]
    assert not found, shown(graph, found)


def test_nothing_imports_the_commands(graph):
    found = [
        (importer, command)
        for command in ("r0.commands", *graph.find_descendants("r0.commands"))
        for importer in graph.find_modules_that_directly_import(command)
        if not is_in(importer, "r0.commands")
    ]
    assert not found, shown(graph, found)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_in_its_own_files(graph, library):
    importers = graph.find_modules_that_directly_import(library)
    assert importers, f"{library} is imported nowhere; does the graph hold other packages?"
    found = [(importer, library) for importer in importers if not any(is_in(importer, one) for one in ONLY_IN[library])]
    assert not found, shown(graph, found)


def test_an_import_that_breaks_a_rule_is_named():
    graph = grimp.ImportGraph()
    for module in ("r0", "r0.a", "r0.a.one", "r0.a.two", "r0.b", "r0.c"):
        graph.add_module(module)
    for number, (importer, imported) in enumerate([("r0.a.one", "r0.b"), ("r0.b", "r0.a.two"), ("r0.c", "r0.b")], 1):
        line = f"import {imported}"
        graph.add_import(importer=importer, imported=imported, line_number=number, line_contents=line)
    assert list(circles_in(graph)) == [(("r0.a", "r0.b"), "r0.a.one:1: import r0.b\nr0.b:2: import r0.a.two")]
    assert chain(graph, "r0.c", "r0.a") == "r0.c:3: import r0.b\nr0.b:2: import r0.a.two"
    assert chain(graph, "r0.a.two", "r0.b") == ""
