"""Rules of the design that a reader would otherwise have to remember: imports, sizes, air gap."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "installer" / "keystone"

# What only some modules may import: the doors to the outside.
DOORS = {
    # probe.py is sent to hosts as one file and runs there alone.
    "subprocess": ["keystone.run", "keystone.hosts.probe"],
    "requests": ["keystone.packager.sources.*", "keystone.join.*", "keystone.lab.*"],
    "urllib.request": ["keystone.packager.sources.*", "keystone.join.*", "keystone.lab.*"],
    "http.client": ["keystone.packager.sources.*", "keystone.join.*", "keystone.lab.*"],
    "pickle": [],
    "ansible": [],
}

# Who may make a file at a name that may be taken: keystone.files looks at the folder and
# follows no link. The names of the intake are the store's own, and each is made once (O_EXCL).
MAKES_FILES = ["keystone.files", "keystone.store.intake"]

# A package imports what stands in a row above its own, and nothing beside or below it.
ORDER = """
errors log
files mistakes host_keys passphrase pkcs8
run lockfile
documents sandbox hosts
bundle site
packager store storage pki
cluster
ansible
components closure join lab
install image
appliance
cli
"""
ROW = {name: row for row, names in enumerate(ORDER.splitlines()) for name in names.split()}
# Outside the gap is what uses the network: who does not, cannot reach it even by mistake.
MAY_USE_PACKAGER = {"packager", "closure", "image", "lab", "cli"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"):
            ast.parse(path.read_text(), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }  # fmt: skip


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements that run, without those that only a type checker reads."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse)
            continue
        yield node
        for children in ast.iter_child_nodes(node):
            if isinstance(children, ast.stmt):
                yield from statements([children])


@cache
def imports(module: str, *, types: bool = False) -> frozenset[str]:
    """What a module imports when it runs, as full dotted names. types: and for a type checker."""
    names = set()
    tree = sources()[module]
    for node in ast.walk(tree) if types else statements(tree.body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in sources() or node.module == "urllib" else node.module)
    return frozenset(name for name in names if name)


def matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("door", DOORS)
def test_each_door_to_the_outside_has_its_keepers(door: str) -> None:
    through = [
        module
        for module in sources()
        for name in imports(module)
        if (name == door or name.startswith(f"{door}.")) and not matches(module, DOORS[door])
    ]
    assert through == []


def test_files_are_made_through_one_door() -> None:
    makers = {
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("O_EXCL", "O_TRUNC")
    }
    assert sorted(makers) == sorted(MAKES_FILES)


def package(module: str) -> str:
    """The room below keystone: a package, or a module that is one by itself; "" for keystone."""
    return module.removeprefix("keystone").lstrip(".").partition(".")[0]


def crossings() -> Iterator[tuple[str, str]]:
    """Each module with each other package of ours that it imports, for types too."""
    for module in sources():
        for name in imports(module, types=True):
            ours = name.startswith("keystone.") and package(name) != package(module)
            if ours and module not in ("keystone", "keystone.__main__"):
                yield module.removeprefix("keystone."), package(name)


def test_a_package_imports_only_what_stands_before_it() -> None:
    against = [
        f"{module} imports {name}"
        for module, name in crossings()
        if ROW[name] >= ROW[package(module)]
    ]
    assert against == []


def test_only_some_may_use_what_uses_the_network() -> None:
    users = {package(module) for module, name in crossings() if name == "packager"}
    assert users <= MAY_USE_PACKAGER


def test_a_module_of_ours_is_imported_by_its_name() -> None:
    """cli/lazy.py imports verbs when they are called; nothing else hides what it imports."""
    hidden = [
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "__import__")
        and "libzfs_core" not in ast.unparse(node)
    ]
    assert hidden == ["keystone.cli.lazy"]


def test_verbs_import_at_the_top() -> None:
    """A verb's module is imported when the verb is called: nothing in it has to wait longer."""
    late = {
        module
        for module, tree in sources().items()
        for function in ast.walk(tree)
        if package(module) == "cli" and isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert late == {"keystone.cli"}, "the root command and what it says of failures"


def test_imports_point_one_way() -> None:
    graph = {
        module: {name for name in imports(module) if name in sources() and name != module}
        for module in sources()
    }
    # Raises CycleError, naming the modules of the circle.
    assert set(TopologicalSorter(graph).static_order()) >= set(sources())


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "core", "misc"])
def test_no_drawer_for_odds_and_ends(name: str) -> None:
    # lab/upstream holds sources under the names that upstream gave them.
    found = [
        path
        for top in ("installer", "playbooks", "tests")
        for pattern in (name, f"{name}.*")
        for path in (ROOT / top).rglob(pattern)
    ]
    assert found == []


