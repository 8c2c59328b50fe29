"""Check the rules of the design: imports, sizes, air gap (CONTRIBUTING.md)."""

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

# Modules of Python that only some of our modules may import, with the patterns of these.
RESTRICTED = {
    # probe.py is sent to hosts as a single file.
    "subprocess": ["keystone.run", "keystone.hosts.probe"],
    "requests": ["keystone.packager.sources.*", "keystone.join.*", "keystone.lab.*"],
    "urllib.request": ["keystone.packager.sources.*", "keystone.join.*", "keystone.lab.*"],
    # metrics reads those of the etcd member on the same machine, on loopback.
    # backup.s3 sends sealed files to a store inside the gap.
    "http.client": [
        "keystone.packager.sources.*",
        "keystone.join.*",
        "keystone.lab.*",
        "keystone.hosts.clocks",
        "keystone.cluster.metrics",
        "keystone.backup.s3",
    ],
    "pickle": [],
    "ansible": [],
}

# Modules that may create a file whose name may exist already: keystone.files checks the folder
# and follows no link. Names of keystone.store.intake belong to the store; each is new (O_EXCL).
CREATES_FILES = ["keystone.files", "keystone.store.intake"]

# Who may give a name by itself: keystone.files does it for all others, with the fsyncs around it.
NAMES_FILES = {
    "keystone.files",
    # Inside a step's own folder, which gets its name as a whole; sweep takes a name away.
    "keystone.image.rootfs", "keystone.image.oci", "keystone.image.iso", "keystone.image.disk",
    "keystone.image.steps",
    # A kept step gets a second name, beside the output; that one is settled.
    "keystone.image.build",
    # Disks and layers of a machine that is off; a run that was cut does it again.
    "keystone.lab.machines.container", "keystone.lab.machines.virtual",
    # Files below a folder that mke2fs reads and that goes then; what a mirror serves while it runs.
    "keystone.lab.machines.disk", "keystone.lab.mirror.serve",
    # One thread a file, which it has synced; the folder of all is synced once, at commit.
    "keystone.store.intake",
    # Links into the store and small files: one sync for all of them, and a re-run repairs.
    "keystone.store.publish",
}  # fmt: skip

# Other people's archives have one reader each: bundle/formats. The rest writes, or reads zips.
ARCHIVES = {
    # Writers, whose bytes must stay the same: charts packed anew, layers of the lab's images.
    "tarfile": ["keystone.packager.charts.chart", "keystone.lab.mirror.images"],
    # kernel_modules compresses what it compiled.
    "lzma": ["keystone.bundle.formats.compressed", "keystone.packager.kernel_modules"],
    "bz2": ["keystone.bundle.formats.compressed"],
    # The same writers; probe.py reads /proc/config.gz on a host, alone.
    "gzip": [
        "keystone.packager.charts.chart", "keystone.lab.mirror.images", "keystone.hosts.probe",
    ],
    "backports.zstd": ["keystone.bundle.formats.zstd"],
    "compression.zstd": ["keystone.bundle.formats.zstd"],
    "zstandard": [],
    # The installer inside, wheels, and what a blob is: zips are read from their end, as files.
    "zipfile": [
        "keystone.closure.sites", "keystone.closure.wheels", "keystone.packager.installer",
        "keystone.packager.sbom.scan",
    ],
}  # fmt: skip

# A package imports only packages of the rows above its own.
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
backup
install image
appliance
cli
"""
ROW = {name: row for row, names in enumerate(ORDER.splitlines()) for name in names.split()}
# keystone.packager uses the network; other packages cannot do so by mistake.
MAY_USE_PACKAGER = {"packager", "closure", "image", "lab", "cli"}


@cache
def sources() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its dotted name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"):
            ast.parse(path.read_text(), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }  # fmt: skip


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield all statements that run, without those for type checkers only."""
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
    """Return the dotted names that a module imports. types: also those for type checkers only."""
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


@pytest.mark.parametrize("restricted", RESTRICTED)
def test_restricted_module_is_imported_only_where_allowed(restricted: str) -> None:
    violations = [
        module
        for module in sources()
        for name in imports(module)
        if (name == restricted or name.startswith(f"{restricted}."))
        and not matches(module, RESTRICTED[restricted])
    ]
    assert violations == []


@pytest.mark.parametrize("library", ARCHIVES)
def test_archive_libraries_are_imported_only_by_their_readers(library: str) -> None:
    users = {
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and library in {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module == library)
    }
    assert sorted(users) == sorted(ARCHIVES[library])


def test_only_keystone_files_and_intake_create_files() -> None:
    creators = {
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("O_EXCL", "O_TRUNC")
    }
    assert sorted(creators) == sorted(CREATES_FILES)


