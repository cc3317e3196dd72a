"""What all tests share: where real data is, and no silent skips.

`MOLEBLEND_DATA` names the folder of real data sets and `MOLEBLEND_PARITY_FIXTURE` the parity
fixture (its path without .json or .safetensors), both from the root of the repository if relative.
Tests that need one skip where it is not set. With `MOLEBLEND_NO_SKIP=1`, which `.ci/run` sets where
the data is, a run in which anything skipped fails.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

from tests.helpers.molecules import AWKWARD

# The same examples everywhere: a change is judged by what it changes, not by the luck of a draw.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's cache is used, and nothing is left in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def awkward() -> list[str]:
    """`AWKWARD`, for a test that wants all of them at once, as in one batch."""
    return list(AWKWARD)


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Arguments of wrong types reach the package, as they do for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def data_folder(pytestconfig: pytest.Config) -> Path:
    """The folder of real data sets."""
    folder = _path_from_environment("MOLEBLEND_DATA", pytestconfig.rootpath)
    if not folder.is_dir():
        pytest.fail(f"MOLEBLEND_DATA must name a folder, {folder} is none")
    return folder


@pytest.fixture(scope="session")
def parity_fixture(pytestconfig: pytest.Config) -> Path:
    """The stem of the two files of the parity fixture: add .json or .safetensors."""
    stem = _path_from_environment("MOLEBLEND_PARITY_FIXTURE", pytestconfig.rootpath)
    for name in (f"{stem.name}.json", f"{stem.name}.safetensors"):
        if not stem.with_name(name).is_file():
            pytest.fail(f"MOLEBLEND_PARITY_FIXTURE is {stem}, but there is no {name} beside it")
    return stem


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray on this machine, started once for all tests of a worker."""
    ray = pytest.importorskip("ray")
    root = Path(__file__).parents[1]  # workers import this checkout, not an installed package
    # Ray leaves the log files of its own processes open, and warns of what it will do with GPUs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}},
        )
        yield
        ray.shutdown()


def _path_from_environment(variable: str, root: Path) -> Path:
    """The path that an environment variable names; skip the test where it names none."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return (root / os.environ[variable]).resolve()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test, a file or a doctest skipped, if `MOLEBLEND_NO_SKIP=1`.

    Under xdist the controller, which alone has a terminal, gets the reports of all workers.
    """
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("MOLEBLEND_NO_SKIP") != "1" or terminal is None:
        return
    n_skipped = len(terminal.stats.get("skipped", []))
    if n_skipped:
        terminal.write_line("")
        terminal.write_line(f"{n_skipped} skipped, which MOLEBLEND_NO_SKIP=1 forbids", red=True)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