# Sizes: budgets that keep a file readable at one sitting.


LARGER = {
    # One program, sent as a text to a host that has no package of ours.
    "installer/keystone/hosts/probe.py": 450,
}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize(
    ("pattern", "budget"),
    [
        ("installer/**/*.py", 400),
        ("playbooks/**/*.py", 400),
        ("lab/**/*.py", 400),
        ("playbooks/*.yml", 30),
        ("roles/*/tasks/*.yml", 80),
        ("roles/*/handlers/*.yml", 80),
    ],
)
def test_files_stay_within_their_budget(pattern: str, budget: int) -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in ROOT.glob(pattern)}
    assert {name: size for name, size in sizes.items() if size > LARGER.get(name, budget)} == {}


def test_functions_stay_within_their_budget() -> None:
    """40 lines of body: signature and docstring do not count."""
    over = {}
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator] parsed from text
                if size > 40:
                    over[f"{module}.{node.name}"] = size
    assert over == {}


# Roles and playbooks: one host's point of view, and nothing from anywhere but that host.

KEYWORDS = {
    "always", "any_errors_fatal", "args", "become", "become_user", "block", "changed_when",
    "check_mode", "delay", "diff", "environment", "failed_when", "listen", "loop", "loop_control",
    "name", "no_log", "notify", "register", "rescue", "retries", "tags", "throttle", "until",
    "vars", "when",
}  # fmt: skip
DOWNLOADS = {
    "apt", "apt_key", "apt_repository", "deb822_repository", "dnf", "dnf5", "get_url", "git",
    "package", "pip", "rpm_key", "subversion", "unarchive", "uri", "yum_repository",
}  # fmt: skip
HIDING = [
    r"\bignore_errors\b",
    r"failed_when:\s*(false|no)\b",
    r"\|\|\s*true\b",
    r"\bignore_unreachable\b",
]
TOPOLOGY = [r"\bhostvars\b", r"\bgroups\s*[\[.]", r"\bdelegate_to\b", r"\brun_once\b"]
FETCHING = [r"\bcurl\b", r"\bwget\b", r"lookup\(\s*['\"](ansible\.builtin\.)?url"]


def host_files() -> list[Path]:
    """Everything that Ansible reads for a host."""
    patterns = ["playbooks/*.yml", *(
        f"roles/*/{part}/**/*" for part in ("tasks", "handlers", "defaults", "vars", "templates")
    )]  # fmt: skip
    return sorted(p for pattern in patterns for p in ROOT.glob(pattern) if p.is_file())


def tasks(value: object) -> Iterator[dict[str, object]]:
    """All tasks in a parsed file, those inside blocks and plays too."""
    if isinstance(value, list):
        for entry in value:
            yield from tasks(entry)
    elif isinstance(value, dict):
        inner = {"block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"}
        if not value.keys() & (inner | {"hosts"}):
            yield value
        for key in inner & value.keys():
            yield from tasks(value[key])


def all_tasks() -> list[tuple[str, dict[str, object]]]:
    files = [
        p for p in host_files() if p.suffix == ".yml" and not {"defaults", "vars"} & {*p.parts}
    ]
    # BaseLoader takes Ansible's own tags for what they are on, and every scalar as text.
    parsed = [(p, yaml.load(p.read_text(), yaml.BaseLoader)) for p in files]
    return [(str(p.relative_to(ROOT)), task) for p, value in parsed for task in tasks(value)]


def test_tasks_use_builtin_modules_or_our_own_and_download_nothing() -> None:
    wrong = []
    for where, task in all_tasks():
        for key in task.keys() - KEYWORDS:
            ours = key.startswith("keystone_") and (ROOT / f"playbooks/library/{key}.py").is_file()
            builtin = key.removeprefix("ansible.builtin.")
            if not ours and (builtin == key or builtin in DOWNLOADS):
                wrong.append(f"{where}: {task.get('name')}: {key}")
    assert wrong == []


@pytest.mark.parametrize("pattern", [*HIDING, *TOPOLOGY, *FETCHING])
def test_roles_hide_no_failure_know_one_host_and_fetch_nothing(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in host_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_every_role_ends_with_its_record() -> None:
    """Without it the probe cannot see that the role was applied, nor that its files drifted."""
    wrong = []
    for role in sorted(p for p in (ROOT / "roles").glob("*") if p.is_dir()):
        main = yaml.load((role / "tasks" / "main.yml").read_text(), yaml.BaseLoader)
        every = list(tasks(main))
        # Of two last tasks under opposite conditions each ends with it.
        last = every[-2:] if every[-1].get("when") else every[-1:]
        records = [task["keystone_host"].get("record", {}) for task in last]
        if any(record.get("role") != role.name for record in records):
            wrong.append(role.name)
    assert wrong == []
