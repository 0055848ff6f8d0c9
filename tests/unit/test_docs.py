"""The pages: links lead somewhere, commands are ones that the door takes, keys, files and messages that are named exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from functools import cache
from pathlib import Path

import pytest
import yaml

from r0 import docs
from r0.config.describe import keys
from r0.errors import UserError
from r0.launch import COMMANDS, main, parse
from r0.runs.claim import Marker
from tests.pages import PAGES, ROOT, Block, anchors, blocks, commands, inline_code, known_keys, links, prose

STAND_INS = {"key", "some_key", "section.key", "chat_template_kwargs.enable_thinking"}  # names that stand for a key
SOURCES = sorted((ROOT / "r0").rglob("*.py"))
SHELL = [block for page in PAGES for block in blocks(page) if block.language == "bash"]
OURS = [page for page in PAGES if page.name not in ("ARCHITECTURE.md", "CHANGELOG.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in links(page):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_line_is_one_that_the_door_takes(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in commands(block.text):
        check(arguments)


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_commands_in_a_line_of_text_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [code for code in inline_code(page) if code.startswith("r0 ") and not re.search(r"…|COMMAND|\|", code)]
    for arguments in (one for code in lines for one in commands(code)):
        if len(arguments) > len(name_of(arguments).split()):
            check(arguments, partly=True)


def name_of(arguments: list[str]) -> str:
    """The command that a command line begins with."""
    two = " ".join(arguments[:2])
    name = two if two in COMMANDS else arguments[0]
    assert name in COMMANDS, f"r0 {arguments[0]}"
    return name


def check(arguments: list[str], partly: bool = False) -> None:
    """``parse`` takes the command line; files that a reader would have need not be here. ``partly``: keys may be missing."""
    if not arguments or "--help" in arguments:
        return
    name = name_of(arguments)
    rest = arguments[len(name.split()) :]
    theirs = [word for word in rest if word.endswith(".yaml") and "=" not in word and not word.startswith("configs/")]
    wrong = ""
    try:
        parse(name, [word for word in rest if word not in theirs])
    except UserError as error:
        wrong = str(error)
    lines = [line for line in wrong.splitlines() if not ((partly or theirs) and line.endswith("is missing"))]
    assert not lines, lines


@pytest.mark.parametrize("block", [block for block in SHELL if block.runs], ids=str)
def test_blocks_that_run_are_planned_by_a_dry_run(block: Block, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "r0" / "configs")
    monkeypatch.chdir(tmp_path)
    for arguments in commands(block.text):
        if "--help" not in arguments:
            assert main([*arguments, "--dry-run"]) in (0, 2), arguments  # 2: what an earlier block makes is not there
            assert "unknown" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_keys_that_a_page_names_exist(page: Path) -> None:
    """Of a table whose first column is another tool's, the other columns."""
    text = prose(page)
    if page.name == "coming-from.md":
        text = "\n".join(line.split("|", 2)[2] for line in text.splitlines() if line.startswith("| "))
    named = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"(?<![\w.-])([a-z][a-z0-9_.]*)=", code)}
    assert named <= known_keys() | STAND_INS, named - known_keys()


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_files_and_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    whole = page.read_text(encoding="utf-8")
    code = "\n".join([*inline_code(page), *(block.text for block in blocks(page))])
    for target in re.findall(r"make ([a-z-]+)(?=[ `\n])", code):
        assert target in targets, target
    for path in re.findall(r"(?<![\w/])((?:r0|configs|launch|benchmarks|tests|docs|scripts)/[\w./-]*\w\.\w+)", whole):
        if "my_" not in path and "my-" not in path:
            assert (ROOT / path).exists(), path


