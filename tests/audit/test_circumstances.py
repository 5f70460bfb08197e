import json

import torch

from captum_robust import __version__
from captum_robust.audit.circumstances import circumstances


def test_versions_hardware_and_time_are_plain_json():
    found = json.loads(json.dumps(circumstances(torch.device("cpu"), 1.26, 2, 3)))
    assert found["versions"]["captum_robust"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"].startswith("cpu, ")
    assert found["seconds"] == 1.3
    assert found["processes"] == 2
    assert found["batches of earlier runs"] == 3
