import os
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another OpenMP")
@pytest.mark.parametrize(
    ("told", "looks"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_sleep_soon_unless_the_environment_says_otherwise(
    told: dict[str, str], looks: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    script = "from moleblend import MoleBlendRegressor"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **told},
        capture_output=True,
        text=True,
        check=True,
    )
    # what OpenMP has read, not what stands in the environment; scikit-learn brings one of its own
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {looks}