def gives_a_name(node: ast.AST) -> bool:
    """Calls of rename, replace and link: replace of a text or a date has more, or named words."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if node.func.attr == "replace":
        process = ast.unparse(node.func) == "run.replace"  # exec(3)
        one = len(node.args) == 1 and not node.keywords
        return ast.unparse(node.func) == "os.replace" or (one and not process)
    return node.func.attr in {"rename", "renames", "hardlink_to"} or ast.unparse(node.func) in {
        "os.link", "shutil.move",
    }  # fmt: skip


def test_names_are_given_through_one_door() -> None:
    givers = {
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if gives_a_name(node)
    }
    assert givers == NAMES_FILES


def package(module: str) -> str:
    """Return the package (or root module) of keystone that a module is in; "" for keystone."""
    return module.removeprefix("keystone").lstrip(".").partition(".")[0]


def crossings() -> Iterator[tuple[str, str]]:
    """Yield each module with each other package of ours that it imports, also for types only."""
    for module in sources():
        for name in imports(module, types=True):
            ours = name.startswith("keystone.") and package(name) != package(module)
            if ours and module not in ("keystone", "keystone.__main__"):
                yield module.removeprefix("keystone."), package(name)


def test_package_imports_only_packages_of_rows_above() -> None:
    violations = [
        f"{module} imports {name}"
        for module, name in crossings()
        if ROW[name] >= ROW[package(module)]
    ]
    assert violations == []


def test_packager_is_imported_only_where_allowed() -> None:
    users = {package(module) for module, name in crossings() if name == "packager"}
    assert users <= MAY_USE_PACKAGER


def test_only_cli_lazy_imports_dynamically() -> None:
    """cli/lazy.py imports verbs when they are called; all other imports are statements."""
    dynamic = [
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "__import__")
        and "libzfs_core" not in ast.unparse(node)
    ]
    assert dynamic == ["keystone.cli.lazy"]


def test_modules_of_verbs_import_at_the_top() -> None:
    """A verb's module is imported when the verb is called, so its imports need not be delayed."""
    late = {
        module
        for module, tree in sources().items()
        for function in ast.walk(tree)
        if package(module) == "cli" and isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert late == {"keystone.cli"}, "only the root command may import inside a function"


def test_imports_have_no_cycle() -> None:
    graph = {
        module: {name for name in imports(module) if name in sources() and name != module}
        for module in sources()
    }
    # Raises CycleError, which names the modules of the cycle.
    assert set(TopologicalSorter(graph).static_order()) >= set(sources())


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "core", "misc"])
def test_no_module_has_a_meaningless_name(name: str) -> None:
    # lab/upstream is not searched: it has sources with the names of their upstreams.
    found = [
        path
        for top in ("installer", "playbooks", "tests")
        for pattern in (name, f"{name}.*")
        for path in (ROOT / top).rglob(pattern)
    ]
    assert found == []


# Sizes: budgets that keep each file short enough to read it at once.


LARGER = {
    # A single program, sent as text to hosts that do not have our package.
    "installer/keystone/hosts/probe.py": 520,
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
def test_files_are_within_their_line_budget(pattern: str, budget: int) -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in ROOT.glob(pattern)}
    assert {name: size for name, size in sizes.items() if size > LARGER.get(name, budget)} == {}


def test_functions_are_within_their_line_budget() -> None:
    """A body has at most 40 lines; signature and docstring do not count."""
    over = {}
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator] parsed from text
                if size > 40:
                    over[f"{module}.{node.name}"] = size
    assert over == {}


# Roles and playbooks: a role knows one host only, and uses nothing from outside that host.

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
    """Return all files that Ansible reads for a host."""
    patterns = ["playbooks/*.yml", *(
        f"roles/*/{part}/**/*" for part in ("tasks", "handlers", "defaults", "vars", "templates")
    )]  # fmt: skip
    return sorted(p for pattern in patterns for p in ROOT.glob(pattern) if p.is_file())


def tasks(value: object) -> Iterator[dict[str, object]]:
    """Yield all tasks of a parsed file, including those in blocks and plays."""
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
    # BaseLoader ignores Ansible's own tags, and reads every scalar as text.
    parsed = [(p, yaml.load(p.read_text(), yaml.BaseLoader)) for p in files]
    return [(str(p.relative_to(ROOT)), task) for p, value in parsed for task in tasks(value)]


def test_tasks_use_only_builtin_or_our_modules_and_no_downloads() -> None:
    wrong = []
    for where, task in all_tasks():
        for key in task.keys() - KEYWORDS:
            ours = key.startswith("keystone_") and (ROOT / f"playbooks/library/{key}.py").is_file()
            builtin = key.removeprefix("ansible.builtin.")
            if not ours and (builtin == key or builtin in DOWNLOADS):
                wrong.append(f"{where}: {task.get('name')}: {key}")
    assert wrong == []


@pytest.mark.parametrize("pattern", [*HIDING, *TOPOLOGY, *FETCHING])
def test_roles_ignore_no_failure_use_one_host_and_fetch_nothing(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in host_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_every_role_ends_with_record_task() -> None:
    """The probe needs the record to see that the role was applied and whether its files drifted."""
    wrong = []
    for role in sorted(p for p in (ROOT / "roles").glob("*") if p.is_dir()):
        main = yaml.load((role / "tasks" / "main.yml").read_text(), yaml.BaseLoader)
        every = list(tasks(main))
        # If the last two tasks have opposite conditions, both must record.
        last = every[-2:] if every[-1].get("when") else every[-1:]
        records = [task["keystone_host"].get("record", {}) for task in last]
        if any(record.get("role") != role.name for record in records):
            wrong.append(role.name)
    assert wrong == []
