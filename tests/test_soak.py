"""The soak of `cargo xtask soak`, for a few seconds: no request fails by the platform's fault, nothing grows."""

import pytest

from support.soak import Soak, table


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_fails_and_nothing_grows_under_churn_and_kills():
    report = Soak(seconds=20, rate=15, seed=1, kill_every_s=0.5).run()
    print(table(report))
    assert report["wrong"] == [], table(report)
    assert report["kills"] > 0
    done = {kind: found.get("right", 0) for kind, found in report["kinds"].items()}
    assert all(done.get(kind) for kind in ("python", "failing", "slow", "churn")), done
