"""The package as a whole: what an import loads, what the metadata and the README promise."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import captum_robust

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [name for name in captum_robust.__all__ if name != "__version__"]

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree"
)


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- imports


def test_importing_the_package_loads_no_part_and_nothing_heavy():
    loaded = python("import sys, captum_robust; print(*sys.modules)").split()
    heavy = {"accelerate", "captum", "matplotlib", "numpy", "torch", "torchattacks", "zennit"}
    assert not heavy & set(loaded)
    assert not [name for name in loaded if name.startswith("captum_robust.")]


LOADING_TORCHATTACKS = {"attacks", "audit", "training"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that torch is imported once")
def test_a_package_is_imported_on_first_use_and_loads_no_optional_package():
    code = (
        "import os, sys, torch, captum.attr\n"
        "import captum_robust\n"
        "for package in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        name = getattr(captum_robust, package).__name__\n"
        "        print(package, name, *sys.modules, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    lines = [line.split() for line in python(code, *PACKAGES).splitlines()]
    assert [package for package, *_ in lines] == PACKAGES
    for package, name, *loaded in lines:
        assert name == f"captum_robust.{package}"
        assert name in loaded
        assert not {"accelerate", "zennit"} & set(loaded), package
        assert package in LOADING_TORCHATTACKS or "torchattacks" not in loaded, package


def test_dir_lists_the_packages_and_all_names_exist():
    assert set(PACKAGES) <= set(dir(captum_robust))
    for name in captum_robust.__all__:
        assert getattr(captum_robust, name) is not None
    for package in PACKAGES:
        module = getattr(captum_robust, package)
        assert module.__all__, package
        for name in module.__all__:
            assert getattr(module, name).__doc__, f"{package}.{name}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_package"):
        captum_robust.no_such_package  # noqa: B018


def test_every_folder_of_the_package_is_public_or_private():
    package = ROOT / "captum_robust"
    folders = {init.parent.name for init in package.glob("*/__init__.py")}
    files = {file.stem for file in package.glob("*.py")} - {"__init__"}
    assert {name for name in folders | files if not name.startswith("_")} == set(PACKAGES)


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def lower_bounds() -> dict[str, str]:
    """The dependencies of the package; each has a lower bound and no other."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert found
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)",', found[1]))
    assert len(bounds) == found[1].count('"') // 2
    return bounds


def test_one_door_to_what_belongs_to_others():
    doors = {
        "torchattacks": {"attacks/torch_attack.py"},
        "captum._utils": {"_utils/captum.py"},
        "accelerate": {"audit/engine.py", "training/engine.py"},
    }
    package = ROOT / "captum_robust"
    for theirs, door in doors.items():
        users = {
            file.relative_to(package).as_posix()
            for file in package.rglob("*.py")
            if any(name == theirs or name.startswith(f"{theirs}.") for name in imports_of(file))
        }
        assert users == door, theirs


def test_every_package_that_is_imported_is_declared():
    declared = {name.replace("-", "_") for name in lower_bounds()}
    modules = {"pillow": "PIL", "scikit_image": "skimage"}
    declared = {modules.get(name, name) for name in declared}
    used: set[str] = set()
    for file in (ROOT / "captum_robust").rglob("*.py"):
        used |= {name.split(".")[0] for name in imports_of(file)}
    used -= {*sys.stdlib_module_names, "captum_robust"}
    # Of an extra, imported on first use, or where they are installed.
    optional = {"accelerate", "pandas", "sklearn", "typing_extensions"}
    assert used <= declared | optional
    # TorchAttacks imports torchvision; the examples take networks and photographs from these two.
    assert declared - used <= {"skimage", "torchvision"}


def package_imports() -> dict[str, set[str]]:
    """Which modules of the package each one imports, wherever in its file."""
    package = ROOT / "captum_robust"
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in package.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        names = imports_of(file)
        # `from package import name` imports the module `package.name` or the package itself.
        found[module] = {
            name if name in files else name.rpartition(".")[0]
            for name in names
            if name in files or name.rpartition(".")[0] in files
        } - {module}
    return found


def test_no_module_imports_itself_by_a_detour_not_even_for_type_checking():
    imports = package_imports()
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for name in imports[module]:
                visit(name, (*path, module))
            finished.add(module)

    for module in imports:
        visit(module, ())


def test_an_underscore_keeps_a_module_to_its_package():
    for module, names in package_imports().items():
        for name in names:
            owner = name.partition("._")[0]
            is_ground = name.startswith("captum_robust._utils")
            assert is_ground or "._" not in name or module.startswith(owner), (module, name)


