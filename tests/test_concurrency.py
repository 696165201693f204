"""How much runs at a time: in an instance, of a function, in the account."""

import pytest


class TestPerInstance:
    """Tidegate's own setting `concurrency`: invocations that one instance runs at a time."""

    def test_is_one_until_set(self, make, api):
        name = make()
        assert api.settings(name)["concurrency"] == 1
        api.settings(name, {"concurrency": 1_000})
        api.wait_active(name)
        assert api.settings(name)["concurrency"] == 1_000
        api.settings(name, {"network": "nat"})
        assert api.settings(name)["concurrency"] == 1_000, "what is not named stays"

    @pytest.mark.parametrize("wanted", [0, 1_001, 2**32 - 1])
    def test_bounds(self, probe, api, wanted):
        refused = api.refuse_settings(probe, {"concurrency": wanted})
        api.check(refused, 400, "InvalidParameterValueException", f"concurrency must be from 1 to 1000, not {wanted}.")

    @pytest.mark.parametrize("wanted", [-1, 1.5, "8", True])
    def test_is_a_whole_number(self, probe, api, wanted):
        assert api.refuse_settings(probe, {"concurrency": wanted}).status == 400

    def test_not_for_runtimes_that_cannot(self, make, api):
        name = make(Runtime="java21", wait=False)
        refused = api.refuse_settings(name, {"concurrency": 2})
        api.check(
            refused, 400, "InvalidParameterValueException", "Instances of java21 run one invocation at a time."
        )
