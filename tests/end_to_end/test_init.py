import os
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another OpenMP")
@pytest.mark.parametrize(
    ("settings", "spin_count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_sleep_soon_unless_the_environment_says_otherwise(
    settings: dict[str, str], spin_count: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    script = "from moleblend import MoleBlendRegressor"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    # the setting that OpenMP has read; scikit-learn brings one of its own
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {spin_count}


def test_the_package_is_imported_without_torch() -> None:
    script = "import sys, moleblend; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