# What has no test file of its own name, and where it is tested.
TESTED_ELSEWHERE: dict[str, str] = {
    "__main__.py": "audit/test_command_line.py",
    "_utils/autograd_graph.py": "attr/test_beta_smoothing.py",
    "_utils/forward.py": "_utils/test_captum.py",
    "_utils/types.py": "attr/test_contract.py",
    "audit/collect.py": "audit/test_run.py",
    "audit/measurements.py": "audit/test_run.py",
    "audit/results.py": "audit/test_report.py",
    "audit/steps.py": "audit/test_run.py",
    "attacks/_best_iterate.py": "attacks/test_search.py",
    "attacks/_ensemble.py": "attacks/test_auto.py",
    "attacks/_explained.py": "attacks/test_search.py",
    "attacks/_inputs.py": "attacks/test_settings.py",
    "attacks/_members.py": "attacks/test_auto.py",
    "attacks/_proposals.py": "attacks/test_black_box.py",
    "attacks/_random_search.py": "attacks/test_black_box.py",
    "attacks/dombrowski.py": "attacks/test_algorithms.py",
    "attacks/ghorbani.py": "attacks/test_algorithms.py",
    "attacks/random_sign.py": "attacks/test_algorithms.py",
    "attacks/schedules.py": "attacks/test_search.py",
    "attr/_backward/attribution.py": "attr/_backward/test_tape.py",
    "attr/_backward/call.py": "attr/_backward/test_tape.py",
    "attr/_backward/operations.py": "attr/_backward/test_lrp_rules.py",
    "attr/_backward/backward_pass.py": "attr/_backward/test_tape.py",
    "attr/_backward/unsupported.py": "attr/_backward/test_lrp.py",
    "attr/patterns.py": "attr/test_pattern_attribution.py",
    "certificates/counts.py": "certificates/test_sampling.py",
    "certificates/features.py": "certificates/test_detector.py",
    "outputs/_columns.py": "outputs/test_base.py",
    "outputs/_thresholded.py": "outputs/test_base.py",
    "outputs/categorical.py": "outputs/test_base.py",
    "outputs/multi_label.py": "outputs/test_base.py",
}


def test_each_module_has_a_test_file_of_its_name():
    package = ROOT / "captum_robust"
    for file in package.rglob("*.py"):
        path = file.relative_to(package)
        if path.name == "__init__.py":
            continue
        stem = path.stem.removeprefix("_")
        own = ROOT / "tests" / path.with_name(f"test_{stem}.py")
        parts = list(own.parent.glob(f"test_{stem}_*.py"))
        other = TESTED_ELSEWHERE.get(path.as_posix())
        if other is None:
            assert own.is_file() or parts, path
        else:
            assert not own.is_file(), path
            assert (ROOT / "tests" / other).is_file(), other


def test_no_test_file_is_long():
    for file in (ROOT / "tests").rglob("*.py"):
        lines = file.read_text(encoding="utf-8").count("\n")
        assert lines <= 450, f"{file.relative_to(ROOT)}: {lines}"


# --- metadata


def test_the_version_is_that_of_the_metadata():
    try:
        installed = version("captum_robust")
    except PackageNotFoundError:
        pytest.skip("captum_robust is not installed")
    assert captum_robust.__version__ == installed


def test_lower_bounds_are_the_oldest_versions_that_were_tested():
    text = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8")
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))
    assert {name: oldest.get(name) for name in lower_bounds()} == lower_bounds()


# --- the pages that people read first


class Close(doctest.OutputChecker):
    """Numbers on a page may differ by 0.03, or by a twentieth: processors round differently."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        number = r"\d+\.\d+"
        pairs = list(zip(re.findall(number, want), re.findall(number, got), strict=False))
        near = all(float(a) == pytest.approx(float(b), abs=0.03, rel=0.05) for a, b in pairs)
        want, got = (re.sub(number, "#", text) for text in (want, got))
        return bool(pairs) and near and super().check_output(want, got, optionflags)


@pytest.mark.filterwarnings("ignore:The attack failed for")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param("audit_your_model.rst", marks=pytest.mark.slow),
        "getting_started.rst",
        pytest.param("models_that_lie.rst", marks=pytest.mark.slow),
        "which.rst",
        pytest.param("robust_training.rst", marks=pytest.mark.slow),
        "what_can_be_guaranteed.rst",
        "write_your_own_attack.rst",
        "write_your_own_explanation.rst",
        "write_your_own_perturbation.rst",
    ],
)
def test_the_code_on_a_page_of_the_guide_runs(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page, page, 0)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.DocTestRunner(checker=Close(), optionflags=flags).run(test)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_every_public_name_by_purpose(package):
    page = (ROOT / "docs" / "reference" / f"{package}.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", page, re.MULTILINE)
    listed += re.findall(r"^\.\. py:data:: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(getattr(captum_robust, package).__all__)


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_readme_has_two_set_up_commands_of_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Set up\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert [block.count("\n") for block in blocks] == [1, 1]
    quickstart, tests = blocks
    assert quickstart.rstrip().endswith("examples/quickstart.py")
    assert tests.rstrip().endswith("pytest -n auto")
    assert text.count("-m venv") == 2


def test_the_readme_snippet_runs_and_shows_the_attack_and_the_defence(capsys):
    (snippet,) = readme_blocks("python")
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
    plain, smooth = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert plain < 0.5
    assert plain + 0.1 < smooth


def test_what_the_readme_links_to_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


def test_the_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        (row,) = re.findall(rf"^\| `captum_robust\.{package}` \|(.*)$", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[1]):
            assert hasattr(getattr(captum_robust, package), name), f"{package}.{name}"