def test_every_page_is_in_the_menu_and_every_command_on_a_page() -> None:
    menu = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    assert sorted(menu) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    shown = {
        name_of(arguments) for block in SHELL for arguments in commands(block.text) if arguments and arguments[0] != "--help"
    }
    assert set(COMMANDS) - shown <= {"completion", "demo", "rollouts"} | shown
    assert {name.split()[0] for name in COMMANDS} <= {name.split()[0] for name in shown} | {"completion"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_page_has_a_place_that_was_left_open() -> None:
    for page in PAGES:
        assert "@@" not in page.read_text(encoding="utf-8"), page


# The reference of keys


def test_the_reference_has_every_key_with_its_meaning() -> None:
    text = docs.on_page_markdown((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert docs.MARK not in text
    for name, command in COMMANDS.items():
        assert f"## r0 {name} {{" in text
        for path, field in keys(command.config):
            assert f"| `{path.rpartition('.')[2]}` |" in text
            assert docs._text(field.description or "") in text


def test_the_reference_gives_bounds_choices_and_other_names() -> None:
    text = docs.reference()
    assert "| `batch_size` | int ≥ 1 |" in text
    assert "| `heldout_share` | float 0…1 | `0.1` |" in text
    assert "| `loss` | `ppo_clip`, `gspo`, `cispo` | `ppo_clip` |" in text
    assert "| `denominator` | `tokens`, `sequences` | empty | loss aggregation" in text
    assert "empty: sequences with loss=gspo, otherwise tokens" in text
    assert "(also `lr`)" in text
    assert "`lora_r` for `lora.r`" in text
    assert "max_steps: 60" in text  # the shipped file of the demo


def test_links_within_the_reference_lead_to_its_headings() -> None:
    text = docs.reference()
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= set(re.findall(r"\{ #([\w-]+) \}", text))


# What the program says


def strings(node: ast.AST) -> str:
    """The text of a message, its values as ``{}``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(strings(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return strings(node.left) + strings(node.right)
    return ""


@cache
def messages() -> list[tuple[str, str]]:
    """(place, text) of every sentence that an exception or a notice is made of."""
    found = []
    for source in SOURCES:
        in_config = source.is_relative_to(ROOT / "r0" / "config")  # elsewhere a ValueError is a fault of the program
        saying = SAYING | {"ValueError"} if in_config else SAYING
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in saying:
                place = f"{source.relative_to(ROOT)}:{node.lineno}"
                found += [(place, text) for part in node.args if (text := strings(part))]
    return found


SAYING = {"UserError", "BadLine", "print", "say", "warning", "SetupError"}


def test_keys_that_messages_name_exist() -> None:
    wrong, known = [], known_keys() | STAND_INS
    for place, text in messages():
        named = re.findall(r"(?<![\w.{}-])([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)=", text)
        wrong += [f"{place}: {name}" for name in named if name not in known]
    assert not wrong


def test_pages_files_and_targets_that_messages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for place, text in messages():
        for name in re.findall(r"[\w./-]+\.md\b", text):
            assert (ROOT / name).is_file(), f"{place}: {name}"
        for target in re.findall(r"\bmake ([a-z-]+)(?=[ ,;)]|$)", text):
            assert target in targets or target in ("it", "room", "sure", "a", "the", "an"), f"{place}: make {target}"


def test_messages_that_the_pages_quote_are_ones_of_the_program() -> None:
    said = " ".join(node.value for source in [*SOURCES, ROOT / "Makefile"] for node in constants(source))
    makefile = (ROOT / "Makefile").read_text()
    for line in prose(ROOT / "docs" / "troubleshooting.md").splitlines():
        if line.startswith("| `"):
            quoted = re.match(r"\| `([^`]+)` \|", line)
            for part in re.split(r"\s*(?:…|N)\s*\??", quoted[1]) if quoted and ":" not in quoted[1] else ():
                words = re.sub(r"\(c\+\+\) ", "", part).strip(" ;")
                assert not words or words in said or words in makefile or re.sub(r" was found$", "", words) in said, words


def constants(source: Path) -> list[ast.Constant]:
    """The string constants of a Python file, parts of f-strings too."""
    if source.suffix != ".py":
        return []
    tree = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]


# Pictures and project files


def test_the_learning_curve_is_drawn_from_a_record(tmp_path: Path) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(vars(Marker("stage_a", "one"))))
    lines = ['{"step": 0, "heldout/sampled/reward": 0.25}', *(f'{{"step": {i}, "reward": {i / 10}}}' for i in range(1, 11))]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 10, "heldout/sampled/reward": 0.75}']) + "\n")
    script = [sys.executable, str(ROOT / "scripts" / "learning_curve.py"), str(run)]
    assert subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip() == str(run / "learning-curve.svg")
    picture = xml.etree.ElementTree.parse(run / "learning-curve.svg").getroot()
    circles = [one.attrib for one in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert [one["class"] for one in circles] == ["step"] * 10 + ["heldout"] * 2
    heights = [float(one["cy"]) for one in circles[:10]]
    assert heights == sorted(heights, reverse=True)  # a higher reward is higher up
    assert "held out, sampled: 0.75" in "".join(picture.itertext())


def test_a_folder_without_a_record_is_no_picture(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "learning_curve.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 2
    assert "give the folder that a command wrote" in done.stderr


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_svg_without_anything_from_elsewhere(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_citation_names_this_version() -> None:
    import r0

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (r0.__version__, "Apache-2.0")
    assert f"## {r0.__version__}" in (ROOT / "CHANGELOG.md").read_text()
